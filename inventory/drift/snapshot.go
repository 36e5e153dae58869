package drift

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// Snapshot is the hardware of a machine as it was frozen.
type Snapshot struct {
	// Catalog and Machine are whose it is.
	Catalog uuid.UUID `json:"catalog"`
	Machine uuid.UUID `json:"machine"`
	// Number counts the machine's snapshots from 1; the greatest one counts.
	Number int `json:"number"`
	// Digest is "sha256:" and hex over the canonical form of Facts.
	Digest  string    `json:"digest"`
	TakenAt time.Time `json:"taken_at"`
	// Run is the run that commissioned the machine; empty otherwise.
	Run string `json:"run,omitempty"`
	// AcceptedBy is who accepted the difference from the snapshot before; empty
	// for the first.
	AcceptedBy string `json:"accepted_by,omitempty"`
	// Facts is the merged view, which Digest names.
	Facts inventory.Facts `json:"-"`
}

// domain keeps a signature of a snapshot from being one of anything else.
const domain = "edge-provision hardware snapshot v1\n"

// message is what is signed.
func (s Snapshot) message() ([]byte, error) {
	s.TakenAt = s.TakenAt.UTC().Truncate(time.Microsecond)
	raw, err := json.Marshal(s)
	return append([]byte(domain), raw...), err
}

// Sign signs everything of a snapshot; its Digest stands for its Facts.
func (s Snapshot) Sign(key ed25519.PrivateKey) ([]byte, error) {
	m, err := s.message()
	if err != nil {
		return nil, fmt.Errorf("signing a snapshot of machine %s: %w", s.Machine, err)
	}
	return ed25519.Sign(key, m), nil
}

// ErrForged says that a snapshot is not one that the catalog's key signed.
var ErrForged = errors.New("it is not a snapshot that this catalog signed: it was altered or forged, or the key is another one")

// Open returns the snapshot with the facts in content. It returns ErrForged
// unless the key signed exactly this snapshot, and content is what its Digest
// names.
func (s Snapshot) Open(key ed25519.PublicKey, signature, content []byte) (Snapshot, error) {
	sum := sha256.Sum256(content)
	m, err := s.message()
	if err != nil || s.Digest != "sha256:"+hex.EncodeToString(sum[:]) || !ed25519.Verify(key, m, signature) {
		return s, ErrForged
	}
	if err := json.Unmarshal(content, &s.Facts); err != nil {
		return s, fmt.Errorf("reading a snapshot of machine %s: %w", s.Machine, err)
	}
	if v := s.Facts.SchemaVersion; v > inventory.SchemaVersion {
		return s, fmt.Errorf("the snapshot of machine %s has facts of version %d, which is newer than this program's %d", s.Machine, v, inventory.SchemaVersion)
	}
	return s, nil
}

// Report is how the hardware of one machine stands.
type Report struct {
	// State is empty while there is no snapshot.
	State inventory.DriftState
	// Snapshot is the one that is compared with, without its facts when it is
	// forged; nil while there is none.
	Snapshot *Snapshot
	// Changes is what differs, and Digest its name; none when the snapshot is
	// forged, because nothing can be compared with it.
	Changes []inventory.Change
	Digest  string
	// Since is when the present difference was first told.
	Since time.Time
	// LookedAt is when a program last looked at the hardware; zero: never.
	LookedAt time.Time
}

package dispatch

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows/agent"
)

// How much is remembered per machine. The newest entries are kept.
const (
	maxTokens  = 8
	maxOffers  = 64
	maxResults = 32
	maxPast    = 8
)

// document is what must survive a restart of the controller, per machine.
type document struct {
	Version int           `json:"version"`
	Tokens  []tokenRecord `json:"tokens,omitempty"`
	// Session is the session of the newest boot; Past are hashes of those it
	// replaced, so that they are told so.
	Session *sessionRecord  `json:"session,omitempty"`
	Past    []string        `json:"past,omitempty"`
	Offers  []agent.TaskRef `json:"offers,omitempty"`
	Results []agent.Result  `json:"results,omitempty"`
	Begun   []Unfinished    `json:"begun,omitempty"`
}

// documentVersion is the version of the document's form.
const documentVersion = 1

// tokenRecord is a token that was not used yet.
type tokenRecord struct {
	Hash    string        `json:"hash"`
	MAC     inventory.MAC `json:"mac"`
	Boot    string        `json:"boot"`
	Expires time.Time     `json:"expires"`
}

// sessionRecord is a session, and the hash of the token that it came from.
type sessionRecord struct {
	Hash  string        `json:"hash"`
	Token string        `json:"token"`
	MAC   inventory.MAC `json:"mac"`
	Boot  string        `json:"boot"`
	Agent string        `json:"agent"`
}

// Unfinished is a write that has changed a disk and is not known to have ended
// well. Only for such a disk does a write resume without new consent.
type Unfinished struct {
	Task  string        `json:"task"`
	Run   string        `json:"run"`
	Disk  agent.DiskRef `json:"disk"`
	Image string        `json:"image"`
}

// documentKey is the Store's key of a machine's document.
func documentKey(machine uuid.UUID) string { return "agent/" + machine.String() }

func loadDocument(ctx context.Context, store Store, machine uuid.UUID) (document, error) {
	raw, err := store.Get(ctx, documentKey(machine))
	if err != nil {
		return document{}, fmt.Errorf("reading the agent record of machine %s: %w", machine, err)
	}
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		return document{}, fmt.Errorf("reading the agent record of machine %s: %w", machine, err)
	}
	if d.Version > documentVersion {
		return document{}, fmt.Errorf("the agent record of machine %s has version %d, newer than this program's %d: use the newer program", machine, d.Version, documentVersion)
	}
	return d, nil
}

func saveDocument(ctx context.Context, store Store, machine uuid.UUID, d document) error {
	d.Version = documentVersion
	raw, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("writing the agent record of machine %s: %w", machine, err)
	}
	if err := store.Put(ctx, documentKey(machine), raw); err != nil {
		return fmt.Errorf("writing the agent record of machine %s: %w", machine, err)
	}
	return nil
}

// report are the facts of one boot; kept apart from the document, which is
// written far more often.
type report struct {
	Boot  string          `json:"boot"`
	Facts inventory.Facts `json:"facts"`
}

func reportKey(machine uuid.UUID) string { return documentKey(machine) + "/facts" }

// loadReport returns the report of this boot, nil when there is none.
func loadReport(ctx context.Context, store Store, machine uuid.UUID, boot string) (*report, error) {
	raw, err := store.Get(ctx, reportKey(machine))
	if isNotExist(err) {
		return nil, nil
	}
	var r report
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the facts report of machine %s: %w", machine, err)
	}
	if r.Boot != boot {
		return nil, nil
	}
	return &r, nil
}

func saveReport(ctx context.Context, store Store, machine uuid.UUID, r report) error {
	raw, err := json.Marshal(r)
	if err == nil {
		err = store.Put(ctx, reportKey(machine), raw)
	}
	if err != nil {
		return fmt.Errorf("writing the facts report of machine %s: %w", machine, err)
	}
	return nil
}

// clone copies d so far that changes of one are not seen in the other.
func (d document) clone() document {
	d.Tokens = slices.Clone(d.Tokens)
	d.Past = slices.Clone(d.Past)
	d.Offers = slices.Clone(d.Offers)
	d.Results = slices.Clone(d.Results)
	d.Begun = slices.Clone(d.Begun)
	return d
}

func (d *document) result(ref agent.TaskRef) (agent.Result, bool) {
	for _, r := range d.Results {
		if r.Task == ref {
			return r, true
		}
	}
	return agent.Result{}, false
}

// addResult records a result, and that a write which ended well is not
// unfinished any more.
func (d *document) addResult(r agent.Result) {
	d.Results = last(append(d.Results, r), maxResults)
	if r.Outcome == agent.OutcomeOK {
		d.Begun = slices.DeleteFunc(d.Begun, func(u Unfinished) bool { return u.Task == r.Task.ID })
	}
}

func (d *document) begin(u Unfinished) {
	d.Begun = slices.DeleteFunc(d.Begun, func(o Unfinished) bool { return o.Disk == u.Disk })
	d.Begun = append(d.Begun, u)
}

func (d *document) unfinished(disk agent.DiskRef) bool {
	return slices.ContainsFunc(d.Begun, func(u Unfinished) bool { return u.Disk == disk })
}

// token finds an unexpired token by its secret.
func (d *document) token(secret string, now time.Time) (int, bool) {
	hash := hashSecret(secret)
	for i, t := range d.Tokens {
		if equal(t.Hash, hash) && now.Before(t.Expires) {
			return i, true
		}
	}
	return 0, false
}

// last returns the last n elements of s.
func last[T any](s []T, n int) []T {
	if len(s) > n {
		return slices.Clone(s[len(s)-n:])
	}
	return s
}

// newSecret makes 32 random bytes in base64url.
func newSecret() string {
	var b [32]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

var errCredential = errors.New("want MACHINE.SECRET")

// splitCredential reads the form MACHINE.SECRET of tokens and bearers.
func splitCredential(s string) (uuid.UUID, string, error) {
	id, secret, ok := strings.Cut(s, ".")
	// A secret is 43 characters; more is not hashed.
	if !ok || len(id) != 36 || len(secret) < 16 || len(secret) > 128 {
		return uuid.UUID{}, "", errCredential
	}
	machine, err := uuid.Parse(id)
	if err != nil {
		return uuid.UUID{}, "", errCredential
	}
	return machine, secret, nil
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/workflows"
)

// What a crash means at each phase of a machine's installation:
//
//	phase       on the disk                        the next run
//	(none)      untouched by us                    plans it like any other disk
//	begun       anything, a write was under way    proves what is there, fetches the rest
//	written     the image; identity in part        the same: what identity changed is written again
//	installed   a finished system                  nothing is written; boots it from its disk
//	answered    a finished system that was seen    nothing
//	released    whatever was left on it            looks at it, and erases nothing without a typed word
//
// The phase is on disk in the catalog before what it announces begins (begun)
// and after what it claims has happened (the others).

// phase is how far an installation has come.
type phase string

const (
	phaseBegun     phase = "begun"
	phaseWritten   phase = "written"
	phaseInstalled phase = "installed"
	phaseAnswered  phase = "answered"
	phaseReleased  phase = "released" // destroy gave the machine up and left its disk as it was
)

// installation is the durable account of a machine's newest installation.
type installation struct {
	// ID names the installation in the agent's task names; a resumed one
	// keeps it, so that an agent that is still writing is not disturbed.
	ID uuid.UUID `json:"id"`
	// Machine is the one that was being installed; another may be declared at
	// its address by now. Zero in what was recorded before this was.
	Machine uuid.UUID `json:"machine,omitzero"`
	// Attempt counts the installer boots that worked on it.
	Attempt int                     `json:"attempt"`
	Phase   phase                   `json:"phase"`
	Run     string                  `json:"run"`
	Record  workflows.InstallRecord `json:"record"`
}

// unfinished reports whether a write to this machine was begun and its end never
// seen: the disk that it was for may be written to without asking again.
func (i *installation) unfinished(machine uuid.UUID) bool {
	return i != nil && (i.Phase == phaseBegun || i.Phase == phaseWritten) && (i.Machine == uuid.Nil || i.Machine == machine)
}

// Values keeps small documents by key; the catalog's settings implement it. Get
// returns an error that wraps fs.ErrNotExist when there is none; Put is durable
// when it returns nil.
type Values interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, value []byte) error
}

func installationKey(site, address string) string { return "installation/" + site + "/" + address }

// loadInstallation returns nil when the machine never had an installation.
func loadInstallation(ctx context.Context, values Values, site, address string) (*installation, error) {
	b, err := values.Get(ctx, installationKey(site, address))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the installation of %s: %w", address, err)
	}
	var i installation
	if err := json.Unmarshal(b, &i); err != nil {
		return nil, fmt.Errorf("reading the installation of %s: the catalog's record is damaged: %w", address, err)
	}
	return &i, nil
}

func (i installation) save(ctx context.Context, values Values, site, address string) error {
	b, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("recording the installation of %s: %w", address, err)
	}
	if err := values.Put(ctx, installationKey(site, address), b); err != nil {
		return fmt.Errorf("recording the installation of %s: %w", address, err)
	}
	return nil
}

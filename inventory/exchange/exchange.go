// Package exchange reads and writes machines for other catalogs and other
// programs: JSON with every source's facts, CSV, and the CSV of NetBox. It knows
// files only, no database.
package exchange

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// Bounds of what is read.
const (
	// MaxMachineBytes bounds what a file says about one machine.
	MaxMachineBytes = 64 << 20
	// MaxMachines bounds the machines of one file.
	MaxMachines = 1_000_000
)

// version of the JSON form. A reader refuses a greater one.
const version = 1

// Machine is one machine in a file: what tells it from others, what people wrote
// on it, and what every source saw of it, oldest first.
type Machine struct {
	Site       string            `json:"site,omitempty"`
	MACs       []inventory.MAC   `json:"macs,omitempty"`
	SMBIOSUUID uuid.UUID         `json:"smbios_uuid,omitzero"`
	Serial     string            `json:"serial,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	// Address is what site.hcl calls the machine; for people, not read back.
	Address string   `json:"address,omitempty"`
	Reports []Report `json:"reports,omitempty"`
}

// Report is what one source saw of a machine from a time on.
type Report struct {
	Source     inventory.Source `json:"source"`
	ObservedAt time.Time        `json:"observed_at"`
	Facts      inventory.Facts  `json:"facts"`
}

// header opens the JSON form.
type header struct {
	SchemaVersion int `json:"schema_version"`
}

// Writer writes the JSON form: a line with the version, and one line a machine
// (JSON Lines), so that neither side holds all of it.
type Writer struct {
	out     *json.Encoder
	started bool
}

// NewWriter writes to out.
func NewWriter(out io.Writer) *Writer {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	return &Writer{out: e}
}

// Write adds a machine.
func (w *Writer) Write(m Machine) error {
	if err := w.Close(); err != nil {
		return err
	}
	return w.out.Encode(m)
}

// Close makes sure that the file says its version, also when it holds nothing.
func (w *Writer) Close() error {
	if w.started {
		return nil
	}
	w.started = true
	return w.out.Encode(header{SchemaVersion: version})
}

// readJSON reads the JSON form.
func readJSON(in io.Reader, bound *bounded, each func(Machine) error) error {
	d := json.NewDecoder(in)
	var h header
	if err := d.Decode(&h); err != nil {
		return fmt.Errorf("reading its first line: %w", err)
	}
	if h.SchemaVersion < 1 || h.SchemaVersion > version {
		return fmt.Errorf("it has version %d, and this program reads version %d", h.SchemaVersion, version)
	}
	for n := 1; ; n++ {
		bound.left = MaxMachineBytes
		var raw json.RawMessage
		err := d.Decode(&raw)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("machine %d: %w", n, err)
		case n > MaxMachines:
			return fmt.Errorf("it has more than %d machines", MaxMachines)
		}
		m, err := decode(raw)
		if err == nil {
			err = each(m)
		}
		if err != nil {
			return fmt.Errorf("machine %d: %w", n, err)
		}
	}
}

// decode reads one machine. Its facts are held to what is asked of every report.
func decode(raw []byte) (Machine, error) {
	var m Machine
	var with struct {
		Reports []struct {
			Facts json.RawMessage `json:"facts"`
		} `json:"reports"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, err
	}
	if err := json.Unmarshal(raw, &with); err != nil {
		return m, err
	}
	for i := range m.Reports {
		r := &m.Reports[i]
		if r.Source == "" || len(r.Source) > 64 {
			return m, errors.New("a report names no source")
		}
		var err error
		if r.Facts, err = inventory.DecodeFacts(with.Reports[i].Facts); err != nil {
			return m, fmt.Errorf("source %s: %w", r.Source, err)
		}
	}
	return m, m.check()
}

// check refuses what cannot be a machine.
func (m Machine) check() error {
	if len(m.MACs) == 0 && m.Serial == "" && m.SMBIOSUUID == uuid.Nil {
		return errors.New("it has no MAC, serial number or UUID by which it could be known")
	}
	if len(m.MACs) > 4096 || len(m.Serial) > 4096 || len(m.Site) > 253 {
		return errors.New("it has more MACs, or longer names, than a machine")
	}
	for key, value := range m.Tags {
		if err := inventory.CheckTag(key, value); err != nil {
			return err
		}
	}
	return nil
}

package exchange

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// Read reads a file of machines, JSON Lines or CSV, and gives each to each, whose
// error ends the reading. It holds one machine at a time.
func Read(in io.Reader, each func(Machine) error) error {
	bound := &bounded{in: in, left: MaxMachineBytes}
	b := bufio.NewReader(bound)
	start, err := b.Peek(3)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if bytes.Equal(start, []byte("\xef\xbb\xbf")) { // spreadsheets mark UTF-8
		if _, err := b.Discard(3); err != nil {
			return err
		}
		start, _ = b.Peek(1)
	}
	if len(start) == 0 {
		return errors.New("it is empty")
	}
	if start[0] == '{' {
		return readJSON(b, bound, each)
	}
	return readCSV(b, bound, each)
}

// bounded is in up to a number of bytes, which is set anew for each machine; more
// is an error.
type bounded struct {
	in   io.Reader
	left int64
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.in.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("it says more than %d bytes about one machine", MaxMachineBytes)
	}
	return n, err
}

// columns are the headers that are read, in lower case, and what they set.
// NetBox's are those of its export of devices (netbox.readthedocs.io, "CSV export")
// and of its import.
var columns = map[string]func(m *Machine, value string) error{
	"serial":        setSerial,
	"serial number": setSerial, // NetBox's table
	"mac":           setMACs,
	"macs":          setMACs,
	"smbios_uuid": func(m *Machine, v string) (err error) {
		m.SMBIOSUUID, err = uuid.Parse(v)
		return err
	},
	"site":      func(m *Machine, v string) error { m.Site = v; return nil },
	"name":      tag("name"),
	"asset_tag": tag("asset_tag"),
	"asset tag": tag("asset_tag"),
	"location":  tag("location"),
	"rack":      tag("rack"),
}

func setSerial(m *Machine, v string) error { m.Serial = v; return nil }

func setMACs(m *Machine, v string) error {
	for _, text := range strings.FieldsFunc(v, func(r rune) bool { return r == ' ' || r == ',' || r == ';' }) {
		mac, err := inventory.ParseMAC(text)
		if err != nil {
			return err
		}
		m.MACs = append(m.MACs, mac)
	}
	return nil
}

func tag(key string) func(*Machine, string) error {
	return func(m *Machine, v string) error {
		if m.Tags == nil {
			m.Tags = map[string]string{}
		}
		m.Tags[key] = v
		return nil
	}
}

func readCSV(in io.Reader, bound *bounded, each func(Machine) error) error {
	r := csv.NewReader(in)
	r.ReuseRecord = true
	head, err := r.Read()
	if err != nil {
		return fmt.Errorf("reading its header: %w", err)
	}
	setters := make([]func(*Machine, string) error, len(head))
	identifies := false
	for i, name := range head {
		name = strings.TrimSpace(name)
		key, isTag := strings.CutPrefix(name, "tag.")
		if setters[i] = columns[strings.ToLower(name)]; isTag {
			setters[i] = tag(key)
		}
		switch strings.ToLower(name) {
		case "serial", "serial number", "mac", "macs", "smbios_uuid":
			identifies = true
		}
	}
	if !identifies {
		return errors.New(`no column of its header says which machine a row is about: name one "serial", "mac" or "smbios_uuid"`)
	}
	head = slices.Clone(head)
	for n := 1; ; n++ {
		bound.left = MaxMachineBytes
		row, err := r.Read()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case n > MaxMachines:
			return fmt.Errorf("it has more than %d machines", MaxMachines)
		}
		line, _ := r.FieldPos(0)
		var m Machine
		for i, value := range row {
			value = bare(strings.TrimSpace(value))
			// NetBox writes a dash for what is empty.
			if setters[i] == nil || value == "" || value == "—" {
				continue
			}
			if !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
				return fmt.Errorf("line %d: %s is not valid UTF-8, or holds a NUL", line, head[i])
			}
			if err := setters[i](&m, value); err != nil {
				return fmt.Errorf("line %d: %s: %w", line, head[i], err)
			}
		}
		if err := m.check(); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		if err := each(m); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}

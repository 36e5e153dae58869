package bmc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/edge-provision/edge-provision/inventory"
)

// facts reads the FRU data of the controller's own board (device 0), the
// controller's device id and the LAN channel that it answers on.
func (s *ipmi) facts(ctx context.Context) (Reading, error) {
	r := Reading{Source: inventory.SourceIPMI, Facts: inventory.Facts{SchemaVersion: inventory.SchemaVersion}}
	for _, part := range []struct {
		what string
		read func(context.Context, *inventory.Facts) error
	}{{"FRU data", s.readFRU}, {"the controller", s.readController}} {
		err := part.read(ctx, &r.Facts)
		var f *fault
		if errors.As(err, &f) && (f.kind == faultUnsupported || f.kind == faultResponse || f.kind == faultPrivilege) {
			r.Missing, err = append(r.Missing, part.what+": "+f.Error()), nil
		}
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

// readFRU has ipmitool fetch the bytes, and reads them here.
func (s *ipmi) readFRU(ctx context.Context, f *inventory.Facts) error {
	dir, err := os.MkdirTemp("", "edge-provision-fru-")
	if err != nil {
		return fmt.Errorf("making a directory for FRU data: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "fru")
	if _, err := s.run(ctx, "fru", "read", "0", path); err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		// ipmitool says by its text alone that there was nothing to write.
		return &fault{kind: faultUnsupported, err: errors.New("the controller has no FRU data of its board")}
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxFRUBytes))
	if err != nil {
		return fmt.Errorf("reading FRU data: %w", err)
	}
	unit, err := parseFRU(raw)
	if err != nil {
		return &fault{kind: faultResponse, err: err}
	}
	unit.describe(f)
	return nil
}

// readController asks for Get Device ID and the LAN parameters (IPMI 2.0 sections
// 20.1 and 23.2), of which ipmitool finds the channel by itself.
func (s *ipmi) readController(ctx context.Context, f *inventory.Facts) error {
	out, err := s.run(ctx, "mc", "info")
	if err != nil {
		return err
	}
	id := labelled(out)
	bmc := inventory.BMCFacts{Firmware: fact(id["Firmware Revision"])}
	if number, err := strconv.ParseUint(id["Manufacturer ID"], 10, 20); err == nil {
		bmc.Vendor = controllerVendors[uint32(number)]
	}
	if lan, err := s.run(ctx, "lan", "print"); err == nil {
		if mac := genuineMAC(labelled(lan)["MAC Address"]); !mac.IsZero() {
			bmc.MAC = mac.String()
		}
	} else if ctx.Err() != nil {
		return err
	}
	f.BMC = present(bmc)
	return nil
}

// labelled reads ipmitool's lines of a label, a colon and a value; the first of a
// label counts.
func labelled(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		label, value, found := strings.Cut(line, ":")
		if label = strings.TrimSpace(label); !found || label == "" {
			continue
		}
		if _, known := out[label]; !known {
			out[label] = strings.TrimSpace(value)
		}
	}
	return out
}

// controllerVendors are IANA enterprise numbers, named as edge-agent names them.
var controllerVendors = map[uint32]string{
	2: "IBM", 11: "HP", 343: "Intel", 674: "Dell", 5771: "Cisco", 6569: "Inventec", 7154: "IPMI forum",
	10368: "Fujitsu", 10876: "Supermicro", 19046: "Lenovo", 20301: "IBM eServer", 20974: "AMI",
	42817: "OpenBMC", 47196: "HPE", 47488: "Gigabyte", 49622: "ASRock Rack", 49769: "Quanta",
}

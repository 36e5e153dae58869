package ipxe

import (
	"bytes"
	"fmt"

	"github.com/tinkerbell/ipxedust/binary"
)

// This file alone knows where the embedded programs come from: ipxedust, whose
// repository is archived. Replacing it means replacing this file.

// VendorUserClass is the user class that ipxedust's own embedded script sets.
// Its BIOS program is compressed, so that script stays in it: it waits 2 s for
// a key, asks DHCP and loads the boot file that DHCP names.
const VendorUserClass = "Tinkerbell"

// The embedded script starts and ends with these lines in the two UEFI programs.
const (
	vendorScriptStart = "#!ipxe\n\nset user-class " + VendorUserClass + "\n"
	vendorScriptEnd   = "echo Failed to find the vlan interface\nshell\n"
)

func embedded(root string) (map[string][]byte, error) {
	script := Embedded(root)
	x64, err := replaceScript(binary.IpxeEFI, script)
	if err != nil {
		return nil, fmt.Errorf("iPXE program %s: %w", UEFIx64, err)
	}
	arm64, err := replaceScript(binary.SNP, script)
	if err != nil {
		return nil, fmt.Errorf("iPXE program %s: %w", UEFIArm64, err)
	}
	return map[string][]byte{BIOS: binary.Undionly, UEFIx64: x64, UEFIArm64: arm64}, nil
}

// replaceScript puts another script in place of the whole embedded one, which
// is stored as it is. The program keeps its length: the rest becomes empty lines.
// ipxedust's own Patch leaves the old script's first lines, and with them a
// wait of 2 s for a key.
func replaceScript(program []byte, script string) ([]byte, error) {
	start := bytes.Index(program, []byte(vendorScriptStart))
	if start < 0 {
		return nil, fmt.Errorf("the embedded script was not found")
	}
	length := bytes.Index(program[start:], []byte(vendorScriptEnd))
	if length < 0 {
		return nil, fmt.Errorf("the end of the embedded script was not found")
	}
	length += len(vendorScriptEnd)
	if len(script) > length {
		return nil, fmt.Errorf("a script of %d bytes does not fit the %d of the embedded one", len(script), length)
	}
	out := bytes.Clone(program)
	n := copy(out[start:], script)
	copy(out[start+n:start+length], bytes.Repeat([]byte{'\n'}, length-n))
	return out, nil
}

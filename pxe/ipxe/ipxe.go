// Package ipxe holds the iPXE programs and renders the scripts they run. It
// consists of pure functions over bytes and opens no socket.
package ipxe

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
)

// Names of the programs, which are also their TFTP names.
const (
	BIOS      = "undionly.kpxe"
	UEFIx64   = "ipxe.efi"
	UEFIArm64 = "snp.efi"
)

// Names lists the programs.
func Names() []string { return []string{BIOS, UEFIx64, UEFIArm64} }

// UserClass is the DHCP user class (option 77) of our UEFI programs.
const UserClass = "edge-provision"

// Overrides replaces embedded iPXE programs; the key is the program's name.
type Overrides map[string]Override

// Override is an operator's own iPXE program. It is served as it is: its own
// embedded script, if it has one, must load the boot file that DHCP names.
type Override struct {
	Path string
	// SHA256 is the lower-case hexadecimal digest that the file must have.
	SHA256 string
}

// maxProgram bounds an operator's file; iPXE with every driver is 1.1 MB.
const maxProgram = 64 << 20

// Programs returns the programs to serve, by name: the embedded ones, made to
// fetch their script below root ("http://172.22.0.1:8480"), and the
// operator's in place of those it replaces.
func Programs(root string, o Overrides) (map[string][]byte, error) {
	programs, err := embedded(root)
	if err != nil {
		return nil, err
	}
	for name, over := range o {
		if _, known := programs[name]; !known {
			return nil, fmt.Errorf("iPXE program %q is not one of %v", name, Names())
		}
		b, err := over.read()
		if err != nil {
			return nil, fmt.Errorf("iPXE program %s: %w", name, err)
		}
		programs[name] = b
	}
	return programs, nil
}

func (o Override) read() ([]byte, error) {
	info, err := os.Stat(o.Path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxProgram || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file of at most %d MiB", o.Path, maxProgram>>20)
	}
	b, err := os.ReadFile(o.Path)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	if got := hex.EncodeToString(sum[:]); got != o.SHA256 {
		return nil, fmt.Errorf("%s has SHA-256 %s, but %s is declared: declare the new digest if the file was changed on purpose", o.Path, got, o.SHA256)
	}
	return b, nil
}

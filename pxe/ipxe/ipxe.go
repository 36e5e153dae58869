// Package ipxe holds the iPXE programs and renders the scripts they run. It
// consists of pure functions over bytes and opens no socket.
package ipxe

// Overrides replaces embedded iPXE programs; the key is the file's name, one
// of BIOS, UEFIx64 and UEFIArm64.
type Overrides map[string]Override

// Override is an operator's own iPXE program.
type Override struct {
	Path string
	// SHA256 is the lower-case hexadecimal digest that the file must have.
	SHA256 string
}

// Names of the programs.
const (
	BIOS      = "undionly.kpxe"
	UEFIx64   = "ipxe.efi"
	UEFIArm64 = "snp.efi"
)

package pxe

import "fmt"

// Arch is a client architecture type (option 93), as registered by IANA in
// "Processor Architecture Types" on top of RFC 4578 section 2.1.
type Arch uint16

// Architectures that this package can boot.
const (
	ArchBIOS          Arch = 0
	ArchUEFIx64       Arch = 7 // RFC 4578 calls it EFI BC; all firmware means x86-64
	ArchUEFIx64Also   Arch = 9 // RFC 4578's x86-64; some firmware sends it
	ArchUEFIArm64     Arch = 11
	ArchHTTPx64       Arch = 16
	ArchHTTPArm64     Arch = 19
	archNumberUnknown Arch = 0xffff
)

// String is the architecture's common name.
func (a Arch) String() string {
	switch a {
	case ArchBIOS:
		return "x86 BIOS"
	case ArchUEFIx64, ArchUEFIx64Also:
		return "x86-64 UEFI"
	case ArchUEFIArm64:
		return "arm64 UEFI"
	case ArchHTTPx64:
		return "x86-64 UEFI HTTP"
	case ArchHTTPArm64:
		return "arm64 UEFI HTTP"
	default:
		return fmt.Sprintf("architecture %d", uint16(a))
	}
}

package pxe

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/edge-provision/edge-provision/pxe/ipxe"
)

// Arch is a client architecture type (option 93), as registered by IANA in
// "Processor Architecture Types" on top of RFC 4578 section 2.1.
type Arch uint16

// Architectures that this package can boot.
const (
	ArchBIOS        Arch = 0
	ArchUEFIx64     Arch = 7 // RFC 4578 calls it EFI BC; all firmware means x86-64
	ArchUEFIx64Also Arch = 9 // RFC 4578's x86-64; some firmware sends it
	ArchUEFIArm64   Arch = 11
	ArchHTTPx64     Arch = 16
	ArchHTTPArm64   Arch = 19
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

// archOfVendorClass reads the architecture out of "PXEClient:Arch:00007:…"
// (PXE 2.1 section 2.2.1), for firmware that sends no option 93.
func archOfVendorClass(class string) (Arch, bool) {
	_, rest, ok := strings.Cut(class, ":Arch:")
	if !ok || len(rest) < 5 {
		return 0, false
	}
	n, err := strconv.ParseUint(rest[:5], 10, 16)
	return Arch(n), err == nil
}

// User classes by which an iPXE is told from another.
const (
	classIPXE = "iPXE" // iPXE's own default
	// classOurs is set by the script embedded in our UEFI programs.
	classOurs = ipxe.UserClass
	// classVendor is set by the script inside the BIOS program, which is
	// compressed and cannot be changed (see pxe/ipxe).
	classVendor = ipxe.VendorUserClass
)

// stageOf tells which program asks. encapsulated says that option 175 came
// along, which only iPXE sends.
func stageOf(c Client, encapsulated bool) Stage {
	switch {
	case c.VendorClass == AgentVendorClass:
		return StageAgent
	case c.UserClass == classOurs, c.UserClass == classVendor:
		return StageIPXE
	case c.UserClass == classIPXE, encapsulated:
		return StageROMIPXE
	case strings.HasPrefix(c.VendorClass, "HTTPClient"):
		return StageHTTPBoot
	case !strings.HasPrefix(c.VendorClass, "PXEClient"):
		return StageOS
	case c.HasArch && c.Arch == ArchBIOS, !c.HasArch:
		return StageBIOS
	default:
		return StageUEFI
	}
}

// program names the iPXE program for an architecture.
func program(a Arch) (string, bool) {
	switch a {
	case ArchBIOS:
		return ipxe.BIOS, true
	case ArchUEFIx64, ArchUEFIx64Also, ArchHTTPx64:
		return ipxe.UEFIx64, true
	case ArchUEFIArm64, ArchHTTPArm64:
		return ipxe.UEFIArm64, true
	default:
		return "", false
	}
}

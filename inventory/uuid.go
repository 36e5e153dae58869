package inventory

import "github.com/google/uuid"

// SwapUUID exchanges RFC 9562's byte order with SMBIOS's, in which the first
// three fields are little-endian (DSP0134 section 7.2.1). It is its own inverse.
func SwapUUID(u uuid.UUID) uuid.UUID {
	return uuid.UUID{
		u[3], u[2], u[1], u[0], u[5], u[4], u[7], u[6],
		u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15],
	}
}

// SMBIOSUUID reads the 16 bytes of the UUID field of SMBIOS type 1. Since
// SMBIOS 2.6 the first three fields are little-endian; older tables were
// written in either order, and are read in RFC 9562's as dmidecode does.
func SMBIOSUUID(raw [16]byte, major, minor int) uuid.UUID {
	if major > 2 || major == 2 && minor >= 6 {
		return SwapUUID(raw)
	}
	return raw
}

// Option97UUID reads DHCP option 97 (RFC 4578 section 2.3): a type byte 0 and 16
// bytes. Firmware does not agree on their order: PXE 2.1 asks for SMBIOS's, and
// that is what EDK2 and iPXE send; some vendors' ROMs send RFC 9562's. The result assumes
// the former; compare with SameUUID, which accepts both. ok is false for
// another type or length.
func Option97UUID(option []byte) (u uuid.UUID, ok bool) {
	if len(option) != 17 || option[0] != 0 {
		return uuid.Nil, false
	}
	return SwapUUID(uuid.UUID(option[1:])), true
}

// SameUUID reports whether a and b are one UUID in either byte order.
func SameUUID(a, b uuid.UUID) bool { return a == b || a == SwapUUID(b) }

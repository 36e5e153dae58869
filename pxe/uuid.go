package pxe

import "github.com/google/uuid"

// swapUUID reverses the first three fields, between SMBIOS's little-endian
// form (DSP0134 section 7.2.1) and RFC 9562's.
func swapUUID(u uuid.UUID) uuid.UUID {
	return uuid.UUID{
		u[3], u[2], u[1], u[0], u[5], u[4], u[7], u[6],
		u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15],
	}
}

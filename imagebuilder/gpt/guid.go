package gpt

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
)

// GUID is a disk, partition or type identifier with its bytes in the order of its text form (RFC 9562); convert it from
// and to uuid.UUID with a plain conversion.
type GUID [16]byte

// Partition types, from the UEFI specification 2.10 table 5.7, the GRUB manual ("BIOS installation") and the Discoverable
// Partitions Specification of the UAPI group.
var (
	BIOSBoot       = MustParse("21686148-6449-6e6f-744e-656564454649")
	EFISystem      = MustParse("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
	LinuxData      = MustParse("0fc63daf-8483-4772-8e79-3d69d8477de4")
	LinuxRootAMD64 = MustParse("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
)

// String returns the 36-character lower-case form, as udev and the kernel write it in PARTUUID.
func (g GUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[0:4], g[4:6], g[6:8], g[8:10], g[10:])
}

// Parse reads the 36-character form in either case.
func Parse(s string) (GUID, error) {
	var g GUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return GUID{}, fmt.Errorf("GUID %.60q is not of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", s)
	}
	if _, err := hex.Decode(g[:], []byte(s[0:8]+s[9:13]+s[14:18]+s[19:23]+s[24:])); err != nil {
		return GUID{}, fmt.Errorf("GUID %.60q: %w", s, err)
	}
	return g, nil
}

// MustParse is Parse for constants; it panics on a malformed one.
func MustParse(s string) GUID {
	g, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return g
}

// Deterministic derives a GUID from a seed and a purpose (RFC 9562 section 5.8, version 8), so that equal inputs build
// equal images.
func Deterministic(seed, purpose string) GUID {
	sum := sha256.Sum256([]byte(seed + "\x00" + purpose))
	g := GUID(sum[:16])
	g[6] = g[6]&0x0f | 0x80
	g[8] = g[8]&0x3f | 0x80
	return g
}

// Random makes a GUID of version 4 from 16 bytes of source.
func Random(source io.Reader) (GUID, error) {
	var g GUID
	if _, err := io.ReadFull(source, g[:]); err != nil {
		return GUID{}, fmt.Errorf("making a GUID: %w", err)
	}
	g[6] = g[6]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g, nil
}

// put writes the GUID as it stands on disk: the first three groups little-endian (UEFI 2.10 appendix A).
func (g GUID) put(p []byte) {
	binary.LittleEndian.PutUint32(p[0:], binary.BigEndian.Uint32(g[0:]))
	binary.LittleEndian.PutUint16(p[4:], binary.BigEndian.Uint16(g[4:]))
	binary.LittleEndian.PutUint16(p[6:], binary.BigEndian.Uint16(g[6:]))
	copy(p[8:16], g[8:])
}

func guidAt(p []byte) GUID {
	var g GUID
	binary.BigEndian.PutUint32(g[0:], binary.LittleEndian.Uint32(p[0:]))
	binary.BigEndian.PutUint16(g[4:], binary.LittleEndian.Uint16(p[4:]))
	binary.BigEndian.PutUint16(g[6:], binary.LittleEndian.Uint16(p[6:]))
	copy(g[8:], p[8:16])
	return g
}

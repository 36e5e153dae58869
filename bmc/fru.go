package bmc

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"

	"github.com/edge-provision/edge-provision/inventory"
)

// maxFRUBytes bounds FRU data: offsets within it are at most 255 times 8 bytes, and
// an area as much again.
const maxFRUBytes = 2 * 255 * 8

// fru is what is read of a field replaceable unit (IPMI Platform Management FRU
// Information Storage Definition v1.0, revision 1.3). Fields that were not written
// are empty.
type fru struct {
	chassisType                                            byte
	chassisSerial                                          string
	boardManufacturer, boardProduct, boardSerial           string
	manufacturer, product, part, version, serial, assetTag string
}

// parseFRU reads the common header (section 8) and the chassis, board and product
// areas (sections 10 to 12). An area that is damaged is an error; one that is not
// there is not.
func parseFRU(raw []byte) (fru, error) {
	var out fru
	if len(raw) < 8 || raw[0]&0xf != 1 {
		return out, errors.New("the FRU data has no header of format version 1")
	}
	if sum(raw[:8]) != 0 {
		return out, errors.New("the checksum of the FRU data's header is wrong")
	}
	if at := raw[2]; at != 0 {
		area, err := fruArea(raw, at, "chassis")
		if err != nil {
			return out, err
		}
		out.chassisType = area[2]
		fields := fruFields(area[3:], true)
		out.chassisSerial = fields[1]
	}
	if at := raw[3]; at != 0 {
		area, err := fruArea(raw, at, "board")
		if err != nil {
			return out, err
		}
		if len(area) < 6 {
			return out, errors.New("the board area of the FRU data is too short")
		}
		fields := fruFields(area[6:], english(area[2]))
		out.boardManufacturer, out.boardProduct, out.boardSerial = fields[0], fields[1], fields[2]
	}
	if at := raw[4]; at != 0 {
		area, err := fruArea(raw, at, "product")
		if err != nil {
			return out, err
		}
		fields := fruFields(area[3:], english(area[2]))
		out.manufacturer, out.product, out.part, out.version, out.serial, out.assetTag = fields[0], fields[1], fields[2], fields[3], fields[4], fields[5]
	}
	return out, nil
}

// english says whether the text of an area with this language code is of 8 bits.
func english(code byte) bool { return code == 0 || code == 25 }

// fruArea is the area at an offset of 8-byte units, with its checksum proven.
func fruArea(raw []byte, at byte, name string) ([]byte, error) {
	start := int(at) * 8
	if start+3 > len(raw) || raw[start]&0xf != 1 {
		return nil, fmt.Errorf("the %s area of the FRU data is not where the header says", name)
	}
	length := int(raw[start+1]) * 8
	if length == 0 || start+length > len(raw) {
		return nil, fmt.Errorf("the %s area of the FRU data is longer than the data", name)
	}
	area := raw[start : start+length]
	if sum(area) != 0 {
		return nil, fmt.Errorf("the checksum of the %s area of the FRU data is wrong", name)
	}
	return area[:length-1], nil
}

func sum(b []byte) (s byte) {
	for _, c := range b {
		s += c
	}
	return s
}

// fruFields are the first fields of an area, as far as there are any (section 13).
func fruFields(area []byte, eightBit bool) (fields [6]string) {
	for i := range fields {
		if len(area) == 0 || area[0] == 0xc1 { // no more fields
			break
		}
		kind, length := area[0]>>6, int(area[0]&0x3f)
		if length >= len(area) {
			break
		}
		fields[i] = genuine(fruText(kind, area[1:1+length], eightBit))
		area = area[1+length:]
	}
	return fields
}

// fruText decodes a field; binary ones hold no text.
func fruText(kind byte, raw []byte, eightBit bool) string {
	switch {
	case kind == 1: // BCD plus
		const digits = "0123456789 -.???"
		var out strings.Builder
		for _, b := range raw {
			out.WriteByte(digits[b>>4])
			out.WriteByte(digits[b&0xf])
		}
		return out.String()
	case kind == 2: // 6-bit ASCII, packed from the least significant bit on
		var out strings.Builder
		var bits uint32
		var n int
		for _, b := range raw {
			bits |= uint32(b) << n
			for n += 8; n >= 6; n -= 6 {
				out.WriteByte(byte(bits&0x3f) + ' ')
				bits >>= 6
			}
		}
		return out.String()
	case kind == 3 && eightBit: // Latin 1
		out := make([]rune, len(raw))
		for i, b := range raw {
			out[i] = rune(b)
		}
		return string(out)
	case kind == 3: // two bytes a character, the least significant first
		out := make([]uint16, len(raw)/2)
		for i := range out {
			out[i] = uint16(raw[2*i]) | uint16(raw[2*i+1])<<8
		}
		return string(utf16.Decode(out))
	}
	return ""
}

// describe takes what the unit says of the machine. The part number is not taken
// for a stock keeping unit: some makers write the chassis's there.
func (u fru) describe(f *inventory.Facts) {
	f.System = present(inventory.System{Manufacturer: u.manufacturer, Product: u.product, Version: u.version, Serial: u.serial})
	if f.System != nil && f.System.Product == "" {
		f.System.Product = u.part
	}
	f.Baseboard = present(inventory.Board{Manufacturer: u.boardManufacturer, Product: u.boardProduct, Serial: u.boardSerial})
	f.Chassis = present(inventory.Chassis{Type: chassisTypes[u.chassisType], Serial: u.chassisSerial, AssetTag: u.assetTag})
}

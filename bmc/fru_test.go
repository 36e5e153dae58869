package bmc

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// fruOf assembles FRU data from areas, each without its length and checksum.
func fruOf(chassis, board, product []byte) []byte {
	header := []byte{1, 0, 0, 0, 0, 0, 0, 0}
	var rest []byte
	for i, area := range [][]byte{chassis, board, product} {
		if area == nil {
			continue
		}
		header[2+i] = byte((8 + len(rest)) / 8)
		area = append([]byte{1, 0}, area...)
		for len(area)%8 != 7 {
			area = append(area, 0)
		}
		area = append(area, 0)
		area[1] = byte(len(area) / 8)
		area[len(area)-1] = -sum(area)
		rest = append(rest, area...)
	}
	header[7] = -sum(header)
	return append(header, rest...)
}

// fields are length-prefixed 8-bit texts and the mark of the end.
func fields(texts ...string) []byte {
	var out []byte
	for _, s := range texts {
		out = append(append(out, 0xc0|byte(len(s))), s...)
	}
	return append(out, 0xc1)
}

func TestParseFRU(t *testing.T) {
	t.Parallel()
	board := append([]byte{25, 0, 0, 0}, fields("Supermicro", "X11DPU", "ZM18AS000001", "X11DPU-P", "")...)
	tests := []struct {
		name string
		raw  []byte
		want fru
	}{
		{
			"all areas", fruOf(append([]byte{0x17}, fields("CSE-119U", "C1190FH00000001")...), board,
				append([]byte{25}, fields("Supermicro", "SYS-1029U-TR4", "PART", "0123456789", "A200000X8000001", "store 7")...)),
			fru{
				chassisType: 0x17, chassisSerial: "C1190FH00000001", boardManufacturer: "Supermicro", boardProduct: "X11DPU", boardSerial: "ZM18AS000001",
				manufacturer: "Supermicro", product: "SYS-1029U-TR4", part: "PART", serial: "A200000X8000001", assetTag: "store 7",
			},
		},
		// Nobody wrote a serial, and the fields end early.
		{"placeholders", fruOf(nil, nil, append([]byte{25}, fields("To be filled by O.E.M.", "PX-1", "", "", "Default string")...)), fru{product: "PX-1"}},
		{"nothing but a header", fruOf(nil, nil, nil), fru{}},
		// "IPMI" in 6-bit ASCII is the example of section 13.3.
		{"6-bit ASCII and BCD", fruOf(nil, nil, []byte{25, 0x83, 0x29, 0xdc, 0xa6, 0x43, 0x12, 0x34, 0xa5, 0xc1}), fru{manufacturer: "IPMI", product: "1234 5"}},
		{"another language, in UTF-16", fruOf(nil, nil, append([]byte{48, 0xc6}, "\x31\x00\x32\x00\xe5\x65"...)), fru{manufacturer: "12日"}},
		{"Latin 1", fruOf(nil, nil, append([]byte{0}, fields("J\xfcrgen")...)), fru{manufacturer: "Jürgen"}},
		{"a field longer than its area", fruOf(nil, nil, append([]byte{25, 0xff}, "short"...)), fru{}},
	}
	for _, tt := range tests {
		if got, err := parseFRU(tt.raw); err != nil || got != tt.want {
			t.Errorf("%s: parseFRU = %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
	}
}

func TestDamagedFRUIsRefused(t *testing.T) {
	t.Parallel()
	whole := fruOf(append([]byte{0x17}, fields("CSE", "C119")...), append([]byte{25, 0, 0, 0}, fields("Supermicro")...), append([]byte{25}, fields("Supermicro", "SYS")...))
	if _, err := parseFRU(whole); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		raw  []byte
		want string
	}{
		"empty":            {nil, "no header"},
		"erased":           {bytes.Repeat([]byte{0xff}, 256), "no header"},
		"header":           {append([]byte{1, 9}, whole[2:]...), "header is wrong"},
		"a byte flipped":   {append(bytes.Clone(whole[:20]), append([]byte{whole[20] ^ 1}, whole[21:]...)...), "checksum of the chassis area"},
		"cut off":          {whole[:len(whole)-8], "longer than the data"},
		"after the end":    {append([]byte{1, 0, 200, 0, 0, 0, 0}, 256-201), "not where the header says"},
		"without a length": {append([]byte{1, 0, 1, 0, 0, 0, 0, 254}, 1, 0, 0, 0, 0, 0, 0, 0), "longer than the data"},
	} {
		if _, err := parseFRU(tt.raw); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: parseFRU(%s) = %v; want an error with %q", name, hex.EncodeToString(tt.raw[:min(len(tt.raw), 32)]), err, tt.want)
		}
	}
}

func FuzzFRU(f *testing.F) {
	f.Add(fruOf(append([]byte{0x17}, fields("CSE-119U", "C119")...), append([]byte{25, 0, 0, 0}, fields("Supermicro", "X11")...), append([]byte{25}, fields("Supermicro", "SYS", "", "", "A20")...)))
	f.Add(fruOf(nil, nil, []byte{48, 0x83, 0x29, 0xdc, 0xa6, 0xc3, 1, 2, 3}))
	f.Add([]byte{1, 0, 1, 0, 0, 0, 0, 254, 1, 255, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		unit, err := parseFRU(raw)
		if err != nil {
			if unit != (fru{}) && len(err.Error()) > 200 {
				t.Errorf("parseFRU gives an error of %d bytes", len(err.Error()))
			}
			return
		}
		r := Reading{}
		unit.describe(&r.Facts)
		if err := r.Facts.Validate(); err != nil {
			t.Errorf("parseFRU(%x) makes facts that are refused: %v", raw, err)
		}
	})
}

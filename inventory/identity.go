package inventory

import (
	"strings"

	"github.com/google/uuid"
)

// junkUUIDs are system UUIDs that boards carry when nobody wrote one, in RFC
// 9562 text order. A UUID of one repeated byte is junk as well.
var junkUUIDs = map[string]bool{
	// The American Megatrends template, in both byte orders, as millions of
	// boards were shipped with it.
	"03000200-0400-0500-0006-000700080009": true,
	"00020003-0004-0005-0006-000700080009": true,
	// 0123456789ABCDEF in sequence, and what dmidecode's test tables show.
	"12345678-1234-5678-90ab-cddeefaabbcc": true,
	"12345678-1234-1234-1234-123456789abc": true,
	"12345678-1234-5678-1234-567812345678": true,
	"01234567-89ab-cdef-0123-456789abcdef": true,
	"00010203-0405-0607-0809-0a0b0c0d0e0f": true,
	"03020100-0504-0706-0809-0a0b0c0d0e0f": true,
	// Seen on small boards whose vendor filled only the last field.
	"00000000-0000-0000-0000-000000000001": true,
	"fefefefe-fefe-fefe-fefe-fefefefefefe": true,
	"4c4c4544-0000-2010-8020-80c04f202020": true, // Dell: service tag of blanks
	"4c4c4544-0000-2010-8020-a0c04f202020": true,
}

// JunkUUID reports whether u identifies no machine: it is absent, one repeated
// byte (all zero means "not present", all ones "not set", DSP0134 section
// 7.2.1), or a template that whole product lines share.
func JunkUUID(u uuid.UUID) bool {
	same := true
	for _, b := range u {
		same = same && b == u[0]
	}
	return same || junkUUIDs[u.String()] || junkUUIDs[SwapUUID(u).String()]
}

// junkSerials are serial numbers that firmware shows when nobody wrote one,
// lower case, with runs of blanks made one.
var junkSerials = map[string]bool{
	"to be filled by o.e.m.":           true,
	"to be filled by o.e.m":            true,
	"to be filled by oem":              true,
	"tobefilledbyo.e.m.":               true,
	"filled by o.e.m.":                 true,
	"o.e.m.":                           true,
	"oem":                              true,
	"default string":                   true,
	"default":                          true,
	"system serial number":             true,
	"system serial":                    true,
	"serial number":                    true,
	"chassis serial number":            true,
	"base board serial number":         true,
	"baseboard serial number":          true,
	"sys-1234567890":                   true,
	"systemserialnumb":                 true,
	"serial":                           true,
	"not specified":                    true,
	"not applicable":                   true,
	"not available":                    true,
	"not present":                      true,
	"not settable":                     true,
	"not defined":                      true,
	"n/a":                              true,
	"na":                               true,
	"none":                             true,
	"null":                             true,
	"(null)":                           true,
	"nil":                              true,
	"empty":                            true,
	"<empty>":                          true,
	"unknown":                          true,
	"unspecified":                      true,
	"undefined":                        true,
	"invalid":                          true,
	"no enclosure":                     true,
	"no asset tag":                     true,
	"no asset information":             true,
	"asset-1234567890":                 true,
	"chassis-1234567890":               true,
	"int-1234567890":                   true,
	"empty serial number":              true,
	"system product name":              true,
	"system manufacturer":              true,
	"0123456789":                       true,
	"0123456789abcdef":                 true,
	"012345678":                        true,
	"01234567":                         true,
	"123456789":                        true,
	"1234567890":                       true,
	"12345678":                         true,
	"1234567":                          true,
	"123456":                           true,
	"123456789abcdef":                  true,
	"123456789012345678":               true,
	"9876543210":                       true,
	"abcdefghij":                       true,
	"test":                             true,
	"sn":                               true,
	"s/n":                              true,
	"$(serial_number)":                 true,
	"dummy":                            true,
	"permanent serial number":          true,
	"rev1.0":                           true,
	"mb-1234567890":                    true,
	"empty string":                     true,
	"type2 - board serial number":      true,
	"type1productconfigid":             true,
	"type2 - board chassis location":   true,
	"empty by o.e.m.":                  true,
	"sernum":                           true,
	"sernum0":                          true,
	"sernum00":                         true,
	"xxxxxxx_replace_me":               true,
	"bss-0123456789":                   true,
	"0000000000000000000000000000000a": true,
}

// JunkSerial reports whether a serial number identifies no machine: it is
// empty, one repeated character (00000000, XXXXXXXX, ........), shorter than
// three characters, or text that firmware shows when nobody wrote one. Case and
// blanks do not matter.
func JunkSerial(serial string) bool {
	s := strings.ToLower(strings.Join(strings.Fields(serial), " "))
	dense := strings.ReplaceAll(s, " ", "")
	if len(dense) < 3 || strings.Trim(dense, dense[:1]) == "" {
		return true
	}
	return junkSerials[s]
}

// Numbered reports whether a disk's WWN or serial number tells it from all others.
// 00000000 and 0123456789ABCDEF do not, and what begins with nvme. is but vendor,
// serial and model again, which the kernel shows of a disk without a WWN.
func Numbered(wwn, serial string) bool {
	kind, digits, _ := strings.Cut(wwn, ".")
	return tells(serial) || kind != "nvme" && tells(strings.ReplaceAll(digits, "-", ""))
}

// tells is false for a number that many disks bear. One or two characters are one,
// unlike of a machine: virtual disks are given such.
func tells(number string) bool {
	number = strings.TrimSpace(number)
	return strings.Trim(number, "0") != "" && (len(number) < 3 || !JunkSerial(number))
}

package inventory

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Bounds of a machine's tags.
const (
	MaxTags          = 64
	MaxTagKeyBytes   = 63
	MaxTagValueBytes = 1024
)

var tagKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// CheckTag refuses a key that is not a letter or _ followed by letters, digits,
// "_", "." and "-", 63 bytes at most, and a value that is empty, longer than
// 1024 bytes, not UTF-8, or holds a control character.
func CheckTag(key, value string) error {
	if !tagKey.MatchString(key) || len(key) > MaxTagKeyBytes {
		return fmt.Errorf("tag key %q: a key is a letter or _ and then letters, digits, _, . and -, at most %d", clip(key), MaxTagKeyBytes)
	}
	switch {
	case value == "":
		return fmt.Errorf("tag %s: the value is empty; remove the tag instead", key)
	case len(value) > MaxTagValueBytes:
		return fmt.Errorf("tag %s: the value has %d bytes; at most %d are accepted", key, len(value), MaxTagValueBytes)
	case !utf8.ValidString(value):
		return fmt.Errorf("tag %s: the value is not valid UTF-8", key)
	case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("tag %s: the value holds a control character", key)
	}
	return nil
}

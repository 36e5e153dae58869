package site

import (
	"encoding/json"
	"fmt"
	"log/slog"
)

// redacted is what stands in the place of a sensitive value.
const redacted = "(sensitive value)"

// Secret is a string that does not print itself: not by fmt with any verb, not
// in JSON, text or slog. Only Reveal gives it.
type Secret struct{ value string }

// NewSecret wraps a string.
func NewSecret(value string) Secret { return Secret{value: value} }

// Reveal is the string itself, for the call that needs it and for nothing else.
func (s Secret) Reveal() string { return s.value }

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.value == "" }

// String hides the value.
func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	return redacted
}

// Format hides the value from every verb, %#v and %x included.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// MarshalText hides the value.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON hides the value.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// LogValue hides the value.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

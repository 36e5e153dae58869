package site

import (
	"encoding/base64"
	"net/netip"
	"regexp"
	"strings"
)

var (
	hostnamePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	userPattern     = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
)

// validHostname reports whether s is one label of RFC 1123 section 2.1, in
// lower case, since Kubernetes takes no other node name.
func validHostname(s string) bool { return hostnamePattern.MatchString(s) }

// validDomain reports whether s is labels joined by dots, at most 253 bytes.
func validDomain(s string) bool {
	if len(s) > 253 {
		return false
	}
	for _, label := range strings.Split(strings.TrimSuffix(s, "."), ".") {
		if !validHostname(label) {
			return false
		}
	}
	return true
}

// validHost reports whether s is an IPv4 address or a host name.
func validHost(s string) bool {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Is4() && !addr.IsUnspecified() && !addr.IsMulticast()
	}
	// A name whose last label has digits only would be a wrong address.
	last := s[strings.LastIndexByte(s, '.')+1:]
	return validDomain(strings.ToLower(s)) && strings.Trim(last, "0123456789") != ""
}

// checkAuthorizedKey says why s is not a public key line, or nothing. The blob
// of a key starts with the length and the name of its type (RFC 4253 section
// 6.6).
func checkAuthorizedKey(s string) string {
	if strings.Contains(s, "PRIVATE KEY") {
		return "This is a private key. Give the public one, which is in the file that ends in .pub."
	}
	if strings.ContainsAny(strings.TrimSpace(s), "\r\n") {
		return "A key is one line. Write each key as its own element."
	}
	fields := strings.Fields(s)
	for i := 0; i+1 < len(fields); i++ {
		blob, err := base64.StdEncoding.DecodeString(fields[i+1])
		if err == nil && len(blob) > 4+len(fields[i]) && string(blob[4:4+len(fields[i])]) == fields[i] {
			return ""
		}
	}
	return "\"" + clip(s) + "\" is not a public SSH key, such as \"ssh-ed25519 AAAA… name\"."
}

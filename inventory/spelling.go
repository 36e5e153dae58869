package inventory

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// placeholder reports whether a value, as JSON, is one that firmware shows when
// nobody wrote any.
func placeholder(path, value string) bool {
	junk, identifies := identifying[path]
	text, isText := textOf(value)
	return identifies && isText && junk(text)
}

// alike reports whether two values of one fact, as JSON, say the same: firmware,
// BMC and kernel round, abbreviate and name makers each in their own way.
func alike(path, a, b string) bool {
	if a == b {
		return true
	}
	switch path {
	case "memory.bytes":
		return nearly(a, b)
	case "cpu.threads", "cpu.max_speed_mhz":
		// These follow what the kernel was told to use, and which of its speeds a
		// source takes for the greatest.
		return true
	}
	s, isText := textOf(a)
	t, bothText := textOf(b)
	if !isText || !bothText {
		return false
	}
	switch path {
	case "system.uuid":
		u, err := uuid.Parse(s)
		v, err2 := uuid.Parse(t)
		return err == nil && err2 == nil && SameUUID(u, v)
	case "system.manufacturer", "baseboard.manufacturer", "chassis.manufacturer", "bios.vendor", "bmc.vendor":
		m, n := maker(s), maker(t)
		return strings.HasPrefix(m, n) || strings.HasPrefix(n, m)
	case "cpu.model", "system.product":
		return within(words(s), words(t)) || within(words(t), words(s))
	case "bios.version":
		// HPE's BMCs write "U32 v2.10 (05/21/2019)" of what SMBIOS calls U32.
		return strings.HasPrefix(s+" ", t+" ") || strings.HasPrefix(t+" ", s+" ")
	case "bmc.firmware":
		return sameRelease(s, t)
	}
	return strings.EqualFold(strings.Join(strings.Fields(s), " "), strings.Join(strings.Fields(t), " "))
}

func textOf(value string) (string, bool) {
	var s string
	err := json.Unmarshal([]byte(value), &s)
	return s, err == nil
}

// nearly allows for what the kernel, or a graphics processor, keeps to itself: a
// thirty-second, which is less than the smallest module of a full server.
func nearly(a, b string) bool {
	m, err := strconv.ParseInt(a, 10, 64)
	n, err2 := strconv.ParseInt(b, 10, 64)
	return err == nil && err2 == nil && max(m, n)-min(m, n) <= max(m, n)/32
}

// maker is the name of a company without what is left out at will.
func maker(s string) string {
	s = letters.ReplaceAllString(strings.ToLower(s), "")
	return strings.NewReplacer("hewlettpackardenterprise", "hpe", "hewlettpackard", "hp").Replace(s)
}

var (
	letters  = regexp.MustCompile(`[^a-z0-9]+`)
	releases = regexp.MustCompile(`\d+(\.\d+)+`)
	noise    = []string{"r", "tm", "cpu", "processor", "core"}
)

// words are those of a model's name that tell something.
func words(s string) []string {
	s = strings.NewReplacer("(r)", " ", "(tm)", " ").Replace(strings.ToLower(s))
	return slices.DeleteFunc(strings.Fields(letters.ReplaceAllString(s, " ")), func(w string) bool { return slices.Contains(noise, w) })
}

// within reports whether all words are among others.
func within(some, all []string) bool {
	return len(some) > 0 && !slices.ContainsFunc(some, func(w string) bool { return !slices.Contains(all, w) })
}

// sameRelease compares the numbers of two versions as far as both go: IPMI has two
// of them, Redfish up to four and a name before.
func sameRelease(s, t string) bool {
	a, b := strings.Split(releases.FindString(s), "."), strings.Split(releases.FindString(t), ".")
	if a[0] == "" || b[0] == "" {
		return strings.EqualFold(s, t)
	}
	for i := range min(len(a), len(b)) {
		m, err := strconv.Atoi(a[i])
		n, err2 := strconv.Atoi(b[i])
		if err != nil || err2 != nil || m != n {
			return false
		}
	}
	return true
}

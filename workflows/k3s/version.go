package k3s

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Version is a release of K3s: the Kubernetes release and the number of the
// K3s release made of it.
type Version struct {
	Major, Minor, Patch int
	// Pre is a pre-release such as rc2; empty for a release.
	Pre string
	// Build is what follows the plus sign, such as k3s1.
	Build string
}

var versionPattern = regexp.MustCompile(`^v(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})(?:-([0-9A-Za-z][0-9A-Za-z.-]{0,40}))?\+([0-9A-Za-z][0-9A-Za-z.-]{0,60})$`)

// ParseVersion reads the form that `k3s --version` prints.
func ParseVersion(s string) (Version, error) {
	m := versionPattern.FindStringSubmatch(s)
	if m == nil {
		return Version{}, fmt.Errorf("%q is not a version of K3s; write it like v1.36.3+k3s1", s)
	}
	v := Version{Pre: m[4], Build: m[5]}
	for i, to := range []*int{&v.Major, &v.Minor, &v.Patch} {
		*to, _ = strconv.Atoi(m[i+1])
	}
	return v, nil
}

func (v Version) String() string {
	s := fmt.Sprintf("v%d.%d.%d", v.Major, v.Minor, v.Patch)
	if v.Pre != "" {
		s += "-" + v.Pre
	}
	return s + "+" + v.Build
}

// Compare orders releases. A pre-release comes before its release; builds are
// ordered by the number they end in (k3s2 before k3s10).
func (v Version) Compare(w Version) int {
	if c := cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch)); c != 0 {
		return c
	}
	if v.Pre != w.Pre {
		switch {
		case v.Pre == "":
			return 1
		case w.Pre == "":
			return -1
		}
		return compareNumbered(v.Pre, w.Pre)
	}
	return compareNumbered(v.Build, w.Build)
}

// compareNumbered orders words by what comes before their last number, then by
// that number.
func compareNumbered(a, b string) int {
	split := func(s string) (string, int) {
		word := strings.TrimRight(s, "0123456789")
		n, _ := strconv.Atoi(s[len(word):])
		return word, n
	}
	aw, an := split(a)
	bw, bn := split(b)
	return cmp.Or(cmp.Compare(aw, bw), cmp.Compare(an, bn))
}

// CheckUpgrade refuses what Kubernetes does not support: going back, and
// passing over a minor release (kubernetes.io/releases/version-skew-policy).
func CheckUpgrade(from, to Version) error {
	switch {
	case to.Compare(from) < 0:
		return refuse("the cluster runs %s and %s is declared: going back is not supported, because the newer release may have changed the data in etcd. "+
			"Declare %s or newer; to really go back, restore a snapshot made by the older release", from, to, from)
	case to.Major != from.Major || to.Minor > from.Minor+1:
		return refuse("the cluster runs %s and %s is declared: minor releases cannot be skipped. Declare a v%d.%d release first, apply, and then this one",
			from, to, from.Major, from.Minor+1)
	}
	return nil
}

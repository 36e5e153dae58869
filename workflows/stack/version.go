package stack

import (
	"fmt"
	"strconv"
	"strings"
)

// Version is a version as the components write theirs: v1.36.3+k3s1, 3.32.1,
// 1.19, 6.1.0-40-amd64. What stands after the third number counts only for
// K3s's own builds.
type Version struct {
	Major, Minor, Patch int
	// Build is the number after "+k3s".
	Build int
}

// ParseVersion reads a version. A missing patch is zero.
func ParseVersion(text string) (Version, error) {
	var v Version
	rest := strings.TrimPrefix(text, "v")
	rest, build, _ := strings.Cut(rest, "+")
	rest, pre, _ := strings.Cut(rest, "-")
	if strings.HasPrefix(pre, "alpha") || strings.HasPrefix(pre, "beta") || strings.HasPrefix(pre, "rc") {
		return v, fmt.Errorf("%.60q is a pre-release, which no set holds", text)
	}
	parts := strings.Split(rest, ".")
	if len(parts) < 2 || len(parts) > 4 || len(text) > 60 {
		return v, fmt.Errorf("%.60q is not a version such as 1.36.3", text)
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 24)
		if err != nil {
			return v, fmt.Errorf("%.60q is not a version such as 1.36.3", text)
		}
		switch i {
		case 0:
			v.Major = int(n)
		case 1:
			v.Minor = int(n)
		case 2:
			v.Patch = int(n)
		}
	}
	if digits, ok := strings.CutPrefix(build, "k3s"); ok {
		n, err := strconv.ParseUint(digits, 10, 24)
		if err != nil {
			return v, fmt.Errorf("%.60q is not a version of K3s such as v1.36.3+k3s1", text)
		}
		v.Build = int(n)
	}
	return v, nil
}

// Compare orders versions.
func (v Version) Compare(o Version) int {
	for _, pair := range [][2]int{{v.Major, o.Major}, {v.Minor, o.Minor}, {v.Patch, o.Patch}, {v.Build, o.Build}} {
		if pair[0] != pair[1] {
			if pair[0] < pair[1] {
				return -1
			}
			return 1
		}
	}
	return 0
}

// String writes the version without its prefix.
func (v Version) String() string {
	s := fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
	if v.Build > 0 {
		s += fmt.Sprintf("+k3s%d", v.Build)
	}
	return s
}

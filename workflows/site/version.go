package site

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// errDevelopment stands for a version that is not compared.
var errDevelopment = errors.New("a development build")

// checkVersion compares required_version with the program's version.
func (m *module) checkVersion() hcl.Diagnostics {
	if m.version == nil {
		return nil
	}
	v, diags := m.version.Expr.Value(nil)
	if diags.HasErrors() {
		return diags
	}
	rng := m.version.Expr.Range()
	if v.Type() != cty.String || v.IsNull() {
		return failure("Invalid required_version", &rng, "The required version is a string of constraints such as \">= 0.1, < 2\".")
	}
	ok, err := satisfies(m.opts.Version, v.AsString())
	switch {
	case err != nil:
		return failure("Invalid required_version", &rng, "%v. A constraint is an operator (=, !=, >, >=, <, <=, ~>) and a version, several are separated by commas: \">= 0.1, < 2\".", err)
	case !ok:
		return failure("Unsupported program version", &rng, "The site requires edge-provision %s, and this is %s. Install a version that satisfies the constraint, or change it.", v.AsString(), m.opts.Version)
	}
	return nil
}

// satisfies reports whether the version meets all comma-separated constraints.
// A version that is empty or does not start with a digit (after an optional v),
// or ends with -dev, is a development build and meets all. Pre-release and build suffixes are
// ignored.
func satisfies(version, constraints string) (bool, error) {
	have, haveErr := parseVersion(version)
	if strings.HasSuffix(version, "-dev") {
		haveErr = errDevelopment
	}
	for _, c := range strings.Split(constraints, ",") {
		c = strings.TrimSpace(c)
		rest := strings.TrimLeft(c, "<>=!~")
		op := c[:len(c)-len(rest)]
		want, err := parseVersion(strings.TrimSpace(rest))
		if err != nil {
			return false, fmt.Errorf("%q is not a version constraint: %w", c, err)
		}
		if haveErr != nil {
			switch op {
			case "", "=", "!=", ">", ">=", "<", "<=", "~>":
				continue
			}
		}
		cmp := compareVersions(have, want)
		ok := false
		switch op {
		case "", "=":
			ok = cmp == 0
		case "!=":
			ok = cmp != 0
		case ">":
			ok = cmp > 0
		case ">=":
			ok = cmp >= 0
		case "<":
			ok = cmp < 0
		case "<=":
			ok = cmp <= 0
		case "~>":
			// The last component that is written may grow, as in Terraform.
			upper := append([]int(nil), want[:max(1, len(want)-1)]...)
			upper[len(upper)-1]++
			ok = cmp >= 0 && compareVersions(have, upper) < 0
		default:
			return false, fmt.Errorf("%q has the unknown operator %q", c, op)
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}

// parseVersion reads up to three numbers.
func parseVersion(s string) ([]int, error) {
	core, _, _ := strings.Cut(strings.TrimPrefix(s, "v"), "-")
	core, _, _ = strings.Cut(core, "+")
	parts := strings.Split(core, ".")
	if len(parts) > 3 {
		return nil, fmt.Errorf("%q has more than three numbers", clip(s))
	}
	var out []int
	for _, p := range parts {
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("%q is not a version such as 1.2.3", clip(s))
		}
		out = append(out, int(n))
	}
	return out, nil
}

// compareVersions compares numbers, missing ones being zero.
func compareVersions(a, b []int) int {
	for i := range 3 {
		var x, y int
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			return x - y
		}
	}
	return 0
}

package site

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// LockSuffix ends the names of lock files. They lie beside a site and are no
// part of it.
const LockSuffix = ".lock.hcl"

// minSecretLength is the shortest value that Secrets lists.
const minSecretLength = 4

var (
	stackPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,62}$`)
	pairPattern  = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+$`)
	keyPattern   = regexp.MustCompile(`^ed25519:[A-Za-z0-9+/]{43}=$`)
)

// versions reads what the site block says of version sets and bundles.
func (d *decoder) versions(s *Site) {
	s.Stack, s.StackAllow, s.TrustedKeys = d.text("stack", ""), d.texts("stack_allow"), d.texts("trusted_keys")
	if s.Stack != "" && !stackPattern.MatchString(s.Stack) {
		d.fail("stack", "Invalid name", "%q is not the name of a set of versions, such as \"2026.11\".", clip(s.Stack))
	}
	if s.Stack == "" && d.has("stack_allow") {
		d.fail("stack_allow", "Nothing to allow", "stack_allow makes exceptions from the set of versions that stack names, and stack is not given.")
	}
	for _, p := range s.StackAllow {
		if a, b, _ := strings.Cut(p, "/"); !pairPattern.MatchString(p) || a >= b {
			d.fail("stack_allow", "Invalid pair", "%q is not a pair of components in alphabetical order, such as \"calico/k3s\".", clip(p))
		}
	}
	for _, k := range s.TrustedKeys {
		if !keyPattern.MatchString(k) {
			d.fail("trusted_keys", "Invalid public key", "%q is not a public key as `edge-provision bundle key` prints it: ed25519: and 44 digits of base 64.", clip(k))
		}
	}
}

// LockPath is where the lock file of a site is: beside its file, or in its
// directory.
func LockPath(path string) string {
	if base, ok := strings.CutSuffix(path, ".hcl"); ok {
		return base + LockSuffix
	}
	return filepath.Join(path, "site"+LockSuffix)
}

// Secrets lists the values that must not leave the site in clear: those of its
// sensitive variables, and what is sensitive in the inputs of its steps. Values
// of less than four bytes are left out, since they are in everything.
func (s *Site) Secrets() []string {
	var out []string
	if s.module.tree != nil {
		for _, m := range s.module.tree.all {
			for _, v := range m.variables {
				out = append(out, Secrets(v.value)...)
			}
		}
	}
	for _, w := range s.Workflows {
		for _, step := range w.Steps {
			out = append(out, Secrets(step.Inputs)...)
		}
	}
	for _, m := range s.Machines {
		out = append(out, m.BMC.Password.Reveal())
	}
	slices.Sort(out)
	return slices.DeleteFunc(slices.Compact(out), func(v string) bool { return len(v) < minSecretLength })
}

package main

import (
	"context"
	"fmt"
	"os"

	"github.com/hashicorp/hcl/v2"

	"github.com/edge-provision/edge-provision/workflows/bundle"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/stack"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// findSet returns a set of versions by its name: the one in the file that a
// flag names, or one of this program.
func (a *app) findSet(name string) (stack.Set, error) {
	if a.stackSet == "" {
		return stack.Find(name)
	}
	text, err := os.ReadFile(a.stackSet)
	if err != nil {
		return stack.Set{}, fmt.Errorf("reading a version set: %w", err)
	}
	set, err := stack.Parse(text, a.stackSet)
	if err == nil && set.Name != name {
		return stack.Find(name)
	}
	return set, err
}

// checkStack compares a site's versions with the set that it names. With a
// bundle this waits until the bundle is verified: the set may be in it.
func (a *app) checkStack(s *site.Site) hcl.Diagnostics {
	if s.Stack == "" || a.supply.bundle != "" {
		return nil
	}
	set, err := a.findSet(s.Stack)
	if err != nil {
		subject := s.Range("stack")
		return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: "Unknown set of versions", Detail: err.Error(), Subject: &subject}}
	}
	return steps.CheckVersions(s, set)
}

// checkBundledStack does the same with the set of the bundle.
func (w *world) checkBundledStack() error {
	if w.site.Stack == "" {
		return nil
	}
	item, ok := w.bundle.Contents().Find(bundle.KindStack, w.site.Stack)
	if !ok {
		return fmt.Errorf("%s lacks the set of versions %q: build it again from this site", w.bundle.Source(), w.site.Stack)
	}
	text, err := w.bundle.Document(item)
	if err != nil {
		return err
	}
	set, err := stack.Parse(text, w.bundle.Source())
	if err != nil {
		return err
	}
	return w.app.report(steps.CheckVersions(w.site, set))
}

// checkUpgrade refuses ways back, and ways that skip a version, from what was
// applied.
func (w *world) checkUpgrade(ctx context.Context) (hcl.Diagnostics, error) {
	known, err := w.runner.Known(ctx)
	if err != nil {
		return nil, err
	}
	sets, err := stack.Sets()
	if err != nil {
		return nil, err
	}
	return steps.CheckUpgrade(w.site, known, sets), nil
}

// Package chart renders Helm charts as a pure function: a chart, values and a
// Kubernetes version give one sequence of manifests, byte for byte, without a
// cluster, a network or a clock. Helm's own loader and template engine do the
// work; what this package adds is what Helm leaves to its users: a dependency
// that is missing, a value that no template reads and an output that comes out
// otherwise the second time are errors here.
//
// There is no release: no Secret is kept in the cluster, no hook is run. Hooks
// come out among the manifests with their annotations, for whoever applies them.
package chart

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	helmchart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
)

// maxArchiveBytes bounds a packed chart. Helm bounds what it unpacks to.
const maxArchiveBytes = 32 << 20

// Chart is a chart that was read and is complete.
type Chart struct {
	chart *helmchart.Chart
}

// Read reads a packed chart (.tgz), whose digest the caller has checked. The
// error says which dependency is missing or what is malformed.
func Read(r io.Reader) (*Chart, error) {
	packed, err := io.ReadAll(io.LimitReader(r, maxArchiveBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading chart: %w", err)
	}
	if len(packed) > maxArchiveBytes {
		return nil, fmt.Errorf("reading chart: the archive has more than %d bytes", maxArchiveBytes)
	}
	c, err := loader.LoadArchive(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("reading chart: %w", err)
	}
	return complete(c)
}

// ReadDir reads an unpacked chart.
func ReadDir(dir string) (*Chart, error) {
	c, err := loader.LoadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading chart %s: %w", dir, err)
	}
	return complete(c)
}

// complete refuses a chart that lacks what its Chart.yaml names. Helm's engine
// renders such a chart without a word, and most of it is then missing.
func complete(c *helmchart.Chart) (*Chart, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("chart %s: %w", c.Name(), err)
	}
	if c.Metadata.Type == "library" {
		return nil, fmt.Errorf("chart %s is a library: it has nothing to install", c.Name())
	}
	if err := dependencies(c); err != nil {
		return nil, err
	}
	return &Chart{c}, nil
}

func dependencies(c *helmchart.Chart) error {
	var errs []error
	for _, want := range c.Metadata.Dependencies {
		there := slices.ContainsFunc(c.Dependencies(), func(d *helmchart.Chart) bool { return d.Name() == want.Name })
		if !there {
			errs = append(errs, fmt.Errorf(
				"chart %s needs chart %s %s, which is not in its charts/ directory; run `helm dependency build` and pack it again",
				c.ChartFullPath(), want.Name, want.Version))
		}
	}
	for _, d := range c.Dependencies() {
		errs = append(errs, dependencies(d))
	}
	return errors.Join(errs...)
}

// Name is the chart's name, and Version its version.
func (c *Chart) Name() string { return c.chart.Name() }

// Version is the chart's own version, such as 29.27.0.
func (c *Chart) Version() string { return c.chart.Metadata.Version }

// Digest names what the chart consists of, packed or not: the SHA-256 over its
// files by name, as sha256: and 64 hexadecimal digits.
func (c *Chart) Digest() string {
	files := map[string][]byte{}
	collect(c.chart, "", files)
	h := sha256.New()
	for _, name := range sortedKeys(files) {
		fmt.Fprintf(h, "%d %s %d\n", len(name), name, len(files[name]))
		h.Write(files[name])
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// collect gathers the files of a chart and of those in it. An unpacked
// dependency has its files in the parent's Raw as well; a packed one has not.
func collect(c *helmchart.Chart, prefix string, files map[string][]byte) {
	for _, f := range c.Raw {
		if !strings.HasPrefix(f.Name, "charts/") {
			files[prefix+f.Name] = f.Data
		}
	}
	for _, d := range c.Dependencies() {
		collect(d, prefix+"charts/"+d.Name()+"/", files)
	}
}

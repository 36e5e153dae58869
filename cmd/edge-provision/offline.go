package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/imagebuilder"
	"github.com/edge-provision/edge-provision/pxe"
	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/bundle"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// supply says where files come from.
type supply struct {
	bundle, base           string
	trust                  []string
	mirror, registryMirror string
}

// register adds the flags of a command that fetches files or takes them from a
// bundle.
func (s *supply) register(c *cobra.Command) {
	c.Flags().StringVar(&s.bundle, "bundle", "", "take every file from this bundle and ask no network for one")
	s.registerTrust(c)
	s.registerMirrors(c)
}

func (s *supply) registerTrust(c *cobra.Command) {
	c.Flags().StringVar(&s.base, "base", "", "the bundle that a delta builds on")
	c.Flags().StringArrayVar(&s.trust, "trust-key", nil, "public key whose bundles are trusted, beside the site's trusted_keys; may be repeated")
}

func (s *supply) registerMirrors(c *cobra.Command) {
	c.Flags().StringVar(&s.mirror, "mirror", "", "ask MIRROR/HOST/PATH instead of https://HOST/PATH for files")
	c.Flags().StringVar(&s.registryMirror, "registry-mirror", "", "ask REGISTRY-MIRROR/REGISTRY/REPOSITORY instead of the registries of container images")
}

// orBundle takes the bundle of another supply where this one names none, with the
// keys that it is trusted by: what is served offline is applied offline.
func (s *supply) orBundle(other supply) {
	if s.bundle == "" {
		s.bundle, s.base, s.trust = other.bundle, other.base, other.trust
	}
}

// artifacts opens the store of files; a bundle that the flags name is verified
// whole before anything else happens.
func (w *world) artifacts(ctx context.Context, path string) error {
	cache, err := w.app.cache()
	if err != nil {
		return err
	}
	flags := w.app.supply
	config := artifact.Config{
		Dir: filepath.Join(cache, "artifacts"), SiteDir: w.site.Dir, Mirror: flags.mirror, RegistryMirror: flags.registryMirror,
		Keychain: authn.DefaultKeychain, Log: w.app.logger(), Progress: w.progress("fetch"), Digest: locked(site.LockPath(path)),
	}
	if w.bundle = w.app.verified; w.bundle != nil {
		w.lent = true
	} else if flags.bundle != "" {
		if w.bundle, err = w.openBundle(ctx, flags); err != nil {
			return err
		}
	}
	if w.bundle != nil {
		config.Bundle = w.bundle
	}
	if w.store, err = artifact.New(config); err != nil {
		return err
	}
	w.runner.Artifacts = w.store
	if w.bundle == nil {
		return nil
	}
	if !w.lent {
		if err := w.checkBundledStack(); err != nil {
			return err
		}
		if err := w.checkLock(site.LockPath(path)); err != nil {
			return err
		}
	}
	if err := w.checkNeeds(ctx); err != nil {
		return err
	}
	if err := w.fillImages(ctx); err != nil {
		return err
	}
	for _, i := range w.bundle.Contents().Of(bundle.KindImage) {
		ref, err := w.store.ArchiveRef(ctx, artifact.Image{Name: i.Name, Digest: i.Digest})
		if err != nil {
			return err
		}
		w.runner.Preload = append(w.runner.Preload, ref)
	}
	return nil
}

// closeBundle closes what a bundle was read from, unless it is lent.
func (w *world) closeBundle() error {
	if w.bundle == nil || w.lent {
		return nil
	}
	return w.bundle.Close()
}

// progress reports moved bytes of files.
func (w *world) progress(phase string) func(what string, done, total int64) {
	return func(what string, done, total int64) {
		w.tell(steps.Progress{Address: "bundle", Phase: phase, Message: what, Bytes: done, Total: total})
	}
}

// locked finds the digest of a container image in a lock file.
func locked(path string) func(context.Context, string) (string, error) {
	return func(_ context.Context, name string) (string, error) {
		lock, err := bundle.ReadLock(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		entry, _ := lock.Find(bundle.KindImage, name)
		return entry.Digest, nil
	}
}

// trusted are the keys of the site and of the flags. They never come from a
// bundle.
func trusted(fromSite, flags []string) ([]bundle.PublicKey, error) {
	var keys []bundle.PublicKey
	for _, text := range append(append([]string(nil), fromSite...), flags...) {
		key, err := bundle.ParsePublicKey(text)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// openTrusted opens a bundle, with its base, that one of the keys signed.
func openTrusted(path, base string, keys []bundle.PublicKey) (_ *bundle.Reader, err error) {
	b, err := bundle.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if err := b.Trust(keys); err != nil {
		return nil, err
	}
	if base == "" {
		return b, nil
	}
	below, err := bundle.Open(base)
	if err != nil {
		return nil, err
	}
	if err := b.UseBase(below); err != nil {
		return nil, errors.Join(err, below.Close())
	}
	return b, nil
}

// openBundle opens the bundle that is to be applied and reads every byte of it.
func (w *world) openBundle(ctx context.Context, flags supply) (*bundle.Reader, error) {
	keys, err := trusted(w.site.TrustedKeys, flags.trust)
	if err != nil {
		return nil, err
	}
	b, err := openTrusted(flags.bundle, flags.base, keys)
	if err != nil {
		return nil, err
	}
	if made := b.Contents().Site; made != w.site.Name {
		return nil, errors.Join(fmt.Errorf("bundle %s was built for site %q; this is site %q: build a bundle of this site", flags.bundle, made, w.site.Name), b.Close())
	}
	moved := w.progress("verify")
	if err := b.Verify(ctx, func(done, total int64) { moved(flags.bundle, done, total) }); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// checkLock compares a bundle with the lock file beside the site, if there is
// one.
func (w *world) checkLock(path string) error {
	lock, err := bundle.ReadLock(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var lines []string
	for _, d := range lock.Compare(bundle.LockOf(w.bundle.Contents())) {
		lines = append(lines, d.Text)
	}
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf("%s is not the bundle that %s describes (- in the lock file, + in the bundle):\n  %s\nTake the bundle that belongs to this lock file, or build it again", w.bundle.Source(), path, strings.Join(lines, "\n  "))
}

// checkNeeds refuses a bundle that lacks something which the site needs, and
// names all of it.
func (w *world) checkNeeds(ctx context.Context) error {
	needs, err := steps.Needs(w.site)
	if err != nil {
		return err
	}
	if err := w.lacking(needs); err != nil {
		return err
	}
	// The files are there: what they bring in turn must be there, too.
	needs, _, err = steps.Rendered(ctx, w.site, needs, w.store)
	if err != nil {
		return err
	}
	if err := w.lacking(needs); err != nil {
		return err
	}
	return w.rendersEqually(needs)
}

// documentName names in a bundle what a step comes to.
func documentName(n steps.StepNeeds, d artifact.Document) string { return n.Address + "/" + d.Name }

// rendersEqually refuses a bundle whose charts come to something else here than
// where it was built, though nothing that they are rendered from has changed: what
// somebody has looked at there would not be what is applied.
func (w *world) rendersEqually(needs []steps.StepNeeds) error {
	for _, n := range needs {
		for _, d := range n.Documents {
			item, ok := w.bundle.Contents().Find(bundle.KindDocument, documentName(n, d))
			sum := fmt.Sprintf("sha256:%x", sha256.Sum256(d.Content))
			if ok && item.Spec == d.Spec && d.Spec != "" && item.Digest != sum {
				return fmt.Errorf("%s: the chart renders differently here than where %s was built, from the same values: %s is %s there and %s here: "+
					"build the bundle with the edge-provision that applies it", n.Address, w.bundle.Source(), item.Name, item.Digest, sum)
			}
		}
	}
	return nil
}

// lacking names what of the needs is not in the bundle.
func (w *world) lacking(needs []steps.StepNeeds) error {
	contents := w.bundle.Contents()
	var missing []string
	lack := func(format string, args ...any) { missing = append(missing, fmt.Sprintf(format, args...)) }
	files := map[string]bool{}
	for _, i := range contents.Of(bundle.KindFile) {
		files[i.Digest] = true
	}
	for _, n := range needs {
		for _, f := range n.Files {
			if !files["sha256:"+f.SHA256] {
				lack("%s: file %s, sha256:%s", n.Address, artifact.Redact(f.Source), f.SHA256)
			}
		}
		for _, i := range n.Images {
			name, err := artifact.FullName(i.Name)
			if err != nil {
				return fmt.Errorf("%s: %w", n.Address, err)
			}
			item, ok := contents.Find(bundle.KindImage, name)
			if _, pinned, _ := strings.Cut(i.Name, "@"); pinned != "" && i.Digest == "" {
				i.Digest = pinned
			}
			if !ok || i.Digest != "" && i.Digest != item.Digest {
				lack("%s: container image %s %s", n.Address, name, i.Digest)
			}
		}
	}
	for _, i := range w.site.Images {
		if item, ok := contents.Find(bundle.KindOSImage, i.Address); !ok || item.Spec != steps.ImageSpec(i) {
			lack("%s as it is declared now", i.Address)
		}
	}
	if _, ok := contents.Find(bundle.KindInstaller, installerKernel); !ok && needsInstaller(w.site) {
		lack("the installer")
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%s lacks what this site needs:\n  %s\nBuild it again from this site: edge-provision bundle build", w.bundle.Source(), strings.Join(missing, "\n  "))
}

// needsInstaller reports whether a machine is ever netbooted: one of the site, or
// one that is discovered.
func needsInstaller(s *site.Site) bool {
	return slices.ContainsFunc(s.Machines, func(m *site.Machine) bool { return !m.Adopted() }) ||
		slices.ContainsFunc(s.Networks, func(n *site.Network) bool { return n.Unknown == site.UnknownDiscover })
}

// fillImages puts the operating system images of the bundle into the cache, so
// that none is built or fetched.
func (w *world) fillImages(ctx context.Context) error {
	for _, i := range w.site.Images {
		item, _ := w.bundle.Contents().Find(bundle.KindOSImage, i.Address)
		manifest, frames, err := w.bundle.OSImage(item)
		if err != nil {
			return err
		}
		w.tell(steps.Progress{Address: i.Address, Phase: "unpack", Total: item.Bytes})
		a, err := w.builder.Put(ctx, manifest, frames, imagebuilder.Source{Kind: "bundle", Location: w.bundle.Digest()})
		if err != nil {
			return fmt.Errorf("%s from %s: %w", i.Address, w.bundle.Source(), err)
		}
		if err := w.images.Adopt(ctx, steps.ImageSpec(i), a.Digest); err != nil {
			return fmt.Errorf("%s: %w", i.Address, err)
		}
	}
	return nil
}

// netboots reports whether serving needs the installer: not where nothing is
// served, nor from a bundle that has none because the site never boots it.
func (w *world) netboots() bool {
	return len(w.site.Networks) > 0 && (w.bundle == nil || needsInstaller(w.site))
}

// Names of the installer's two files in a bundle.
const (
	installerKernel    = "kernel"
	installerInitramfs = "initramfs"
)

// bundledInstaller takes what machines netboot from the bundle.
func (w *world) bundledInstaller(ctx context.Context) (steps.Installer, error) {
	take := func(name string, kind pxe.AssetKind) (pxe.Asset, error) {
		item, ok := w.bundle.Contents().Find(bundle.KindInstaller, name)
		if !ok {
			return pxe.Asset{}, fmt.Errorf("%s has no installer", w.bundle.Source())
		}
		sum := strings.TrimPrefix(item.Digest, "sha256:")
		f, err := w.store.Open(ctx, artifact.Ref{SHA256: sum})
		if err != nil {
			return pxe.Asset{}, err
		}
		return pxe.Asset{Name: name + "-" + sum[:16], Kind: kind, Path: f.Name(), Size: item.Bytes, SHA256: sum}, f.Close()
	}
	kernel, err := take(installerKernel, pxe.AssetKernel)
	if err != nil {
		return steps.Installer{}, err
	}
	initramfs, err := take(installerInitramfs, pxe.AssetInitramfs)
	return steps.Installer{Kernel: kernel, Initramfs: initramfs, Console: installerConsole}, err
}

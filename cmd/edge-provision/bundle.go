package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/bundle"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// bundleFlags are those of bundle build.
type bundleFlags struct {
	out, key, base, agent string
	update                bool
}

func (a *app) bundleCommand() *cobra.Command {
	c := &cobra.Command{Use: "bundle", Short: "Build and check bundles: everything a site needs, in one signed file"}
	var f bundleFlags
	build := &cobra.Command{
		Use: "build SITE.hcl", Short: "Fetch everything a site needs into one signed file", Args: cobra.ExactArgs(1),
		Example: "  edge-provision bundle build site.hcl -o site.bundle --key bundle.key",
		RunE:    func(cmd *cobra.Command, args []string) error { return a.buildBundle(cmd.Context(), args[0], f) },
	}
	build.Flags().StringVarP(&f.out, "output", "o", "", "the file to write")
	build.Flags().StringVar(&f.key, "key", "", "file of the key that signs it; `bundle key` makes one")
	build.Flags().StringVar(&f.base, "base", "", "leave out what this bundle holds: a delta")
	build.Flags().BoolVar(&f.update, "update", false, "accept artifacts that are not those of the lock file any more, and write it anew")
	build.Flags().StringVar(&f.agent, "agent", "", "the edge-agent program; default: beside this program")
	a.supply.registerMirrors(build)

	var asJSON bool
	inspect := &cobra.Command{
		Use: "inspect FILE", Short: "List what a bundle holds and who signed it", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return a.inspectBundle(args[0], asJSON) },
	}
	inspect.Flags().BoolVar(&asJSON, "json", false, "print it as JSON (format_version 1)")

	var sitePath string
	verify := &cobra.Command{
		Use: "verify FILE", Short: "Check a bundle's signature and every byte of it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.verifyBundle(cmd.Context(), args[0], sitePath) },
	}
	verify.Flags().StringVar(&sitePath, "site", "", "the site whose trusted_keys are to be used")
	a.supply.registerTrust(verify)

	var keyOut string
	key := &cobra.Command{
		Use: "key", Short: "Make a key that signs bundles, and print the public key that belongs to it", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.makeKey(keyOut) },
	}
	key.Flags().StringVarP(&keyOut, "output", "o", "", "the file to write; it is secret")
	c.AddCommand(build, inspect, verify, key)
	return c
}

// makeKey writes a new signing key. An existing file is never replaced: bundles
// that it signed would lose their signer.
func (a *app) makeKey(out string) error {
	if out == "" {
		return usage("bundle key needs -o FILE")
	}
	text, public, err := bundle.NewKey()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("writing the signing key: %w", err)
	}
	if _, err := f.Write(text); err != nil {
		return errors.Join(fmt.Errorf("writing the signing key: %w", err), f.Close())
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("writing the signing key: %w", err)
	}
	fmt.Fprintln(a.stdout, public)
	return nil
}

func (a *app) buildBundle(ctx context.Context, path string, f bundleFlags) (err error) {
	if f.out == "" || f.key == "" {
		return usage("bundle build needs -o FILE and --key FILE; `edge-provision bundle key -o FILE` makes a key")
	}
	text, err := os.ReadFile(f.key)
	if err != nil {
		return fmt.Errorf("reading the signing key: %w", err)
	}
	key, err := bundle.ParseKey(text)
	if err != nil {
		return fmt.Errorf("reading the signing key %s: %w", f.key, err)
	}
	screen := a.display(false)
	defer screen.Close()
	w, err := a.open(ctx, path, screen.Tell)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	lockPath := site.LockPath(path)
	lock, err := bundle.ReadLock(lockPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	spec := bundle.Spec{Site: w.site.Name, Key: key, Secrets: w.site.Secrets()}
	if f.base != "" {
		if spec.Base, err = bundle.Open(f.base); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, spec.Base.Close()) }()
	}
	if err := w.gather(ctx, &spec, f, lock); err != nil {
		return err
	}
	var changed []string
	spec.Check = func(c *bundle.Contents) error {
		var err error
		changed, err = lockHeld(lock, c, lockPath, f.update)
		return err
	}
	moved := w.progress("write")
	spec.Progress = func(done, total int64) { moved(f.out, done, total) }
	contents, digest, err := writeBundle(ctx, w.store, spec, f.out)
	if err != nil {
		return err
	}
	if err := replaceFile(lockPath, bundle.LockOf(contents).Encode(), 0o644); err != nil {
		return err
	}
	for _, line := range changed {
		fmt.Fprintln(a.stdout, line)
	}
	fmt.Fprintf(a.stdout, "%s %s: %d artifacts, %s\n", f.out, digest, len(contents.Items), workflows.FormatBytes(contents.Bytes()))
	return nil
}

// lockHeld compares a bundle with the lock file: what moved without the site saying
// so is refused.
func lockHeld(lock bundle.Lock, c *bundle.Contents, path string, update bool) ([]string, error) {
	var all, conflicts []string
	for _, d := range lock.Compare(bundle.LockOf(c)) {
		all = append(all, d.Text)
		if d.Conflict {
			conflicts = append(conflicts, d.Text)
		}
	}
	if len(conflicts) > 0 && !update {
		return nil, fmt.Errorf("these are not what %s says any more:\n  %s\nIf that is meant, build with --update and review the change of the file", path, strings.Join(conflicts, "\n  "))
	}
	return all, nil
}

// writeBundle writes beside the file and renames: a killed build leaves no half
// of a bundle under its name.
func writeBundle(ctx context.Context, store *artifact.Store, spec bundle.Spec, out string) (_ *bundle.Contents, _ string, err error) {
	f, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+"-*")
	if err != nil {
		return nil, "", fmt.Errorf("writing %s: %w", out, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	contents, digest, err := bundle.Build(ctx, store, spec, f)
	if err != nil {
		return nil, "", err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync()); err != nil {
		return nil, "", fmt.Errorf("writing %s: %w", out, err)
	}
	if err := os.Rename(f.Name(), out); err != nil {
		return nil, "", fmt.Errorf("writing %s: %w", out, err)
	}
	return contents, digest, f.Close()
}

// gather fetches and builds everything that the site needs.
func (w *world) gather(ctx context.Context, spec *bundle.Spec, f bundleFlags, lock bundle.Lock) error {
	needs, err := steps.Needs(w.site)
	if err != nil {
		return err
	}
	needs, notes, err := steps.Rendered(ctx, w.site, needs, w.store)
	if err != nil {
		return err
	}
	for _, n := range notes {
		fmt.Fprintln(w.app.stderr, "Note:", n)
	}
	for _, n := range needs {
		if err := w.gatherStep(ctx, spec, n, lock, f.update); err != nil {
			return fmt.Errorf("%s: %w", n.Address, err)
		}
	}
	for _, i := range w.site.Images {
		a, err := w.images.Build(ctx, i)
		if err != nil {
			return err
		}
		spec.OSImages = append(spec.OSImages, bundle.OSImage{Address: i.Address, Spec: steps.ImageSpec(i), ManifestPath: a.ManifestPath, FramesPath: a.FramesPath})
	}
	if needsInstaller(w.site) {
		installer, err := w.installer(ctx, f.agent)
		if err != nil {
			return err
		}
		spec.Files = append(spec.Files,
			bundle.File{Kind: bundle.KindInstaller, Name: installerKernel, Path: installer.Kernel.Path},
			bundle.File{Kind: bundle.KindInstaller, Name: installerInitramfs, Path: installer.Initramfs.Path})
	}
	if w.site.Stack != "" {
		set, err := w.app.findSet(w.site.Stack)
		if err != nil {
			return err
		}
		spec.Files = append(spec.Files, bundle.File{Kind: bundle.KindStack, Name: set.Name, Content: set.Text()})
	}
	return nil
}

func (w *world) gatherStep(ctx context.Context, spec *bundle.Spec, n steps.StepNeeds, lock bundle.Lock, update bool) error {
	for _, ref := range n.Files {
		file, err := w.store.Open(ctx, ref)
		if err != nil {
			return err
		}
		name := ref.Source
		if name == "" {
			name = ref.SHA256
		}
		spec.Files = append(spec.Files, bundle.File{Kind: bundle.KindFile, Name: name, Source: ref.Source, UsedBy: []string{n.Address}, Path: file.Name()})
		if err := file.Close(); err != nil {
			return err
		}
	}
	for _, image := range n.Images {
		name, err := artifact.FullName(image.Name)
		if err != nil {
			return err
		}
		if entry, ok := lock.Find(bundle.KindImage, name); ok && image.Digest == "" && !strings.Contains(image.Name, "@") && !update {
			image.Digest = entry.Digest
		}
		if image.Digest == "" {
			if image.Digest, err = w.store.Resolve(ctx, image); err != nil {
				return err
			}
		}
		tree, err := w.store.Pull(ctx, image)
		if err != nil {
			return err
		}
		spec.Images = append(spec.Images, bundle.Image{Tree: tree, Source: image.Source, UsedBy: []string{n.Address}})
	}
	for _, d := range n.Documents {
		spec.Files = append(spec.Files, bundle.File{Kind: bundle.KindDocument, Name: documentName(n, d), UsedBy: []string{n.Address}, Spec: d.Spec, Content: append([]byte{}, d.Content...)})
	}
	return nil
}

func (a *app) inspectBundle(path string, asJSON bool) (err error) {
	b, err := bundle.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	c := b.Contents()
	if asJSON {
		return writeJSON(a.stdout, struct {
			Digest  string   `json:"digest"`
			Signers []string `json:"signers"`
			*bundle.Contents
		}{b.Digest(), keyTexts(b.Signers()), c})
	}
	base := "none: it is whole"
	if c.Base != "" {
		base = c.Base
	}
	fmt.Fprintf(a.stdout, "digest  %s\nsite    %s\nbase    %s\nsize    %s\n", b.Digest(), c.Site, base, workflows.FormatBytes(c.Bytes()))
	for _, k := range keyTexts(b.Signers()) {
		fmt.Fprintf(a.stdout, "signer  %s\n", k)
	}
	for _, i := range c.Items {
		fmt.Fprintf(a.stdout, "%-9s %9s  %s  %s\n", i.Kind, workflows.FormatBytes(i.Bytes), i.Digest, i.Name)
	}
	return nil
}

func keyTexts(keys []bundle.PublicKey) []string {
	out := []string{}
	for _, k := range keys {
		out = append(out, k.String())
	}
	return out
}

func (a *app) verifyBundle(ctx context.Context, path, sitePath string) (err error) {
	var fromSite []string
	if sitePath != "" {
		s, err := a.load(sitePath)
		if err != nil {
			return err
		}
		fromSite = s.TrustedKeys
	}
	keys, err := trusted(fromSite, a.supply.trust)
	if err != nil {
		return err
	}
	b, err := openTrusted(path, a.supply.base, keys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	screen := a.display(false)
	defer screen.Close()
	err = b.Verify(ctx, func(done, total int64) {
		screen.Tell(steps.Progress{Address: "bundle", Phase: "verify", Message: path, Bytes: done, Total: total})
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s %s: signed by a trusted key, %d artifacts, %s, every byte verified\n",
		path, b.Digest(), len(b.Contents().Items), workflows.FormatBytes(b.Contents().Bytes()))
	return nil
}

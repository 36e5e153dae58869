package imagebuilder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
	"github.com/edge-provision/edge-provision/imagebuilder/fetch"
)

// archive asks a package archive through APT, with state of its own: neither the machine's installed packages nor its
// package lists are read or changed. Proxies, certificates and credentials are the machine's.
type archive struct {
	builder *Builder
	dir     string
	sources string // deb822
	env     []string
	updated bool
}

const downloadBatch = 40

func newArchive(ctx context.Context, b *Builder, dir string, spec OSSpec) (*archive, error) {
	a := &archive{builder: b, dir: dir}
	var err error
	if len(spec.APTSources) > 0 {
		a.sources, err = givenSources(spec.APTSources)
	} else {
		a.sources, err = machineSources("/etc/apt", spec.Release)
	}
	// A build from a lock and a full cache needs no source at all; resolve asks for it again.
	if err != nil && spec.Lock == nil {
		return nil, err
	}
	for _, sub := range []string{"etc/preferences.d", "state/lists/partial", "cache/archives/partial", "empty.d"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("preparing APT: %w", err)
		}
	}
	acquire, err := machineAcquire(ctx)
	if err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`%sDir %q;
Dir::State "state";
Dir::State::status "status";
Dir::Cache "cache";
Dir::Etc "etc";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "machine.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::trusted "/etc/apt/trusted.gpg";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::Log "log";
APT::Architecture %q;
APT::Architectures { %q; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
`, acquire, dir, spec.Architecture, spec.Architecture)
	for name, content := range map[string]string{"apt.conf": conf, "status": "", "etc/machine.sources": a.sources} {
		if err := writeFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return nil, fmt.Errorf("preparing APT: %w", err)
		}
	}
	a.env = []string{"APT_CONFIG=" + filepath.Join(dir, "apt.conf")}
	return a, nil
}

// machineAcquire returns how the machine fetches: the Acquire settings of its APT configuration.
func machineAcquire(ctx context.Context) (string, error) {
	out, err := command{}.run(ctx, "apt-config", "dump")
	if err != nil {
		return "", fmt.Errorf("reading the machine's APT configuration: %w", err)
	}
	var kept strings.Builder
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "Acquire::") && !strings.HasPrefix(line, "Acquire::Languages") {
			kept.WriteString(line)
		}
	}
	return kept.String(), nil
}

func (a *archive) update(ctx context.Context) error {
	if a.updated {
		return nil
	}
	if _, err := (command{env: a.env}).run(ctx, "apt-get", "--quiet", "--error-on=any", "update"); err != nil {
		return fmt.Errorf("reading the package lists of the archive: %w", err)
	}
	a.updated = true
	return nil
}

// resolve asks what an empty system needs for the packages of spec.
func (a *archive) resolve(ctx context.Context, spec OSSpec) (*Lock, error) {
	if err := a.update(ctx); err != nil {
		return nil, err
	}
	epoch, err := a.releaseTime()
	if err != nil {
		return nil, err
	}
	lock := &Lock{
		FormatVersion: lockVersion, Distribution: spec.Distribution, Release: spec.Release, Architecture: spec.Architecture,
		SourceDateEpoch: epoch, Sources: withoutCredentials(a.sources), Request: spec.Packages,
	}
	// The same choice as mmdebstrap's variant "apt": everything essential, and APT itself.
	args := []string{"--quiet", "--yes", "-o", "Acquire::ForceHash=SHA256", "--print-uris", "install", "?narrow(?architecture(" + spec.Architecture + "),?essential)", "apt"}
	out, err := command{env: a.env}.run(ctx, "apt-get", append(args, spec.Packages...)...)
	if err != nil {
		return nil, fmt.Errorf("resolving packages: %w", err)
	}
	if lock.Packages, err = parseURIs(out); err != nil {
		return nil, err
	}
	return lock, lock.Validate()
}

// parseURIs reads what "apt-get --print-uris" prints: 'URI' FILE BYTES SHA256:HEX.
func parseURIs(out []byte) ([]LockedPackage, error) {
	var packages []LockedPackage
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "'") {
			continue
		}
		words := strings.Fields(line)
		if len(words) != 4 {
			return nil, fmt.Errorf("resolving packages: apt-get printed %.200q", line)
		}
		name, rest, _ := strings.Cut(words[1], "_")
		version, _, _ := strings.Cut(rest, "_")
		// APT escapes the colon of an epoch in file names.
		version, err := url.PathUnescape(version)
		if err != nil {
			return nil, fmt.Errorf("resolving packages: file name %.200q: %w", words[1], err)
		}
		p := LockedPackage{Name: name, Version: version, URI: fetch.Redact(strings.Trim(words[0], "'"))}
		if p.Bytes, err = strconv.ParseInt(words[2], 10, 64); err != nil {
			return nil, fmt.Errorf("resolving packages: size of %s: %w", name, err)
		}
		sum, ok := strings.CutPrefix(words[3], "SHA256:")
		if !ok {
			return nil, fmt.Errorf("resolving packages: the archive gives %.20s… for %s and no SHA-256", words[3], name)
		}
		if err := p.SHA256.UnmarshalText([]byte(sum)); err != nil {
			return nil, fmt.Errorf("resolving packages: digest of %s: %w", name, err)
		}
		packages = append(packages, p)
	}
	slices.SortFunc(packages, func(x, y LockedPackage) int { return strings.Compare(x.Name, y.Name) })
	return packages, nil
}

// releaseTime is the newest Date of the archive's signed release files: it moves when the archive moves, not with the
// clock.
func (a *archive) releaseTime() (int64, error) {
	files, err := filepath.Glob(filepath.Join(a.dir, "state/lists/*Release"))
	if err != nil {
		return 0, fmt.Errorf("finding the archive's date: %w", err)
	}
	var newest int64
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0, fmt.Errorf("finding the archive's date: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "Date: "); ok {
				if at, err := time.Parse(time.RFC1123, strings.TrimSpace(value)); err == nil {
					newest = max(newest, at.Unix())
				}
				break
			}
		}
	}
	if newest == 0 {
		return 0, errors.New("none of the archive's release files bears a date")
	}
	return newest, nil
}

func (a *archive) pool() string { return filepath.Join(a.builder.cacheDir(), "debs") }

// download puts the packages into the cache, each checked against its digest, and makes a package repository of
// exactly them in the directory.
func (a *archive) download(ctx context.Context, packages []LockedPackage, repository string) error {
	if err := os.MkdirAll(a.pool(), 0o755); err != nil {
		return fmt.Errorf("creating package cache: %w", err)
	}
	var missing []LockedPackage
	var total, done int64
	for _, p := range packages {
		total += p.Bytes
		switch err := checkFile(a.file(p), p.Bytes, p.SHA256); {
		case err == nil:
			done += p.Bytes
		case errors.Is(err, os.ErrNotExist):
			missing = append(missing, p)
		default:
			a.builder.log().Warn("a cached package is damaged and is fetched again", "package", p.Name, "error", err)
			missing = append(missing, p)
		}
	}
	a.builder.progress("download", done, total)
	for batch := range slices.Chunk(missing, downloadBatch) {
		if err := a.fetch(ctx, batch); err != nil {
			return err
		}
		for _, p := range batch {
			done += p.Bytes
		}
		a.builder.progress("download", done, total)
	}
	return a.index(ctx, packages, repository)
}

func (a *archive) file(p LockedPackage) string {
	return filepath.Join(a.pool(), p.SHA256.String()+".deb")
}

// fetch downloads with APT's own methods, so that proxies, certificates and credentials work as for the machine itself.
func (a *archive) fetch(ctx context.Context, packages []LockedPackage) error {
	partial := filepath.Join(a.dir, "fetched")
	if err := os.MkdirAll(partial, 0o755); err != nil {
		return fmt.Errorf("downloading packages: %w", err)
	}
	args := []string{"download-file"}
	for _, p := range packages {
		args = append(args, p.URI, filepath.Join(partial, p.SHA256.String()), "SHA256:"+p.SHA256.String())
	}
	if _, err := (command{env: a.env, dir: partial}).run(ctx, "/usr/lib/apt/apt-helper", args...); err != nil {
		return fmt.Errorf("downloading packages (if the archive dropped a locked version, refresh the lock): %w", err)
	}
	for _, p := range packages {
		name := filepath.Join(partial, p.SHA256.String())
		if err := checkFile(name, p.Bytes, p.SHA256); err != nil {
			return fmt.Errorf("downloading package %s %s from %s: %w", p.Name, p.Version, p.URI, err)
		}
		if err := os.Rename(name, a.file(p)); err != nil {
			return fmt.Errorf("keeping package %s: %w", p.Name, err)
		}
	}
	return nil
}

// checkFile compares a file with its size and digest.
func checkFile(name string, size int64, sum chunk.SHA256) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if got := chunk.SHA256(h.Sum(nil)); n != size || got != sum {
		return fmt.Errorf("%s has %d bytes and SHA-256 %s; want %d and %s", path.Base(name), n, got, size, sum)
	}
	return nil
}

// index makes a flat repository ("deb copy:DIR ./"): the installer of packages can choose nothing that the lock does not
// name.
func (a *archive) index(ctx context.Context, packages []LockedPackage, repository string) error {
	if err := os.MkdirAll(repository, 0o755); err != nil {
		return fmt.Errorf("indexing packages: %w", err)
	}
	var index bytes.Buffer
	for _, p := range packages {
		control, err := a.control(ctx, p)
		if err != nil {
			return err
		}
		link := p.SHA256.String() + ".deb"
		if err := os.Link(a.file(p), filepath.Join(repository, link)); err != nil {
			return fmt.Errorf("indexing packages: %w", err)
		}
		fmt.Fprintf(&index, "%s\nFilename: ./%s\nSize: %d\nSHA256: %s\n\n", bytes.TrimSpace(control), link, p.Bytes, p.SHA256)
	}
	if err := writeFile(filepath.Join(repository, "Packages"), index.Bytes(), 0o644); err != nil {
		return fmt.Errorf("indexing packages: %w", err)
	}
	return nil
}

// control returns a package's control fields, remembered beside it.
func (a *archive) control(ctx context.Context, p LockedPackage) ([]byte, error) {
	remembered := strings.TrimSuffix(a.file(p), ".deb") + ".control"
	control, err := os.ReadFile(remembered)
	if errors.Is(err, os.ErrNotExist) {
		if control, err = (command{}).run(ctx, "dpkg-deb", "--field", a.file(p)); err == nil {
			err = writeFile(remembered, control, 0o644)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading control fields of package %s: %w", p.Name, err)
	}
	fields := paragraphsOf(string(control))
	if len(fields) != 1 || fields[0].value("Package") != p.Name || fields[0].value("Version") != p.Version {
		return nil, fmt.Errorf("package file for %s %s says it is something else", p.Name, p.Version)
	}
	return control, nil
}

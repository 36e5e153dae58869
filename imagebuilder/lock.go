package imagebuilder

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
)

const (
	lockVersion  = 1
	maxLockBytes = 16 << 20
	maxPackages  = 10000
)

// Lock names every package of an image exactly. Two builds of one spec from one lock give one digest.
type Lock struct {
	FormatVersion   int             `json:"format_version"`
	Distribution    string          `json:"distribution"`
	Release         string          `json:"release"`
	Architecture    string          `json:"architecture"`
	SourceDateEpoch int64           `json:"source_date_epoch"` // seconds since 1970: the newest date of the archive's release files
	Sources         string          `json:"sources"`           // what the image's own APT uses, deb822
	Request         []string        `json:"request"`           // packages asked for, sorted
	Packages        []LockedPackage `json:"packages"`          // all that get installed, sorted by name
}

// LockedPackage is one .deb.
type LockedPackage struct {
	Name    string       `json:"name"`
	Version string       `json:"version"`
	Bytes   int64        `json:"bytes"`
	SHA256  chunk.SHA256 `json:"sha256"`
	URI     string       `json:"uri"` // where it was; a mirror may be elsewhere next time, the digest decides
}

// packageName is Debian policy section 5.6.1.
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

// packageVersion is Debian policy section 5.6.12.
var packageVersion = regexp.MustCompile(`^([0-9]+:)?[0-9][A-Za-z0-9.+~-]*$`)

var releaseName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

// ParseLock reads a lock in the form that Encode writes.
func ParseLock(r io.Reader) (*Lock, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxLockBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading package lock: %w", err)
	}
	if len(text) > maxLockBytes {
		return nil, fmt.Errorf("package lock is longer than %d bytes", maxLockBytes)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var l Lock
	if err := decoder.Decode(&l); err != nil {
		return nil, fmt.Errorf("reading package lock: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("package lock has data after its end")
	}
	return &l, l.Validate()
}

// Encode returns the lock as JSON.
func (l *Lock) Encode() ([]byte, error) {
	text, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing package lock: %w", err)
	}
	return append(text, '\n'), nil
}

// Validate says what is wrong with the lock.
func (l *Lock) Validate() error {
	switch {
	case l.FormatVersion != lockVersion:
		return fmt.Errorf("package lock has format version %d; want %d", l.FormatVersion, lockVersion)
	case l.Distribution != "debian" || !releaseName.MatchString(l.Release) || l.Architecture != "amd64":
		return fmt.Errorf("package lock is for %.40q %.40q on %.40q; want a Debian release on amd64", l.Distribution, l.Release, l.Architecture)
	case l.SourceDateEpoch <= 0 || l.SourceDateEpoch > 0xffffffff:
		return fmt.Errorf("package lock has source_date_epoch %d; want seconds since 1970", l.SourceDateEpoch)
	case len(l.Packages) == 0 || len(l.Packages) > maxPackages:
		return fmt.Errorf("package lock names %d packages; want 1 to %d", len(l.Packages), maxPackages)
	}
	for i, p := range l.Packages {
		switch {
		case !packageName.MatchString(p.Name):
			return fmt.Errorf("package lock: %.60q is not a package name", p.Name)
		case !packageVersion.MatchString(p.Version):
			return fmt.Errorf("package lock: %.60q is not a version of package %s", p.Version, p.Name)
		case p.Bytes <= 0 || p.SHA256 == chunk.SHA256{}:
			return fmt.Errorf("package lock: package %s has no size or no digest", p.Name)
		case i > 0 && l.Packages[i-1].Name >= p.Name:
			return fmt.Errorf("package lock: package %s is doubled or out of order", p.Name)
		}
	}
	for _, name := range l.Request {
		if _, ok := slices.BinarySearchFunc(l.Packages, name, func(p LockedPackage, n string) int { return strings.Compare(p.Name, n) }); !ok {
			return fmt.Errorf("package lock asks for package %.60q and does not name its version", name)
		}
	}
	return nil
}

// digest covers what the image depends on: not where the packages were.
func (l *Lock) digest() string {
	h := sha256.New()
	fmt.Fprintf(h, "%s %s %s %d\n%q\n%q\n", l.Distribution, l.Release, l.Architecture, l.SourceDateEpoch, l.Sources, l.Request)
	for _, p := range l.Packages {
		fmt.Fprintf(h, "%s %s %s\n", p.Name, p.Version, p.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil))
}

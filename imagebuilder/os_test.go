package imagebuilder

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
)

func testLock(request []string) *Lock {
	l := &Lock{FormatVersion: 1, Distribution: "debian", Release: "bookworm", Architecture: "amd64", SourceDateEpoch: 1700000000, Sources: "Types: deb\n", Request: request}
	for i, name := range request {
		l.Packages = append(l.Packages, LockedPackage{Name: name, Version: "1:2.3-4+deb12u1~x", Bytes: int64(i + 1), SHA256: chunk.SHA256{byte(i + 1)}, URI: "http://x.example/" + name})
	}
	return l
}

func TestOSSpecDefaultsAndRefusals(t *testing.T) {
	spec, err := OSSpec{Release: "bookworm", Packages: []string{"chrony", "openssh-server", "chrony"}}.normalize()
	if err != nil {
		t.Fatal(err)
	}
	if spec.Distribution != "debian" || spec.Architecture != "amd64" || spec.Kernel != "generic" || !slices.IsSorted(spec.Packages) ||
		!slices.Contains(spec.Packages, "linux-image-amd64") || strings.Count(strings.Join(spec.Packages, " "), "openssh-server") != 1 {
		t.Errorf("normalize = %+v", spec)
	}
	for want, bad := range map[string]OSSpec{
		"code name":        {Release: "../etc"},
		"distribution":     {Release: "bookworm", Distribution: "beos"},
		"architecture":     {Release: "bookworm", Architecture: "sparc"},
		"kernel":           {Release: "bookworm", Kernel: "tiny"},
		"size":             {Release: "bookworm", SizeBytes: 1 << 20},
		"not a package":    {Release: "bookworm", Packages: []string{"-o=x"}},
		"GRUB would take":  {Release: "bookworm", KernelArgs: []string{"quiet; reboot"}},
		"another release":  {Release: "trixie", Lock: testLock([]string{"ab"})},
		"format version 0": {Release: "bookworm", Lock: &Lock{}},
	} {
		if _, err := bad.normalize(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("normalize(%+v) = %v; want an error with %q", bad, err, want)
		}
	}
}

// Two of them cannot be installed together, and without one the clock is never set.
func TestOSSpecHasOneTimeDaemon(t *testing.T) {
	for asked, want := range map[string]bool{"vim": true, "chrony": false, "ntpsec": false, "openntpd": false, "systemd-timesyncd": true} {
		spec, err := OSSpec{Release: "bookworm", Packages: []string{asked}}.normalize()
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(spec.Packages, "systemd-timesyncd"); got != want {
			t.Errorf("an image that asks for %s has systemd-timesyncd: %v; want %v", asked, got, want)
		}
	}
}

func TestOSKeyChangesWithEverythingThatChangesTheImage(t *testing.T) {
	base := OSSpec{Release: "bookworm", Packages: []string{"chrony"}}
	keys := map[string]string{}
	for name, change := range map[string]func(*OSSpec){
		"nothing":  func(*OSSpec) {},
		"release":  func(s *OSSpec) { s.Release = "trixie" },
		"packages": func(s *OSSpec) { s.Packages = []string{"chrony", "vim"} },
		"kernel":   func(s *OSSpec) { s.Kernel = "cloud" },
		"args":     func(s *OSSpec) { s.KernelArgs = []string{"quiet"} },
		"size":     func(s *OSSpec) { s.SizeBytes = 1 << 30 },
		"sources":  func(s *OSSpec) { s.APTSources = []string{"deb http://x y z"} },
	} {
		spec := base
		change(&spec)
		spec, err := spec.normalize()
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := keys[spec.key()]; ok {
			t.Errorf("changing %s and changing %s give one key", name, other)
		}
		keys[spec.key()] = name
	}
	one, two := base, base
	one.Packages, two.Packages = []string{"a1", "b1"}, []string{"b1", "a1", "a1"}
	one, err := one.normalize()
	if err != nil {
		t.Fatal(err)
	}
	if two, err = two.normalize(); err != nil || one.key() != two.key() {
		t.Errorf("the order of packages changes the key (%v)", err)
	}
}

func TestLockRoundTripAndRefusals(t *testing.T) {
	lock := testLock([]string{"apt", "base-files"})
	text, err := lock.Encode()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseLock(bytes.NewReader(text))
	if err != nil || parsed.digest() != lock.digest() {
		t.Fatalf("ParseLock of what Encode wrote: %v", err)
	}
	moved := testLock([]string{"apt", "base-files"})
	moved.Packages[0].URI = "http://mirror.example/apt"
	if moved.digest() != lock.digest() {
		t.Error("another mirror makes another lock")
	}
	for want, change := range map[string]func(*Lock){
		"format version":    func(l *Lock) { l.FormatVersion = 2 },
		"Debian release":    func(l *Lock) { l.Release = "a/b" },
		"source_date_epoch": func(l *Lock) { l.SourceDateEpoch = 0 },
		"0 packages":        func(l *Lock) { l.Packages = nil },
		"not a package":     func(l *Lock) { l.Packages[0].Name = "a b" },
		"not a version":     func(l *Lock) { l.Packages[0].Version = "1 2" },
		"no size":           func(l *Lock) { l.Packages[0].Bytes = 0 },
		"doubled":           func(l *Lock) { l.Packages[1].Name = l.Packages[0].Name },
		"asks for":          func(l *Lock) { l.Request = append(l.Request, "vim") },
	} {
		l := testLock([]string{"apt", "base-files"})
		change(l)
		if err := l.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v; want an error with %q", err, want)
		}
	}
	for _, bad := range []string{"", "{}", string(text) + "x", `{"colour":1}`, string(text[:len(text)/2])} {
		if _, err := ParseLock(strings.NewReader(bad)); err == nil {
			t.Errorf("ParseLock(%.20q) succeeded", bad)
		}
	}
}

func FuzzParseLock(f *testing.F) {
	text, err := testLock([]string{"apt"}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := ParseLock(bytes.NewReader(data))
		if err != nil {
			return
		}
		again, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if other, err := ParseLock(bytes.NewReader(again)); err != nil || other.digest() != l.digest() {
			t.Fatalf("round trip: %v", err)
		}
	})
}

func TestParseURIs(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	packages, err := parseURIs([]byte("Reading package lists...\n'http://u:p@x.example/pool/v/vim_2%3a9.0-1_amd64.deb' vim_2%3a9.0-1_amd64.deb 123 SHA256:" + sum +
		"\n'http://x.example/a.deb' apt_2.6.1_amd64.deb 5 SHA256:" + sum + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) != 2 || packages[0].Name != "apt" || packages[1].Version != "2:9.0-1" || packages[1].Bytes != 123 ||
		packages[1].URI != "http://x.example/pool/v/vim_2%3a9.0-1_amd64.deb" {
		t.Errorf("parseURIs = %+v", packages)
	}
	for _, bad := range []string{"'x' y 1\n", "'x' a_1_b.deb many SHA256:" + sum, "'x' a_1_b.deb 1 MD5Sum:00", "'x' a_1_b.deb 1 SHA256:zz"} {
		if _, err := parseURIs([]byte(bad)); err == nil {
			t.Errorf("parseURIs(%q) succeeded", bad)
		}
	}
}

// Access and change times of the source directory are all that differs between two file systems of equal trees;
// afterwards nothing does, and e2fsck agrees with every checksum.
func TestSettleTimesMakesEqualTreesEqualFileSystems(t *testing.T) {
	for _, program := range []string{"mke2fs", "e2fsck"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs " + program + " (package e2fsprogs)")
		}
	}
	epoch := time.Unix(1700000000, 0)
	var images [][]byte
	for i := range 2 {
		tree := t.TempDir()
		if err := os.MkdirAll(filepath.Join(tree, "etc/deep"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{"etc/deep/a": "alpha", "etc/b": strings.Repeat("beta", 5000), "c": ""} {
			if err := os.WriteFile(filepath.Join(tree, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		// Modification times after the epoch are clamped; before it they stay.
		if err := os.Chtimes(filepath.Join(tree, "c"), time.Unix(int64(i), 0), time.Unix(1000, 0)); err != nil {
			t.Fatal(err)
		}
		config := filepath.Join(t.TempDir(), "mke2fs.conf")
		if err := os.WriteFile(config, []byte(mke2fsConfig), 0o600); err != nil {
			t.Fatal(err)
		}
		image := filepath.Join(t.TempDir(), "fs")
		c := command{env: []string{"MKE2FS_CONFIG=" + config, "E2FSPROGS_FAKE_TIME=1700000000"}}
		const id = "11111111-2222-4333-8444-555555555555"
		if _, err := c.run(t.Context(), "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-U", id, "-E", "offset=1048576,root_owner=0:0,lazy_itable_init=0,hash_seed="+id, "-d", tree, image, "16384k"); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(image, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := settleTimes(f, 1<<20, epoch); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		alone := filepath.Join(t.TempDir(), "alone")
		if err := os.WriteFile(alone, content[1<<20:], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (command{}).run(t.Context(), "e2fsck", "-fn", alone); err != nil {
			t.Errorf("e2fsck: %v", err)
		}
		images = append(images, content)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two file systems of equal trees differ")
	}
	if err := settleTimes(nopFile{bytes.NewReader(make([]byte, 8192))}, 0, epoch); err == nil {
		t.Error("settleTimes of zeros succeeded")
	}
}

type nopFile struct{ *bytes.Reader }

func (nopFile) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func TestEmbedBIOSPatchesWhatTheBIOSNeeds(t *testing.T) {
	boot, core := bytes.Repeat([]byte{0xcc}, 512), bytes.Repeat([]byte{0xdd}, 1300)
	code, embedded, err := embedBIOS(boot, core, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if len(code) != 440 || !bytes.Equal(code[0x5c:0x68], []byte{0, 8, 0, 0, 0, 0, 0, 0, 0xcc, 0xcc, 0x90, 0x90}) {
		t.Errorf("boot code at 0x5c = % x", code[0x5c:0x68])
	}
	if len(embedded) != 1536 || !bytes.Equal(embedded[0x1f4:0x1fe], []byte{1, 8, 0, 0, 0, 0, 0, 0, 2, 0}) {
		t.Errorf("block list = % x of %d bytes", embedded[0x1f4:0x1fe], len(embedded))
	}
	if _, _, err := embedBIOS(boot, make([]byte, BIOSBootBytes+1), 2048); err == nil {
		t.Error("a core image larger than its partition was accepted")
	}
	if _, _, err := embedBIOS(boot[:100], core, 2048); err == nil {
		t.Error("a short boot sector was accepted")
	}
}

func TestMissingToolsAreNamedWithTheirPackages(t *testing.T) {
	err := requireTools([]tool{{"sh", "dash"}, {"no-such-program", "no-such-package"}, {"nor-this", "other"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-program, nor-this") || !strings.Contains(err.Error(), "no-such-package, other") {
		t.Errorf("requireTools = %v", err)
	}
}

func TestCommandErrorShowsTheEndOfItsOutputAndEndsWithItsContext(t *testing.T) {
	_, err := command{}.run(t.Context(), "sh", "-c", "echo reason >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "exit status 3: reason") {
		t.Errorf("run = %v", err)
	}
	out, err := command{}.run(t.Context(), "sh", "-c", "umask; echo $LC_ALL $TZ")
	if err != nil || string(out) != "0022\nC.UTF-8 UTC\n" {
		t.Errorf("environment = %q, %v", out, err)
	}
}

func TestDirectoriesInTheImageDoNotDependOnTheUmask(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	root := t.TempDir()
	if err := makeParents(root, "/etc/edge-provision/deep"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"etc", "etc/edge-provision", "etc/edge-provision/deep"} {
		if info, err := os.Stat(filepath.Join(root, dir)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s has mode %v, %v; want 0755", dir, info.Mode(), err)
		}
	}
}

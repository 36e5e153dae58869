package imagebuilder

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func zst(t testing.TB, p []byte) []byte {
	t.Helper()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return encoder.EncodeAll(p, nil)
}

func writeTemp(t *testing.T, name string, p []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestImportGivesOneImageForEveryFormat(t *testing.T) {
	raw := testDisk(t)
	rawPath := writeTemp(t, "disk.img", raw)
	sources := map[string]string{"raw": rawPath, "zst": writeTemp(t, "disk.img.zst", zst(t, raw))}
	if qemuImg, err := exec.LookPath("qemu-img"); err == nil {
		sources["qcow2"] = filepath.Join(t.TempDir(), "disk.qcow2")
		if out, err := exec.CommandContext(t.Context(), qemuImg, "convert", "-f", "raw", "-O", "qcow2", rawPath, sources["qcow2"]).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	digests := map[string]string{}
	for format, path := range sources {
		for _, declared := range []string{format, "auto", ""} {
			b := &Builder{CacheDir: t.TempDir()}
			a, err := b.Import(t.Context(), ImportSpec{Source: path, Format: declared})
			if err != nil {
				t.Fatalf("Import of %s as %q: %v", format, declared, err)
			}
			digests[a.Digest] = format
			if left, err := os.ReadDir(filepath.Join(b.CacheDir, "tmp")); err != nil || len(left) != 0 {
				t.Errorf("import left %v in the work directory (%v)", left, err)
			}
			again, err := b.Import(t.Context(), ImportSpec{Source: path, Format: declared})
			if err != nil || !again.Cached {
				t.Errorf("second import: cached %v, %v", again.Cached, err)
			}
		}
	}
	if len(digests) != 1 {
		t.Errorf("formats of one disk gave images %v; want one", digests)
	}
	got, err := os.ReadFile(rawPath)
	if err != nil || !bytes.Equal(got, raw) {
		t.Error("the source was changed")
	}
}

func TestImportRefusals(t *testing.T) {
	raw := testDisk(t)
	overlay := make([]byte, 104)
	copy(overlay, qcow2Magic)
	binary.BigEndian.PutUint32(overlay[4:], 3)
	binary.BigEndian.PutUint64(overlay[24:], 1<<20)
	external := bytes.Clone(overlay)
	binary.BigEndian.PutUint64(external[72:], 4)
	binary.BigEndian.PutUint64(overlay[8:], 512)
	huge := bytes.Clone(overlay)
	binary.BigEndian.PutUint64(huge[8:], 0)
	binary.BigEndian.PutUint64(huge[24:], 1<<62)
	blank := make([]byte, 1<<20)
	copy(blank[510:], []byte{0x55, 0xaa})
	packed := zst(t, raw)
	for _, c := range []struct {
		name, want string
		spec       ImportSpec
	}{
		{"nothing", "no path", ImportSpec{}},
		{"absent", "no such file", ImportSpec{Source: "/nonexistent/disk"}},
		{"directory", "not a regular file", ImportSpec{Source: t.TempDir()}},
		{"scheme", "neither a path nor", ImportSpec{Source: "ftp://x/y"}},
		{"URL without digest", "has no digest", ImportSpec{Source: "https://user:secret@x.example/y"}},
		{"malformed digest", "64 lower-case", ImportSpec{Source: "/x", Digest: "sha256:beef"}},
		{"unknown format", "unknown", ImportSpec{Source: "/x", Format: "vmdk"}},
		{"unknown firmware", "firmware", ImportSpec{Source: "/x", Firmware: []string{"coreboot"}}},
		{"wrong digest", "another one", ImportSpec{Source: writeTemp(t, "d", raw), Digest: "sha256:" + strings.Repeat("ab", 32)}},
		{"other format than declared", "declared as qcow2 and looks like raw", ImportSpec{Source: writeTemp(t, "d", raw), Format: "qcow2"}},
		{"backing file", "backing file", ImportSpec{Source: writeTemp(t, "d", overlay)}},
		{"external data", "external data file", ImportSpec{Source: writeTemp(t, "d", external)}},
		{"huge qcow2", "virtual size", ImportSpec{Source: writeTemp(t, "d", huge)}},
		{"qcow2 header cut short", "ends inside", ImportSpec{Source: writeTemp(t, "d", []byte(qcow2Magic+"\x00"))}},
		{"truncated zst", "decompressing", ImportSpec{Source: writeTemp(t, "d", packed[:len(packed)-9])}},
		{"no boot signature", "boot signature", ImportSpec{Source: writeTemp(t, "d", make([]byte, 1<<20))}},
		{"empty", "boot signature", ImportSpec{Source: writeTemp(t, "d", nil)}},
		{"nothing to boot", "name the firmware", ImportSpec{Source: writeTemp(t, "d", blank)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &Builder{CacheDir: t.TempDir()}
			_, err := b.Import(t.Context(), c.spec)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Import = %v; want an error with %q", err, c.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows a password: %v", err)
			}
			if images, err := filepath.Glob(filepath.Join(b.CacheDir, "images", "*")); err != nil || len(images) != 0 {
				t.Errorf("a refused import left %v", images)
			}
		})
	}
}

func TestImportKnowsA4KnDisk(t *testing.T) {
	o, err := recognize(writeTemp(t, "d", disk4Kn(t)), ImportSpec{})
	if err != nil || o.SectorBytes != 4096 || strings.Join(o.Firmware, ",") != "uefi" {
		t.Errorf("recognize = %+v, %v; want 4096-byte sectors and uefi", o, err)
	}
}

func TestImportFromURLLeavesOnlyTheImage(t *testing.T) {
	packed := zst(t, testDisk(t))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(packed))
	}))
	defer server.Close()
	var mu sync.Mutex
	phases := map[string]bool{}
	b := &Builder{CacheDir: t.TempDir(), Progress: func(p Progress) { mu.Lock(); phases[p.Phase] = true; mu.Unlock() }}
	spec := ImportSpec{Source: strings.Replace(server.URL, "://", "://me:secret@", 1) + "/disk.img.zst", Digest: sha(packed)}
	a, err := b.Import(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(a.Source.Location, "secret") || !strings.HasSuffix(a.Source.Location, "/disk.img.zst") {
		t.Errorf("location %q", a.Source.Location)
	}
	if left, err := filepath.Glob(filepath.Join(b.CacheDir, "downloads", "*")); err != nil || len(left) != 0 {
		t.Errorf("downloads holds %v", left)
	}
	if !phases["fetch"] || !phases["convert"] || !phases["compress"] {
		t.Errorf("progress named %v", phases)
	}
	server.Close()
	if again, err := b.Import(t.Context(), spec); err != nil || !again.Cached {
		t.Errorf("second import without the server: cached %v, %v", again.Cached, err)
	}
}

func TestConcurrentEqualImportsAreMerged(t *testing.T) {
	path := writeTemp(t, "disk", testDisk(t))
	cache := t.TempDir()
	var built atomic.Int64
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			a, err := (&Builder{CacheDir: cache}).Import(t.Context(), ImportSpec{Source: path})
			if err != nil {
				t.Error(err)
			} else if !a.Cached {
				built.Add(1)
			}
		})
	}
	group.Wait()
	if built.Load() != 1 {
		t.Errorf("%d of 4 equal imports built the image; want 1", built.Load())
	}
}

// logged tells of every line of a log.
type logged chan string

func (l logged) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}

// One download serves a file; who imports it a second time, for other firmware, must
// neither write into it nor lose it to who was first.
func TestImportsOfOneAddressForOtherFirmwareTakeTurns(t *testing.T) {
	packed := zst(t, testDisk(t))
	asked, answer := make(chan struct{}, 10), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-answer
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(packed))
	}))
	defer server.Close()
	cache, ended := t.TempDir(), make(chan error, 2)
	start := func(firmware string, log io.Writer) {
		b := &Builder{CacheDir: cache, Log: slog.New(slog.NewTextHandler(log, nil))}
		spec := ImportSpec{Source: server.URL + "/disk.img.zst", Digest: sha(packed), Firmware: []string{firmware}}
		go func() {
			_, err := b.Import(t.Context(), spec)
			ended <- err
		}()
	}
	start("bios", io.Discard)
	select {
	case <-asked:
	case err := <-ended:
		t.Fatalf("Import() = %v before it asked for the file", err)
	}
	waits := make(logged, 100)
	start("uefi", waits)
	select {
	case <-asked:
		t.Error("two imports fill one download at once")
	case line := <-waits:
		if !strings.Contains(line, "waiting") {
			t.Errorf("the second import says %q; want it to wait", line)
		}
	}
	close(answer)
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(cache, "downloads", "*")); err != nil || len(left) != 0 {
		t.Errorf("downloads holds %v", left)
	}
}

func TestWhatAKilledBuildLeftIsRemoved(t *testing.T) {
	b := &Builder{CacheDir: t.TempDir()}
	dir, err := b.workDir("key")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "half"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if dir, err = b.workDir("key"); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("work directory holds %v, %v", left, err)
	}
}

func FuzzQCOW2Header(f *testing.F) {
	f.Add([]byte(qcow2Magic + "\x00\x00\x00\x03"))
	f.Fuzz(func(t *testing.T, head []byte) {
		if checkQCOW2(head) == nil && binary.BigEndian.Uint64(head[8:]) != 0 {
			t.Fatal("a backing file was accepted")
		}
	})
}

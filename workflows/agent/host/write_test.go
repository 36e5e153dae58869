package host

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/probe"
	"github.com/edge-provision/edge-provision/workflows/agent"
)

const mib = 1 << 20

// bench is a machine whose disks are files, and a server with an image.
type bench struct {
	t      *testing.T
	dir    string
	names  []string
	raw    []byte
	digest string
	text   string // digest of the manifest's text
	server *httptest.Server
	url    atomic.Pointer[string]

	mu    sync.Mutex
	serve func(w http.ResponseWriter, r *http.Request) bool // true: answered
	gets  map[string]int                                    // by range
}

func newBench(t *testing.T, raw []byte, disks ...string) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), raw: raw, gets: make(map[string]int)}
	for _, d := range disks {
		b.disk(d, 16*mib)
	}
	var frames bytes.Buffer
	manifest, err := chunk.Create(t.Context(), bytes.NewReader(raw), int64(len(raw)), &frames, chunk.CreateOptions{ChunkBytes: mib})
	if err != nil {
		t.Fatal(err)
	}
	b.digest = manifest.Digest()
	var text bytes.Buffer
	if err := manifest.Encode(&text); err != nil {
		t.Fatal(err)
	}
	b.text = fmt.Sprintf("sha256:%x", sha256.Sum256(text.Bytes()))
	b.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.gets[r.Header.Get("Range")]++
		serve := b.serve
		b.mu.Unlock()
		if serve != nil && serve(w, r) {
			return
		}
		content := frames.Bytes()
		if r.URL.Path == "/manifest" {
			content = text.Bytes()
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	b.url.Store(&b.server.URL)
	t.Cleanup(func() { b.server.Close() })
	return b
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) disk(name string, size int64) {
	b.t.Helper()
	f, err := os.Create(b.path(name))
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.names = append(b.names, name)
}

func (b *bench) content(name string) []byte {
	b.t.Helper()
	data, err := os.ReadFile(b.path(name))
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}

// plain is a Getter over plain HTTP.
type plain struct{}

func (plain) Get(ctx context.Context, ref string, offset, length int64) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ref, nil)
	if err != nil {
		return nil, err
	}
	want := http.StatusOK
	if length > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
		want = http.StatusPartialContent
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != want {
		resp.Body.Close()
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	return resp.Body, nil
}

// disks lists the files as disks; the serial is the name in capitals.
func (b *bench) disks(context.Context) ([]inventory.Disk, error) {
	var all []inventory.Disk
	for _, n := range b.names {
		info, err := os.Stat(b.path(n))
		if err != nil {
			return nil, err
		}
		all = append(all, inventory.Disk{Name: n, Serial: strings.ToUpper(n), Bytes: info.Size(), Signatures: []string{}})
	}
	return all, nil
}

func (b *bench) host(change func(*Config)) *Host {
	cfg := Config{
		Getter: plain{}, Disks: b.disks, Firmware: "uefi", Architecture: "amd64", Patience: 5 * time.Second,
		Open:  func(name string) (Disk, error) { return chunk.OpenDisk(b.path(name)) },
		Owner: func(*os.Root, string, int, int) error { return nil },
	}
	if change != nil {
		change(&cfg)
	}
	return New(cfg)
}

func (b *bench) task(disk string) agent.Task {
	return agent.Task{ID: "w", Attempt: 1, Kind: agent.KindWrite, Write: &agent.Write{
		Disk: agent.DiskRef{Serial: strings.ToUpper(disk), Bytes: 16 * mib}, Image: b.digest,
		ManifestURL: b.server.URL + "/manifest", ManifestText: b.text, FramesURL: b.server.URL + "/frames",
	}}
}

func quiet(agent.Progress) error { return nil }

// picture is 8 MiB with data, zeroes, and noise.
func picture(t *testing.T) []byte {
	t.Helper()
	raw := make([]byte, 8*mib)
	if _, err := rand.Read(raw[:3*mib]); err != nil {
		t.Fatal(err)
	}
	copy(raw[6*mib:], bytes.Repeat([]byte("edge"), mib/4))
	return raw
}

func TestWritePutsEveryByteOnTheNamedDiskOnly(t *testing.T) {
	raw := picture(t)
	b := newBench(t, raw, "sda", "sdb")
	// The named disk is full of noise, the other holds an older copy.
	noise := make([]byte, 16*mib)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	decoy := append(bytes.Clone(raw), noise[:8*mib]...)
	for name, content := range map[string][]byte{"sda": decoy, "sdb": noise} {
		if err := os.WriteFile(b.path(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var phases []agent.Phase
	result := b.host(nil).Execute(t.Context(), b.task("sdb"), func(p agent.Progress) error {
		if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
			phases = append(phases, p.Phase)
		}
		return nil
	})
	if result.Outcome != agent.OutcomeOK || result.Write.Bytes != int64(len(raw)) || result.Write.FetchedBytes == 0 {
		t.Fatalf("Execute = %+v %+v; want ok", result, result.Error)
	}
	if !bytes.Equal(b.content("sdb")[:len(raw)], raw) {
		t.Error("the image's extent on the named disk differs from the raw image")
	}
	if !bytes.Equal(b.content("sdb")[len(raw):], noise[len(raw):]) {
		t.Error("bytes past the image's extent were changed")
	}
	if !bytes.Equal(b.content("sda"), decoy) {
		t.Error("the other disk was changed")
	}
	if fmt.Sprint(phases) != "[begin write sync]" {
		t.Errorf("phases = %v; want begin, write, sync", phases)
	}
}

func TestWriteIsRefusedBeforeTheFirstByte(t *testing.T) {
	gpt := make([]byte, 16*mib)
	copy(gpt[512:], "EFI PART")
	ext4 := make([]byte, 16*mib)
	ext4[1024+0x38], ext4[1024+0x39] = 0x53, 0xef
	blank := make([]byte, 16*mib)
	for name, c := range map[string]struct {
		content []byte
		change  func(*bench, *agent.Write, *Config)
		want    agent.Code
	}{
		"no such disk":           {blank, func(_ *bench, w *agent.Write, _ *Config) { w.Disk.Serial = "OTHER" }, agent.CodeDiskMissing},
		"another size":           {blank, func(_ *bench, w *agent.Write, _ *Config) { w.Disk.Bytes++ }, agent.CodeDiskSize},
		"wwn does not match too": {blank, func(_ *bench, w *agent.Write, _ *Config) { w.Disk.WWN = "naa.1" }, agent.CodeDiskMissing},
		"a partition table":      {gpt, nil, agent.CodeSignature},
		"another than agreed to": {ext4, func(_ *bench, w *agent.Write, _ *Config) { w.Consent.Signatures = []string{"gpt"} }, agent.CodeSignature},
		"another manifest":       {blank, func(_ *bench, w *agent.Write, _ *Config) { w.Image = "sha256:" + strings.Repeat("0", 64) }, agent.CodeManifest},
		"an image for BIOS only": {blank, func(_ *bench, _ *agent.Write, c *Config) { c.Firmware = "coreboot" }, agent.CodeArchitecture},
		"another processor":      {blank, func(_ *bench, _ *agent.Write, c *Config) { c.Architecture = "arm64" }, agent.CodeArchitecture},
		"a 4Kn disk": {blank, func(b *bench, _ *agent.Write, c *Config) {
			c.Open = func(name string) (Disk, error) {
				d, err := chunk.OpenDisk(b.path(name))
				return sectored{d}, err
			}
		}, agent.CodeSectorSize},
		"two disks of one serial": {blank, func(b *bench, _ *agent.Write, c *Config) {
			c.Disks = func(ctx context.Context) ([]inventory.Disk, error) {
				d, err := b.disks(ctx)
				return append(d, d...), err
			}
		}, agent.CodeDiskAmbiguous},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, picture(t), "sda")
			if err := os.WriteFile(b.path("sda"), c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			task := b.task("sda")
			h := b.host(func(cfg *Config) {
				if c.change != nil {
					c.change(b, task.Write, cfg)
				}
			})
			result := h.Execute(t.Context(), task, quiet)
			if result.Outcome != agent.OutcomeRefused || result.Error.Code != c.want {
				t.Errorf("Execute = %s %+v; want refused with %s", result.Outcome, result.Error, c.want)
			}
			if !bytes.Equal(b.content("sda"), c.content) {
				t.Error("the disk was changed")
			}
		})
	}
}

// sectored is a disk with sectors of 4096 bytes.
type sectored struct{ *chunk.Disk }

func (sectored) SectorBytes() int { return 4096 }

func TestConsentToWhatIsThereLetsItBeWritten(t *testing.T) {
	b := newBench(t, picture(t), "sda")
	content := make([]byte, 16*mib)
	copy(content[512:], "EFI PART")
	if err := os.WriteFile(b.path("sda"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	task := b.task("sda")
	task.Write.Consent.Signatures = []string{"ext4", "gpt"}
	if result := b.host(nil).Execute(t.Context(), task, quiet); result.Outcome != agent.OutcomeOK {
		t.Errorf("Execute = %+v %+v; want ok", result, result.Error)
	}
}

func TestDiskIsLeftAloneWhenTheControllerDoesNotAcknowledge(t *testing.T) {
	b := newBench(t, picture(t), "sda")
	result := b.host(nil).Execute(t.Context(), b.task("sda"), func(p agent.Progress) error {
		if p.Phase == agent.PhaseBegin {
			return errors.New("lost")
		}
		return nil
	})
	if result.Outcome != agent.OutcomeRefused || !bytes.Equal(b.content("sda"), make([]byte, 16*mib)) {
		t.Errorf("Execute = %+v %+v; want refused and a blank disk", result, result.Error)
	}
}

func TestResumedWriteFetchesOnlyWhatIsNotOnTheDisk(t *testing.T) {
	raw := picture(t)
	b := newBench(t, raw, "sda")
	ctx, cut := context.WithCancel(t.Context())
	task := b.task("sda")
	first := b.host(nil).Execute(ctx, task, func(p agent.Progress) error {
		if p.Phase == agent.PhaseWrite && p.Bytes >= 5*mib {
			cut()
		}
		return nil
	})
	if first.Outcome != agent.OutcomeFailed || first.Error.Code != agent.CodeCancelled {
		t.Fatalf("the cut write = %+v %+v; want it cancelled", first, first.Error)
	}
	task.Write.Resume = true
	second := b.host(nil).Execute(t.Context(), task, quiet)
	if second.Outcome != agent.OutcomeOK || second.Write.ProvedBytes == 0 {
		t.Fatalf("the resumed write = %+v %+v; want ok with proved chunks", second, second.Error)
	}
	if !bytes.Equal(b.content("sda")[:len(raw)], raw) {
		t.Error("the resumed disk differs from the raw image")
	}
	third := b.host(nil).Execute(t.Context(), task, quiet)
	if third.Outcome != agent.OutcomeOK || third.Write.ProvedBytes != int64(len(raw)) || third.Write.WrittenBytes != 0 {
		t.Errorf("a write over the finished image = %+v; want all of it proved", third.Write)
	}
}

func TestCorruptedChunkIsFetchedAgainAndNeverWritten(t *testing.T) {
	raw := picture(t)
	b := newBench(t, raw, "sda")
	var broken atomic.Int64
	broken.Store(2)
	b.serve = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") == "" || broken.Add(-1) < 0 {
			return false
		}
		record := httptest.NewRecorder()
		var from, to int
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil {
			t.Error(err)
		}
		record.Body.Write(bytes.Repeat([]byte{0xa5}, to-from+1))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(record.Body.Bytes())
		return true
	}
	result := b.host(nil).Execute(t.Context(), b.task("sda"), quiet)
	if result.Outcome != agent.OutcomeOK || result.Write.Refetches != 2 {
		t.Fatalf("Execute = %+v %+v; want ok after 2 refetches", result, result.Error)
	}
	if !bytes.Equal(b.content("sda")[:len(raw)], raw) {
		t.Error("the disk differs from the raw image")
	}

	broken.Store(1 << 40)
	b.disk("sdb", 16*mib)
	result = b.host(nil).Execute(t.Context(), b.task("sdb"), quiet)
	if result.Outcome != agent.OutcomeFailed || result.Error.Code != agent.CodeCorrupt {
		t.Errorf("Execute with every chunk corrupt = %+v %+v; want corrupt", result.Outcome, result.Error)
	}
	if !bytes.Equal(b.content("sdb"), make([]byte, 16*mib)) {
		t.Error("corrupt bytes reached the disk")
	}
}

// A stranger on the network can answer for plain HTTP: the manifest's raw
// digests are those of the image's name, its digests of frames are their own.
func TestFramesOfAForgedManifestAreNotTrusted(t *testing.T) {
	raw := picture(t)
	for name, text := range map[string]string{"a manifest that is written otherwise": "", "a task without its digest": "none"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, raw, "sda")
			forged := bytes.Clone(raw)
			copy(forged[mib:], "not what the image's name stands for")
			var frames, manifest bytes.Buffer
			m, err := chunk.Create(t.Context(), bytes.NewReader(forged), int64(len(forged)), &frames, chunk.CreateOptions{ChunkBytes: mib})
			if err != nil {
				t.Fatal(err)
			}
			m.Chunks[1].RawSHA256 = sha256.Sum256(raw[mib : 2*mib])
			if err := m.Encode(&manifest); err != nil {
				t.Fatal(err)
			}
			b.serve = func(w http.ResponseWriter, r *http.Request) bool {
				content := frames.Bytes()
				if r.URL.Path == "/manifest" {
					content = manifest.Bytes()
				}
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
				return true
			}
			task := b.task("sda")
			if text == "none" {
				task.Write.ManifestText = ""
			}
			result := b.host(nil).Execute(t.Context(), task, quiet)
			if result.Outcome != agent.OutcomeFailed || result.Error.Code != agent.CodeCorrupt {
				t.Errorf("Execute = %s %+v; want corrupt", result.Outcome, result.Error)
			}
			if bytes.Contains(b.content("sda"), []byte("not what the image's name stands for")) {
				t.Error("forged bytes reached the disk")
			}
		})
	}
}

// The controller is killed in mid-write and comes back: the agent keeps asking,
// and fetches again only what was in flight.
func TestWriteOutlivesTheServer(t *testing.T) {
	raw := picture(t)
	b := newBench(t, raw, "sda")
	var cutting atomic.Int64
	b.serve = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") == "" {
			return false
		}
		// The third request is cut off in its middle, then the server is
		// away for a while.
		switch n := cutting.Add(1); {
		case n == 3:
			w.Header().Set("Content-Length", "100000")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write([]byte("half"))
			panic(http.ErrAbortHandler)
		case n > 3 && n < 8:
			panic(http.ErrAbortHandler)
		}
		return false
	}
	result := b.host(nil).Execute(t.Context(), b.task("sda"), quiet)
	if result.Outcome != agent.OutcomeOK || result.Write.Retries == 0 || result.Write.Refetches != 0 {
		t.Fatalf("Execute = %+v %+v; want ok after retries", result.Write, result.Error)
	}
	if !bytes.Equal(b.content("sda")[:len(raw)], raw) {
		t.Error("the disk differs from the raw image")
	}
}

func TestWriteGivesUpWhenNothingArrivesForTooLong(t *testing.T) {
	b := newBench(t, picture(t), "sda")
	b.serve = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") != "" {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	result := b.host(func(c *Config) { c.Patience = 400 * time.Millisecond }).Execute(t.Context(), b.task("sda"), quiet)
	if result.Outcome != agent.OutcomeFailed || result.Error.Code != agent.CodeFetch {
		t.Errorf("Execute = %+v %+v; want it failed for want of bytes", result.Outcome, result.Error)
	}
}

func TestWipeErasesSignaturesOfTheNamedDisksOnly(t *testing.T) {
	for _, full := range []bool{false, true} {
		b := newBench(t, picture(t), "sda", "sdb")
		marked := make([]byte, 16*mib)
		copy(marked[512:], "EFI PART")
		copy(marked[16*mib-512:], "EFI PART")
		marked[1024+0x38], marked[1024+0x39] = 0x53, 0xef
		copy(marked[0x10040:], "_BHRfS_M")
		for _, n := range b.names {
			if err := os.WriteFile(b.path(n), marked, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		wipe := agent.WipeDisk{Disk: agent.DiskRef{Serial: "SDA", Bytes: 16 * mib}}
		task := agent.Task{ID: "wipe", Attempt: 1, Kind: agent.KindWipe, Wipe: &agent.Wipe{Full: full, Disks: []agent.WipeDisk{wipe}}}
		if result := b.host(nil).Execute(t.Context(), task, quiet); result.Outcome != agent.OutcomeRefused || result.Error.Code != agent.CodeSignature {
			t.Errorf("wipe without consent = %+v %+v; want it refused", result.Outcome, result.Error)
		}
		if !bytes.Equal(b.content("sda"), marked) {
			t.Fatal("the refused wipe changed the disk")
		}
		task.Wipe.Disks[0].Consent.Signatures = []string{"btrfs", "ext2", "gpt"}
		if result := b.host(nil).Execute(t.Context(), task, quiet); result.Outcome != agent.OutcomeOK {
			t.Fatalf("wipe = %+v %+v; want ok", result.Outcome, result.Error)
		}
		left := b.content("sda")
		content, err := probe.ReadContent(bytes.NewReader(left), int64(len(left)))
		if err != nil || len(content.Signatures) != 0 {
			t.Errorf("after the wipe the disk carries %v, %v; want nothing", content.Signatures, err)
		}
		if full && !bytes.Equal(left, make([]byte, 16*mib)) {
			t.Error("a full wipe left bytes")
		}
		if !bytes.Equal(b.content("sdb"), marked) {
			t.Error("the other disk was changed")
		}
	}
}

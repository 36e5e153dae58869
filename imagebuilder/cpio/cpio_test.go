package cpio

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

func archive(t testing.TB) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := NewWriter(&buffer, 1700000000)
	for _, err := range []error{
		w.File("init", 0o755, []byte("#!agent")),
		w.File("lib/modules/6.1/a.ko", 0o644, bytes.Repeat([]byte{1}, 4097)),
		w.File("empty", 0o600, nil),
		w.Symlink("sbin", "usr/sbin"),
		w.Directory("proc", 0o555),
		w.Directory("lib", 0o755),
		w.WriteHeader(Header{Name: "dev/console", Mode: ModeCharacter | 0o600, Major: 5, Minor: 1}),
		w.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return buffer.Bytes()
}

func TestReaderGivesWhatWriterWrote(t *testing.T) {
	want := []string{
		"init 100755 7", "lib 40755 0", "lib/modules 40755 0", "lib/modules/6.1 40755 0", "lib/modules/6.1/a.ko 100644 4097",
		"empty 100600 0", "sbin 120777 8", "proc 40555 0", "dev 40755 0", "dev/console 20600 0",
	}
	r := NewReader(bytes.NewReader(archive(t)))
	var got []string
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil || int64(len(content)) != h.Bytes {
			t.Fatalf("content of %s: %d bytes, %v; want %d", h.Name, len(content), err, h.Bytes)
		}
		got = append(got, h.String())
		if h.Name == "dev/console" && (h.Major != 5 || h.Minor != 1) {
			t.Errorf("device numbers of %s = %d:%d; want 5:1", h.Name, h.Major, h.Minor)
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("entries:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestGNUCpioListsTheArchive(t *testing.T) {
	program, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("needs the cpio program")
	}
	command := exec.CommandContext(t.Context(), program, "-tv", "--quiet")
	command.Stdin = bytes.NewReader(archive(t))
	out, err := command.CombinedOutput()
	if err != nil || strings.Count(string(out), "\n") != 10 || !strings.Contains(string(out), "sbin -> usr/sbin") {
		t.Errorf("cpio -t: %v\n%s", err, out)
	}
}

func TestWriterRefusals(t *testing.T) {
	w := NewWriter(io.Discard, 0)
	for _, name := range []string{"", "/init", "../x", "a/../b", "a//b", ".", "TRAILER!!!", "a\x00b", strings.Repeat("x", 5000)} {
		if err := w.File(name, 0o644, nil); err == nil {
			t.Errorf("File(%.20q) succeeded", name)
		}
	}
	if err := w.File("a", 0o644, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.File("a", 0o644, nil); err == nil {
		t.Error("the same name twice succeeded")
	}
	if err := w.WriteHeader(Header{Name: "b", Mode: ModeFile, Bytes: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("abc")); err == nil {
		t.Error("more content than announced succeeded")
	}
	if err := w.File("c", 0o644, nil); err == nil {
		t.Error("an entry after an unfinished one succeeded")
	}
	if err := w.Close(); err == nil {
		t.Error("Close with an unfinished entry succeeded")
	}
}

func TestReaderRefusesTruncationAnywhere(t *testing.T) {
	whole := archive(t)
	end := len(whole) - 124 // the trailer: header, name, padding
	for cut := 0; cut < end; cut += 37 {
		r := NewReader(bytes.NewReader(whole[:cut]))
		var err error
		for err == nil {
			_, err = r.Next()
		}
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("an archive cut at %d of %d bytes was taken for whole", cut, len(whole))
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(archive(f))
	f.Add([]byte(magic + strings.Repeat("F", 104)))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data))
		var total int64
		for {
			h, err := r.Next()
			if err != nil {
				break
			}
			if err := checkName(h.Name); err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, r)
			total += n
			if err != nil {
				break
			}
		}
		if total > int64(len(data)) {
			t.Fatalf("read %d bytes out of %d", total, len(data))
		}
	})
}

package bundle

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestLockIsReadBackAndCompared(t *testing.T) {
	s := newSample(t)
	lock := LockOf(read(t, build(t, s.store, s.spec)).Contents())
	text := lock.Encode()
	again, err := ParseLock(text, "site.lock.hcl")
	if err != nil {
		t.Fatal(err)
	}
	if got := lock.Compare(again); len(got) != 0 || !bytes.Equal(again.Encode(), text) {
		t.Errorf("a lock that was read back differs: %v\n%s", got, text)
	}
	next := Lock{Entries: slices.Clone(lock.Entries)}
	zero := "sha256:" + strings.Repeat("0", 64)
	var want []string
	for i, e := range next.Entries {
		if e.Kind == KindImage {
			next.Entries[i].Digest = zero
			want = append(want, fmt.Sprintf("~ image docker.io/library/app:1 %s -> %s conflict=true", e.Digest, zero))
		}
	}
	next.Entries = append(next.Entries[1:], LockEntry{Kind: KindImage, Name: "zoo", Digest: zero})
	want = append([]string{fmt.Sprintf("- %s %s %s conflict=false", lock.Entries[0].Kind, lock.Entries[0].Name, lock.Entries[0].Digest)}, append(want, "+ image zoo "+zero+" conflict=false")...)
	var got []string
	for _, d := range lock.Compare(next) {
		got = append(got, fmt.Sprintf("%s conflict=%v", d.Text, d.Conflict))
	}
	if !slices.Equal(got, want) {
		t.Errorf("Compare() = %q; want %q", got, want)
	}
}

func TestLockGolden(t *testing.T) {
	lock := Lock{Entries: []LockEntry{
		{Kind: KindFile, Name: "https://github.com/k3s-io/k3s/releases/download/v1.36.3+k3s1/k3s", Digest: "sha256:" + strings.Repeat("1", 64), Bytes: 70, UsedBy: []string{"workflow.platform.step.k3s.cluster"}},
		{Kind: KindImage, Name: "docker.io/calico/node:v3.32.1", Source: "images/node.tar", Digest: "sha256:" + strings.Repeat("2", 64), Bytes: 9},
	}}
	want, err := os.ReadFile("testdata/site.lock.hcl")
	if err != nil {
		t.Fatal(err)
	}
	if got := lock.Encode(); !bytes.Equal(got, want) {
		t.Errorf("Encode() =\n%s\nwant testdata/site.lock.hcl:\n%s", got, want)
	}
}

func FuzzParseLock(f *testing.F) {
	f.Add([]byte("format_version = 1\nartifact \"image\" \"x\" {\n  digest = \"sha256:" + strings.Repeat("0", 64) + "\"\n  bytes = 1\n}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := ParseLock(text, "fuzz.lock.hcl")
		if err != nil {
			return
		}
		again, err := ParseLock(l.Encode(), "again.lock.hcl")
		if err != nil || len(again.Entries) != len(l.Entries) {
			t.Fatalf("a lock of %d entries is read back with %d, %v\n%s", len(l.Entries), len(again.Entries), err, l.Encode())
		}
	})
}

package rack

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDisksAreMadeOnceAndNeverResized(t *testing.T) {
	r := rackOn(t)
	path := r.layout.path("disk.raw")
	d := Disk{Bytes: 64 * mib}
	made, ctx := &harvest{}, context.Background()
	if err := makeDisk(ctx, path, d, made); err != nil {
		t.Fatalf("makeDisk = %v", err)
	}
	write(t, path, "") // it is writable
	if err := makeDisk(ctx, path, d, made); err != nil || len(made.paths) != 2 {
		t.Errorf("makeDisk of one that exists = %v, made %v; want nothing done", err, made.paths)
	}
	d.Bytes *= 2
	if err := makeDisk(ctx, path, d, made); err == nil || !strings.Contains(err.Error(), "the site says") {
		t.Errorf("makeDisk of another size = %v; want it refused", err)
	}
	d.Path = r.layout.path("missing.raw")
	if err := makeDisk(ctx, d.Path, d, made); err == nil {
		t.Errorf("makeDisk of a path that is not there = nil; want an error")
	}
	if err := made.remove(); err != nil {
		t.Errorf("remove = %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after remove: %v; want the disk gone", err)
	}
}

func TestADiskStartsWithItsSource(t *testing.T) {
	dir := t.TempDir()
	source, path := filepath.Join(dir, "old image.raw"), filepath.Join(dir, "disk.raw")
	content := make([]byte, 3*mib+5)
	copy(content[2*mib:], "the third mebibyte")
	content[len(content)-1] = 'x'
	write(t, source, string(content))
	d := Disk{Bytes: 8 * mib, Source: source}
	if err := makeDisk(context.Background(), path, d, &harvest{}); err != nil {
		t.Fatalf("makeDisk = %v", err)
	}
	got, err := os.ReadFile(path)
	want := append(bytes.Clone(content), make([]byte, 8*mib-len(content))...)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the disk has %d bytes, %v; want the source and then zeroes", len(got), err)
	}
	cases := map[string]struct {
		disk Disk
		want string
	}{
		"a source larger than the disk": {Disk{Bytes: mib, Source: source}, "at most the disk's 1048576 bytes"},
		"a source that is not there":    {Disk{Bytes: mib, Source: path + ".none"}, "opening the disk's source"},
		"a source that is a directory":  {Disk{Bytes: mib, Source: dir}, "not a regular file"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			made := &harvest{}
			other := filepath.Join(t.TempDir(), "disk.raw")
			if err := makeDisk(context.Background(), other, c.disk, made); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("makeDisk = %v; want an error with %q", err, c.want)
			}
			if err := made.remove(); err != nil {
				t.Errorf("remove = %v", err)
			}
			if left, err := os.ReadDir(filepath.Dir(other)); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v; want nothing", left, err)
			}
		})
	}
}

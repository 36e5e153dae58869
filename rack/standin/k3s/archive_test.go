package k3s

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// bzipped is "an archive of images" as bzip2 packs it.
const bzipped = "QlpoOTFBWSZTWeFLIU8AAAIRgEAAK+OZACAAIhGahjKEAACgKIKtXnCpjWR8XckU4UJDhSyFPA=="

func TestArchivesAreUnpackedByTheirName(t *testing.T) {
	const plain = "an archive of images"
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(w, plain)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	zstandard := string(e.EncodeAll([]byte(plain), nil))
	bzip, err := base64.StdEncoding.DecodeString(bzipped)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"a.tar": plain, "a.tar.gz": zipped.String(), "a.tgz": zipped.String(), "a.tar.zst": zstandard, "a.tzst": zstandard, "a.tar.bz2": string(bzip), "a.tbz": string(bzip),
	} {
		r, err := unpack("/images/"+name, bytes.NewReader([]byte(content)))
		if err != nil {
			t.Errorf("unpack(%s) = %v; want the archive", name, err)
			continue
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != plain {
			t.Errorf("unpack(%s) gives %q, %v; want %q", name, got, err, plain)
		}
		if err := r.Close(); err != nil {
			t.Errorf("closing %s = %v", name, err)
		}
	}
	for _, name := range []string{"a.tar.lz4", "a.txt", "tar", "a.zst"} {
		if _, err := unpack(name, bytes.NewReader(nil)); err == nil {
			t.Errorf("unpack(%s) succeeds; want it refused", name)
		}
	}
	r, err := unpack("a.tar.zst", bytes.NewReader([]byte(zstandard[:len(zstandard)-4])))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadAll(r); err == nil {
		t.Error("an archive that is cut off is read to its end; want an error")
	}
}

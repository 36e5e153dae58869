package k3s

import (
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// archiveKinds are the endings of archives that K3s imports, and how each is
// packed (docs.k3s.io/installation/airgap). K3s goes by the name, too.
var archiveKinds = []struct{ suffix, kind string }{
	{".tar", "tar"}, {".tar.gz", "gzip"}, {".tgz", "gzip"}, {".tar.zst", "zstd"}, {".tzst", "zstd"}, {".tar.bz2", "bzip2"}, {".tbz", "bzip2"}, {".tar.lz4", "lz4"},
}

// archiveKind is how an archive is packed; "" for a file that is none.
func archiveKind(name string) string {
	for _, a := range archiveKinds {
		if strings.HasSuffix(name, a.suffix) {
			return a.kind
		}
	}
	return ""
}

// unpackedBytes bounds the window that an archive can ask for: that of
// `zstd --long=27`, with which K3s's own archives are packed at most.
const unpackedBytes = 128 << 20

// unpack returns the tar archive in f, which has this name. Closing it leaves f
// open.
func unpack(name string, f io.Reader) (io.ReadCloser, error) {
	switch kind := archiveKind(name); kind {
	case "tar":
		return io.NopCloser(f), nil
	case "gzip":
		return gzip.NewReader(f)
	case "zstd":
		// One more goroutine than one: it is read while it is imported.
		d, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxWindow(unpackedBytes))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case "bzip2":
		return io.NopCloser(bzip2.NewReader(f)), nil
	case "":
		return nil, errors.New("it is no archive of container images")
	default:
		return nil, fmt.Errorf("K3s unpacks %s, and its stand-in does not; pack it as .tar.zst or .tar.gz", kind)
	}
}

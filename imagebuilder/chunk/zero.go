package chunk

import (
	"bytes"
	"crypto/sha256"
)

// zeroBlock is compared against; it must never be written to.
var zeroBlock [64 << 10]byte

func isZero(p []byte) bool {
	for len(p) > len(zeroBlock) {
		if !bytes.Equal(p[:len(zeroBlock)], zeroBlock[:]) {
			return false
		}
		p = p[len(zeroBlock):]
	}
	return bytes.Equal(p, zeroBlock[:len(p)])
}

// zeroDigests remembers the SHA-256 of runs of zero bytes by length. It is not safe for concurrent use.
type zeroDigests map[int64]SHA256

// fullZeroChunk is the SHA-256 of MaxChunkBytes zero bytes. Each reading of a manifest asks for it, and a slow processor
// without SHA instructions takes a sixth of a second to find it.
const fullZeroChunk = "bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8"

func newZeroDigests() zeroDigests {
	var full SHA256
	if err := full.UnmarshalText([]byte(fullZeroChunk)); err != nil {
		return zeroDigests{}
	}
	return zeroDigests{MaxChunkBytes: full}
}

func (z zeroDigests) of(n int64) SHA256 {
	if sum, ok := z[n]; ok {
		return sum
	}
	h := sha256.New()
	for left := n; left > 0; left -= int64(len(zeroBlock)) {
		h.Write(zeroBlock[:min(left, int64(len(zeroBlock)))])
	}
	var sum SHA256
	h.Sum(sum[:0])
	z[n] = sum
	return sum
}

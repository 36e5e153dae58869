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

func newZeroDigests() zeroDigests { return make(zeroDigests) }

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

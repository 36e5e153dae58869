// Package bundle writes and reads bundles: one file with everything that a site
// needs, so that it can be provisioned with no network beyond its own.
//
// A bundle is a tar file of an OCI image layout (image specification 1.1). Its
// index.json names the bundle's own index and, beside it, signatures. The
// bundle's index names a manifest whose configuration is the Contents, the
// container images, and one manifest per operating system image, whose layers
// are the image's chunks. A bundle is named by the digest of that index; the
// signature is over this digest, so everything below it is signed.
//
// A delta is a bundle that leaves out what its base holds. It names the base by
// digest and is of no use without it.
package bundle

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// FormatVersion is the only version of Contents that this package reads and
// writes.
const FormatVersion = 1

// Media types of a bundle's parts.
const (
	TypeBundle    = "application/vnd.edge-provision.bundle.v1"
	TypeContents  = "application/vnd.edge-provision.bundle.contents.v1+json"
	TypeFile      = "application/octet-stream"
	TypeSignature = "application/vnd.edge-provision.bundle.signature.v1"
	TypeSigned    = "application/vnd.edge-provision.bundle.signature.v1+json"
	TypeOSImage   = "application/vnd.edge-provision.image.v1"
	TypeManifest  = "application/vnd.edge-provision.image.manifest.v1+json"
	TypeChunk     = "application/vnd.edge-provision.image.chunk.v1+zstd"
	typeEmpty     = "application/vnd.oci.empty.v1+json"
)

// Kinds of what a bundle holds.
const (
	KindFile      = "file"      // what a step brings to machines, named by its source
	KindDocument  = "document"  // what a step rendered, named by the step's address and a name
	KindInstaller = "installer" // "kernel" and "initramfs"
	KindStack     = "stack"     // a version set, named by it
	KindImage     = "image"     // a container image, named in full
	KindOSImage   = "os-image"  // an operating system image, named by its address
)

// Bounds of what is read from a bundle that nobody has vouched for yet.
const (
	maxIndexBytes     = 4 << 20
	maxContentsBytes  = 64 << 20
	maxSignatureBytes = 64 << 10
	maxSignatures     = 16
	maxItems          = 1 << 16
	maxBlobs          = 1 << 18
)

// Contents says what a bundle holds.
type Contents struct {
	FormatVersion int    `json:"format_version"`
	Site          string `json:"site"`
	// Base is the digest of the bundle that holds what this one leaves out;
	// empty for a whole one.
	Base  string `json:"base,omitempty"`
	Items []Item `json:"items"` // by kind, then name
	Blobs []Blob `json:"blobs"` // by digest
}

// Item is one thing that the site needs.
type Item struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Source says where it came from, without credentials; it is not asked.
	Source string `json:"source,omitempty"`
	// Digest is "sha256:…": of a file's content, of a container image's
	// manifest or index, of an operating system image as it is named.
	Digest string   `json:"digest"`
	Bytes  int64    `json:"bytes"` // of all its blobs
	UsedBy []string `json:"used_by,omitempty"`
	// Spec is the digest of an operating system image's declaration, and of what
	// a document was rendered from.
	Spec string `json:"spec,omitempty"`
	// Blobs are the contents that belong to it, in the order in which a reader
	// wants them, by digest without "sha256:".
	Blobs []string `json:"blobs"`
}

// Blob is one content.
type Blob struct {
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
	// InBase says that the base holds it, and not this bundle.
	InBase bool `json:"in_base,omitempty"`
}

// Find returns an item.
func (c *Contents) Find(kind, name string) (Item, bool) {
	for _, i := range c.Items {
		if i.Kind == kind && i.Name == name {
			return i, true
		}
	}
	return Item{}, false
}

// Of returns the items of a kind.
func (c *Contents) Of(kind string) []Item {
	var out []Item
	for _, i := range c.Items {
		if i.Kind == kind {
			out = append(out, i)
		}
	}
	return out
}

// Bytes is the size of all blobs, those of the base included.
func (c *Contents) Bytes() int64 {
	var n int64
	for _, b := range c.Blobs {
		n += b.Bytes
	}
	return n
}

var kinds = []string{KindDocument, KindFile, KindImage, KindInstaller, KindOSImage, KindStack}

// validate says what is wrong with contents that were read.
func (c *Contents) validate() error {
	switch {
	case c.FormatVersion != FormatVersion:
		return fmt.Errorf("it has format version %d; this program reads version %d: build the bundle again or update edge-provision", c.FormatVersion, FormatVersion)
	case len(c.Items) > maxItems || len(c.Blobs) > maxBlobs:
		return fmt.Errorf("it names %d things with %d contents; want up to %d and %d", len(c.Items), len(c.Blobs), maxItems, maxBlobs)
	case c.Base != "" && !validDigest(c.Base):
		return fmt.Errorf("its base %.80q is no digest", c.Base)
	}
	known := make(map[string]bool, len(c.Blobs))
	for i, b := range c.Blobs {
		switch {
		case !validSHA256(b.SHA256) || b.Bytes < 0:
			return fmt.Errorf("content %.80q of %d bytes is none", b.SHA256, b.Bytes)
		case i > 0 && c.Blobs[i-1].SHA256 >= b.SHA256:
			return fmt.Errorf("content %s is doubled or out of order", b.SHA256)
		case b.InBase && c.Base == "":
			return fmt.Errorf("content %s is left to a base, and none is named", b.SHA256)
		}
		known[b.SHA256] = true
	}
	total := 0
	for i, item := range c.Items {
		if !slices.Contains(kinds, item.Kind) || item.Name == "" || !validDigest(item.Digest) || item.Bytes < 0 {
			return fmt.Errorf("%.40q %.200q is of no known kind or has no name or digest", item.Kind, item.Name)
		}
		if i > 0 && compareItems(c.Items[i-1], item) >= 0 {
			return fmt.Errorf("%s %q is doubled or out of order", item.Kind, item.Name)
		}
		if total += len(item.Blobs); total > maxBlobs || len(item.Blobs) == 0 {
			return fmt.Errorf("%s %q names no content, or all together more than %d", item.Kind, item.Name, maxBlobs)
		}
		for _, b := range item.Blobs {
			if !known[b] {
				return fmt.Errorf("%s %q names content %.80q, which is not listed", item.Kind, item.Name, b)
			}
		}
		// Where the content is the thing, its name must not say otherwise.
		single := item.Kind != KindImage && item.Kind != KindOSImage
		if single && (len(item.Blobs) != 1 || item.Digest != "sha256:"+item.Blobs[0]) {
			return fmt.Errorf("%s %q has another digest than its content", item.Kind, item.Name)
		}
		if item.Kind == KindImage && !slices.Contains(item.Blobs, strings.TrimPrefix(item.Digest, "sha256:")) {
			return fmt.Errorf("image %q lacks its own manifest", item.Name)
		}
	}
	return nil
}

func compareItems(a, b Item) int {
	if c := strings.Compare(a.Kind, b.Kind); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

func validSHA256(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 32 && s == strings.ToLower(s)
}

func validDigest(s string) bool {
	sum, ok := strings.CutPrefix(s, "sha256:")
	return ok && validSHA256(sum)
}

// ErrUntrusted says that no trusted key signed a bundle.
var ErrUntrusted = errors.New("no trusted key signed this bundle")

// ErrIncomplete says that a bundle lacks contents or holds damaged ones.
var ErrIncomplete = errors.New("the bundle is not whole")

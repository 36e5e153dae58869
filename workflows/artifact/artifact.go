// Package artifact keeps the files that a site is made of: K3s, container
// images, charts. Each is named by the SHA-256 of its content, kept once in the
// cache, and handed out only when its bytes are those of its name.
//
// A Store has two ways to a file that it does not have yet. Online it fetches
// the file from where its Ref says, or from a mirror. Offline a bundle answers
// and nothing else: no file, no name server and no address is asked.
package artifact

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/edge-provision/edge-provision/imagebuilder/fetch"
)

// Ref names one file: where it comes from, and what it must be.
type Ref struct {
	// Source is a path, relative to the directory of site.hcl, or a file,
	// http or https URL. It may be empty when the file is known to be in a
	// bundle.
	Source string
	// SHA256 is the digest of the whole file, 64 hexadecimal digits in lower
	// case. It is never empty: a file without a digest cannot be verified.
	SHA256 string
}

// Image names one container image.
type Image struct {
	// Name is the image as pods name it, such as
	// "docker.io/calico/node:v3.32.1". What a runtime leaves out may be left
	// out: "nginx" is "docker.io/library/nginx:latest".
	Name string
	// Digest is "sha256:" and 64 hexadecimal digits of the image's manifest or
	// index. It may be empty where a lock file or a bundle knows it.
	Digest string
	// Source is empty for the registry in Name; else the path of a local copy,
	// relative to the directory of site.hcl: an OCI image layout (a directory
	// or a tar file of one) or an archive that `docker save` wrote.
	Source string
}

// Needs is what a step brings to its machines.
type Needs struct {
	Files  []Ref
	Images []Image
	// Documents are what the step renders from its declaration, such as
	// Kubernetes manifests. They go into a bundle for a reader and for the
	// comparison on site; the step renders them again there.
	Documents []Document
}

// Document is one rendered text.
type Document struct {
	Name    string // a file name, unique within the step
	Content []byte
	// Spec is the digest of all that the text was rendered from: texts of one
	// spec are equal. It may be empty.
	Spec string
}

// validate says what makes a reference unusable.
func (r Ref) validate() error {
	if !validHex(r.SHA256) {
		return fmt.Errorf("%s: SHA-256 %.80q is not 64 lower-case hexadecimal digits: a file is used only when its digest is known", r.where(), r.SHA256)
	}
	if scheme, _, ok := strings.Cut(r.Source, "://"); ok && scheme != "http" && scheme != "https" && scheme != "file" {
		return fmt.Errorf("%s: it is neither a path nor a file, http or https URL", r.where())
	}
	return nil
}

// where names the source in messages, without a password.
func (r Ref) where() string {
	if r.Source == "" {
		return "file " + r.SHA256
	}
	return Redact(r.Source)
}

// remote reports whether the source is fetched over a network.
func (r Ref) remote() bool {
	return strings.HasPrefix(r.Source, "http://") || strings.HasPrefix(r.Source, "https://")
}

func validHex(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 32 && s == strings.ToLower(s)
}

// cutDigest is the hexadecimal part of "sha256:HEX".
func cutDigest(digest string) (string, error) {
	sum, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || !validHex(sum) {
		return "", fmt.Errorf("digest %.90q is not \"sha256:\" and 64 lower-case hexadecimal digits", digest)
	}
	return sum, nil
}

// Redact removes from a source what lets somebody in.
func Redact(source string) string { return fetch.Redact(source) }

// ErrNotInBundle says that a store that works offline was asked for what its
// bundle does not hold.
var ErrNotInBundle = errors.New("it is not in the bundle, and nothing else may be asked")

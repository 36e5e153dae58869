// Package artifact keeps the files that a site is made of: K3s, container
// images, manifests. Each is named by the SHA-256 of its content, kept once, and
// handed out only when its bytes are those of its name.
package artifact

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

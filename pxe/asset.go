package pxe

// AssetKind is the "asset" attribute of HTTP events.
type AssetKind string

// Kinds of assets.
const (
	AssetScript    AssetKind = "script"
	AssetKernel    AssetKind = "kernel"
	AssetInitramfs AssetKind = "initramfs"
	AssetBootFile  AssetKind = "bootfile"
	AssetImage     AssetKind = "image"
)

// Asset is one file that the HTTP server gives to whoever asks for its name.
// There is no way from a request to any other file.
type Asset struct {
	// Name is the last part of the URL's path: letters, digits, '.', '_',
	// '-' and '+', at most 255 bytes, not beginning with '.'.
	Name string
	Kind AssetKind
	// Path is the file; it is opened at each request. Content is used
	// instead when it is not nil.
	Path    string
	Content []byte
	// Size is the file's length in bytes. A file whose length differs when it is
	// opened is refused, at Register and at each request.
	Size int64
	// SHA256 is the lower-case hexadecimal digest that the caller has
	// verified; it becomes the ETag. Optional.
	SHA256 string
}

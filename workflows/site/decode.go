package site

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/dynblock"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/query"
)

// shape is what a body of a fixed form may hold.
type shape struct {
	attributes []string
	required   []string
	blocks     map[string]int // label count by type
	single     []string       // blocks that may come once
}

// decoder reads one body. Every method reports what is wrong and gives the zero
// value then, so that a decode function reads like the block it decodes and all
// errors of a body are found at once.
type decoder struct {
	e       *evaluator
	ctx     *hcl.EvalContext
	decl    Decl
	content *hcl.BodyContent
	scope   scope
}

// open prepares the decoding of a block of the site with its instances.
func (e *evaluator) open(block *hclsyntax.Block, sc scope, s shape) *decoder {
	skip := map[string]bool{queryAttributes[block.Type]: true, "for_each": true, "count": true}
	ctx := e.context(bodyTraversals(block.Body, skip), sc)
	return e.decoder(block.DefRange(), dynblock.Expand(block.Body, ctx), ctx, sc, s, "for_each", "count")
}

// nested prepares the decoding of a block inside.
func (d *decoder) nested(block *hcl.Block, s shape) *decoder {
	return d.e.decoder(block.DefRange, block.Body, d.ctx, d.scope, s)
}

func (e *evaluator) decoder(header hcl.Range, body hcl.Body, ctx *hcl.EvalContext, sc scope, s shape, meta ...string) *decoder {
	schema := &hcl.BodySchema{}
	for _, name := range s.required {
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: name, Required: true})
	}
	for _, name := range append(meta, s.attributes...) {
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: name})
	}
	for typ, labels := range s.blocks {
		header := hcl.BlockHeaderSchema{Type: typ}
		for range labels {
			header.LabelNames = append(header.LabelNames, "name")
		}
		schema.Blocks = append(schema.Blocks, header)
	}
	content, diags := body.Content(schema)
	e.add(improve(diags))
	d := &decoder{e: e, ctx: ctx, content: content, scope: sc, decl: Decl{DeclRange: header, Ranges: make(map[string]hcl.Range)}}
	for name, attr := range content.Attributes {
		d.decl.Ranges[name] = attr.Expr.Range()
	}
	for _, typ := range s.single {
		if found := content.Blocks.OfType(typ); len(found) > 1 {
			e.add(failure("Duplicate block", found[1].DefRange.Ptr(), "A block of type %q comes once, and the first is at %s.", typ, found[0].DefRange))
		}
	}
	return d
}

// queryAttributes are evaluated by the query language, per block type.
var queryAttributes = map[string]string{"require": "condition", "root_disk": "match", kindMachine: "match", kindClass: "match"}

// nameAttributes are names of other blocks, which are not evaluated, per block
// type.
var nameAttributes = map[string][]string{"react": {"provision", "workflow"}}

// bodyTraversals lists what the expressions of a body refer to, without those
// of skip, of the query language and of for_each on the outermost level.
func bodyTraversals(body *hclsyntax.Body, skip map[string]bool) []hcl.Traversal {
	var out []hcl.Traversal
	for _, attr := range sortedAttributes(body) {
		if !skip[attr.Name] {
			out = append(out, hclsyntax.Variables(attr.Expr)...)
		}
	}
	for _, block := range body.Blocks {
		typ := block.Type
		inner := block.Body
		iterator := ""
		if typ == "dynamic" && len(block.Labels) == 1 {
			iterator = block.Labels[0]
			if attr := block.Body.Attributes["iterator"]; attr != nil {
				iterator = hcl.ExprAsKeyword(attr.Expr)
			}
		}
		skipped := map[string]bool{queryAttributes[typ]: true, "iterator": typ == "dynamic"}
		for _, name := range nameAttributes[typ] {
			skipped[name] = true
		}
		for _, traversal := range bodyTraversals(inner, skipped) {
			if root := traversal.RootName(); iterator == "" || root != iterator {
				out = append(out, traversal)
			}
		}
	}
	return out
}

// value evaluates an attribute that must be known from declarations. It gives
// null when the attribute is not written or null, and false on errors.
func (d *decoder) value(name string, t cty.Type) (cty.Value, bool) {
	v, marks, ok := d.marked(name, t)
	if !ok {
		return cty.NullVal(t), false
	}
	if _, sensitive := marks[Sensitive]; sensitive {
		d.fail(name, "Sensitive value not allowed here", "%q is shown in plans, logs and the catalog, so its value must not be sensitive. nonsensitive() takes the mark off where that is right.", name)
		return cty.NullVal(t), false
	}
	return v, true
}

// marked is value for what may be sensitive.
func (d *decoder) marked(name string, t cty.Type) (cty.Value, cty.ValueMarks, bool) {
	attr := d.content.Attributes[name]
	if attr == nil {
		return cty.NullVal(t), nil, true
	}
	v, diags := attr.Expr.Value(d.ctx)
	d.e.add(improve(diags))
	if diags.HasErrors() {
		return cty.NullVal(t), nil, false
	}
	v, marks := v.UnmarkDeep()
	if !v.IsWhollyKnown() {
		if len(onlyAfter(marks)) > 0 {
			d.fail(name, "Value must be known", "%q must be known from declarations alone, and this is %s.", name, afterText(marks))
		}
		return cty.NullVal(t), nil, false
	}
	v, err := convert.Convert(v, t)
	if err != nil {
		d.fail(name, "Wrong type", "%q does not have the right type: %s.", name, err)
		return cty.NullVal(t), nil, false
	}
	return v, marks, true
}

// fail reports an error at an attribute, or at the block when it is not there.
func (d *decoder) fail(name, summary, detail string, args ...any) {
	rng := d.decl.Range(name)
	d.e.add(failure(summary, &rng, detail, args...))
}

// has reports whether an attribute is written.
func (d *decoder) has(name string) bool { return d.content.Attributes[name] != nil }

// text reads a string.
func (d *decoder) text(name, otherwise string) string {
	v, ok := d.value(name, cty.String)
	if !ok || v.IsNull() {
		return otherwise
	}
	return v.AsString()
}

// path reads the path of a file, or a URL. A relative path is meant from the
// directory of the module that says it, and comes out as from the site's.
func (d *decoder) path(name string) string {
	s := d.text(name, "")
	if s == "" || d.e.m.call == nil || filepath.IsAbs(s) || strings.Contains(s, "://") {
		return s
	}
	below, err := filepath.Rel(d.e.m.tree.all[0].dir, d.e.m.dir)
	if err != nil {
		return filepath.Join(d.e.m.dir, s)
	}
	return filepath.Join(below, s)
}

// choice reads one of several words.
func (d *decoder) choice(name, otherwise string, words ...string) string {
	s := d.text(name, otherwise)
	for _, w := range words {
		if s == w {
			return s
		}
	}
	if s == otherwise {
		return s
	}
	hint := suggest(s, words)
	if hint == "" {
		hint = " It is one of " + listNames(words) + "."
	}
	d.fail(name, "Unknown choice", "%q is not a value of %q.%s", clip(s), name, hint)
	return otherwise
}

// flag reads a bool.
func (d *decoder) flag(name string) bool {
	v, ok := d.value(name, cty.Bool)
	return ok && !v.IsNull() && v.True()
}

// integer reads a whole number within bounds.
func (d *decoder) integer(name string, otherwise, low, high int64) int64 {
	v, ok := d.value(name, cty.Number)
	if !ok || v.IsNull() {
		return otherwise
	}
	n, accuracy := v.AsBigFloat().Int64()
	if accuracy != 0 || n < low || n > high {
		d.fail(name, "Number out of range", "%q is a whole number from %d to %d.", name, low, high)
		return otherwise
	}
	return n
}

// size reads a number of bytes.
func (d *decoder) size(name string, otherwise, low int64) int64 {
	const most = 1 << 50
	v, ok := d.value(name, cty.Number)
	if !ok || v.IsNull() {
		return otherwise
	}
	n, accuracy := v.AsBigFloat().Int64()
	if accuracy != 0 || n < low || n > most {
		d.fail(name, "Number out of range", "%q is a whole number of bytes from %d to %d (1 PiB). Write sizes with a unit: GiB(8).", name, low, int64(most))
		return otherwise
	}
	return n
}

// duration reads a span such as "90s", "30m", "1h30m" or "7d".
func (d *decoder) duration(name string, otherwise, low, high time.Duration) time.Duration {
	s := d.text(name, "")
	if s == "" {
		if d.has(name) {
			if v, ok := d.value(name, cty.String); ok && !v.IsNull() {
				d.fail(name, "Invalid duration", "%q is empty. A duration is a number with a unit: \"90s\", \"30m\", \"7d\".", name)
			}
		}
		return otherwise
	}
	span, err := ParseDuration(s)
	switch {
	case err != nil:
		d.fail(name, "Invalid duration", "%q: %v.", name, err)
	case span < low || span > high:
		d.fail(name, "Duration out of range", "%q is %s; it must be from %s to %s.", name, s, low, high)
	default:
		return span
	}
	return otherwise
}

// texts reads a list of strings; order is kept, a null element is refused.
func (d *decoder) texts(name string) []string {
	v, ok := d.value(name, cty.List(cty.String))
	if !ok || v.IsNull() {
		return nil
	}
	var out []string
	for _, elem := range v.AsValueSlice() {
		if elem.IsNull() {
			d.fail(name, "Wrong type", "%q has a null element.", name)
			return nil
		}
		out = append(out, elem.AsString())
	}
	return out
}

// labels reads a map of strings.
func (d *decoder) labels(name string) map[string]string {
	v, ok := d.value(name, cty.Map(cty.String))
	if !ok || v.IsNull() {
		return nil
	}
	out := make(map[string]string)
	for key, elem := range v.AsValueMap() {
		if elem.IsNull() {
			d.fail(name, "Wrong type", "%q has a null element.", name)
			continue
		}
		out[key] = elem.AsString()
	}
	return out
}

// address reads an IPv4 address.
func (d *decoder) address(name string) netip.Addr {
	s := d.text(name, "")
	if s == "" {
		return netip.Addr{}
	}
	return d.parseAddress(name, s)
}

func (d *decoder) parseAddress(name, s string) netip.Addr {
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		if prefix, err := netip.ParsePrefix(s); err == nil {
			d.fail(name, "Invalid address", "%q is an address without a prefix length: write %q.", name, prefix.Addr())
		} else {
			d.fail(name, "Invalid address", "%q is not an IPv4 address such as 172.22.0.11.", clip(s))
		}
	case !addr.Is4():
		d.fail(name, "IPv6 not supported", "%q is an IPv6 address. This version provisions over IPv4 only.", clip(s))
	case addr.IsUnspecified(), addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		d.fail(name, "Invalid address", "%s does not name one host.", addr)
	default:
		return addr
	}
	return netip.Addr{}
}

// addresses reads a list of IPv4 addresses.
func (d *decoder) addresses(name string) []netip.Addr {
	var out []netip.Addr
	for _, s := range d.texts(name) {
		if addr := d.parseAddress(name, s); addr.IsValid() {
			out = append(out, addr)
		}
	}
	return out
}

// mac reads a MAC.
func (d *decoder) mac(name string) inventory.MAC {
	s := d.text(name, "")
	if s == "" {
		return inventory.MAC{}
	}
	mac, err := inventory.ParseMAC(s)
	if err != nil {
		d.fail(name, "Invalid MAC address", "%v.", err)
	}
	return mac
}

// query compiles an attribute of the query language.
func (d *decoder) query(name string, root query.Root) *query.Expr {
	attr := d.content.Attributes[name]
	if attr == nil {
		return nil
	}
	sc := d.scope
	sc.query = true
	ctx := d.e.context(attr.Expr.Variables(), sc)
	for _, traversal := range attr.Expr.Variables() {
		if v, diags := traversal.TraverseAbs(ctx); !diags.HasErrors() && !v.IsKnown() && len(onlyAfter(v.Marks())) == 0 {
			return nil // what it refers to has failed, and that was reported
		}
	}
	expr, diags := query.Compile(attr.Expr, ctx, root)
	d.e.add(improve(diags))
	if diags.HasErrors() {
		return nil
	}
	if expr.NeedsCatalog() {
		d.fail(name, "Unsupported in a site", "changed(…), older(…) and machine.leases ask the catalog, and what they answer changes by itself; a site is decided by what is declared and by the facts of a machine.")
		return nil
	}
	return expr
}

// reference reads an attribute that is another block, such as network.edge.
func (d *decoder) reference(name, kind string) any {
	attr := d.content.Attributes[name]
	if attr == nil {
		return nil
	}
	v, diags := attr.Expr.Value(d.ctx)
	d.e.add(improve(diags))
	if diags.HasErrors() {
		return nil
	}
	v, _ = v.Unmark()
	if v.IsNull() || v.Type() == cty.DynamicPseudoType && !v.IsKnown() {
		return nil
	}
	if id, ok := idOf(v); ok {
		if found, ok := d.e.byID[id]; ok && v.GetAttr("kind").RawEquals(cty.StringVal(kind)) {
			return found
		}
	}
	hint := ""
	switch bare, _ := v.UnmarkDeep(); {
	case bare.Type() == cty.String && bare.IsKnown():
		hint = fmt.Sprintf(" Write %s.%s without quotes.", kind, clip(bare.AsString()))
	case bare.Type().IsObjectType() && len(bare.Type().AttributeTypes()) > 0, bare.Type().IsTupleType():
		hint = fmt.Sprintf(" If it has for_each or count, choose one instance: %s.NAME[\"KEY\"].", kind)
	}
	d.fail(name, "Wrong type", "%q is a reference to one %s, such as %s.NAME.%s", name, kind, kind, hint)
	return nil
}

package site

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// A module is a directory of *.hcl files that a site, or another module, calls
// by a module block. Each instance of the block is a module of its own: it sees
// its own variables, locals and blocks only, gets values by its arguments, and
// gives values by its outputs. Arguments and outputs are evaluated one by one on
// demand, so that an output of a module may lead to an argument of the same.

// Bounds of modules. Each instance of a module costs what its text costs.
const (
	maxModuleDepth = 8
	maxModules     = 1024     // instances of all module blocks of a site
	maxModuleBytes = 32 << 20 // of their texts, each instance counted
)

// tree is what a site and its modules share: what was read, and the bounds.
type tree struct {
	files  map[string]*hcl.File
	parsed map[string]*parsed // by directory, links resolved
	all    []*module          // the site first, then modules in the order of their calls
	bytes  int                // of all instances of modules
	read   int                // bytes of all modules that were read
	count  int                // files of all modules that were read
}

// parsed is the text of a site or a module.
type parsed struct {
	bodies   []*hclsyntax.Body
	bytes    int
	diags    hcl.Diagnostics
	defaults map[*hclsyntax.Attribute]given // of variables, which are the same for each instance
}

// moduleCall is one module block.
type moduleCall struct {
	name      string
	block     *hclsyntax.Block
	source    string
	failed    bool // nothing is known of what it calls
	each      []eachValue
	instances []*module
}

// moduleMeta are the attributes of a module block that are no arguments.
var moduleMeta = map[string]bool{"source": true, "for_each": true, "count": true, "depends_on": true}

// sortModule files a module block. One that is wrong is filed too, so that what
// refers to it is not wrong as well.
func (m *module) sortModule(block *hclsyntax.Block) hcl.Diagnostics {
	c := &moduleCall{name: block.Labels[0], block: block}
	if old := m.callOf(c.name); old != nil {
		return duplicate(block, "module", old.block.DefRange())
	}
	m.calls = append(m.calls, c)
	var diags hcl.Diagnostics
	for _, b := range block.Body.Blocks {
		diags = append(diags, failure("Unsupported block type", b.TypeRange.Ptr(), "A module block has only attributes. To give %q an object, write %s = { … }.", b.Type, b.Type)...)
	}
	attr := block.Body.Attributes["source"]
	if attr == nil {
		c.failed = true
		return append(diags, failure("Missing required argument", block.DefRange().Ptr(), "A module block names the directory of the module: source = \"./PATH\".")...)
	}
	v, more := attr.Expr.Value(nil)
	if more.HasErrors() || v.Type() != cty.String || v.IsNull() || !v.IsKnown() {
		c.failed = true
		return append(diags, failure("Invalid module source", attr.Expr.Range().Ptr(), "The source of a module is a text without references, such as \"./shop\", because it is read before anything is evaluated.")...)
	}
	c.source = v.AsString()
	if !strings.HasPrefix(c.source, "./") && !strings.HasPrefix(c.source, "../") || strings.ContainsRune(c.source, 0) {
		c.failed = true
		return append(diags, failure("Invalid module source", attr.Expr.Range().Ptr(),
			"%q is not a local path. A module is a directory, named from the directory of the file that calls it, and the name starts with \"./\" or \"../\". Nothing is downloaded.", clip(c.source))...)
	}
	return diags
}

func (m *module) callOf(name string) *moduleCall {
	for _, c := range m.calls {
		if c.name == name {
			return c
		}
	}
	return nil
}

// load reads the module that a call names, once for all calls.
func (t *tree) load(m *module, c *moduleCall) (dir string, p *parsed, diags hcl.Diagnostics) {
	at := c.block.Body.Attributes["source"].Expr.Range()
	dir = filepath.Join(m.dir, c.source)
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	var info os.FileInfo
	if err == nil {
		info, err = os.Stat(real)
	}
	switch {
	case err != nil:
		return dir, nil, failure("Unreadable module", &at, "The module of module.%s: %s.", c.name, unreadable(dir, err)[0].Detail)
	case !info.IsDir():
		return dir, nil, failure("Unreadable module", &at, "%s is a file. A module is a directory, all of whose *.hcl files belong to it.", dir)
	}
	depth := 0
	for above := m; above != nil; above = above.parent {
		if above.real() == real {
			return dir, nil, failure("Module calls itself", &at, "module.%s leads back to %s, from where it is called%s.", c.name, dir, m.throughText())
		}
		depth++
	}
	if depth > maxModuleDepth {
		return dir, nil, failure("Modules nested too deeply", &at, "Modules call each other more than %d levels deep here%s.", maxModuleDepth, m.throughText())
	}
	if p := t.parsed[real]; p != nil {
		return dir, p, nil
	}
	sources, _, diags := readSources(dir)
	for i := range diags {
		if diags[i].Subject == nil {
			diags[i].Subject = &at
		}
	}
	p = &parsed{diags: diags}
	if !diags.HasErrors() {
		p = t.parse(sources)
	}
	t.parsed[real] = p
	t.count += len(sources)
	if t.read += p.bytes; t.read > maxSiteBytes || t.count > maxFiles {
		return dir, nil, failure("Site too large", &at, "The modules of the site have more than %d MiB or %d files together.", maxSiteBytes>>20, maxFiles)
	}
	return dir, p, nil
}

// real is the module's directory, links resolved; of the site itself too,
// because a module beside it would be the site.
func (m *module) real() string {
	real, err := filepath.EvalSymlinks(m.dir)
	if err != nil {
		return m.dir
	}
	if abs, err := filepath.Abs(real); err == nil {
		return abs
	}
	return real
}

// throughText says through which modules a call came.
func (m *module) throughText() string {
	if m.path == "" {
		return ""
	}
	return ", through " + strings.TrimSuffix(m.path, ".")
}

// moduleInstances makes the instances of a module block the first time.
func (e *evaluator) moduleInstances(c *moduleCall, rng hcl.Range) bool {
	if e.runtime || c.failed {
		return !c.failed
	}
	v := e.node("the instances of "+e.m.path+"module."+c.name, rng, func() cty.Value {
		c.failed = !e.makeModules(c)
		return cty.BoolVal(!c.failed)
	})
	return v.IsKnown() && v.True() && !c.failed
}

// makeModules makes the instances of a module block, with their blocks sorted.
func (e *evaluator) makeModules(c *moduleCall) bool {
	each, ok := e.expand(c.block, scope{})
	if !ok {
		return false
	}
	t := e.m.tree
	dir, p, diags := t.load(e.m, c)
	if e.add(diags); p == nil {
		return false
	}
	for _, one := range each {
		if t.bytes += p.bytes; t.bytes > maxModuleBytes || len(t.all) > maxModules {
			e.add(failure("Too many modules", c.block.DefRange().Ptr(), "The instances of the site's modules are more than %d, or have more than %d MiB of text together.", maxModules, maxModuleBytes>>20))
			return false
		}
		m := newModule(t, dir, e.m.opts)
		m.parent, m.call, m.each = e.m, c, one
		m.path = e.m.path + instanceAddress("module."+c.name, one) + "."
		t.all = append(t.all, m)
		diags := m.sort(p)
		diags = append(diags, m.setArguments(p)...)
		e.add(diags)
		if len(m.variables) == 0 && p.diags.HasErrors() {
			return false
		}
		c.each = append(c.each, one)
		c.instances = append(c.instances, m)
	}
	return true
}

// setArguments compares the arguments of the call with the variables of the
// module, and gives their defaults to those that have no argument.
func (m *module) setArguments(p *parsed) hcl.Diagnostics {
	var diags hcl.Diagnostics
	if p.defaults == nil {
		p.defaults = make(map[*hclsyntax.Attribute]given)
	}
	for _, attr := range sortedAttributes(m.call.block.Body) {
		if !moduleMeta[attr.Name] && m.variables[attr.Name] == nil {
			diags = append(diags, failure("Unsupported argument", attr.NameRange.Ptr(), "The module %s declares no variable %q.%s", m.call.source, attr.Name, offer(attr.Name, m.variableNames()))...)
		}
	}
	for name, v := range m.variables {
		v.value = cty.UnknownVal(v.typ)
		if moduleMeta[name] {
			diags = append(diags, failure("Reserved name", v.block.DefRange().Ptr(), "A variable of a module cannot be called %q, because a module block has a meaning of its own for that name.", name)...)
			continue
		}
		if m.call.block.Body.Attributes[name] != nil {
			continue // evaluated when it is needed
		}
		attr := v.block.Body.Attributes["default"]
		if attr == nil {
			diags = append(diags, failure("Missing required argument", m.call.block.DefRange().Ptr(), "The module %s needs %q: its variable at %s has no default.", m.call.source, name, v.block.DefRange())...)
			continue
		}
		g, done := p.defaults[attr]
		if !done {
			var more hcl.Diagnostics
			if g, more = v.defaultValue(); more.HasErrors() {
				diags, g.value = append(diags, more...), cty.UnknownVal(v.typ)
			}
			p.defaults[attr] = g
		}
		val, more := v.take(g)
		diags = append(diags, more...)
		v.value = val
	}
	return diags
}

// variable is the value of a variable: of a module that of the argument, which
// is evaluated where the module is called.
func (e *evaluator) variable(v *variable, rng hcl.Range) cty.Value {
	if e.m.call == nil || moduleMeta[v.name] {
		return v.value
	}
	attr := e.m.call.block.Body.Attributes[v.name]
	if attr == nil {
		return v.value
	}
	address := e.m.path + "var." + v.name
	return e.node(address, rng, func() cty.Value {
		parent := e.of(e.m.parent)
		each := parent.current(strings.TrimSuffix(e.m.path, "."), e.m.call.block, scope{}, e.m.each)
		val := parent.bounded(address, attr.Expr, scope{each: each})
		val, diags := v.take(given{value: val, from: "the argument", rng: attr.Expr.Range().Ptr()})
		e.add(diags)
		return val
	})
}

// output is the value of an output of a module, evaluated inside it.
func (e *evaluator) output(block *hclsyntax.Block, rng hcl.Range) cty.Value {
	address := e.m.path + "output." + block.Labels[0]
	return e.node(address, rng, func() cty.Value {
		attr := block.Body.Attributes["value"]
		if attr == nil {
			e.add(failure("Missing required argument", block.DefRange().Ptr(), "An output has a value."))
			return cty.DynamicVal
		}
		v := e.bounded(address, attr.Expr, scope{})
		if sensitive := block.Body.Attributes["sensitive"]; sensitive != nil {
			flag, diags := sensitive.Expr.Value(e.context(sensitive.Expr.Variables(), scope{}))
			if flag, _ = flag.Unmark(); !diags.HasErrors() && flag.RawEquals(cty.True) {
				v = v.Mark(Sensitive)
			}
		}
		return v
	})
}

func (m *module) outputOf(name string) *hclsyntax.Block {
	for _, o := range m.outputs {
		if o.Labels[0] == name {
			return o
		}
	}
	return nil
}

// moduleView is what an expression sees of one module block: only the outputs
// that it refers to, as far as the reference says which.
type moduleView struct {
	call    *moduleCall
	outputs map[string]cty.Value // by instance and output: see key
	unknown bool
}

// key names an output of an instance within a view.
func (v *moduleView) key(i int, output string) string {
	return instanceAddress("", v.call.each[i]) + "." + output
}

// address is what the view's values are measured by.
func (v *moduleView) address(m *module) string { return m.path + "module." + v.call.name }

// value is what module.NAME refers to.
func (v *moduleView) value() cty.Value {
	if v.unknown {
		return cty.DynamicVal
	}
	values := make([]cty.Value, len(v.call.each))
	for i := range v.call.each {
		attrs := make(map[string]cty.Value)
		prefix := v.key(i, "")
		for key, val := range v.outputs {
			if name, ok := strings.CutPrefix(key, prefix); ok {
				attrs[name] = val
			}
		}
		values[i] = cty.ObjectVal(attrs)
	}
	return gather(v.call.each, values)
}

// moduleViews adds what module.NAME.OUTPUT, or module.NAME["KEY"].OUTPUT, refers
// to, and gives the views that the traversal touches. A shorter traversal
// refers to all outputs below it.
func (e *evaluator) moduleViews(traversal hcl.Traversal, views map[string]*moduleView) []*moduleView {
	name, rng, single := secondStep(traversal)
	var calls []*moduleCall
	switch c := e.m.callOf(name); {
	case !single:
		calls = e.m.calls
	case c != nil:
		calls = []*moduleCall{c}
	default:
		if !e.m.leftOut("module", name) {
			e.add(failure("Unknown reference", &rng, "There is no module %q.%s", clip(name), offer(name, e.names("module"))))
		}
		views[name] = &moduleView{unknown: true, call: &moduleCall{name: name}}
		return nil
	}
	var out []*moduleView
	for _, c := range calls {
		view := views[c.name]
		if view == nil {
			view = &moduleView{call: c, outputs: make(map[string]cty.Value)}
			views[c.name] = view
		}
		if !e.moduleInstances(c, rng) {
			view.unknown = true
			continue
		}
		out = append(out, view)
		output, all := namedOutput(c, traversal)
		for i, m := range c.instances {
			if all {
				for _, o := range m.outputs {
					view.outputs[view.key(i, o.Labels[0])] = e.of(m).output(o, rng)
				}
				continue
			}
			view.outputs[view.key(i, output)] = e.moduleOutput(c, m, output, rng)
		}
	}
	return out
}

// moduleOutput is the value of one output, or a complaint.
func (e *evaluator) moduleOutput(c *moduleCall, m *module, name string, rng hcl.Range) cty.Value {
	if o := m.outputOf(name); o != nil {
		return e.of(m).output(o, rng)
	}
	if !m.leftOut("output", name) {
		var names []string
		for _, o := range m.outputs {
			names = append(names, o.Labels[0])
		}
		e.add(failure("Unknown reference", &rng, "module.%s has no output %q.%s", c.name, clip(name), offer(name, names)))
	}
	return cty.DynamicVal
}

// namedOutput is the output that a traversal names, or all.
func namedOutput(c *moduleCall, traversal hcl.Traversal) (name string, all bool) {
	at := 2
	if c.block.Body.Attributes["for_each"] != nil || c.block.Body.Attributes["count"] != nil {
		at = 3
	}
	if len(traversal) <= at {
		return "", true
	}
	name, ok := stepName(traversal[at])
	return name, !ok
}

// decode decodes all blocks of a module, and then of those that it calls.
func (e *evaluator) decode() {
	if e.m.call != nil {
		e.add(e.m.validateVariables(func(v *variable) cty.Value { return e.variable(v, v.block.DefRange()) }))
	}
	for _, t := range e.m.order {
		e.thing(t, t.block.DefRange())
	}
	for _, w := range e.m.workflows {
		e.decodeWorkflow(w)
	}
	for _, name := range e.names("local") {
		e.local(e.m.locals[name], e.m.locals[name].NameRange)
	}
	for _, block := range e.m.outputs {
		o := e.decodeOutput(block)
		if e.m.call == nil {
			e.built.Outputs = append(e.built.Outputs, o)
		}
	}
	for _, block := range e.m.moved {
		e.built.Moved = append(e.built.Moved, e.decodeMoved(block))
	}
	for _, c := range e.m.calls {
		if !e.moduleInstances(c, c.block.DefRange()) {
			e.look(c.block.Body, scope{}, moduleMeta)
			continue
		}
		for _, m := range c.instances {
			e.of(m).decode()
		}
	}
}

package site

import (
	"fmt"
	"regexp"
	"sort"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// module is a parsed site, or one instance of a module that it calls: blocks
// sorted by kind and name. After Load it is never changed again, so that steps
// can be evaluated from many goroutines.
type module struct {
	tree      *tree
	opts      Options
	dir       string
	files     map[string]*hcl.File
	path      string // module.M["k"]. and so on; empty for the site itself
	parent    *module
	call      *moduleCall // in parent; nil for the site itself
	each      eachValue   // of this instance of the call
	calls     []*moduleCall
	functions map[string]function.Function
	variables map[string]*variable
	locals    map[string]*hclsyntax.Attribute
	site      *hclsyntax.Block
	users     []*hclsyntax.Block
	things    map[string]map[string]*thing // by kind and name
	order     []*thing                     // in file order
	workflows []*workflowBlock
	outputs   []*hclsyntax.Block
	moved     []*hclsyntax.Block
	classes   map[string]*classBlock
	// classOrder are the names of classes in file order.
	classOrder []string
	version    *hclsyntax.Attribute
	edges      []Edge
	broken     map[string]bool      // kind.name, or kind.*, of blocks that were wrong and left out
	settled    map[string]cty.Value // values that cannot change after Load
}

// leaveOut remembers that a block is there and wrong, so that nobody complains
// about references to it. A name that cannot be told is "*".
func (m *module) leaveOut(kind, name string) { m.broken[kind+"."+name] = true }

// leftOut reports whether a reference may be to a block that was left out.
func (m *module) leftOut(kind, name string) bool {
	return m.broken[kind+"."+name] || m.broken[kind+".*"]
}

// Kinds of blocks that have instances and can be referred to.
const (
	kindNetwork = "network"
	kindImage   = "image"
	kindMachine = "machine"
	kindStep    = "step"
)

// thing is one network, image or machine block.
type thing struct {
	path       string // of its module
	kind, name string
	block      *hclsyntax.Block
	each       []eachValue
	machines   []*Machine // of a machine block, beside each
}

func (t *thing) address() string { return t.path + t.kind + "." + t.name }

// workflowBlock is one workflow block with its steps.
type workflowBlock struct {
	name  string
	block *hclsyntax.Block
	steps []*stepBlock
}

func (w *workflowBlock) step(typ, name string) *stepBlock {
	for _, s := range w.steps {
		if s.typ == typ && s.name == name {
			return s
		}
	}
	return nil
}

// stepBlock is one step block; its instances share it.
type stepBlock struct {
	module              *module
	workflow, typ, name string
	block               *hclsyntax.Block
	spec                StepType
	broken              bool // there is no such type
	each                []eachValue
}

func (s *stepBlock) address() string {
	return s.module.path + "workflow." + s.workflow + ".step." + s.typ + "." + s.name
}

// local names the step within its workflow, for people.
func (s *stepBlock) local() string { return s.module.path + "step." + s.typ + "." + s.name }

// topLevel gives the label names of each block that a site may have.
var topLevel = map[string][]string{
	"site":     {"name"},
	"variable": {"name"},
	"locals":   nil,
	"output":   {"name"},
	"network":  {"name"},
	"image":    {"name"},
	"machine":  {"name"},
	"class":    {"name"},
	"workflow": {"name"},
	"module":   {"name"},
	"moved":    nil,
}

// notYet are blocks of the language that this version refuses, with what to do
// instead.
var notYet = map[string]string{
	"removed":  "What vanishes from the site is left alone; use destroy --target to remove it.",
	"import":   "A machine that runs already is adopted with an ssh block.",
	"provider": "There are no providers; a BMC's driver is chosen in the machine's bmc block.",
	"resource": "Declare network, image, machine and workflow blocks.",
	"data":     "Facts are read with machine.NAME.facts.",
}

// newModule gives a module without blocks.
func newModule(t *tree, dir string, opts Options) *module {
	m := &module{
		tree: t, opts: opts, dir: dir, files: t.files,
		variables: make(map[string]*variable),
		locals:    make(map[string]*hclsyntax.Attribute),
		things:    map[string]map[string]*thing{kindNetwork: {}, kindImage: {}, kindMachine: {}},
		broken:    make(map[string]bool),
		classes:   make(map[string]*classBlock),
	}
	m.functions = functions(m)
	return m
}

// parseSite parses the sources of a site and sorts their blocks. The site's
// block may be missing, with an error that says so.
func parseSite(sources []source, dir string, opts Options) (*module, hcl.Diagnostics) {
	t := &tree{files: make(map[string]*hcl.File), parsed: make(map[string]*parsed)}
	m := newModule(t, dir, opts)
	t.all = append(t.all, m)
	diags := m.sort(t.parse(sources))
	if m.site == nil && !diags.HasErrors() {
		diags = append(diags, failure("Missing site block", nil,
			"No file has a site block. Every site has one, which names it: site \"store-0421\" {}. A module, which has none, is checked through a site that calls it.")...)
	}
	return m, diags
}

// parse reads sources into bodies.
func (t *tree) parse(sources []source) *parsed {
	p := &parsed{}
	for _, src := range sources {
		p.bytes += len(src.bytes)
		t.files[src.name] = &hcl.File{Bytes: src.bytes}
		if more := checkSource(src); more.HasErrors() {
			p.diags = append(p.diags, more...)
			continue
		}
		file, more := hclsyntax.ParseConfig(src.bytes, src.name, hcl.InitialPos)
		p.diags = append(p.diags, more...)
		if file == nil {
			continue
		}
		t.files[src.name] = file
		if body, ok := file.Body.(*hclsyntax.Body); ok {
			countBody(body, "")
			p.bodies = append(p.bodies, body)
		}
	}
	return p
}

// sort files the blocks of what was parsed, unless it is for another version of
// this program or is no HCL; then the module has no blocks.
func (m *module) sort(p *parsed) hcl.Diagnostics {
	diags := append(hcl.Diagnostics(nil), p.diags...)
	// A site for another version may have another syntax, so its version is
	// compared before anything else is said about it.
	for _, body := range p.bodies {
		diags = append(diags, m.findVersion(body)...)
	}
	if more := m.checkVersion(); more.HasErrors() {
		return more
	}
	if diags.HasErrors() {
		return diags
	}
	for _, body := range p.bodies {
		diags = append(diags, m.sortBody(body)...)
	}
	return diags
}

// findVersion finds required_version at the top or in the site block.
func (m *module) findVersion(body *hclsyntax.Body) hcl.Diagnostics {
	found := []*hclsyntax.Attribute{body.Attributes["required_version"]}
	for _, block := range body.Blocks {
		if block.Type == "site" {
			found = append(found, block.Body.Attributes["required_version"])
		}
	}
	var diags hcl.Diagnostics
	for _, attr := range found {
		switch {
		case attr == nil:
		case m.version != nil:
			diags = append(diags, failure("Duplicate required_version", attr.NameRange.Ptr(),
				"The required version is already stated at %s.", m.version.NameRange)...)
		default:
			m.version = attr
		}
	}
	return diags
}

// sortBody files the blocks of one source under their kinds and names.
func (m *module) sortBody(body *hclsyntax.Body) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, attr := range sortedAttributes(body) {
		if attr.Name != "required_version" {
			diags = append(diags, failure("Unsupported argument", attr.NameRange.Ptr(),
				"%q is not expected at the top of a site. Values for expressions go into a locals block.", attr.Name)...)
		}
	}
	for _, block := range body.Blocks {
		diags = append(diags, m.sortBlock(block)...)
	}
	return diags
}

// sortBlock files one block.
func (m *module) sortBlock(block *hclsyntax.Block) hcl.Diagnostics {
	labels, ok := topLevel[block.Type]
	if !ok {
		if hint, known := notYet[block.Type]; known {
			return failure("Not supported in this version", block.DefRange().Ptr(), "%s blocks are not supported in this version. %s", block.Type, hint)
		}
		names := make([]string, 0, len(topLevel))
		for name := range topLevel {
			names = append(names, name)
		}
		detail := suggest(block.Type, names)
		if detail == "" {
			detail = " A site has blocks of type " + listNames(names) + "."
		} else {
			m.leaveOutBlock(nearest(block.Type, names), block)
		}
		return failure("Unsupported block type", block.TypeRange.Ptr(), "Blocks of type %q are not expected here.%s", block.Type, detail)
	}
	if diags := checkLabels(block, labels); diags.HasErrors() {
		m.leaveOutBlock(block.Type, block)
		return diags
	}
	switch block.Type {
	case "site":
		if m.call != nil {
			return failure("Site block in a module", block.DefRange().Ptr(), "A module describes a part of a site, so it has no site block. The file that calls it has one.")
		}
		if m.site != nil {
			return duplicate(block, "site", m.site.DefRange())
		}
		m.site = block
		for _, b := range block.Body.Blocks {
			if b.Type == "user" {
				m.users = append(m.users, b)
			}
		}
	case "variable":
		return m.sortVariable(block)
	case "locals":
		return m.sortLocals(block)
	case "output":
		for _, o := range m.outputs {
			if o.Labels[0] == block.Labels[0] {
				return duplicate(block, "output", o.DefRange())
			}
		}
		m.outputs = append(m.outputs, block)
	case "workflow":
		return m.sortWorkflow(block)
	case "module":
		return m.sortModule(block)
	case kindClass:
		return m.sortClass(block)
	case "moved":
		m.moved = append(m.moved, block)
	default:
		name := block.Labels[0]
		if old := m.things[block.Type][name]; old != nil {
			return duplicate(block, block.Type, old.block.DefRange())
		}
		t := &thing{path: m.path, kind: block.Type, name: name, block: block}
		m.things[block.Type][name] = t
		m.order = append(m.order, t)
	}
	return nil
}

// leaveOutBlock is leaveOut of a block whose type or labels are wrong.
func (m *module) leaveOutBlock(kind string, block *hclsyntax.Block) {
	switch {
	case kind == "locals":
		for name := range block.Body.Attributes {
			m.leaveOut("local", name)
		}
	case len(block.Labels) > 0:
		m.leaveOut(kind, block.Labels[0])
	default:
		m.leaveOut(kind, "*")
	}
}

// namePattern is what a name must be to be referred to and to be part of
// addresses, file names and host names.
var namePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,62}$`)

// checkLabels compares a block's labels with the names of those it must have.
func checkLabels(block *hclsyntax.Block, want []string) hcl.Diagnostics {
	if len(block.Labels) != len(want) {
		form := block.Type
		for _, w := range want {
			form += fmt.Sprintf(" %q", strings.ToUpper(w))
		}
		return failure("Wrong block labels", block.DefRange().Ptr(), "A %s block has %d labels and must have %d: %s { … }.", block.Type, len(block.Labels), len(want), form)
	}
	for i, label := range block.Labels {
		if block.Type != "site" && !namePattern.MatchString(label) {
			return failure("Invalid name", block.LabelRanges[i].Ptr(),
				"%q is not a valid name: a name starts with a letter or underscore, has letters, digits, underscores and dashes, and at most 63 of them.", clip(label))
		}
	}
	return nil
}

// clip keeps a long string from filling a message.
func clip(s string) string {
	if r := []rune(s); len(r) > 64 {
		return string(r[:64]) + "…"
	}
	return s
}

// duplicate refuses a second block of one name.
func duplicate(block *hclsyntax.Block, what string, first hcl.Range) hcl.Diagnostics {
	name := what
	if len(block.Labels) > 0 && what != "site" {
		name += " " + strings.Join(block.Labels, " ")
	}
	return failure("Duplicate block", block.DefRange().Ptr(), "The %s is already declared at %s. Rename or remove one of them.", name, first)
}

// sortLocals files the attributes of a locals block.
func (m *module) sortLocals(block *hclsyntax.Block) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, b := range block.Body.Blocks {
		m.leaveOut("local", b.Type)
		diags = append(diags, failure("Unsupported block type", b.TypeRange.Ptr(), "A locals block has only attributes. To make %q an object, write %s = { … }.", b.Type, b.Type)...)
	}
	for _, attr := range sortedAttributes(block.Body) {
		if old := m.locals[attr.Name]; old != nil {
			diags = append(diags, failure("Duplicate local", attr.NameRange.Ptr(), "local.%s is already declared at %s.", attr.Name, old.NameRange)...)
			continue
		}
		m.locals[attr.Name] = attr
	}
	return diags
}

// sortWorkflow files a workflow and its steps.
func (m *module) sortWorkflow(block *hclsyntax.Block) hcl.Diagnostics {
	name := block.Labels[0]
	for _, w := range m.workflows {
		if w.name == name {
			return duplicate(block, "workflow", w.block.DefRange())
		}
	}
	w := &workflowBlock{name: name, block: block}
	m.workflows = append(m.workflows, w)
	var diags hcl.Diagnostics
	for _, attr := range sortedAttributes(block.Body) {
		diags = append(diags, failure("Unsupported argument", attr.NameRange.Ptr(), "A workflow has only step blocks, so %q is not expected here.", attr.Name)...)
	}
	for _, b := range block.Body.Blocks {
		diags = append(diags, m.sortStep(w, b)...)
	}
	return diags
}

// sortStep files one step. One that is wrong is filed too where it has a name,
// so that what refers to it is not wrong as well.
func (m *module) sortStep(w *workflowBlock, b *hclsyntax.Block) hcl.Diagnostics {
	var diags hcl.Diagnostics
	if b.Type != kindStep {
		diags = failure("Unsupported block type", b.TypeRange.Ptr(), "Blocks of type %q are not expected in a workflow.%s", b.Type, suggest(b.Type, []string{kindStep}))
	} else {
		diags = checkLabels(b, []string{"type", "name"})
	}
	if len(b.Labels) != 2 {
		m.leaveOut("workflow", w.name)
		return diags
	}
	s := &stepBlock{module: m, workflow: w.name, typ: b.Labels[0], name: b.Labels[1], block: b}
	if old := w.step(s.typ, s.name); old != nil {
		return append(diags, duplicate(b, kindStep, old.block.DefRange())...)
	}
	spec, ok := m.opts.StepTypes[s.typ]
	if !ok && !diags.HasErrors() {
		names := make([]string, 0, len(m.opts.StepTypes))
		for n := range m.opts.StepTypes {
			names = append(names, n)
		}
		diags = failure("Unknown step type", b.LabelRanges[0].Ptr(), "There is no step type %q.%s", s.typ, offer(s.typ, names))
	}
	s.spec, s.broken = spec, diags.HasErrors()
	w.steps = append(w.steps, s)
	return diags
}

// sortedAttributes gives a body's attributes in the order of the source.
func sortedAttributes(body *hclsyntax.Body) []*hclsyntax.Attribute {
	attrs := make([]*hclsyntax.Attribute, 0, len(body.Attributes))
	for _, attr := range body.Attributes {
		attrs = append(attrs, attr)
	}
	sort.Slice(attrs, func(i, j int) bool { return attrs[i].SrcRange.Start.Byte < attrs[j].SrcRange.Start.Byte })
	return attrs
}

package site

import (
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/dynblock"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// stepMeta are the attributes and blocks that every step may have.
var stepMeta = &hcl.BodySchema{
	Attributes: []hcl.AttributeSchema{{Name: "for_each"}, {Name: "count"}, {Name: "depends_on"}, {Name: "timeout"}, {Name: "when"}, {Name: "on_failure"}},
	Blocks:     []hcl.BlockHeaderSchema{{Type: "retry"}},
}

var retryShape = shape{attributes: []string{"attempts", "backoff"}}

// decodeWorkflow decodes one workflow with all its steps.
func (e *evaluator) decodeWorkflow(w *workflowBlock) {
	out := &Workflow{Decl: Decl{DeclRange: w.block.DefRange()}, Address: e.m.path + "workflow." + w.name, Name: w.name}
	for _, s := range w.steps {
		each, ok := e.stepInstances(s, s.block.DefRange())
		if !ok {
			e.look(s.block.Body, scope{workflow: s.workflow}, map[string]bool{"for_each": true, "count": true, "depends_on": true})
			continue
		}
		for _, one := range each {
			out.Steps = append(out.Steps, e.decodeStep(s, one))
		}
	}
	e.built.Workflows = append(e.built.Workflows, out)
}

// decodeStep decodes one instance of a step as far as declarations tell.
func (e *evaluator) decodeStep(s *stepBlock, each eachValue) *Step {
	step := &Step{
		Address: instanceAddress(s.address(), each), Workflow: s.workflow, Type: s.typ, Name: s.name, Key: each.text,
		OnFailure: OnFailureStop, Retry: Retry{Attempts: 1}, block: s, each: each,
	}
	sc := scope{workflow: s.workflow, each: each}
	content, _, _ := s.block.Body.PartialContent(stepMeta)
	ctx := e.context(bodyTraversals(s.block.Body, map[string]bool{"for_each": true, "count": true, "depends_on": true}), sc)
	d := &decoder{e: e, ctx: ctx, content: content, scope: sc, decl: Decl{DeclRange: s.block.DefRange(), Ranges: make(map[string]hcl.Range)}}
	for _, attr := range sortedAttributes(s.block.Body) {
		d.decl.Ranges[attr.Name] = attr.Expr.Range()
	}
	step.Decl = d.decl
	step.Timeout = d.duration("timeout", 0, time.Second, 7*24*time.Hour)
	step.OnFailure = OnFailure(d.choice("on_failure", string(OnFailureStop), string(OnFailureStop), string(OnFailureContinue), string(OnFailureRollback)))
	if step.OnFailure == OnFailureRollback && !s.spec.CanUndo && !s.broken {
		d.fail("on_failure", "Step cannot be undone", "Steps of type %q have no undo, so on_failure = \"rollback\" is not possible here. Use \"stop\" or \"continue\".", s.typ)
	}
	step.When = e.when(s, ctx)
	if retries := content.Blocks.OfType("retry"); len(retries) > 0 {
		if len(retries) > 1 {
			e.add(failure("Duplicate block", retries[1].DefRange.Ptr(), "A block of type %q comes once, and the first is at %s.", "retry", retries[0].DefRange))
		}
		r := d.nested(retries[0], retryShape)
		step.Retry = Retry{Attempts: int(r.integer("attempts", 3, 1, 100)), Backoff: r.duration("backoff", 5*time.Second, 0, 24*time.Hour)}
	}
	if s.broken {
		step.Inputs = cty.DynamicVal
		return step
	}
	var ok bool
	if step.Inputs, ok = e.inputs(s, ctx); ok && s.spec.Check != nil {
		e.add(s.spec.Check(step.Inputs, step.Ranges))
	}
	return step
}

// inputs decodes the body of a step in the shape of its type.
func (e *evaluator) inputs(s *stepBlock, ctx *hcl.EvalContext) (cty.Value, bool) {
	_, body, _ := s.block.Body.PartialContent(stepMeta)
	spec := s.spec.Spec
	if spec == nil {
		spec = hcldec.ObjectSpec{}
	}
	v, diags := hcldec.Decode(dynblock.Expand(body, ctx), spec, ctx)
	e.add(improve(diags))
	if diags.HasErrors() {
		return v, false
	}
	return condense(v), true
}

// when evaluates a step's condition: true, false, or unknown.
func (e *evaluator) when(s *stepBlock, ctx *hcl.EvalContext) cty.Value {
	attr := s.block.Body.Attributes["when"]
	if attr == nil {
		return cty.True
	}
	v, diags := attr.Expr.Value(ctx)
	e.add(improve(diags))
	if diags.HasErrors() {
		return cty.UnknownVal(cty.Bool)
	}
	bare, marks := v.Unmark()
	bare, err := convert.Convert(bare, cty.Bool)
	if err != nil || bare.IsKnown() && bare.IsNull() {
		e.add(failure("Wrong type", attr.Expr.Range().Ptr(), "when is true or false."))
		return cty.UnknownVal(cty.Bool)
	}
	// Whether a step runs is visible to everybody, so a sensitive condition
	// does not stay one.
	return bare.WithMarks(onlyAfter(marks))
}

// decodeOutput decodes an output block.
func (e *evaluator) decodeOutput(block *hclsyntax.Block) *Output {
	o := &Output{Decl: Decl{DeclRange: block.DefRange(), Ranges: make(map[string]hcl.Range)}, Name: block.Labels[0], Value: cty.DynamicVal}
	known := []string{"value", "description", "sensitive"}
	for _, attr := range sortedAttributes(block.Body) {
		o.Ranges[attr.Name] = attr.Expr.Range()
		if attr.Name != "value" && attr.Name != "description" && attr.Name != "sensitive" {
			e.add(failure("Unsupported argument", attr.NameRange.Ptr(), "An output has no %q.%s", attr.Name, suggest(attr.Name, known)))
		}
	}
	for _, b := range block.Body.Blocks {
		e.add(failure("Unsupported block type", b.TypeRange.Ptr(), "An output has no blocks."))
	}
	attrs := make(hcl.Attributes)
	for _, name := range known {
		if attr := block.Body.Attributes[name]; attr != nil {
			attrs[name] = attr.AsHCLAttribute()
		}
	}
	d := &decoder{e: e, ctx: e.context(bodyTraversals(block.Body, map[string]bool{"value": true}), scope{}), content: &hcl.BodyContent{Attributes: attrs}, decl: o.Decl}
	o.Description, o.Sensitive = d.text("description", ""), d.flag("sensitive")
	o.Value = e.output(block, block.DefRange())
	// A module hands a sensitive value on with its mark; only what is shown
	// has to say that it is hidden.
	if IsSensitive(o.Value) && !o.Sensitive && !e.runtime && e.m.call == nil {
		d.fail("value", "Sensitive value in output", "The value of output %q is sensitive. Say sensitive = true, and it is shown as %s.", o.Name, redacted)
	}
	return o
}

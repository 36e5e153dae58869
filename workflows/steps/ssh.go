package steps

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// sshType runs a command on machines. Without `check` and `creates` it is an
// action: it runs once for each digest of its inputs and triggers.
var sshType = Type{
	Name: "ssh",
	Shape: site.StepType{
		Spec: hcldec.ObjectSpec{
			"hosts":       attribute("hosts", cty.DynamicPseudoType, true),
			"command":     attribute("command", cty.String, true),
			"check":       attribute("check", cty.String, false),
			"creates":     attribute("creates", cty.String, false),
			"remove":      attribute("remove", cty.String, false),
			"environment": attribute("environment", cty.Map(cty.String), false),
			"stdin":       attribute("stdin", cty.String, false),
			"triggers":    attribute("triggers", cty.Map(cty.String), false),
		},
		Outputs: map[string]cty.Type{"stdout": cty.Map(cty.String)},
	},
	New: newSSH,
}

// sshStep is the inputs of one ssh step.
type sshStep struct {
	env         Env
	hosts       []string
	command     string
	check       string // exit 0: nothing to do
	creates     string // a path that exists once the command ran
	remove      string // takes away what the command brought
	environment map[string]string
	stdin       string
	sensitive   bool
}

func newSSH(inputs cty.Value, env Env) (Step, error) {
	hosts, err := machines(inputs.GetAttr("hosts"))
	if err != nil {
		return nil, fmt.Errorf("hosts: %w", err)
	}
	s := &sshStep{
		env: env, hosts: hosts,
		command: text(inputs, "command"), check: text(inputs, "check"), creates: text(inputs, "creates"), remove: text(inputs, "remove"),
		environment: textMap(inputs, "environment"), stdin: text(inputs, "stdin"),
		sensitive: site.IsSensitive(inputs),
	}
	if s.remove != "" {
		return removableSSH{s}, nil
	}
	return s, nil
}

// removableSSH is an ssh step that says how it is taken away.
type removableSSH struct{ *sshStep }

// Loss implements Remover. What a command destroys is not known; whoever wrote
// `remove` does.
func (s removableSSH) Loss(context.Context) ([]string, error) { return nil, nil }

// Remove implements Remover.
func (s removableSSH) Remove(ctx context.Context, _ bool) error {
	return onHosts(ctx, s.env.Hosts, s.hosts, func(ctx context.Context, machine string, h *remote.Host) error {
		s.env.Say("%s: running the command that takes it away", machine)
		_, err := h.Run(ctx, s.shell(s.remove))
		return s.scrub(err)
	})
}

// Inspect implements Step.
func (s *sshStep) Inspect(ctx context.Context) (Finding, error) {
	if s.check == "" && s.creates == "" {
		return once(s.env), nil
	}
	finding := Finding{Presence: workflows.Present}
	err := onHosts(ctx, s.env.Hosts, s.hosts, func(ctx context.Context, machine string, h *remote.Host) error {
		done, err := s.done(ctx, h)
		if err == nil && !done {
			finding.Presence = workflows.Absent
			finding.Changes = append(finding.Changes, machine+": the command has yet to run")
		}
		return err
	})
	if err != nil {
		return unreachable(err)
	}
	return finding, nil
}

// done asks one host whether the command's work is there already.
func (s *sshStep) done(ctx context.Context, h *remote.Host) (bool, error) {
	line := s.check
	if s.creates != "" {
		line = "test -e " + remote.Quote(s.creates)
		if s.check != "" {
			line += " && { " + s.check + "\n}"
		}
	}
	_, err := h.Run(ctx, s.shell(line))
	var exit *remote.ExitError
	if errors.As(err, &exit) && exit.Signal == "" {
		return false, nil
	}
	return err == nil, s.scrub(err)
}

// scrub withholds what a command with sensitive inputs printed before it failed,
// which is all of its output that is ever shown. Looking for the inputs in it
// would not do: of "Bearer ${var.token}" the command may print the half.
func (s *sshStep) scrub(err error) error {
	var exit *remote.ExitError
	if !s.sensitive || !errors.As(err, &exit) {
		return err
	}
	clean := *exit
	clean.Tail = "  (its output is not shown, because its inputs are sensitive)"
	return &clean
}

// shell is a command line under the step's environment. The values travel on
// standard input where there is none of the step's own, so that they are not
// seen in the host's process list.
func (s *sshStep) shell(line string) remote.Command {
	c := remote.Command{Line: line, Sensitive: s.sensitive}
	if len(s.environment) > 0 {
		var exports strings.Builder
		for _, k := range slices.Sorted(maps.Keys(s.environment)) {
			fmt.Fprintf(&exports, "export %s=%s\n", k, remote.Quote(s.environment[k]))
		}
		script := exports.String() + line + "\n"
		c.Line = "IFS= read -r n && script=$(head -c \"$n\") && eval \"$script\""
		c.Stdin = strings.NewReader(fmt.Sprintf("%d\n%s%s", len(script), script, s.stdin))
		return c
	}
	if s.stdin != "" {
		c.Stdin = strings.NewReader(s.stdin)
	}
	return c
}

// Do implements Step.
func (s *sshStep) Do(ctx context.Context) (cty.Value, error) {
	stdout := map[string]cty.Value{}
	err := onHosts(ctx, s.env.Hosts, s.hosts, func(ctx context.Context, machine string, h *remote.Host) error {
		if s.check != "" || s.creates != "" {
			if done, err := s.done(ctx, h); err != nil || done {
				return err
			}
		}
		s.env.Say("%s: running the command", machine)
		result, err := h.Run(ctx, s.shell(s.command))
		stdout[machine] = cty.StringVal(result.Stdout)
		return s.scrub(err)
	})
	out := cty.MapValEmpty(cty.String)
	if len(stdout) > 0 {
		out = cty.MapVal(stdout)
	}
	return cty.ObjectVal(map[string]cty.Value{"stdout": out}), err
}

// Verify implements Step: what `check` and `creates` ask must hold now.
func (s *sshStep) Verify(ctx context.Context) error {
	if s.check == "" && s.creates == "" {
		return nil
	}
	return onHosts(ctx, s.env.Hosts, s.hosts, func(ctx context.Context, machine string, h *remote.Host) error {
		done, err := s.done(ctx, h)
		if err == nil && !done {
			err = fmt.Errorf("%s: the command ended well, but its check or creates still does not hold", machine)
		}
		return err
	})
}

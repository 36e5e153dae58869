package steps

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// waitType holds the workflow until a condition is true: machines answer over
// SSH, a command on them succeeds, a TCP port accepts, an HTTP URL answers 2xx.
// The step's timeout bounds it.
var waitType = Type{
	Name: "wait",
	Shape: site.StepType{
		Spec: hcldec.ObjectSpec{
			"hosts":    attribute("hosts", cty.DynamicPseudoType, false),
			"command":  attribute("command", cty.String, false),
			"tcp":      attribute("tcp", cty.String, false),
			"http":     attribute("http", cty.String, false),
			"interval": attribute("interval", cty.String, false),
		},
		Outputs: map[string]cty.Type{},
		Check:   checkWait,
	},
	New: newWait,
}

func checkWait(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
	var diags hcl.Diagnostics
	set := func(name string) bool { return !inputs.GetAttr(name).IsNull() }
	if !set("hosts") && !set("tcp") && !set("http") {
		diags = append(diags, mistake(ranges, "", "Nothing to wait for", "A wait step needs hosts, tcp or http."))
	}
	if set("command") && !set("hosts") {
		diags = append(diags, mistake(ranges, "command", "Command without hosts", "command says what must succeed on hosts; name the hosts too."))
	}
	if v, _ := inputs.GetAttr("interval").Unmark(); v.IsKnown() && !v.IsNull() {
		if d, err := site.ParseDuration(v.AsString()); err != nil || d < time.Second {
			diags = append(diags, mistake(ranges, "interval", "Invalid interval", fmt.Sprintf("%q is not a duration of at least one second, such as \"5s\".", v.AsString())))
		}
	}
	return diags
}

type waitStep struct {
	env      Env
	hosts    []string
	command  string
	tcp, url string
	interval time.Duration
}

func newWait(inputs cty.Value, env Env) (Step, error) {
	s := &waitStep{env: env, command: text(inputs, "command"), tcp: text(inputs, "tcp"), url: text(inputs, "http"), interval: 5 * time.Second}
	if v := inputs.GetAttr("hosts"); !v.IsNull() {
		hosts, err := machines(v)
		if err != nil {
			return nil, fmt.Errorf("hosts: %w", err)
		}
		s.hosts = hosts
	}
	if i := text(inputs, "interval"); i != "" {
		d, err := site.ParseDuration(i)
		if err != nil {
			return nil, fmt.Errorf("interval: %w", err)
		}
		s.interval = d
	}
	return s, nil
}

// Inspect implements Step: the condition holds or it does not.
func (s *waitStep) Inspect(ctx context.Context) (Finding, error) {
	if err := s.ask(ctx); err != nil {
		return Finding{Presence: workflows.Absent, Changes: []string{"not yet: " + err.Error()}}, nil
	}
	return Finding{Presence: workflows.Present}, nil
}

// ask tries every condition once.
func (s *waitStep) ask(ctx context.Context) error {
	// One question must not eat the step's whole timeout.
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if s.tcp != "" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.tcp)
		if err != nil {
			return err
		}
		conn.Close()
	}
	if s.url != "" {
		if err := answers(ctx, s.url); err != nil {
			return err
		}
	}
	return onHosts(ctx, s.env.Hosts, s.hosts, func(ctx context.Context, _ string, h *remote.Host) error {
		command := s.command
		if command == "" {
			command = "true"
		}
		_, err := h.Run(ctx, remote.Command{Line: command})
		return err
	})
}

// answers asks for a URL and accepts any 2xx status.
func answers(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return workflows.GiveUp(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return nil
}

// Do implements Step.
func (s *waitStep) Do(ctx context.Context) (cty.Value, error) {
	return cty.EmptyObjectVal, until(ctx, s.env.Clock, s.interval, s.ask)
}

// Verify implements Step; Do has just seen the condition hold.
func (s *waitStep) Verify(context.Context) error { return nil }

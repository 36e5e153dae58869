package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/control"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// request is a command for the daemon, as the client's program has parsed it.
// Paths are absolute. It holds variables, secret ones too: it is written nowhere.
type request struct {
	Command string    `json:"command"` // plan, apply, destroy or attach
	Path    string    `json:"path,omitempty"`
	Run     uuid.UUID `json:"run,omitzero"` // of attach

	Vars    []string `json:"vars,omitempty"`
	Environ []string `json:"environ,omitempty"`
	Sources sources  `json:"sources"`
	// VarTexts are the contents of Sources.VarFiles: serve may have another view of the
	// file system. Files are what the client sees at the other paths.
	VarTexts map[string][]byte   `json:"var_texts,omitempty"`
	Files    map[string]fileSeen `json:"files,omitempty"`
	// Mirror and RegistryMirror are those of Sources, with their passwords.
	Mirror         string `json:"mirror,omitempty"`
	RegistryMirror string `json:"registry_mirror,omitempty"`
	Verbose        bool   `json:"verbose,omitempty"`
	Stdout         screen `json:"stdout"`
	Stderr         screen `json:"stderr"`

	Target      []string        `json:"target,omitempty"`
	Replace     []string        `json:"replace,omitempty"`
	Stale       bool            `json:"stale,omitempty"`
	AutoApprove bool            `json:"auto_approve,omitempty"`
	JSON        bool            `json:"json,omitempty"`
	Parallelism int             `json:"parallelism,omitempty"`
	Agent       string          `json:"agent,omitempty"`
	Saved       *savedPlan      `json:"saved,omitempty"`
	Resumed     *workflows.Plan `json:"resumed,omitempty"`
	DestroyData []string        `json:"destroy_data,omitempty"`
	Forget      bool            `json:"forget,omitempty"`
	PowerOff    bool            `json:"power_off,omitempty"`
	Out         string          `json:"out,omitempty"`
	Detailed    bool            `json:"detailed_exitcode,omitempty"`
	All         bool            `json:"all,omitempty"`
}

// screen is what one stream of a client can show.
type screen struct {
	Width uint `json:"width,omitempty"`
	Color bool `json:"color,omitempty"`
}

// describe fills in what every request says of the program that makes it.
func (a *app) describe(r request) (request, error) {
	var err error
	if r.Sources, err = a.sources(); err != nil {
		return r, err
	}
	r.Mirror, r.RegistryMirror = a.supply.mirror, a.supply.registryMirror
	r.Vars, r.Verbose = a.vars, a.verbose
	for _, v := range a.environment() {
		if a.allowEnv || strings.HasPrefix(v, "EDGE_VAR_") {
			r.Environ = append(r.Environ, v)
		}
	}
	r.Stdout.Width, r.Stdout.Color = a.terminal(a.stdout)
	r.Stderr.Width, r.Stderr.Color = a.terminal(a.stderr)
	if r.Path != "" {
		if r.Path, err = filepath.Abs(r.Path); err != nil {
			return r, err
		}
	}
	if r.Agent != "" {
		if r.Agent, err = filepath.Abs(r.Agent); err != nil {
			return r, err
		}
	}
	r.VarTexts = map[string][]byte{}
	for i, path := range a.varFiles {
		if f := a.files[path]; f != nil { // as it was read to find out whose site it is
			r.VarTexts[r.Sources.VarFiles[i]] = f.Bytes
		}
	}
	r.Files = seenFiles(r.Sources.StackSet, r.Sources.Bundle, r.Sources.Base, r.Agent)
	return r, nil
}

// receive gives this app what a request says.
func (a *app) receive(r request) {
	a.vars, a.varTexts, a.environ, a.verbose = r.Vars, r.VarTexts, r.Environ, r.Verbose
	if a.environ == nil {
		a.environ = []string{}
	}
	s := r.Sources
	a.varFiles, a.allowFile, a.allowEnv, a.stackSet = s.VarFiles, s.AllowFile, s.AllowEnv, s.StackSet
	a.supply = supply{bundle: s.Bundle, base: s.Base, trust: s.TrustKeys, mirror: r.Mirror, registryMirror: r.RegistryMirror}
}

// copySources gives this app the variables and sources of another.
func (a *app) copySources(from *app) {
	a.vars, a.environ, a.varFiles, a.varTexts = from.vars, from.environ, from.varFiles, from.varTexts
	a.allowFile, a.allowEnv, a.stackSet, a.supply = from.allowFile, from.allowEnv, from.stackSet, from.supply
}

// environment is the one that variables are read from.
func (a *app) environment() []string {
	if a.environ != nil {
		return a.environ
	}
	return os.Environ()
}

// Kinds of messages beside those of control, which carry a display and a file.
const (
	kindPlan     control.Kind = "plan"
	kindBegin    control.Kind = "begin"
	kindProgress control.Kind = "progress"
	kindChange   control.Kind = "change"
	kindEnd      control.Kind = "end"
	kindFile     control.Kind = "file" // what plan --out saves
)

// ending is workflows.Ending on the wire.
type ending struct {
	Address  string            `json:"address"`
	Outcome  workflows.Outcome `json:"outcome"`
	Error    string            `json:"error,omitempty"`
	Cause    string            `json:"cause,omitempty"`
	Duration time.Duration     `json:"duration,omitempty"` // nanoseconds
}

func endingOf(e workflows.Ending) ending {
	out := ending{Address: e.Address, Outcome: e.Outcome, Cause: e.Cause, Duration: e.Duration}
	if e.Err != nil {
		out.Error = e.Err.Error()
	}
	return out
}

func (e ending) ending() workflows.Ending {
	out := workflows.Ending{Address: e.Address, Outcome: e.Outcome, Cause: e.Cause, Duration: e.Duration}
	if e.Error != "" || e.Outcome == workflows.OutcomeFailed {
		out.Err = errors.New(e.Error)
	}
	return out
}

// change is workflows.Change on the wire.
type change struct {
	Address string  `json:"address"`
	Attempt int     `json:"attempt,omitempty"`
	Ended   *ending `json:"ended,omitempty"`
}

// sessionWriter is a stream of a command whose client is elsewhere.
type sessionWriter struct {
	session *control.Session
	stream  int
	screen  screen
}

// Write implements io.Writer.
func (w sessionWriter) Write(p []byte) (int, error) {
	if err := w.session.Publish(control.KindText, control.Text{Stream: w.stream, Text: string(p)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// sessionDisplay hands a display's calls to whoever follows the session.
type sessionDisplay struct {
	session *control.Session
	app     *app
}

// publish shows one thing; what cannot be put into a message is logged.
func (d *sessionDisplay) publish(kind control.Kind, data any) {
	if err := d.session.Publish(kind, data); err != nil {
		d.app.logger().Error("showing a run", "error", err)
	}
}

func (d *sessionDisplay) Plan(p workflows.Plan) error { return d.session.Publish(kindPlan, p) }

func (d *sessionDisplay) Begin(run uuid.UUID, _ []workflows.Node) { d.publish(kindBegin, run) }

func (d *sessionDisplay) Tell(p steps.Progress) {
	if err := d.session.Update(p.Address, kindProgress, p); err != nil {
		d.app.logger().Error("showing a run", "error", err)
	}
}

func (d *sessionDisplay) Change(c workflows.Change) {
	out := change{Address: c.Address, Attempt: c.Attempt}
	if c.Ended != nil {
		d.session.Forget(c.Address)
		e := endingOf(*c.Ended)
		out.Ended = &e
	}
	d.publish(kindChange, out)
}

func (d *sessionDisplay) End(endings []workflows.Ending) string {
	out := make([]ending, len(endings))
	for i, e := range endings {
		out[i] = endingOf(e)
	}
	d.publish(kindEnd, out)
	return outcomeOf(endings)
}

func (d *sessionDisplay) Close() {}

// render shows a message on a display; known is false for one that is none of a
// display's.
func render(on display, m control.Message) (known bool, err error) {
	switch m.Kind {
	case kindPlan:
		var p workflows.Plan
		if err = m.Into(&p); err == nil {
			err = on.Plan(p)
		}
	case kindBegin:
		var id uuid.UUID
		if err = m.Into(&id); err == nil {
			on.Begin(id, nil)
		}
	case kindProgress:
		var p steps.Progress
		if err = m.Into(&p); err == nil {
			on.Tell(p)
		}
	case kindChange:
		var c change
		if err = m.Into(&c); err == nil {
			out := workflows.Change{Address: c.Address, Attempt: c.Attempt}
			if c.Ended != nil {
				e := c.Ended.ending()
				out.Ended = &e
			}
			on.Change(out)
		}
	case kindEnd:
		var list []ending
		if err = m.Into(&list); err == nil {
			out := make([]workflows.Ending, len(list))
			for i, e := range list {
				out[i] = e.ending()
			}
			on.End(out)
		}
	default:
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("showing what serve does: %w", err)
	}
	return true, nil
}

// isCommand reports whether the daemon carries out a command.
func (r request) isCommand() bool {
	return slices.Contains([]string{"plan", "apply", "destroy", "attach"}, r.Command)
}

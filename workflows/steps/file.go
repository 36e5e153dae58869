package steps

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// fileType keeps a file on machines as declared.
var fileType = Type{
	Name: "file",
	Shape: site.StepType{
		Spec: hcldec.ObjectSpec{
			"hosts":   attribute("hosts", cty.DynamicPseudoType, true),
			"path":    attribute("path", cty.String, true),
			"content": attribute("content", cty.String, true),
			"mode":    attribute("mode", cty.String, false),
			"owner":   attribute("owner", cty.String, false),
			"group":   attribute("group", cty.String, false),
		},
		Outputs: map[string]cty.Type{"sha256": cty.String},
		Check:   checkFile,
		CanUndo: true,
	},
	New: newFile,
}

func checkFile(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
	var diags hcl.Diagnostics
	if v, _ := inputs.GetAttr("path").Unmark(); v.IsKnown() && !v.IsNull() {
		if p := v.AsString(); !path.IsAbs(p) || path.Clean(p) != p {
			diags = append(diags, mistake(ranges, "path", "Invalid path", fmt.Sprintf("%q is not an absolute, clean path.", p)))
		}
	}
	if v, _ := inputs.GetAttr("mode").Unmark(); v.IsKnown() && !v.IsNull() {
		if _, err := parseMode(v.AsString()); err != nil {
			diags = append(diags, mistake(ranges, "mode", "Invalid mode", err.Error()))
		}
	}
	return diags
}

func parseMode(s string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o777 {
		return 0, fmt.Errorf("%q is not a file mode; write it as a string of octal digits, such as \"0644\"", s)
	}
	return fs.FileMode(n), nil
}

type fileStep struct {
	env          Env
	hosts        []string
	path         string
	content      []byte
	mode         fs.FileMode
	owner, group string
	sensitive    bool
	created      []string // hosts on which this run made the file
}

func newFile(inputs cty.Value, env Env) (Step, error) {
	hosts, err := machines(inputs.GetAttr("hosts"))
	if err != nil {
		return nil, fmt.Errorf("hosts: %w", err)
	}
	s := &fileStep{
		env: env, hosts: hosts, path: text(inputs, "path"), content: []byte(text(inputs, "content")), mode: 0o644,
		owner: text(inputs, "owner"), group: text(inputs, "group"), sensitive: inputs.GetAttr("content").IsMarked(),
	}
	if mode := text(inputs, "mode"); mode != "" {
		if s.mode, err = parseMode(mode); err != nil {
			return nil, err
		}
	}
	if s.owner == "" {
		s.owner = "0"
	}
	if s.group == "" {
		s.group = "0"
	}
	return s, nil
}

// want is the file as it should be on one host.
func (s *fileStep) want(ctx context.Context, h *remote.Host) (remote.File, error) {
	uid, err := h.LookupID(ctx, "user", s.owner)
	if err != nil {
		return remote.File{}, err
	}
	gid, err := h.LookupID(ctx, "group", s.group)
	return remote.File{Content: s.content, Mode: s.mode, UID: uid, GID: gid}, err
}

// compare says how the file on h is not as declared; missing is true when it is
// not there.
func (s *fileStep) compare(ctx context.Context, h *remote.Host) (want remote.File, changes []string, missing bool, err error) {
	want, err = s.want(ctx, h)
	if err != nil {
		return want, nil, false, err
	}
	got, err := h.ReadFile(ctx, s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return want, []string{"is missing"}, true, nil
	}
	if err != nil {
		return want, nil, false, err
	}
	if !bytes.Equal(got.Content, want.Content) {
		changes = append(changes, "has other content")
	}
	if got.Mode != want.Mode {
		changes = append(changes, fmt.Sprintf("has mode %04o instead of %04o", got.Mode, want.Mode))
	}
	if got.UID != want.UID || got.GID != want.GID {
		changes = append(changes, fmt.Sprintf("belongs to %d:%d instead of %d:%d", got.UID, got.GID, want.UID, want.GID))
	}
	return want, changes, false, nil
}

// Inspect implements Step.
func (s *fileStep) Inspect(ctx context.Context) (Finding, error) {
	finding := Finding{Presence: workflows.Present}
	err := onHosts(ctx, s.env.Hosts, s.hosts, func(ctx context.Context, machine string, h *remote.Host) error {
		_, changes, _, err := s.compare(ctx, h)
		for _, c := range changes {
			finding.Changes = append(finding.Changes, fmt.Sprintf("%s: %s %s", machine, s.path, c))
		}
		return err
	})
	if err != nil {
		return unreachable(err)
	}
	return finding, nil
}

// Do implements Step.
func (s *fileStep) Do(ctx context.Context) (cty.Value, error) {
	sum := sha256.Sum256(s.content)
	outputs := cty.ObjectVal(map[string]cty.Value{"sha256": cty.StringVal(hex.EncodeToString(sum[:]))})
	return outputs, onHosts(ctx, s.env.Hosts, s.hosts, func(ctx context.Context, machine string, h *remote.Host) error {
		want, changes, missing, err := s.compare(ctx, h)
		if err != nil || len(changes) == 0 {
			return err
		}
		s.env.Say("%s: writing %s", machine, s.path)
		if err := h.WriteFile(ctx, s.path, want); err != nil {
			return err
		}
		if missing {
			s.created = append(s.created, machine)
		}
		return nil
	})
}

// Verify implements Step.
func (s *fileStep) Verify(ctx context.Context) error {
	return onHosts(ctx, s.env.Hosts, s.hosts, func(ctx context.Context, machine string, h *remote.Host) error {
		_, changes, _, err := s.compare(ctx, h)
		if err == nil && len(changes) > 0 {
			err = fmt.Errorf("%s: %s was written, but %s: something else writes it too", machine, s.path, changes[0])
		}
		return err
	})
}

// Undo implements Undoer: it removes the file where this run made it. A file
// that was there before is left as it now is, because what it held is not kept.
func (s *fileStep) Undo(ctx context.Context) error {
	return onHosts(ctx, s.env.Hosts, s.created, func(ctx context.Context, _ string, h *remote.Host) error {
		return h.RemoveFile(ctx, s.path)
	})
}

// Loss implements Remover: a file that is not what the step wrote holds
// somebody's work.
func (s *fileStep) Loss(ctx context.Context) ([]string, error) {
	var loss []string
	err := onHosts(ctx, s.env.Hosts, s.hosts, func(ctx context.Context, machine string, h *remote.Host) error {
		changed, err := s.changed(ctx, h)
		if changed {
			loss = append(loss, fmt.Sprintf("%s: %s has other content than was written", machine, s.path))
		}
		return err
	})
	return loss, err
}

// changed reports whether the file is there with other content than the step's.
func (s *fileStep) changed(ctx context.Context, h *remote.Host) (bool, error) {
	got, err := h.ReadFile(ctx, s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && !bytes.Equal(got.Content, s.content), err
}

// Remove implements Remover. A file that is not what the step wrote stays,
// unless data is true.
func (s *fileStep) Remove(ctx context.Context, data bool) error {
	return onHosts(ctx, s.env.Hosts, s.hosts, func(ctx context.Context, machine string, h *remote.Host) error {
		changed, err := s.changed(ctx, h)
		if err != nil {
			return err
		}
		if changed && !data {
			s.env.Say("%s: %s is kept, because its content is not what was written", machine, s.path)
			return nil
		}
		s.env.Say("%s: removing %s", machine, s.path)
		return h.RemoveFile(ctx, s.path)
	})
}

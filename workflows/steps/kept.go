package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// kept is what the applied record of a step seals of its inputs: enough to make
// the step again when site.hcl no longer declares it.
type kept struct {
	// Inputs is in cty's JSON form with types.
	Inputs json.RawMessage `json:"inputs"`
	// Sensitive are the paths inside of Inputs that must not be shown.
	Sensitive [][]keptStep `json:"sensitive,omitempty"`
	// Machines says how those that the inputs name were reached, by address.
	Machines map[string]Reach `json:"machines,omitempty"`
}

// keptStep is one step of a path: an attribute, a key of a map or an index.
type keptStep struct {
	Attribute string  `json:"attribute,omitempty"`
	Key       *string `json:"key,omitempty"`
	Index     *int64  `json:"index,omitempty"`
}

// Reach is how a machine is reached over SSH.
type Reach struct {
	Address  string `json:"address"` // host:port
	User     string `json:"user,omitempty"`
	Sudo     bool   `json:"sudo,omitempty"`
	HostKey  string `json:"host_key"` // in authorized_keys form
	Hostname string `json:"hostname,omitempty"`
}

func inputsName(address string) string { return "inputs/" + address }

// keep seals a step's inputs, wholly known, for its applied record.
func (r *Runner) keep(ctx context.Context, address string, inputs cty.Value) ([]byte, error) {
	plain, marks := inputs.UnmarkDeepWithPaths()
	var k kept
	var err error
	if k.Inputs, err = ctyjson.Marshal(plain, cty.DynamicPseudoType); err != nil {
		return nil, fmt.Errorf("%s: its inputs cannot be kept: %w", address, err)
	}
	for _, m := range marks {
		if _, ok := m.Marks[site.Sensitive]; ok {
			k.Sensitive = append(k.Sensitive, keptPath(m.Path))
		}
	}
	if r.SSH != nil {
		k.Machines = r.SSH.reaches(ctx, site.References(plain))
	}
	b, err := json.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("%s: its inputs cannot be kept: %w", address, err)
	}
	return r.Keys.Seal(inputsName(address), b)
}

func keptPath(p cty.Path) []keptStep {
	out := make([]keptStep, 0, len(p))
	for _, s := range p {
		switch s := s.(type) {
		case cty.GetAttrStep:
			out = append(out, keptStep{Attribute: s.Name})
		case cty.IndexStep:
			key, _ := s.Key.Unmark()
			if key.Type() == cty.String {
				text := key.AsString()
				out = append(out, keptStep{Key: &text})
				continue
			}
			n, _ := key.AsBigFloat().Int64()
			out = append(out, keptStep{Index: &n})
		}
	}
	return out
}

func (s keptStep) onto(p cty.Path) cty.Path {
	switch {
	case s.Key != nil:
		return p.Index(cty.StringVal(*s.Key))
	case s.Index != nil:
		return p.Index(cty.NumberIntVal(*s.Index))
	}
	return p.GetAttr(s.Attribute)
}

// unkeep is the opposite of keep. What the step's shape has gained since is
// null, and what it has lost is left out.
func (r *Runner) unkeep(address string, t Type, sealed []byte) (cty.Value, map[string]Reach, error) {
	b, err := r.Keys.Unseal(inputsName(address), sealed)
	if err != nil {
		return cty.NilVal, nil, fmt.Errorf("%s: reading its inputs: %w", address, err)
	}
	var k kept
	if err := json.Unmarshal(b, &k); err != nil {
		return cty.NilVal, nil, fmt.Errorf("%s: reading its inputs: the catalog's record is damaged: %w", address, err)
	}
	v, err := ctyjson.Unmarshal(k.Inputs, cty.DynamicPseudoType)
	if err != nil {
		return cty.NilVal, nil, fmt.Errorf("%s: reading its inputs: %w", address, err)
	}
	attributes := map[string]cty.Value{}
	if v.Type().IsObjectType() && !v.IsNull() {
		was := v.AsValueMap()
		for name, want := range hcldec.ImpliedType(t.Shape.Spec).AttributeTypes() {
			if attributes[name] = cty.NullVal(want); was[name] != cty.NilVal {
				attributes[name] = was[name]
			}
		}
	}
	var marks []cty.PathValueMarks
	for _, path := range k.Sensitive {
		var p cty.Path
		for _, s := range path {
			p = s.onto(p)
		}
		marks = append(marks, cty.PathValueMarks{Path: p, Marks: cty.NewValueMarks(site.Sensitive)})
	}
	return cty.ObjectVal(attributes).MarkWithPaths(marks), k.Machines, nil
}

// reaches says how machines are reached now; those that cannot be are left out.
func (s *SSH) reaches(ctx context.Context, addresses []string) map[string]Reach {
	out := map[string]Reach{}
	for _, m := range s.Site.Machines {
		if !slices.Contains(addresses, m.Address) {
			continue
		}
		if c, err := s.config(ctx, m); err == nil && c.HostKey != "" {
			out[m.Address] = Reach{Address: c.Address, User: c.User, Sudo: c.Sudo, HostKey: c.HostKey, Hostname: m.Hostname}
		}
	}
	return out
}

// formerSSH reaches also machines that site.hcl no longer declares, as they were
// reached when a step was applied to them. It implements Hosts and Machines.
type formerSSH struct {
	*SSH
	former map[string]Reach
}

// Host implements Hosts.
func (s formerSSH) Host(ctx context.Context, address string) (*remote.Host, error) {
	was, known := s.former[address]
	if s.Site.MachineByAddress(address) != nil || !known {
		return s.SSH.Host(ctx, address)
	}
	return remote.Dial(ctx, remote.Config{
		Name: address, Signer: s.Signer, Address: was.Address, User: was.User, Sudo: was.Sudo, HostKey: was.HostKey,
	})
}

// Machine implements Machines.
func (s formerSSH) Machine(ctx context.Context, address string) (MachineInfo, error) {
	was, known := s.former[address]
	if s.Site.MachineByAddress(address) != nil || !known {
		return s.SSH.Machine(ctx, address)
	}
	info := MachineInfo{Hostname: was.Hostname}
	if ap, err := netip.ParseAddrPort(was.Address); err == nil {
		info.IP = ap.Addr()
	}
	return info, nil
}

// withoutNulls drops the attributes that are not set, so that a step type may
// gain an attribute without making every step of it another one.
func withoutNulls(inputs cty.Value) cty.Value {
	set := map[string]cty.Value{}
	for name, v := range inputs.AsValueMap() {
		if !v.IsNull() {
			set[name] = v
		}
	}
	return cty.ObjectVal(set)
}

var _ interface {
	Hosts
	Machines
} = formerSSH{}

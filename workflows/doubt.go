package workflows

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/hashicorp/hcl/v2"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/query"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// doubt warns where what a machine's BMC says does not fit the machine or its
// declaration. It refuses nothing: a BMC shows what was there when the machine was
// started last, and not every card.
func (b *builder) doubt(m *site.Machine, v MachineView) {
	if v.BMC == nil {
		return
	}
	if v.Facts != nil {
		if v.Machine == nil {
			return
		}
		if detail := stranger(*v.BMC, *v.Machine); detail != "" {
			b.warn(m, m.BMC.Range("address"), "BMC seems to be another machine's", detail)
		}
		return
	}
	if ports := v.BMC.NICs; !m.MAC.IsZero() && len(ports) > 0 && !hasPort(ports, m.MAC) {
		b.warn(m, m.Range("mac"), "BMC does not know the declared MAC", fmt.Sprintf(
			"its BMC at %s knows the ports %s, and none is the declared %s. Unless the port is on a card that the BMC does not show, the MAC or the BMC's address is another machine's",
			m.BMC.Address, listPorts(ports), m.MAC))
	}
	// Of disks, ports and cards a BMC's list may lack some.
	known := *v.BMC
	known.Disks, known.NICs, known.PCI = nil, nil, nil
	v.Facts = &known
	doc := document(v)
	for _, r := range m.Require {
		if result, err := r.Condition.Eval(doc); err == nil && result == query.False {
			b.warn(m, r.Range("condition"), "Machine may not meet a requirement", fmt.Sprintf(
				"%s: by what its BMC says, %s. It is decided when the machine has been inspected", r.Message, r.Condition.Reason(doc)))
		}
	}
}

func (b *builder) warn(m *site.Machine, at hcl.Range, summary, detail string) {
	b.say(m.Address, &hcl.Diagnostic{
		Severity: hcl.DiagWarning, Summary: summary, Subject: at.Ptr(), Detail: m.Address + ": " + detail + ".",
	})
}

// stranger says how a BMC's machine is another than the one that was inspected: some
// identifier differs, and none is the same.
func stranger(f inventory.Facts, is inventory.Machine) string {
	for _, mac := range is.MACs {
		if hasPort(f.NICs, mac) {
			return ""
		}
	}
	if f.System == nil {
		return ""
	}
	var differ []string
	if says := f.System.Serial; says != "" && is.Serial != "" {
		if strings.EqualFold(says, is.Serial) {
			return ""
		}
		differ = append(differ, fmt.Sprintf("its serial is %s, where the machine's own is %s", says, is.Serial))
	}
	if says, err := uuid.Parse(f.System.UUID); err == nil && is.SMBIOSUUID != uuid.Nil {
		if inventory.SameUUID(says, is.SMBIOSUUID) {
			return ""
		}
		differ = append(differ, fmt.Sprintf("its UUID is %s, where the machine's own is %s", says, is.SMBIOSUUID))
	}
	if len(differ) == 0 {
		return ""
	}
	return "of its machine the BMC says that " + strings.Join(differ, ", and that ") + ". Power and next boot may be set on a machine that is not this one"
}

func hasPort(ports []inventory.NIC, mac inventory.MAC) bool {
	return slices.ContainsFunc(ports, func(p inventory.NIC) bool { return p.MAC == mac })
}

// listPorts names ports by their MACs, as many as fit a message.
func listPorts(ports []inventory.NIC) string {
	const some = 8
	var out []string
	for i, p := range ports {
		if i == some {
			out = append(out, fmt.Sprintf("and %d more", len(ports)-some))
			break
		}
		out = append(out, p.MAC.String())
	}
	return strings.Join(out, ", ")
}

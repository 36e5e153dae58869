package pxe

import (
	"fmt"
	"strings"
	"testing"
)

// nftJSON builds a ruleset document of one inet table with an input chain.
func nftJSON(policy string, more ...string) string {
	base := `{"metainfo":{"version":"1.0.6","json_schema_version":1}},{"table":{"family":"inet","name":"filter","handle":1}},` +
		`{"chain":{"family":"inet","table":"filter","name":"input","handle":1,"type":"filter","hook":"input","prio":0,"policy":"` + policy + `"}}`
	return `{"nftables":[` + strings.Join(append([]string{base}, more...), ",") + `]}`
}

func nftRuleJSON(chain string, expr ...string) string {
	return fmt.Sprintf(`{"rule":{"family":"inet","table":"filter","chain":%q,"handle":9,"expr":[%s]}}`, chain, strings.Join(expr, ","))
}

func TestFirewallFindings(t *testing.T) {
	const (
		accept, drop  = `{"accept":null}`, `{"drop":null}`
		established   = `{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}}`
		onEth1        = `{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"eth1"}}`
		onEthAny      = `{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"eth*"}}`
		notEth1       = `{"match":{"op":"!=","left":{"meta":{"key":"iifname"}},"right":"eth1"}}`
		isUDP         = `{"match":{"op":"==","left":{"meta":{"key":"l4proto"}},"right":"udp"}}`
		udp67         = `{"match":{"op":"==","left":{"payload":{"protocol":"udp","field":"dport"}},"right":67}}`
		udpNetboot    = `{"match":{"op":"==","left":{"payload":{"protocol":"udp","field":"dport"}},"right":{"set":[{"range":[67,69]},4011]}}}`
		tcp8480       = `{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":8480}}`
		fromSomewhere = `{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":{"prefix":{"addr":"10.0.0.0","len":8}}}}`
		inSet         = `{"match":{"op":"==","left":{"payload":{"protocol":"udp","field":"dport"}},"right":"@netboot"}}`
		set           = `{"set":{"family":"inet","name":"netboot","table":"filter","type":"inet_service","elem":[67,69,4011]}}`
	)
	tests := []struct {
		name string
		doc  string
		want string
	}{
		{"no rules", `{"nftables":[{"metainfo":{}}]}`, ""},
		{"accept by policy", nftJSON("accept"), ""},
		{"drop by policy stops all", nftJSON("drop"), "udp67! udp69! udp4011! tcp8480!"},
		{"established connections do not help the first packet", nftJSON("drop", nftRuleJSON("input", established, accept)), "udp67! udp69! udp4011! tcp8480!"},
		{"the whole interface is accepted", nftJSON("drop", nftRuleJSON("input", onEth1, accept)), ""},
		{"by a pattern", nftJSON("drop", nftRuleJSON("input", onEthAny, accept)), ""},
		{"only other interfaces are accepted", nftJSON("drop", nftRuleJSON("input", notEth1, accept)), "udp67! udp69! udp4011! tcp8480!"},
		{"UDP is accepted", nftJSON("drop", nftRuleJSON("input", isUDP, accept)), "tcp8480!"},
		{"a range and a set", nftJSON("drop", nftRuleJSON("input", udpNetboot, accept), nftRuleJSON("input", tcp8480, accept)), ""},
		{"a named set", nftJSON("drop", set, nftRuleJSON("input", inSet, accept)), "tcp8480!"},
		{"one port is dropped", nftJSON("accept", nftRuleJSON("input", udp67, `{"counter":{"packets":0,"bytes":0}}`, drop)), "udp67!"},
		{"dropped before it is accepted", nftJSON("accept", nftRuleJSON("input", udp67, drop), nftRuleJSON("input", udp67, accept)), "udp67!"},
		{"dropped for some sources: perhaps", nftJSON("accept", nftRuleJSON("input", udp67, fromSomewhere, drop)), "udp67?"},
		{"accepted for some sources: the drop is not sure", nftJSON("drop", nftRuleJSON("input", udp67, fromSomewhere, accept)), "udp67? udp69! udp4011! tcp8480!"},
		{"an xt extension cannot be judged", nftJSON("accept", nftRuleJSON("input", udp67, `{"xt":null}`, drop)), "udp67?"},
		{"in a chain that is jumped to", nftJSON("accept", nftRuleJSON("input", onEth1, `{"jump":{"target":"lan"}}`), nftRuleJSON("lan", udp67, drop)), "udp67!"},
		{"a chain that returns", nftJSON("accept", nftRuleJSON("input", `{"jump":{"target":"lan"}}`), nftRuleJSON("lan", `{"return":null}`), nftRuleJSON("lan", drop)), ""},
		{"a chain that jumps to itself ends", nftJSON("accept", nftRuleJSON("input", `{"jump":{"target":"input"}}`)), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rs, err := parseRuleset([]byte(tt.doc))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range rs.findings("eth1", netbootPorts([]uint16{8480})) {
				mark := "?"
				if f.Sure {
					mark = "!"
				}
				got = append(got, fmt.Sprintf("%s%d%s", f.Proto, f.Port, mark))
				if !strings.Contains(f.Rule, "inet filter input: ") {
					t.Errorf("rule %q does not name table and chain", f.Rule)
				}
			}
			if got := strings.Join(got, " "); got != tt.want {
				t.Errorf("findings = %q; want %q", got, tt.want)
			}
		})
	}
	if _, err := parseRuleset([]byte("not json")); err == nil {
		t.Error("parseRuleset accepted what is not JSON")
	}
}

package k3s

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// answer is what a server of a cluster says.
const answer = "time\t1700000000\nmachine-id\tabc\nsystem-uuid\tABC\nroot\t\naddress\t192.0.2.11\n" +
	"network\tlo 127.0.0.1/8\nnetwork\teth0 192.0.2.11/24\nnetwork\tcni0 10.42.0.1/24\nnetwork\tcali1@if3 10.42.0.7/32\nfree\t1024\n" +
	"link\t/usr/local/bin/kubectl\nfile\t755 0 0 100 /usr/local/bin/k3s\n" +
	"sum\t0000000000000000000000000000000000000000000000000000000000000001  /usr/local/bin/k3s\n" +
	"version\tv1.34.4+k3s1\nsnapshot\tdaily-a-1\netcd\tyes\npassword\tyes\nstarted\t{\"owner\":\"o\",\"digest\":\"d\",\"files\":[\"/x\"]}\n" +
	"unit\tk3s LoadState=loaded ActiveState=active SubState=running UnitFileState=enabled NRestarts=2\nunit\tk3s-agent LoadState=not-found ActiveState=inactive\n" +
	"ca\tcafe  /var/lib/rancher/k3s/server/tls/server-ca.crt\n"

func TestParseReadsWhatAMachineSays(t *testing.T) {
	o := observation{role: server}
	if err := o.parse(answer, time.Unix(1700000060, 5)); err != nil {
		t.Fatal(err)
	}
	f := o.files[binaryPath]
	if o.skew != -time.Minute || o.machineID != "abc" || o.systemUUID != "abc" || o.freeBytes != 1<<20 || !o.links[links[0]] ||
		f.Mode != 0o755 || f.SizeBytes != 100 || !strings.HasSuffix(f.SHA256, "01") || o.version.String() != "v1.34.4+k3s1" ||
		!o.joined || !o.password || o.started.Digest != "d" || o.units["k3s"].Restarts != 2 || !o.units["k3s"].running() || o.units["k3s-agent"].running() ||
		o.ca != "cafe" || !cmp.Equal(o.snapshots, []string{"daily-a-1"}) || o.address != netip.MustParseAddr("192.0.2.11") {
		t.Errorf("parse() = %+v; want everything that was said", o)
	}
	if len(o.networks) != 1 || o.networks[0].String() != "192.0.2.0/24" {
		t.Errorf("networks = %v; want those that are not the cluster's own", o.networks)
	}
}

func TestParseRefusesWhatIsCutOrStrange(t *testing.T) {
	cut := answer[:strings.Index(answer, "unit\tk3s-agent")]
	for name, text := range map[string]string{
		"nothing": "", "cut": cut, "no digest": strings.Replace(answer, "sum\t", "some\t", 1),
		"a directory in the place of a file": answer + "other\t/etc/rancher/k3s/config.yaml\n", "a strange mode": strings.Replace(answer, "755 0", "rwx 0", 1),
		"without end": strings.Repeat("x\n", maxLines+1),
	} {
		if err := (&observation{role: server}).parse(text, time.Now()); err == nil {
			t.Errorf("parse(%s) = nil; want an error", name)
		}
	}
}

func TestParseJoin(t *testing.T) {
	for text, want := range map[string]*join{
		"cluster-init: true\n": {Init: true}, "server: https://192.0.2.12:6443\n": {Server: netip.MustParseAddr("192.0.2.12")},
		"": nil, "server: [": nil, "server: https://name:6443\n": nil,
	} {
		if got := parseJoin([]byte(text)); !cmp.Equal(got, want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
			t.Errorf("parseJoin(%q) = %v; want %v", text, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(answer)
	f.Add("file\t0 0 0 0 /\nsum\t00  /\n")
	f.Fuzz(func(t *testing.T, text string) {
		o := observation{role: agent}
		if o.parse(text, time.Unix(0, 0)) == nil && len(o.units) != 2 {
			t.Error("parse() accepted an answer that does not tell about both units")
		}
	})
}

func FuzzParseJoin(f *testing.F) {
	f.Add([]byte("cluster-init: true\nserver: https://192.0.2.12:6443\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { parseJoin(b) })
}

func TestTokensAreReadInBothForms(t *testing.T) {
	for in, want := range map[string]string{"secret": "secret", "K10cafe::server:secret": "secret", "K10cafe::node:a:b": "a:b", "": ""} {
		if got := shortToken(in); got != want {
			t.Errorf("shortToken(%q) = %q; want %q", in, got, want)
		}
	}
}

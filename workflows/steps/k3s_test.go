package steps_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// clusterOf declares machines and a k3s step of servers with more in it.
func clusterOf(servers, more string) string {
	return `
site "store" {}

machine "node" {
  for_each = toset(["a", "b", "c", "d"])
  address  = "192.0.2.1${index(["a", "b", "c", "d"], each.key)}"
  ssh {
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEDGVQ/HsZEtQ5k1sMbJJKVJ7KTwoJpXXCtWNzMmhwkW"
  }
}

workflow "w" {
  step "k3s" "c" {
    servers = ` + servers + `
    ` + more + `
  }
}
`
}

const (
	k3sBinary = "\nbinary {\n source = \"k3s\"\n sha256 = \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"\n}\n"
	k3sMinor  = "version = \"v1.36.3+k3s1\"\n" + k3sBinary
	three     = `[machine.node["a"], machine.node["b"], machine.node["c"]]`
)

func TestK3sClustersThatCannotWorkAreRefusedByValidate(t *testing.T) {
	tests := []struct{ name, servers, more, want string }{
		{"two servers", `[machine.node["a"], machine.node["b"]]`, k3sMinor, "Wrong number of servers"},
		{"four servers", `values(machine.node)`, k3sMinor, "A cluster of 4 servers is not supported"},
		{"no server", `[]`, k3sMinor, "A cluster needs a server"},
		{"a server that is an agent", three, k3sMinor + "agents = machine.node[\"a\"]", "Machine declared twice"},
		{"a version without its K3s release", three, "version = \"v1.36.3\"\n" + k3sBinary, "write it like v1.36.3+k3s1"},
		{"no binary", three, "version = \"v1.36.3+k3s1\"", "binary"},
		{"a digest that is none", three, "version = \"v1.36.3+k3s1\"\nbinary {\nsource = \"k3s\"\nsha256 = \"abc\"\n}", "Invalid digest"},
		{"a digest of images that is none", three, k3sMinor + "images {\nsource = \"i.tar\"\nsha256 = \"ABC\"\n}", "Invalid digest"},
		{"a network that is none", three, k3sMinor + "cluster_cidr = \"10.42.0.0\"", "is not an IPv4 network"},
		{"a network with an address", three, k3sMinor + "cluster_cidr = \"10.42.0.1/16\"", "write 10.42.0.0/16"},
		{"overlapping networks", three, k3sMinor + "service_cidr = \"10.42.128.0/17\"", "Networks overlap"},
		{"an unknown network", three, k3sMinor + "cni = \"cilium\"", "is one of: flannel, calico, none"},
		{"Flannel's backend without Flannel", three, k3sMinor + "cni = \"calico\"\nflannel_backend = \"vxlan\"", "there is no Flannel"},
		{"an unknown profile", three, k3sMinor + "profile = \"paranoid\"", "is one of: cis"},
		{"a taint without effect", three, k3sMinor + "taints = [\"a=b\"]", "write it like key=value:NoSchedule"},
		{"a taint of one node without effect", three, k3sMinor + "node {\nmachine = machine.node[\"a\"]\ntaints = [\"a=b\"]\n}", "write it like key=value:NoSchedule"},
		{"a snapshot with the name of scheduled ones", three, k3sMinor + "snapshots {\nnamed = [\"etcd-snapshot-x\"]\n}", "begins like the names of scheduled snapshots"},
		{"a snapshot with a strange name", three, k3sMinor + "snapshots {\nnamed = [\"../x\"]\n}", "cannot be the name of a snapshot"},
		{"a bound that is none", three, k3sMinor + "drain_timeout = \"soon\"", "is not a duration"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := load(t, clusterOf(test.servers, test.more))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Load() = %v; want %q", err, test.want)
			}
		})
	}
	for name, more := range map[string]string{
		"the least": k3sMinor,
		"all there is": k3sMinor + `agents = machine.node["d"]
cluster_cidr = "10.44.0.0/16"
service_cidr = "10.45.0.0/16"
tls_san = ["api.store.example"]
disable = ["traefik"]
cni = "flannel"
flannel_backend = "host-gw"
profile = "cis"
unrestricted = ["vision"]
labels = { zone = "x" }
taints = ["a=b:NoSchedule"]
registries = "mirrors: {}"
replace = ["node-a"]
drain_timeout = "2m"
start_timeout = "20m"
snapshots {
 schedule = "0 * * * *"
 retention = 3
 named = ["before-stocktaking"]
}
images {
 source = "i.tar"
 sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
}
node {
 machine = machine.node["a"]
 labels = { a = "b" }
}`,
	} {
		if _, err := load(t, clusterOf(three, more)); err != nil {
			t.Errorf("Load(%s) = %v; want no error", name, err)
		}
	}
}

func TestK3sTellsWhichMachineItCouldNotAsk(t *testing.T) {
	b := newBench(t, "step \"k3s\" \"c\" {\n servers = machine.old\n"+k3sMinor+"\n}\n")
	b.runner.Machines = &steps.SSH{Site: b.site, Catalog: b.catalog}
	gone := &remote.UnreachableError{Host: "machine.old", Address: "192.0.2.1:22", Err: errors.New("no route to host")}
	key := &remote.HostKeyError{Host: "machine.old", Address: "192.0.2.1:22", Got: "ssh-ed25519 AAAA"}
	auth := &remote.AuthError{Host: "machine.old", User: "root", Err: errors.New("no supported methods remain")}
	for _, err := range []error{gone, key, auth} {
		b.runner.Hosts = hosts{err: err}
		v := b.inspect()
		if v.Presence != workflows.Unreachable || !strings.Contains(v.Detail, err.Error()) || len(v.Changes) > 0 {
			t.Errorf("Inspect() with %v = %+v; want unreachable, and why", err, v)
		}
		_, got := b.do()
		if got == nil || !strings.Contains(got.Error(), err.Error()) || !strings.Contains(got.Error(), "nothing was changed") {
			t.Errorf("Do() = %v; want %v, and that nothing was changed", got, err)
		}
		if final := workflows.Final(got); final == errors.Is(err, gone) {
			t.Errorf("Final(%v) = %v; want a machine that is not the right one, or refuses us, not to be tried again", got, final)
		}
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/client"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/workflows/journal"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// controller is a world whose API answers on loopback, as `serve` has it; the
// networks are not served.
type controller struct {
	*testing.T
	*world
	url string
	m   inventory.Machine
}

const shopWithTwo = `site "shop" {}
network "edge" {
  interface = "lo"
  cidr      = "172.22.0.0/24"
  dhcp {
    mode = "off"
  }
}
machine "node" {
  for_each = { a = "52:54:00:04:21:01", b = "52:54:00:04:21:02" }
  mac     = each.value
  network = network.edge
  address = each.key == "a" ? "172.22.0.11" : "172.22.0.12"
}
`

func serveShop(t *testing.T, f apiFlags) *controller {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "data"))
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	path := filepath.Join(dir, "site.hcl")
	if err := os.WriteFile(path, []byte(shopWithTwo), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &app{stdout: io.Discard, stderr: t.Output()}
	w, err := a.open(t.Context(), path, func(steps.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.recordSite(t.Context()); err != nil { // as serve does
		t.Fatal(err)
	}
	f.listen = "127.0.0.1:0"
	served, err := w.listenAPI(f)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- served.Serve(ctx, served.listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	c := &controller{T: t, world: w, url: served.url()}
	if c.m, err = w.catalog.MachineByAddress(t.Context(), "shop", `machine.node["a"]`); err != nil {
		t.Fatal(err)
	}
	_, _, err = w.catalog.PutFacts(t.Context(), c.m.ID, inventory.SourceAgent, inventory.Facts{
		Memory: &inventory.Memory{Bytes: 16 << 30}, CPU: &inventory.CPU{Threads: 8},
	}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// cli runs the program and returns what it prints.
func cli(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), make(chan struct{}), args, strings.NewReader(""), &out, &errs); code != want {
		t.Errorf("edge-provision %q exits with %d; want %d\n%s%s", args, code, want, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// both are what a command prints from the catalog and over the API. It is run again
// where it is time that made the difference: how long ago something was.
func (c *controller) both(args ...string) (local, remote string) {
	c.Helper()
	local, _ = cli(c.T, exitOK, args...)
	for {
		remote, _ = cli(c.T, exitOK, append(slices.Clone(args), "--server", c.url)...)
		if local == remote {
			return local, remote
		}
		again, _ := cli(c.T, exitOK, args...)
		if again == local {
			return local, remote
		}
		local = again
	}
}

func TestInventoryIsTheSameOverTheAPI(t *testing.T) {
	c := serveShop(t, apiFlags{})
	cli(t, exitOK, "inventory", "set", "52-54-00-04-21-01", "chassis.asset_tag=0042", "bios.version=1.0")
	cli(t, exitOK, "inventory", "set", "52-54-00-04-21-01", "bios.version=1.1")
	for _, args := range [][]string{
		{"inventory", "list"},
		{"inventory", "list", "-o", "json"},
		{"inventory", "list", "-o", "csv", "--sort=-facts.memory.bytes"},
		{"inventory", "query", "facts.memory.bytes >= GiB(8)", "-o", "wide"},
		{"inventory", "show", "52-54-00-04-21-01"},
		{"inventory", "history", "52-54-00-04-21-01"},
		{"inventory", "history", "52-54-00-04-21-01", "-o", "json"},
		{"inventory", "export", "-o", "json", "--filter", "facts.cpu.threads == 8"},
	} {
		if local, remote := c.both(args...); local != remote || local == "" {
			t.Errorf("%q over the API =\n%s\nwant, as from the catalog,\n%s", args, remote, local)
		}
	}
	_, local := cli(t, exitError, "inventory", "query", "facts.memroy.bytes > 1")
	_, remote := cli(t, exitError, "inventory", "query", "facts.memroy.bytes > 1", "--server", c.url)
	if local != remote || !strings.Contains(local, "^^^^") {
		t.Errorf("a mistake over the API is shown as\n%s\nwant\n%s", remote, local)
	}
}

func TestTokensLetAClientIn(t *testing.T) {
	c := serveShop(t, apiFlags{requireToken: true})
	_, errs := cli(t, exitError, "inventory", "list", "--server", c.url)
	if !strings.Contains(errs, "token create") {
		t.Errorf("without a token: %s; want how to make one", errs)
	}
	bearer, _ := cli(t, exitOK, "token", "create", "laptop", "--role", "reader", "--ttl", "1h")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(bearer), 0o600); err != nil {
		t.Fatal(err)
	}
	cli(t, exitOK, "inventory", "list", "--server", c.url, "--token-file", file)
	t.Setenv(tokenVariable, strings.TrimSpace(bearer))
	cli(t, exitOK, "inventory", "list", "--server", c.url)
	list, _ := cli(t, exitOK, "token", "list")
	id, _, _ := strings.Cut(strings.TrimPrefix(bearer, "edge_"), "_")
	if !strings.Contains(list, id) || strings.Contains(list, strings.TrimSpace(bearer)) {
		t.Errorf("token list =\n%s\nwant the token's id and not its secret", list)
	}
	cli(t, exitOK, "token", "revoke", id)
	cli(t, exitError, "token", "revoke", "nobody")
	_, errs = cli(t, exitError, "inventory", "list", "--server", c.url)
	if !strings.Contains(errs, "revoked") {
		t.Errorf("with a revoked token: %s; want it said", errs)
	}
	entries, err := c.catalog.AuditPage(t.Context(), "command-line", 0, 10)
	if err != nil || len(entries) != 3 || entries[0].Status != http.StatusConflict || entries[1].Action != "revokeToken" || entries[1].Status != http.StatusNoContent || entries[2].Action != "createToken" {
		t.Errorf("audit of the command line = %+v, %v; want the token made and revoked, and one that there is not", entries, err)
	}
}

func TestAnsibleInventoryNamesHostsAsTheSiteDoes(t *testing.T) {
	c := serveShop(t, apiFlags{})
	out, _ := cli(t, exitOK, "inventory", "export", "-o", "ansible", "--list", "--server", c.url)
	var list map[string]struct {
		Hosts    []string                  `json:"hosts"`
		HostVars map[string]map[string]any `json:"hostvars"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	if got := list["machine_node"].Hosts; !slices.Equal(got, []string{"node-a", "node-b"}) {
		t.Errorf("group machine_node = %q; want node-a and node-b", got)
	}
	if got := list["_meta"].HostVars["node-a"]["ansible_host"]; got != "172.22.0.11" {
		t.Errorf("ansible_host of node-a = %v; want the declared address", got)
	}
	if host, _ := cli(t, exitOK, "inventory", "export", "-o", "ansible", "--host", "node-b"); !strings.Contains(host, `"edge_site": "shop"`) || strings.Contains(host, "edge_facts") {
		t.Errorf("--host node-b from the catalog = %s; want its variables, and no facts", host)
	}
	cli(t, exitError, "inventory", "export", "-o", "ansible", "--host", "node-z", "--server", c.url)
	cli(t, exitError, "inventory", "export", "-o", "json", "--list")
}

func TestRunsOfTheJournalAreShownWithoutTheirSecrets(t *testing.T) {
	c := serveShop(t, apiFlags{})
	ctx := t.Context()
	record := `{"command":"apply","site_path":"/srv/secret/site.hcl","sources":{"bundle":"/srv/secret/b"},"plan":{"actions":[{"address":"image.os","kind":"build","reason":"not in the cache","inputs":"x"}]}}`
	r, err := c.journal.Begin(ctx, journal.Run{Site: "shop", PlanDigest: "sha256:00", Actions: json.RawMessage(record)})
	if err == nil {
		err = c.journal.Started(ctx, r.ID, "image.os", 1, "in")
	}
	if err == nil {
		err = c.journal.Finished(ctx, r.ID, "image.os", 1, "ok", "", []byte("sealed-output"))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/runs", "/v1/runs/" + r.ID.String(), "/v1/runs/" + r.ID.String() + "/steps"} {
		body := get(t, c.url+path)
		if strings.Contains(body, "/srv/secret") || strings.Contains(body, "sealed") || !strings.Contains(body, r.ID.String()) {
			t.Errorf("%s = %s; want the run without paths and outputs", path, body)
		}
	}
	if body := get(t, c.url+"/v1/runs/"+r.ID.String()); !strings.Contains(body, `"actions":[{"address":"image.os","kind":"build","reason":"not in the cache"}]`) {
		t.Errorf("the run = %s; want what its plan does", body)
	}
}

func TestPowerOfAMachineWithoutABMCIsAFailedOperation(t *testing.T) {
	c := serveShop(t, apiFlags{})
	issued, err := api.IssueToken(t.Context(), c.catalog, time.Now(), "", "robot", resource.RoleOperator, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	robot, err := client.New(client.Config{URL: c.url, Token: issued.Bearer})
	if err != nil {
		t.Fatal(err)
	}
	o, err := robot.SetPower(t.Context(), c.m.ID.String(), resource.PowerRequest{Action: "on"}, "key-1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), awaitBound)
	defer cancel()
	ended, err := robot.Await(ctx, o)
	if err != nil || ended.State != resource.OperationFailed || !strings.Contains(ended.Error, "BMC") {
		t.Errorf("operation = %+v, %v; want it failed, for want of a BMC", ended, err)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s = %s, %v: %s", url, resp.Status, err, body)
	}
	return string(body)
}

func TestCertificateIsForWhereTheServerListens(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	got := certificateHosts(&net.TCPAddr{IP: net.IPv4(172, 22, 0, 1), Port: 8482}, []string{"controller.example"})
	if want := []string{"controller.example", host, "172.22.0.1"}; !slices.Equal(got, want) {
		t.Errorf("certificateHosts(172.22.0.1) = %q; want %q", got, want)
	}
	if got := certificateHosts(&net.TCPAddr{IP: net.IPv4zero, Port: 8482}, nil); !slices.Contains(got, "127.0.0.1") {
		t.Errorf("certificateHosts(0.0.0.0) = %q; want every address of this host among them", got)
	}
}

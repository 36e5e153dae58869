//go:build e2e

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
)

// secured is a controller whose API speaks TLS with the site's authority and asks
// for tokens, as it does off loopback, with the files that clients need.
type secured struct {
	*controller
	url, ca, token string
	dir            string
}

func secureShop(t *testing.T) *secured {
	t.Helper()
	c := serveShop(t, apiFlags{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tls, err := c.ca.TLS(certificateHosts(l.Addr(), nil), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	server, err := api.New(api.Config{
		Catalog: c.catalog, Runs: runs{c.journal}, Version: version, TLS: tls, Address: c.addressOf, Hostname: c.hostnameOf,
		WatchInterval: 20 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	issued, err := api.IssueToken(t.Context(), c.catalog, time.Now(), "", "client", resource.RoleReader, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s := &secured{controller: c, url: "https://" + l.Addr().String(), dir: t.TempDir()}
	s.ca = s.file("ca.pem", string(c.world.ca.PEM()), 0o600)
	s.token = s.file("token", issued.Bearer, 0o600)
	return s
}

func (s *secured) file(name, content string, mode os.FileMode) string {
	s.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		s.Fatal(err)
	}
	return path
}

// command runs a program and returns what it prints; it must succeed.
func (s *secured) command(name string, args ...string) string {
	s.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		s.Skipf("%v: rack/setup.sh installs it", err)
	}
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = s.dir
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		s.Fatalf("%s %q: %v\n%s%s", name, args, err, out, errs.String())
	}
	return string(out)
}

func TestCurlAsksTheAPI(t *testing.T) {
	s := secureShop(t)
	bearer, err := os.ReadFile(s.token)
	if err != nil {
		t.Fatal(err)
	}
	curl := func(args ...string) string {
		return s.command("curl", append([]string{"-sS", "--cacert", s.ca, "-H", "Authorization: Bearer " + string(bearer)}, args...)...)
	}
	var page resource.Page[resource.Machine]
	out := curl("--fail-with-body", "-G", s.url+"/v1/machines", "--data-urlencode", "filter=facts.memory.bytes >= GiB(8)", "-d", "fields=address,facts.memory")
	if err := json.Unmarshal([]byte(out), &page); err != nil || len(page.Items) != 1 || page.Items[0].Address != `machine.node["a"]` || page.Items[0].Facts.Memory.Bytes != 16<<30 {
		t.Errorf("curl with a filter = %s, %v; want machine a with its memory", out, err)
	}
	if got := s.command("curl", "-sS", "--cacert", s.ca, "-o", "/dev/null", "-w", "%{http_code} %{content_type}", s.url+"/v1/machines"); got != "401 application/problem+json" {
		t.Errorf("curl without a token = %s; want 401 and a problem", got)
	}
	if got := curl("-o", "/dev/null", "-w", "%{http_version}", s.url+"/healthz"); got != "2" {
		t.Errorf("curl speaks HTTP %s; want 2", got)
	}
	machine := s.url + "/v1/machines/" + s.m.ID.String()
	curl("--etag-save", "etag", "-o", "/dev/null", machine)
	if got := curl("--etag-compare", "etag", "-o", "/dev/null", "-w", "%{http_code}", machine); got != "304" {
		t.Errorf("curl with the ETag = %s; want 304", got)
	}
	// curl leaves the stream when its time is over; what came before is printed.
	stream := exec.CommandContext(t.Context(), "curl", "-sS", "-N", "--max-time", "8", "--cacert", s.ca, "-H", "Authorization: Bearer "+string(bearer), s.url+"/v1/watch/machines?fields=address")
	raw, err := stream.Output()
	if code := stream.ProcessState.ExitCode(); code != 28 { // CURLE_OPERATION_TIMEDOUT
		t.Errorf("curl -N ended with %d, %v; want 28, its time over", code, err)
	}
	if got := string(raw); strings.Count(got, "event: machine\n") != 2 || !strings.Contains(got, `data: {"machines":2}`) {
		t.Errorf("curl -N printed\n%s\nwant two machines and that they are all", got)
	}
}

func TestAnsibleReadsTheInventory(t *testing.T) {
	s := secureShop(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(s.dir, "edge-provision")); err != nil { // TestMain makes it the program
		t.Fatal(err)
	}
	script := s.file("inventory", fmt.Sprintf("#!/bin/sh\nexec %s/edge-provision inventory export -o ansible --server %s --ca %s --token-file %s \"$@\"\n", s.dir, s.url, s.ca, s.token), 0o700)
	var list map[string]struct {
		Hosts    []string                  `json:"hosts"`
		HostVars map[string]map[string]any `json:"hostvars"`
	}
	out := s.command("ansible-inventory", "-i", script, "--list")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("ansible-inventory --list: %v\n%s", err, out)
	}
	if got := list["site_shop"].Hosts; !slices.Equal(got, []string{"node-a", "node-b"}) {
		t.Errorf("group site_shop = %q; want node-a and node-b", got)
	}
	if got := list["_meta"].HostVars["node-a"]["ansible_host"]; got != "172.22.0.11" {
		t.Errorf("ansible_host of node-a = %v; want 172.22.0.11", got)
	}
	if host := s.command("ansible-inventory", "-i", script, "--host", "node-b"); !strings.Contains(host, `"ansible_host": "172.22.0.12"`) {
		t.Errorf("ansible-inventory --host node-b = %s; want its address", host)
	}
	// A template in what a machine says of itself must not run where the book is played.
	hostile := "{{ lookup('pipe', 'touch owned; echo was run') }}"
	_, _, err = s.catalog.PutFacts(t.Context(), s.m.ID, inventory.SourceAgent, inventory.Facts{System: &inventory.System{Product: hostile}}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	book := s.file("book.yml", `
- hosts: node-a
  gather_facts: false
  tasks:
    - ansible.builtin.copy: {content: "{{ edge_facts.system.product }}", dest: `+s.dir+`/product}
      delegate_to: localhost
`, 0o600)
	s.command("ansible-playbook", "-i", script, "-c", "local", book)
	if product, err := os.ReadFile(filepath.Join(s.dir, "product")); err != nil || string(product) != hostile {
		t.Errorf("a playbook read the product as %q, %v; want %q", product, err, hostile)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "owned")); err == nil {
		t.Error("a playbook ran a command that the machine gave as its product")
	}
}

// TestPrometheusDiscoversMachines runs the real Prometheus, which `make workload`
// builds, against the discovery and against /metrics.
func TestPrometheusDiscoversMachines(t *testing.T) {
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(cache, "edge-provision", "workload", "prometheus")
	if _, err := os.Stat(program); err != nil {
		t.Skipf("%v: make workload builds it", err)
	}
	s := secureShop(t)
	l, err := net.Listen("tcp", "127.0.0.1:0") // a free port
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	access := fmt.Sprintf("{credentials_file: %s}", s.token)
	config := s.file("prometheus.yml", fmt.Sprintf(`
scrape_configs:
  - job_name: controller
    scrape_interval: 1s
    authorization: %[2]s
    tls_config: {ca_file: %[3]s}
    http_sd_configs: [{url: "%[1]s/v1/prometheus/targets", authorization: %[2]s, tls_config: {ca_file: %[3]s}, refresh_interval: 1s}]
  - job_name: machines
    http_sd_configs: [{url: "%[1]s/v1/prometheus/targets?port=9100", authorization: %[2]s, tls_config: {ca_file: %[3]s}, refresh_interval: 1s}]
`, s.url, access, s.ca), 0o600)
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, program, "--config.file="+config, "--web.listen-address="+at, "--storage.tsdb.path="+filepath.Join(s.dir, "tsdb"))
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if cmd.Wait() == nil {
			t.Log("prometheus ended by itself")
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	type target struct {
		Labels    map[string]string `json:"labels"`
		Health    string            `json:"health"`
		LastError string            `json:"lastError"`
	}
	var seen struct {
		Data struct {
			Active []target `json:"activeTargets"`
		} `json:"data"`
	}
	// Prometheus needs seconds to start, to discover and to scrape once.
	deadline := time.Now().Add(time.Minute)
	for ticker := time.NewTicker(200 * time.Millisecond); ; <-ticker.C {
		resp, err := http.Get("http://" + at + "/api/v1/targets")
		if err == nil {
			err = json.NewDecoder(resp.Body).Decode(&seen)
			resp.Body.Close()
		}
		machines, scraped := map[string]string{}, false
		for _, a := range seen.Data.Active {
			if a.Labels["job"] == "machines" {
				machines[a.Labels["instance"]] = a.Labels["hostname"]
			}
			scraped = scraped || a.Labels["job"] == "controller" && a.Health == "up"
		}
		if err == nil && scraped && machines["172.22.0.11:9100"] == "node-a" && machines["172.22.0.12:9100"] == "node-b" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("Prometheus sees %+v, %v; want the controller up and both machines", seen.Data.Active, err)
		}
	}
}

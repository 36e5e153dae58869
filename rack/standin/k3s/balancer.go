package k3s

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// balancer passes an agent's connections on to a server that answers.
type balancer struct {
	url  string
	path string // keeps the servers for the next start

	mu      sync.Mutex
	servers []string // host:port, the last one that answered first
}

// balance listens at K3s's port for this.
func (a *agent) balance(ctx context.Context, first string) (*balancer, error) {
	u, err := url.Parse(first)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("invalid server URL %q, want https://HOST:6443", first)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "443")
	}
	b := &balancer{path: filepath.Join(a.dir, "etc", "k3s-agent-load-balancer.json")}
	if text, err := os.ReadFile(b.path); err == nil {
		if err := json.Unmarshal(text, &b.servers); err != nil {
			return nil, fmt.Errorf("reading %s: %w", b.path, err)
		}
	}
	b.servers = append(b.servers, host)
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", a.get("lb-server-port", "6444")))
	if err != nil {
		return nil, fmt.Errorf("opening the load balancer's port: %w", err)
	}
	b.url = "https://" + listener.Addr().String()
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go b.serve(conn)
		}
	}()
	return b, nil
}

func (b *balancer) serve(conn net.Conn) {
	defer conn.Close()
	b.mu.Lock()
	servers := append([]string(nil), b.servers...)
	b.mu.Unlock()
	for _, server := range servers {
		// A server without power sends no reset.
		dialer := net.Dialer{Timeout: 3 * time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 3}}
		up, err := dialer.Dial("tcp4", server)
		if err != nil {
			continue
		}
		defer up.Close()
		b.prefer(server)
		done := make(chan struct{}, 2)
		for _, pair := range [][2]net.Conn{{conn, up}, {up, conn}} {
			go func() {
				// The end of one direction is the end of both.
				_, _ = io.Copy(pair[0], pair[1])
				done <- struct{}{}
			}()
		}
		<-done
		return
	}
}

func (b *balancer) prefer(server string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, s := range b.servers {
		if s == server {
			copy(b.servers[1:], b.servers[:i])
			b.servers[0] = server
			return
		}
	}
}

// refreshInterval is how often an agent asks for the cluster's servers.
const refreshInterval = 5 * time.Second

func (b *balancer) refresh(ctx context.Context, a *agent) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(refreshInterval):
		}
		text, err := request(ctx, http.MethodGet, a.server+"/v1-k3s/apiservers", a.ca, a.credential, nil, nil)
		var servers []string
		if err == nil {
			err = json.Unmarshal(text, &servers)
		}
		if err != nil || len(servers) == 0 {
			continue
		}
		b.mu.Lock()
		b.servers = servers
		b.mu.Unlock()
		if err := writeFile(b.path, text, 0o600); err != nil {
			a.log.Warn("keeping the list of servers", "error", err)
		}
	}
}

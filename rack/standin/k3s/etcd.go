package k3s

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	etcdclient "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// etcd is this server's member of the cluster's datastore.
type etcd struct {
	dir    string // …/server/db/etcd
	name   string // HOSTNAME-8 hexadecimal digits, as K3s names members
	peer   string // URL
	client *etcdclient.Client
}

// embedded says whether the datastore is K3s's embedded etcd. A server that
// neither begins nor joins a cluster has SQLite in K3s; here it has an etcd that
// no other server can join.
func (s *server) embedded() bool {
	if s.is("cluster-init") || s.joining != "" {
		return true
	}
	_, err := os.Stat(s.path("db", "etcd", "name"))
	return err == nil
}

func (s *server) etcdTLS() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(s.tls("etcd/client.crt"), s.tls("etcd/client.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(s.tls("etcd/server-ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool}, nil
}

func (s *server) dialEtcd(endpoints ...string) (*etcdclient.Client, error) {
	config, err := s.etcdTLS()
	if err != nil {
		return nil, err
	}
	// etcd is asked while it starts, and should be heard when it has.
	soon := grpc.WithConnectParams(grpc.ConnectParams{
		Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.2, Jitter: 0.1, MaxDelay: time.Second}, MinConnectTimeout: 3 * time.Second,
	})
	return etcdclient.New(etcdclient.Config{
		Endpoints: endpoints, TLS: config, DialTimeout: 5 * time.Second, DialKeepAliveTime: 10 * time.Second, DialOptions: []grpc.DialOption{soon}, Logger: zap.NewNop(),
	})
}

// etcdLimit bounds one request to etcd.
const etcdLimit = 10 * time.Second

// startDatastore starts etcd and returns when it answers; a joining server has
// then been added to the cluster.
func (s *server) startDatastore(ctx context.Context) error {
	embedded := s.embedded()
	e := &etcd{dir: s.path("db", "etcd"), peer: fmt.Sprintf("https://%s:2380", s.ip)}
	s.etcd = e
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return err
	}
	var members []string
	if s.joining != "" {
		var err error
		if members, err = s.join(ctx); err != nil {
			return fmt.Errorf("joining etcd: %w", err)
		}
	}
	if err := e.ensureName(s.name, embedded); err != nil {
		return err
	}
	client := []string{"https://127.0.0.1:2379"}
	peers := []string{"https://127.0.0.1:2380"}
	advertised := client
	if embedded {
		client, peers = append(client, fmt.Sprintf("https://%s:2379", s.ip)), append(peers, e.peer)
		advertised = client[1:]
	} else {
		e.peer = peers[0]
	}
	state, initial := "new", e.name+"="+e.peer
	if len(members) > 0 {
		state, initial = "existing", strings.Join(members, ",")
	}
	metrics := "http://127.0.0.1:2381"
	if s.is("etcd-expose-metrics") {
		metrics += fmt.Sprintf(",http://%s:2381", s.ip)
	}
	args := []string{
		"--name=" + e.name, "--data-dir=" + e.dir, "--listen-client-urls=" + strings.Join(client, ","), "--advertise-client-urls=" + strings.Join(advertised, ","),
		"--listen-peer-urls=" + strings.Join(peers, ","), "--initial-advertise-peer-urls=" + e.peer, "--initial-cluster=" + initial, "--initial-cluster-state=" + state,
		"--listen-metrics-urls=" + metrics, "--client-cert-auth", "--trusted-ca-file=" + s.tls("etcd/server-ca.crt"),
		"--cert-file=" + s.tls("etcd/server-client.crt"), "--key-file=" + s.tls("etcd/server-client.key"), "--peer-client-cert-auth", "--peer-trusted-ca-file=" + s.tls("etcd/peer-ca.crt"),
		"--peer-cert-file=" + s.tls("etcd/peer-server-client.crt"), "--peer-key-file=" + s.tls("etcd/peer-server-client.key"), "--heartbeat-interval=500", "--election-timeout=5000",
		"--snapshot-count=10000", "--log-level=warn", "--auto-compaction-retention=0",
	}
	if err := s.processes.start(component{name: "etcd", args: withExtra(args, s.settings["etcd-arg"])}); err != nil {
		return err
	}
	var err error
	if e.client, err = s.dialEtcd("https://127.0.0.1:2379"); err != nil {
		return fmt.Errorf("connecting to etcd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, controlPlaneLimit)
	defer cancel()
	if err := s.orFailed(ctx, e.promoted); err != nil {
		return fmt.Errorf("waiting for etcd: %w", err)
	}
	return nil
}

func (e *etcd) ensureName(host string, embedded bool) error {
	if !embedded {
		e.name = "default"
		return nil
	}
	path := filepath.Join(e.dir, "name")
	b, err := os.ReadFile(path)
	if err == nil {
		e.name = strings.TrimSpace(string(b))
		return nil
	}
	e.name = host + "-" + randomHex(4)
	return writeFile(path, []byte(e.name), 0o600)
}

// promoted is nil when this member votes and there is a majority.
func (e *etcd) promoted(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, etcdLimit)
	defer cancel()
	status, err := e.client.Status(ctx, "https://127.0.0.1:2379")
	if err != nil {
		return err
	}
	if status.IsLearner {
		return errLearner
	}
	// A read that a majority must agree to.
	_, err = e.client.Get(ctx, "k3s-standin")
	return err
}

// promote lets members vote that have caught up. A learner cannot ask for it
// itself, so the others do.
func (e *etcd) promote(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, etcdLimit)
	defer cancel()
	list, err := e.client.MemberList(ctx)
	if err != nil {
		return fmt.Errorf("listing etcd members: %w", err)
	}
	for _, m := range list.Members {
		if !m.IsLearner || m.Name == "" {
			continue
		}
		_, err := e.client.MemberPromote(ctx, m.ID)
		if err != nil && !errors.Is(err, rpctypes.ErrMemberLearnerNotReady) && !errors.Is(err, rpctypes.ErrMemberNotLearner) && !errors.Is(err, rpctypes.ErrMemberNotFound) {
			return fmt.Errorf("promoting etcd member %s: %w", m.Name, err)
		}
	}
	return nil
}

var errLearner = errors.New("this etcd member is a learner until it has caught up with the others")

// clusterMember is what a server tells of one member.
type clusterMember struct {
	Name     string
	PeerURL  string
	Clients  []string
	IsLeader bool
}

// members asks a server of the cluster for the members of its etcd.
func (s *server) members(ctx context.Context) ([]clusterMember, error) {
	b, err := s.ask(ctx, "/db/info", credential{user: "server", password: s.token})
	if err != nil {
		return nil, err
	}
	var all []clusterMember
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("reading the list of members: %w", err)
	}
	return all, nil
}

// join makes this server a member of the cluster, and returns the members for
// etcd's first start; none when this member has started before.
func (s *server) join(ctx context.Context) ([]string, error) {
	// As in K3s, the log says whether there is a member: etcd makes it whole, by a
	// rename, and a start that was cut off before left nothing of the cluster. On
	// a directory without one etcd would begin a cluster of its own.
	started := func() bool { _, err := os.Stat(filepath.Join(s.etcd.dir, "member", "wal")); return err == nil }
	members, err := s.members(ctx)
	if err != nil {
		if started() {
			// Members find each other again without the server that they
			// joined, which may be gone.
			s.log.Warn("the server that this one joined does not answer; going on with the members known", "error", err)
			return nil, nil
		}
		return nil, err
	}
	kept, err := os.ReadFile(filepath.Join(s.etcd.dir, "name"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	name := strings.TrimSpace(string(kept))
	mine := slices.ContainsFunc(members, func(m clusterMember) bool { return m.PeerURL == s.etcd.peer && (m.Name == name || m.Name == "") })
	if started() {
		if mine {
			return nil, nil
		}
		s.log.Warn("this member was removed from the cluster; its data is set aside and it joins anew")
		if err := os.Rename(s.etcd.dir, fmt.Sprintf("%s-old-%d", s.etcd.dir, time.Now().Unix())); err != nil {
			return nil, err
		}
		if err := os.MkdirAll(s.etcd.dir, 0o700); err != nil {
			return nil, err
		}
	}
	for _, m := range members {
		if i := strings.LastIndex(m.Name, "-"); i > 0 && m.Name[:i] == s.name && m.Name != name {
			return nil, errors.New("duplicate node name found, please use a unique name for this node")
		}
	}
	if err := s.etcd.ensureName(s.name, true); err != nil {
		return nil, err
	}
	if mine {
		return initialCluster(members, s.etcd), nil
	}
	var endpoints []string
	for _, m := range members {
		endpoints = append(endpoints, m.Clients...)
	}
	client, err := s.dialEtcd(endpoints...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	limited, cancel := context.WithTimeout(ctx, controlPlaneLimit)
	defer cancel()
	// etcd takes one learner at a time, and none while a majority is not
	// healthy: K3s waits its turn, too.
	err = until(limited, time.Second, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, etcdLimit)
		defer cancel()
		_, err := client.MemberAddAsLearner(ctx, []string{s.etcd.peer})
		if errors.Is(err, rpctypes.ErrPeerURLExist) {
			return errors.Join(err, errGiveUp)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("adding member %s: %w", s.etcd.name, err)
	}
	members = append(members, clusterMember{Name: s.etcd.name, PeerURL: s.etcd.peer})
	return initialCluster(members, s.etcd), nil
}

func initialCluster(members []clusterMember, own *etcd) []string {
	var all []string
	for _, m := range members {
		if m.PeerURL == own.peer {
			m.Name = own.name
		}
		all = append(all, m.Name+"="+m.PeerURL)
	}
	return all
}

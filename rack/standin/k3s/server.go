package k3s

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/client-go/kubernetes"
)

// server is one control plane.
type server struct {
	settings
	node
	log       *slog.Logger
	dir       string // …/server
	processes *processes

	token, agentToken string
	ca                []byte // of the server authority, as tokens name it

	config clusterConfig
	// joining is the URL of a server of the cluster; empty: this one begins it.
	joining  string
	etcd     *etcd
	deployed map[string]string // size and time of each manifest, by path
	granted  bool              // what controlNodes grants once
	// ready is the cluster's administrator, once the API server answers.
	ready atomic.Pointer[kubernetes.Clientset]
}

// clusterConfig is what must be equal on all servers of a cluster.
type clusterConfig struct {
	ClusterCIDR, ServiceCIDR, ClusterDNS, ClusterDomain, FlannelBackend, EgressSelectorMode string
	Disable                                                                                 []string
	DisableNetworkPolicy, DisableKubeProxy, SecretsEncryption                               bool
}

func (s settings) clusterConfig() (clusterConfig, error) {
	c := clusterConfig{
		ClusterCIDR: s.get("cluster-cidr", "10.42.0.0/16"), ServiceCIDR: s.get("service-cidr", "10.43.0.0/16"),
		ClusterDomain: s.get("cluster-domain", "cluster.local"), FlannelBackend: s.get("flannel-backend", "vxlan"),
		EgressSelectorMode: s.get("egress-selector-mode", "agent"), Disable: s.values("disable"),
		DisableNetworkPolicy: s.is("disable-network-policy"), DisableKubeProxy: s.is("disable-kube-proxy"), SecretsEncryption: s.is("secrets-encryption"),
	}
	if c.FlannelBackend != "none" && c.FlannelBackend != "vxlan" && c.FlannelBackend != "host-gw" {
		return c, fmt.Errorf("flannel-backend %q: the stand-in has vxlan, host-gw (which it does by vxlan, too) and none", c.FlannelBackend)
	}
	if _, err := netip.ParsePrefix(c.ClusterCIDR); err != nil {
		return c, fmt.Errorf("cluster-cidr: %w", err)
	}
	service, err := netip.ParsePrefix(c.ServiceCIDR)
	if err != nil {
		return c, fmt.Errorf("service-cidr: %w", err)
	}
	dns := service.Masked().Addr()
	for range 10 {
		dns = dns.Next()
	}
	c.ClusterDNS = s.get("cluster-dns", dns.String())
	return c, nil
}

const (
	// The API server listens on an address of the loopback of its own, at the
	// port that the cluster is told, while the supervisor has all others.
	apiserverAddress = "127.0.0.2"
	port             = "6443"
	localURL         = "https://127.0.0.1:" + port
)

func (s *server) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *server) tls(name string) string { return s.path("tls", name) }
func (s *server) cred(name string) string {
	return s.path("cred", name+".kubeconfig")
}

// shared are the files that every server of a cluster has alike.
var shared = []string{
	"tls/server-ca.crt", "tls/server-ca.key", "tls/client-ca.crt", "tls/client-ca.key", "tls/request-header-ca.crt", "tls/request-header-ca.key",
	"tls/etcd/server-ca.crt", "tls/etcd/server-ca.key", "tls/etcd/peer-ca.crt", "tls/etcd/peer-ca.key", "tls/service.key", "cred/encryption-config.json",
}

// authorities by the name of their files.
var authorities = map[string]string{
	"server-ca": "k3s-server-ca", "client-ca": "k3s-client-ca", "request-header-ca": "k3s-request-header-ca", "etcd/server-ca": "etcd-server-ca", "etcd/peer-ca": "etcd-peer-ca",
}

// runServer runs until ctx ends or a component does.
func runServer(ctx context.Context, set settings, log *slog.Logger) error {
	n, err := set.node()
	if err != nil {
		return err
	}
	config, err := set.clusterConfig()
	if err != nil {
		return err
	}
	s := &server{settings: set, node: n, log: log, dir: filepath.Join(set.dataDir(), "server"), processes: newProcesses(log), config: config, deployed: map[string]string{}}
	s.joining = strings.TrimSuffix(set.get("server", ""), "/")
	for _, dir := range []string{"tls/etcd", "cred", "db", "manifests"} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return err
		}
	}
	defer s.processes.stop()
	if err := s.prepare(ctx); err != nil {
		return err
	}
	supervisor, err := s.listen()
	if err != nil {
		return err
	}
	defer supervisor.Close()
	if err := s.startDatastore(ctx); err != nil {
		return err
	}
	if err := s.startControlPlane(ctx); err != nil {
		return err
	}
	a := &agent{
		settings: set, node: n, log: log, dir: filepath.Join(set.dataDir(), "agent"), processes: s.processes, server: localURL,
		credential: credential{user: "node", password: s.agentToken}, ca: s.ca,
	}
	// An agent's network waits for what this grants.
	go s.controlNodes(ctx)
	if err := a.start(ctx); err != nil {
		return err
	}
	notify("READY=1")
	log.Info("k3s-standin is up and running")
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.processes.failed:
		return err
	}
}

func (s settings) dataDir() string {
	return s.get("data-dir", "/var/lib/rancher/k3s")
}

// prepare makes or fetches what all servers share, and writes this server's own
// certificates, tokens and kubeconfigs.
func (s *server) prepare(ctx context.Context) error {
	given, err := s.givenToken()
	if err != nil {
		return err
	}
	if _, err := os.Stat(s.tls("server-ca.crt")); errors.Is(err, os.ErrNotExist) {
		if s.joining != "" {
			if err := s.fetchShared(ctx, given); err != nil {
				return fmt.Errorf("preparing server: %w", err)
			}
		} else if given.hash != "" {
			return errors.New("preparing server: failed to normalize server token: the first server of a cluster takes the short form, because its CA does not exist yet")
		}
	}
	if err := s.ensureShared(); err != nil {
		return fmt.Errorf("preparing server: %w", err)
	}
	if s.ca, err = os.ReadFile(s.tls("server-ca.crt")); err != nil {
		return err
	}
	if given.hash != "" && given.hash != caHash(s.ca) {
		return errors.New("preparing server: token CA hash does not match the Cluster CA certificate hash")
	}
	s.token, s.agentToken = given.password, given.password
	if v := s.get("agent-token", ""); v != "" {
		c, err := parseToken(v)
		if err != nil {
			return fmt.Errorf("agent-token: %w", err)
		}
		s.agentToken = c.password
	}
	if err := writeTokens(s.dir, s.ca, s.token, s.agentToken); err != nil {
		return err
	}
	if err := s.writeManifests(); err != nil {
		return fmt.Errorf("writing manifests: %w", err)
	}
	return s.issueAll()
}

// givenToken is the configured token, that of an earlier start, or a random one.
func (s *server) givenToken() (credential, error) {
	text := s.get("token", "")
	if b, err := os.ReadFile(s.path("token")); err == nil {
		kept, err := parseToken(strings.TrimSpace(string(b)))
		if err != nil {
			return credential{}, fmt.Errorf("reading %s: %w", s.path("token"), err)
		}
		if text == "" {
			return kept, nil
		}
		given, err := parseToken(text)
		if err == nil && given.password != kept.password {
			return credential{}, errors.New("bootstrap data already found and encrypted with different token")
		}
		return given, err
	}
	if text == "" {
		if s.joining != "" {
			return credential{}, errors.New("--token is required to join a cluster")
		}
		return credential{password: randomHex(16)}, nil
	}
	return parseToken(text)
}

func (s *server) ensureShared() error {
	for name, common := range authorities {
		if err := ensureAuthority(s.tls(name), common); err != nil {
			return err
		}
	}
	if _, err := os.Stat(s.tls("service.key")); errors.Is(err, os.ErrNotExist) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return fmt.Errorf("making the service account key: %w", err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
		if err := writeFile(s.tls("service.key"), text, 0o600); err != nil {
			return err
		}
	}
	path := s.path("cred", "encryption-config.json")
	if _, err := os.Stat(path); err == nil || !s.config.SecretsEncryption {
		return nil
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	text := fmt.Sprintf(`{"kind":"EncryptionConfiguration","apiVersion":"apiserver.config.k8s.io/v1","resources":[{"resources":["secrets"],"providers":[{"aescbc":{"keys":[{"name":"aescbckey","secret":"%s"}]}},{"identity":{}}]}]}`, ca64(key))
	return writeFile(path, []byte(text), 0o600)
}

// issueAll issues this server's certificates.
func (s *server) issueAll() error {
	service, err := netip.ParsePrefix(s.config.ServiceCIDR)
	if err != nil {
		return err
	}
	loopback := []string{"127.0.0.1", apiserverAddress, "localhost", s.ip.String(), s.name}
	public := append([]string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + s.config.ClusterDomain, service.Masked().Addr().Next().String(),
		s.get("advertise-address", ""),
	}, append(loopback, s.values("tls-san")...)...)
	for _, c := range []struct {
		authority, file string
		leaf            leaf
	}{
		{"server-ca", "serving-kube-apiserver", leaf{name: "kube-apiserver", hosts: public, usages: serverUse}},
		{"client-ca", "client-admin", leaf{name: "system:admin", groups: []string{"system:masters"}, usages: clientUse}},
		{"client-ca", "client-supervisor", leaf{name: "system:k3s-supervisor", groups: []string{"system:masters"}, usages: clientUse}},
		{"client-ca", "client-kube-apiserver", leaf{name: "system:apiserver", groups: []string{"system:masters"}, usages: clientUse}},
		{"client-ca", "client-controller", leaf{name: "system:kube-controller-manager", usages: clientUse}},
		{"client-ca", "client-scheduler", leaf{name: "system:kube-scheduler", usages: clientUse}},
		{"request-header-ca", "client-auth-proxy", leaf{name: "system:auth-proxy", usages: clientUse}},
		{"etcd/server-ca", "etcd/server-client", leaf{name: "etcd-server", hosts: loopback, usages: bothUses}},
		{"etcd/server-ca", "etcd/client", leaf{name: "etcd-client", usages: clientUse}},
		{"etcd/peer-ca", "etcd/peer-server-client", leaf{name: "etcd-peer", hosts: loopback, usages: bothUses}},
	} {
		a, err := loadAuthority(s.tls(c.authority))
		if err != nil {
			return err
		}
		if err := a.issue(s.tls(c.file), c.leaf); err != nil {
			return fmt.Errorf("issuing %s: %w", c.file, err)
		}
	}
	for name, file := range map[string]string{"admin": "client-admin", "supervisor": "client-supervisor", "controller": "client-controller", "scheduler": "client-scheduler"} {
		if err := writeKubeconfig(s.cred(name), localURL, s.ca, s.tls(file), 0o600); err != nil {
			return err
		}
	}
	mode, err := strconv.ParseUint(s.get("write-kubeconfig-mode", "600"), 8, 32)
	if err != nil {
		return fmt.Errorf("write-kubeconfig-mode: %w", err)
	}
	return writeKubeconfig(s.get("write-kubeconfig", "/etc/rancher/k3s/k3s.yaml"), localURL, s.ca, s.tls("client-admin"), os.FileMode(mode))
}

// controlPlaneLimit bounds the start of the API server, which may wait for a
// majority of etcd's members.
const controlPlaneLimit = 15 * time.Minute

func (s *server) startControlPlane(ctx context.Context) error {
	args := []string{
		"--advertise-address=" + s.get("advertise-address", s.ip.String()), "--bind-address=" + apiserverAddress, "--secure-port=" + port, "--permit-port-sharing=true",
		"--allow-privileged=true", "--anonymous-auth=false", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--enable-bootstrap-token-auth=true",
		"--client-ca-file=" + s.tls("client-ca.crt"), "--tls-cert-file=" + s.tls("serving-kube-apiserver.crt"), "--tls-private-key-file=" + s.tls("serving-kube-apiserver.key"),
		"--etcd-servers=https://127.0.0.1:2379", "--etcd-cafile=" + s.tls("etcd/server-ca.crt"), "--etcd-certfile=" + s.tls("etcd/client.crt"), "--etcd-keyfile=" + s.tls("etcd/client.key"),
		"--kubelet-certificate-authority=" + s.tls("server-ca.crt"), "--kubelet-client-certificate=" + s.tls("client-kube-apiserver.crt"), "--kubelet-client-key=" + s.tls("client-kube-apiserver.key"),
		"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
		"--proxy-client-cert-file=" + s.tls("client-auth-proxy.crt"), "--proxy-client-key-file=" + s.tls("client-auth-proxy.key"), "--requestheader-client-ca-file=" + s.tls("request-header-ca.crt"),
		"--requestheader-allowed-names=system:auth-proxy", "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--service-account-issuer=https://kubernetes.default.svc." + s.config.ClusterDomain, "--service-account-key-file=" + s.tls("service.key"), "--service-account-signing-key-file=" + s.tls("service.key"),
		"--service-cluster-ip-range=" + s.config.ServiceCIDR, "--service-node-port-range=" + s.get("service-node-port-range", "30000-32767"), "--profiling=false",
	}
	if s.config.SecretsEncryption {
		args = append(args, "--encryption-provider-config="+s.path("cred", "encryption-config.json"))
	}
	if err := s.processes.start(component{name: "kube-apiserver", args: withExtra(args, s.settings["kube-apiserver-arg"])}); err != nil {
		return err
	}
	admin, err := clientOf(s.cred("supervisor"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, controlPlaneLimit)
	defer cancel()
	if err := s.orFailed(ctx, func(ctx context.Context) error {
		_, err := admin.RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	}); err != nil {
		return fmt.Errorf("waiting for the API server: %w", err)
	}
	s.ready.Store(admin)
	manager := []string{
		"--kubeconfig=" + s.cred("controller"), "--authentication-kubeconfig=" + s.cred("controller"), "--authorization-kubeconfig=" + s.cred("controller"),
		"--allocate-node-cidrs=true", "--cluster-cidr=" + s.config.ClusterCIDR, "--service-cluster-ip-range=" + s.config.ServiceCIDR, "--bind-address=127.0.0.1", "--profiling=false",
		"--cluster-signing-kube-apiserver-client-cert-file=" + s.tls("client-ca.crt"), "--cluster-signing-kube-apiserver-client-key-file=" + s.tls("client-ca.key"),
		"--cluster-signing-kubelet-client-cert-file=" + s.tls("client-ca.crt"), "--cluster-signing-kubelet-client-key-file=" + s.tls("client-ca.key"),
		"--cluster-signing-kubelet-serving-cert-file=" + s.tls("server-ca.crt"), "--cluster-signing-kubelet-serving-key-file=" + s.tls("server-ca.key"),
		"--controllers=*,tokencleaner", "--root-ca-file=" + s.tls("server-ca.crt"), "--service-account-private-key-file=" + s.tls("service.key"), "--use-service-account-credentials=true",
	}
	if err := s.processes.start(component{name: "kube-controller-manager", args: withExtra(manager, s.settings["kube-controller-manager-arg"])}); err != nil {
		return err
	}
	scheduler := []string{
		"--kubeconfig=" + s.cred("scheduler"), "--authentication-kubeconfig=" + s.cred("scheduler"), "--authorization-kubeconfig=" + s.cred("scheduler"), "--bind-address=127.0.0.1", "--profiling=false",
	}
	return s.processes.start(component{name: "kube-scheduler", args: withExtra(scheduler, s.settings["kube-scheduler-arg"])})
}

// orFailed repeats f until it succeeds or a component ends.
func (s *server) orFailed(ctx context.Context, f func(context.Context) error) error {
	return until(ctx, 250*time.Millisecond, func(ctx context.Context) error {
		select {
		case err := <-s.processes.failed:
			// Others want to know, too.
			s.processes.failed <- err
			return errors.Join(err, errGiveUp)
		default:
			return f(ctx)
		}
	})
}

// withExtra adds what the configuration passes on: "key=value" without dashes.
func withExtra(args, extra []string) []string {
	for _, e := range extra {
		args = append(args, "--"+strings.TrimLeft(e, "-"))
	}
	return args
}

package k3s

// Paths on a machine, as K3s and its install script choose them.
const (
	binaryPath = "/usr/local/bin/k3s"
	stagedPath = binaryPath + stagedSuffix
	// stagedSuffix is on files that are not yet in use.
	stagedSuffix   = ".edge-new"
	configPath     = "/etc/rancher/k3s/config.yaml"
	registriesPath = "/etc/rancher/k3s/registries.yaml"
	kubeconfigPath = "/etc/rancher/k3s/k3s.yaml"
	passwordPath   = "/etc/rancher/node/password"
	dataDir        = "/var/lib/rancher/k3s"
	imagesDir      = dataDir + "/agent/images"
	// imagePrefix tells the tarballs that this program brought from others.
	imagePrefix   = "edge-"
	manifestsDir  = dataDir + "/server/manifests"
	snapshotsDir  = dataDir + "/server/db/snapshots"
	etcdDir       = dataDir + "/server/db/etcd/member"
	sqlitePath    = dataDir + "/server/db/state.db"
	kubeletCert   = dataDir + "/agent/client-kubelet.crt"
	serverCA      = dataDir + "/server/tls/server-ca.crt"
	agentCA       = dataDir + "/agent/server-ca.crt"
	tokenPath     = dataDir + "/server/token"
	psaPath       = dataDir + "/server/psa.yaml"
	auditPath     = dataDir + "/server/audit.yaml"
	auditLogDir   = dataDir + "/server/logs"
	sysctlPath    = "/etc/sysctl.d/90-kubelet.conf"
	networkPolicy = manifestsDir + "/edge-cis-network-policy.yaml"
	// startedPath holds the digest of the files that K3s was last seen ready
	// with, and who installed it.
	startedPath = "/var/lib/edge-provision/k3s.json"
)

// links are the names under which the binary is also a client.
var links = []string{"/usr/local/bin/kubectl", "/usr/local/bin/crictl", "/usr/local/bin/ctr"}

// sharedDirs are directories that K3s, kubelet and pod networks use and that
// others may have used before them.
var sharedDirs = []string{
	"/etc/cni", "/etc/rancher", "/opt/cni", "/opt/containerd", "/run/calico", "/run/containerd", "/run/flannel", "/run/k3s", "/run/netns", "/usr/libexec/kubernetes", "/var/lib/calico",
	"/var/lib/cni", "/var/lib/kubelet", "/var/lib/rancher", "/var/log/calico", "/var/log/containers", "/var/log/pods",
}

// role is what a machine is in the cluster.
type role string

const (
	server role = "server"
	agent  role = "agent"
)

// unit is the name of the systemd service.
func (r role) unit() string {
	if r == server {
		return "k3s"
	}
	return "k3s-agent"
}

func (r role) unitPath() string { return "/etc/systemd/system/" + r.unit() + ".service" }
func (r role) envPath() string  { return r.unitPath() + ".env" }

// leavingPath is the drop-in of a unit whose node is leaving the cluster. It is gone
// with the next start of the machine.
func (r role) leavingPath() string {
	return "/run/systemd/system/" + r.unit() + ".service.d/edge-leaving.conf"
}

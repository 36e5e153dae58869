package k3s

import (
	"slices"

	"sigs.k8s.io/yaml"
)

// critical are the settings of config.yaml in which a server that joins has to be like
// the one that it joins, or it ends at once (k3s pkg/cluster/bootstrap.go,
// compareConfig). The networks of pods and services belong to them, too, and are fixed
// for life.
type critical struct {
	FlannelBackend  string
	NoNetworkPolicy bool
	NoServiceLB     bool
	Encrypted       bool
}

// parseCritical reads them from a config.yaml; nil when it does not tell.
func parseCritical(config []byte) *critical {
	var v struct {
		FlannelBackend  string   `json:"flannel-backend"`
		NoNetworkPolicy bool     `json:"disable-network-policy"`
		Disable         []string `json:"disable"`
		Encrypted       bool     `json:"secrets-encryption"`
	}
	if len(config) == 0 || yaml.Unmarshal(config, &v) != nil {
		return nil
	}
	return &critical{
		FlannelBackend: v.FlannelBackend, NoNetworkPolicy: v.NoNetworkPolicy,
		NoServiceLB: slices.Contains(v.Disable, "servicelb"), Encrypted: v.Encrypted,
	}
}

// differs reports whether a server of the cluster runs with other critical settings
// than are declared: none can join through it until it was restarted.
func (t *target) differs() bool {
	i := slices.IndexFunc(t.files, func(f file) bool { return f.Path == configPath })
	if i < 0 || !t.joined || t.observation.critical == nil {
		return false
	}
	declared := parseCritical(t.files[i].Content)
	return declared != nil && *declared != *t.observation.critical
}

// checkEncryption refuses what would make Secrets unreadable. A server that is started
// with secrets-encryption in a cluster that has none makes a key of its own, and without
// it none can read what is encrypted (docs.k3s.io/security/secrets-encryption; k3s
// issues 4838 and 7195). Servers that never got ready have no Secrets to lose.
func (c *Cluster) checkEncryption(servers []*observation) error {
	for _, o := range servers {
		if !o.joined || o.started.Fixed == "" {
			continue
		}
		was := o.started.Encrypted
		if was == nil && o.critical != nil {
			was = &o.critical.Encrypted // marks of an older release do not tell
		}
		switch {
		case was == nil || *was == (c.Profile == CIS):
			continue
		case *was:
			return refuse("%s: the cluster was made with profile = %q, by which K3s encrypts Secrets where it keeps them, and it is declared without: the API server could not read them any more. "+
				"Declare the profile again, or destroy the cluster first", o.node.Machine, CIS)
		}
		return refuse("%s: the cluster was made without profile = %q, which is declared now: each server would begin to encrypt Secrets with a key of its own, which the others do not have. "+
			"Declare it as it was, or destroy the cluster first", o.node.Machine, CIS)
	}
	return nil
}

package k3s

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// startKubelet starts kubelet and kube-proxy, and returns when kubelet is well.
func (a *agent) startKubelet(ctx context.Context) error {
	file := func(name string) string { return filepath.Join(a.dir, name) }
	config, err := json.MarshalIndent(map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"address": "0.0.0.0", "healthzBindAddress": "127.0.0.1", "staticPodPath": file("pod-manifests"), "volumePluginDir": file("libexec/kubernetes/kubelet-plugins/volume/exec"),
		"authentication": map[string]any{"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true}, "x509": map[string]any{"clientCAFile": file("client-ca.crt")}},
		"authorization":  map[string]any{"mode": "Webhook"},
		"tlsCertFile":    file("serving-kubelet.crt"), "tlsPrivateKeyFile": file("serving-kubelet.key"),
		"clusterDNS": strings.Split(a.config.ClusterDNS, ","), "clusterDomain": a.config.ClusterDomain, "resolvConf": a.resolvConf(),
		"containerRuntimeEndpoint": "unix://" + containerdSocket, "serializeImagePulls": false,
		"cgroupDriver": "cgroupfs", "failCgroupV1": false, "failSwapOn": false, "oomScoreAdj": 0,
		"evictionHard":           map[string]string{"imagefs.available": "5%", "nodefs.available": "5%"},
		"evictionMinimumReclaim": map[string]string{"imagefs.available": "10%", "nodefs.available": "10%"},
		"protectKernelDefaults":  a.is("protect-kernel-defaults"), "shutdownGracePeriod": "0s", "syncFrequency": "30s", "nodeStatusUpdateFrequency": "10s",
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file("etc/kubelet.conf"), config, 0o600); err != nil {
		return err
	}
	args := []string{"--config=" + file("etc/kubelet.conf"), "--kubeconfig=" + file("kubelet.kubeconfig"), "--hostname-override=" + a.name, "--node-ip=" + a.ip.String(), "--root-dir=/var/lib/kubelet", "--cert-dir=" + file("pki")}
	if labels := a.values("node-label"); len(labels) > 0 {
		args = append(args, "--node-labels="+strings.Join(labels, ","))
	}
	if taints := a.values("node-taint"); len(taints) > 0 {
		args = append(args, "--register-with-taints="+strings.Join(taints, ","))
	}
	if err := a.processes.start(component{name: "kubelet", args: withExtra(args, a.settings["kubelet-arg"])}); err != nil {
		return err
	}
	if !a.config.DisableKubeProxy {
		proxy := []string{
			"--kubeconfig=" + file("kubeproxy.kubeconfig"), "--hostname-override=" + a.name, "--cluster-cidr=" + a.config.ClusterCIDR, "--healthz-bind-address=127.0.0.1", "--proxy-mode=iptables",
			// The table of connections is the whole machine's, not a container's.
			"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-close-wait=0s", "--conntrack-tcp-timeout-established=0s",
		}
		if err := a.processes.start(component{name: "kube-proxy", args: withExtra(proxy, a.settings["kube-proxy-arg"])}); err != nil {
			return err
		}
	}
	limited, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	err = until(limited, 200*time.Millisecond, func(ctx context.Context) error {
		select {
		case err := <-a.processes.failed:
			a.processes.failed <- err
			return fmt.Errorf("%w: %w", errGiveUp, err)
		default:
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:10248/healthz", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("kubelet: %s", response.Status)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("waiting for kubelet: %w", err)
	}
	return nil
}

// resolvConf is the file that pods' resolver is made from. One that names only
// this machine would send pods to themselves, so K3s replaces it, too.
func (a *agent) resolvConf() string {
	if v := a.get("resolv-conf", ""); v != "" {
		return v
	}
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), "nameserver ") && !strings.Contains(string(b), "nameserver 127.") {
			return path
		}
	}
	path := filepath.Join(a.dir, "etc/resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver "+strings.Split(a.config.ClusterDNS, ",")[0]+"\n"), 0o644); err != nil {
		a.log.Warn("writing resolv.conf", "error", err)
	}
	return path
}

package host

import (
	"fmt"
	"os"
	"path/filepath"
)

// Kubernetes is what `make kubernetes` has built: files in the cache.
type Kubernetes struct {
	// K3s is the stand-in for K3s, to be installed as "k3s"; its Kubernetes is
	// that of Version. Next is the same code under the name of NextVersion.
	K3s, Next            string
	Version, NextVersion string
	// Images is the archive for K3s's images directory: the pause image and
	// docker.io/edge-provision/toolbox:1.
	Images string
	// Dir holds kube-apiserver, etcd and kubectl, among others.
	Dir string
}

// FindKubernetes finds what `make kubernetes` has built below cacheDir, the
// directory edge-provision in the user's cache; its error says to run it.
func FindKubernetes(cacheDir string) (Kubernetes, error) {
	dir := filepath.Join(cacheDir, "kubernetes", "v1.34.4")
	k := Kubernetes{
		K3s: filepath.Join(dir, "k3s-standin"), Next: filepath.Join(dir, "k3s-standin-next"), Images: filepath.Join(dir, "k3s-standin-images.tar"), Dir: dir,
		Version: "v1.34.4+k3s1", NextVersion: "v1.35.1+k3s1",
	}
	for _, path := range []string{k.K3s, k.Next, k.Images} {
		if _, err := os.Stat(path); err != nil {
			return Kubernetes{}, fmt.Errorf("finding the parts of Kubernetes: %w: run make kubernetes", err)
		}
	}
	return k, nil
}

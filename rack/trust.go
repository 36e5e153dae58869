package rack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Programs started by `ip netns exec` see /etc/netns/NAME/FILE in the place of
// /etc/FILE (ip-netns(8)). A rack uses that to make its BMCs' certificates
// trusted inside its namespace, and nowhere else: a site that is rehearsed needs
// no pins that its real BMCs would not have.

// configuration is the directory of a namespace's own files of /etc.
func configuration(namespace string) string { return filepath.Join("/etc/netns", namespace) }

// Files of /etc/ssl that programs inside still need.
const (
	sslDir     = "/etc/ssl"
	authority  = "certs/ca-certificates.crt" // Debian's bundle, which Go reads
	sslOptions = "openssl.cnf"
)

// trustCertificates puts this host's authorities and the BMCs' certificates
// together as the namespace's.
func (r *Rack) trustCertificates(made *harvest) error {
	certificates, err := os.ReadFile(r.layout.certificates())
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no Redfish BMC
	}
	if err != nil {
		return fmt.Errorf("reading the BMCs' certificates: %w", err)
	}
	bundle, err := readIfThere(filepath.Join(sslDir, authority))
	if err != nil {
		return err
	}
	options, err := readIfThere(filepath.Join(sslDir, sslOptions))
	if err != nil {
		return err
	}
	// The bind mount needs something to cover.
	if err := made.mkdir(sslDir); err != nil {
		return err
	}
	own := filepath.Join(configuration(r.Namespace()), "ssl")
	if err := made.mkdir(filepath.Join(own, filepath.Dir(authority))); err != nil {
		return err
	}
	for name, content := range map[string][]byte{authority: append(bundle, certificates...), sslOptions: options} {
		path := filepath.Join(own, name)
		made.fileUnlessThere(path)
		if err := writeFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func readIfThere(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// distrust removes the namespace's own files.
func distrust(namespace string) error {
	if err := os.RemoveAll(configuration(namespace)); err != nil {
		return fmt.Errorf("removing the namespace's files of /etc: %w", err)
	}
	// The parent is left when another rack uses it.
	if err := os.Remove(filepath.Dir(configuration(namespace))); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

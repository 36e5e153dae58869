package rack

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/edge-provision/edge-provision/bmc/sim"
)

// makeCertificates gives each Redfish BMC its own self-signed certificate, as a
// controller makes at its first start and keeps. The public parts are also
// written to a file each and to one together.
func (r *Rack) makeCertificates(made *harvest) error {
	var all bytes.Buffer
	for _, m := range r.spec.Machines {
		if m.BMC.Driver != BMCRedfish {
			continue
		}
		pair, public := r.layout.certificatePair(m), r.layout.certificate(m)
		made.fileUnlessThere(pair)
		made.fileUnlessThere(public)
		c, _, err := sim.SelfSignedFile(pair, m.BMC.Address.Addr())
		if err != nil {
			return fmt.Errorf("BMC of %s: %w", m.Address, err)
		}
		text := publicPEM(c)
		all.Write(text)
		if err := writeFile(public, text, 0o644); err != nil {
			return fmt.Errorf("BMC of %s: %w", m.Address, err)
		}
	}
	if all.Len() == 0 {
		return nil
	}
	made.fileUnlessThere(r.layout.certificates())
	return writeFile(r.layout.certificates(), all.Bytes(), 0o644)
}

// publicPEM is the certificate without its key.
func publicPEM(c tls.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
}

// existingCertificate loads what makeCertificates made, and never makes it.
func existingCertificate(path string, addr netip.Addr) (c tls.Certificate, fingerprint string, err error) {
	if _, err := os.Stat(path); err != nil {
		return c, "", fmt.Errorf("looking for a BMC's certificate: %w", err)
	}
	return sim.SelfSignedFile(path, addr)
}

// fileUnlessThere notes a file that is about to be made, if it is.
func (h *harvest) fileUnlessThere(path string) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		h.file(path)
	}
}

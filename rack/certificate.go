package rack

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"time"
)

// certificateValidity is how long a BMC's certificate is valid; those of real
// BMCs outlive the hardware too.
const certificateValidity = 20 * 365 * 24 * time.Hour

// ensureCertificate makes the self-signed certificate of a BMC at address, if
// its files do not hold one for it yet. made says that it did.
func ensureCertificate(certFile, keyFile string, address netip.Addr, now time.Time) (made bool, err error) {
	if c, err := loadCertificate(certFile, keyFile); err == nil {
		if c.Leaf.VerifyHostname(address.String()) == nil && now.Before(c.Leaf.NotAfter) {
			return false, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return false, fmt.Errorf("making a BMC's key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return false, fmt.Errorf("making a BMC's certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: address.String(), Organization: []string{"edge-provision virtual rack"}},
		NotBefore:             now.Add(-24 * time.Hour),
		NotAfter:              now.Add(certificateValidity),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IPAddresses:           []net.IP{address.AsSlice()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return false, fmt.Errorf("making a BMC's certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return false, fmt.Errorf("encoding a BMC's key: %w", err)
	}
	// The key first: a certificate without its key would be in the way.
	if err := writeFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return true, err
	}
	return true, writeFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

func loadCertificate(certFile, keyFile string) (tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("loading BMC certificate %s: %w", certFile, err)
	}
	return c, nil
}

// fingerprint is the SHA-256 of a certificate's DER form in lower-case
// hexadecimal.
func fingerprint(c tls.Certificate) string {
	sum := sha256.Sum256(c.Certificate[0])
	return hex.EncodeToString(sum[:])
}

// joinCertificates writes the certificates of all BMCs into one PEM file, which
// a client may take as its list of authorities.
func joinCertificates(l layout, machines []Machine) error {
	var all bytes.Buffer
	for _, m := range machines {
		if m.BMC.Driver != BMCRedfish {
			continue
		}
		b, err := os.ReadFile(l.certificate(m.Address))
		if err != nil {
			return fmt.Errorf("collecting BMC certificates: %w", err)
		}
		all.Write(b)
	}
	if all.Len() == 0 {
		return nil
	}
	return writeFile(l.certificates(), all.Bytes(), 0o644)
}

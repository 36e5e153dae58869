package k3s

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority is a certificate authority of the cluster.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
	pem         []byte
}

// leaf says what certificate to issue.
type leaf struct {
	name   string
	groups []string
	hosts  []string
	usages []x509.ExtKeyUsage
}

var (
	clientUse = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	serverUse = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	bothUses  = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
)

// Clocks of nodes may be behind the server's by this much.
const clockSkew = time.Hour

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding a key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// ensureAuthority makes an authority unless the files are there.
func ensureAuthority(base, name string) error {
	if _, err := os.Stat(base + ".crt"); err == nil {
		return nil
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: fmt.Sprintf("%s@%d", name, now.Unix())},
		NotBefore: now.Add(-clockSkew), NotAfter: now.AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("making authority %s: %w", name, err)
	}
	// The certificate comes last: without it both are made anew.
	if err := writeFile(base+".key", keyPEM, 0o600); err != nil {
		return err
	}
	return writeFile(base+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

func loadAuthority(base string) (*authority, error) {
	pair, err := tls.LoadX509KeyPair(base+".crt", base+".key")
	if err != nil {
		return nil, fmt.Errorf("reading authority %s: %w", filepath.Base(base), err)
	}
	text, err := os.ReadFile(base + ".crt")
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the key of authority %s cannot sign", filepath.Base(base))
	}
	return &authority{certificate: pair.Leaf, key: key, pem: text}, nil
}

// sign returns a certificate for a public key.
func (a *authority) sign(public crypto.PublicKey, l leaf) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("choosing a serial number: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: l.name, Organization: l.groups},
		NotBefore: now.Add(-clockSkew), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: l.usages,
	}
	for _, host := range l.hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if host != "" {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate for %s: %w", l.name, err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), a.pem...), nil
}

// issue writes base.crt and base.key, new at every start.
func (a *authority) issue(base string, l leaf) error {
	key, keyPEM, err := newKey()
	if err != nil {
		return err
	}
	certificate, err := a.sign(key.Public(), l)
	if err != nil {
		return err
	}
	return errors.Join(writeFile(base+".key", keyPEM, 0o600), writeFile(base+".crt", certificate, 0o644))
}

// signRequest answers a certificate request with a certificate for l; what the
// request asks for beside its key is not looked at.
func (a *authority) signRequest(der []byte, l leaf) ([]byte, error) {
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate request: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("checking the certificate request: %w", err)
	}
	return a.sign(request.PublicKey, l)
}

// writeKubeconfig writes a client's configuration with the certificates inside.
func writeKubeconfig(path, server string, ca []byte, base string, mode os.FileMode) error {
	certificate, err := os.ReadFile(base + ".crt")
	if err != nil {
		return err
	}
	key, err := os.ReadFile(base + ".key")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf(kubeconfig, ca64(ca), server, ca64(certificate), ca64(key))
	if err := writeFile(path, []byte(text), mode); err != nil {
		return fmt.Errorf("writing kubeconfig: %w", err)
	}
	return nil
}

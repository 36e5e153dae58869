package sim

import (
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

// SelfSigned makes a certificate for a simulated BMC at addr, as controllers
// do at their first start, and returns it with its fingerprint in the form
// "sha256:" and hexadecimal.
func SelfSigned(addr netip.Addr) (tls.Certificate, string, error) {
	cert, key, err := selfSignedPEM(addr)
	if err != nil {
		return tls.Certificate{}, "", fmt.Errorf("making certificate of simulated BMC %s: %w", addr, err)
	}
	return loadPair(cert, key)
}

// SelfSignedFile is SelfSigned with a memory: the certificate and key are kept
// as PEM in the file at path (mode 0600) and read from there the next time, so
// that the fingerprint stays.
func SelfSignedFile(path string, addr netip.Addr) (tls.Certificate, string, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		return loadPair(b, b)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return tls.Certificate{}, "", fmt.Errorf("reading certificate of simulated BMC: %w", err)
	}
	cert, key, err := selfSignedPEM(addr)
	if err != nil {
		return tls.Certificate{}, "", fmt.Errorf("making certificate of simulated BMC %s: %w", addr, err)
	}
	if err := os.WriteFile(path, append(cert, key...), 0o600); err != nil {
		return tls.Certificate{}, "", fmt.Errorf("keeping certificate of simulated BMC: %w", err)
	}
	return loadPair(cert, key)
}

func loadPair(cert, key []byte) (tls.Certificate, string, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, "", fmt.Errorf("loading certificate of simulated BMC: %w", err)
	}
	sum := sha256.Sum256(pair.Certificate[0])
	return pair, "sha256:" + hex.EncodeToString(sum[:]), nil
}

func selfSignedPEM(addr netip.Addr) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "simulated BMC " + addr.String()},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses:  []net.IP{addr.AsSlice()},
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

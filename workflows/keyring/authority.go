package keyring

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
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
	"math/big"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// Names of the values that this file makes on first use.
const (
	nameCAKey     = "tls/ca-key"
	nameCACert    = "tls/ca-cert"
	nameServerKey = "tls/server-key"
	nameSSHKey    = "ssh/controller-key"
)

// Authority is a site's certificate authority and the controller's TLS key. Both
// keys are kept for the life of the site: machines pin the server's.
type Authority struct {
	// Certificate is the CA's, for those who check chains.
	Certificate *x509.Certificate

	caKey     *ecdsa.PrivateKey
	serverKey *ecdsa.PrivateKey
	pin       string
}

// Authority returns the site's CA, made on first use. site names it in its
// subject; only the first call's counts.
func (k *Keyring) Authority(ctx context.Context, site string, now time.Time) (*Authority, error) {
	caKey, err := k.ecdsaKey(ctx, nameCAKey)
	if err != nil {
		return nil, err
	}
	serverKey, err := k.ecdsaKey(ctx, nameServerKey)
	if err != nil {
		return nil, err
	}
	der, err := k.getOrCreate(ctx, nameCACert, func() ([]byte, error) {
		serial, err := serialNumber()
		if err != nil {
			return nil, err
		}
		template := &x509.Certificate{
			SerialNumber: serial,
			Subject:      pkix.Name{CommonName: "edge-provision site " + site},
			// The clock of an edge machine is often wrong by years.
			NotBefore:             time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
			NotAfter:              now.AddDate(50, 0, 0),
			IsCA:                  true,
			BasicConstraintsValid: true,
			MaxPathLenZero:        true,
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
		return x509.CreateCertificate(rand.Reader, template, template, caKey.Public(), caKey)
	})
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the site CA's certificate: %w", err)
	}
	if !caKey.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the site CA's certificate and key do not belong together: the store was restored in parts; restore it whole")
	}
	spki, err := x509.MarshalPKIXPublicKey(serverKey.Public())
	if err != nil {
		return nil, fmt.Errorf("hashing the controller's public key: %w", err)
	}
	sum := sha256.Sum256(spki)
	return &Authority{Certificate: cert, caKey: caKey, serverKey: serverKey, pin: hex.EncodeToString(sum[:])}, nil
}

// TLS returns a server configuration with a fresh certificate for hosts (names
// or addresses), signed by the CA, over the persistent server key.
func (a *Authority) TLS(hosts []string, now time.Time) (*tls.Config, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "edge-provision controller"},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     now.AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, a.serverKey.Public(), a.caKey)
	if err != nil {
		return nil, fmt.Errorf("signing the controller's certificate: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{{
			Certificate: [][]byte{der, a.Certificate.Raw},
			PrivateKey:  a.serverKey,
		}},
	}, nil
}

// Pin is the hex SHA-256 of the server key's SubjectPublicKeyInfo, which the
// kernel command line carries as edge.pin.
func (a *Authority) Pin() string { return a.pin }

// PEM is the CA's certificate for clients that check chains.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate.Raw})
}

// SSH returns the controller's per-site SSH key, made on first use, and its
// public part as an authorized_keys line with the given comment.
func (k *Keyring) SSH(ctx context.Context, comment string) (ssh.Signer, string, error) {
	seed, err := k.getOrCreate(ctx, nameSSHKey, func() ([]byte, error) {
		seed := make([]byte, ed25519.SeedSize)
		_, err := rand.Read(seed)
		return seed, err
	})
	if err != nil {
		return nil, "", err
	}
	if len(seed) != ed25519.SeedSize {
		return nil, "", fmt.Errorf("the controller's SSH key has %d bytes; want %d", len(seed), ed25519.SeedSize)
	}
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		return nil, "", fmt.Errorf("reading the controller's SSH key: %w", err)
	}
	line := string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	if comment != "" {
		line += " " + comment
	}
	return signer, line, nil
}

// ecdsaKey returns the P-256 key kept under name, made on first use.
func (k *Keyring) ecdsaKey(ctx context.Context, name string) (*ecdsa.PrivateKey, error) {
	der, err := k.getOrCreate(ctx, name, func() ([]byte, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return x509.MarshalECPrivateKey(key)
	})
	if err != nil {
		return nil, err
	}
	key, err := x509.ParseECPrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("reading key %s: %w", name, err)
	}
	return key, nil
}

func serialNumber() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	return serial, nil
}

package bundle

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// PublicKey is what a bundle's signature is checked with. Its text form is
// "ed25519:" and 44 digits of base 64.
type PublicKey [ed25519.PublicKeySize]byte

const keyPrefix = "ed25519:"

// String returns the text form.
func (k PublicKey) String() string { return keyPrefix + base64.StdEncoding.EncodeToString(k[:]) }

// ParsePublicKey reads the text form.
func ParsePublicKey(text string) (PublicKey, error) {
	var k PublicKey
	digits, ok := strings.CutPrefix(text, keyPrefix)
	raw, err := base64.StdEncoding.Strict().DecodeString(digits)
	if !ok || err != nil || len(raw) != len(k) {
		return k, fmt.Errorf("%.80q is not a public key; want %s and 44 digits of base 64, as `edge-provision bundle key` prints it", text, keyPrefix)
	}
	copy(k[:], raw)
	return k, nil
}

// NewKey makes a signing key and returns it as a PEM file (PKCS #8, RFC 8410)
// with the public key that belongs to it.
func NewKey() (file []byte, public PublicKey, err error) {
	pub, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, public, fmt.Errorf("making a signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, public, fmt.Errorf("making a signing key: %w", err)
	}
	copy(public[:], pub)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), public, nil
}

// ParseKey reads the file that NewKey made, or any other ed25519 key in PKCS #8.
func ParseKey(file []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(file)
	if block == nil {
		return nil, errors.New("it is not a PEM file")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("it is not a private key in PKCS #8: %w", err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T; want an ed25519 key", key)
	}
	return private, nil
}

// signature is what a signature's layer holds.
type signature struct {
	PublicKey string `json:"public_key"`
	Signature []byte `json:"signature"`
}

// message is what is signed: the digest and what it is of, so that a signature
// made for another purpose with the same key is none of a bundle.
func message(digest string) []byte {
	return []byte("edge-provision bundle 1\n" + digest + "\n")
}

func sign(key ed25519.PrivateKey, digest string) (signature, error) {
	var public PublicKey
	raw, ok := key.Public().(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PrivateKeySize {
		return signature{}, errors.New("the signing key is not an ed25519 key")
	}
	copy(public[:], raw)
	return signature{PublicKey: public.String(), Signature: ed25519.Sign(key, message(digest))}, nil
}

// valid reports whether the signature is one of the key that it names.
func (s signature) valid(digest string) (PublicKey, bool) {
	key, err := ParsePublicKey(s.PublicKey)
	return key, err == nil && ed25519.Verify(key[:], message(digest), s.Signature)
}

package drift

import (
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestSnapshotOpensOnlyAsItWasSigned(t *testing.T) {
	key, other := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), ed25519.NewKeyFromSeed([]byte("another seed of thirty-two bytes"))
	content, digest, err := server(nil).Canonical()
	if err != nil {
		t.Fatal(err)
	}
	s := Snapshot{
		Catalog: uuid.UUID{1}, Machine: uuid.UUID{2}, Number: 3, Digest: digest,
		TakenAt: time.Date(2026, 11, 21, 12, 0, 0, 123456789, time.FixedZone("", 3600)), Run: "r", AcceptedBy: "ops",
	}
	signature, err := s.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	public := key.Public().(ed25519.PublicKey)
	kept := s
	kept.TakenAt = s.TakenAt.UTC().Truncate(time.Microsecond) // as a database gives it back
	opened, err := kept.Open(public, signature, content)
	if err != nil || opened.Facts.System.Serial != "7XK2Q93" {
		t.Fatalf("Open() = %+v, %v; want the facts", opened.Facts, err)
	}
	if _, err := kept.Open(other.Public().(ed25519.PublicKey), signature, content); !errors.Is(err, ErrForged) {
		t.Errorf("Open(another key) = %v; want ErrForged", err)
	}
	altered := append([]byte(nil), content...)
	altered[len(altered)/2] ^= 1
	if _, err := kept.Open(public, signature, altered); !errors.Is(err, ErrForged) {
		t.Errorf("Open(altered content) = %v; want ErrForged", err)
	}
	for name, change := range map[string]func(*Snapshot){
		"catalog": func(s *Snapshot) { s.Catalog[0]++ }, "machine": func(s *Snapshot) { s.Machine[0]++ }, "number": func(s *Snapshot) { s.Number++ },
		"time": func(s *Snapshot) { s.TakenAt = s.TakenAt.Add(time.Second) }, "run": func(s *Snapshot) { s.Run = "" },
		"acceptance": func(s *Snapshot) { s.AcceptedBy = "somebody else" },
	} {
		forged := kept
		change(&forged)
		if _, err := forged.Open(public, signature, content); !errors.Is(err, ErrForged) {
			t.Errorf("Open(another %s) = %v; want ErrForged", name, err)
		}
	}
}

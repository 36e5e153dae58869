package store

import (
	"context"
	"time"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/token"
)

// Token is an API token as the catalog keeps it.
type Token struct {
	ID   string
	Name string
	// Hash is the SHA-256 of the secret.
	Hash []byte
	Role string
	// CreatedBy is the id of the token that made it; empty for the command line.
	CreatedBy string
	CreatedAt time.Time
	ExpiresAt time.Time
	// RevokedAt and LastUsedAt are zero until it happens.
	RevokedAt  time.Time
	LastUsedAt time.Time
}

// PutToken keeps a new token.
func (s *Store) PutToken(ctx context.Context, t Token) error {
	return s.write(ctx, "keeping API token "+t.ID, func(tx *ent.Tx) error {
		return tx.Token.Create().SetID(t.ID).SetName(clean(t.Name)).SetHash(t.Hash).SetRole(t.Role).SetCreatedBy(t.CreatedBy).
			SetCreatedAt(stamp(t.CreatedAt)).SetExpiresAt(stamp(t.ExpiresAt)).Exec(ctx)
	})
}

// Token returns the token with an id, expired and revoked ones too, or
// ErrNotFound.
func (s *Store) Token(ctx context.Context, id string) (Token, error) {
	r, err := s.main.client.Token.Get(ctx, id)
	if err != nil {
		return Token{}, s.explain("reading an API token", err)
	}
	return tokenOf(r), nil
}

// Tokens returns all tokens, the newest first.
func (s *Store) Tokens(ctx context.Context) ([]Token, error) {
	rows, err := s.main.client.Token.Query().Order(ent.Desc(token.FieldCreatedAt, token.FieldID)).All(ctx)
	if err != nil {
		return nil, s.explain("listing API tokens", err)
	}
	out := make([]Token, len(rows))
	for i, r := range rows {
		out[i] = tokenOf(r)
	}
	return out, nil
}

// RevokeToken ends a token now. Revoking it again changes nothing; an unknown id
// is ErrNotFound.
func (s *Store) RevokeToken(ctx context.Context, id string) error {
	return s.write(ctx, "revoking API token "+id, func(tx *ent.Tx) error {
		r, err := tx.Token.Get(ctx, id)
		if err != nil || r.RevokedAt != nil {
			return err
		}
		return tx.Token.UpdateOne(r).SetRevokedAt(s.now()).Exec(ctx)
	})
}

// TouchToken notes that a token was used at a time.
func (s *Store) TouchToken(ctx context.Context, id string, at time.Time) error {
	return s.writeOn(ctx, s.main, idle, "noting the use of API token "+id, func(tx *ent.Tx) error {
		return tx.Token.UpdateOneID(id).SetLastUsedAt(stamp(at)).Exec(ctx)
	})
}

func tokenOf(r *ent.Token) Token {
	t := Token{
		ID: r.ID, Name: r.Name, Hash: r.Hash, Role: r.Role, CreatedBy: r.CreatedBy,
		CreatedAt: r.CreatedAt.UTC(), ExpiresAt: r.ExpiresAt.UTC(),
	}
	setTime(&t.RevokedAt, r.RevokedAt)
	setTime(&t.LastUsedAt, r.LastUsedAt)
	return t
}

func setTime(to *time.Time, from *time.Time) {
	if from != nil {
		*to = from.UTC()
	}
}

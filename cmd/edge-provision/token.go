package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func (a *app) tokenCommand() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Make, list and revoke tokens of the API"}
	c.AddCommand(a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand())
	return c
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var (
		role string
		ttl  time.Duration
	)
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a token of the API and print it, this once", Args: cobra.ExactArgs(1),
		Long: `NAME says whose it is. The catalog keeps a hash of the token only; what was lost is made
anew, and the lost one revoked.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			parsed, err := resource.ParseRole(role)
			if err != nil {
				return fmt.Errorf("--role: %w", err)
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				var t resource.IssuedToken
				err := audited(ctx, s, "createToken", args[0], http.StatusCreated, func() (err error) {
					t, err = api.IssueToken(ctx, s, time.Now(), "", args[0], parsed, ttl)
					return err
				})
				if err != nil {
					return err
				}
				fmt.Fprintf(a.stderr, "Token %s (%s) of %s is valid until %s. It is shown this once:\n", t.ID, t.Role, t.Name, t.ExpiresAt.Local().Format(time.DateTime))
				_, err = fmt.Fprintln(a.stdout, t.Bearer)
				return err
			})
		},
	}
	c.Flags().StringVar(&role, "role", string(resource.RoleReader), "reader, operator or admin")
	c.Flags().DurationVar(&ttl, "ttl", api.DefaultTokenTTL, "how long it is valid, at most 8784h")
	return c
}

func (a *app) tokenListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the tokens of the API, the newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				tokens, err := s.Tokens(ctx)
				if err != nil {
					return err
				}
				now := time.Now()
				rows := [][]string{{"TOKEN", "NAME", "ROLE", "STATE", "EXPIRES", "LAST USED"}}
				for _, t := range tokens {
					state := "valid"
					switch {
					case !t.RevokedAt.IsZero():
						state = "revoked"
					case !now.Before(t.ExpiresAt):
						state = "expired"
					}
					rows = append(rows, []string{t.ID, t.Name, t.Role, state, t.ExpiresAt.Local().Format(time.DateTime), ago(t.LastUsedAt)})
				}
				return writeTable(a.stdout, rows)
			})
		},
	}
}

func (a *app) tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "revoke TOKEN", Short: "End a token of the API now", Args: cobra.ExactArgs(1),
		Long: "TOKEN is the id that `edge-provision token list` shows.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				err := audited(ctx, s, "revokeToken", args[0], http.StatusNoContent, func() error { return s.RevokeToken(ctx, args[0]) })
				if errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("there is no token %q; `edge-provision token list` shows their ids", args[0])
				}
				return err
			})
		},
	}
}

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/workflows/keyring"
)

// keyCommand prints the key by which a site's machines know the controller. One
// that runs already is given it by hand.
func (a *app) keyCommand() *cobra.Command {
	var authority bool
	c := &cobra.Command{
		Use:   "key SITE.hcl",
		Short: "Print the controller's public SSH key, for the authorized_keys of machines to adopt",
		Long: `Prints one line for authorized_keys. Machines that are installed get it by
themselves; on a machine that is adopted somebody puts it into the
authorized_keys of the user that its ssh block names. The key is the site's: it
is made the first time it is needed, and kept in the catalog, sealed.

With --ca it prints the certificate of the site's authority, by which clients of the
API know the controller.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx := cmd.Context()
			s, err := a.load(args[0])
			if err != nil {
				return err
			}
			dir, err := a.data()
			if err != nil {
				return err
			}
			catalog, err := a.openCatalog(ctx)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, catalog.Close()) }()
			keys, err := keyring.Open(ctx, keyring.Config{KeyFile: filepath.Join(dir, "key"), Values: catalog.Settings()})
			if err != nil {
				return err
			}
			if authority {
				ca, err := keys.Authority(ctx, s.Name, time.Now())
				if err != nil {
					return err
				}
				_, err = a.stdout.Write(ca.PEM())
				return err
			}
			_, line, err := keys.SSH(ctx, controllerName(s.Name))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, line)
			return err
		},
	}
	c.Flags().BoolVar(&authority, "ca", false, "print the certificate of the site's authority")
	return c
}

// controllerName is the comment of the controller's key, by which a person knows
// it in authorized_keys.
func controllerName(site string) string { return "edge-provision@" + site }

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/client"
	"github.com/edge-provision/edge-provision/inventory/resource"
)

// remoteFlags name a controller whose API is asked in place of a catalog.
type remoteFlags struct {
	server, ca, tokenFile string
}

// tokenVariable holds the token for a controller; it is not a flag, which others
// on the host could read.
const tokenVariable = "EDGE_TOKEN"

func (f *remoteFlags) register(c *cobra.Command) {
	c.PersistentFlags().StringVar(&f.server, "server", "", "ask the controller at this URL and no catalog (list, query, show, history, export)")
	c.PersistentFlags().StringVar(&f.ca, "ca", "", "file of the certificate authority of --server; default: this host's")
	c.PersistentFlags().StringVar(&f.tokenFile, "token-file", "", "file of the token for --server; default: the variable "+tokenVariable)
}

func (f *remoteFlags) given() bool { return f.server != "" }

// client asks the controller that the flags name.
func (f *remoteFlags) client() (*client.Client, error) {
	cfg := client.Config{URL: f.server, Token: os.Getenv(tokenVariable)}
	if f.tokenFile != "" {
		raw, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		cfg.Token = strings.TrimSpace(string(raw))
	}
	if f.ca != "" {
		var err error
		if cfg.CA, err = os.ReadFile(f.ca); err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
	}
	return client.New(cfg)
}

// listRemote prints the machines of a controller that an expression selects.
func (a *app) listRemote(ctx context.Context, f inventoryFlags, expr string) error {
	c, err := f.remote.client()
	if err != nil {
		return err
	}
	var machines []inventory.Machine
	var facts []inventory.Facts
	var examined int64
	for cursor := ""; ; {
		page, err := c.MachinePage(ctx, client.MachineQuery{Filter: expr, Site: f.site, Sort: f.sort, Facts: true, Limit: 200}, cursor)
		if err != nil {
			return explainRemote(err)
		}
		examined += page.Examined
		for _, m := range page.Items {
			machines = append(machines, m.Machine)
			var known inventory.Facts
			if m.Facts != nil {
				known = *m.Facts
			}
			facts = append(facts, known)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if err := a.print(machines, f.format, func(i int) (inventory.Facts, error) { return facts[i], nil }); err != nil {
		return err
	}
	if expr != "" {
		a.tellCost(f.format, len(machines), examined)
	}
	return nil
}

// explainRemote shows where an expression is wrong as the catalog's own query
// does.
func explainRemote(err error) error {
	p, ok := errors.AsType[*resource.Problem](err)
	if !ok || len(p.Diagnostics) == 0 {
		return err
	}
	text := "the expression cannot be used:\n"
	for _, d := range p.Diagnostics {
		text += d.Text
	}
	return errors.New(text)
}

func (a *app) showRemote(ctx context.Context, f *inventoryFlags, name string) error {
	c, err := f.remote.client()
	if err != nil {
		return err
	}
	m, _, err := c.Machine(ctx, name)
	if err != nil {
		return err
	}
	facts, err := c.Facts(ctx, m.ID.String())
	if err != nil {
		return err
	}
	hardware, err := c.Drift(ctx, m.ID.String())
	if problem, ok := errors.AsType[*resource.Problem](err); ok && (problem.Status == http.StatusNotFound || problem.Status == http.StatusConflict) {
		// An older controller, or one without the catalog's key.
		return a.showMachine(m.Machine, facts.Facts, facts.Sources, nil)
	}
	if err != nil {
		return err
	}
	return a.showMachine(m.Machine, facts.Facts, facts.Sources, &hardware)
}

func (a *app) historyRemote(ctx context.Context, f *inventoryFlags, name string) error {
	c, err := f.remote.client()
	if err != nil {
		return err
	}
	reports, err := client.Collect(c.History(ctx, name, ""))
	if err != nil {
		return err
	}
	documents := make([]inventory.Document, len(reports))
	for i, r := range reports { // the newest came first
		documents[len(reports)-1-i] = r.Document
	}
	return a.printHistory(documents, f.format)
}

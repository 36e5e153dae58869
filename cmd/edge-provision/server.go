package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/client"
	"github.com/edge-provision/edge-provision/inventory/exchange"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/timeline"
)

// remoteFlags name a controller whose API is asked in place of a catalog.
type remoteFlags struct {
	server, ca, tokenFile string
}

// tokenVariable holds the token for a controller; it is not a flag, which others
// on the host could read.
const tokenVariable = "EDGE_TOKEN"

func (f *remoteFlags) register(c *cobra.Command) {
	c.PersistentFlags().StringVar(&f.server, "server", "", "ask the controller at this URL and no catalog")
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

// remoteMachine asks the controller for the machine of a name, at the site that the
// flags name.
func (f *inventoryFlags) remoteMachine(ctx context.Context, name string) (c *client.Client, m resource.Machine, etag string, err error) {
	if c, err = f.remote.client(); err != nil {
		return nil, m, "", err
	}
	m, etag, err = c.Machine(ctx, name)
	if problem, ok := errors.AsType[*resource.Problem](err); ok && f.site != "" && len(problem.Candidates) > 0 {
		var found []resource.Machine
		for _, id := range problem.Candidates {
			one, tag, err := c.Machine(ctx, id)
			if err != nil {
				return nil, m, "", err
			}
			if one.Site == f.site {
				found, etag = append(found, one), tag
			}
		}
		if len(found) == 1 {
			return c, found[0], etag, nil
		}
	}
	if problem, ok := errors.AsType[*resource.Problem](err); ok && problem.Status == http.StatusNotFound {
		return nil, m, "", fmt.Errorf("the controller knows no machine %q; `edge-provision inventory list --server %s` shows those it knows", name, f.remote.server)
	}
	if err == nil && f.site != "" && m.Site != f.site {
		err = fmt.Errorf("site %s has no machine %q; it is one of site %s", f.site, name, m.Site)
	}
	return c, m, etag, err
}

func (a *app) showRemote(ctx context.Context, f *inventoryFlags, name string) error {
	c, m, _, err := f.remoteMachine(ctx, name)
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
	c, m, _, err := f.remoteMachine(ctx, name)
	if err != nil {
		return err
	}
	documents, err := remoteHistory(ctx, c, m)
	if err != nil {
		return err
	}
	return a.printHistory(documents, f.format)
}

// remoteHistory are the reports of a machine, the oldest first.
func remoteHistory(ctx context.Context, c *client.Client, m resource.Machine) ([]inventory.Document, error) {
	reports, err := client.Collect(c.History(ctx, m.ID.String(), ""))
	documents := make([]inventory.Document, len(reports))
	for i, r := range reports { // the newest came first
		documents[len(reports)-1-i] = r.Document
	}
	return documents, err
}

func (a *app) forgetRemote(ctx context.Context, f *inventoryFlags, name string) error {
	c, m, etag, err := f.remoteMachine(ctx, name)
	if err != nil {
		return err
	}
	if err := c.ForgetMachine(ctx, m.ID.String(), etag); err != nil {
		return err
	}
	return a.forgot(m.Machine)
}

func (a *app) tagRemote(ctx context.Context, f *inventoryFlags, name string, set map[string]string, remove []string) error {
	c, m, _, err := f.remoteMachine(ctx, name)
	if err != nil {
		return err
	}
	if len(set)+len(remove) > 0 {
		for key, value := range set { // JSON would put U+FFFD in the place of what is no UTF-8
			if err := inventory.CheckTag(key, value); err != nil {
				return err
			}
		}
		if m, err = c.ChangeTags(ctx, m.ID.String(), resource.TagChange{Set: set, Remove: remove}); err != nil {
			return err
		}
	}
	return a.printTags(m.Machine, f.format)
}

func (a *app) setRemote(ctx context.Context, f *inventoryFlags, name string, set map[string]string, remove []string) error {
	c, m, _, err := f.remoteMachine(ctx, name)
	if err != nil {
		return err
	}
	if len(set)+len(remove) == 0 {
		facts, err := c.Facts(ctx, m.ID.String())
		if err != nil {
			return err
		}
		return a.printWritten(facts.Sources[inventory.SourceManual].Facts, f.format)
	}
	edit := resource.FactEdit{Set: map[string]json.RawMessage{}, Remove: remove}
	for path, value := range set {
		if !utf8.ValidString(value) {
			return fmt.Errorf("fact %q: the value is not valid UTF-8", path)
		}
		if edit.Set[path], err = json.Marshal(value); err != nil {
			return err
		}
	}
	written, err := c.ChangeFacts(ctx, m.ID.String(), edit)
	if err != nil {
		return err
	}
	return a.printWritten(written, f.format)
}

// remoteExchange reads the machines of a controller with all that their sources
// saw.
func (a *app) remoteExchange(ctx context.Context, f inventoryFlags, filter string, each func(exchange.Machine) error) error {
	c, err := f.remote.client()
	if err != nil {
		return err
	}
	for m, err := range c.Machines(ctx, client.MachineQuery{Filter: filter, Site: f.site, Sort: f.sort, Limit: 200}) {
		if err != nil {
			return explainRemote(err)
		}
		documents, err := remoteHistory(ctx, c, m)
		if err == nil {
			err = each(exchanged(m.Machine, documents))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *app) listRemoteRuns(ctx context.Context, remote remoteFlags, site string) error {
	c, err := remote.client()
	if err != nil {
		return err
	}
	var runs []resource.Run
	var steps [][]resource.Step
	for r, err := range c.Runs(ctx, site) {
		if err != nil {
			return err
		}
		of, err := client.Collect(c.Steps(ctx, r.ID))
		if err != nil {
			return err
		}
		runs, steps = append(runs, r), append(steps, of)
		if len(runs) == runsToList {
			break
		}
	}
	return a.printRuns(runs, steps)
}

func (a *app) showRemoteRun(ctx context.Context, remote remoteFlags, name string) error {
	c, err := remote.client()
	if err != nil {
		return err
	}
	id, err := uuid.Parse(name)
	if err != nil {
		for r, err := range c.Runs(ctx, name) { // the newest of a site
			if err != nil {
				return err
			}
			id = r.ID
			break
		}
		if id == uuid.Nil || name == "" {
			return noRun(name)
		}
	}
	r, err := c.Run(ctx, id)
	if err != nil {
		return err
	}
	steps, err := client.Collect(c.Steps(ctx, id))
	if err != nil {
		return err
	}
	return a.printRun(r, steps)
}

// remoteTimeline is what happened to a machine, as a controller tells it.
func remoteTimeline(ctx context.Context, remote remoteFlags, site, name string) (timeline.Timeline, error) {
	c, m, _, err := (&inventoryFlags{remote: remote, site: site}).remoteMachine(ctx, name)
	if err != nil {
		return timeline.Timeline{}, err
	}
	t, err := c.Timeline(ctx, m.ID.String())
	return t.Timeline, err
}

package main

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory/ansible"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/client"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

func (a *app) inventoryExport(f *inventoryFlags) *cobra.Command {
	var (
		filter, host string
		list         bool
	)
	c := &cobra.Command{
		Use: "export", Short: "Write machines for another program", Args: cobra.NoArgs,
		Long: `Writes the machines in the form that --output names: json (the default), csv (for
spreadsheets), full (JSON with every source's document), netbox (CSV) or ansible. inventory
import reads full, and the serials, MACs, UUIDs, sites and tags of csv.

ansible is what a dynamic inventory prints for --list, or with --host for one host; a
script of two lines that passes its arguments on is a dynamic inventory:

  #!/bin/sh
  exec edge-provision inventory export -o ansible "$@"`,
		Example: "  edge-provision inventory export -o ansible --list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			format := f.format
			if format == "table" {
				format = "json"
			}
			if format != "ansible" {
				if host != "" || list {
					return usage("--list and --host belong to -o ansible")
				}
				if format == "full" {
					return a.exportFull(cmd.Context(), *f, filter)
				}
				return a.exportMachines(cmd.Context(), *f, format, filter)
			}
			if host != "" && list {
				return usage("--list and --host exclude each other")
			}
			if f.remote.given() {
				return a.exportRemote(cmd.Context(), f, filter, host)
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				return a.exportAnsible(ctx, s, f.site, filter, host)
			})
		},
	}
	c.Flags().StringVar(&filter, "filter", "", "only machines for which this expression is true")
	c.Flags().BoolVar(&list, "list", false, "Ansible: the whole inventory, which is the default")
	c.Flags().StringVar(&host, "host", "", "Ansible: the variables of this host alone")
	return c
}

func (a *app) exportMachines(ctx context.Context, f inventoryFlags, format, filter string) error {
	f.format = format
	if f.remote.given() {
		return a.listRemote(ctx, f, filter)
	}
	return a.withCatalog(ctx, func(ctx context.Context, s *store.Store) error {
		machines, err := selectMachines(ctx, s, f.site, filter, f.sort)
		if err != nil {
			return err
		}
		return a.printMachines(ctx, s, machines, format)
	})
}

func (a *app) exportRemote(ctx context.Context, f *inventoryFlags, filter, host string) error {
	c, err := f.remote.client()
	if err != nil {
		return err
	}
	out, err := c.Ansible(ctx, client.MachineQuery{Filter: filter, Site: f.site}, host)
	if err != nil {
		return explainRemote(err)
	}
	return writeJSON(a.stdout, json.RawMessage(out))
}

func (a *app) exportAnsible(ctx context.Context, s *store.Store, site, filter, host string) error {
	machines, err := selectMachines(ctx, s, site, filter, "")
	if err != nil {
		return err
	}
	addresses, err := api.LeasedAddresses(ctx, s, machines)
	if err != nil {
		return err
	}
	hosts := make([]ansible.Host, len(machines))
	for i, m := range machines {
		facts, err := steps.KnownFacts(ctx, s, m.ID)
		if err != nil {
			return err
		}
		hosts[i] = ansible.Host{Machine: m, Facts: facts, Address: addresses[i]}
	}
	inventory, err := ansible.New(hosts)
	if err != nil {
		return err
	}
	if host == "" {
		return writeJSON(a.stdout, inventory)
	}
	vars, err := inventory.Host(host)
	if err != nil {
		return err
	}
	return writeJSON(a.stdout, vars)
}

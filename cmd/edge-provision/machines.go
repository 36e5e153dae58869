package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/exchange"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// printMachines writes machines of the catalog in the chosen form.
func (a *app) printMachines(ctx context.Context, s *store.Store, machines []inventory.Machine, format string) error {
	return a.print(machines, format, func(i int) (inventory.Facts, error) { return factsOf(ctx, s, machines[i]) })
}

// print writes machines in the chosen form; facts gives those of one of them.
func (a *app) print(machines []inventory.Machine, format string, facts func(int) (inventory.Facts, error)) error {
	switch format {
	case "json":
		if machines == nil {
			machines = []inventory.Machine{}
		}
		return writeJSON(a.stdout, machines)
	case "table", "wide", "csv", "netbox":
	default:
		return usage("-o %q: machines are printed as table, wide, json, csv or netbox", format)
	}
	known := make([]exchange.Known, len(machines))
	for i, m := range machines {
		f, err := facts(i)
		if err != nil {
			return err
		}
		known[i] = exchange.Known{Machine: m, Facts: f}
	}
	switch format {
	case "csv":
		return exchange.CSV(a.stdout, known)
	case "netbox":
		return exchange.NetBox(a.stdout, "server", known)
	}
	return writeTable(a.stdout, rowsOf(known, format == "wide"))
}

// rowsOf are machines as people read them, under a header.
func rowsOf(machines []exchange.Known, wide bool) [][]string {
	header := []string{"MACHINE", "STATE", "MAC", "SERIAL", "CPUS", "MEMORY", "DISKS", "LAST SEEN"}
	if wide {
		header = append(header, "SITE", "ID", "MODEL", "BIOS", "IMAGE", "CLASSES", "DRIFT", "LOOKED AT")
	}
	rows := [][]string{header}
	for _, m := range machines {
		f := m.Facts
		row := []string{nameOf(m.Machine), string(m.State), macs(m.Machine), or(m.Serial), cpus(f), memory(f), disks(f), ago(m.LastSeen)}
		if wide {
			row = append(row, m.Site, m.ID.String(), model(f), bios(f), or(m.Image), or(strings.Join(m.Classes, " ")), or(string(m.Drift)), ago(m.LookedAt))
		}
		rows = append(rows, row)
	}
	return rows
}

// factsOf is the merged view of a machine's facts, empty while there are none.
func factsOf(ctx context.Context, s *store.Store, m inventory.Machine) (inventory.Facts, error) {
	facts, err := steps.KnownFacts(ctx, s, m.ID)
	if err != nil || facts == nil {
		return inventory.Facts{}, err
	}
	return *facts, nil
}

// writeTable aligns columns with two blanks between them.
func writeTable(out io.Writer, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i := range row {
			row[i] = printable(row[i])
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// printable keeps a stranger's bytes (a serial, a model) from driving the
// terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

func nameOf(m inventory.Machine) string {
	if m.Address != "" {
		return m.Address
	}
	return "(undeclared) " + m.ID.String()[:8]
}

func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func macs(m inventory.Machine) string {
	if len(m.MACs) == 0 {
		return "-"
	}
	if len(m.MACs) == 1 {
		return m.MACs[0].String()
	}
	return fmt.Sprintf("%s +%d", m.MACs[0], len(m.MACs)-1)
}

func cpus(f inventory.Facts) string {
	if f.CPU == nil || f.CPU.Threads == 0 {
		return "-"
	}
	return strconv.Itoa(f.CPU.Threads)
}

func memory(f inventory.Facts) string {
	if f.Memory == nil || f.Memory.Bytes == 0 {
		return "-"
	}
	return workflows.FormatBytes(f.Memory.Bytes)
}

func disks(f inventory.Facts) string {
	if f.Disks == nil {
		return "-"
	}
	if len(f.Disks) == 0 {
		return "none"
	}
	var out []string
	for _, d := range f.Disks {
		out = append(out, d.Name+" "+workflows.FormatBytes(d.Bytes))
	}
	return strings.Join(out, ", ")
}

func model(f inventory.Facts) string {
	if f.System == nil {
		return "-"
	}
	return or(strings.TrimSpace(f.System.Manufacturer + " " + f.System.Product))
}

func bios(f inventory.Facts) string {
	if f.BIOS == nil {
		return "-"
	}
	return or(f.BIOS.Version)
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return "now"
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return t.Local().Format("2006-01-02")
}

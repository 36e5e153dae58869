package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/workflows/site"
)

// The commands of this file only read what a person wrote.

func (a *app) validateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "validate SITE.hcl",
		Short: "Check a site without asking anything of the world",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := a.load(args[0])
			if err != nil {
				return err
			}
			stepCount := 0
			for _, w := range s.Workflows {
				stepCount += len(w.Steps)
			}
			fmt.Fprintf(a.stdout, "Site %s is valid: %s, %s, %s, %s.\n", s.Name,
				count(len(s.Networks), "network"), count(len(s.Images), "image"), count(len(s.Machines), "machine"), count(stepCount, "step"))
			return nil
		},
	}
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func (a *app) fmtCommand() *cobra.Command {
	var check, recursive bool
	c := &cobra.Command{
		Use:     "fmt SITE.hcl…",
		Short:   "Lay sites out in the canonical form, comments kept",
		Example: `  edge-provision fmt --check site.hcl`,
		Long:    "Rewrites files, or all *.hcl files of directories, in place and prints the names of those that changed. \"-\" reads standard input and writes standard output.",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			changed := false
			for _, path := range args {
				files, err := hclFiles(path, recursive)
				if err != nil {
					return err
				}
				for _, f := range files {
					did, err := a.format(f, check)
					if err != nil {
						return err
					}
					changed = changed || did
				}
			}
			if check && changed {
				return exitCode(exitError)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&check, "check", false, "change nothing; exit 1 when something would change")
	c.Flags().BoolVar(&recursive, "recursive", false, "also the directories inside directories, such as modules")
	return c
}

// hclFiles is path itself, or the *.hcl files of a directory, and of those inside
// it if asked.
func hclFiles(path string, recursive bool) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	if !recursive {
		return filepath.Glob(filepath.Join(path, "*.hcl"))
	}
	var files []string
	err = filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != path && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		case entry.Type().IsRegular() && filepath.Ext(name) == ".hcl":
			files = append(files, name)
		}
		return nil
	})
	return files, err
}

// format lays out one file and says whether that changes it.
func (a *app) format(path string, check bool) (bool, error) {
	var (
		src  []byte
		mode fs.FileMode = 0o644
		err  error
	)
	if path == "-" {
		src, err = io.ReadAll(a.stdin)
	} else {
		src, err = os.ReadFile(path)
	}
	if err != nil {
		return false, err
	}
	out, diags := site.Format(path, src)
	if err := a.report(diags); err != nil {
		return false, err
	}
	if path == "-" && !check {
		_, err := a.stdout.Write(out)
		return false, err
	}
	if bytes.Equal(src, out) {
		return false, nil
	}
	fmt.Fprintln(a.stdout, path)
	if check {
		return true, nil
	}
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	return true, replaceFile(path, out, mode)
}

// replaceFile writes a file beside path and renames it over it, so that a
// power cut leaves the old one or the new one.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

func (a *app) graphCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:     "graph SITE.hcl",
		Short:   "Print what depends on what, as DOT, mermaid or JSON",
		Example: `  edge-provision graph -o mermaid site.hcl`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := a.load(args[0])
			if err != nil {
				return err
			}
			text, err := renderGraph(s.Graph(), format)
			if err != nil {
				return err
			}
			_, err = io.WriteString(a.stdout, text)
			return err
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "dot", "dot, mermaid or json")
	return c
}

// renderGraph draws an arrow from each thing to what it waits for.
func renderGraph(g site.Graph, format string) (string, error) {
	var b strings.Builder
	switch format {
	case "dot":
		b.WriteString("digraph site {\n  rankdir = \"RL\";\n  node [shape = box];\n")
		for _, n := range g.Nodes {
			fmt.Fprintf(&b, "  %q;\n", n)
		}
		for _, e := range g.Edges {
			fmt.Fprintf(&b, "  %q -> %q;\n", e.From, e.To)
		}
		b.WriteString("}\n")
	case "mermaid":
		ids := map[string]string{}
		b.WriteString("flowchart RL\n")
		for i, n := range g.Nodes {
			ids[n] = fmt.Sprintf("n%d", i)
			fmt.Fprintf(&b, "  %s[\"%s\"]\n", ids[n], strings.ReplaceAll(n, `"`, "#quot;"))
		}
		for _, e := range g.Edges {
			fmt.Fprintf(&b, "  %s --> %s\n", ids[e.From], ids[e.To])
		}
	case "json":
		type edge struct {
			From string `json:"from"`
			To   string `json:"to"`
		}
		doc := struct {
			FormatVersion int      `json:"format_version"`
			Nodes         []string `json:"nodes"`
			Edges         []edge   `json:"edges"`
		}{FormatVersion: 1, Nodes: g.Nodes, Edges: []edge{}}
		for _, e := range g.Edges {
			doc.Edges = append(doc.Edges, edge{e.From, e.To})
		}
		out, err := json.MarshalIndent(doc, "", "  ")
		if err != nil {
			return "", err
		}
		return string(out) + "\n", nil
	default:
		return "", usage("-o %q: a graph is printed as dot, mermaid or json", format)
	}
	return b.String(), nil
}

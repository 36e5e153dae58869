package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/hcl/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/edge-provision/edge-provision/workflows/bundle"
	"github.com/edge-provision/edge-provision/workflows/control"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// app is the program: its streams, its global flags, and nothing else.
type app struct {
	stop           <-chan struct{} // closed by the first Ctrl-C
	graceful       atomic.Bool     // the command ends by itself when stop is closed
	stdin          io.Reader
	stdout, stderr io.Writer

	dataDir, cacheDir, catalog string
	vars                       []string
	varFiles                   []string
	varTexts                   map[string][]byte // of files that a client has read, by path; the others are read
	allowFile, allowEnv        bool
	verbose                    bool
	supply                     supply
	stackSet                   string

	// manager is told of serve, and how its catalog is opened; none for what is no service.
	manager control.Supervisor

	environ []string // that variables are read from; nil: this process's
	// dial opens the connections of SSH; nil: as they are asked for.
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	// signals gives Ctrl-C to a command that has its own answer to it; nil where
	// there is none.
	signals *interruption

	// daemon is the one that carries this command out, in which case run is what
	// is carried out; nil in a process of its own.
	daemon *daemon
	run    *daemonRun
	// verified is the bundle of another version of the site, which has been verified
	// and is open for as long as the command works: it is taken in place of the file
	// that the flags name. Nil: that file is opened.
	verified *bundle.Reader

	files map[string]*hcl.File // sources of the site, for diagnostics
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "edge-provision",
		Short: "From powered-off metal to a catalogued, imaged server",
		Long: `edge-provision reads what a site should be from site.hcl, powers its machines on
through their BMCs, netboots them, learns their hardware, writes a verified
image to the disk that the plan names, and keeps a catalog of it all.`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.dataDir, "data-dir", "", "catalog and keys (default $XDG_DATA_HOME/edge-provision)")
	flags.StringVar(&a.cacheDir, "cache-dir", "", "built images and downloads (default $XDG_CACHE_HOME/edge-provision)")
	flags.StringVar(&a.catalog, "catalog", "", "PostgreSQL connection string; default: SQLite in the data directory")
	flags.StringArrayVar(&a.vars, "var", nil, "NAME=VALUE of a variable; may be repeated")
	flags.StringArrayVar(&a.varFiles, "var-file", nil, "file of variable values; may be repeated")
	flags.BoolVar(&a.allowFile, "allow-file", false, "let site.hcl read files below its own directory with file()")
	flags.BoolVar(&a.allowEnv, "allow-env", false, "let site.hcl read this environment with env()")
	flags.StringVar(&a.stackSet, "stack-set", "", "file of a set of versions, for a site that names one which this program does not have")
	flags.BoolVar(&a.verbose, "verbose", false, "log what the services do to standard error")
	root.AddCommand(
		a.validateCommand(), a.fmtCommand(), a.graphCommand(), a.keyCommand(),
		a.planCommand(), a.applyCommand(), a.destroyCommand(), a.serveCommand(),
		a.inventoryCommand(), a.traceCommand(), a.whyCommand(),
		a.bmcCommand(), a.imageCommand(), a.bundleCommand(), a.runsCommand(), a.tokenCommand(),
		a.rackCommand(), a.superviseCommand(),
	)
	return root
}

// logger is where services log; silent unless asked.
func (a *app) logger() *slog.Logger {
	if !a.verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// directory is a flag's value or the XDG directory for it (XDG Base Directory
// Specification 0.8).
func directory(flag, variable, fallback string) (string, error) {
	if flag != "" {
		return filepath.Abs(flag)
	}
	if base := os.Getenv(variable); filepath.IsAbs(base) {
		return filepath.Join(base, "edge-provision"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding a directory for state: %w; name one with --data-dir and --cache-dir", err)
	}
	return filepath.Join(home, fallback, "edge-provision"), nil
}

func (a *app) data() (string, error) { return directory(a.dataDir, "XDG_DATA_HOME", ".local/share") }

func (a *app) cache() (string, error) {
	return directory(a.cacheDir, "XDG_CACHE_HOME", ".cache")
}

// load reads a site and shows every mistake in it.
func (a *app) load(path string) (*site.Site, error) {
	s, diags, err := a.decode(path)
	if err != nil {
		return nil, err
	}
	if err := a.report(diags); err != nil {
		return nil, err
	}
	return s, nil
}

// decode reads a site and shows nothing.
func (a *app) decode(path string) (*site.Site, hcl.Diagnostics, error) {
	vars := map[string]string{}
	for _, v := range a.vars {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			return nil, nil, fmt.Errorf("-var %q: want NAME=VALUE", v)
		}
		vars[name] = value
	}
	s, diags := site.Load(path, site.Options{
		Vars: vars, VarFiles: a.varFiles, VarTexts: a.varTexts, Environ: a.environment(),
		AllowFile: a.allowFile, AllowEnv: a.allowEnv,
		StepTypes: steps.Shapes(), Version: version,
	})
	if s != nil {
		a.files = s.Files
	}
	if !diags.HasErrors() {
		diags = append(diags, a.checkStack(s)...)
	}
	return s, diags, nil
}

// report writes diagnostics with their source to standard error; the error
// says that there were errors among them.
func (a *app) report(diags hcl.Diagnostics) error {
	if len(diags) > 0 {
		width, color := a.terminal(a.stderr)
		if err := site.WriteDiagnostics(a.stderr, a.files, diags, color, width); err != nil {
			return err
		}
	}
	if diags.HasErrors() {
		if a.run != nil {
			a.run.refuses(diags)
		}
		return &mistakesError{diags}
	}
	return nil
}

// mistakesError is what is wrong with a site, which has been shown with its lines.
type mistakesError struct{ diags hcl.Diagnostics }

// Error implements error: in a line, without text of the site.
func (e *mistakesError) Error() string {
	var first *hcl.Diagnostic
	more := -1
	for _, d := range e.diags {
		if d.Severity == hcl.DiagError {
			first, more = cmp.Or(first, d), more+1
		}
	}
	text := first.Summary
	if first.Subject != nil {
		text = fmt.Sprintf("%s line %d: %s", filepath.Base(first.Subject.Filename), first.Subject.Start.Line, text)
	}
	if more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return text
}

// Unwrap says that it was shown.
func (e *mistakesError) Unwrap() error { return exitCode(exitError) }

// fail shows an error, diagnostics among it with their source.
func (a *app) fail(err error) {
	var diags hcl.Diagnostics
	if errors.As(err, &diags) && a.report(diags) != nil {
		return
	}
	fmt.Fprintf(a.stderr, "%s %v\n", a.paint(a.stderr, "31", "Error:"), err)
}

// terminal tells the width of w and whether it takes colour: not a pipe's, and
// not under NO_COLOR (https://no-color.org).
func (a *app) terminal(w io.Writer) (width uint, color bool) {
	if remote, ok := w.(sessionWriter); ok {
		return max(remote.screen.Width, 20), remote.screen.Color
	}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 100, false
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil || columns < 20 {
		columns = 80
	}
	return uint(columns), os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

func (a *app) paint(w io.Writer, code, s string) string {
	if _, color := a.terminal(w); !color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// usage is an error about how a command was called.
func usage(format string, args ...any) error { return fmt.Errorf(format, args...) }

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/workflows/control"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// serveFlags are the flags of serve.
type serveFlags struct {
	ports
	apiFlags
	agent   string
	refresh time.Duration // zero: never
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve SITE.hcl",
		Short: "Hold a site: answer its machines, serve the API, and carry out runs, until stopped",
		Long: `Serves DHCP, TFTP, HTTP and the agents' API on the declared networks. By itself it powers
nothing, and installs only what a class of the site provisions (react): declared machines
get their addresses and boot from their own disks, and on a network with unknown = "discover" undeclared machines are booted
into the installer once, recorded with their facts, and sent back to their disk.

While it runs, plan, apply, destroy and runs resume of the same site on this host work through
it, and a run goes on in it when the terminal that began it is gone. SIGHUP has it read the
site again.

With --bundle everything that machines boot and get comes from that file, which is verified
before anything is served.

The API over the catalog is served on loopback, where everybody may read. On another
address it speaks TLS, and everybody needs a token (edge-provision token create).`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.listenGiven = cmd.Flags().Changed("listen")
			return a.serve(cmd.Context(), args[0], f)
		},
	}
	f.ports.register(c)
	f.apiFlags.register(c)
	a.supply.register(c)
	c.Flags().StringVar(&f.agent, "agent", "", "the edge-agent program; default: beside this program")
	c.Flags().DurationVar(&f.refresh, "refresh", steps.DefaultRefresh, "how often the hardware of running machines is looked at over SSH; 0: never")
	return c
}

// serve holds a site until it is stopped.
func (a *app) serve(ctx context.Context, path string, f serveFlags) (err error) {
	a.graceful.Store(true)
	if a.manager, err = control.NewSupervisor(os.LookupEnv); err != nil {
		return err
	}
	inherited, err := control.Inherited(os.LookupEnv)
	if err != nil {
		return err
	}
	defer inherited.Close() // what was served is closed already
	if err := f.fits(inherited.API); err != nil {
		return err
	}
	// From here on: a signal that nobody takes would end the program.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	screen := a.display(false)
	defer screen.Close()
	w, err := a.open(ctx, path, screen.Tell)
	if err != nil {
		return err
	}
	d := &daemon{app: a, catalog: w.catalog, wanted: w.wanted, agent: f.agent, refresh: f.refresh, world: w}
	w.borrowed = true // it lives as long as the daemon, and not as this version of the site
	defer func() { err = errors.Join(err, d.closeWorlds(), d.catalog.Close()) }()
	w.agent = f.agent
	if d.path, err = samePath(path); err != nil {
		return err
	}
	ctx, fence, unlock, err := w.lock(ctx, purposeServe)
	if err != nil {
		return err
	}
	defer func() {
		unlock()
		err = errors.Join(err, lostLock(ctx))
	}()
	d.fence = fence
	if err := w.closeCutOff(ctx, "apply, or runs resume, continues it where it stopped."); err != nil {
		return err
	}
	if err := w.recordSite(ctx); err != nil {
		return err
	}
	f.inherited, f.current, f.runner = inherited.API, d.current, runner{d}
	served, err := w.listenAPI(f.apiFlags)
	if err != nil {
		return err
	}
	if served != nil {
		defer served.listener.Close() // closed already where it was served
	}
	if d.service, err = w.listen(ctx, f.ports); err != nil {
		return err
	}
	if w.netboots() {
		installer, err := w.installer(ctx, f.agent)
		if err == nil {
			err = d.service.Boot(installer)
		}
		if err != nil {
			return errors.Join(err, d.service.Close())
		}
		if w.bundle == nil {
			d.installer = installer
		}
	}
	w.images.Service = d.service
	commands, err := d.listen(ctx, inherited.Control)
	if err != nil {
		return errors.Join(err, d.service.Close())
	}
	if served != nil {
		fmt.Fprintf(a.stderr, "Dashboard and API: %s\n", served.url())
	}
	fmt.Fprintf(a.stderr, "Serving site %s. Press Ctrl-C to stop.\n", w.site.Name)
	return d.serve(ctx, commands, served, hangups)
}

// listen binds the socket for commands, unless a service manager has, and writes
// down where it is.
func (d *daemon) listen(ctx context.Context, inherited *net.UnixListener) (*net.UnixListener, error) {
	l := inherited
	if l == nil {
		path, err := d.socketPath()
		if err != nil {
			return nil, err
		}
		if l, err = control.Listen(path); err != nil {
			return nil, err
		}
	}
	path, err := json.Marshal(l.Addr().String())
	if err == nil {
		err = d.catalog.Settings().Put(ctx, socketKey(d.world.site.Name), path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// socketPath is in the data directory, or where that lies too deep for a socket,
// in the user's runtime directory. The catalog tells clients which it is.
func (d *daemon) socketPath() (string, error) {
	dir, err := d.app.data()
	if err != nil {
		return "", err
	}
	path := control.Path(dir, d.world.site.Name)
	if len(path) <= control.MaxPath {
		return path, nil
	}
	runtime := os.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(runtime) {
		return "", fmt.Errorf("%s is too long for a Unix socket, which has at most %d bytes: choose a shorter --data-dir, or set XDG_RUNTIME_DIR", path, control.MaxPath)
	}
	// Two data directories may hold a site of one name.
	sum := sha256.Sum256([]byte(path))
	runtime = filepath.Join(runtime, "edge-provision")
	if err := os.MkdirAll(runtime, 0o700); err != nil {
		return "", fmt.Errorf("making a directory for the socket: %w", err)
	}
	return filepath.Join(runtime, hex.EncodeToString(sum[:8])+".sock"), nil
}

// serve answers machines, clients and commands until Ctrl-C, or until one of its
// services fails, which ends the others too.
func (d *daemon) serve(ctx context.Context, commands *net.UnixListener, served *apiService, hangups <-chan os.Signal) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.ctx = ctx
	site := d.world.site.Name // which stays, whatever is reloaded
	services := []func(context.Context) error{
		d.service.Serve,
		func(ctx context.Context) error {
			hello := control.Hello{
				Version: control.Version, Program: version, Site: site, Catalog: d.catalog.CatalogID().String(), PID: os.Getpid(),
			}
			return control.Serve(ctx, commands, hello, d.converse, func(err error) { d.app.logger().Warn("refused a client", "error", err) })
		},
	}
	past := newPruner(d.catalog, d.app.stderr)
	if served != nil {
		services = append(services, func(ctx context.Context) error { return served.Serve(ctx, served.listener) })
		served.Registry().MustRegister(past.failures)
	}
	parts := []func(context.Context){
		past.run, d.discover, d.react, d.look, d.watchdog,
		func(ctx context.Context) { d.reloadOnSignal(ctx, hangups) },
		func(ctx context.Context) { d.awaitStop(ctx, cancel) },
	}
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, serve := range services {
		all.Go(func() {
			err := serve(ctx)
			if err != nil {
				err = fmt.Errorf("the site's services ended: %w", err)
			}
			cancel(err) // one does not go on without the other
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	for _, part := range parts {
		all.Go(func() { part(ctx) })
	}
	d.app.told(d.app.manager.Ready("Serving site " + site))
	<-ctx.Done()
	d.app.told(d.app.manager.Stopping("Stopping"))
	d.close()
	d.runs.Wait()
	all.Wait()
	return errors.Join(errs...)
}

// awaitStop ends serving at the first Ctrl-C, when the run under way has ended:
// it starts nothing new. The second one cuts it off.
func (d *daemon) awaitStop(ctx context.Context, cancel context.CancelCauseFunc) {
	select {
	case <-d.app.stop:
	case <-ctx.Done():
		return
	}
	d.app.told(d.app.manager.Stopping("Waiting for what runs to finish"))
	if run := d.close(); run != nil {
		run.Stop() // before it is said, so that it is true by then
		fmt.Fprintf(d.app.stderr, "Waiting for the %s that is under way: it starts nothing new, and what runs may finish.\n", run.command)
		select {
		case <-run.Done():
		case <-ctx.Done():
		}
	}
	cancel(nil)
}

// reloadOnSignal reads the site again at each SIGHUP.
func (d *daemon) reloadOnSignal(ctx context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			d.reload(ctx)
		}
	}
}

// watchdog tells the service manager that the catalog still answers.
func (d *daemon) watchdog(ctx context.Context) {
	alive := func(ctx context.Context) error {
		_, err := d.catalog.Locks(ctx, d.current().site.Name)
		return err
	}
	d.app.manager.Watch(ctx, alive, func(err error) { d.app.logger().Error("no sign of life for the service manager", "error", err) })
}

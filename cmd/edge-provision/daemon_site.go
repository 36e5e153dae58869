package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// samePath is a site's path by which two ways of naming it are compared.
func samePath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// expect refuses a path that is not the site which is served.
func (d *daemon) expect(path string) error {
	real, err := samePath(path)
	if err != nil {
		return fmt.Errorf("serve holds site %s and reads it from %s; it cannot read %s: %w; name the one that it serves, or stop serve first", d.current().site.Name, d.path, path, err)
	}
	if real != d.path {
		return fmt.Errorf("serve holds site %s and reads it from %s; %s is another file: name that one, or stop serve first", d.current().site.Name, d.path, path)
	}
	return nil
}

// errReloadFailed is said after what is wrong with a site was shown.
var errReloadFailed = errors.New("the site was not taken up; it is served as it was before")

// reload reads the site again and serves it as it is now. One that has mistakes,
// or other networks, leaves everything as it was. While a run is under way it is
// only checked, and taken up when the run has ended.
func (d *daemon) reload(ctx context.Context) { d.reloadAfter(ctx, nil) }

// reloadAfter is reload at the end of a run, which stands in its way no longer.
func (d *daemon) reloadAfter(ctx context.Context, run *daemonRun) {
	d.app.told(d.app.manager.Reloading())
	err := d.replace(ctx, run)
	if err != nil {
		d.app.exit(err) // shows what was not shown yet
		d.app.fail(errReloadFailed)
	}
	d.reloaded(err)
	d.app.told(d.app.manager.Ready(d.status()))
}

// reloaded keeps why a reload was refused, for as long as what is served is older than
// what the site says; nil: none was.
func (d *daemon) reloaded(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refusal = ""
	if err != nil {
		why, _, _ := strings.Cut(err.Error(), "\n")
		d.refusal = shortened(why)
	}
}

// server is the program as it opens a version of the site to serve it, with the
// sources of another command.
func (d *daemon) server(from *app) *app {
	b := &app{
		daemon: d, stop: d.app.stop, stdin: d.app.stdin, stdout: d.app.stdout, stderr: d.app.stderr,
		dataDir: d.app.dataDir, cacheDir: d.app.cacheDir, catalog: d.app.catalog, verbose: d.app.verbose,
	}
	b.copySources(from)
	return b
}

// errSuperseded says that another version has been taken up since the site was read,
// which may be newer than what was read.
var errSuperseded = errors.New("another version of the site was taken up while this one was made ready")

// reads bounds how often one reload reads the site: each time but the first, a client's
// apply was approved meanwhile.
const reads = 5

// replace does the work of reload.
func (d *daemon) replace(ctx context.Context, after *daemonRun) error {
	for i := 1; ; i++ {
		if err := d.replaceServed(ctx, d.current(), after); !errors.Is(err, errSuperseded) || i == reads {
			return err
		}
	}
}

// replaceServed reads the site and puts it in the place of the version that was served
// before it was read.
func (d *daemon) replaceServed(ctx context.Context, served *world, after *daemonRun) error {
	b := d.server(d.app)
	next, err := b.load(d.path)
	if err != nil {
		return err
	}
	if was := served.site.Name; next.Name != was {
		return fmt.Errorf("the site in %s is called %q now, and serve holds %q: stop serve and start it again", d.path, next.Name, was)
	}
	if err := d.service.Fits(next); err != nil {
		return err
	}
	if run := d.postpone(after); run != nil {
		fmt.Fprintf(d.app.stderr, "Site %s has no mistakes; it is taken up when the %s that is under way has ended.\n", next.Name, run.command)
		return nil
	}
	w, err := b.openSite(ctx, next, d.path, served.tell)
	if err != nil {
		return err
	}
	w.agent = d.agent
	if err := d.adopt(ctx, w, served, after); err != nil {
		return err
	}
	fmt.Fprintf(d.app.stderr, "Serving site %s as it is now in %s.\n", next.Name, d.path)
	return nil
}

// installerFor is what machines are to boot while a world is served: the installer
// of its bundle, which may be another file than before, or where it has no bundle,
// the one that serve has built for itself. A bundle of a site that boots none may
// have none. A serve that began with a bundle has built none, and every version that
// it takes up has a bundle: its own where a client names no other.
func (d *daemon) installerFor(ctx context.Context, w *world) (steps.Installer, error) {
	switch {
	case !w.netboots():
		return steps.Installer{}, nil
	case w.bundle != nil:
		return w.bundledInstaller(ctx)
	}
	return d.installer, nil
}

// postpone has the site read again after the run under way; nil: there is none
// but the one that may stand beside.
func (d *daemon) postpone(beside *daemonRun) *daemonRun {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running == nil || d.running == beside {
		return nil
	}
	d.due = true
	return d.running
}

// errRunBegan says that the site cannot be exchanged now.
var errRunBegan = errors.New("a run has begun meanwhile; the site is read again when it has ended")

// adopt serves the site of another world from now on, and records what machines
// are by it, unless a run other than by has begun meanwhile, or another world has taken
// the place of the one that it is to follow; nil: it may follow any.
func (d *daemon) adopt(ctx context.Context, w, follows *world, by *daemonRun) error {
	unused, err := d.succeed(ctx, w, follows, by)
	if err != nil {
		return errors.Join(err, w.close())
	}
	if unused != nil {
		// Which ends sessions of BMCs, and may take long: nobody waits for it.
		if err := unused.close(); err != nil {
			d.app.logger().Warn("closing an earlier version of the site", "error", err)
		}
	}
	return nil
}

// succeed gets ready what machines boot while a world is served, which may take
// long, and exchanges it for the one that is served.
func (d *daemon) succeed(ctx context.Context, w, follows *world, by *daemonRun) (unused *world, err error) {
	installer, err := d.installerFor(ctx, w)
	if err != nil {
		return nil, err
	}
	boot, err := d.service.Prepare(installer)
	if err != nil {
		return nil, fmt.Errorf("getting the installer of this version ready: %w; where its files are gone, start serve again to have them made", err)
	}
	return d.exchange(ctx, w, follows, boot, by)
}

// exchange puts a world in the place of the one that is served, with its installer,
// and returns the one that nobody uses any more, if there is one, for the caller to
// close. Meanwhile nothing is recorded by the version before, and no run begins.
// A world that is refused leaves everything as it was, the installer too.
func (d *daemon) exchange(ctx context.Context, w, follows *world, boot func(), by *daemonRun) (unused *world, err error) {
	d.turn.Lock()
	defer d.turn.Unlock()
	if d.postpone(by) != nil {
		return nil, errRunBegan
	}
	if follows != nil && d.current() != follows {
		return nil, errSuperseded
	}
	if err := d.service.Fits(w.site); err != nil {
		return nil, err
	}
	// What can be refused is, before anything is written.
	if _, err := steps.Foresee(ctx, w.site, w.catalog, w.keys); err != nil {
		return nil, err
	}
	// Whoever asked for it may go: a version is recorded as a whole, or not.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordLimit)
	defer cancel()
	if err := w.recordSite(ctx); err != nil {
		return nil, errors.Join(err, d.recordAgain())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.service.Use(ctx, w.site); err != nil {
		return nil, errors.Join(err, d.recordAgain())
	}
	boot()
	w.images.Service = d.service
	unused = d.retired
	d.retired, d.world, d.withheld, d.hindered, d.refusal = d.world, w, false, false, ""
	return unused, nil
}

// recordLimit bounds what a version of a site writes down in the catalog: a few
// rows for each of its machines, beside whoever else writes.
const recordLimit = time.Minute

// recordAgain has the catalog say once more what machines are by the version that
// is served, after one that was refused.
func (d *daemon) recordAgain() error {
	ctx, cancel := context.WithTimeout(context.Background(), recordLimit)
	defer cancel()
	return d.world.recordSite(ctx)
}

// serveFor serves the version of the site that a client's run works on, from the
// moment on in which it was approved. It is opened for the daemon once more: what
// the run has opened ends with it, but for its bundle, which was verified when the
// run began and is the daemon's from then on.
func (d *daemon) serveFor(ctx context.Context, run *world) error {
	b := d.server(run.app)
	if !run.lent {
		b.verified = run.bundle
	}
	w, err := b.openSite(ctx, run.site, d.path, d.current().tell)
	if err != nil {
		return err
	}
	w.agent = d.agent
	if err := d.adopt(ctx, w, nil, run.app.run); err != nil {
		return err
	}
	if b.verified != nil {
		w.lent, run.lent = false, true
	}
	run.goBy(nil) // it is recorded
	if err := run.inside.Keep(ctx, run.site.Name); err != nil {
		return err
	}
	fmt.Fprintf(d.app.stderr, "Serving site %s in the version that is applied.\n", w.site.Name)
	return nil
}

// sameFiles reports whether two sites were read from files that say the same.
func sameFiles(a, b *site.Site) bool {
	return maps.EqualFunc(a.Files, b.Files, func(a, b *hcl.File) bool { return bytes.Equal(a.Bytes, b.Bytes) })
}

// closeWorlds closes what was opened for the sites that were served.
func (d *daemon) closeWorlds() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.world.close()
	if d.retired != nil {
		err = errors.Join(err, d.retired.close())
	}
	return err
}

// discover lets discovered machines go until ctx ends.
func (d *daemon) discover(ctx context.Context) {
	discovery := &steps.Discovery{
		Site: func() *site.Site { return d.current().site }, Turn: d.turn.RLocker(), Catalog: d.catalog, Keys: d.current().keys, Dispatch: d.service.Dispatch,
		Wanted: d.wanted, Busy: func() bool { return d.underway() != nil }, Fence: d.fence, Tell: d.current().tell,
	}
	discovery.Run(ctx)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

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
		return err
	}
	if real != d.path {
		return fmt.Errorf("serve holds site %s and reads it from %s; %s is another file: name that one, or stop serve first", d.current().site.Name, d.path, path)
	}
	return nil
}

// What is said after what is wrong with a site was shown.
var (
	errReloadFailed = errors.New("the site was not taken up; it is served as it was before")
	// errReloadApart is said when a run has had the services answer for a version
	// that could not be taken up after it.
	errReloadApart = errors.New("the site was not taken up: DHCP and netboot answer by the version that was applied last, " +
		"everything else, such as classes and the API, works by the one before; correct what is wrong and send SIGHUP")
)

// reload reads the site again and serves it as it is now. One that has mistakes,
// or other networks, leaves everything as it was. While a run is under way it is
// only checked, and taken up when the run has ended.
func (d *daemon) reload(ctx context.Context) {
	d.report(d.manager.Reloading())
	err := d.replace(ctx)
	if err != nil {
		d.app.fail(err)
		d.app.fail(d.left())
	}
	d.report(d.manager.Ready("Serving site " + d.current().site.Name))
}

// left is how the site is served when it could not be read again.
func (d *daemon) left() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.apart {
		return errReloadApart
	}
	return errReloadFailed
}

// report logs what the service manager could not be told.
func (d *daemon) report(err error) {
	if err != nil {
		d.app.logger().Warn("telling the service manager", "error", err)
	}
}

// replace does the work of reload.
func (d *daemon) replace(ctx context.Context) error {
	b := &app{
		daemon: d, stop: d.app.stop, stdin: d.app.stdin, stdout: d.app.stdout, stderr: d.app.stderr,
		dataDir: d.app.dataDir, cacheDir: d.app.cacheDir, catalog: d.app.catalog, verbose: d.app.verbose,
	}
	b.copySources(d.app)
	next, err := b.load(d.path)
	if err != nil {
		return err
	}
	if was := d.current().site.Name; next.Name != was {
		return fmt.Errorf("the site in %s is called %q now, and serve holds %q: stop serve and start it again", d.path, next.Name, was)
	}
	if err := d.service.Fits(next); err != nil {
		return err
	}
	if run := d.postpone(); run != nil {
		fmt.Fprintf(d.app.stderr, "Site %s has no mistakes; it is taken up when the %s that is under way has ended.\n", next.Name, run.command)
		return nil
	}
	w, err := b.openSite(ctx, next, d.path, d.current().tell)
	if err != nil {
		return err
	}
	w.agent = d.agent
	if err := d.adopt(ctx, w); err != nil {
		return err
	}
	fmt.Fprintf(d.app.stderr, "Serving site %s as it is now in %s.\n", next.Name, d.path)
	return nil
}

// postpone has the site read again after the run under way; nil: there is none.
func (d *daemon) postpone() *daemonRun {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running != nil {
		d.due = true
	}
	return d.running
}

// adopt serves the site of another world from now on, unless a run has begun
// meanwhile.
func (d *daemon) adopt(ctx context.Context, w *world) error {
	unused, err := d.exchange(ctx, w)
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

// exchange puts a world in the place of the one that is served, and returns the
// one that nobody uses any more, if there is one, for the caller to close.
func (d *daemon) exchange(ctx context.Context, w *world) (unused *world, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running != nil {
		d.due = true
		return nil, errors.New("a run has begun meanwhile; the site is read again when it has ended")
	}
	if err := d.service.Use(ctx, w.site); err != nil {
		return nil, err
	}
	w.images.Service = d.service
	unused = d.retired
	d.retired, d.world, d.apart = d.world, w, false
	return unused, nil
}

// serveFor has the services answer for the site that an approved run works on.
// The daemon itself takes it up when the run has ended.
func (d *daemon) serveFor(ctx context.Context, s *site.Site) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	apart := d.world.site != s
	if !apart && !d.apart {
		return nil
	}
	d.due = d.due || apart
	if err := d.service.Use(ctx, s); err != nil {
		return err
	}
	d.apart = apart
	return nil
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
		Site: func() *site.Site { return d.current().site }, Catalog: d.catalog, Dispatch: d.service.Dispatch, Tell: d.current().tell,
	}
	discovery.Run(ctx)
}

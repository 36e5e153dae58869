package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/workflows/steps"
)

func (a *app) serveCommand() *cobra.Command {
	var (
		agent string
		p     ports
		f     apiFlags
	)
	c := &cobra.Command{
		Use:   "serve SITE.hcl",
		Short: "Answer a site's machines until stopped: addresses, local boot, discovery",
		Long: `Serves DHCP, TFTP, HTTP and the agents' API on the declared networks. It powers nothing
and installs nothing: declared machines get their addresses and boot from their own
disks, and on a network with unknown = "discover" undeclared machines are booted
into the installer once, recorded with their facts, and sent back to their disk.

The API over the catalog is served on loopback, where everybody may read. On another
address it speaks TLS, and everybody needs a token (edge-provision token create).`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			a.graceful.Store(true)
			ctx := cmd.Context()
			screen := a.display(false)
			defer screen.Close()
			w, err := a.open(ctx, args[0], screen.Tell)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, w.close()) }()
			_, unlock, err := w.lock(ctx, "serve")
			if err != nil {
				return err
			}
			defer unlock()
			w.prune(ctx)
			served, err := w.listenAPI(f)
			if err != nil {
				return err
			}
			if served != nil {
				defer served.listener.Close() // closed already where it was served
			}
			service, err := w.listen(ctx, p)
			if err != nil {
				return err
			}
			installer, err := w.installer(ctx, agent)
			if err == nil {
				err = service.Boot(installer)
			}
			if err != nil {
				return errors.Join(err, service.Close())
			}
			if served != nil {
				fmt.Fprintf(a.stderr, "Dashboard and API: %s\n", served.url())
			}
			fmt.Fprintf(a.stderr, "Serving site %s. Press Ctrl-C to stop.\n", w.site.Name)
			return w.serveUntilStopped(ctx, service, served)
		},
	}
	p.register(c)
	f.register(c)
	c.Flags().StringVar(&agent, "agent", "", "the edge-agent program; default: beside this program")
	return c
}

// serveUntilStopped serves, and lets discovered machines go, until Ctrl-C.
func (w *world) serveUntilStopped(ctx context.Context, service *steps.Service, served *apiService) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-w.app.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	discovery := &steps.Discovery{Site: w.site, Catalog: w.catalog, Dispatch: service.Dispatch, Tell: w.tell}
	done := make(chan struct{})
	go func() {
		defer close(done)
		discovery.Run(ctx)
	}()
	answered := make(chan error, 1)
	go func() {
		defer cancel() // one does not go on without the other
		var err error
		if served != nil {
			err = served.Serve(ctx, served.listener)
		} else {
			<-ctx.Done()
		}
		answered <- err
	}()
	err := service.Serve(ctx)
	cancel()
	<-done
	return errors.Join(err, <-answered)
}

// prune bounds the catalog's growth. A failure, or a prune that is not done in
// a few seconds, is no reason to fail a command: the next one goes on.
func (w *world) prune(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := w.catalog.Prune(ctx); err != nil {
		w.app.logger().Warn("removing old events from the catalog", "error", err)
	}
}

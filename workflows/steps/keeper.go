package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Keeper is an adopted machine that keeps edge-agent, which was sent there for looks at
// its hardware.
type Keeper struct {
	Machine *site.Machine
	Dir     string // where it is kept

	key string // of the setting that says so
}

// Keepers are the adopted machines of the site that keep edge-agent. Of machines that
// were installed here nothing is taken away.
func (d *Destroyer) Keepers(ctx context.Context) ([]Keeper, error) {
	var out []Keeper
	for _, m := range d.Site.Machines {
		if !m.Adopted() {
			continue
		}
		row, err := d.Foresight.Machine(ctx, d.Catalog, d.Site.Name, m.Address)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		k := Keeper{Machine: m, key: keptKey(d.Site.Name, row.ID)}
		dir, err := d.Catalog.Settings().Get(ctx, k.key)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		k.Dir = string(dir)
		out = append(out, k)
	}
	return out, nil
}

// Relieve removes edge-agent from machines. Those that cannot be asked go on being
// Keepers, and the error names them.
func (d *Destroyer) Relieve(ctx context.Context, keepers []Keeper) error {
	var (
		wg   sync.WaitGroup
		errs = make([]error, len(keepers))
	)
	slots := make(chan struct{}, 16)
	for i, k := range keepers {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := d.relieve(ctx, k); err != nil {
				errs[i] = fmt.Errorf("%s: removing edge-agent from %s: %w", k.Machine.Address, k.Dir, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (d *Destroyer) relieve(ctx context.Context, k Keeper) error {
	bounded, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	if !plainPath.MatchString(k.Dir) {
		return errors.New("it is no place for a program")
	}
	h, err := d.Runner.Hosts.Host(bounded, k.Machine.Address)
	if err != nil {
		return err
	}
	defer h.Close()
	if _, err := h.Run(bounded, remote.Command{Line: "exec sh -c " + remote.Quote(dropScript(k.Dir))}); err != nil {
		return err
	}
	return d.Catalog.Settings().Delete(ctx, k.key)
}

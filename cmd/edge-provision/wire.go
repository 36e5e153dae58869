package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/imagebuilder"
	"github.com/edge-provision/edge-provision/inventory/query"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/pxe"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/bundle"
	"github.com/edge-provision/edge-provision/workflows/journal"
	"github.com/edge-provision/edge-provision/workflows/keyring"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// openCatalog opens the catalog that the flags name.
func (a *app) openCatalog(ctx context.Context) (*store.Store, error) {
	dir, err := a.data()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &projecting{app: a, cancel: cancel}
	s, err := store.Open(ctx, store.Config{Path: filepath.Join(dir, "catalog.db"), DSN: a.catalog, Log: a.logger(), Match: query.Match, Progress: p.tell})
	if err == nil {
		p.ends()
	}
	return s, err
}

// A service manager waits for a program to start as long as it is configured to. Of a
// large catalog that is projected anew nobody knows how long that takes.
const (
	// projectingTimeout is how long it waits for the next word about that. One comes
	// every two seconds, unless other programs write, or a machine's history is long.
	projectingTimeout = time.Minute
	// startTimeout is how long it waits for what comes then: TimeoutStartSec of the unit.
	startTimeout = 15 * time.Minute
)

// projecting is the opening of a catalog that another program has projected.
type projecting struct {
	app    *app
	cancel context.CancelCauseFunc // of the opening
	told   bool
}

// tell tells how far it is projected anew, and ends that when somebody asks the
// command to stop: the next one goes on.
func (p *projecting) tell(done, total int) {
	p.told = true
	how := fmt.Sprintf("Projecting facts: %s of %s machines", grouped(done), grouped(total))
	fmt.Fprintln(p.app.stderr, how+".")
	p.app.told(p.app.manager.Extend(projectingTimeout, how))
	select {
	case <-p.app.stop:
		p.cancel(errInterrupted)
	default:
	}
}

// ends gives what comes behind the catalog its own time.
func (p *projecting) ends() {
	if p.told {
		p.app.told(p.app.manager.Extend(startTimeout, "Starting"))
	}
}

// told logs what the service manager could not be told.
func (a *app) told(err error) {
	if err != nil {
		a.logger().Warn("telling the service manager", "error", err)
	}
}

// grouped is a number with a comma before each three digits: 100,000.
func grouped(n int) string {
	text := strconv.Itoa(n)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

// world is everything that the commands on one site work with.
type world struct {
	app     *app
	site    *site.Site
	catalog *store.Store
	// borrowed says that the catalog is the daemon's, which closes it.
	borrowed bool
	journal  *journal.Journal
	keys     *keyring.Keyring
	ca       *keyring.Authority
	key      string // the controller's SSH key as an authorized_keys line
	hosts    *steps.SSH
	powers   *steps.Controllers
	builder  *imagebuilder.Builder
	images   *steps.Images
	runner   *steps.Runner
	wanted   *steps.Wanted
	tell     func(steps.Progress)
	agent    string // the edge-agent program, where a flag names it
	stale    bool   // facts are taken as they were gathered last
	adopter  *steps.Adopter
	inside   *steps.BMCFacts
	store    *artifact.Store
	bundle   *bundle.Reader // nil: files are fetched
	lent     bool           // the bundle is another world's, which closes it
	// foresight is what the site would make of the machines; nil: it is recorded,
	// or nobody asks for machines of the catalog.
	foresight *steps.Foresight
	// unbound are the addresses whose machines could not be told, by what was last
	// foreseen or recorded.
	unbound steps.Unbound
}

// open loads a site and opens what belongs to it. The caller closes the world.
func (a *app) open(ctx context.Context, path string, tell func(steps.Progress)) (*world, error) {
	s, err := a.load(path)
	if err != nil {
		return nil, err
	}
	return a.openSite(ctx, s, path, tell)
}

// openFree is open for a command that `serve` carries out where it holds the site:
// then the error is *servedError. What a site is warned about is shown where the
// command is carried out.
func (a *app) openFree(ctx context.Context, path string, tell func(steps.Progress)) (*world, error) {
	if a.daemon != nil && a.run.own {
		served := a.daemon.current().site
		a.files = served.Files
		return a.openSite(ctx, served, path, tell)
	}
	s, diags, err := a.decode(path)
	if err != nil {
		return nil, err
	}
	if a.daemon == nil && !diags.HasErrors() {
		catalog, err := a.openCatalog(ctx)
		if err != nil {
			return nil, err
		}
		c, err := a.reach(ctx, catalog, s.Name)
		if err := errors.Join(err, catalog.Close()); err != nil {
			return nil, err
		}
		if c != nil {
			return nil, &servedError{c}
		}
	}
	if err := a.report(diags); err != nil {
		return nil, err
	}
	return a.openSite(ctx, s, path, tell)
}

// openSite opens what belongs to a site. In a daemon that is its catalog, and
// machines that a run wants in the installer get it from its services.
func (a *app) openSite(ctx context.Context, s *site.Site, path string, tell func(steps.Progress)) (*world, error) {
	w := &world{app: a, site: s, tell: tell}
	if d := a.daemon; d != nil {
		w.catalog, w.wanted, w.borrowed = d.catalog, d.wanted, true
	} else {
		catalog, err := a.openCatalog(ctx)
		if err != nil {
			return nil, err
		}
		w.catalog, w.wanted = catalog, steps.NewWanted()
	}
	if err := w.fill(ctx, path); err != nil {
		return nil, errors.Join(err, w.closeBundle(), w.closeCatalog())
	}
	return w, nil
}

// closeCatalog closes the catalog, unless it is the daemon's.
func (w *world) closeCatalog() error {
	if w.borrowed {
		return nil
	}
	return w.catalog.Close()
}

func (w *world) fill(ctx context.Context, path string) error {
	a := w.app
	dir, err := a.data()
	if err != nil {
		return err
	}
	cache, err := a.cache()
	if err != nil {
		return err
	}
	w.keys, err = keyring.Open(ctx, keyring.Config{KeyFile: filepath.Join(dir, "key"), Values: w.catalog.Settings()})
	if err != nil {
		return err
	}
	if w.ca, err = w.keys.Authority(ctx, w.site.Name, time.Now()); err != nil {
		return err
	}
	signer, line, err := w.keys.SSH(ctx, controllerName(w.site.Name))
	if err != nil {
		return err
	}
	w.key = line
	w.catalog.UseSnapshotKey(w.keys.SnapshotKey())
	w.adopter = &steps.Adopter{Site: w.site.Name, Catalog: w.catalog, Agent: func() (string, error) { return findAgent(w.agent) }}
	w.journal = journal.New(w.catalog, time.Now)
	w.hosts = &steps.SSH{Site: w.site, Catalog: w.catalog, Signer: signer, Dial: a.dial}
	w.powers = steps.NewControllers(w.site, w.catalog, a.bmcDeps(w.keys, w.catalog, dir))
	w.inside = &steps.BMCFacts{Catalog: w.catalog, Powers: w.powers, Wanted: w.wanted}
	w.builder = &imagebuilder.Builder{CacheDir: cache, Log: a.logger(), Progress: buildProgress(w.tell, w.site.Images)}
	w.images = &steps.Images{Builder: w.builder, Catalog: w.catalog, Dir: w.site.Dir}
	w.runner = &steps.Runner{
		Site: w.site, Catalog: w.catalog, Keys: w.keys, Hosts: w.hosts, Powers: w.powers, Machines: w.hosts, SSH: w.hosts,
		Clock: workflows.SystemClock{}, Tell: w.tell,
	}
	return w.artifacts(ctx, path)
}

// foresee has everything go by what the site would make of the machines, and
// writes nothing: nobody has approved it yet.
func (w *world) foresee(ctx context.Context) error {
	f, err := steps.Foresee(ctx, w.site, w.catalog, w.keys)
	if err != nil {
		return err
	}
	w.goBy(f)
	w.unbound = f.Unbound()
	return nil
}

// recordSite writes down what machines are by the site, which is approved.
func (w *world) recordSite(ctx context.Context) error {
	unbound, err := steps.Record(ctx, w.site, w.catalog, w.keys)
	if err != nil {
		return err
	}
	w.goBy(nil)
	w.unbound = unbound
	return w.inside.Keep(ctx, w.site.Name)
}

func (w *world) goBy(f *steps.Foresight) {
	w.foresight, w.hosts.Foresight, w.runner.Foresight, w.adopter.Foresight = f, f, f, f
}

// bmcDeps is what BMC drivers work with: events, and the memory of refused
// credentials, which outlives this process so that no account is locked out.
func (a *app) bmcDeps(keys *keyring.Keyring, catalog *store.Store, dir string) bmc.Deps {
	key := sha256.Sum256([]byte(keys.Digest("bmc-refusals", nil)))
	return bmc.Deps{
		Recorder: catalog, Refusals: bmc.RefusalDir(filepath.Join(dir, "refused-credentials")), RefusalKey: key[:], Log: a.logger(),
	}
}

func (w *world) close() error {
	w.powers.Close()
	return errors.Join(w.closeBundle(), w.closeCatalog())
}

// observe asks the site what it is; service is nil when nothing is served.
func (w *world) observe(ctx context.Context, service *steps.Service) (workflows.Observation, error) {
	o := &steps.Observer{
		Site: w.site, Catalog: w.catalog, Foresight: w.foresight, Unbound: w.unbound, Hosts: w.hosts, Powers: w.powers, Images: w.images.Digest, Fits: w.images.Fits, Runner: w.runner,
	}
	if !w.stale {
		o.Adopter, o.BMCFacts = w.adopter, w.inside
	}
	if service != nil {
		o.Dispatch = service.Dispatch
	}
	return o.Observe(ctx)
}

// ports are the flags of the commands that serve.
type ports struct{ http, agent uint16 }

// listen binds the site's services.
func (w *world) listen(ctx context.Context, p ports) (*steps.Service, error) {
	return steps.Listen(ctx, steps.ServiceConfig{
		Site: w.site, Catalog: w.catalog, Authority: w.ca, Wanted: w.wanted,
		HTTPPort: p.http, AgentPort: p.agent, Log: w.app.logger(), Now: time.Now,
	})
}

// installer builds what machines netboot.
func (w *world) installer(ctx context.Context, agentPath string) (steps.Installer, error) {
	if w.bundle != nil {
		return w.bundledInstaller(ctx)
	}
	path, err := findAgent(agentPath)
	if err != nil {
		return steps.Installer{}, err
	}
	built, err := w.builder.BuildInstaller(ctx, imagebuilder.InstallerSpec{AgentPath: path, Refresh: w.images.Refresh})
	if err != nil {
		return steps.Installer{}, err
	}
	asset := func(name string, kind pxe.AssetKind, f imagebuilder.File) pxe.Asset {
		return pxe.Asset{Name: name + "-" + f.SHA256[:16], Kind: kind, Path: f.Path, Size: f.Bytes, SHA256: f.SHA256}
	}
	return steps.Installer{
		Kernel:    asset("kernel", pxe.AssetKernel, built.Kernel),
		Initramfs: asset("initramfs", pxe.AssetInitramfs, built.Initramfs),
		Console:   installerConsole,
	}, nil
}

// installerConsole is where the installer shows itself: a screen and a serial line.
var installerConsole = []string{"console=tty0", "console=ttyS0,115200"}

// findAgent finds the edge-agent program: where the flag says, beside this
// program, or in PATH's place of installation.
func findAgent(flag string) (string, error) {
	candidates := []string{flag}
	if flag == "" {
		candidates = []string{"/usr/local/lib/edge-provision/edge-agent", "/usr/lib/edge-provision/edge-agent"}
		if self, err := os.Executable(); err == nil {
			candidates = append([]string{filepath.Join(filepath.Dir(self), "edge-agent")}, candidates...)
		}
	}
	for _, c := range candidates {
		if info, err := os.Stat(c); err == nil && info.Mode().IsRegular() {
			return c, nil
		}
	}
	return "", fmt.Errorf("edge-agent, the program that runs in the installer and gathers facts, was not found at %v: build it with `make build`, or name it with --agent", candidates)
}

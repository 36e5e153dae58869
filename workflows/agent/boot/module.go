package boot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Modules loads kernel modules by name and by what devices ask for. It is safe
// for use by several goroutines.
type Modules struct {
	dir     string // lib/modules/RELEASE
	files   map[string]string
	needs   map[string][]string
	soft    map[string][]string // soft dependencies: modules or aliases
	aliases map[string][]alias  // by what stands before the first colon
	insert  func(path, params string) error

	mu      sync.Mutex
	loading map[string]*load
	seen    map[string]bool // modaliases
}

// alias is a line of modules.alias.
type alias struct{ pattern, module string }

// load is one module on its way into the kernel.
type load struct {
	name string
	done chan struct{}
	err  error
	// awaits is what it waits for at the moment; nil for nothing. Guarded by
	// Modules.mu.
	awaits *load
}

// NewModules reads depmod(8)'s files in dir, /lib/modules/RELEASE. insert puts a
// file into the kernel; nil means finit_module(2).
func NewModules(dir string, insert func(path, params string) error) (*Modules, error) {
	m := &Modules{
		dir: dir, insert: insert, files: make(map[string]string), needs: make(map[string][]string), soft: make(map[string][]string),
		aliases: make(map[string][]alias), loading: make(map[string]*load), seen: make(map[string]bool),
	}
	if m.insert == nil {
		m.insert = finit
	}
	err := eachLine(filepath.Join(dir, "modules.dep"), func(line string) {
		file, deps, ok := strings.Cut(line, ":")
		if !ok {
			return
		}
		name := moduleName(file)
		m.files[name] = file
		for dep := range strings.FieldsSeq(deps) {
			m.needs[name] = append(m.needs[name], moduleName(dep))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("reading the list of kernel modules: %w", err)
	}
	err = eachLine(filepath.Join(dir, "modules.alias"), func(line string) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "alias" {
			return
		}
		bucket, _, device := strings.Cut(f[1], ":")
		if !device {
			// Another name of a module, such as crypto-crc32c.
			f[1] = canonical(f[1])
			bucket = f[1]
		}
		m.aliases[bucket] = append(m.aliases[bucket], alias{f[1], canonical(f[2])})
	})
	if err != nil {
		return nil, fmt.Errorf("reading the aliases of kernel modules: %w", err)
	}
	// "softdep a pre: b c post: d": what goes before is needed as well where
	// it is there.
	err = eachLine(filepath.Join(dir, "modules.softdep"), func(line string) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "softdep" {
			return
		}
		pre := false
		for _, word := range f[2:] {
			switch {
			case word == "pre:":
				pre = true
			case strings.HasSuffix(word, ":"):
				pre = false
			case pre:
				m.soft[canonical(f[1])] = append(m.soft[canonical(f[1])], canonical(word))
			}
		}
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the soft dependencies of kernel modules: %w", err)
	}
	return m, nil
}

func eachLine(name string, do func(string)) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		if line := scan.Text(); !strings.HasPrefix(line, "#") {
			do(line)
		}
	}
	return scan.Err()
}

// moduleName turns kernel/drivers/net/virtio_net.ko.xz into virtio_net.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return canonical(name)
}

// canonical has underscores where file names may have hyphens.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// Load loads a module and what it needs, once. A module that is not there is
// taken for built in: the kernel says soon enough if it is not.
func (m *Modules) Load(name string) error {
	return m.load(canonical(name), nil, nil)
}

// load loads name; chain are the names that wait for it, so that a circle in the
// list does not wait for itself, and parent is the last of them that is a module.
func (m *Modules) load(name string, chain []string, parent *load) error {
	if slices.Contains(chain, name) {
		return nil
	}
	file, ok := m.files[name]
	if !ok {
		return m.loadAlias(name, append(slices.Clone(chain), name), parent)
	}
	m.mu.Lock()
	l := m.loading[name]
	fresh := l == nil
	if fresh {
		l = &load{name: name, done: make(chan struct{})}
		m.loading[name] = l
	} else if l.circles(chain) {
		m.mu.Unlock()
		return nil
	}
	if parent != nil {
		parent.awaits = l
	}
	m.mu.Unlock()
	if fresh {
		m.put(l, file, append(slices.Clone(chain), name))
	}
	<-l.done
	if parent != nil {
		m.mu.Lock()
		parent.awaits = nil
		m.mu.Unlock()
	}
	return l.err
}

// circles reports whether l waits for one of the modules in chain, which may be
// loaded by another goroutine that came into the circle elsewhere. Modules.mu is held.
func (l *load) circles(chain []string) bool {
	for ; l != nil; l = l.awaits {
		if slices.Contains(chain, l.name) {
			return true
		}
	}
	return false
}

// put puts a module into the kernel after what it needs; chain ends with it.
func (m *Modules) put(l *load, file string, chain []string) {
	defer close(l.done)
	for _, dep := range slices.Concat(m.soft[l.name], m.needs[l.name]) {
		if err := m.load(dep, chain, l); err != nil {
			// The module may do without; if not, its own insertion fails.
			l.err = err
		}
	}
	if err := m.insert(filepath.Join(m.dir, file), ""); err != nil {
		l.err = errors.Join(fmt.Errorf("loading module %s: %w", l.name, err), l.err)
	} else {
		l.err = nil
	}
}

// loadAlias loads the modules that go by another name, such as those for
// "crc32c", which is a generic one and one for the processor at hand. One of
// them is enough.
func (m *Modules) loadAlias(name string, chain []string, parent *load) error {
	var errs []error
	for _, module := range m.For(name) {
		err := m.load(module, chain, parent)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// For returns the modules that drive a device of this modalias.
func (m *Modules) For(modalias string) []string {
	bucket, _, _ := strings.Cut(modalias, ":")
	var names []string
	for _, a := range m.aliases[bucket] {
		// A pattern that is none matches nothing.
		if ok, err := path.Match(a.pattern, modalias); ok && err == nil {
			names = append(names, a.module)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

const (
	// parallelLoads bounds the modules that are inserted at once; a driver's probe
	// waits for its hardware most of the time.
	parallelLoads = 8
	// slowLoad is after how long a module counts as slow: others need not wait for it
	// to be done. Even a fast one may take as long as the slowest, because the kernel
	// waits in finit_module(2) for what any driver does asynchronously, such as the
	// scan of a SCSI host (do_init_module in kernel/module/main.c).
	slowLoad = time.Second
)

// LoadForDevices loads modules for all devices under sys (/sys) that are not
// driven yet, until that brings forth no new devices. What a fast driver found gets
// its own driver while a slow one is still at work.
func (m *Modules) LoadForDevices(ctx context.Context, sys string) error {
	var errs []error
	ended := make(chan error)
	limit := make(chan struct{}, parallelLoads)
	running := 0
	for ctx.Err() == nil {
		fresh := m.wanted(sys)
		for _, name := range fresh {
			limit <- struct{}{}
			running++
			go func() { ended <- m.loadWithin(name, limit) }()
		}
		if running == 0 {
			break
		}
		slow := time.After(slowLoad)
		for again := false; running > 0 && !again; {
			select {
			case err := <-ended:
				running--
				errs = append(errs, err)
			case <-slow:
				again = true
			case <-ctx.Done():
				again = true
			}
		}
	}
	for ; running > 0; running-- {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}

// loadWithin is Load, which gives its place in limit up when it is done or slow.
func (m *Modules) loadWithin(name string, limit <-chan struct{}) error {
	loaded := make(chan error, 1)
	go func() { loaded <- m.Load(name) }()
	select {
	case err := <-loaded:
		<-limit
		return err
	case <-time.After(slowLoad):
		<-limit
		return <-loaded
	}
}

// Underway lists the modules that the kernel is still loading, sorted.
func (m *Modules) Underway() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name, l := range m.loading {
		select {
		case <-l.done:
		default:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// networkClass is how the modalias of an Ethernet controller goes on after vendor
// and device: PCI base class 02, or virtio device 1.
var networkClass = regexp.MustCompile(`^pci:.*bc02|^pci:v00001AF4d0000(1000|1041)|^virtio:d00000001`)

// wanted lists the modules for modaliases that were not seen before. Those for
// the network come first: the conversation with the controller can begin while
// disks are still being found.
func (m *Modules) wanted(sys string) []string {
	files, err := filepath.Glob(filepath.Join(sys, "bus/*/devices/*/modalias"))
	if err != nil {
		return nil
	}
	var first, names []string
	for _, f := range files {
		raw, err := os.ReadFile(f)
		modalias := strings.TrimSpace(string(raw))
		if err != nil || modalias == "" {
			continue
		}
		m.mu.Lock()
		known := m.seen[modalias]
		m.seen[modalias] = true
		m.mu.Unlock()
		if known {
			continue
		}
		if networkClass.MatchString(modalias) {
			first = append(first, m.For(modalias)...)
		} else {
			names = append(names, m.For(modalias)...)
		}
	}
	slices.Sort(names)
	return append(first, slices.Compact(names)...)
}

// finit puts a module file into the kernel.
func finit(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if filepath.Ext(path) != ".ko" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(f.Fd()), params, flags)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// kernel is a machine with settings as files.
type kernel struct {
	t *testing.T
	settings
}

func newKernel(t *testing.T) *kernel {
	t.Helper()
	k := &kernel{t: t, settings: settings{sys: t.TempDir(), dir: filepath.Join(t.TempDir(), "labs-of-machine")}}
	for name, value := range map[string]string{
		"kernel/random/boot_id": "one", "kernel/panic": "0", "vm/overcommit_memory": "0", "fs/inotify/max_user_instances": "128", "fs/inotify/max_user_watches": "900000",
	} {
		k.set(name, value)
	}
	return k
}

func (k *kernel) set(name, value string) {
	k.t.Helper()
	path := filepath.Join(k.sys, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kernel) want(name, value string) {
	k.t.Helper()
	b, err := os.ReadFile(filepath.Join(k.sys, name))
	if got := strings.TrimSpace(string(b)); err != nil || got != value {
		k.t.Errorf("%s = %q, %v; want %q", name, got, err, value)
	}
}

func (k *kernel) lab(name string) *held {
	k.t.Helper()
	h, err := k.hold(name)
	if err != nil {
		k.t.Fatal(err)
	}
	return h
}

func (k *kernel) end(h *held) {
	k.t.Helper()
	if err := h.release(); err != nil {
		k.t.Fatal(err)
	}
}

// kill is what the kernel does to the lock of a process that dies.
func (k *kernel) kill(h *held) {
	k.t.Helper()
	if err := h.own.Close(); err != nil {
		k.t.Fatal(err)
	}
}

func TestTheLastOfOverlappingLabsRestoresWhatTheFirstFound(t *testing.T) {
	k := newKernel(t)
	first := k.lab("a")
	k.want("fs/inotify/max_user_instances", "8192")
	k.want("fs/inotify/max_user_watches", "900000")
	k.set("kernel/panic", "10")
	second := k.lab("b")
	k.set("vm/overcommit_memory", "1")
	k.end(first)
	// The second lab's hosts still need them.
	k.want("kernel/panic", "10")
	k.want("fs/inotify/max_user_instances", "8192")
	third := k.lab("a")
	k.end(second)
	k.want("vm/overcommit_memory", "1")
	k.end(third)
	for name, value := range map[string]string{"kernel/panic": "0", "vm/overcommit_memory": "0", "fs/inotify/max_user_instances": "128"} {
		k.want(name, value)
	}
	// What a person changes between labs is the machine's own.
	k.set("kernel/panic", "60")
	again := k.lab("a")
	k.set("kernel/panic", "10")
	k.end(again)
	k.want("kernel/panic", "60")
}

func TestWhatAKilledLabChangedIsRestoredByTheNext(t *testing.T) {
	k := newKernel(t)
	killed := k.lab("a")
	k.set("kernel/panic", "10")
	k.kill(killed)
	next := k.lab("b")
	k.end(next)
	k.want("kernel/panic", "0")
	// One that is killed while another lives is not waited for.
	living, killed := k.lab("b"), k.lab("c")
	k.set("kernel/panic", "10")
	k.kill(killed)
	k.end(living)
	k.want("kernel/panic", "0")
	// And its name is free again.
	k.kill(k.lab("a"))
	k.end(k.lab("a"))
}

func TestSettingsOfAnotherBootAreNotRestored(t *testing.T) {
	k := newKernel(t)
	k.kill(k.lab("a"))
	k.set("kernel/random/boot_id", "two")
	k.set("kernel/panic", "5")
	h := k.lab("b")
	k.set("kernel/panic", "10")
	k.end(h)
	k.want("kernel/panic", "5")
}

func TestTwoLabsOfOneNameAreRefused(t *testing.T) {
	k := newKernel(t)
	h := k.lab("a")
	if _, err := k.hold("a"); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("a second lab of the name = %v; want it refused", err)
	}
	k.set("kernel/panic", "10")
	k.end(h)
	k.want("kernel/panic", "0")
}

func TestADamagedMemoryIsNamed(t *testing.T) {
	k := newKernel(t)
	k.end(k.lab("a"))
	if err := os.WriteFile(k.memoryPath(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.hold("a"); err == nil || !strings.Contains(err.Error(), k.memoryPath()) {
		t.Errorf("hold with a damaged memory = %v; want the file named", err)
	}
}

func TestManyLabsAtOnceLeaveTheSettings(t *testing.T) {
	k := newKernel(t)
	var wg sync.WaitGroup
	errs := make(chan error, 20)
	for i := range cap(errs) {
		wg.Go(func() {
			h, err := k.hold(fmt.Sprintf("lab%d", i))
			if err != nil {
				errs <- err
				return
			}
			err = os.WriteFile(filepath.Join(k.sys, "kernel/panic"), []byte("10\n"), 0o644)
			if err == nil {
				err = h.release()
			}
			if err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	k.want("kernel/panic", "0")
}

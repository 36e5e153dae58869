package k3s

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

// TestMachineThatLosesPowerWhileItStartsIsWaitedFor takes the second server off
// the network when it joins, and back when the run has noticed.
func TestMachineThatLosesPowerWhileItStartsIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b", "c")
	c := w.config(oldVersion, []string{"a", "b", "c"}, nil)
	say, noticed := c.Say, false
	c.Say = func(format string, args ...any) {
		say(format, args...)
		w.mu.Lock()
		said := w.says[len(w.says)-1]
		w.mu.Unlock()
		switch {
		case strings.HasPrefix(said, "machine.b: joining"):
			w.hosts["machine.b"].gone = true
		case strings.HasPrefix(said, "machine.b: waiting: machine.b: no SSH at"):
			w.hosts["machine.b"].gone, noticed = false, true
		}
	}
	mustApply(t, c)
	if !noticed {
		t.Errorf("Apply() said %q; want that it waited for the machine", w.says)
	}
	if report, err := inspect(t, c); err != nil || len(report.Changes) > 0 {
		t.Errorf("Inspect() = %+v, %v; want nothing left to do", report, err)
	}
}

// TestAPIServersThatAnswerWithErrorsHaveNothingDone: the servers are up, their API
// is in trouble, and a node that is not in its answer is no node that is gone.
func TestAPIServersThatAnswerWithErrorsHaveNothingDone(t *testing.T) {
	w, c := ha(t)
	w.set("machine.d", "k3s-agent.service.active", "inactive")
	var answer error
	w.kube.PrependReactor("*", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, answer })
	w.took()
	for name, err := range map[string]error{
		"429": apierrors.NewTooManyRequests("too many requests", 1),
		"500": apierrors.NewInternalError(errors.New("etcdserver: leader changed")),
		"504": apierrors.NewTimeoutError("request timed out", 1),
	} {
		answer = err
		if report, got := inspect(t, c); got == nil || !strings.Contains(got.Error(), err.Error()) || len(report.Changes) > 0 {
			t.Errorf("%s: Inspect() = %+v, %v; want what it answered and no change", name, report, got)
		}
		// It would wait for another answer.
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		cluster, newErr := New(c)
		if newErr != nil {
			t.Fatal(newErr)
		}
		if _, got := cluster.Apply(ctx); got == nil {
			t.Errorf("%s: Apply() = nil; want it to wait for an answer to the end", name)
		}
		cancel()
		if log := w.took(); !cmp.Equal(log, []string{""}) {
			t.Errorf("%s: Apply() did %q; want nothing", name, log)
		}
	}
}

// TestServerThatIsBusyRightAfterItsStartIsAskedAgain lets the API answer a
// verification first with errors and then as a cluster that is whole does.
func TestServerThatIsBusyRightAfterItsStartIsAskedAgain(t *testing.T) {
	w, c := ha(t)
	cluster, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	answers := []error{apierrors.NewInternalError(errors.New("etcdserver: leader changed")), apierrors.NewServiceUnavailable("starting")}
	asked := 0
	w.kube.PrependReactor("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		asked++
		if asked <= 3*len(answers) { // each of three servers is asked until one answers
			return true, nil, answers[(asked-1)/3]
		}
		return false, nil, nil
	})
	if err := cluster.Verify(t.Context()); err != nil || asked != 3*len(answers)+1 {
		t.Errorf("Verify() = %v after %d questions; want success at the third look", err, asked)
	}

	// What stays so is an error, within the bound.
	began := w.Now()
	w.kube.PrependReactor("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, answers[0] })
	if err := cluster.Verify(t.Context()); err == nil || !strings.Contains(err.Error(), "leader changed") {
		t.Errorf("Verify() of a cluster in trouble = %v; want what it answers", err)
	}
	if took := w.Now().Sub(began); took < verifyFor || took > 2*verifyFor {
		t.Errorf("Verify() gave up after %s; want %s", took, verifyFor)
	}
}

// TestSilentServersCostAPlanOneWait has three API servers take connections and
// answer nothing: all are asked at the same time, and once.
func TestSilentServersCostAPlanOneWait(t *testing.T) {
	_, c := ha(t)
	connect := c.connect
	var asked atomic.Int64
	c.connect = func(ctx context.Context, a access) (*client, error) {
		cl, err := connect(ctx, a)
		if err == nil {
			cl.readyz = func(ctx context.Context) ([]byte, error) {
				asked.Add(1)
				deadline, ok := ctx.Deadline()
				if left := time.Until(deadline); !ok || left > requestTimeout {
					return nil, fmt.Errorf("asked with %s of patience; want %s at most", left, requestTimeout)
				}
				return nil, context.DeadlineExceeded
			}
		}
		return cl, err
	}
	report, err := inspect(t, c)
	if err != nil || len(report.Changes) > 0 || !strings.Contains(report.Unreachable, "no API server answers") || !strings.Contains(report.Unreachable, "deadline exceeded") {
		t.Errorf("Inspect() = %+v, %v; want nobody to answer, and why", report, err)
	}
	if asked.Load() != 3 {
		t.Errorf("the servers were asked %d times; want once each", asked.Load())
	}
}

// TestVerifyNamesTheServerThatDoesNotRun stops a server, or takes its data, after
// the cluster was ready.
func TestVerifyNamesTheServerThatDoesNotRun(t *testing.T) {
	for name, test := range map[string]struct {
		change func(w *world)
		want   string
	}{
		"stopped": {
			func(w *world) { w.set("machine.b", "k3s.service.active", "inactive") },
			"2 of 3 servers answer: machine.b: k3s.service is stopped; see on it: journalctl -u k3s.service",
		},
		"failed": {
			func(w *world) { w.set("machine.b", "k3s.service.active", "failed") },
			"2 of 3 servers answer: machine.b: k3s.service is failed; see on it: journalctl -u k3s.service",
		},
		"without data": {
			func(w *world) {
				if err := os.RemoveAll(filepath.Join(w.hosts["machine.c"].root, "var/lib/rancher/k3s/server/db")); err != nil {
					t.Fatal(err)
				}
			},
			"2 of 3 servers answer: machine.c: it has no data of a cluster",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, c := ha(t)
			test.change(w)
			cluster, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			if err := cluster.Verify(t.Context()); err == nil || err.Error() != test.want {
				t.Errorf("Verify() = %v; want %s", err, test.want)
			}
		})
	}
}

// TestStartsOfBeforeAreNotCounted starts K3s where it ended again and again until
// somebody mended why: systemd's counter of that is still there.
func TestStartsOfBeforeAreNotCounted(t *testing.T) {
	w, c := ha(t)
	w.set("machine.d", "k3s-agent.service.active", "failed")
	w.set("machine.d", "k3s-agent.service.restarts", "40")
	mustApply(t, c)
	if want := []string{"d: start k3s-agent.service"}; !cmp.Equal(w.took(), want) {
		t.Errorf("Apply() did something else than %q", want)
	}
}

// TestNodeIsNotTakenForReadyBecauseItWas restarts an agent with other files whose
// kubelet does not come up: until the cluster misses it, its node is Ready.
func TestNodeIsNotTakenForReadyBecauseItWas(t *testing.T) {
	w, c := ha(t)
	c.Registries = "mirrors: {}\n"
	w.hosts["machine.d"].deaf = true
	say, noticed := c.Say, false
	c.Say = func(format string, args ...any) {
		say(format, args...)
		if fmt.Sprintf(format, args...) == "machine.d: waiting: node d has not said that it is alive since K3s was started" {
			w.hosts["machine.d"].deaf, noticed = false, true
		}
	}
	mustApply(t, c)
	if !noticed {
		t.Errorf("Apply() said %q; want that it waited for node d", w.says)
	}
}

// TestFullDiskThatIsSaidWhileTheClusterIsAskedIsSeen has the disk get full after
// K3s was asked, and before the cluster is asked for its node.
func TestFullDiskThatIsSaidWhileTheClusterIsAskedIsSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a")
	w.kube.PrependReactor("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		w.set("machine.a", "journal.1", "level=error msg=\"Error encountered while importing x.tar: no space left on device\"\n")
		return false, nil, nil
	})
	if _, err := apply(t, w.config(oldVersion, []string{"a"}, nil)); err == nil || !strings.Contains(err.Error(), "machine.a: its disk is full, K3s says:") {
		t.Errorf("Apply() = %v; want the full disk", err)
	}
}

// TestOnlyADiskIsSaidToBeFull reads what has the same words as a full disk.
func TestOnlyADiskIsSaidToBeFull(t *testing.T) {
	for said, full := range map[string]bool{
		"inotify_add_watch /sys/fs/cgroup/cpu: no space left on device":       false,
		"failed to create fsnotify watcher: inotify: no space left on device": false,
		"mkdir /sys/fs/cgroup/cpuset/kubepods: no space left on device":       false,
		"write /var/lib/rancher/k3s/server/token: no space left on device":    true,
		"iptables-restore: No space left on device":                           true,
		"database or disk is full":                                            true,
	} {
		t.Run(said, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "a")
			w.set("machine.a", "journal.1", "level=info msg=\"Starting k3s\"\nlevel=error msg=\""+said+"\"\nlevel=info msg=on\n")
			if _, err := apply(t, w.config(oldVersion, []string{"a"}, nil)); (err != nil) != full {
				t.Errorf("Apply() = %v; want the full disk said: %t", err, full)
			}
		})
	}
}

// TestMachineThatJoinsMeanwhileIsNotReplaced looks at a machine before it is
// joined, and at the cluster when it is: a run before this one has started it.
func TestMachineThatJoinsMeanwhileIsNotReplaced(t *testing.T) {
	w, c := ha(t)
	mark := filepath.Join(w.hosts["machine.d"].root, kubeletCert)
	if err := os.Remove(mark); err != nil {
		t.Fatal(err)
	}
	w.kube.PrependReactor("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		w.put(mark, "cert\n", 0o600)
		return false, nil, nil
	})
	if report, err := inspect(t, c); err != nil || len(report.Changes) > 0 {
		t.Errorf("Inspect() = %+v, %v; want nothing to do", report, err)
	}
}

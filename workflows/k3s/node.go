package k3s

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/remote"
)

// maxSkew is how far a clock may be off. Certificates of a new cluster are valid
// from the hour they are made in, and a node that lives in another one is told
// that they have expired or are not valid yet, much later and elsewhere.
const maxSkew = 5 * time.Minute

// node does what one node needs.
func (w *work) node(ctx context.Context, t *target) error {
	if t.need == upgrade {
		return w.upgrade(ctx, t)
	}
	h, err := w.host(ctx, t.node.Machine)
	if err != nil {
		return err
	}
	defer h.Close()
	switch t.need {
	case settle:
		if err := w.write(ctx, h, t); err != nil {
			return err
		}
		if err := h.run(ctx, "systemctl enable --quiet "+t.role.unit()+".service"); err != nil {
			return err
		}
		return w.settleMember(ctx, t)
	case enter:
		if err := w.enter(ctx, h, t); err != nil {
			return err
		}
	case restart:
		if err := w.mayStop(t); err != nil {
			return err
		}
		fallthrough
	default:
		w.say("%s: starting %s.service", t.node.Machine, t.role.unit())
		if t.swap {
			if err := w.stage(ctx, h, t); err != nil {
				return err
			}
			if err := w.swap(ctx, h); err != nil {
				return err
			}
		}
		if err := w.write(ctx, h, t); err != nil {
			return err
		}
	}
	return w.launch(ctx, h, t)
}

// enter prepares a machine that is not in the cluster yet.
func (w *work) enter(ctx context.Context, h *host, t *target) error {
	if t.replaces {
		if err := w.makeRoom(ctx, t); err != nil {
			return err
		}
	}
	if len(w.clients) > 0 && !t.password {
		// Somebody who had this name before has left a password that this
		// machine does not know.
		api, err := w.api(t.node.Machine)
		if err != nil {
			return err
		}
		if err := api.deletePassword(ctx, t.node.Name); err != nil {
			return err
		}
	}
	if err := w.remember(ctx, h, t); err != nil {
		return err
	}
	if err := w.stage(ctx, h, t); err != nil {
		return err
	}
	if err := w.write(ctx, h, t); err != nil {
		return err
	}
	if t.self.join.Init {
		w.say("%s: beginning the cluster as %s", t.node.Machine, t.node.Name)
	} else {
		w.say("%s: joining as %s %s through %s", t.node.Machine, t.role, t.node.Name, t.self.join.Server)
	}
	return w.swap(ctx, h)
}

// stage brings the binary to the machine, beside the one in use, and makes sure
// that it is what it is declared to be.
func (w *work) stage(ctx context.Context, h *host, t *target) error {
	if t.observation.files[binaryPath].SHA256 == w.Binary.SHA256 {
		return nil
	}
	if t.observation.files[stagedPath].SHA256 != w.Binary.SHA256 {
		if err := w.send(ctx, h, t, w.Binary, stagedPath, 0o755); err != nil {
			return err
		}
	}
	r, err := h.Run(ctx, remote.Command{Line: h.path(stagedPath) + " --version"})
	if err != nil {
		return fmt.Errorf("the K3s binary does not run on it; is it for another architecture? %w", err)
	}
	fields := strings.Fields(r.Stdout)
	if len(fields) < 3 || fields[2] != w.Version.String() {
		first, _, _ := strings.Cut(strings.TrimSpace(r.Stdout), "\n")
		return refuse("the binary %s calls itself %q, and version %s is declared", w.Binary.Source, first, w.Version)
	}
	return nil
}

// swap puts a staged binary in use, in one step.
func (w *work) swap(ctx context.Context, h *host) error {
	staged, binary := h.path(stagedPath), h.path(binaryPath)
	return h.run(ctx, fmt.Sprintf("if [ -f %s ]; then mv -f %s %s && sync %s; fi", staged, staged, binary, binary))
}

// send streams a verified file to the machine, has its digest computed there,
// and puts it in its place in one step.
func (w *work) send(ctx context.Context, h *host, t *target, ref artifact.Ref, to string, mode fs.FileMode) error {
	f, err := w.Artifacts.Open(ctx, ref)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// Importing an image unpacks it into the container store beside its file.
	if free := t.freeBytes; free >= 0 && free < info.Size()+minFreeBytes {
		return refuse("its disk is full: %s needs %s and /var/lib has %s free; make room and apply again", path.Base(to), megabytes(info.Size()+minFreeBytes), megabytes(free))
	}
	w.say("%s: sending %s (%s)", t.node.Machine, path.Base(to), megabytes(info.Size()))
	target := h.path(to)
	part := h.path(strings.TrimSuffix(to, stagedSuffix) + stagedSuffix)
	line := fmt.Sprintf(`umask 077; mkdir -p %s && cat >%s && [ "$(sha256sum <%s | cut -d' ' -f1)" = %s ] && chmod %o %s && sync %s && { [ %s = %s ] || mv -f %s %s; } || { c=$?; rm -f %s; exit $c; }`,
		h.path(path.Dir(to)), part, part, ref.SHA256, mode, part, part, part, target, part, target, part)
	_, err = h.Run(ctx, remote.Command{Line: line, Stdin: f})
	if err == nil {
		return nil
	}
	var exit *remote.ExitError
	switch {
	case errors.As(err, &exit) && strings.Contains(exit.Tail, "No space left on device"):
		return refuse("its disk is full: %s (%s) does not fit on it; make room and apply again", path.Base(to), megabytes(info.Size()))
	case errors.As(err, &exit) && exit.Tail == "":
		return fmt.Errorf("%s arrived there with another digest; its disk or the network changes bytes", path.Base(to))
	}
	return fmt.Errorf("sending %s: %w", path.Base(to), err)
}

// minFreeBytes stays free after a file was sent, for what K3s makes of it.
const minFreeBytes = 64 << 20

func megabytes(n int64) string { return strconv.FormatInt((n+1<<20-1)>>20, 10) + " MiB" }

// write brings the files of a node to the machine, and takes away those that
// are no longer declared.
func (w *work) write(ctx context.Context, h *host, t *target) error {
	var prepare []string
	if t.role == server {
		// K3s makes it private, and files of ours may come first.
		prepare = append(prepare, "install -d -m 0700 "+h.path(dataDir+"/server"))
		if w.Profile == CIS {
			prepare = append(prepare, "install -d -m 0700 "+h.path(auditLogDir))
		}
	}
	for _, p := range t.stale {
		prepare = append(prepare, "rm -f "+h.path(p))
	}
	if len(prepare) > 0 {
		if err := h.run(ctx, strings.Join(prepare, " && ")); err != nil {
			return err
		}
	}
	for _, image := range w.Images {
		if p := imagePath(image); slices.Contains(t.missing, p) {
			if err := w.send(ctx, h, t, image, p, 0o644); err != nil {
				return err
			}
		}
	}
	for _, f := range t.files {
		if !slices.Contains(t.missing, f.Path) {
			continue
		}
		err := h.write(ctx, f.Path, f.Content, f.Mode)
		if err != nil {
			return err
		}
		if f.Path == sysctlPath {
			if err := h.run(ctx, "sysctl --quiet --load="+h.path(sysctlPath)); err != nil {
				return err
			}
		}
	}
	for _, l := range links {
		if slices.Contains(t.missing, l) {
			if err := h.run(ctx, "ln -s k3s "+h.path(l)); err != nil {
				return err
			}
		}
	}
	return nil
}

// launch starts the unit, waits until the node is ready, and marks that it was.
func (w *work) launch(ctx context.Context, h *host, t *target) error {
	u := t.role.unit() + ".service"
	// A restart that finds the unit between two automatic ones does not set its
	// counter of them to zero (systemd's service_stop), which reset-failed does in
	// every state.
	line := fmt.Sprintf("rm -f %[2]s; systemctl unmask --quiet %[1]s; systemctl daemon-reload && systemctl enable --quiet %[1]s && "+
		"{ systemctl reset-failed %[1]s 2>/dev/null; systemctl show %[1]s -p InvocationID --value; } && systemctl restart --no-block %[1]s", u, h.path(t.role.leavingPath()))
	r, err := h.Run(ctx, remote.Command{Line: line})
	if err != nil {
		return err
	}
	if err := w.waitReady(ctx, t, lastLine(r.Stdout)); err != nil {
		return err
	}
	// The connection of before may be one to a machine that has been restarted
	// since.
	now, err := w.host(ctx, t.node.Machine)
	if err != nil {
		return err
	}
	defer now.Close()
	if err := w.mark(ctx, now, t); err != nil {
		return err
	}
	w.say("%s: node %s is ready", t.node.Machine, t.node.Name)
	return w.settleMember(ctx, t)
}

// mark writes down that K3s got ready with the files that it now has.
func (w *work) mark(ctx context.Context, h *host, t *target) error {
	encrypted := w.Profile == CIS
	return w.writeMark(ctx, h, started{Owner: w.Owner, Digest: t.digest, Files: t.paths(), Fixed: w.fixed(), Encrypted: &encrypted, Found: t.started.Found})
}

// paths are those of the files that the node should have.
func (t *target) paths() []string {
	var out []string
	for _, f := range t.files {
		out = append(out, f.Path)
	}
	return out
}

func (w *work) writeMark(ctx context.Context, h *host, m started) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return h.write(ctx, startedPath, append(b, '\n'), 0o600)
}

// remember writes down, before K3s first starts, which directories that it and
// its network use were there already: those are not ours to remove.
func (w *work) remember(ctx context.Context, h *host, t *target) error {
	if t.started.Owner != "" {
		return nil
	}
	var line []string
	for _, d := range sharedDirs {
		line = append(line, fmt.Sprintf("[ -e %s ] && echo %s", h.path(d), d))
	}
	r, err := h.Run(ctx, remote.Command{Line: strings.Join(line, "; ") + "; true"})
	if err != nil {
		return err
	}
	t.started = started{Owner: w.Owner, Files: t.paths(), Found: strings.Fields(r.Stdout)}
	return w.writeMark(ctx, h, t.started)
}

// maxRestarts is how often systemd may have started K3s again before it is
// given up. A server that joins may be turned away a few times while etcd makes
// another member a voter.
const maxRestarts = 12

// roundLimit bounds one look at a node that starts: a few questions to its API,
// each with a bound of its own, and one over SSH.
const roundLimit = time.Minute

// waitReady waits until the node does its work: a server's own API and
// supervisor answer, the node is in the cluster with the declared version, and
// it is Ready where it can be. It asks over a new connection each time, so that
// a machine that loses its power meanwhile is waited for, too: K3s starts with
// it. The invocation of before is the one that was restarted.
//
// What the cluster says of a node that it knew is of before, too, until the node
// renews its lease: for as long as leaseDuration one is Ready of which nothing runs.
func (w *work) waitReady(ctx context.Context, t *target, before string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, w.StartTimeout, fmt.Errorf("K3s was started and was not ready in %s", w.StartTimeout))
	defer cancel()
	known := t.member != nil && !t.replaces
	wasReady := known && t.member.Ready
	told, invocation, renewed := "", "", time.Time{}
	err := w.wait(ctx, 2*time.Second, func(ctx context.Context) (err error) {
		defer func() {
			// What is waited for is told when it becomes something else.
			if err != nil && err.Error() != told {
				told = err.Error()
				w.say("%s: waiting: %s", t.node.Machine, w.redact(told))
			}
		}()
		ctx, cancel := context.WithTimeoutCause(ctx, roundLimit, fmt.Errorf("it gave no answer in %s", roundLimit))
		defer cancel()
		h, err := w.host(ctx, t.node.Machine)
		var another *remote.HostKeyError
		if errors.As(err, &another) {
			return refuse("%s", err)
		}
		if err != nil {
			return err
		}
		defer h.Close()
		u, err := w.alive(ctx, h, t, before)
		if err != nil {
			return err
		}
		cl, err := w.self(ctx, h, t)
		if err != nil {
			return err
		}
		members, err := cl.members(ctx)
		if err != nil {
			return err
		}
		m, ok := members[t.node.Name]
		if u.Invocation != invocation {
			invocation, renewed = u.Invocation, m.Renewed
		}
		switch {
		case !ok:
			return fmt.Errorf("node %s has not registered", t.node.Name)
		case m.Version != t.expect.String():
			return fmt.Errorf("node %s still says that it runs %s", t.node.Name, m.Version)
		case known && m.Renewed.Equal(renewed):
			return fmt.Errorf("node %s has not said that it is alive since K3s was started", t.node.Name)
		case !m.Ready && (wasReady || w.CNI == Flannel):
			return fmt.Errorf("node %s is not Ready", t.node.Name)
		}
		t.member = &m
		// Images are imported before the node registers, which may have been since
		// K3s was asked.
		_, err = w.alive(ctx, h, t, before)
		return err
	})
	var refused *RefusedError
	if err == nil || errors.As(err, &refused) {
		return err
	}
	return fmt.Errorf("%w\n%s", err, w.lastWords(context.WithoutCancel(ctx), t))
}

// self is the API to ask about a node: a server's own, an agent's any.
func (w *work) self(ctx context.Context, h *host, t *target) (*client, error) {
	if t.role == agent {
		cl, err := w.api(t.node.Machine)
		if err != nil {
			return nil, err
		}
		return cl, nil
	}
	f, err := h.read(ctx, kubeconfigPath)
	if err != nil {
		return nil, err
	}
	a, err := kubeconfig(f, endpoint(t.node.IP), w.Owner)
	if err != nil {
		return nil, err
	}
	a.agentToken = w.decision.tokens.Agent
	cl, err := w.connect(ctx, a)
	if err != nil {
		return nil, err
	}
	return cl, cl.ready(ctx)
}

// alive asks whether the unit lives, and ends the wait when it does not get
// anywhere. Nothing is concluded from what the invocation of before says, which
// may take a minute to stop: it may have had a full disk, and this start is to
// go on with one on which room was made.
func (w *work) alive(ctx context.Context, h *host, t *target, before string) (unit, error) {
	name := t.role.unit() + ".service"
	r, err := h.Run(ctx, remote.Command{Line: fmt.Sprintf(
		`p=$(systemctl show %s -p ActiveState -p SubState -p NRestarts -p InvocationID -p Job); printf '%%s\n\n' "$p"; `+
			`journalctl _SYSTEMD_INVOCATION_ID="$(echo "$p" | sed -n 's/^InvocationID=//p')" -n %d -o cat --no-pager 2>/dev/null | %s | tail -n 1`, name, maxJournalLines, fullDisk)})
	if err != nil {
		return unit{}, err
	}
	properties, said, _ := strings.Cut(r.Stdout, "\n\n")
	u, err := parseUnit(strings.Fields(properties))
	if err != nil {
		return unit{}, err
	}
	switch {
	case u.Invocation == before && (u.Job || u.running()), u.Job && !u.running():
		err = fmt.Errorf("%s is to start again, and is %s", name, u.Active)
	case said != "" && u.Invocation != before:
		err = refuse("its disk is full, K3s says: %s; make room and apply again", lastLine(said))
	case u.Restarts >= maxRestarts:
		err = refuse("K3s has ended %d times since it was started:\n%s", u.Restarts, w.journal(ctx, h, t))
	case u.Active == "failed":
		err = refuse("%s has failed:\n%s", name, w.journal(ctx, h, t))
	case !u.running():
		err = fmt.Errorf("%s is %s", name, u.Active)
	}
	return u, err
}

// maxJournalLines is how much of one start's log is read: a server with all its
// parts logs some hundred lines in the seconds between two looks, and a few thousand
// when its database dies below it.
const maxJournalLines = 10000

// fullDisk picks the lines that tell of a full disk: by Go and C (errno(3)), and by
// SQLite. The kernel has the same error for a user's watches of files and for a
// control group without a processor, which are no disk.
const fullDisk = `grep -i -F -e 'no space left on device' -e 'database or disk is full' | grep -v -i -F -e inotify -e /sys/fs/cgroup`

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndex(s, "\n")+1:]
}

// lastWords is the journal of a machine that may be gone.
func (w *work) lastWords(ctx context.Context, t *target) string {
	h, err := w.host(ctx, t.node.Machine)
	if err != nil {
		return "its log could not be read: " + err.Error()
	}
	defer h.Close()
	return w.journal(ctx, h, t)
}

// journal is the end of what K3s has logged.
func (w *work) journal(ctx context.Context, h *host, t *target) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := h.Run(ctx, remote.Command{Line: "journalctl -u " + t.role.unit() + ".service -n 12 -o cat --no-pager"})
	if err != nil {
		return "its log could not be read: " + err.Error()
	}
	return "the end of its log is:\n  " + strings.ReplaceAll(strings.TrimSpace(w.redact(r.Stdout)), "\n", "\n  ")
}

// redact takes the tokens out of text.
func (w *work) redact(s string) string {
	for _, t := range []string{w.decision.tokens.Server, w.decision.tokens.Agent} {
		if t != "" {
			s = strings.ReplaceAll(s, t, "(sensitive value)")
		}
	}
	return s
}

// settleMember sets marks, labels and taints, and lifts a cordon of ours.
func (w *work) settleMember(ctx context.Context, t *target) error {
	if t.member == nil {
		return nil
	}
	cl, err := w.api("")
	if err != nil {
		h, err := w.host(ctx, t.node.Machine)
		if err != nil {
			return err
		}
		defer h.Close()
		if cl, err = w.self(ctx, h, t); err != nil {
			return err
		}
	}
	m := t.member
	if m.Cordoned {
		if err := cl.uncordon(ctx, t.node.Name); err != nil {
			return err
		}
	}
	if len(ownerChanges(w.Owner, t.node, m)) == 0 && len(w.labelChanges(t.node, m)) == 0 {
		return nil
	}
	change, err := memberPatch(w.Owner, t.node, m)
	if err != nil {
		return err
	}
	return cl.patch(ctx, t.node.Name, change)
}

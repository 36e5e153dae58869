package steps

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Adopter learns the facts of machines that run already, adopted or installed, by
// edge-agent, which it runs there once over SSH. The program is sent once: it is
// kept on the machine under its digest, in a directory that nobody but the user we
// work as, root where there is no other, may write, and is compared with that
// digest before each run. Where no such directory can be, it is sent each time into
// the machine's temporary files and removed.
type Adopter struct {
	// Site is the site's name.
	Site    string
	Catalog *store.Store
	// Foresight is what the site would make of the machines; nil: it is recorded,
	// also by Refresh. With one a machine is entered that was never seen, and
	// which machine is at an address is not changed.
	Foresight *Foresight
	// Agent gives the path of the edge-agent program, or says why there is
	// none. It is asked only when there is a machine to run it on.
	Agent func() (string, error)
	// Dir is where machines keep the program, an absolute path; DefaultAgentDir
	// when empty.
	Dir string

	mu     sync.Mutex
	loaded program
}

// DefaultAgentDir is where machines keep edge-agent; only root can make it.
const DefaultAgentDir = "/var/lib/edge-provision/agent"

// program is the edge-agent program as it was read last.
type program struct {
	path    string
	size    int64
	changed time.Time
	content []byte
	digest  string // hex of SHA-256
}

// adoptTimeout bounds the questions to one machine that facts are gathered from:
// before it can answer the first time, 8 MB have to get there.
const adoptTimeout = 3 * time.Minute

// FactsError says why facts could not be gathered from a machine that answers.
type FactsError struct {
	Address string
	Err     error
}

func (e *FactsError) Error() string {
	return fmt.Sprintf("%s: gathering its facts by edge-agent: %v", e.Address, e.Err)
}

func (e *FactsError) Unwrap() error { return e.Err }

// Refresh gathers the facts of m over h and records them. missing says what the
// agent could not see, as a user who may not look everywhere cannot. The agent
// listens for listen at most for what the machine's network ports are connected to;
// zero: for as long as the rest takes. The error is a *FactsError when the machine
// answers and its facts are not to be had, and else one of the connection or the
// catalog.
func (a *Adopter) Refresh(ctx context.Context, m *site.Machine, h *remote.Host, listen time.Duration) (row inventory.Machine, missing string, err error) {
	facts, missing, kept, err := a.gather(ctx, h, listen)
	var broken *remote.UnreachableError
	switch {
	case errors.As(err, &broken), ctx.Err() != nil && err != nil:
		return row, "", err
	case err != nil:
		return row, "", &FactsError{Address: m.Address, Err: err}
	}
	if row, err = a.row(ctx, m); err != nil {
		return row, "", err
	}
	if kept && m.Adopted() {
		if err := a.remember(ctx, row.ID); err != nil {
			return row, "", err
		}
	}
	row, _, err = a.Catalog.Observe(ctx, a.Site, store.Observation{
		Machine: row.ID, Source: inventory.SourceAgent, Facts: &facts,
		// It answered with its host key. Its first look still has to show that the
		// catalog does not know the same machine as another one already.
		Proven: !row.LookedAt.IsZero(),
	})
	var conflict *store.ConflictError
	if errors.As(err, &conflict) {
		return row, "", &FactsError{Address: m.Address, Err: err}
	}
	return row, missing, err
}

// row is the machine in the catalog; an adopted one is entered at its first
// mention.
func (a *Adopter) row(ctx context.Context, m *site.Machine) (inventory.Machine, error) {
	if !m.Adopted() {
		return a.Foresight.Machine(ctx, a.Catalog, a.Site, m.Address)
	}
	var macs []inventory.MAC
	if !m.MAC.IsZero() {
		macs = append(macs, m.MAC)
	}
	if a.Foresight != nil {
		row, err := a.Foresight.Machine(ctx, a.Catalog, a.Site, m.Address)
		if !errors.Is(err, fs.ErrNotExist) {
			return row, err
		}
		if row, err = a.known(ctx, m); !errors.Is(err, fs.ErrNotExist) {
			return row, err
		}
	}
	return a.Catalog.Adopt(ctx, a.Site, m.Address, macs...)
}

// known is the machine that an adopted one would take the address from, or whose
// MAC it has: which of them it is, apply records.
func (a *Adopter) known(ctx context.Context, m *site.Machine) (inventory.Machine, error) {
	row, err := a.Catalog.MachineByAddress(ctx, a.Site, m.Address)
	if errors.Is(err, fs.ErrNotExist) && !m.MAC.IsZero() {
		row, err = a.Catalog.MachineByMAC(ctx, m.MAC)
	}
	if err == nil {
		err = &FactsError{Address: m.Address, Err: fmt.Errorf("the catalog has other machines at %s or with MAC %s, such as %s; apply records which one it is", m.Address, m.MAC, row.ID)}
	}
	return row, err
}

// load reads the program, once while it stays as it is.
func (a *Adopter) load() (program, error) {
	path, err := a.Agent()
	if err != nil {
		return program{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return program{}, fmt.Errorf("reading the program to send: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.loaded; p.path == path && p.size == info.Size() && p.changed.Equal(info.ModTime()) {
		return p, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return program{}, fmt.Errorf("reading the program to send: %w", err)
	}
	a.loaded = program{
		path: path, size: info.Size(), changed: info.ModTime(), content: content, digest: fmt.Sprintf("%x", sha256.Sum256(content)),
	}
	return a.loaded, nil
}

// dir is where machines keep the program.
func (a *Adopter) dir() string { return cmp.Or(a.Dir, DefaultAgentDir) }

// gather runs edge-agent on the host, and says whether it is kept there.
func (a *Adopter) gather(ctx context.Context, h *remote.Host, listen time.Duration) (facts inventory.Facts, missing string, kept bool, err error) {
	p, err := a.load()
	if err != nil {
		return facts, "", false, err
	}
	dir := a.dir()
	if !plainPath.MatchString(dir) {
		return facts, "", false, fmt.Errorf("%q is no place for a program: it must be an absolute path of letters, digits and /_.-", dir)
	}
	system, err := h.Run(ctx, remote.Command{Line: "uname -sm"})
	if err != nil {
		return facts, "", false, err
	}
	if err := fits(p.path, p.content, strings.TrimSpace(system.Stdout)); err != nil {
		return facts, "", false, err
	}
	look := "facts"
	if listen > 0 {
		look += " -listen " + listen.String()
	}
	text, stderr, err := printed(ctx, h, keptScript(dir, p.digest, look), nil)
	kept = err == nil
	if exit, ok := errors.AsType[*remote.ExitError](err); ok && exit.Code == exitNotKept {
		text, stderr, err = printed(ctx, h, receiveScript(dir, p.digest, look), bytes.NewReader(p.content))
		var before, after string
		if before, after, kept = strings.Cut("\n"+stderr, "\n"+keptMark+"\n"); kept {
			stderr = before + "\n" + after
		}
	}
	if err != nil {
		return facts, "", false, err
	}
	facts, err = inventory.DecodeFacts(text)
	return facts, unseen(stderr), kept, err
}

// printed runs a script that prints a facts document.
func printed(ctx context.Context, h *remote.Host, script string, stdin io.Reader) (text []byte, stderr string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := document{over: func() { cancel(errTooMuch) }}
	result, err := h.Run(ctx, remote.Command{Line: "exec sh -c " + remote.Quote(script), Stdin: stdin, Stdout: &out})
	if errors.Is(context.Cause(ctx), errTooMuch) {
		return nil, "", errTooMuch
	}
	return out.text.Bytes(), result.Stderr, err
}

// machineNames are the processors by the names that uname -m has for them, with
// those that an ELF header and GOARCH have.
var machineNames = map[string]struct {
	elf    elf.Machine
	goarch string
}{
	"x86_64":  {elf.EM_X86_64, "amd64"},
	"aarch64": {elf.EM_AARCH64, "arm64"},
	"arm64":   {elf.EM_AARCH64, "arm64"},
	"riscv64": {elf.EM_RISCV, "riscv64"},
	"armv7l":  {elf.EM_ARM, "arm"},
	"i686":    {elf.EM_386, "386"},
}

// fits says why the program cannot run on a machine whose uname -sm is known.
func fits(path string, program []byte, system string) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("%s is no program for Linux: %w", path, err)
	}
	kernel, processor, _ := strings.Cut(system, " ")
	if kernel != "Linux" {
		return fmt.Errorf("the machine runs %q, and facts are gathered on Linux only", kernel)
	}
	if name, known := machineNames[processor]; known && name.elf == f.Machine {
		return nil
	}
	have := f.Machine.String()
	for _, name := range machineNames {
		if name.elf == f.Machine {
			have = name.goarch
		}
	}
	return fmt.Errorf("%s is built for %s and the machine is %q: build edge-agent for it, with GOARCH set, and name it with --agent", path, have, processor)
}

// errTooMuch ends a program that is not edge-agent, or that was made to lie.
var errTooMuch = fmt.Errorf("it printed more than the %d bytes that a facts document may have", inventory.MaxDocumentBytes)

// document keeps what a command prints, up to the size that a facts document may
// have, and calls over when there is more. The buffer is not embedded: its
// ReadFrom would be used instead of Write, and has no bound.
type document struct {
	text bytes.Buffer
	over func()
}

// Write implements io.Writer. It takes everything: whoever refuses a part would
// leave the command waiting.
func (d *document) Write(p []byte) (int, error) {
	if room := inventory.MaxDocumentBytes - d.text.Len(); len(p) > room {
		d.over()
		return len(p), nil
	}
	return d.text.Write(p)
}

// plainPath is a path that needs no quoting in any shell.
var plainPath = regexp.MustCompile(`^(/[A-Za-z0-9_.-]+)+$`)

// keptMark is a line on the standard error of receiveScript where it keeps the program.
const keptMark = "edge-agent: kept"

// exitNotKept is how keptScript ends when the program is not there as it should be.
const exitNotKept = 75

// Scripts have no single quote, because the user's login shell may be any.

// ownedScript defines own PATH TYPE: that PATH is no link but of the type, belongs
// to the user, and can be written by no other.
const ownedScript = `own() { [ -n "$(find "$1" -prune -type "$2" -user "$(id -u)" ! -perm -020 ! -perm -002 2>/dev/null)" ]; }`

// keptScript runs a program that was kept, if it is what its name says; look is what
// it is told.
func keptScript(dir, digest, look string) string {
	return strings.Join([]string{
		`umask 077`, `d="` + dir + `"`, `f="$d/edge-agent-` + digest + `"`, ownedScript,
		`own "$d" d && own "$f" f || exit ` + strconv.Itoa(exitNotKept),
		`s=$(sha256sum <"$f") && [ "${s%% *}" = "` + digest + `" ] || exit ` + strconv.Itoa(exitNotKept),
		`exec "$f" ` + look,
	}, "; ")
}

// receiveScript receives a program on its input, compares its digest, keeps it and
// runs it. Directories are often mounted noexec, so each is tried with a program of
// two lines first; where it cannot be kept it is put into temporary files, and
// removed whatever happens. What a power cut left of an earlier transfer goes after
// an hour.
func receiveScript(dir, digest, look string) string {
	return strings.Join([]string{
		`umask 077`, `k="` + dir + `"`, `f="$k/edge-agent-` + digest + `"`, ownedScript,
		`runs() { printf "#!/bin/sh\nexit 0\n" >"$1" && chmod 700 "$1" && "$1" 2>/dev/null; }`,
		`keep() { (umask 022; mkdir -p "${k%/*}") 2>/dev/null; mkdir "$k" 2>/dev/null; own "$k" d && t=$(mktemp "$k/.new.XXXXXXXXXXXX" 2>/dev/null) || return 1; ` +
			`trap "rm -f \"$t\"" EXIT; trap "exit 129" HUP INT TERM; runs "$t" && return 0; rm -f "$t"; return 1; }`,
		`use() { d=$(mktemp -d "$1/edge-agent.XXXXXXXXXXXX" 2>/dev/null) || return 1; trap "rm -rf \"$d\"" EXIT; trap "exit 129" HUP INT TERM; ` +
			`runs "$d/try" && t="$d/edge-agent" && return 0; rm -rf "$d"; return 1; }`,
		`kept=; if keep; then kept=yes; else use "${TMPDIR:-/tmp}" || use /var/tmp || use /dev/shm || use "$HOME" || ` +
			`{ echo "no directory lets a program run (noexec?): tried $k, ${TMPDIR:-/tmp}, /var/tmp, /dev/shm and $HOME" >&2; exit 73; }; fi`,
		`cat >"$t" || exit 74`,
		`s=$(sha256sum <"$t") || exit 74`,
		`[ "${s%% *}" = "` + digest + `" ] || { echo "the program did not arrive whole" >&2; exit 74; }`,
		`chmod 700 "$t" || exit 74`,
		`if [ -n "$kept" ]; then mv -f "$t" "$f" || exit 74; t="$f"; ` +
			`for o in "$k"/edge-agent-*; do [ "$o" = "$f" ] || rm -f "$o"; done; find "$k" -name ".new.*" -mmin +60 -exec rm -f {} \;; echo "` + keptMark + `" >&2; fi`,
		`"$t" ` + look,
	}, "; ")
}

// dropScript removes what was kept, and the directories where nothing else is in them.
func dropScript(dir string) string {
	return strings.Join([]string{
		`d="` + dir + `"`, ownedScript, `own "$d" d || exit 0`,
		`rm -f "$d"/edge-agent-* "$d"/.new.* || exit 74`, `rmdir "$d" "${d%/*}" 2>/dev/null`, `exit 0`,
	}, "; ")
}

// keptKey is the setting that says where a machine keeps the program.
func keptKey(site string, machine uuid.UUID) string {
	return "kept-agent/" + site + "/" + machine.String()
}

// remember keeps that an adopted machine keeps the program, for destroy.
func (a *Adopter) remember(ctx context.Context, machine uuid.UUID) error {
	key := keptKey(a.Site, machine)
	was, err := a.Catalog.Settings().Get(ctx, key)
	if err == nil && string(was) == a.dir() || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return a.Catalog.Settings().Put(ctx, key, []byte(a.dir()))
}

// unseen makes one line of what the agent says that it could not read.
func unseen(stderr string) string {
	var parts []string
	for line := range strings.SplitSeq(stderr, "\n") {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "edge-agent: some facts could not be read:"))
		if line != "" {
			parts = append(parts, line)
		}
	}
	if len(parts) > 8 {
		parts = append(parts[:8], fmt.Sprintf("and %d more", len(parts)-8))
	}
	return strings.Join(parts, "; ")
}

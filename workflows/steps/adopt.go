package steps

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Adopter learns the facts of machines that run already. It sends edge-agent to
// the machine, runs it once, and removes it: nothing of ours stays there, and
// nothing but one directory in the machine's temporary files is written.
type Adopter struct {
	// Site is the site's name.
	Site    string
	Catalog *store.Store
	// Agent gives the path of the edge-agent program, or says why there is
	// none. It is asked only when there is a machine to send it to.
	Agent func() (string, error)
}

// adoptTimeout bounds the questions to one adopted machine: before it can
// answer, 12 MB have to get there.
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
// agent could not see, as a user who may not look everywhere cannot. The error
// is a *FactsError when the machine answers and its facts are not to be had, and
// else one of the connection or the catalog.
func (a *Adopter) Refresh(ctx context.Context, m *site.Machine, h *remote.Host) (row inventory.Machine, missing string, err error) {
	facts, missing, err := a.gather(ctx, h)
	var broken *remote.UnreachableError
	switch {
	case errors.As(err, &broken), ctx.Err() != nil && err != nil:
		return row, "", err
	case err != nil:
		return row, "", &FactsError{Address: m.Address, Err: err}
	}
	var macs []inventory.MAC
	if !m.MAC.IsZero() {
		macs = append(macs, m.MAC)
	}
	row, err = a.Catalog.Adopt(ctx, a.Site, m.Address, macs...)
	if err != nil {
		return row, "", err
	}
	row, _, err = a.Catalog.Observe(ctx, a.Site, store.Observation{Machine: row.ID, Source: inventory.SourceAgent, Facts: &facts})
	var conflict *store.ConflictError
	if errors.As(err, &conflict) {
		return row, "", &FactsError{Address: m.Address, Err: err}
	}
	return row, missing, err
}

// gather runs edge-agent on the host.
func (a *Adopter) gather(ctx context.Context, h *remote.Host) (facts inventory.Facts, missing string, err error) {
	path, err := a.Agent()
	if err != nil {
		return facts, "", err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return facts, "", fmt.Errorf("reading the program to send: %w", err)
	}
	system, err := h.Run(ctx, remote.Command{Line: "uname -sm"})
	if err != nil {
		return facts, "", err
	}
	if err := fits(path, program, strings.TrimSpace(system.Stdout)); err != nil {
		return facts, "", err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := document{over: func() { cancel(errTooMuch) }}
	result, err := h.Run(ctx, remote.Command{
		Line:  "exec sh -c " + remote.Quote(onceScript(fmt.Sprintf("%x", sha256.Sum256(program)))),
		Stdin: bytes.NewReader(program), Stdout: &out,
	})
	if errors.Is(context.Cause(ctx), errTooMuch) {
		return facts, "", errTooMuch
	}
	if err != nil {
		return facts, "", err
	}
	facts, err = inventory.DecodeFacts(out.text.Bytes())
	return facts, unseen(result.Stderr), err
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

// onceScript receives a program on its input, compares its digest, runs it, and
// removes it whatever happens. Temporary directories are often mounted noexec,
// so each is tried with a program of two lines first. It has no single quote,
// because the user's login shell may be any.
func onceScript(digest string) string {
	return strings.Join([]string{
		`umask 077`,
		`use() { d=$(mktemp -d "$1/edge-agent.XXXXXXXXXXXX" 2>/dev/null) || return 1; trap "rm -rf \"$d\"" EXIT; trap "exit 129" HUP INT TERM; ` +
			`printf "#!/bin/sh\nexit 0\n" >"$d/try" && chmod 700 "$d/try" && "$d/try" 2>/dev/null && return 0; rm -rf "$d"; return 1; }`,
		`use "${TMPDIR:-/tmp}" || use /var/tmp || use /dev/shm || use "$HOME" || { echo "no directory for temporary files lets a program run (noexec?): tried ${TMPDIR:-/tmp}, /var/tmp, /dev/shm and $HOME" >&2; exit 73; }`,
		`cat >"$d/edge-agent" || exit 74`,
		`s=$(sha256sum <"$d/edge-agent") || exit 74`,
		`[ "${s%% *}" = "` + digest + `" ] || { echo "the program did not arrive whole" >&2; exit 74; }`,
		`chmod 700 "$d/edge-agent" || exit 74`,
		`"$d/edge-agent" facts`,
	}, "; ")
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

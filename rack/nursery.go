package rack

import (
	"os/exec"
	"runtime"
)

// nursery starts children that the kernel kills when this process dies, however
// it dies. The kernel's promise (PR_SET_PDEATHSIG) is about the thread that
// started the child, so one thread is kept for this and nothing else.
type nursery struct {
	births chan birth
	done   chan struct{}
}

type birth struct {
	cmd    *exec.Cmd
	result chan error
}

func newNursery() *nursery {
	n := &nursery{births: make(chan birth), done: make(chan struct{})}
	go func() {
		defer close(n.done)
		runtime.LockOSThread()
		for b := range n.births {
			b.cmd.SysProcAttr = childAttributes()
			b.result <- b.cmd.Start()
		}
	}()
	return n
}

// start starts cmd; the caller waits for it.
func (n *nursery) start(cmd *exec.Cmd) error {
	b := birth{cmd: cmd, result: make(chan error, 1)}
	n.births <- b
	return <-b.result
}

// close ends the thread, and with it every child that still lives.
func (n *nursery) close() {
	close(n.births)
	<-n.done
}

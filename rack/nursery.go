package rack

import (
	"errors"
	"os/exec"
	"runtime"
	"syscall"
)

// nursery starts children that the kernel kills when this process dies, however
// it dies. The kernel's promise (PR_SET_PDEATHSIG, prctl(2)) is about the thread
// that started the child, so one thread is kept for this and nothing else.
type nursery struct {
	births chan birth
	quit   chan struct{} // closed to end the thread
	done   chan struct{} // closed when it has ended
}

type birth struct {
	cmd    *exec.Cmd
	result chan error
}

func newNursery() *nursery {
	n := &nursery{births: make(chan birth), quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(n.done)
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		for {
			select {
			case b := <-n.births:
				b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
				b.result <- b.cmd.Start()
			case <-n.quit:
				return
			}
		}
	}()
	return n
}

// start starts cmd; the caller waits for it.
func (n *nursery) start(cmd *exec.Cmd) error {
	b := birth{cmd: cmd, result: make(chan error, 1)}
	select {
	case n.births <- b:
		return <-b.result
	case <-n.quit:
		return errors.New("the rack is being taken down")
	}
}

// close ends the thread, and with it every child that still lives.
func (n *nursery) close() {
	close(n.quit)
	<-n.done
}

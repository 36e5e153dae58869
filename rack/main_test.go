package rack

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// supervisorArgument makes the test binary a supervisor, as the hidden
// subcommand makes edge-provision one.
const supervisorArgument = "rack-supervisor"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == supervisorArgument {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := Supervise(ctx, os.Stdin, os.Stdout, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

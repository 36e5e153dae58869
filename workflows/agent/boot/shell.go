package boot

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/probe"
)

// commands are what the console offers. The installer holds no other program:
// this is a window, not a shell that could run anything.
const commands = "Commands: facts (what was found in this machine), log (the kernel's last messages), cat FILE (show a file), ls DIR (list a directory), help."

// shell takes commands from the console until it closes.
func shell(console *Console) {
	in, err := os.Open("/dev/console")
	if err != nil {
		console.Sayf("The console cannot be read: %v", err)
		return
	}
	defer in.Close()
	console.Say(commands)
	scan := bufio.NewScanner(in)
	for scan.Scan() {
		reply := answer(scan.Text())
		for line := range strings.Lines(reply) {
			console.Say(line)
		}
	}
}

// maxShown bounds what a command prints.
const maxShown = 64 << 10

// answer carries out one command.
func answer(line string) string {
	command, argument, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch command {
	case "":
		return ""
	case "facts":
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		facts, err := probe.Collect(ctx, probe.Machine(inventory.MAC{}))
		text, jsonErr := json.MarshalIndent(facts, "", "  ")
		if jsonErr != nil {
			return jsonErr.Error()
		}
		if err != nil {
			return string(text) + "\n" + err.Error()
		}
		return string(text)
	case "log":
		return kernelLog()
	case "cat":
		f, err := os.Open(argument)
		if err != nil {
			return err.Error()
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, maxShown))
		if err != nil {
			return err.Error()
		}
		return string(text)
	case "ls":
		entries, err := os.ReadDir(argument)
		if err != nil {
			return err.Error()
		}
		var names strings.Builder
		for _, e := range entries {
			fmt.Fprintln(&names, e.Name())
		}
		return names.String()
	}
	return commands
}

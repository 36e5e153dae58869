// Command init is PID 1 of the machines that the end-to-end tests boot: it
// prints the kernel's command line on the console and switches the machine off.
package main

import (
	"fmt"
	"os"
	"syscall"
)

func main() {
	// Without /proc the command line stays empty, and the test says so.
	_ = os.Mkdir("/proc", 0o755)
	_ = syscall.Mount("proc", "/proc", "proc", 0, "")
	line, _ := os.ReadFile("/proc/cmdline")
	fmt.Printf("INIT RUNS WITH %s\n", line)
	syscall.Sync()
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}

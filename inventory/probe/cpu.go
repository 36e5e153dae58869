package probe

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/edge-provision/edge-provision/inventory"
)

// cpu reads /proc/cpuinfo, proc(5). SMBIOS completes what it does not say.
func (m *machine) cpu(_ context.Context, facts *inventory.Facts) error {
	raw, err := m.file("proc/cpuinfo")
	if err != nil {
		return err
	}
	cpu := &inventory.CPU{Architecture: m.architecture()}
	facts.CPU = cpu
	sockets := make(map[string]bool)
	cores := make(map[string]bool)
	physical := "0"
	scan := bufio.NewScanner(bytes.NewReader(raw))
	scan.Buffer(nil, maxFileBytes)
	for scan.Scan() {
		key, value, _ := strings.Cut(scan.Text(), ":")
		value = printable(value)
		switch strings.TrimSpace(key) {
		case "processor":
			cpu.Threads++
		case "vendor_id":
			cpu.Vendor = value
		case "model name":
			cpu.Model = value
		case "physical id":
			physical = value
			sockets[value] = true
		case "core id":
			cores[physical+"/"+value] = true
		case "flags", "Features":
			if cpu.Flags == nil {
				cpu.Flags = strings.Fields(value)
				slices.Sort(cpu.Flags)
				cpu.Flags = slices.Compact(cpu.Flags)
			}
		}
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("reading cpuinfo: %w", err)
	}
	cpu.Sockets, cpu.Cores = len(sockets), len(cores)
	if kHz, ok := m.number("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"); ok {
		cpu.MaxSpeedMHz = int(kHz / 1000)
	}
	return nil
}

// memory reads what the kernel sees; SMBIOS puts the modules' sum in its place.
func (m *machine) memory(_ context.Context, facts *inventory.Facts) error {
	raw, err := m.file("proc/meminfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(raw)) {
		rest, ok := strings.CutPrefix(line, "MemTotal:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil || kib < 0 || kib > 1<<50 {
			return fmt.Errorf("meminfo has no total: %q", strings.TrimSpace(line))
		}
		facts.Memory = &inventory.Memory{Bytes: kib << 10}
		return nil
	}
	return fmt.Errorf("meminfo has no total")
}

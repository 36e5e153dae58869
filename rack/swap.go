package rack

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// SwapDisk pulls the machine's nth disk, counted from 0, and plugs another one
// into its place, as a person would, whether the machine runs or is off. Both are
// on the scsi bus, the only one here that is made for that. The new disk begins as
// d says; the file of the old one stays in the state directory until Down.
func (r *Rack) SwapDisk(ctx context.Context, machine string, n int, d Disk) error {
	_, err := askSupervisor(ctx, r.spec.StateDir, controlRequest{Verb: "swap", Machine: machine, Slot: n, Disk: &d})
	if err != nil {
		return fmt.Errorf("swapping disk %d of %s: %w", n, machine, err)
	}
	return nil
}

// unplugTimeout bounds the emulator's time to let go of a disk that was pulled,
// on a host whose cores are all busy.
const unplugTimeout = 20 * time.Second

// machine is the machine as it would be started now.
func (c *computer) machine() Machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.spec
	m.Disks = slices.Clone(c.disks)
	return m
}

func (c *computer) swap(ctx context.Context, n int, d Disk) error {
	c.power.Lock()
	defer c.power.Unlock()
	m := c.machine()
	if n < 0 || n >= len(m.Disks) {
		return fmt.Errorf("it has no disk %d: it has %d, counted from 0", n, len(m.Disks))
	}
	setDefault(&d.Bus, DiskSCSI)
	setDefault(&d.LogicalBlock, 512)
	if m.Disks[n].Bus != DiskSCSI || d.Bus != DiskSCSI {
		return fmt.Errorf("only disks on the bus %q can be swapped; disk %d is on %q, the new one on %q", DiskSCSI, n, m.Disks[n].Bus, d.Bus)
	}
	if d.Serial == "" || d.Path != "" {
		return fmt.Errorf("the new disk needs a serial number of its own, and no path")
	}
	m.Disks[n] = d
	var wrong findings
	m.validateDisks(&wrong)
	if len(wrong) > 0 {
		return wrong[0]
	}
	path := filepath.Join(c.layout.machine(m.Address), fmt.Sprintf("disk%d-%s.raw", n, unsafeInFileName.ReplaceAllString(d.Serial, ".")))
	if err := makeDisk(ctx, path, d, &harvest{}); err != nil {
		return err
	}
	d.Path = path
	if e := c.running(); e != nil {
		if err := e.swap(ctx, n, d); err != nil {
			return err
		}
	}
	c.log.Info("disk swapped", "disk", n, "serial", d.Serial)
	c.change(func() { c.disks[n] = d })
	return nil
}

// swap changes a disk under a running machine. The nodes have the names that
// diskArgs gives them.
func (e *emulator) swap(ctx context.Context, n int, d Disk) error {
	device, drive, file := fmt.Sprintf("disk%d", n), fmt.Sprintf("drive%d", n), fmt.Sprintf("file%d", n)
	if err := e.qmp.execute(ctx, "device_del", map[string]any{"id": device}, nil); err != nil {
		return err
	}
	if err := e.release(ctx, drive); err != nil {
		return err
	}
	add := map[string]any{
		"driver": "scsi-hd", "id": device, "bus": "scsi0.0", "scsi-id": n, "drive": drive, "serial": d.Serial, "rotation_rate": 1,
		"logical_block_size": d.LogicalBlock, "physical_block_size": max(d.LogicalBlock, 512),
	}
	if d.Rotational {
		add["rotation_rate"] = 7200
	}
	if wwn, err := wwnNumber(d.WWN, "naa."); err == nil {
		add["wwn"] = wwn
	}
	for _, c := range []struct {
		command string
		args    map[string]any
	}{
		{"blockdev-del", map[string]any{"node-name": file}},
		{"blockdev-add", map[string]any{"driver": "file", "node-name": file, "discard": "unmap", "filename": d.Path}},
		{"blockdev-add", map[string]any{"driver": "raw", "node-name": drive, "discard": "unmap", "file": file}},
		{"device_add", add},
	} {
		if err := e.qmp.execute(ctx, c.command, c.args, nil); err != nil {
			return err
		}
	}
	return nil
}

// release waits until the emulator has let go of a pulled disk's content.
func (e *emulator) release(ctx context.Context, drive string) error {
	ctx, cancel := context.WithTimeout(ctx, unplugTimeout)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := e.qmp.execute(ctx, "blockdev-del", map[string]any{"node-name": drive}, nil)
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("the emulator did not let go of the pulled disk in %s: %w", unplugTimeout, err)
		}
	}
}

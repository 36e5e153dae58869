package host

import (
	"context"
	"errors"
	"strings"

	"github.com/edge-provision/edge-provision/inventory/probe"
	"github.com/edge-provision/edge-provision/workflows/agent"
)

const (
	// edgeBytes is cleared at both ends of the disk and of every partition.
	edgeBytes = 1 << 20
	// zeroStep bounds one ZeroAt, so that progress moves and ctx is looked at.
	zeroStep = 256 << 20
	// wipeAlign suits disks with sectors of 512 and of 4096 bytes.
	wipeAlign = 4096
)

// opened is a disk of a wipe.
type opened struct {
	ref     agent.DiskRef
	disk    Disk
	content probe.Content
}

// wipe erases disks: all are opened and looked at before the first is touched.
func (h *Host) wipe(ctx context.Context, w agent.Wipe, report func(agent.Progress) error) (err error) {
	var disks []opened
	defer func() {
		for _, d := range disks {
			err = errors.Join(err, d.disk.Close())
		}
	}()
	var total, done int64
	for _, each := range w.Disks {
		disk, _, err := h.open(ctx, each.Disk)
		if err != nil {
			return err
		}
		d := opened{ref: each.Disk, disk: disk}
		disks = append(disks, d)
		if d.content, err = consented(disk, each.Disk, each.Consent); err != nil {
			return err
		}
		disks[len(disks)-1] = d
		total += disk.Bytes()
	}
	if err := report(agent.Progress{Phase: agent.PhaseBegin, Total: total}); err != nil {
		return refused(agent.CodeFetch, "the controller did not acknowledge the wipe: %w", err)
	}
	for _, d := range disks {
		step := func(n int64) error {
			done += n
			return report(agent.Progress{Phase: agent.PhaseWipe, Bytes: done, Total: total})
		}
		if w.Full {
			err = zero(ctx, d.disk, probe.Extent{Length: d.disk.Bytes()}, step)
		} else {
			err = eraseSignatures(ctx, d)
			done += d.disk.Bytes()
		}
		if err == nil {
			err = d.disk.Flush()
		}
		if err != nil {
			return failing(agent.CodeDisk, "wiping %s: %w", d.ref, err)
		}
		left, err := probe.ReadContent(d.disk, d.disk.Bytes())
		if err != nil {
			return failing(agent.CodeDisk, "looking at %s after wiping it: %w", d.ref, err)
		}
		if len(left.Signatures) > 0 {
			return failing(agent.CodeDisk, "%s still carries %s after wiping it", d.ref, strings.Join(left.Signatures, ", "))
		}
		if err := step(0); err != nil {
			return err
		}
	}
	return nil
}

// eraseSignatures clears both ends of the disk and of its partitions, and
// whatever was recognised elsewhere. Partitions go first: while the table is
// there, a wipe that was cut short finds them again.
func eraseSignatures(ctx context.Context, d opened) error {
	size := d.disk.Bytes()
	var extents []probe.Extent
	for _, p := range d.content.Partitions {
		extents = append(extents, ends(p)...)
	}
	extents = append(extents, d.content.Extents...)
	extents = append(extents, ends(probe.Extent{Length: size})...)
	for _, e := range extents {
		from := e.Offset &^ (wipeAlign - 1)
		to := min((e.Offset+e.Length+wipeAlign-1)&^(wipeAlign-1), size)
		if err := zero(ctx, d.disk, probe.Extent{Offset: from, Length: to - from}, func(int64) error { return nil }); err != nil {
			return err
		}
	}
	return nil
}

func ends(e probe.Extent) []probe.Extent {
	n := min(e.Length, edgeBytes)
	return []probe.Extent{{Offset: e.Offset, Length: n}, {Offset: e.Offset + e.Length - n, Length: n}}
}

func zero(ctx context.Context, disk Disk, e probe.Extent, step func(int64) error) error {
	for e.Length > 0 {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n := min(e.Length, zeroStep)
		if err := disk.ZeroAt(e.Offset, n); err != nil {
			return err
		}
		e.Offset, e.Length = e.Offset+n, e.Length-n
		if err := step(n); err != nil {
			return err
		}
	}
	return nil
}

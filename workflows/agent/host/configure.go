package host

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/edge-provision/edge-provision/imagebuilder/gpt"
	"github.com/edge-provision/edge-provision/workflows/agent"
)

// contractFile says what an image of imagebuilder's promises; its form is
// imagebuilder.Contract.
const (
	contractFile    = "etc/edge-provision/image.json"
	contractVersion = 1
)

// contract mirrors imagebuilder.Contract, which the agent must not import. A
// test holds the two together.
type contract struct {
	Version       int                          `json:"contract"`
	Partitions    map[string]contractPartition `json:"partitions"`
	PARTUUIDFiles []string                     `json:"partuuid_files"`
	Network       string                       `json:"network"`
}

type contractPartition struct {
	Number int    `json:"number"`
	GUID   string `json:"guid"`
}

// system is where the written system's root is, and what it is.
type system struct {
	number   int       // of the root partition
	contract *contract // nil for an imported cloud image
}

// configure gives a freshly written disk this machine's identity. It may be
// repeated after it was cut short.
func (h *Host) configure(ctx context.Context, c agent.Configure, report func(agent.Progress) error) (*agent.ConfigureResult, error) {
	if h.cfg.Mounter == nil {
		return nil, refused(agent.CodeInvalid, "this agent cannot mount filesystems")
	}
	found, err := h.find(ctx, c.Disk)
	if err != nil {
		return nil, err
	}
	if err := report(agent.Progress{Phase: agent.PhaseBegin}); err != nil {
		return nil, refused(agent.CodeFetch, "the controller did not acknowledge that %s is about to be configured: %w", c.Disk, err)
	}
	// Progress of this phase is a few seconds; only PhaseBegin can fail.
	_ = report(agent.Progress{Phase: agent.PhaseConfigure})

	// The partitions are looked at as the image has them first: what may be
	// changed depends on what it promises.
	table, err := h.readTable(ctx, c.Disk)
	if err != nil {
		return nil, err
	}
	if err := h.cfg.Mounter.Reread(ctx, found.Name); err != nil {
		return nil, failing(agent.CodeDisk, "reading the partitions of %s: %w", c.Disk, err)
	}
	sys, err := h.findSystem(ctx, found.Name, table)
	if err != nil {
		return nil, err
	}
	table, err = h.writeTable(ctx, c.Disk, sys)
	if err != nil {
		return nil, err
	}
	if err := h.cfg.Mounter.Reread(ctx, found.Name); err != nil {
		return nil, failing(agent.CodeDisk, "reading the new partitions of %s: %w", c.Disk, err)
	}
	made, err := h.personalize(ctx, found.Name, sys, table, c)
	if err != nil {
		return nil, err
	}
	root, _ := table.Partition(sys.number)
	result := &agent.ConfigureResult{
		HostKey: made.hostKey, MachineID: made.machineID,
		DiskGUID: table.DiskGUID.String(), RootPartUUID: root.GUID.String(),
	}
	result.BootEntry, err = h.setBootEntry(table, c.Identity.Site)
	if err != nil {
		// The machine boots without one where the firmware looks for the
		// default loader, so this does not fail the installation.
		result.BootEntryNote = err.Error()
		h.log.Warn("no boot entry was set", "error", err)
	}
	return result, nil
}

// withDisk runs do on the opened disk.
func (h *Host) withDisk(ctx context.Context, ref agent.DiskRef, do func(Disk) error) error {
	disk, _, err := h.open(ctx, ref)
	if err != nil {
		return err
	}
	err = do(disk)
	if closeErr := disk.Close(); closeErr != nil && err == nil {
		err = failing(agent.CodeDisk, "writing out %s: %w", ref, closeErr)
	}
	return err
}

func (h *Host) readTable(ctx context.Context, ref agent.DiskRef) (table *gpt.Table, err error) {
	err = h.withDisk(ctx, ref, func(disk Disk) error {
		table, err = gpt.Read(disk, disk.Bytes(), disk.SectorBytes())
		if errors.Is(err, gpt.ErrNone) {
			return refused(agent.CodeImageContract, "%s has no GUID partition table: only images with one can be configured: %w", ref, err)
		}
		return err
	})
	return table, err
}

// writeTable moves the backup table to the end of the disk, grows the last
// partition, and gives disk and partitions GUIDs that no copy of the image on
// another disk has. A disk that has got its own GUIDs keeps them: files that
// name them may have been changed already.
func (h *Host) writeTable(ctx context.Context, ref agent.DiskRef, sys system) (table *gpt.Table, err error) {
	err = h.withDisk(ctx, ref, func(disk Disk) error {
		table, err = gpt.Read(disk, disk.Bytes(), disk.SectorBytes())
		if err != nil {
			return failing(agent.CodeDisk, "reading the partition table of %s: %w", ref, err)
		}
		if err := table.Resize(disk.Bytes()); err != nil {
			return failing(agent.CodeDiskSize, "fitting the partition table to %s: %w", ref, err)
		}
		if _, err := table.GrowLast(); err != nil {
			return failing(agent.CodeDisk, "growing the last partition of %s: %w", ref, err)
		}
		if sys.contract == nil {
			// An imported image may name its partitions anywhere: they
			// keep their GUIDs.
			if table.DiskGUID, err = gpt.Random(rand.Reader); err != nil {
				return err
			}
		} else if root, _ := table.Partition(sys.number); strings.EqualFold(root.GUID.String(), sys.contract.Partitions["root"].GUID) {
			if err := table.Randomize(rand.Reader); err != nil {
				return err
			}
		}
		if err := table.Write(disk); err != nil {
			return failing(agent.CodeDisk, "writing the partition table of %s: %w", ref, err)
		}
		return nil
	})
	return table, err
}

// findSystem looks through the partitions for the root of the installed system.
func (h *Host) findSystem(ctx context.Context, disk string, table *gpt.Table) (system, error) {
	var seen []string
	for _, p := range table.Partitions {
		if p.Type == gpt.BIOSBoot || p.Type == gpt.EFISystem {
			continue
		}
		dir, err := h.cfg.Mounter.Mount(ctx, disk, p.Number, true)
		if errors.Is(err, ErrNoFilesystem) {
			seen = append(seen, fmt.Sprintf("partition %d: %v", p.Number, err))
			continue
		}
		if err != nil {
			return system{}, failing(agent.CodeDisk, "mounting partition %d of %s: %w", p.Number, disk, err)
		}
		sys, err := h.lookAt(dir, p.Number)
		if unmountErr := h.cfg.Mounter.Unmount(dir); unmountErr != nil {
			err = errors.Join(err, failing(agent.CodeDisk, "unmounting partition %d of %s: %w", p.Number, disk, unmountErr))
		}
		if err != nil || sys.number != 0 {
			return sys, err
		}
		seen = append(seen, fmt.Sprintf("partition %d: neither edge-provision's description nor cloud-init", p.Number))
	}
	return system{}, failing(agent.CodeImageContract, "the image holds no system that can be given an identity (%s): build it with edge-provision, or import one with cloud-init", strings.Join(seen, "; "))
}

// lookAt says what is on a mounted partition; the zero system for something else
// than a root.
func (h *Host) lookAt(dir string, number int) (system, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return system{}, failing(agent.CodeDisk, "opening partition %d: %w", number, err)
	}
	defer root.Close()
	t := &tree{root: root, owner: h.cfg.Owner}
	text, err := t.read(contractFile)
	if errors.Is(err, fs.ErrNotExist) {
		if t.hasCloudInit() {
			return system{number: number}, nil
		}
		return system{}, nil
	}
	if err != nil {
		return system{}, failing(agent.CodeImageContract, "%w", err)
	}
	var c contract
	if err := json.Unmarshal(text, &c); err != nil {
		return system{}, failing(agent.CodeImageContract, "/%s of the image: %w", contractFile, err)
	}
	switch {
	case c.Version != contractVersion:
		return system{}, failing(agent.CodeImageContract, "/%s of the image has version %d; this agent knows %d: build image and installer with one release", contractFile, c.Version, contractVersion)
	case c.Partitions["root"].Number != number:
		return system{}, failing(agent.CodeImageContract, "/%s of the image says that the root is partition %d, but it is %d", contractFile, c.Partitions["root"].Number, number)
	case c.Network != "systemd-networkd":
		return system{}, failing(agent.CodeImageContract, "/%s of the image says that %q configures the network; this agent knows systemd-networkd", contractFile, c.Network)
	}
	return system{number: number, contract: &c}, nil
}

// personalize mounts the root and writes the identity into it.
func (h *Host) personalize(ctx context.Context, disk string, sys system, table *gpt.Table, c agent.Configure) (made personal, err error) {
	dir, err := h.cfg.Mounter.Mount(ctx, disk, sys.number, false)
	if err != nil {
		return personal{}, failing(agent.CodeDisk, "mounting the root of the installed system: %w", err)
	}
	defer func() {
		if unmountErr := h.cfg.Mounter.Unmount(dir); unmountErr != nil && err == nil {
			err = failing(agent.CodeDisk, "unmounting the root of the installed system: %w", unmountErr)
		}
	}()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return personal{}, failing(agent.CodeDisk, "opening the root of the installed system: %w", err)
	}
	defer root.Close()
	t := &tree{root: root, owner: h.cfg.Owner}
	if sys.contract == nil {
		return t.seed(c)
	}
	if err := t.renamePartitions(sys.contract, table); err != nil {
		return personal{}, err
	}
	return t.personalize(c)
}

// renamePartitions puts the partitions' present GUIDs in the place of the
// image's, in the files that the contract names.
func (t *tree) renamePartitions(c *contract, table *gpt.Table) error {
	root, _ := table.Partition(c.Partitions["root"].Number)
	for _, name := range c.PARTUUIDFiles {
		name = strings.TrimPrefix(name, "/")
		err := t.edit(name, func(text []byte) ([]byte, error) {
			for _, p := range c.Partitions {
				if now, ok := table.Partition(p.Number); ok && p.GUID != "" {
					text = bytes.ReplaceAll(text, []byte(p.GUID), []byte(now.GUID.String()))
				}
			}
			if !bytes.Contains(text, []byte(root.GUID.String())) {
				return nil, fmt.Errorf("it does not name the root by PARTUUID %s", c.Partitions["root"].GUID)
			}
			return text, nil
		})
		if err != nil {
			return failing(agent.CodeImageContract, "%w", err)
		}
	}
	return nil
}

package host

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/edge-provision/edge-provision/imagebuilder/gpt"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows/agent"
)

// FindOwners notes, for each disk that carries a system which edge-provision
// installed, whose it says it is. Nothing is written, a journal of the
// filesystem included. What cannot be looked at stays without owner: it keeps
// its signatures, and those need consent anyway.
func (h *Host) FindOwners(ctx context.Context, disks []inventory.Disk) {
	for i := range disks {
		if !slices.Contains(disks[i].Signatures, "gpt") {
			continue
		}
		owner, err := h.owner(ctx, disks[i])
		if err != nil {
			h.log.Warn("looking for an installed system", "disk", disks[i].Name, "error", err)
			continue
		}
		disks[i].Owner = owner
	}
}

// owner looks through a disk's partitions for an identity.
func (h *Host) owner(ctx context.Context, d inventory.Disk) (*inventory.Owner, error) {
	var table *gpt.Table
	err := h.withDisk(ctx, agent.Ref(d), func(disk Disk) (err error) {
		table, err = gpt.Read(disk, disk.Bytes(), disk.SectorBytes())
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, p := range table.Partitions {
		if p.Type == gpt.BIOSBoot || p.Type == gpt.EFISystem {
			continue
		}
		owner, err := h.ownerOf(ctx, d.Name, p.Number)
		if errors.Is(err, ErrNoFilesystem) {
			continue
		}
		if err != nil || owner != nil {
			return owner, err
		}
	}
	return nil, nil
}

// ownerOf reads the identity on one partition; nil when there is none.
func (h *Host) ownerOf(ctx context.Context, disk string, partition int) (*inventory.Owner, error) {
	dir, err := h.cfg.Mounter.Mount(ctx, disk, partition, true)
	if err != nil {
		return nil, err
	}
	text, err := readIdentity(dir)
	if err := errors.Join(err, h.cfg.Mounter.Unmount(dir)); err != nil || text == nil {
		return nil, err
	}
	var id agent.Identity
	if err := json.Unmarshal(text, &id); err != nil {
		return nil, err
	}
	return &inventory.Owner{Catalog: id.Catalog, Site: id.Site, Address: id.Address, Image: id.Image}, nil
}

// readIdentity returns nil for a filesystem that has none.
func readIdentity(dir string) ([]byte, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	t := &tree{root: root}
	text, err := t.read(IdentityFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

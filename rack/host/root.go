package host

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/imagebuilder"
	"github.com/edge-provision/edge-provision/imagebuilder/gpt"
)

//go:embed prepare.sh
var prepareScript string

const (
	preparePath = "/usr/local/lib/edge-lab/prepare"
	prepareUnit = "[Unit]\nDescription=Make the container look like the machine for which it stands\nDefaultDependencies=no\n" +
		"After=local-fs.target\nBefore=sysinit.target\n\n[Service]\nType=oneshot\nExecStart=" + preparePath + "\n"
)

func (h *Host) dir() string         { return filepath.Join(h.lab.config.Dir, h.Name) }
func (h *Host) rootPath() string    { return filepath.Join(h.dir(), "root.ext4") }
func (h *Host) consolePath() string { return filepath.Join(h.dir(), "console.log") }

func (h *Host) diskPath(i int) string {
	return filepath.Join(h.dir(), fmt.Sprintf("disk-%d.raw", i))
}

func (l *Lab) basePath() string { return filepath.Join(l.config.Dir, "base.ext4") }

// run runs a program whose output matters only when it fails.
func run(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("running %s: %w: %s", name, err, strings.TrimSpace(string(out[max(0, len(out)-500):])))
	}
	return nil
}

// unpack makes the file system that every host's root is a copy of: the root
// partition of the image, grown.
func (l *Lab) unpack(ctx context.Context) error {
	image := l.config.Image
	raw := filepath.Join(l.config.Dir, "image.raw")
	if err := run(ctx, "zstd", "-q", "-d", "-f", image.FramesPath, "-o", raw); err != nil {
		return fmt.Errorf("unpacking image %s: %w", image.Digest, err)
	}
	if err := cutRoot(raw, l.basePath()); err != nil {
		return fmt.Errorf("unpacking image %s: %w", image.Digest, err)
	}
	if err := os.Remove(raw); err != nil {
		return fmt.Errorf("unpacking image: %w", err)
	}
	if err := os.Truncate(l.basePath(), l.config.RootBytes); err != nil {
		return fmt.Errorf("growing the root file system: %w", err)
	}
	if err := run(ctx, "resize2fs", "-f", l.basePath()); err != nil {
		return fmt.Errorf("growing the root file system: %w", err)
	}
	return nil
}

// cutRoot writes the root partition of a disk to a file of its own.
func cutRoot(raw, to string) (err error) {
	disk, err := os.Open(raw)
	if err != nil {
		return err
	}
	defer disk.Close()
	info, err := disk.Stat()
	if err != nil {
		return err
	}
	table, err := gpt.Read(disk, info.Size(), 512)
	if err != nil {
		return err
	}
	partition, ok := table.Partition(imagebuilder.RootNumber)
	if !ok {
		return fmt.Errorf("the image has no partition %d: imagebuilder.BuildOS makes those that hosts can start from", imagebuilder.RootNumber)
	}
	offset, length := table.ByteRange(partition)
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := disk.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	// A read-from that lets the kernel copy: no bytes pass through here.
	_, err = io.CopyN(f, disk, length)
	return err
}

// renew makes the host's hardware: a root, a host key and disks.
func (h *Host) renew() error {
	if err := h.makeRoot(); err != nil {
		return fmt.Errorf("making host %s: %w", h.Name, err)
	}
	return nil
}

func (h *Host) makeRoot() error {
	if err := os.MkdirAll(h.dir(), 0o755); err != nil {
		return err
	}
	if err := run(context.Background(), "cp", "--sparse=always", h.lab.basePath(), h.rootPath()); err != nil {
		return err
	}
	h.serials, h.Disks = nil, nil
	for i, size := range h.lab.config.DiskBytes {
		f, err := os.Create(h.diskPath(i))
		if err != nil {
			return err
		}
		if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
			return err
		}
		serial := "LAB" + rand.Text()[:13]
		h.serials = append(h.serials, serial)
		h.Disks = append(h.Disks, "virtio-"+serial)
	}
	return h.stage()
}

// remove throws the hardware away, but for what the console said.
func (h *Host) remove() error {
	for _, path := range []string{h.rootPath(), filepath.Join(h.dir(), "stage"), filepath.Join(h.dir(), "disks")} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("removing host %s: %w", h.Name, err)
		}
	}
	for i := range h.lab.config.DiskBytes {
		if err := os.Remove(h.diskPath(i)); err != nil {
			return fmt.Errorf("removing host %s: %w", h.Name, err)
		}
	}
	return nil
}

// stage writes what makes the image this host: what the agent does when it has
// written an image to a disk, and what only a container needs.
func (h *Host) stage() error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("making the host key: %w", err)
	}
	if h.HostKey, err = ssh.NewPublicKey(public); err != nil {
		return fmt.Errorf("making the host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return fmt.Errorf("making the host key: %w", err)
	}
	stage := filepath.Join(h.dir(), "stage")
	files := []struct {
		path, content string
		mode          os.FileMode
	}{
		{"etc/hostname", h.Name + "\n", 0o644},
		{"etc/hosts", fmt.Sprintf("127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost ip6-localhost ip6-loopback\n", h.Name), 0o644},
		{"etc/fstab", "", 0o644},
		{"etc/systemd/network/10-lab.network", fmt.Sprintf("[Match]\nName=host0\n\n[Network]\nAddress=%s/%d\nGateway=%s\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
			h.Address, h.lab.Network.Bits(), h.lab.Controller), 0o644},
		{strings.TrimPrefix(imagebuilder.SSHHostKeyPath, "/"), string(pem.EncodeToMemory(block)), 0o600},
		{"root/.ssh/authorized_keys", strings.Join(h.lab.config.AuthorizedKeys, "\n") + "\n", 0o600},
		{"etc/edge-lab/disks", "", 0o644},
		{strings.TrimPrefix(preparePath, "/"), prepareScript, 0o755},
		{"etc/systemd/system/edge-lab.service", prepareUnit, 0o644},
	}
	for _, f := range files {
		path := filepath.Join(stage, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(f.content), f.mode); err != nil {
			return err
		}
	}
	for _, dir := range []string{"root", "root/.ssh"} {
		if err := os.Chmod(filepath.Join(stage, dir), 0o700); err != nil {
			return err
		}
	}
	wants := filepath.Join(stage, "etc/systemd/system/sysinit.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	if err := os.Symlink("/etc/systemd/system/edge-lab.service", filepath.Join(wants, "edge-lab.service")); err != nil {
		return err
	}
	// Debian's package starts a container runtime of its own, which a node of
	// K3s, with its runtime inside, would not have running.
	return os.Symlink("/dev/null", filepath.Join(stage, "etc/systemd/system/containerd.service"))
}

// keepConsoles copies the hosts' consoles to where the lab's caller wants them.
func (l *Lab) keepConsoles() error {
	if l.config.Console == "" {
		return nil
	}
	if err := os.MkdirAll(l.config.Console, 0o755); err != nil {
		return fmt.Errorf("keeping the consoles: %w", err)
	}
	for _, h := range l.Hosts {
		b, err := os.ReadFile(h.consolePath())
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return fmt.Errorf("keeping the console of %s: %w", h.Name, err)
		}
		if err := os.WriteFile(filepath.Join(l.config.Console, h.Name+".log"), b, 0o644); err != nil {
			return fmt.Errorf("keeping the console of %s: %w", h.Name, err)
		}
	}
	return nil
}

package k3s

import (
	"context"
	"io/fs"
	"os"

	"github.com/edge-provision/edge-provision/workflows/remote"
)

// host is an open connection to one machine.
type host struct {
	*remote.Host
	// root is prefixed to every path, and uid and gid own what is written:
	// nothing and root, except in tests.
	root     string
	uid, gid uint32
}

func (c *Config) host(ctx context.Context, machine string) (*host, error) {
	h, err := c.Hosts.Host(ctx, machine)
	if err != nil {
		return nil, err
	}
	if c.root == nil {
		return &host{Host: h}, nil
	}
	return &host{Host: h, root: c.root(machine), uid: uint32(os.Getuid()), gid: uint32(os.Getgid())}, nil
}

// path is a path on the machine, as one word of its shell.
func (h *host) path(p string) string { return remote.Quote(h.root + p) }

func (h *host) read(ctx context.Context, p string) ([]byte, error) {
	f, err := h.ReadFile(ctx, h.root+p)
	return f.Content, err
}

func (h *host) write(ctx context.Context, p string, content []byte, mode fs.FileMode) error {
	return h.WriteFile(ctx, h.root+p, remote.File{Content: content, Mode: mode, UID: h.uid, GID: h.gid})
}

func (h *host) run(ctx context.Context, line string) error {
	_, err := h.Run(ctx, remote.Command{Line: line})
	return err
}

package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"

	"github.com/google/uuid"
	"github.com/pkg/sftp"
)

// maxFileBytes bounds what is read back for comparison: a file step carries
// configuration, not images.
const maxFileBytes = 64 << 20

// File is a regular file on the host.
type File struct {
	Content  []byte
	Mode     fs.FileMode // permission bits
	UID, GID uint32
}

// ReadFile returns the file at name, or an error that wraps fs.ErrNotExist.
func (h *Host) ReadFile(ctx context.Context, name string) (File, error) {
	var read File
	err := h.sftp(ctx, "reading "+name, func(c *sftp.Client) error {
		var f File
		info, err := c.Lstat(name)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("it is not a regular file but %s", info.Mode().Type())
		}
		if info.Size() > maxFileBytes {
			return fmt.Errorf("it has %d bytes, more than the %d that a file step compares", info.Size(), maxFileBytes)
		}
		r, err := c.Open(name)
		if err != nil {
			return err
		}
		defer r.Close()
		f.Mode = info.Mode().Perm()
		if st, ok := info.Sys().(*sftp.FileStat); ok {
			f.UID, f.GID = st.UID, st.GID
		}
		f.Content, err = io.ReadAll(io.LimitReader(r, maxFileBytes))
		read = f
		return err
	})
	if err != nil {
		return File{}, err
	}
	return read, nil
}

// WriteFile puts f at name in one step: readers see the old file or the new
// one. Missing parent directories are made with mode 0755.
func (h *Host) WriteFile(ctx context.Context, name string, f File) error {
	return h.sftp(ctx, "writing "+name, func(c *sftp.Client) error {
		if err := c.MkdirAll(path.Dir(name)); err != nil {
			return err
		}
		temp := name + ".edge-" + uuid.NewString()
		if err := writeTemp(c, temp, f); err != nil {
			return errors.Join(err, ignoreMissing(c.Remove(temp)))
		}
		if err := c.PosixRename(temp, name); err != nil {
			return errors.Join(err, ignoreMissing(c.Remove(temp)))
		}
		return nil
	})
}

// writeTemp creates name privately, fills it, and only then opens it up, so
// that a secret is never readable half-way.
func writeTemp(c *sftp.Client, name string, f File) error {
	w, err := c.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Chmod(0o600); err != nil {
		return err
	}
	if _, err := w.Write(f.Content); err != nil {
		return err
	}
	if err := w.Sync(); err != nil && !isUnsupported(err) {
		return err
	}
	if err := c.Chown(name, int(f.UID), int(f.GID)); err != nil {
		return err
	}
	return c.Chmod(name, f.Mode.Perm())
}

// RemoveFile removes name; a file that is not there is no error.
func (h *Host) RemoveFile(ctx context.Context, name string) error {
	return h.sftp(ctx, "removing "+name, func(c *sftp.Client) error { return ignoreMissing(c.Remove(name)) })
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// isUnsupported tells a server without the fsync extension from one whose disk
// failed.
func isUnsupported(err error) bool {
	var status *sftp.StatusError
	return errors.As(err, &status) && status.FxCode() == sftp.ErrSSHFxOpUnsupported
}

// sftp opens the subsystem for one operation, closes it when ctx ends, and says
// in the error what was being done where.
func (h *Host) sftp(ctx context.Context, doing string, do func(*sftp.Client) error) error {
	c, err := within(ctx, h.openSFTP)
	if err != nil {
		return h.unreachable(fmt.Errorf("opening SFTP: %w", err))
	}
	done := make(chan error, 1)
	go func() { done <- do(c) }()
	select {
	case err = <-done:
		c.Close()
	case <-ctx.Done():
		// Closing asks a machine that may be silent, and is not waited for.
		go c.Close()
		return fmt.Errorf("%s: %s: %w", h.name, doing, context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w", h.name, doing, err)
	}
	return nil
}

// sftpServers are where distributions put OpenSSH's sftp-server, which is not in
// PATH.
const sftpServers = "/usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server /usr/lib/ssh/sftp-server /usr/libexec/sftp-server /usr/lib/sftp-server"

// openSFTP asks for the subsystem, or where root has to be become first, runs
// its server by sudo.
func (h *Host) openSFTP() (*sftp.Client, error) {
	if !h.sudo {
		return sftp.NewClient(h.client)
	}
	session, err := h.client.NewSession()
	if err != nil {
		return nil, err
	}
	in, err := session.StdinPipe()
	if err != nil {
		return nil, errors.Join(err, session.Close())
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, session.Close())
	}
	var stderr tail
	session.Stderr = &stderr
	line := "for s in " + sftpServers + "; do [ -x \"$s\" ] && exec \"$s\"; done; echo 'there is no sftp-server on it' >&2; exit 127"
	if err := session.Start(h.elevated(line)); err != nil {
		return nil, errors.Join(err, session.Close())
	}
	c, err := sftp.NewClientPipe(out, sudoPipe{in, session})
	if err != nil {
		session.Close()
		if why := lastLines(stderr.String()); why != "" {
			err = fmt.Errorf("%w:\n%s", err, why)
		}
		return nil, err
	}
	return c, nil
}

// sudoPipe closes the session together with the input of its command.
type sudoPipe struct {
	io.WriteCloser
	session io.Closer
}

// Close implements io.Closer.
func (p sudoPipe) Close() error {
	err := p.WriteCloser.Close()
	if closed := p.session.Close(); err == nil && !errors.Is(closed, io.EOF) {
		err = closed
	}
	return err
}

// LookupID resolves a user ("user" database) or group ("group" database) name
// of the host to its number; a decimal name is its own answer.
func (h *Host) LookupID(ctx context.Context, database, name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	getent := map[string]string{"user": "passwd", "group": "group"}[database]
	out, err := h.Run(ctx, Command{Line: "getent " + getent + " " + Quote(name) + " | cut -d: -f3"})
	if err != nil {
		return 0, err
	}
	var id uint32
	if _, err := fmt.Sscanf(out.Stdout, "%d", &id); err != nil {
		return 0, fmt.Errorf("%s: there is no %s %q on it", h.name, database, name)
	}
	return id, nil
}

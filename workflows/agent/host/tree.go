package host

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// OwnerFunc sets the owner of name in root without following a symbolic link.
type OwnerFunc func(root *os.Root, name string, uid, gid int) error

func lchown(root *os.Root, name string, uid, gid int) error { return root.Lchown(name, uid, gid) }

// tree is the root directory of the written system. Everything goes through
// os.Root: a symbolic link in the image cannot lead outside, where the
// installer's own files, the disks and the firmware's variables are.
type tree struct {
	root  *os.Root
	owner OwnerFunc
}

// maxEditBytes bounds files that are read to be changed.
const maxEditBytes = 8 << 20

// file says what a file of the installed system is to be.
type file struct {
	name     string
	data     []byte
	mode     fs.FileMode
	uid, gid int
}

// exists reports whether name is there; a link that leads outside is not.
func (t *tree) exists(name string) bool {
	_, err := t.root.Stat(name)
	return err == nil
}

// present reports whether name is there, as a symbolic link too: those of
// /usr-merged systems are absolute at times.
func (t *tree) present(name string) bool {
	_, err := t.root.Lstat(name)
	return err == nil
}

func (t *tree) read(name string) ([]byte, error) {
	f, err := t.root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading /%s of the installed system: %w", name, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		return nil, fmt.Errorf("reading /%s of the installed system: %w", name, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxEditBytes+1))
	if err == nil && len(data) > maxEditBytes {
		err = fmt.Errorf("it is larger than %d bytes", maxEditBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("reading /%s of the installed system: %w", name, err)
	}
	return data, nil
}

// write puts a file in place whole, and in the place of a symbolic link of that
// name rather than through it.
func (t *tree) write(f file) error {
	if err := t.mkdir(path.Dir(f.name), 0o755, 0, 0); err != nil {
		return err
	}
	if info, err := t.root.Lstat(f.name); err == nil && info.IsDir() {
		return fmt.Errorf("writing /%s of the installed system: a directory is in its place", f.name)
	}
	tmp := path.Join(path.Dir(f.name), ".edge-provision.new")
	if err := t.root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writing /%s of the installed system: %w", f.name, err)
	}
	out, err := t.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing /%s of the installed system: %w", f.name, err)
	}
	_, err = out.Write(f.data)
	err = errors.Join(err, out.Chmod(f.mode), out.Sync(), out.Close())
	if err == nil {
		err = t.owner(t.root, tmp, f.uid, f.gid)
	}
	if err == nil {
		err = t.root.Rename(tmp, f.name)
	}
	if err != nil {
		return fmt.Errorf("writing /%s of the installed system: %w", f.name, err)
	}
	return nil
}

// edit replaces the content of a file and keeps its mode and owner.
func (t *tree) edit(name string, change func([]byte) ([]byte, error)) error {
	info, err := t.root.Stat(name)
	if err != nil {
		return fmt.Errorf("reading /%s of the installed system: %w", name, err)
	}
	data, err := t.read(name)
	if err != nil {
		return err
	}
	changed, err := change(data)
	if err != nil {
		return fmt.Errorf("changing /%s of the installed system: %w", name, err)
	}
	f := file{name: name, data: changed, mode: info.Mode().Perm()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.uid, f.gid = int(st.Uid), int(st.Gid)
	}
	return t.write(f)
}

// mkdir makes a directory and what leads to it; what is there stays as it is.
func (t *tree) mkdir(name string, mode fs.FileMode, uid, gid int) error {
	if name == "." || name == "" || t.exists(name) {
		return nil
	}
	if err := t.mkdir(path.Dir(name), 0o755, 0, 0); err != nil {
		return err
	}
	err := t.root.Mkdir(name, mode)
	if err == nil {
		// Mkdir is subject to the umask.
		err = t.root.Chmod(name, mode)
	}
	if err == nil {
		err = t.owner(t.root, name, uid, gid)
	}
	if err != nil {
		return fmt.Errorf("making directory /%s of the installed system: %w", name, err)
	}
	return nil
}

// remove removes a file or link, if it is there.
func (t *tree) remove(name string) error {
	if err := t.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing /%s of the installed system: %w", name, err)
	}
	return nil
}

// symlink makes name a link to target, in the place of a file or link.
func (t *tree) symlink(target, name string) error {
	if err := t.mkdir(path.Dir(name), 0o755, 0, 0); err != nil {
		return err
	}
	if err := t.remove(name); err != nil {
		return err
	}
	if err := t.root.Symlink(target, name); err != nil {
		return fmt.Errorf("linking /%s of the installed system: %w", name, err)
	}
	return nil
}

// list returns the names in a directory; none when it is not there.
func (t *tree) list(name string) ([]string, error) {
	d, err := t.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing /%s of the installed system: %w", name, err)
	}
	defer d.Close()
	names, err := d.Readdirnames(10000)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("listing /%s of the installed system: %w", name, err)
	}
	return names, nil
}

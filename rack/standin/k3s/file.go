package k3s

import (
	"errors"
	"os"
)

// writeFile writes what the next start reads back. The file has its old content
// or the new one, whole, also when the disk is full or the process is killed
// meanwhile: without its token or an authority no later start would come up.
func writeFile(path string, content []byte, mode os.FileMode) error {
	next := path + ".new"
	err := os.WriteFile(next, content, mode)
	if err == nil {
		// The mode of one that was left over stays, and the umask takes from it.
		err = os.Chmod(next, mode)
	}
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(next))
	}
	return nil
}

// Program images writes an archive of container images, each made of a few static
// files, in the form of `docker save` (Docker Image Specification v1.2), which
// containerd imports. The same files give the same archive.
//
// usage: images OUTPUT IMAGE…
//
//	IMAGE  NAME[,NAME…]=COMMAND[,ARGUMENT…];PATH=FILE[;PATH=FILE…]
//	       where FILE may be ->TARGET, for a symbolic link
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"
)

// image is one image of the archive.
type image struct {
	names   []string
	command []string
	files   map[string]string // path in the image: path here
	order   []string
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: images OUTPUT NAME=COMMAND;PATH=FILE...")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// parse reads one image.
func parse(text string) (image, error) {
	head, files, _ := strings.Cut(text, ";")
	names, command, ok := strings.Cut(head, "=")
	if !ok || files == "" {
		return image{}, fmt.Errorf("%q is not NAME=COMMAND;PATH=FILE", text)
	}
	i := image{names: strings.Split(names, ","), command: strings.Split(command, ","), files: map[string]string{}}
	for f := range strings.SplitSeq(files, ";") {
		to, from, ok := strings.Cut(f, "=")
		if !ok {
			return image{}, fmt.Errorf("%q is not PATH=FILE", f)
		}
		to = strings.TrimPrefix(to, "/")
		i.files[to] = from
		i.order = append(i.order, to)
	}
	return i, nil
}

func write(output string, texts []string) (err error) {
	f, err := os.Create(output + ".new")
	if err != nil {
		return err
	}
	archive := tar.NewWriter(f)
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var manifest []entry
	written := map[string]bool{}
	for _, text := range texts {
		i, err := parse(text)
		if err != nil {
			return err
		}
		layer, err := i.layer()
		if err != nil {
			return fmt.Errorf("image %s: %w", i.names[0], err)
		}
		digest := hexSum(layer)
		config, err := json.Marshal(map[string]any{
			"architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
			"config": map[string]any{"Entrypoint": i.command, "Env": []string{"PATH=/usr/local/bin:/usr/bin:/bin"}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest}},
		})
		if err != nil {
			return err
		}
		e := entry{Config: hexSum(config) + ".json", RepoTags: i.names, Layers: []string{digest + "/layer.tar"}}
		for name, content := range map[string][]byte{e.Config: config, e.Layers[0]: layer} {
			if written[name] {
				continue
			}
			written[name] = true
			if err := add(archive, name, 0o644, content); err != nil {
				return err
			}
		}
		manifest = append(manifest, e)
	}
	text, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	if err := errors.Join(add(archive, "manifest.json", 0o644, text), archive.Close(), f.Close()); err != nil {
		return err
	}
	return os.Rename(output+".new", output)
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// layer is the image's only layer.
func (i image) layer() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{".": true}
	var makeDir func(dir string) error
	makeDir = func(dir string) error {
		if made[dir] {
			return nil
		}
		made[dir] = true
		if err := makeDir(path.Dir(dir)); err != nil {
			return err
		}
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(0, 0)})
	}
	for _, dir := range []string{"dev", "etc", "proc", "sys", "tmp"} {
		if err := makeDir(dir); err != nil {
			return nil, err
		}
	}
	for _, name := range i.order {
		if err := makeDir(path.Dir(name)); err != nil {
			return nil, err
		}
		if target, ok := strings.CutPrefix(i.files[name], "->"); ok {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: time.Unix(0, 0)}); err != nil {
				return nil, err
			}
			continue
		}
		content, err := os.ReadFile(i.files[name])
		if err != nil {
			return nil, err
		}
		if err := add(w, name, 0o755, content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func add(w *tar.Writer, name string, mode int64, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

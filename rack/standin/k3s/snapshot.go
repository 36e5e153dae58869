package k3s

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// snapshot is one file of etcd's state.
type snapshot struct {
	name string
	path string
	size int64
	time time.Time
}

// snapshotCommand is `k3s etcd-snapshot save|ls|prune`.
func snapshotCommand(ctx context.Context, set settings, verb string, args snapshotArgs, out io.Writer) error {
	n, err := set.node()
	if err != nil {
		return err
	}
	s := &server{settings: set, node: n, log: slog.New(slog.DiscardHandler), dir: filepath.Join(set.dataDir(), "server")}
	if !s.embedded() {
		return errors.New("etcd datastore disabled: this server was started without cluster-init")
	}
	dir := set.get("etcd-snapshot-dir", s.path("db", "snapshots"))
	switch verb {
	case "save":
		path, err := s.saveSnapshot(ctx, dir, args.name)
		if err != nil {
			return fmt.Errorf("saving a snapshot: %w", err)
		}
		fmt.Fprintf(out, "Snapshot %s saved.\n", filepath.Base(path))
		return nil
	case "ls", "list", "l":
		all, err := listSnapshots(dir)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
		fmt.Fprint(w, "Name\tLocation\tSize\tCreated\n")
		for _, f := range all {
			fmt.Fprintf(w, "%s\tfile://%s\t%d\t%s\n", f.name, f.path, f.size, f.time.UTC().Format(time.RFC3339))
		}
		return w.Flush()
	case "prune":
		all, err := listSnapshots(dir)
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(f snapshot) bool { return !strings.HasPrefix(f.name, args.name+"-"+n.name+"-") })
		for i := range max(0, len(all)-args.retention) {
			if err := os.Remove(all[i].path); err != nil {
				return fmt.Errorf("pruning snapshots: %w", err)
			}
			fmt.Fprintf(out, "Snapshot %s deleted.\n", all[i].name)
		}
		return nil
	}
	return fmt.Errorf("etcd-snapshot %s: the stand-in has save, ls and prune", verb)
}

type snapshotArgs struct {
	name      string
	retention int
}

func (s *server) saveSnapshot(ctx context.Context, dir, name string) (_ string, err error) {
	client, err := s.dialEtcd("https://127.0.0.1:2379")
	if err != nil {
		return "", err
	}
	defer client.Close()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	r, err := client.Snapshot(ctx)
	if err != nil {
		return "", err
	}
	defer r.Close()
	path := filepath.Join(dir, name+"-"+s.name+"-"+strconv.FormatInt(time.Now().Unix(), 10))
	f, err := os.OpenFile(path+".partial", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(path+".partial"))
	}
	return path, os.Rename(path+".partial", path)
}

// listSnapshots are the directory's, the oldest first.
func listSnapshots(dir string) ([]snapshot, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	var all []snapshot
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() || strings.HasSuffix(entry.Name(), ".partial") {
			continue
		}
		all = append(all, snapshot{name: entry.Name(), path: filepath.Join(dir, entry.Name()), size: info.Size(), time: info.ModTime()})
	}
	slices.SortFunc(all, func(a, b snapshot) int { return cmp.Or(a.time.Compare(b.time), strings.Compare(a.name, b.name)) })
	return all, nil
}

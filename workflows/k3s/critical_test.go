package k3s

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Secrets are encrypted for the life of a cluster, or not at all: by its marks, and
// where an older release has written those, by its configuration.
func TestProfileOfALivingClusterIsRefused(t *testing.T) {
	t.Parallel()
	for _, made := range []Profile{"", CIS} {
		w := newWorld(t, "a")
		c := w.config(oldVersion, []string{"a"}, nil)
		c.Profile = made
		mustApply(t, c)
		c.Recorded = true
		other, want := c, "was made without profile"
		if other.Profile = CIS; made == CIS {
			other.Profile, want = "", "could not read them any more"
		}
		refused := func(when string) {
			t.Helper()
			var refusal *RefusedError
			if _, err := inspect(t, other); !errors.As(err, &refusal) || !strings.Contains(err.Error(), want) {
				t.Errorf("made with profile %q, declared with %q, %s: Inspect() = %v; want %q", made, other.Profile, when, err, want)
			}
		}
		refused("after it was made")
		// What somebody has done to the file by hand is no other cluster.
		config := filepath.Join(w.hosts["machine.a"].root, configPath)
		text := w.read("machine.a", configPath)
		w.put(config, "node-name: a\ncluster-init: true\nsecrets-encryption: "+map[Profile]string{"": "true", CIS: "false"}[made]+"\n", 0o600)
		if r, err := inspect(t, c); err != nil || len(r.Changes) == 0 {
			t.Errorf("made with profile %q and edited by hand: Inspect() = %q, %v; want the file put right", made, r.Changes, err)
		}
		w.put(config, text, 0o600)
		var mark map[string]any
		if err := json.Unmarshal([]byte(w.read("machine.a", startedPath)), &mark); err != nil {
			t.Fatal(err)
		}
		delete(mark, "encrypted")
		old, err := json.Marshal(mark)
		if err != nil {
			t.Fatal(err)
		}
		w.put(filepath.Join(w.hosts["machine.a"].root, startedPath), string(old), 0o600)
		refused("with an older release's mark")
		if r, err := inspect(t, c); err != nil || len(r.Changes) > 0 {
			t.Errorf("made with profile %q and declared so: Inspect() = %q, %v; want nothing to do", made, r.Changes, err)
		}
	}
}

// A server that joins compares these settings with those of the server that it joins,
// and ends when they differ.
func TestServersAreRestartedBeforeOthersJoinThroughThem(t *testing.T) {
	t.Parallel()
	for backend, want := range map[string][]string{
		"":        {"b: start k3s.service", "c: start k3s.service", "a: start k3s.service"},
		"host-gw": {"a: start k3s.service", "b: start k3s.service", "c: start k3s.service"},
	} {
		w := newWorld(t, "a", "b", "c")
		mustApply(t, w.config(oldVersion, []string{"a"}, nil))
		w.took()
		c := w.config(oldVersion, []string{"a", "b", "c"}, nil)
		c.Recorded, c.FlannelBackend = true, backend
		mustApply(t, c)
		if diff := cmp.Diff(want, starts(w.took())); diff != "" {
			t.Errorf("flannel_backend %q: Apply() (-want +got):\n%s", backend, diff)
		}
	}
}

// starts are the lines that tell of a start.
func starts(log []string) []string {
	var out []string
	for _, l := range log {
		if strings.Contains(l, ": start ") {
			out = append(out, l)
		}
	}
	return out
}

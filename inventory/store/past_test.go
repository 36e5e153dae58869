package store_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// biosAt is a report of source agent about the machine of mac(1), from a number of
// minutes after noon.
func biosAt(version string, minute int) store.Observation {
	f := inventory.Facts{BIOS: &inventory.BIOS{Version: version}}
	return store.Observation{MACs: []inventory.MAC{mac(1)}, Source: inventory.SourceAgent, Facts: &f, At: noon.Add(time.Duration(minute) * time.Minute)}
}

func pastAt(version string, minute int) store.Observation {
	o := biosAt(version, minute)
	o.Past = true
	return o
}

// intervals are which versions of the BIOS were seen when, the oldest first.
func intervals(t *testing.T, s *store.Store, id uuid.UUID) string {
	t.Helper()
	var out []string
	for _, d := range must[[]inventory.Document](t)(s.FactsHistory(t.Context(), id, inventory.SourceAgent)) {
		out = append(out, fmt.Sprintf("%s %v-%v", d.Facts.BIOS.Version, d.ObservedAt.Sub(noon).Minutes(), d.LastSeen.Sub(noon).Minutes()))
	}
	return strings.Join(out, ", ")
}

// TestReportOfThePastHasItsPlaceInTheHistory takes reports into a history in which
// version 2 was seen from minute 10 to 20 and version 3 from minute 30 to 40.
func TestReportOfThePastHasItsPlaceInTheHistory(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		cfg.Now = func() time.Time { return noon.Add(time.Hour) }
		s := storetest.Open(t, cfg)
		for name, c := range map[string]struct {
			past    store.Observation
			want    string
			changed bool
			unfit   bool
			current string
			since   int // when the BIOS is known to have changed last, in minutes
		}{
			"before all":            {past: pastAt("1", 0), want: "1 0-0, 2 10-20, 3 30-40", changed: true, current: "3", since: 30},
			"between":               {past: pastAt("1", 25), want: "2 10-20, 1 25-25, 3 30-40", changed: true, current: "3", since: 30},
			"known":                 {past: pastAt("2", 15), want: "2 10-20, 3 30-40", current: "3", since: 30},
			"known to be the last":  {past: pastAt("3", 30), want: "2 10-20, 3 30-40", current: "3", since: 30},
			"seen longer":           {past: pastAt("2", 25), want: "2 10-25, 3 30-40", current: "3", since: 30},
			"seen earlier":          {past: pastAt("3", 25), want: "2 10-20, 3 25-40", current: "3", since: 25},
			"the last, seen longer": {past: pastAt("3", 50), want: "2 10-20, 3 30-50", current: "3", since: 30},
			"after all":             {past: pastAt("4", 50), want: "2 10-20, 3 30-40, 4 50-50", changed: true, current: "4", since: 50},
			"when another was seen": {past: pastAt("1", 15), want: "2 10-20, 3 30-40", unfit: true, current: "3", since: 30},
			"at the same time":      {past: pastAt("1", 30), want: "2 10-20, 3 30-40", unfit: true, current: "3", since: 30},
			"while the last was":    {past: pastAt("1", 35), want: "2 10-20, 3 30-40", unfit: true, current: "3", since: 30},
		} {
			t.Run(name, func(t *testing.T) {
				ctx := t.Context()
				id := observe(t, s, biosAt("2", 10)).ID
				defer func() { ok(t, s.Forget(ctx, id)) }()
				for _, o := range []store.Observation{biosAt("2", 20), biosAt("3", 30), biosAt("3", 40)} {
					observe(t, s, o)
				}
				for i := range 2 {
					seen := must[[]store.Observed](t)(s.ObserveAll(ctx, site, []store.Observation{c.past}))[0]
					if seen.Machine != id || seen.Changed != (c.changed && i == 0) || (seen.Unfit != nil) != c.unfit {
						t.Errorf("observation %d = %+v; want machine %s, changed %v, unfit %v", i+1, seen, id, c.changed && i == 0, c.unfit)
					}
					if got := intervals(t, s, id); got != c.want {
						t.Errorf("history after observation %d = %s; want %s", i+1, got, c.want)
					}
				}
				if got := must[map[uuid.UUID]inventory.Facts](t)(s.FactsOf(ctx, id))[id].BIOS.Version; got != c.current {
					t.Errorf("facts.bios.version = %s; want %s", got, c.current)
				}
				if n := must[int64](t)(s.Number(ctx, "SELECT count(*) FROM machine_facts WHERE bios_version = '"+c.current+"'")); n != 1 {
					t.Errorf("machine_facts = %s; want BIOS %s", rows(t, s, "machine_facts"), c.current)
				}
				kept := must[inventory.Subject](t)(s.Subject(ctx, id)).Changes
				ok(t, s.RebuildProjection(ctx))
				anew := must[inventory.Subject](t)(s.Subject(ctx, id)).Changes
				since := noon.Add(time.Duration(c.since) * time.Minute)
				isBIOS := func(change inventory.FactChange) bool { return change.Path == "bios.version" && change.At.Equal(since) }
				if !reflect.DeepEqual(kept, anew) || !slices.ContainsFunc(kept, isBIOS) {
					t.Errorf("changes = %v, and %v as of the documents; want both with the BIOS at minute %d", kept, anew, c.since)
				}
			})
		}
	})
}

func TestReportOfThePastThatDoesNotFitIsAnErrorAlone(t *testing.T) {
	s := storetest.Open(t, storetest.SQLite(t))
	observe(t, s, biosAt("2", 10))
	var unfit *store.PastError
	if _, _, err := s.Observe(t.Context(), site, pastAt("1", 10)); !errors.As(err, &unfit) || unfit.Source != inventory.SourceAgent || !unfit.From.Equal(noon.Add(10*time.Minute)) {
		t.Errorf("Observe of a report of the past at the time of another = %v; want a *PastError that names it", err)
	}
}

func TestReportOfThePastIsOlderInPagesOfTheHistory(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		id := observe(t, s, biosAt("2", 10)).ID
		for _, o := range []store.Observation{biosAt("3", 30), pastAt("1", 20), pastAt("0", 0)} {
			observe(t, s, o)
		}
		var got []string
		for before := 0; ; {
			page := must[[]store.Report](t)(s.Reports(t.Context(), id, "", before, 1))
			if len(page) == 0 {
				break
			}
			was := "-"
			if page[0].Before != nil {
				was = page[0].Before.BIOS.Version
			}
			got, before = append(got, was+">"+page[0].Facts.BIOS.Version), page[0].ID
		}
		if want := []string{"1>3", "2>1", "0>2", "->0"}; !slices.Equal(got, want) {
			t.Errorf("history = %v; want %v", got, want)
		}
	})
}

// TestReportOfThePastChangesNoIdentity has one from before a board was replaced.
func TestReportOfThePastChangesNoIdentity(t *testing.T) {
	s := storetest.Open(t, storetest.SQLite(t))
	now := seen("7XK2Q93", uuidB, 1)
	now.At = noon
	m := observe(t, s, now)
	old := seen("7XK2Q93", uuidA, 1, 2)
	old.At, old.Past = noon.Add(-time.Hour), true
	if got := observe(t, s, old); got.ID != m.ID || got.SMBIOSUUID != uuidB || len(got.MACs) != 2 {
		t.Errorf("machine = %+v; want %s with its UUID and one more MAC", got, m.ID)
	}
	if _, changed, err := s.Observe(t.Context(), site, old); changed || err != nil {
		t.Errorf("Observe again = changed %v, %v; want nothing changed", changed, err)
	}
}

// TestWhatPortsWereConnectedToInThePast: a report of an agent, and what it heard, of
// before a cable was moved and a port was added.
func TestWhatPortsWereConnectedToInThePast(t *testing.T) {
	ctx, s := t.Context(), storetest.Open(t, storetest.SQLite(t))
	look := func(port string, at time.Time, past bool, nics ...int) store.Observation {
		f := inventory.Facts{Neighbors: []inventory.Neighbor{{MAC: mac(1), Chassis: "sw1", Port: port}}}
		for _, n := range nics {
			f.NICs = append(f.NICs, inventory.NIC{MAC: mac(n)})
		}
		return store.Observation{Source: inventory.SourceAgent, Facts: &f, At: at, Past: past}
	}
	id := observe(t, s, look("8", noon, false, 1, 2)).ID
	for range 2 {
		observe(t, s, look("7", noon.Add(-time.Hour), true, 1))
	}
	var got []string
	for _, d := range must[[]inventory.Document](t)(s.FactsHistory(ctx, id, "")) {
		for _, n := range d.Facts.Neighbors {
			got = append(got, fmt.Sprintf("%s %s", d.Source, n.Port))
		}
	}
	if f := must[inventory.Facts](t)(s.MergedFacts(ctx, id)); !slices.Equal(got, []string{"lldp 7", "lldp 8"}) || f.Neighbors[0].Port != "8" || len(f.NICs) != 2 {
		t.Errorf("heard %v, now %+v; want port 7 before port 8, which is what is known", got, f)
	}
}

package store_test

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

func TestTagsAreKeptAndTold(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		m := observe(t, s, seen("", uuid.Nil, 1))
		set := func(set map[string]string, remove ...string) inventory.Machine {
			t.Helper()
			return must[inventory.Machine](t)(s.SetTags(ctx, m.ID, set, remove, nil))
		}
		set(map[string]string{"location": "back room", "asset": "0042"})
		set(map[string]string{"location": "back room"})
		got := set(map[string]string{"asset": "0043", "rack": "R1"}, "location", "nothing", "rack")
		want := map[string]string{"asset": "0043", "rack": "R1"}
		if !maps.Equal(got.Tags, want) {
			t.Errorf("tags = %v; want %v", got.Tags, want)
		}
		if all := must[[]inventory.Machine](t)(s.Machines(ctx, store.MachineFilter{})); !maps.Equal(all[0].Tags, want) {
			t.Errorf("tags of the listed machine = %v; want %v", all[0].Tags, want)
		}
		events := must[[]inventory.Event](t)(s.Events(ctx, store.EventFilter{Machine: m.ID, Kinds: []inventory.EventKind{inventory.EventMachineTags}}))
		if len(events) != 2 || events[0].Attrs["set.location"] != "back room" || events[1].Attrs["removed"] != "location" || events[1].Attrs["set.asset"] != "0043" {
			t.Errorf("events = %+v; want two, with what was set and removed", events)
		}
		if docs := must[map[inventory.Source]inventory.Document](t)(s.Facts(ctx, m.ID)); len(docs) != 0 {
			t.Errorf("facts = %v; want none: tags are no facts", docs)
		}
		ok(t, s.Forget(ctx, m.ID))
		if n := must[int64](t)(s.Number(ctx, "SELECT count(*) FROM tags")); n != 0 {
			t.Errorf("%d tags are left of a machine that was forgotten", n)
		}
	})
}

func TestTagsAreRefused(t *testing.T) {
	ctx, s := t.Context(), storetest.Open(t, storetest.SQLite(t))
	m := observe(t, s, seen("", uuid.Nil, 1))
	many := map[string]string{}
	for i := range inventory.MaxTags + 1 {
		many["k"+strings.Repeat("x", i%60)+string(rune('a'+i/60))] = "v"
	}
	for name, c := range map[string]struct {
		tags map[string]string
		want string
	}{
		"key with a blank": {map[string]string{"a b": "c"}, "a key is"},
		"key of a digit":   {map[string]string{"1a": "c"}, "a key is"},
		"long key":         {map[string]string{strings.Repeat("a", 64): "c"}, "a key is"},
		"empty value":      {map[string]string{"a": ""}, "remove the tag"},
		"long value":       {map[string]string{"a": strings.Repeat("x", 1025)}, "at most 1024"},
		"bad UTF-8":        {map[string]string{"a": "\xff"}, "UTF-8"},
		"NUL":              {map[string]string{"a": "x\x00"}, "control character"},
		"terminal escape":  {map[string]string{"a": "\x1b[2J"}, "control character"},
		"too many":         {many, "it can have 64"},
	} {
		_, err := s.SetTags(ctx, m.ID, c.tags, nil, nil)
		var refused *store.TagError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: SetTags = %v; want a *TagError that says %q", name, err, c.want)
		}
	}
	no := errors.New("somebody was faster")
	if _, err := s.SetTags(ctx, m.ID, map[string]string{"a": "b"}, nil, func(inventory.Machine) error { return no }); !errors.Is(err, no) {
		t.Errorf("SetTags with a check that refuses = %v; want its error", err)
	}
	if err := s.ForgetIf(ctx, m.ID, func(inventory.Machine) error { return no }); !errors.Is(err, no) {
		t.Errorf("ForgetIf with a check that refuses = %v; want its error", err)
	}
	if got := must[inventory.Machine](t)(s.Machine(ctx, m.ID)); len(got.Tags) != 0 {
		t.Errorf("tags = %v; want none", got.Tags)
	}
	if _, err := s.SetTags(ctx, uuid.New(), map[string]string{"a": "b"}, nil, nil); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("SetTags of no machine = %v; want ErrNotFound", err)
	}
}

func TestObserveAllTakesManyAndNamesConflicts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		a, b := observe(t, s, seen("7XK2Q91", uuid.Nil, 1)), observe(t, s, seen("7XK2Q92", uuid.Nil, 2))
		moved := seen("7XK2Q91", uuid.Nil, 2) // the MAC of one and the serial of the other
		fresh := seen("7XK2Q93", uuid.Nil, 3)
		fresh.Source, fresh.Facts = inventory.SourceAgent, &inventory.Facts{BIOS: &inventory.BIOS{Version: "1"}}
		again := seen("7XK2Q91", uuid.Nil, 1)
		got := must[[]store.Observed](t)(s.ObserveAll(ctx, site, []store.Observation{again, moved, fresh, fresh}))
		if got[0].Machine != a.ID || got[0].Changed || got[0].Conflict != nil {
			t.Errorf("the machine seen again = %+v; want %s, unchanged", got[0], a.ID)
		}
		if got[1].Conflict == nil || got[1].Machine != uuid.Nil {
			t.Errorf("the moved card = %+v; want a conflict with %s", got[1], b.ID)
		}
		if !got[2].Changed || got[3].Changed || got[2].Machine != got[3].Machine {
			t.Errorf("the new machine = %+v, %+v; want it made once", got[2], got[3])
		}
		if n := len(must[[]inventory.Machine](t)(s.Machines(ctx, store.MachineFilter{}))); n != 3 {
			t.Errorf("%d machines; want 3", n)
		}
		if e := must[[]inventory.Event](t)(s.Events(ctx, store.EventFilter{Kinds: []inventory.EventKind{inventory.EventIdentityConflict}})); len(e) != 1 {
			t.Errorf("conflict events = %+v; want one", e)
		}
		if _, err := s.ObserveAll(ctx, site, []store.Observation{seen("7XK2Q99", uuid.Nil, 9), {}}); err == nil || !strings.Contains(err.Error(), "number 2") {
			t.Errorf("ObserveAll with nothing to know a machine by = %v; want an error about number 2", err)
		}
	})
}

package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"entgo.io/ent/dialect"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/mac"
	"github.com/edge-provision/edge-provision/ent/machine"
	"github.com/edge-provision/edge-provision/inventory"
)

// Observation is what was seen of one machine at one moment.
type Observation struct {
	// Machine is the machine that the observer already knows it to be, for
	// example because it asked that machine's BMC; zero when only the
	// identifiers tell.
	Machine uuid.UUID
	// Proven says that Machine is known by more than what was read of the hardware, as
	// by its SSH host key. Then other hardware is what changed of it, and no conflict.
	Proven bool
	MACs   []inventory.MAC
	// UUID is the SMBIOS system UUID; its byte order may be either.
	UUID   uuid.UUID
	Serial string
	// Source and Facts are a facts document, nil for none. The MACs, UUID and
	// serial in it count as seen too.
	Source inventory.Source
	Facts  *inventory.Facts
	// At is the time of the observation; now when zero.
	At time.Time
	// Past says that it was made at At and written down since, as in another catalog.
	// It is kept as of that time, beside what was seen later, and in place of none of
	// it. Else it is the newest whatever At says: the clock may have gone back.
	Past bool
}

// Observe finds the machine that was seen, by any of its MACs, its SMBIOS UUID
// or its serial, or makes a new one in state discovered, and keeps the facts.
// changed is true when something other than the time it was last seen changed.
//
// Known junk and identifiers that several machines share match nothing. When
// the identifiers point at two machines, or all that can be compared contradict
// the machine of the MAC, nothing is changed, an identity.conflict event is
// recorded and *ConflictError returned. That is also returned when another site has
// the machine of a MAC. What was seen of a machine that is proven is kept in each case,
// with the event where it changed; an identifier that another machine has stays there.
func (s *Store) Observe(ctx context.Context, site string, o Observation) (m inventory.Machine, changed bool, err error) {
	const op = "recording an observed machine"
	o = o.complete(s.now())
	if o.Machine == uuid.Nil && len(o.MACs) == 0 && o.UUID == uuid.Nil && o.Serial == "" {
		return m, false, fmt.Errorf("%s: it has no MAC, no usable UUID and no usable serial", op)
	}
	var id uuid.UUID
	var disputed *ConflictError
	err = s.write(ctx, op, func(tx *ent.Tx) error {
		changed, disputed = false, nil // the transaction may be repeated
		if err := s.lockIdentities(ctx, tx); err != nil {
			return err
		}
		in := observer{s: s, tx: tx, site: site, project: s.projectNow(ctx, tx), inserted: map[uuid.UUID]bool{}}
		var what string
		var err error
		if id, what, err = in.observe(ctx, o); err != nil {
			return err
		}
		if err := in.finish(ctx); err != nil || what == "" {
			return err
		}
		changed, disputed = true, in.disputed
		return s.changed(ctx, tx, what, id)
	})
	var conflict *ConflictError
	if errors.As(err, &conflict) {
		s.recordConflict(site, o, conflict, conflict.Error())
	}
	if err != nil {
		return m, false, err
	}
	if disputed != nil {
		s.recordConflict(site, o, disputed, fmt.Sprintf("it has the %s %s of machine %s, which keeps it: a part was moved, or that machine is gone and its record stale",
			disputed.By, disputed.Seen, disputed.B))
	}
	m, err = s.Machine(ctx, id)
	return m, changed, err
}

// Observed is what became of one observation of many.
type Observed struct {
	Machine uuid.UUID
	Changed bool
	// Conflict is set, and nothing was changed, when the machine seen could not
	// be told from others; see Observe.
	Conflict *ConflictError
	// Unfit is set when the machine was taken without the report of the past.
	Unfit *PastError
}

// ObserveAll is Observe for many machines in one transaction: either all that
// are in no conflict are kept, or none. The answers are in the order of the
// observations.
func (s *Store) ObserveAll(ctx context.Context, site string, all []Observation) ([]Observed, error) {
	op := fmt.Sprintf("recording %d observed machines", len(all))
	all = slices.Clone(all)
	for i, o := range all {
		all[i] = o.complete(s.now())
		if o = all[i]; o.Machine == uuid.Nil && len(o.MACs) == 0 && o.UUID == uuid.Nil && o.Serial == "" {
			return nil, fmt.Errorf("%s: number %d has no MAC, no usable UUID and no usable serial", op, i+1)
		}
	}
	var out []Observed
	err := s.write(ctx, op, func(tx *ent.Tx) error {
		out = make([]Observed, len(all)) // the transaction may be repeated
		if err := s.lockIdentities(ctx, tx); err != nil {
			return err
		}
		in := observer{s: s, tx: tx, site: site, due: documents{}, inserted: map[uuid.UUID]bool{}}
		in.project = in.later
		touched := map[string][]uuid.UUID{}
		for i, o := range all {
			id, what, err := in.observe(ctx, o)
			// A conflict is found before anything is written.
			if conflict, ok := errors.AsType[*ConflictError](err); ok {
				out[i].Conflict = conflict
				continue
			}
			unfit, left := errors.AsType[*PastError](err)
			if err != nil && !left {
				return fmt.Errorf("number %d: %w", i+1, err)
			}
			out[i] = Observed{Machine: id, Changed: what != "", Unfit: unfit}
			if what != "" {
				touched[what] = append(touched[what], id)
			}
		}
		if err := in.finish(ctx); err != nil {
			return err
		}
		for _, what := range slices.Sorted(maps.Keys(touched)) {
			if err := s.changed(ctx, tx, what, touched[what]...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, o := range out {
		if o.Conflict != nil {
			s.recordConflict(site, all[i], o.Conflict, o.Conflict.Error())
		}
	}
	return out, nil
}

// complete adds what the facts say and removes what identifies nothing.
func (o Observation) complete(now time.Time) Observation {
	if o.At.IsZero() {
		o.At = now
	}
	o.At = stamp(o.At)
	o.MACs = slices.Clone(o.MACs)
	if f := o.Facts; f != nil {
		for _, n := range f.NICs {
			o.MACs = append(o.MACs, n.MAC)
		}
		if f.System != nil {
			if u, err := uuid.Parse(f.System.UUID); err == nil && !inventory.JunkUUID(u) {
				o.UUID = u // SMBIOS read on the machine knows its byte order
			}
			if o.Serial == "" {
				o.Serial = f.System.Serial
			}
		}
	}
	o.MACs = slices.DeleteFunc(o.MACs, func(m inventory.MAC) bool { return m.IsZero() || m[0]&1 == 1 })
	slices.SortFunc(o.MACs, func(a, b inventory.MAC) int { return slices.Compare(a[:], b[:]) })
	o.MACs = slices.Compact(o.MACs)
	if inventory.JunkUUID(o.UUID) {
		o.UUID = uuid.Nil
	}
	o.Serial = clean(o.Serial)
	if inventory.JunkSerial(o.Serial) {
		o.Serial = ""
	}
	return o
}

// observe says what changed of which machine; nothing when it was only seen
// again. With a *PastError all but the report was kept.
func (in *observer) observe(ctx context.Context, o Observation) (id uuid.UUID, what string, err error) {
	row, owned, err := identify(ctx, in.tx, in.site, o)
	if conflict, ok := errors.AsType[*ConflictError](err); ok && o.Proven {
		in.disputed = conflict
		if o, owned, err = apart(ctx, in.tx, in.site, o); err == nil {
			row, err = in.tx.Machine.Get(ctx, o.Machine)
		}
	}
	if err != nil {
		return uuid.Nil, "", err
	}
	fresh := row == nil
	changed := fresh
	if fresh {
		id, err = in.add(ctx, o)
	} else {
		id = row.ID
		changed, err = update(ctx, in.tx, row, o)
	}
	if err != nil {
		return uuid.Nil, "", err
	}
	added, err := addMACs(ctx, in.tx, id, o.MACs, owned)
	if err != nil {
		return uuid.Nil, "", err
	}
	var parts []string
	if changed || added > 0 {
		parts = append(parts, "identity")
	}
	if o.Facts != nil {
		newer, putErr := in.putObserved(ctx, id, o, fresh)
		if newer {
			parts = append(parts, "facts")
		}
		err = putErr
	}
	return id, strings.Join(parts, ","), err
}

// add makes the machine that was seen for the first time, as it was seen: each update
// that followed would write all of its index entries again.
func (in *observer) add(ctx context.Context, o Observation) (uuid.UUID, error) {
	if !in.settled {
		if err := in.s.ensureSite(ctx, in.tx, in.site); err != nil {
			return uuid.Nil, err
		}
		in.settled = true
	}
	now := in.s.now()
	id, row := create(in.tx, in.site, inventory.StateDiscovered, now)
	row.SetNillableSerial(some(o.Serial))
	if o.At.After(now) {
		row.SetLastSeen(o.At)
	}
	if o.UUID != uuid.Nil {
		row.SetSmbiosUUID(o.UUID.String())
	}
	if o.Facts != nil && o.Source == inventory.SourceAgent {
		row.SetLookedAt(o.At)
	}
	return id, row.Exec(ctx)
}

// update writes what is new of a machine; changed is false when it was only seen
// again.
func update(ctx context.Context, tx *ent.Tx, row *ent.Machine, o Observation) (changed bool, err error) {
	up := tx.Machine.Update().Where(machine.ID(row.ID))
	if o.At.After(row.LastSeen) {
		up.SetLastSeen(o.At)
	}
	// What was read of a machine before it was last seen only fills gaps.
	older := o.Past && !o.At.After(row.LastSeen)
	if o.Serial != "" && (row.Serial == nil || !older && *row.Serial != o.Serial) {
		up.SetSerial(o.Serial)
		changed = true
	}
	if o.UUID != uuid.Nil && (row.SmbiosUUID == nil || !older && newUUID(row.SmbiosUUID, o)) {
		up.SetSmbiosUUID(o.UUID.String())
		changed = true
	}
	if len(up.Mutation().Fields()) == 0 {
		return false, nil
	}
	found, err := up.Save(ctx)
	if err == nil && found == 0 { // it was removed since it was read
		err = ErrNotFound
	}
	return changed, err
}

// newUUID reports whether the observed UUID replaces the one on record. The
// same UUID in the other byte order does so only when SMBIOS itself was read.
func newUUID(have *string, o Observation) bool {
	if have == nil {
		return true
	}
	old, err := uuid.Parse(*have)
	if err != nil || !inventory.SameUUID(old, o.UUID) {
		return true
	}
	return old != o.UUID && o.Facts != nil
}

// candidate is a machine that an identifier points to.
type candidate struct {
	id   uuid.UUID
	site string
	mac  string       // the MAC that led to it
	row  *ent.Machine // nil where none did
}

// in refuses a machine that another site's record holds.
func (c candidate) in(site string) error {
	if c.site == site {
		return nil
	}
	return &ConflictError{A: c.id, By: "mac", Seen: c.mac, Site: c.site}
}

// identify decides which machine was seen; nil for one never seen before. owned are
// the MACs that some machine has.
func identify(ctx context.Context, tx *ent.Tx, site string, o Observation) (row *ent.Machine, owned []string, err error) {
	found, owned, err := byMACs(ctx, tx, o.MACs)
	if err != nil {
		return nil, nil, err
	}
	if o.Machine != uuid.Nil {
		known := candidate{id: o.Machine, site: site}
		found = append([]candidate{known}, slices.DeleteFunc(found, func(c candidate) bool { return c.id == o.Machine })...)
	}
	if len(found) > 1 {
		return nil, nil, &ConflictError{A: found[0].id, B: found[1].id, By: "mac", Seen: found[1].mac}
	}
	byUUID, err := bySMBIOS(ctx, tx, site, o.UUID)
	if err != nil {
		return nil, nil, err
	}
	bySerial, err := serials(ctx, tx, site, o.Serial)
	if err != nil {
		return nil, nil, err
	}
	if len(found) == 0 {
		row, err = withoutMAC(o, byUUID, bySerial)
		return row, owned, err
	}
	at := found[0]
	if err := at.in(site); err != nil {
		return nil, nil, err
	}
	if byUUID != nil && byUUID.ID != at.id {
		return nil, nil, &ConflictError{A: at.id, B: byUUID.ID, By: "uuid", Seen: o.UUID.String()}
	}
	if bySerial != nil && bySerial.ID != at.id {
		return nil, nil, &ConflictError{A: at.id, B: bySerial.ID, By: "serial", Seen: o.Serial}
	}
	if row = at.row; row == nil {
		if row, err = tx.Machine.Get(ctx, at.id); err != nil {
			return nil, nil, err
		}
	}
	if o.Proven {
		return row, owned, nil
	}
	return row, owned, contradiction(row, o)
}

// apart is what was seen of a proven machine without the UUID and the serial that
// another machine has. owned are the MACs that some machine has.
func apart(ctx context.Context, tx *ent.Tx, site string, o Observation) (own Observation, owned []string, err error) {
	_, owned, err = byMACs(ctx, tx, o.MACs)
	if err != nil {
		return o, nil, err
	}
	byUUID, err := bySMBIOS(ctx, tx, site, o.UUID)
	if err != nil {
		return o, nil, err
	}
	if byUUID != nil && byUUID.ID != o.Machine {
		o.UUID = uuid.Nil
	}
	bySerial, err := serials(ctx, tx, site, o.Serial)
	if bySerial != nil && bySerial.ID != o.Machine {
		o.Serial = ""
	}
	return o, owned, err
}

// withoutMAC decides by UUID and serial alone.
func withoutMAC(o Observation, byUUID, bySerial *ent.Machine) (*ent.Machine, error) {
	switch {
	case byUUID == nil && bySerial == nil:
		return nil, nil
	case byUUID != nil && bySerial != nil && byUUID.ID != bySerial.ID:
		return nil, &ConflictError{A: byUUID.ID, B: bySerial.ID, By: "serial", Seen: o.Serial}
	case bySerial != nil:
		return bySerial, nil
	case o.Serial != "" && byUUID.Serial != nil && *byUUID.Serial != o.Serial:
		// Two computers with one UUID that is not on the junk list: with
		// another serial and no MAC in common they are not the same.
		return nil, nil
	}
	return byUUID, nil
}

// contradiction is a ConflictError when everything that can be compared says
// that this is not the machine of the MAC: a network card was moved.
func contradiction(row *ent.Machine, o Observation) error {
	agree, differ := 0, ""
	if row.Serial != nil && o.Serial != "" {
		if *row.Serial == o.Serial {
			agree++
		} else {
			differ = "serial"
		}
	}
	if row.SmbiosUUID != nil && o.UUID != uuid.Nil {
		if u, err := uuid.Parse(*row.SmbiosUUID); err == nil && inventory.SameUUID(u, o.UUID) {
			agree++
		} else if differ == "" {
			differ = "uuid"
		}
	}
	switch {
	case agree > 0 || differ == "":
		return nil
	case differ == "uuid":
		return &ConflictError{A: row.ID, By: differ, Seen: o.UUID.String()}
	}
	return &ConflictError{A: row.ID, By: differ, Seen: o.Serial}
}

// byMACs finds the machines of MACs, in the order of the MACs, and which of these
// some machine has.
func byMACs(ctx context.Context, tx *ent.Tx, macs []inventory.MAC) (out []candidate, owned []string, err error) {
	if len(macs) == 0 {
		return nil, nil, nil
	}
	texts := make([]string, len(macs))
	for i, m := range macs {
		texts[i] = m.String()
	}
	rows, err := tx.MAC.Query().Where(mac.MACIn(texts...)).WithMachine().Order(ent.Asc(mac.FieldMAC)).All(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range rows {
		owned = append(owned, r.MAC)
		if !slices.ContainsFunc(out, func(c candidate) bool { return c.id == r.MachineID }) {
			out = append(out, candidate{id: r.MachineID, site: r.Edges.Machine.Site, mac: r.MAC, row: r.Edges.Machine})
		}
	}
	return out, owned, nil
}

// bySMBIOS finds the one machine of the site with a UUID, in either byte order;
// nil when there is none, or more than one.
func bySMBIOS(ctx context.Context, tx *ent.Tx, site string, u uuid.UUID) (*ent.Machine, error) {
	if u == uuid.Nil {
		return nil, nil
	}
	rows, err := tx.Machine.Query().
		Where(machine.Site(site), machine.SmbiosUUIDIn(u.String(), inventory.SwapUUID(u).String())).Limit(2).All(ctx)
	if err != nil || len(rows) != 1 {
		return nil, err
	}
	return rows[0], nil
}

// serials finds the one machine of the site with a serial; nil when there is
// none, or more than one.
func serials(ctx context.Context, tx *ent.Tx, site, serial string) (*ent.Machine, error) {
	if serial == "" {
		return nil, nil
	}
	rows, err := tx.Machine.Query().Where(machine.Site(site), machine.Serial(serial)).Limit(2).All(ctx)
	if err != nil || len(rows) != 1 {
		return nil, err
	}
	return rows[0], nil
}

// lockIdentities keeps two observations of one unknown machine from making two
// rows. SQLite's transactions exclude each other already.
func (s *Store) lockIdentities(ctx context.Context, tx *ent.Tx) error {
	if s.dialect != dialect.Postgres {
		return nil
	}
	_, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", advisoryIdentity)
	return err
}

func (s *Store) newMachine(ctx context.Context, tx *ent.Tx, site string, state inventory.State) (uuid.UUID, error) {
	if err := s.ensureSite(ctx, tx, site); err != nil {
		return uuid.Nil, err
	}
	id, row := create(tx, site, state, s.now())
	return id, row.Exec(ctx)
}

// create is a new machine of a site that is in the catalog.
func create(tx *ent.Tx, site string, state inventory.State, now time.Time) (uuid.UUID, *ent.MachineCreate) {
	id := uuid.Must(uuid.NewV7())
	return id, tx.Machine.Create().SetID(id).SetSite(site).SetState(string(state)).SetFirstSeen(now).SetLastSeen(now)
}

func (s *Store) ensureSite(ctx context.Context, tx *ent.Tx, site string) error {
	if site == "" {
		return errors.New("a machine needs a site")
	}
	known, err := tx.Site.Get(ctx, site)
	if known != nil || !ent.IsNotFound(err) {
		return err
	}
	return tx.Site.Create().SetID(site).SetCreatedAt(s.now()).Exec(ctx)
}

// addMACs gives a machine the MACs but for those that are owned, by it or another, and
// says how many.
func addMACs(ctx context.Context, tx *ent.Tx, id uuid.UUID, macs []inventory.MAC, owned []string) (added int, err error) {
	var rows []*ent.MACCreate
	for _, m := range macs {
		if text := m.String(); !slices.Contains(owned, text) {
			owned = append(owned, text) // it may be given twice
			rows = append(rows, tx.MAC.Create().SetMAC(text).SetMachineID(id))
		}
	}
	if len(rows) == 0 {
		return 0, nil
	}
	return len(rows), tx.MAC.CreateBulk(rows...).Exec(ctx)
}

func (s *Store) recordConflict(site string, o Observation, c *ConflictError, message string) {
	if c.Site != "" {
		return // that site's machine may ask here for an address every few seconds
	}
	e := inventory.Event{
		Site: site, Machine: c.A, Kind: inventory.EventIdentityConflict, Message: message,
		Attrs: map[string]string{"a": c.A.String(), "by": c.By},
	}
	if c.B != uuid.Nil {
		e.Attrs["b"] = c.B.String()
	}
	if len(o.MACs) > 0 {
		e.MAC = o.MACs[0]
	}
	s.Record(e)
}

package store

import (
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// sortKey is a value that pages can be ordered by. Each has an index that ends
// in the machine's id, so that a page costs its own rows only.
type sortKey struct {
	column   string // qualified
	ofFacts  bool   // in machine_facts, else in machines
	nullable bool
	kind     keyKind
}

type keyKind int

const (
	keyText keyKind = iota
	keyNumber
	keyTime
	keyID
)

var sortKeys = map[string]sortKey{
	"id":                   {column: "machines.id", kind: keyID},
	"address":              {column: "machines.address", nullable: true},
	"serial":               {column: "machines.serial", nullable: true},
	"state":                {column: "machines.state"},
	"last_seen":            {column: "machines.last_seen", kind: keyTime},
	"facts.bios.version":   {column: "machine_facts.bios_version", ofFacts: true, nullable: true},
	"facts.cpu.cores":      {column: "machine_facts.cpu_cores", ofFacts: true, nullable: true, kind: keyNumber},
	"facts.memory.bytes":   {column: "machine_facts.memory_bytes", ofFacts: true, nullable: true, kind: keyNumber},
	"facts.system.product": {column: "machine_facts.system_product", ofFacts: true, nullable: true},
}

// SortFields are the names that PageRequest.Sort accepts, sorted.
func SortFields() []string {
	out := make([]string, 0, len(sortKeys))
	for name := range sortKeys {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// order is a sort key with its direction.
type order struct {
	sortKey
	name string
	desc bool
}

func parseSort(text string) (order, error) {
	name, desc := strings.CutPrefix(text, "-")
	if text == "" {
		name = "id"
	}
	key, ok := sortKeys[name]
	if !ok {
		return order{}, &RequestError{Field: "sort", Reason: fmt.Sprintf("machines are sorted by %s, with a minus before it for the greatest first; not by %q", strings.Join(SortFields(), ", "), clean(name))}
	}
	return order{sortKey: key, name: name, desc: desc}, nil
}

// position is a place in the order of machines.
type position struct {
	id uuid.UUID
	// absent says that the machine lacks the sort key; it comes after all that
	// have one.
	absent bool
	text   string
	number int64
	time   time.Time
}

// atAbsent says that the position is behind all machines that have the sort key and
// before those that lack it.
func (p position) atAbsent() bool { return p.absent && p.id == uuid.Nil }

// key is the sort key as an argument of a query.
func (o order) key(p position) any {
	switch o.kind {
	case keyNumber:
		return p.number
	case keyTime:
		return p.time
	case keyID:
		return p.id
	}
	return p.text
}

// scan makes targets for a row's id and sort key; done fills the position.
func (o order) scan() (targets []any, done func() position) {
	var id uuid.UUID
	var text sql.NullString
	var number sql.NullInt64
	var at sql.NullTime
	switch o.kind {
	case keyID:
		return []any{&id}, func() position { return position{id: id} }
	case keyNumber:
		return []any{&id, &number}, func() position { return position{id: id, absent: !number.Valid, number: number.Int64} }
	case keyTime:
		return []any{&id, &at}, func() position { return position{id: id, absent: !at.Valid, time: at.Time.UTC()} }
	}
	return []any{&id, &text}, func() position { return position{id: id, absent: !text.Valid, text: text.String} }
}

// sealed is a position as a cursor carries it.
type sealed struct {
	// Query tells the cursors of one query from those of another.
	Query  string    `json:"q"`
	ID     uuid.UUID `json:"i"`
	Absent bool      `json:"a,omitempty"`
	Text   string    `json:"t,omitempty"`
	Number int64     `json:"n,omitempty"`
	Time   time.Time `json:"s,omitzero"`
}

// fingerprint names the query that a cursor belongs to.
func fingerprint(site, text string, o order) string {
	h := sha256.New()
	for _, part := range []string{site, text, o.name, fmt.Sprint(o.desc)} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func sealPosition(query string, p position) string {
	raw, err := json.Marshal(sealed{Query: query, ID: p.id, Absent: p.absent, Text: p.text, Number: p.number, Time: p.time})
	if err != nil {
		return "" // strings, numbers and times can be marshalled
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// maxCursorBytes is above what the longest fact makes of a cursor: JSON writes
// a control character in six bytes, and base64 takes a third more.
const maxCursorBytes = 64 << 10

func openPosition(query, cursor string) (position, error) {
	bad := &RequestError{Field: "cursor", Reason: "it is not one that this catalog gave; start again without it"}
	if len(cursor) > maxCursorBytes {
		return position{}, bad
	}
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return position{}, bad
	}
	var c sealed
	if err := json.Unmarshal(raw, &c); err != nil || strings.ContainsRune(c.Text, 0) {
		return position{}, bad
	}
	// Earlier programs gave such a cursor when the deadline cut off a page; going on
	// from there would skip machines.
	if c.ID == uuid.Nil && !c.Absent {
		return position{}, bad
	}
	if c.Query != query {
		return position{}, &RequestError{Field: "cursor", Reason: "it belongs to another query: site, filter and sort must be those of the page that gave it"}
	}
	return position{id: c.ID, absent: c.Absent, text: c.Text, number: c.Number, time: c.Time}, nil
}

package store

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"

	"entgo.io/ent/dialect"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/edge-provision/edge-provision/inventory"
)

// sqlText collects a query and its arguments.
type sqlText struct {
	strings.Builder
	store *Store
	args  []any
}

func (q *sqlText) arg(v any) {
	q.args = append(q.args, v)
	q.WriteString(q.store.placeholder(len(q.args)))
}

// condition writes a condition, its placeholders numbered on from the arguments
// that are there.
func (q *sqlText) condition(c inventory.Condition) {
	text, before := c.SQL, len(q.args)
	if q.store.dialect == dialect.Postgres && before > 0 {
		text = numbered.ReplaceAllStringFunc(text, func(mark string) string {
			n, _ := strconv.Atoi(mark[1:]) // digits
			return q.store.placeholder(before + n)
		})
	}
	q.WriteString("(" + text + ")")
	q.args = append(q.args[:before:before], c.Args...)
}

// among writes the condition that a column is one of ids, which are one argument: the
// text is the same for any number of them, so that a connection prepares it once.
func (q *sqlText) among(column string, ids []uuid.UUID) {
	q.WriteString(column)
	if q.store.dialect == dialect.Postgres {
		q.WriteString(" = ANY(CAST(")
		q.arg(uuidArray(ids))
		q.WriteString(" AS uuid[]))")
		return
	}
	raw, err := json.Marshal(ids)
	if err != nil { // ids can be marshalled
		raw = []byte("[]")
	}
	q.WriteString(" IN (SELECT value FROM json_each(")
	q.arg(string(raw))
	q.WriteString("))")
}

// uuidArray are ids as the driver sends them fastest: it asks those of another type
// for their texts, one by one.
func uuidArray(ids []uuid.UUID) pgtype.FlatArray[pgtype.UUID] {
	out := make(pgtype.FlatArray[pgtype.UUID], len(ids))
	for i, id := range ids {
		out[i] = pgtype.UUID{Bytes: id, Valid: true}
	}
	return out
}

// numbered is a placeholder of PostgreSQL. A Filter's SQL is made of fixed parts,
// none of which looks like one.
var numbered = regexp.MustCompile(`\$[0-9]+`)

package query

// Dialect is the SQL that a filter is written in.
type Dialect int

// Dialects of the catalog.
const (
	SQLite Dialect = iota
	Postgres
)

// From is what the condition of SQL expects in its query's FROM clause.
const From = "machines LEFT JOIN machine_facts ON machine_facts.machine_id = machines.id"

// SQL translates the expression to a condition for a WHERE clause over From,
// with its arguments. The condition is true exactly for the machines for which
// Eval answers True. Every value of the expression is an argument; the text is
// made of fixed parts only. Placeholders are ? for SQLite and $1, $2 … for
// Postgres. On SQLite the condition may call the function regexp(pattern, text),
// which the catalog registers with Match.
//
// The error is an hcl.Diagnostics that points at the part of the expression
// that the catalog cannot answer.
func (e *Expr) SQL(dialect Dialect) (where string, args []any, err error) {
	return "", nil, nil
}

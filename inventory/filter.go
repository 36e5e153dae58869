package inventory

// Filter is a question about machines, ready for the catalog. inventory/query
// compiles it from an expression and inventory/store answers it, page by page.
// The zero Filter selects every machine.
//
// The SQL in it is made of fixed parts; whatever a person wrote is an argument.
// Nothing else may be put into a Filter.
type Filter struct {
	// Text is the expression as it was written. A cursor belongs to it.
	Text string
	// Where is true for the machines that are selected, over
	//
	//	machines LEFT JOIN machine_facts ON machine_facts.machine_id = machines.id
	Where Condition
	// Narrow are conditions of which each is true, by an index, for every
	// machine that Where selects and perhaps for others: ways to find the
	// machines without looking at all of them. None is no error.
	Narrow []Narrowing
}

// Condition is SQL that is true, false or NULL, with its arguments in the order
// of its placeholders: ? for SQLite, $1, $2 and so on for PostgreSQL.
type Condition struct {
	SQL  string
	Args []any
}

// Narrowing is an indexed condition over the rows of one table.
type Narrowing struct {
	// Table is searched; ID is its column with the machine's id.
	Table, ID string
	Where     Condition
	// Ordered says that the index gives the rows by ID, so that the search can
	// be continued anywhere without sorting.
	Ordered bool
}

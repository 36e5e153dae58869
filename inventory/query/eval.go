package query

import "errors"

// Eval answers the expression for one document. The error is for a document
// that does not fit the expression: Root Disk without a disk.
func (e *Expr) Eval(doc Doc) (Result, error) {
	if e.root == Disk && doc.disk == nil {
		return Absent, errors.New("evaluating an expression over a disk: the document has no disk; use Doc.WithDisk")
	}
	return Absent, nil
}

// Reason says in one line why the expression is not True for doc, naming the
// fact that is absent or has another value; it is empty when the answer is True.
// Strings from facts are quoted and clipped.
func (e *Expr) Reason(doc Doc) string { return "" }

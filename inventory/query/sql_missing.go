package query

import "strings"

func (n *missing) when(w *writer, want Result) {
	if w.full() {
		return
	}
	null := " IS NULL"
	word := "OR"
	if want == False {
		null, word = " IS NOT NULL", "AND"
	}
	switch {
	case n.ref != nil:
		w.missingFact(n.ref, want)
	case n.text != nil:
		n.text.write(w)
		w.put(null)
	case n.num != nil:
		w.all(word,
			func() { n.num.num.write(w); w.put(null) },
			func() { n.num.den.write(w); w.put(null) })
	case want == True:
		w.all("AND", func() { w.isNot(n.cond, True) }, func() { w.isNot(n.cond, False) })
	default:
		w.all("OR", w.is(n.cond, True), w.is(n.cond, False))
	}
}

// missingFact writes missing(list), missing(object) or missing(time).
func (w *writer) missingFact(r *ref, want Result) {
	if r.isFacts() {
		if want == True {
			w.put("NOT ")
		}
		w.put("(", factsPresent, ")")
		return
	}
	if r.typ.values != nil {
		if want == True {
			w.put("NOT ")
		}
		w.exists(func() { w.put("SELECT 1 FROM tags WHERE tags.machine_id = machines.id") })
		return
	}
	if r.typ.kind == kindList {
		if _, kept := tables[r.String()]; !kept {
			w.notKept(r)
			return
		}
		if want == True {
			w.put("NOT ")
		}
		w.put("(", present(r), ")")
		return
	}
	if r.typ.kind == kindTime {
		w.missingLeaf(r, want)
		return
	}
	leaves := r.leaves()
	if !w.keepsAll(r, leaves) {
		return
	}
	parts := make([]func(), len(leaves))
	for i, leaf := range leaves {
		parts[i] = func() { w.missingLeaf(leaf, want) }
	}
	word := "AND"
	if want == False {
		word = "OR"
	}
	w.all(word, parts...)
}

// missingLeaf writes missing(r) of one of the leaves of an object.
func (w *writer) missingLeaf(r *ref, want Result) {
	if r.typ.kind == kindObject {
		w.missingFact(r, want)
		return
	}
	w.fact(r)
	if want == True {
		w.put(" IS NULL")
	} else {
		w.put(" IS NOT NULL")
	}
}

// keepsAll says whether the catalog keeps all leaves of an object, which it must to
// tell that they are missing. It complains once, and says which of them can be asked
// for instead.
func (w *writer) keepsAll(r *ref, leaves []*ref) bool {
	if r.hasIndex() {
		w.refuse(r.rng, "%s names an element by its place, and the catalog keeps no order of lists. Use any([for x in …]).", r)
		return false
	}
	var asked, lost []string
	for _, leaf := range leaves {
		if isKept(leaf) {
			asked = append(asked, "missing("+leaf.String()+")")
		} else {
			lost = append(lost, leaf.String())
		}
	}
	switch {
	case len(lost) == 0:
		return true
	case len(asked) == 0:
		w.notKept(r)
	default:
		w.refuse(r.rng, "The catalog's index of facts keeps only a part of %s, and not %s, so it cannot tell whether all of it is missing. Ask %s. %s",
			r, strings.Join(lost, ", "), strings.Join(asked, " && "), askClass)
	}
	return false
}

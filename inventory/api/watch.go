package api

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"reflect"
	"slices"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/query"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

var (
	paramAfter       = param{name: "after", kind: number, summary: "id of the last event that was seen, for clients that cannot set Last-Event-ID"}
	paramLastEventID = param{name: "Last-Event-ID", in: "header", kind: number, summary: "id of the last event that was seen; the stream goes on after it"}
)

const watchDetail = "A stream of Server-Sent Events in the order they were committed. The `id` of each leads on in `Last-Event-ID` after a break. " +
	"When events after it were removed by retention, also while the stream catches up, or it is unknown, `reset` comes and then everything anew. " +
	"A client that does not read for long is cut off; it connects again and goes on. "

func (s *Server) watchRoutes() []route {
	return []route{
		{
			method: http.MethodGet, path: "/v1/watch/events", id: "watchEvents", tag: "watch", need: resource.RoleReader,
			summary: "Follow events",
			detail:  watchDetail + "Types: `event` (an Event), `reset` (a Reset; what retention has left follows). Without Last-Event-ID it begins with the next event.",
			params:  slices.Concat([]param{paramAfter, paramLastEventID}, paramsEvents), reply: inventory.Event{}, media: mediaStream, watch: true,
			problems: []string{"not-found", "ambiguous"}, serve: s.watchEvents,
		},
		{
			method: http.MethodGet, path: "/v1/watch/machines", id: "watchMachines", tag: "watch", need: resource.RoleReader,
			summary: "Follow the machines that a filter selects",
			detail: watchDetail + "Without Last-Event-ID it begins with every machine that there is. Types: `machine` (a Machine that is new or has changed), " +
				"`removed` (a Removed: it was forgotten, or the filter is not true for it any more), `synced` (a Synced: all machines were sent), `reset` (a Reset: " +
				"forget all machines; they follow anew). The filter is computed when a machine changes: what becomes true or false by the passing of time alone, and a new lease, show at its next change.",
			params: []param{paramFilter, paramSite, paramFields, paramAfter, paramLastEventID}, reply: resource.Machine{}, media: mediaStream, watch: true,
			problems: []string{"invalid-filter", "too-expensive"}, serve: s.watchMachines,
		},
	}
}

func (s *Server) watchEvents(x *exchange) error {
	f, err := x.eventFilter()
	if err != nil {
		return err
	}
	var macs []inventory.MAC
	if f.Machine != uuid.Nil {
		m, err := s.cfg.Catalog.Machine(x.ctx(), f.Machine)
		if err != nil {
			return err
		}
		macs = m.MACs
	}
	// Before the answer begins: a client that has its header misses nothing.
	span, err := s.cfg.Catalog.EventSpan(x.ctx())
	if err != nil {
		return err
	}
	return s.stream(x, watch{
		begin: func(_ *stream, reset bool) (int64, error) {
			if reset {
				return 0, nil // all that is left
			}
			return span.Newest, nil
		},
		past: func(st *stream, after int64) (int64, bool, error) {
			span, err := s.cfg.Catalog.EventSpan(st.ctx())
			if err != nil {
				return after, false, err
			}
			events, err := s.cfg.Catalog.EventPage(st.ctx(), f, after, hubPage, false)
			if err == nil {
				err = s.whole(st.ctx(), after)
			}
			if err != nil {
				return after, false, err
			}
			for _, e := range events {
				if err := st.putJSON("event", e.ID, e); err != nil {
					return after, false, err
				}
				after = e.ID
			}
			if len(events) < hubPage {
				// Nothing that is wanted came before the newest, which was read first.
				return max(after, span.Newest), false, nil
			}
			return after, true, nil
		},
		now: func(st *stream, n news) error {
			if !wanted(f, macs, n.Event) {
				return nil
			}
			raw, err := n.json()
			if err != nil {
				return err
			}
			return st.put("event", n.ID, raw)
		},
	})
}

// wanted is what the catalog does with an EventFilter, for one event.
func wanted(f store.EventFilter, macs []inventory.MAC, e inventory.Event) bool {
	return (f.Machine == uuid.Nil || e.Machine == f.Machine || slices.Contains(macs, e.MAC)) &&
		(f.MAC.IsZero() || e.MAC == f.MAC) && (f.Site == "" || e.Site == f.Site) && (f.Run == "" || e.Run == f.Run) &&
		(slices.Contains(f.Kinds, e.Kind) || len(f.Kinds) == 0 && !machineEvent(e))
}

// subject is a machine as it is now, with what a filter may ask about it.
type subject struct {
	resource.Machine
	doc  query.Doc
	gone bool // it is not in the catalog
}

func readSubject(ctx context.Context, cfg Config, id uuid.UUID) (subject, error) {
	read, err := cfg.Catalog.Subject(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return subject{gone: true}, nil
	}
	if err != nil {
		return subject{}, err
	}
	return subject{
		Machine: resource.Machine{Machine: read.Machine, Facts: read.Facts},
		doc:     query.DocOf(read, cfg.Now()),
	}, nil
}

// machineWatch is one watch of machines.
type machineWatch struct {
	*Server
	expr   *query.Expr // nil: every machine
	filter inventory.Filter
	site   string
	fields selection
	// known are the machines that the client has, where that is known: a
	// machine that it never had need not be removed. Nil in a watch that went
	// on after a break.
	known map[uuid.UUID]struct{}
}

func (s *Server) watchMachines(x *exchange) error {
	fields, err := x.fields(reflect.TypeFor[resource.Machine]())
	if err != nil {
		return err
	}
	expr, f, err := x.filter()
	if err != nil {
		return err
	}
	w := &machineWatch{Server: s, expr: expr, filter: f, site: x.query["site"], fields: fields}
	return s.stream(x, watch{begin: w.begin, past: w.past, now: func(st *stream, n news) error {
		if !machineEvent(n.Event) {
			return nil
		}
		read, err := n.subject(st.ctx())
		if err != nil {
			return err
		}
		return w.tell(st, n.ID, n.Machine, read)
	}})
}

// begin sends every machine that there is.
func (w *machineWatch) begin(st *stream, _ bool) (int64, error) {
	// What changes while the machines are read is sent again after them.
	span, err := w.cfg.Catalog.EventSpan(st.ctx())
	if err != nil {
		return 0, err
	}
	if w.expr != nil || w.site != "" {
		w.known = map[uuid.UUID]struct{}{}
	}
	sentMachines := 0
	for cursor := ""; ; {
		page, err := w.cfg.Catalog.Page(st.ctx(), store.PageRequest{Site: w.site, Filter: w.filter, Cursor: cursor, Limit: hubPage})
		if err != nil {
			return 0, pageProblem(err)
		}
		machines, err := w.complete(st.ctx(), w.fields, page.Machines)
		if err != nil {
			return 0, err
		}
		items, err := choose(w.fields, machines)
		if err != nil {
			return 0, err
		}
		for i, item := range items {
			if w.known != nil {
				w.known[machines[i].ID] = struct{}{}
			}
			if err := st.put("machine", 0, item); err != nil {
				return 0, err
			}
		}
		sentMachines += len(items)
		if err := st.flush(); err != nil {
			return 0, err
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if err := st.putJSON("synced", span.Newest, resource.Synced{Machines: sentMachines}); err != nil {
		return 0, err
	}
	return span.Newest, st.flush()
}

// past sends the machines that changed after an event.
func (w *machineWatch) past(st *stream, after int64) (int64, bool, error) {
	span, err := w.cfg.Catalog.EventSpan(st.ctx())
	if err != nil {
		return after, false, err
	}
	events, err := w.cfg.Catalog.EventsAfter(st.ctx(), after, hubPage, inventory.EventMachineChanged, inventory.EventMachineRemoved)
	if err == nil {
		err = w.whole(st.ctx(), after)
	}
	if err != nil {
		return after, false, err
	}
	latest := map[uuid.UUID]int64{} // one answer is enough for a machine that changed often
	for _, e := range events {
		latest[e.Machine] = e.ID
	}
	for _, e := range events {
		if latest[e.Machine] == e.ID && machineEvent(e) {
			read, err := readSubject(st.ctx(), w.cfg, e.Machine)
			if err != nil {
				return after, false, err
			}
			if err := w.tell(st, e.ID, e.Machine, read); err != nil {
				return after, false, err
			}
		}
		after = e.ID
	}
	if len(events) < hubPage {
		return max(after, span.Newest), false, nil
	}
	return after, true, nil
}

// tell sends a machine as it is now, or that it went.
func (w *machineWatch) tell(st *stream, id int64, machine uuid.UUID, now subject) error {
	in := !now.gone && (w.site == "" || now.Site == w.site)
	if in && w.expr != nil {
		result, err := w.expr.Eval(now.doc)
		if err != nil {
			return err
		}
		in = result == query.True
	}
	_, had := w.known[machine]
	switch {
	case in:
		if w.known != nil {
			w.known[machine] = struct{}{}
		}
		out := now.Machine
		if !w.fields.names("facts") {
			out.Facts = nil
		}
		items, err := choose(w.fields, []resource.Machine{out})
		if err != nil {
			return err
		}
		return st.put("machine", id, items[0])
	case w.known != nil && !had:
		return nil // the client never had it
	}
	delete(w.known, machine)
	return st.putJSON("removed", id, resource.Removed{ID: machine})
}

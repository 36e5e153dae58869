package api

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/query"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// Parameters that many routes have.
var (
	paramLimit  = param{name: "limit", kind: number, summary: "greatest number of items on the page, at most 1000; default 50", example: "50"}
	paramCursor = param{name: "cursor", summary: "`next` of the page before"}
	paramFields = param{name: "fields", summary: "comma-separated paths of the fields to send; default all, but for `facts`", example: "id,address,facts.memory.bytes"}
	paramSite   = param{name: "site", summary: "only this site's", example: "store-0421"}
	paramFilter = param{name: "filter", summary: "an expression over a machine and its facts (docs/query.md)", example: "facts.memory.bytes >= GiB(8)"}
)

func (x *exchange) limit() (int, error) {
	n, err := x.integer("limit", store.DefaultPageLimit, 1, store.MaxPageLimit)
	return int(n), err
}

// cursorText is where a page ended, bound to the query that it is a page of.
type cursorText struct {
	Query string `json:"q"`
	At    string `json:"at"`
}

// maxCursorBytes bounds what is decoded of a stranger's cursor.
const maxCursorBytes = 1 << 10

// queryDigest is over all that decides which items a list has, and in which
// order.
func (x *exchange) queryDigest() string {
	h := sha256.New()
	h.Write([]byte(x.URL.Path))
	for _, name := range slices.Sorted(maps.Keys(x.query)) {
		switch name {
		case "cursor", "limit", "fields":
		default:
			h.Write([]byte("\x00" + name + "\x00" + x.query[name]))
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// cursor reads the parameter of that name; empty on the first page.
func (x *exchange) cursor() (string, error) {
	given := x.query["cursor"]
	if given == "" {
		return "", nil
	}
	var c cursorText
	raw, err := base64.RawURLEncoding.DecodeString(given)
	if err == nil && len(raw) <= maxCursorBytes {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil || c.At == "" || len(raw) > maxCursorBytes {
		return "", problem("invalid-cursor", "This is no cursor of this server. Take `next` as it stands in the page before.").at("cursor")
	}
	if c.Query != x.queryDigest() {
		return "", problem("invalid-cursor", "The cursor is of a query with other parameters. Only limit and fields may change from page to page.").at("cursor")
	}
	return c.At, nil
}

// next is the cursor of a page that ended at a position.
func (x *exchange) next(at string) (string, error) {
	raw, err := json.Marshal(cursorText{Query: x.queryDigest(), At: at})
	return base64.RawURLEncoding.EncodeToString(raw), err
}

// cursorID reads a cursor whose position is a number; zero on the first page.
func (x *exchange) cursorID() (int64, error) {
	at, err := x.cursor()
	if err != nil || at == "" {
		return 0, err
	}
	n, err := strconv.ParseInt(at, 10, 64)
	if err != nil || n < 1 {
		return 0, problem("invalid-cursor", "This is no cursor of this server.").at("cursor")
	}
	return n, nil
}

// pageOf cuts the one item off that was asked for to see whether there are more,
// and tells where the page ends.
func pageOf[T any](x *exchange, items []T, limit int, at func(T) string) (kept []T, next string, err error) {
	if len(items) <= limit {
		if items == nil {
			items = []T{}
		}
		return items, "", nil
	}
	items = items[:limit]
	next, err = x.next(at(items[limit-1]))
	return items, next, err
}

// filter compiles the parameter of that name for the catalog. expr is nil without
// one.
func (x *exchange) filter() (expr *query.Expr, f inventory.Filter, err error) {
	source, ok := x.query["filter"]
	if !ok {
		return nil, f, nil
	}
	if strings.TrimSpace(source) == "" {
		return nil, f, problem("invalid-filter", "The filter is empty. Leave the parameter out to select every machine.").at("filter")
	}
	expr, diags := query.Parse(source, query.Machine)
	if diags.HasErrors() {
		return nil, f, invalidFilter(source, diags)
	}
	f, err = expr.Filter(query.DialectOf(x.server.cfg.Catalog.Dialect()), source, x.server.cfg.Now())
	var unsupported hcl.Diagnostics
	if errors.As(err, &unsupported) {
		return nil, f, invalidFilter(source, unsupported)
	}
	return expr, f, err
}

// pageProblem turns the store's errors about a page into problems.
func pageProblem(err error) error {
	var bad *store.RequestError
	var budget *store.BudgetError
	switch {
	case errors.As(err, &bad) && bad.Field == "cursor":
		return problem("invalid-cursor", "%s", bad.Reason).at("cursor")
	case errors.As(err, &bad):
		return problem("invalid-parameter", "%s", bad.Reason).at(bad.Field)
	case errors.As(err, &budget):
		return problem("too-expensive", "%s.", budget.Error())
	}
	return err
}

// etagOf is the strong entity tag of an answer (RFC 9110 section 8.8.3).
func etagOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

// matches reports whether a list of entity tags, as If-Match and If-None-Match
// have it, names a tag. weak: W/ before a tag is overlooked.
func matches(list, tag string, weak bool) bool {
	if strings.TrimSpace(list) == "*" {
		return true
	}
	for one := range strings.SplitSeq(list, ",") {
		one = strings.TrimSpace(one)
		if weak {
			one = strings.TrimPrefix(one, "W/")
		}
		if one == tag {
			return true
		}
	}
	return false
}

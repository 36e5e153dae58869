package query

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// generator makes random machines and random expressions over their facts. All
// it decides it takes from IntN, and 0 is always the simplest decision, so that
// less of the same sequence makes a smaller expression.
type generator struct {
	rand *rand.Rand // nil: decide 0 behind the end of past
	past []int
	at   int
	// nulls counts the lists that a report gave as null.
	nulls int
}

func newGenerator(seed, stream uint64) *generator {
	return &generator{rand: rand.New(rand.NewPCG(seed, stream))}
}

// IntN is a decision among n.
func (g *generator) IntN(n int) int {
	v := 0
	switch {
	case g.at < len(g.past):
		v = g.past[g.at] % n
		g.past[g.at] = v
	case g.rand != nil:
		v = g.rand.IntN(n)
		g.past = append(g.past, v)
	}
	g.at++
	return v
}

var numbers = []int64{1, 2, 3, 4, 8, 7, 100, 1 << 30, 1 << 33, 1<<53 - 1, 1 << 53, 1<<53 + 1, 1<<63 - 1}

var strs = []string{"a", "A", "b", "ab", "igc", "Größe", "größe", "x%y_z", `a*?[b]\c`, "日本", "😀", "ﬁ", "K", "K", "sda", "1e3", "12", " a\nb", "O'Neil", "\u202e", "z\U0010ffff"}

var classNames = []string{"a", "igc", "till"}

var tagKeys = []string{"a", "location", "asset-1"}

// noon is the now of all random catalogs.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 123456000, time.UTC)

func pick[T any](g *generator, from []T) T { return from[g.IntN(len(from))] }

// subjects are machines with what several sources saw of them.
func (g *generator) subjects(n int) []inventory.Subject {
	out := make([]inventory.Subject, n)
	for i := range out {
		out[i] = g.subject(i)
	}
	return out
}

func (g *generator) subject(i int) inventory.Subject {
	var id uuid.UUID
	id[0], id[15] = byte(g.IntN(256)), byte(i+1) // never all zero, which is no id
	m := inventory.Machine{ID: id, Site: pick(g, strs)}
	g.fill(reflect.ValueOf(&m.Address).Elem())
	g.fill(reflect.ValueOf(&m.Serial).Elem())
	g.fill(reflect.ValueOf(&m.Image).Elem())
	m.State = pick(g, []inventory.State{inventory.StateHeld, inventory.StateDiscovered})
	if g.IntN(3) > 0 {
		m.SMBIOSUUID = uuid.UUID{1, byte(g.IntN(3))}
	}
	for j := range g.IntN(3) {
		m.MACs = append(m.MACs, inventory.MAC{2, 0, 0, 0, byte(i), byte(j)})
	}
	for _, key := range tagKeys {
		if g.IntN(2) > 0 {
			if m.Tags == nil {
				m.Tags = map[string]string{}
			}
			m.Tags[key] = pick(g, strs)
		}
	}
	for _, class := range classNames {
		if g.IntN(2) > 0 {
			m.Classes = append(m.Classes, class)
		}
	}
	m.FirstSeen, m.LastSeen = g.time(), g.time()
	if g.IntN(3) > 0 {
		m.LookedAt = g.time()
	}
	if g.IntN(3) > 0 {
		m.DriftSince = g.time()
	}
	s := inventory.Subject{Machine: m}
	for _, mac := range m.MACs {
		for _, network := range strs[:g.IntN(3)] {
			l := inventory.Lease{Network: network, MAC: mac, Address: fmt.Sprintf("172.22.0.%d", g.IntN(4)), State: inventory.LeaseActive}
			g.fill(reflect.ValueOf(&l.Hostname).Elem())
			g.fill(reflect.ValueOf(&l.ClientID).Elem())
			if g.IntN(4) == 1 {
				l.State = inventory.LeaseReleased
			}
			l.Expires = noon.Add(pick(g, []time.Duration{time.Hour, -time.Hour, 0, time.Microsecond}))
			s.Leases = append(s.Leases, l)
		}
	}
	if g.IntN(8) == 0 {
		return s
	}
	sources := map[inventory.Source]inventory.Facts{}
	for _, source := range []inventory.Source{inventory.SourceAgent, inventory.SourceRedfish, inventory.SourceCluster}[:1+g.IntN(3)] {
		var f inventory.Facts
		if g.IntN(4) > 0 {
			g.fill(reflect.ValueOf(&f).Elem())
		}
		f.SchemaVersion = inventory.SchemaVersion
		sources[source] = g.received(f)
	}
	merged := inventory.Merge(sources)
	s.Facts = &merged
	for range g.IntN(5) {
		s.Changes = append(s.Changes, inventory.FactChange{
			Path: pick(g, changePaths), At: noon.Add(-pick(g, []time.Duration{time.Hour, 12 * time.Hour, 24 * time.Hour, 36 * time.Hour, -time.Hour, 0, 7*24*time.Hour - time.Microsecond})),
		})
	}
	return s
}

// received is a report as the catalog reads it, in which some of the lists that
// nobody looked for are null instead of left out.
func (g *generator) received(f inventory.Facts) inventory.Facts {
	raw, err := json.Marshal(f)
	if err != nil {
		panic(err) // facts can be marshalled
	}
	for _, list := range []string{"disks", "nics", "neighbors", "pci"} {
		if key := strconv.Quote(list); !bytes.Contains(raw, []byte(key+":[")) && g.IntN(2) == 1 {
			raw = append(raw[:len(raw)-1], ","+key+":null}"...)
			g.nulls++
		}
	}
	read, err := inventory.DecodeFacts(raw)
	if err != nil {
		panic(err) // the generator makes facts that a source could report
	}
	return read
}

// time is some time before noon, as a rule as long before as expressions ask for.
func (g *generator) time() time.Time {
	const day = 24 * time.Hour
	return noon.Add(-pick(g, []time.Duration{
		time.Minute, time.Hour, 12 * time.Hour, day, day + time.Microsecond, day - time.Microsecond, 36 * time.Hour, 3 * day, 7 * day, 7*day - time.Microsecond, 30 * day, -time.Hour,
	}))
}

var (
	times   = []string{"machine.last_seen", "machine.looked_at", "machine.first_seen", "machine.drift_since"}
	windows = []string{"1h", "1d", "36h", "7d", "1d12h"}
)

var changePaths = []string{"bios.version", "bios", "disks", "cpu.flags", "memory"}

// fill gives a value to some of the fields below v.
func (g *generator) fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if g.IntN(4) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			g.fill(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			g.fill(v.Field(i))
		}
		// What is always observed of an element.
		switch x := v.Addr().Interface().(type) {
		case *inventory.Disk:
			x.Name, x.Bytes = pick(g, strs), pick(g, numbers)
		case *inventory.NIC:
			x.Name, x.MAC = pick(g, strs), inventory.MAC{2, 0, 0, 0, 0, byte(g.IntN(4) + 1)}
		case *inventory.Neighbor:
			x.MAC = inventory.MAC{2, 0, 0, 0, 0, byte(g.IntN(4) + 1)}
		case *inventory.PCI:
			x.Address, x.Class, x.Vendor, x.Device = pick(g, strs), "020000", "8086", pick(g, strs)
		case *inventory.Firmware:
			x.Mode = pick(g, []string{"uefi", "bios"})
		case *inventory.TPM:
			x.Version = "2.0"
		}
	case reflect.Slice:
		n := g.IntN(5)
		if n == 1 { // looked for, and none found
			v.Set(reflect.MakeSlice(v.Type(), 0, 0))
		}
		for range n - 1 {
			v.Set(reflect.Append(v, reflect.New(v.Type().Elem()).Elem()))
			g.fill(v.Index(v.Len() - 1))
		}
	case reflect.String:
		if g.IntN(4) > 0 {
			v.SetString(pick(g, strs))
		}
	case reflect.Int, reflect.Int64:
		if g.IntN(4) > 0 {
			v.SetInt(pick(g, numbers))
		}
	case reflect.Bool:
		v.SetBool(g.IntN(2) == 0)
	}
}

// scope is a loop that the expression is in.
type scope struct {
	name, list string
	outer      *scope
}

// path is a random fact of a kind that the catalog keeps, from a loop's
// variable or from the roots.
func (g *generator) path(want kind, in *scope) string {
	for range 100 {
		var base string
		var typ *dataType
		var kept map[string]column
		if in != nil && g.IntN(4) > 0 {
			s := in
			for s.outer != nil && g.IntN(3) == 0 {
				s = s.outer
			}
			base, typ, kept = s.name, elementType(s.list), tables[s.list].columns
			if typ.kind == want {
				return base
			}
		} else {
			base = pick(g, []string{"facts", "facts", "facts", "machine"})
			typ, kept = rootTypes()[base], columns
		}
		path := base
		for typ.kind == kindObject && typ.values == nil {
			name := pick(g, typ.names())
			path, typ = path+"."+name, typ.fields[name].typ
		}
		if typ.values != nil && want == kindString {
			return path + "[" + strconv.Quote(pick(g, tagKeys)) + "]"
		}
		key := path
		if in != nil && base != "facts" && base != "machine" {
			key = strings.TrimPrefix(path, base+".")
		}
		if _, ok := kept[key]; ok && typ.kind == want {
			return path
		}
	}
	return map[kind]string{kindBool: "facts.firmware.secure_boot", kindNumber: "facts.cpu.cores", kindString: "facts.system.product"}[want]
}

func elementType(list string) *dataType {
	names := strings.Split(list, ".")
	typ := rootTypes()[names[0]]
	for _, name := range names[1:] {
		typ = typ.fields[name].typ
	}
	return typ.elem
}

func (g *generator) list() string {
	return pick(g, []string{"facts.disks", "facts.disks", "facts.nics", "facts.neighbors", "facts.memory.modules", "facts.pci", "machine.macs", "machine.leases", "machine.classes"})
}

// enter is a loop over a list, with the head and the end of its text.
func (g *generator) enter(depth int, in *scope) (s *scope, head, end string) {
	s = &scope{name: "v", list: g.list(), outer: in}
	for o := in; o != nil; o = o.outer {
		s.name += "v"
	}
	end = "]"
	if g.IntN(3) == 0 {
		end = " if " + g.condition(depth-2, s) + "]"
	}
	return s, "[for " + s.name + " in " + s.list + " : ", end
}

func (g *generator) condition(depth int, in *scope) string {
	if depth <= 0 {
		switch g.IntN(8) {
		case 0:
			return pick(g, []string{"true", "false"})
		case 1:
			return g.path(kindBool, in)
		case 2, 3, 4:
			return g.number(0, in) + g.comparison() + g.number(0, in)
		}
		return g.text(0, in) + g.comparison() + g.text(0, in)
	}
	sub := func() string { return g.condition(depth-1, in) }
	switch g.IntN(18) {
	case 0:
		return g.condition(0, in)
	case 16:
		return "(" + sub() + " && " + sub() + ")"
	case 17:
		switch g.IntN(3) {
		case 0:
			return "changed(facts." + pick(g, changePaths) + `, "` + pick(g, windows) + `")`
		case 1:
			return "older(" + pick(g, times) + `, "` + pick(g, windows) + `")`
		}
		return "missing(machine.tags)"
	case 1:
		return "(" + sub() + " && " + sub() + ")"
	case 2, 3:
		return "(" + sub() + " || " + sub() + ")"
	case 4:
		return "!(" + sub() + ")"
	case 5:
		return "((" + sub() + ")" + pick(g, []string{" == ", " != "}) + "(" + sub() + "))"
	case 6:
		return "(" + sub() + " ? " + sub() + " : " + sub() + ")"
	case 7:
		return "missing(" + pick(g, []string{g.path(kindString, in), g.path(kindNumber, in), g.number(2, in), g.text(2, in), g.list(), sub(), pick(g, wholes), pick(g, times)}) + ")"
	case 8:
		return "regex(" + pick(g, patternTexts) + ", " + g.text(1, in) + ")"
	case 9:
		return "glob(" + pick(g, []string{`"a*"`, `"?"`, `"*"`, `"x%y_z"`, `"a\\*\\?\\[b\\]\\\\c"`, `"*ö?e"`, `"??"`}) + ", " + g.text(1, in) + ")"
	case 10:
		end := "])"
		if g.IntN(2) == 0 {
			end = " if " + sub() + "])"
		}
		return pick(g, []string{"any", "all"}) + `([for p in ["a*", "igc", "?"] : ` + pick(g, []string{sub(), "glob(p, " + g.text(0, in) + ")"}) + end
	case 11, 12:
		s, head, end := g.enter(depth, in)
		return pick(g, []string{"any", "all"}) + "(" + head + g.condition(depth-1, s) + end + ")"
	case 13:
		return g.number(2, in) + g.comparison() + g.number(2, in)
	case 14:
		switch g.IntN(5) {
		case 4:
			return "contains(machine.classes, " + pick(g, []string{g.text(1, in), strconv.Quote(pick(g, classNames))}) + ")"
		case 0:
			return "contains(facts.disks[*].model, " + g.text(1, in) + ")"
		case 1:
			return "contains(facts.memory.modules[*].bytes, " + g.number(1, in) + ")"
		case 2:
			return "contains([" + g.literal() + ", " + g.text(0, in) + "], " + g.text(1, in) + ")"
		}
		return `contains(machine.macs, "02-00-00-00-0` + hex.EncodeToString([]byte{byte(g.IntN(16))})[1:] + `-00")`
	}
	return g.text(2, in) + g.comparison() + g.text(2, in)
}

// wholes are the objects of which the catalog keeps every value.
var wholes = []string{"facts", "facts.cpu", "facts.bios", "facts.firmware", "facts.kernel", "facts.memory", "facts.tpm", "machine"}

// patternTexts are written as in an expression.
var patternTexts = []string{
	`"a"`, `"^[a-z]+$"`, `"(?i)k|GR."`, `"^.{1,2}$"`, `"[^a-z]"`, `"x%y.z"`, `""`, `"(?s)a.b|\\\\c"`, `"^(a|ab)(c|bcd)?$"`, `"\\pL"`, `"^\\PL"`,
	`"[[:alpha:]]$"`, `"\\d"`, `"^\\S+$"`, `"\\s"`, `"[À-ſ]"`, `"^[^\\n]*$"`, `"(a*)*b"`, `"(?i)^ſ|ς$"`, `"x*?"`, `"\\x{1F600}"`, `"日{1,3}本?"`, `"'|\""`,
}

func (g *generator) comparison() string {
	return pick(g, []string{" == ", " != ", " < ", " <= ", " > ", " >= "})
}

func (g *generator) literal() string {
	r := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`, "%{", "%%{", "${", "$${")
	return `"` + r.Replace(pick(g, strs)) + `"`
}

func (g *generator) text(depth int, in *scope) string {
	switch {
	case g.IntN(3) == 0:
		return g.literal()
	case depth > 1 && g.IntN(4) == 0:
		return "(" + g.condition(0, in) + " ? " + g.text(depth-1, in) + " : " + g.text(depth-1, in) + ")"
	}
	for {
		// A MAC or UUID cannot be compared with just any string.
		if p := g.path(kindString, in); !strings.HasSuffix(p, "mac") && !strings.HasSuffix(p, "id") && !g.isMAC(p, in) {
			return p
		}
	}
}

// isMAC tells the variable of a loop over machine.macs.
func (g *generator) isMAC(p string, in *scope) bool {
	for s := in; s != nil; s = s.outer {
		if s.name == p {
			return true
		}
	}
	return false
}

func (g *generator) number(depth int, in *scope) string {
	if depth > 0 && g.IntN(2) == 1 {
		a, b := g.number(depth-1, in), g.number(depth-1, in)
		switch g.IntN(8) {
		case 0, 1:
			return "(" + a + " + " + b + ")"
		case 2:
			return "(" + a + " - " + b + ")"
		case 3:
			return "(" + a + " * " + b + ")"
		case 4:
			return "(" + a + " / (" + g.path(kindNumber, in) + " - " + pick(g, []string{"3", "0", g.path(kindNumber, in)}) + "))"
		case 5:
			return "(" + g.path(kindNumber, in) + " % " + g.path(kindNumber, in) + ")"
		case 6:
			return "-" + g.path(kindNumber, in)
		}
		return "(" + g.condition(0, in) + " ? " + a + " : " + b + ")"
	}
	switch g.IntN(6) {
	case 0, 1:
		return fmt.Sprint(pick(g, numbers))
	case 2:
		return pick(g, []string{"0.5", "7.25", "GiB(1)", "MiB(0.5)", "0", "1.1"})
	case 3:
		s, head, end := g.enter(2, in)
		return "length(" + head + s.name + end + ")"
	}
	return g.path(kindNumber, in)
}

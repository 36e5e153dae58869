package query

import (
	"testing"
	"time"
)

// endless is longer than a busy machine stalls, and shorter than what grows with the
// power of its input takes.
const endless = 15 * time.Second

// FuzzParseAndEval: whatever a stranger sends as filter= is refused or answered,
// in bounded time, and says the same after being printed and read again.
func FuzzParseAndEval(f *testing.F) {
	for _, src := range []string{
		`facts.memory.bytes >= GiB(8) && contains(facts.nics[*].driver, "igc")`,
		`any([for d in facts.disks : !d.rotational && d.bytes >= TiB(1) if d.bus == "nvme"])`,
		`regex("(a*)*b", facts.system.product) || glob("*a*a*a*", machine.serial)`,
		`length(facts.disks) / facts.cpu.cores % 3 > -0.5`,
		`missing(facts["tpm"]) ? true : facts.disks[0].rotational == null`,
		`any([for p in ["a", "b"] : p < "${facts.system.product}"])`,
		`[for x in {a = 1} : x]`, `"${"${"`, `<<EOT`, "a.*.b[*]", `1e999999 < facts.cpu.cores`, `((((`,
	} {
		f.Add(src)
	}
	yes := true
	doc := storeNode(f)
	disk := doc.facts.Disks[0]
	disk.Rotational = &yes
	doc = doc.WithDisk(disk)
	f.Fuzz(func(t *testing.T, src string) {
		began := time.Now()
		for _, root := range []Root{Machine, Disk} {
			e, diags := Parse(src, root)
			if diags.HasErrors() {
				Format(src, diags)
				continue
			}
			want, err := e.Eval(doc)
			if err != nil {
				t.Fatalf("Eval(%q): %v", src, err)
			}
			if reason := e.Reason(doc); (reason == "") != (want == True) {
				t.Errorf("Reason(%q) = %q, though the answer is %v", src, reason, want)
			}
			for _, dialect := range []Dialect{SQLite, Postgres} {
				if where, _, err := e.SQL(dialect, noon); err == nil && where == "" {
					t.Errorf("SQL(%q) is empty", src)
				}
			}
		}
		if took := time.Since(began); took > endless {
			t.Errorf("%q took %v", src, took)
		}
	})
}

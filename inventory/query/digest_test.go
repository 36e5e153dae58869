package query

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// keyed is what a keyring makes of the form of an expression with a secret.
func keyed(form []byte) string {
	mac := hmac.New(sha256.New, []byte("key"))
	mac.Write(form)
	return "hmac:" + hex.EncodeToString(mac.Sum(nil))
}

// digestOf is the digest of an expression in which var.secret is a sensitive value.
func digestOf(t *testing.T, src string, secret cty.Value) string {
	t.Helper()
	expr, diags := hclsyntax.ParseExpression([]byte(src), Filename, hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	ctx := &hcl.EvalContext{Functions: Functions(), Variables: map[string]cty.Value{
		"var": cty.ObjectVal(map[string]cty.Value{"secret": secret.Mark("sensitive")}),
	}}
	e, diags := Compile(expr, ctx, Machine)
	if diags.HasErrors() {
		t.Fatalf("Compile(%s): %v", src, diags)
	}
	return e.Digest(keyed)
}

func TestEveryChangeOfAnExpressionChangesItsDigest(t *testing.T) {
	long := strings.Repeat("x", 90)
	for _, pair := range [][2]string{
		{`regex("^(` + long + `|ZZ1)$", facts.system.serial)`, `regex("^(` + long + `|SERIALB)$", facts.system.serial)`},
		{`glob("` + long + `1", facts.system.serial)`, `glob("` + long + `2", facts.system.serial)`},
		{`glob("a", facts.system.serial)`, `regex("a", facts.system.serial)`},
		{`facts.system.serial == "` + long + `1"`, `facts.system.serial == "` + long + `2"`},
		{`contains(facts.cpu.flags, "` + long + `1")`, `contains(facts.cpu.flags, "` + long + `2")`},
		{`contains(["` + long + `1"], facts.system.serial)`, `contains(["` + long + `2"], facts.system.serial)`},
		{`machine.tags["` + long + `1"] == "x"`, `machine.tags["` + long + `2"] == "x"`},
		{`facts.memory.bytes / GiB(1) > 0.0000001`, `facts.memory.bytes / GiB(1) > 0.0000002`},
		{`facts.memory.bytes / 3 > 1`, `facts.memory.bytes / 4 > 1`},
		{`facts.memory.bytes > GiB(2)`, `facts.memory.bytes > GB(2)`},
		{`GiB(facts.cpu.cores) > 2`, `GB(facts.cpu.cores) > 2`},
		{`facts.memory.bytes > 2`, `facts.memory.bytes >= 2`},
		{`length([for d in facts.disks : d if d.rotational]) == 1`, `length([for d in facts.disks : d if !d.rotational]) == 1`},
		{`length([for d in facts.disks : d if d.rotational]) == 1`, `length(facts.disks) == 1`},
		{`any([for d in facts.disks : d.rotational])`, `all([for d in facts.disks : d.rotational])`},
		{`facts.disks[0].rotational`, `facts.disks[1].rotational`},
		{`missing(facts.cpu)`, `missing(facts.memory)`},
		{`changed(facts.bios, "7d")`, `changed(facts.bios, "8d")`},
		{`older(machine.last_seen, "7d")`, `older(machine.last_seen, "8d")`},
		{`older(machine.last_seen, "7d")`, `older(machine.looked_at, "7d")`},
		{`!missing(facts.cpu) || facts.firmware.secure_boot`, `!missing(facts.cpu) && facts.firmware.secure_boot`},
		{`facts.firmware.secure_boot == (facts.cpu.cores > 1)`, `facts.firmware.secure_boot != (facts.cpu.cores > 1)`},
		{`facts.firmware.secure_boot ? true : false`, `facts.firmware.secure_boot ? false : true`},
		{`(facts.firmware.secure_boot ? 1 : 2) == facts.cpu.cores`, `(facts.firmware.secure_boot ? 2 : 1) == facts.cpu.cores`},
		{`(facts.firmware.secure_boot ? "a" : "b") == facts.system.serial`, `(facts.firmware.secure_boot ? "b" : "a") == facts.system.serial`},
		// Of an absent fact the first makes false, and the second nothing.
		{`!any([for k in ["a"] : facts.system.serial == k if facts.firmware.secure_boot])`, `!any([facts.firmware.secure_boot && facts.system.serial == "a"])`},
	} {
		if a, b := digestOf(t, pair[0], cty.True), digestOf(t, pair[1], cty.True); a == b {
			t.Errorf("%s\n%s\nhave the same digest; want two", pair[0], pair[1])
		}
	}
}

func TestTheSameExpressionWrittenOtherwiseHasTheSameDigest(t *testing.T) {
	for _, pair := range [][2]string{
		{`facts.memory.bytes >= GiB(2)`, `(facts.memory.bytes) >= 2147483648`},
		{`any([for d in facts.disks : d.bytes > 1])`, `any([for disk in facts.disks : disk.bytes > 1])`},
		{`contains(facts.nics[*].driver, "igc")`, `any([for n in facts.nics : n.driver == "igc"])`},
	} {
		if a, b := digestOf(t, pair[0], cty.True), digestOf(t, pair[1], cty.True); a != b {
			t.Errorf("%s\n%s\nhave digests %s and %s; want one", pair[0], pair[1], a, b)
		}
	}
}

func TestASensitiveValueCountsAndCannotBeGuessedByTheDigest(t *testing.T) {
	for src, values := range map[string][2]cty.Value{
		`facts.system.serial == var.secret`:               {cty.StringVal("A"), cty.StringVal("B")},
		`facts.memory.bytes == var.secret`:                {cty.NumberIntVal(1), cty.NumberIntVal(2)},
		`contains(var.secret, facts.system.serial)`:       {cty.ListVal([]cty.Value{cty.StringVal("A")}), cty.ListVal([]cty.Value{cty.StringVal("B")})},
		`regex(var.secret, facts.system.serial)`:          {cty.StringVal("A"), cty.StringVal("B")},
		`facts.disks[var.secret].rotational`:              {cty.Zero, cty.NumberIntVal(1)},
		`changed(facts.bios, var.secret)`:                 {cty.StringVal("1d"), cty.StringVal("2d")},
		`var.secret ? missing(facts.cpu) : true`:          {cty.True, cty.False},
		`any([for s in var.secret : missing(facts.cpu)])`: {cty.ListVal([]cty.Value{cty.Zero}), cty.ListVal([]cty.Value{cty.Zero, cty.Zero})},
	} {
		a, b := digestOf(t, src, values[0]), digestOf(t, src, values[1])
		if a == b || !strings.HasPrefix(a, "hmac:") || !strings.HasPrefix(b, "hmac:") {
			t.Errorf("%s: digests %s and %s; want two, both made with the key", src, a, b)
		}
	}
}

package timeline

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/edge-provision/edge-provision/inventory"
)

// longestText bounds one attribute or message as it is shown.
const longestText = 200

// plain makes a stranger's text harmless on a terminal: one line of printable
// characters, without escape sequences and without characters that change the
// direction of what follows, of bounded length.
func plain(s string) string {
	cut := ""
	if len(s) > longestText {
		s, cut = s[:longestText], "…"
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		if r, _ := utf8.DecodeLastRuneInString(s); r == utf8.RuneError && len(s) > 0 {
			s = s[:len(s)-1]
		}
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r == utf8.RuneError, !unicode.IsPrint(r):
			return '\ufffd'
		}
		return r
	}, s) + cut
}

// attr is an attribute of e, made harmless.
func attr(e inventory.Event, key string) string { return plain(e.Attrs[key]) }

// actor is who the event is told of, in at most six columns.
func actor(e inventory.Event) string {
	who, _, _ := strings.Cut(string(e.Kind), ".")
	switch who {
	case "machine", "identity":
		return "state"
	}
	return clip(plain(who), 6)
}

// describe is the event in one line.
func describe(e inventory.Event) string {
	a := func(key string) string { return attr(e, key) }
	switch e.Kind {
	case inventory.EventDHCPDiscover, inventory.EventDHCPRequest, inventory.EventDHCPInform, inventory.EventDHCPRelease:
		return sentence(verb(e), from(e), field("for", a("address")), field("to server", otherServer(e)), plain(e.Message))
	case inventory.EventDHCPOffer, inventory.EventDHCPAck:
		file := field("boot file", a("boot_file"))
		if file == "" && byFirmware(e) {
			file = "no boot file"
		}
		return sentence(verb(e), a("address"), file, field("error:", a("error")))
	case inventory.EventDHCPNak, inventory.EventDHCPDecline:
		return sentence(verb(e), a("address"), a("reason"), messageOnce(e))
	case inventory.EventDHCPForeign:
		return sentence("another server", a("server"), plain(e.Message))
	case inventory.EventDHCPIgnored:
		return sentence("ignored", from(e), a("reason"))
	case inventory.EventBootLoop:
		return sentence("boot program loaded again", a("file"), field("count", a("count")))
	case inventory.EventTFTPStart, inventory.EventTFTPEnd, inventory.EventTFTPError:
		return transfer(e, a("file"))
	case inventory.EventHTTPStart, inventory.EventHTTPEnd:
		return transfer(e, strings.TrimSpace(a("asset")+" "+a("path")))
	case inventory.EventBMCPower:
		return sentence("power "+a("action"), bmcName(e), field("state", a("state")))
	case inventory.EventBMCBoot:
		return sentence("next boot from "+a("device"), bmcName(e), field("efi", a("efi")), field("once", a("once")))
	case inventory.EventBMCMedia:
		return sentence("virtual media "+a("action"), a("image"), field("ejected", a("ejected")), bmcName(e))
	case inventory.EventBMCRefused:
		return sentence("login refused", bmcName(e), a("error"))
	case inventory.EventBMCUnreachable:
		return sentence("unreachable", bmcName(e), a("error"))
	case inventory.EventBMCError:
		return sentence("error", bmcName(e), a("error"))
	case inventory.EventAgentSession:
		return sentence("session opened", a("address"), field("version", a("version")))
	case inventory.EventAgentRefused:
		return sentence("session refused", a("reason"))
	case inventory.EventAgentFacts:
		if a("changed") == "false" {
			return "facts, unchanged"
		}
		return "facts"
	case inventory.EventAgentTask:
		return sentence("task "+a("kind"), field("attempt", other(a("attempt"), "1")))
	case inventory.EventAgentProgress:
		return sentence("phase "+a("phase"), share(e))
	case inventory.EventAgentResult:
		return sentence("result of "+a("kind"), a("outcome"), a("error"))
	case inventory.EventAgentLog:
		return sentence("log", a("level"), plain(e.Message))
	case inventory.EventSSHUp:
		return "answers over SSH"
	case inventory.EventStepStarted:
		return sentence("started "+plain(e.Step), field("attempt", other(a("attempt"), "1")))
	case inventory.EventStepFinished:
		return sentence("finished "+plain(e.Step), a("outcome"), took(e), a("error"))
	case inventory.EventRunStarted, inventory.EventRunFinished:
		return sentence(strings.TrimPrefix(string(e.Kind), "run."), plain(e.Run), a("outcome"))
	case inventory.EventMachineState:
		return sentence(a("from")+" → "+a("to"), plain(e.Message))
	case inventory.EventMachineTags:
		return sentence(tagged(e), field("removed", a("removed")))
	case inventory.EventMachineClass:
		return a("change") + " class " + a("class")
	case inventory.EventMachineReaction:
		return sentence("class "+a("class")+": "+a("state"), a("address"), a("reason"))
	case inventory.EventMachineDrift:
		if a("state") == string(inventory.DriftForged) {
			return "the snapshot of its hardware is not one that this catalog signed"
		}
		return sentence("hardware changed", a("changes"))
	case inventory.EventMachineDriftEnd:
		return sentence("hardware "+a("how"), field("by", a("by")))
	case inventory.EventIdentityConflict:
		between := a("a")
		if a("b") != "" {
			between += " and " + a("b")
		}
		return sentence("identity conflict by "+a("by"), between)
	case inventory.EventHostFirewall:
		return sentence("blocks port "+a("port"), a("rule"))
	case inventory.EventDiskNoMatch:
		return sentence("root_disk matches "+a("matched")+" of "+a("of")+" disks", plain(e.Message))
	}
	return sentence(plain(string(e.Kind)), plain(e.Message))
}

// level says how bad an event is, where it says so itself; empty otherwise.
func level(e inventory.Event) Level {
	switch e.Kind {
	case inventory.EventDHCPNak, inventory.EventDHCPDecline, inventory.EventDHCPForeign, inventory.EventDHCPIgnored,
		inventory.EventTFTPError, inventory.EventBootLoop, inventory.EventBMCRefused, inventory.EventBMCUnreachable,
		inventory.EventBMCError, inventory.EventAgentRefused, inventory.EventIdentityConflict,
		inventory.EventHostFirewall, inventory.EventDiskNoMatch, inventory.EventMachineDrift:
		return Problem
	case inventory.EventSSHUp, inventory.EventMachineDriftEnd:
		return Well
	case inventory.EventMachineReaction:
		switch inventory.ReactionState(e.Attrs["state"]) {
		case inventory.ReactionDone:
			return Well
		case inventory.ReactionFailed, inventory.ReactionRefused:
			return Problem
		}
	case inventory.EventAgentResult, inventory.EventStepFinished, inventory.EventRunFinished:
		switch e.Attrs["outcome"] {
		case "ok":
			return Well
		case "failed", "blocked", "refused":
			return Problem
		}
	}
	return ""
}

// tagged is the tags that were set, by their keys.
func tagged(e inventory.Event) string {
	var set []string
	for _, key := range slices.Sorted(maps.Keys(e.Attrs)) {
		if tag, ok := strings.CutPrefix(key, "set."); ok {
			set = append(set, plain(tag)+" "+attr(e, key))
		}
	}
	if len(set) == 0 {
		return "tags"
	}
	return plain("tags " + strings.Join(set, ", "))
}

// sentence joins what is not empty by commas.
func sentence(parts ...string) string {
	var kept []string
	for _, p := range parts {
		if p = strings.TrimSpace(p); p != "" {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, ", ")
}

func field(name, value string) string {
	if value == "" {
		return ""
	}
	return name + " " + value
}

// other is value unless it is what a reader expects anyway.
func other(value, expected string) string {
	if value == expected {
		return ""
	}
	return value
}

// verb is DISCOVER, OFFER and so on.
func verb(e inventory.Event) string {
	_, v, _ := strings.Cut(string(e.Kind), ".")
	return strings.ToUpper(v)
}

// from says what kind of program sent a DHCP message.
func from(e inventory.Event) string {
	names := map[string]string{
		"bios": "BIOS firmware", "uefi": "UEFI firmware", "httpboot": "UEFI HTTP boot", "ipxe": "iPXE of the NIC",
		"ours": "our iPXE", "agent": "the installer", "os": "an operating system",
	}
	if n := names[e.Attrs["firmware"]]; n != "" {
		return "by " + n
	}
	return ""
}

// otherServer is the server that a REQUEST names.
func otherServer(e inventory.Event) string {
	if e.Kind != inventory.EventDHCPRequest {
		return ""
	}
	return attr(e, "server")
}

func messageOnce(e inventory.Event) string {
	if e.Attrs["reason"] != "" {
		return ""
	}
	return plain(e.Message)
}

func bmcName(e inventory.Event) string {
	return strings.TrimSpace(attr(e, "driver") + " " + attr(e, "address"))
}

// transfer describes a TFTP or HTTP event.
func transfer(e inventory.Event, what string) string {
	switch e.Kind {
	case inventory.EventTFTPStart, inventory.EventHTTPStart:
		return "asks for " + what
	}
	if e.Attrs["size_only"] != "" {
		return "asked for the size of " + what
	}
	status := attr(e, "status")
	if status == "200" || status == "206" {
		status = ""
	}
	amount := size(attr(e, "bytes"))
	if whole := size(attr(e, "size")); whole != amount && whole != "" && amount != "" {
		amount += " of " + whole
	}
	if e.Attrs["bytes"] == "" {
		amount = ""
	}
	return sentence(what, field("status", status), amount, took(e), attr(e, "error"))
}

func took(e inventory.Event) string {
	d, err := time.ParseDuration(e.Attrs["duration"])
	if err != nil {
		return ""
	}
	return "in " + span(d)
}

// share is "12 MB of 48 MB" of a progress event.
func share(e inventory.Event) string {
	bytes, total := size(attr(e, "bytes")), size(attr(e, "total"))
	if total == "" || e.Attrs["total"] == "0" {
		return ""
	}
	return bytes + " of " + total
}

// size shows a number of bytes in decimal units; what is not a number as it is.
func size(bytes string) string {
	n, err := strconv.ParseInt(bytes, 10, 64)
	if err != nil {
		return bytes
	}
	units := []string{"kB", "MB", "GB", "TB", "PB", "EB"}
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	unit := ""
	for _, unit = range units {
		if f /= 1000; f < 999.5 {
			break
		}
	}
	if f < 9.95 {
		return fmt.Sprintf("%.1f %s", f, unit)
	}
	return fmt.Sprintf("%.0f %s", f, unit)
}

// span shows a duration with as many digits as matter.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + span(-d)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Hour && d%time.Minute == 0:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < time.Hour:
		return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour && d%time.Hour == 0:
		return fmt.Sprintf("%d h", int(d.Hours()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

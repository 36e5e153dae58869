package timeline

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/edge-provision/edge-provision/inventory"
)

var update = flag.Bool("update", false, "rewrite the expected text of testdata/*.txt")

// scene is a file of testdata: what is known, the events, and below the lines
// "-- why --" and "-- trace --" the whole text that is expected.
type scene struct {
	input      Input
	head       string
	why, trace string
}

var began = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const whyMark, traceMark = "-- why --\n", "-- trace --\n"

func readScene(t testing.TB, file string) scene {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var s scene
	rest := ""
	s.head, rest, _ = strings.Cut(string(raw), whyMark)
	s.why, s.trace, _ = strings.Cut(rest, traceMark)
	s.input = Input{Declared: true, BMC: "redfish", BMCAddress: "172.22.1.11", Mode: "server", Interface: "eth1"}
	for n, line := range strings.Split(s.head, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if err := s.read(line); err != nil {
			t.Fatalf("%s:%d: %v", file, n+1, err)
		}
	}
	return s
}

// read takes a line "key: value" or "+offset kind key=value …".
func (s *scene) read(line string) error {
	if line[0] != '+' {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "declared":
			s.input.Declared = value == "yes"
		case "heard":
			d, err := time.ParseDuration(value)
			s.input.Heard = began.Add(d)
			return err
		case "state":
			s.input.State = inventory.State(value)
		case "bmc":
			s.input.BMC = value
		case "mode":
			s.input.Mode = value
		case "now":
			d, err := time.ParseDuration(value)
			s.input.Now = began.Add(d)
			return err
		default:
			return fmt.Errorf("unknown key %q", key)
		}
		return nil
	}
	at, rest, _ := strings.Cut(line[1:], " ")
	d, err := time.ParseDuration(at)
	if err != nil {
		return err
	}
	kind, rest, _ := strings.Cut(strings.TrimSpace(rest), " ")
	e := inventory.Event{
		ID: int64(len(s.input.Events) + 1), Time: began.Add(d), Kind: inventory.EventKind(kind),
		MAC: inventory.MAC{0x52, 0x54, 0, 4, 0x21, 1}, Attrs: map[string]string{},
	}
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
		key, after, ok := strings.Cut(rest, "=")
		if !ok {
			return fmt.Errorf("%q is not key=value", rest)
		}
		value, err := strconv.QuotedPrefix(after)
		if err == nil {
			rest = after[len(value):]
			if value, err = strconv.Unquote(value); err != nil {
				return err
			}
		} else {
			value, rest, _ = strings.Cut(after, " ")
		}
		switch key {
		case "message":
			e.Message = value
		case "step":
			e.Step = value
		default:
			e.Attrs[key] = value
		}
	}
	s.input.Events = append(s.input.Events, e)
	return nil
}

func TestScenesAreToldAsWritten(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenes: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			s := readScene(t, file)
			var why, trace bytes.Buffer
			if err := PrintFindings(&why, Diagnose(s.input), Style{}); err != nil {
				t.Fatal(err)
			}
			if err := Print(&trace, Trace(s.input.Events), Style{}); err != nil {
				t.Fatal(err)
			}
			if *update {
				out := s.head + whyMark + why.String() + traceMark + trace.String()
				if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if why.String() != s.why {
				t.Errorf("why =\n%s\nwant\n%s", why.String(), s.why)
			}
			if trace.String() != s.trace {
				t.Errorf("trace =\n%s\nwant\n%s", trace.String(), s.trace)
			}
			harmless(t, why.String()+trace.String())
		})
	}
}

// harmless checks that text fits 80 columns and holds nothing that steers a
// terminal.
func harmless(t *testing.T, text string) {
	t.Helper()
	for _, line := range strings.Split(text, "\n") {
		if n := utf8.RuneCountInString(line); n > 80 {
			t.Errorf("a line of %d columns: %q", n, line)
		}
		for _, r := range line {
			if r != '\ufffd' && !strconv.IsPrint(r) {
				t.Errorf("character %U is printed: %q", r, line)
			}
		}
	}
}

// expectations are the level and hop of each scene's first finding: what the
// golden text must not lose when it is rewritten.
var expectations = map[string]struct {
	level Level
	hop   Hop
	words string
}{
	"agent-refused":            {Problem, HopAgent, "session was refused"},
	"agent-without-address":    {Problem, HopAgent, "gets none"},
	"all-well":                 {Well, HopSSH, "answered over SSH"},
	"another-dhcp-server":      {Problem, HopDHCP, "192.168.1.1"},
	"bmc-refuses-login":        {Problem, HopBMC, "refuses the login"},
	"bmc-refused-then-fine":    {Progress, HopFirmware, "firmware starts"},
	"boot-timeout":             {Problem, HopFirmware, "no DISCOVER came"},
	"proxy-without-file":       {Problem, HopBootFile, "never asked for the file"},
	"step-failed":              {Problem, HopStep, "k3s"},
	"writing-long":             {Progress, HopDisk, "write"},
	"bmc-unreachable":          {Problem, HopBMC, "does not answer"},
	"boot-file-then-nothing":   {Problem, HopIPXE, "did not run it"},
	"bios-file-then-nothing":   {Problem, HopIPXE, "did not run it"},
	"chain-load-loop":          {Problem, HopIPXE, "loaded iPXE 2 times"},
	"disk-boot-fails":          {Problem, HopReboot, "from the network again"},
	"discover-without-offer":   {Problem, HopDHCP, "no offer was made"},
	"discover-without-request": {Problem, HopDHCP, "sent no REQUEST"},
	"proxy-without-address":    {Problem, HopDHCP, "own DHCP server gives it none"},
	"failed-write":             {Problem, HopDisk, "could not write"},
	"file-never-asked":         {Problem, HopBootFile, "never asked for the file"},
	"firewall":                 {Problem, HopDHCP, "own firewall"},
	"firewall-passed":          {Progress, HopDecision, "waits in the installer"},
	"held":                     {Progress, HopDecision, "waits in the installer"},
	"hostile":                  {Problem, HopSite, "does not"},
	"identity-another-board":   {Problem, HopSite, "its serial is another"},
	"identity-conflict":        {Problem, HopSite, "two machines"},
	"installed-without-ssh":    {Problem, HopSSH, "does not answer over SSH"},
	"ipxe-without-script":      {Problem, HopIPXE, "never asked for its script"},
	"kernel-without-agent":     {Problem, HopAgent, "agent was never heard"},
	"latest-attempt":           {Progress, HopFirmware, "firmware starts"},
	"no-bmc-nothing-heard":     {Problem, HopFirmware, "has no BMC"},
	"no-discover":              {Problem, HopFirmware, "no DISCOVER"},
	"no-disk-matches":          {Problem, HopDisk, "matches none"},
	"several-disks-match":      {Problem, HopDisk, "exactly one must match"},
	"not-declared":             {Problem, HopSite, "not declared"},
	"reaction-waits":           {Problem, HopDecision, "which is tried again: open /media/site.bundle"},
	"restarted":                {Well, HopReboot, "sent on to its disk"},
	"restarted-discovered":     {Well, HopReboot, "sent on to its disk"},
	"script-refused":           {Problem, HopIPXE, "did not get it whole"},
	"tftp-never-ended":         {Problem, HopBootFile, "began and never ended"},
	"tftp-broke-off":           {Problem, HopBootFile, "broke off"},
	"writing":                  {Progress, HopDisk, "write"},
	"writing-stalled":          {Problem, HopDisk, "not written whole"},
}

func TestDiagnoseNamesTheHop(t *testing.T) {
	for name, want := range expectations {
		t.Run(name, func(t *testing.T) {
			s := readScene(t, filepath.Join("testdata", name+".txt"))
			got := Diagnose(s.input)
			if f := got[0]; f.Level != want.level || f.Hop != want.hop || !strings.Contains(f.Summary, want.words) {
				t.Errorf("Diagnose = %s at %s: %s; want %s at %s with %q", f.Level, f.Hop, f.Summary, want.level, want.hop, want.words)
			}
			for _, f := range got {
				if f.Level == Problem && len(f.Try) == 0 {
					t.Errorf("finding %q says nothing to try", f.Summary)
				}
				if f.Level == Problem && len(f.Evidence) == 0 && len(s.input.Events) > 0 {
					t.Errorf("finding %q has no evidence", f.Summary)
				}
			}
		})
	}
}

func TestEverySceneHasAnExpectation(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	for _, f := range files {
		if _, ok := expectations[strings.TrimSuffix(filepath.Base(f), ".txt")]; !ok {
			t.Errorf("%s has no expectation", f)
		}
	}
}

// TestEveryPrefixOfTheBestCaseIsExplained stops a perfect boot after each of
// its events: soon after it is in progress, long after it is a problem, and the
// hops come in their order.
func TestEveryPrefixOfTheBestCaseIsExplained(t *testing.T) {
	s := readScene(t, "testdata/all-well.txt")
	order := []Hop{HopBMC, HopFirmware, HopDHCP, HopBootFile, HopIPXE, HopKernel, HopAgent, HopFacts, HopDecision, HopDisk, HopConfigure, HopReboot, HopSSH}
	place := func(h Hop) int {
		for i, o := range order {
			if o == h {
				return i
			}
		}
		return -1
	}
	furthest := 0
	for n := 1; n < len(s.input.Events); n++ {
		in := s.input
		in.Events = in.Events[:n]
		last := in.Events[n-1]
		in.Now = last.Time.Add(time.Second)
		got := Diagnose(in)[0]
		if got.Level != Progress {
			t.Errorf("a second after %s %v: %s: %s", last.Kind, last.Attrs, got.Level, got.Summary)
		}
		if p := place(got.Hop); p < furthest {
			t.Errorf("after %s the hop is %s, behind %s", last.Kind, got.Hop, order[furthest])
		} else {
			furthest = p
		}
		in.Now = last.Time.Add(2 * time.Hour)
		if got := Diagnose(in)[0]; got.Level != Problem && got.Hop != HopDecision {
			t.Errorf("two hours after %s %v: %s: %s", last.Kind, last.Attrs, got.Level, got.Summary)
		}
	}
}

func TestTraceTellsAttemptsApart(t *testing.T) {
	tests := []struct {
		name   string
		events string
		want   []int // events of each attempt
	}{
		{"a repeated DISCOVER is one attempt", "+0s dhcp.discover firmware=uefi\n+4s dhcp.discover firmware=uefi\n+12s dhcp.discover firmware=uefi", []int{3}},
		{"iPXE and the installer belong to the firmware's boot", "+0s dhcp.discover firmware=uefi\n+4s dhcp.discover firmware=ours\n+9s http.end asset=kernel\n+12s dhcp.discover firmware=agent", []int{4}},
		{"firmware after a kernel is a restart", "+0s dhcp.discover firmware=uefi\n+9s http.end asset=kernel\n+60s dhcp.discover firmware=uefi", []int{2, 1}},
		{"firmware after the write is the first disk boot", "+0s dhcp.discover firmware=uefi\n+9s http.end asset=kernel\n+60s agent.result kind=write outcome=ok\n+70s dhcp.discover firmware=uefi\n+90s ssh.up", []int{5}},
		{"firmware after SSH is a restart", "+0s dhcp.discover firmware=uefi\n+90s ssh.up\n+91s dhcp.discover firmware=uefi", []int{2, 1}},
		{"silence ends an attempt", "+0s dhcp.discover firmware=bios\n+11m dhcp.discover firmware=bios", []int{1, 1}},
		{"power on begins one, with the boot device set before it", "+0s dhcp.discover firmware=uefi\n+1s http.end asset=kernel\n+2m bmc.boot device=pxe\n+2m1s bmc.power action=on", []int{2, 2}},
		{"a power cycle after the write does not", "+0s bmc.power action=on\n+1m agent.result kind=write outcome=ok\n+2m bmc.power action=cycle\n+3m ssh.up", []int{4}},
		{"power off ends one", "+0s bmc.power action=on\n+5s dhcp.discover firmware=uefi\n+9s bmc.power action=off\n+20s dhcp.discover firmware=uefi", []int{3, 1}},
		{"a BMC that refuses after silence begins one", "+0s bmc.power action=on\n+1h bmc.refused error=no", []int{1, 1}},
		{"order is time, whatever the order of arrival", "+60s dhcp.discover firmware=uefi\n+9s http.end asset=kernel\n+0s dhcp.discover firmware=uefi", []int{2, 1}},
		{"nothing is no attempt", "", nil},
	}
	for _, tt := range tests {
		var s scene
		for _, line := range strings.Split(tt.events, "\n") {
			if line == "" {
				continue
			}
			if err := s.read(line); err != nil {
				t.Fatal(err)
			}
		}
		var got []int
		for _, a := range Trace(s.input.Events).Attempts {
			n := 0
			for _, e := range a.Entries {
				n += e.Count
			}
			got = append(got, n)
		}
		if fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s: attempts of %v events; want %v", tt.name, got, tt.want)
		}
	}
}

func TestTraceDoesNotChangeItsInput(t *testing.T) {
	s := readScene(t, "testdata/all-well.txt")
	events := s.input.Events
	events[0], events[5] = events[5], events[0]
	first := events[0].ID
	Trace(events)
	Diagnose(s.input)
	if events[0].ID != first {
		t.Error("Trace sorted the caller's events")
	}
}

func TestTimelineHasAStableJSONForm(t *testing.T) {
	s := readScene(t, "testdata/all-well.txt")
	raw, err := json.Marshal(Trace(s.input.Events))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		SchemaVersion int `json:"schema_version"`
		Attempts      []struct {
			Began  time.Time
			Phases []struct {
				Name     string `json:"name"`
				Duration int64  `json:"duration_ms"`
			}
			Events []struct{ Count int }
		}
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if got.SchemaVersion != 1 || len(got.Attempts) != 1 || !got.Attempts[0].Began.Equal(began) {
		t.Fatalf("JSON = %s", raw)
	}
	var sum int64
	for _, p := range got.Attempts[0].Phases {
		sum += p.Duration
	}
	if want := int64(52_300); sum != want {
		t.Errorf("the phases take %d ms together; want %d", sum, want)
	}
	if empty, _ := json.Marshal(Trace(nil)); string(empty) != `{"schema_version":1,"attempts":[]}` {
		t.Errorf("JSON of no events = %s", empty)
	}
}

func TestPrintHonoursItsStyle(t *testing.T) {
	s := readScene(t, "testdata/latest-attempt.txt")
	zone := time.FixedZone("TEST", 3600)
	var b bytes.Buffer
	if err := Print(&b, Trace(s.input.Events), Style{Width: 60, Location: zone, Earlier: true, Color: true}); err != nil {
		t.Fatal(err)
	}
	out := b.String()
	for _, want := range []string{"Attempt 1 of 3", "Attempt 3 of 3", "13:00:00", "\x1b[1m"} {
		if !strings.Contains(out, want) {
			t.Errorf("Print lacks %q:\n%s", want, out)
		}
	}
	for _, colour := range []string{bold, dim, red, green, amber, reset} {
		out = strings.ReplaceAll(out, colour, "")
	}
	for _, line := range strings.Split(out, "\n") {
		if n := utf8.RuneCountInString(line); n > 60 {
			t.Errorf("a line of %d columns at width 60: %q", n, line)
		}
	}
}

// FuzzEventsAreHarmless: whatever stands in kinds, attributes and messages,
// nothing that steers a terminal is printed and no line grows beyond the width.
func FuzzEventsAreHarmless(f *testing.F) {
	f.Add("dhcp.discover", "firmware", "uefi", "\x1b]0;x\a", uint16(3))
	f.Add("tftp.end", "size", "99999999999999999999", "\u202e", uint16(900))
	f.Add("agent.result", "outcome", "failed", "\u200b\ufeff\r\n", uint16(60))
	f.Add("bmc.refused", "error", strings.Repeat("é", 300), "", uint16(1))
	f.Fuzz(func(t *testing.T, kind, key, value, message string, after uint16) {
		var events []inventory.Event
		for i, k := range []string{"dhcp.discover", kind, "http.end", kind} {
			events = append(events, inventory.Event{
				Time: began.Add(time.Duration(i) * time.Duration(after) * time.Second), Kind: inventory.EventKind(k),
				Message: message, Step: value, Run: message, Attrs: map[string]string{key: value, "firmware": "uefi", value: message},
			})
		}
		for _, now := range []time.Time{began, began.Add(24 * time.Hour)} {
			var b bytes.Buffer
			in := Input{Events: events, Now: now, Mode: key, Interface: value, BMC: kind, BMCAddress: value, Declared: after%2 == 0}
			if err := PrintFindings(&b, Diagnose(in), Style{}); err != nil {
				t.Fatal(err)
			}
			if err := Print(&b, Trace(events), Style{Earlier: true}); err != nil {
				t.Fatal(err)
			}
			harmless(t, b.String())
		}
	})
}

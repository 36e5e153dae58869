package bmc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func yes() *bool { b := true; return &b }
func no() *bool  { b := false; return &b }

func show(n NextBoot) string {
	b, err := json.Marshal(n)
	return fmt.Sprint(string(b), err)
}

func TestParseBootFlags(t *testing.T) {
	tests := []struct {
		data string
		want NextBoot
	}{
		{"8004000000", NextBoot{Device: BootPXE, EFI: no(), Once: yes()}},
		{"a004000000", NextBoot{Device: BootPXE, EFI: yes(), Once: yes()}},
		{"e008000000", NextBoot{Device: BootDisk, EFI: yes(), Once: no()}},
		{"0004000000", NextBoot{Device: BootPXE}},
		{"8014000000", NextBoot{Device: BootCDROM, EFI: no(), Once: yes()}},
		{"8018000000", NextBoot{Device: BootBIOS, EFI: no(), Once: yes()}},
		{"0000000000", NextBoot{Device: BootNone}},
		{"803c000000", NextBoot{Device: "ipmi device 15", EFI: no(), Once: yes()}},
	}
	for _, tt := range tests {
		text := "Boot parameter version: 1\nBoot parameter 5 is valid/unlocked\nBoot parameter data: " + tt.data + "\n Boot Flags :\n"
		got, err := parseBootFlags(text)
		if err != nil || show(got) != show(tt.want) {
			t.Errorf("parseBootFlags(%s) = %s, %v; want %s", tt.data, show(got), err, show(tt.want))
		}
	}
	for _, bad := range []string{"", "Boot parameter data: ", "Boot parameter data: 80", "Boot parameter data: 80040\n", "Get Chassis Boot Parameter 5 failed: Unspecified error"} {
		if got, err := parseBootFlags(bad); err == nil {
			t.Errorf("parseBootFlags(%q) = %s; want an error", bad, show(got))
		}
	}
}

func TestParsePowerState(t *testing.T) {
	tests := map[string]PowerState{
		"On": PowerOn, "Off": PowerOff, "PoweringOn": PowerUnknown, "": PowerUnknown,
		"Chassis Power is on\n": PowerOn, "Loading IANA PEN Registry...\nChassis Power is off": PowerOff,
	}
	for in, want := range tests {
		if got := parsePowerState(in); got != want {
			t.Errorf("parsePowerState(%q) = %s; want %s", in, got, want)
		}
	}
}

func TestCheckBootFindsWhatTheBMCDropped(t *testing.T) {
	tests := []struct {
		name string
		got  NextBoot
		want string // in the error; empty: none
	}{
		{"all as asked", NextBoot{Device: BootPXE, EFI: yes(), Once: yes()}, ""},
		{"mode and persistence unsaid", NextBoot{Device: BootPXE}, ""},
		{"another device", NextBoot{Device: BootDisk}, "device"},
		{"no override", NextBoot{Device: BootNone}, "device"},
		{"legacy", NextBoot{Device: BootPXE, EFI: no(), Once: yes()}, "UEFI"},
		{"permanent", NextBoot{Device: BootPXE, EFI: yes(), Once: no()}, "one-time"},
	}
	for _, tt := range tests {
		err := checkBoot(tt.got, BootPXE, BootOptions{EFI: true})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: checkBoot() = %v; want an error with %q", tt.name, err, tt.want)
		}
	}
}

func TestRefusalDigestSeparatesCredentials(t *testing.T) {
	key := []byte(strings.Repeat("k", 32))
	base := refusalDigest(key, DriverIPMI, "a:1", "user", "pass")
	others := map[string]string{
		"key":      refusalDigest([]byte(strings.Repeat("l", 32)), DriverIPMI, "a:1", "user", "pass"),
		"driver":   refusalDigest(key, DriverRedfish, "a:1", "user", "pass"),
		"address":  refusalDigest(key, DriverIPMI, "a:2", "user", "pass"),
		"boundary": refusalDigest(key, DriverIPMI, "a:1", "userp", "ass"),
		"password": refusalDigest(key, DriverIPMI, "a:1", "user", "Pass"),
	}
	for what, other := range others {
		if other == base {
			t.Errorf("another %s gives the same digest", what)
		}
	}
	if again := refusalDigest(key, DriverIPMI, "a:1", "user", "pass"); again != base {
		t.Errorf("refusalDigest() = %s, then %s; want the same", base, again)
	}
}

func TestToolOutputIsBounded(t *testing.T) {
	b := &cappedBuffer{}
	n, err := io.Copy(b, strings.NewReader(strings.Repeat("x", 10*maxToolOutput)))
	if n != 10*maxToolOutput || err != nil || len(b.String()) != maxToolOutput {
		t.Errorf("copying took %d bytes (%v) and kept %d; want all taken and %d kept", n, err, len(b.String()), maxToolOutput)
	}
}

func TestRefusalDirKeepsAndForgets(t *testing.T) {
	ctx := t.Context()
	d := RefusalDir(filepath.Join(t.TempDir(), "refusals"))
	digest := refusalDigest([]byte(strings.Repeat("k", 32)), DriverIPMI, "a:1", "user", "pass")
	if _, refused, err := d.Refused(ctx, digest); refused || err != nil {
		t.Errorf("Refused() in a missing directory = %t, %v; want false", refused, err)
	}
	want := Refusal{Time: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), Driver: DriverIPMI, Address: "a:1", Username: "user"}
	if err := d.Remember(ctx, digest, want); err != nil {
		t.Fatal(err)
	}
	if got, refused, err := d.Refused(ctx, digest); got != want || !refused || err != nil {
		t.Errorf("Refused() = %+v, %t, %v; want %+v", got, refused, err, want)
	}
	path := filepath.Join(string(d), digest+".json")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file of a refusal: %v, %v; want mode 0600", info, err)
	}
	if entries, err := os.ReadDir(string(d)); err != nil || len(entries) != 1 {
		t.Errorf("directory has %v, %v; want one file and no leftovers", entries, err)
	}
	// A torn file must not let the refused credential out again.
	if err := os.WriteFile(path, []byte(`{"time":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, refused, err := d.Refused(ctx, digest); !refused || err != nil {
		t.Errorf("Refused() with a torn file = %t, %v; want true", refused, err)
	}
	for range 2 {
		if err := d.Forget(ctx, digest); err != nil {
			t.Errorf("Forget() = %v; want no error", err)
		}
	}
	if _, refused, err := d.Refused(ctx, digest); refused || err != nil {
		t.Errorf("Refused() after Forget() = %t, %v; want false", refused, err)
	}
	for _, bad := range []string{"", "../escape", strings.Repeat("g", 64)} {
		_, _, readErr := d.Refused(ctx, bad)
		if readErr == nil || d.Remember(ctx, bad, want) == nil || d.Forget(ctx, bad) == nil {
			t.Errorf("digest %q is taken; want errors", bad)
		}
	}
}

func TestExplanationsOfIPMIToolOutput(t *testing.T) {
	tests := []struct {
		output string
		want   faultKind
	}{
		{"Loading IANA PEN Registry...\n> RAKP 2 HMAC is invalid\nError: Unable to establish IPMI v2 / RMCP+ session", faultRefused},
		{"RAKP 2 message indicates an error : unauthorized name\nError: Unable to establish IPMI v2 / RMCP+ session", faultRefused},
		{"Get Auth Capabilities error\nError: Unable to establish IPMI v2 / RMCP+ session", faultUnreachable},
		{"Error in open session response message : invalid authentication algorithm\nError: Unable to establish IPMI v2 / RMCP+ session", faultUnsupported},
		{"Error in open session response message : insufficient resources for session\nError: Unable to establish IPMI v2 / RMCP+ session", faultBusy},
		{"Invalid completion code received: Invalid command\nSet Chassis Power Control to Up/On failed: Insufficient privilege level", faultPrivilege},
		{"Invalid completion code received: Insufficient privilege level\nGet Chassis Power Status failed: Unspecified error", faultResponse},
		{"Segmentation fault", faultResponse},
		{"", faultResponse},
	}
	for _, tt := range tests {
		var f *fault
		if err := (&ipmi{}).explain(tt.output, errors.New("exit status 1")); !errors.As(err, &f) || f.kind != tt.want {
			t.Errorf("explain(%q) = %v of kind %d; want kind %d", tt.output, err, f.kind, tt.want)
		}
	}
}

func FuzzParseBootFlags(f *testing.F) {
	f.Add("Boot parameter data: a004000000\n")
	f.Add("Boot parameter data: 0000\nBoot parameter data: ffff\n")
	f.Add("\xff\xfe")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseBootFlags(text)
		if err == nil && n.Device == "" {
			t.Errorf("parseBootFlags(%q) = %s; want a device or an error", text, show(n))
		}
	})
}

func FuzzParseSystem(f *testing.F) {
	f.Add([]byte(`{"PowerState":"On","Boot":{"BootSourceOverrideEnabled":"Once","BootSourceOverrideTarget":"Pxe","BootSourceOverrideMode":"UEFI"}}`))
	f.Add([]byte(`{"PowerState":"On","Boot":null}`))
	f.Add([]byte(`{"error":{"@Message.ExtendedInfo":[{"Message":"no"}],"message":"x"}}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, body []byte) {
		doc, ok := parseSystem(body)
		n := doc.nextBoot()
		if ok && n.Device == "" {
			t.Errorf("parseSystem(%q).nextBoot() has no device", body)
		}
		if m := redfishMessage(body); utf8.RuneCountInString(m) > maxTextRunes+4 || strings.ContainsAny(m, "\n\x1b") {
			t.Errorf("redfishMessage(%q) = %q; want one short printable line", body, m)
		}
	})
}

func FuzzParseEndpoint(f *testing.F) {
	for _, s := range []string{"https://192.0.2.1", "[::1]:443", "-x", "a:b:c", "https://a@b", "bmc.example:70000", "https://[::1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, d := range []Driver{DriverRedfish, DriverIPMI} {
			e, err := parseEndpoint(d, s)
			if err == nil && (e.host == "" || e.port == 0 || strings.HasPrefix(e.host, "-") || strings.ContainsAny(e.host, "/@ \n")) {
				t.Errorf("parseEndpoint(%s, %q) = %+v; want a clean host or an error", d, s, e)
			}
		}
	})
}

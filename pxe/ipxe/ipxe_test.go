package ipxe

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden scripts")

func TestScripts(t *testing.T) {
	install, err := Install("http://172.22.0.1:8480/asset/vmlinuz", "http://172.22.0.1:8480/asset/initramfs",
		"edge.url=https://172.22.0.1:8481 edge.token=abc console=ttyS0,115200n8")
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{
		"embedded.ipxe":     Embedded("http://172.22.0.1:8480"),
		"install.ipxe":      install,
		"local.ipxe":        Local(0),
		"local-second.ipxe": Local(0x81),
	} {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
		}
	}
}

func TestInstallRefusesWhatIPXEWouldChange(t *testing.T) {
	const k, i = "http://h/k", "http://h/i"
	for _, tt := range []struct{ kernel, initramfs, line string }{
		{"", i, ""},
		{k, "http://h/a b", ""},
		{"http://h/${mac}", i, ""},
		{k, i, "a\nshell"},
		{k, i, "a ${net0/mac}"},
		{k, i, "a || shell"},
		{k, i, "a && shell"},
		{k, i, "a #comment"},
		{k, i, `a="b c"`},
		{k, i, "naïve"},
		{k, i, strings.Repeat("x", 2048)},
	} {
		if got, err := Install(tt.kernel, tt.initramfs, tt.line); err == nil {
			t.Errorf("Install(%q, %q, %.20q) = %q; want an error", tt.kernel, tt.initramfs, tt.line, got)
		}
	}
}

func TestProgramsCarryOurScriptAlone(t *testing.T) {
	const root = "http://172.22.0.1:8480"
	programs, err := Programs(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	original, err := Programs("http://192.0.2.1:1", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{UEFIx64, UEFIArm64} {
		b := programs[name]
		if !bytes.Contains(b, []byte(Embedded(root)+"\n\n")) {
			t.Errorf("%s does not contain our script, padded with empty lines", name)
		}
		for _, gone := range []string{VendorUserClass, "prompt --key", "192.0.2.1"} {
			if bytes.Contains(b, []byte(gone)) {
				t.Errorf("%s still contains %q", name, gone)
			}
		}
		if len(b) != len(original[name]) {
			t.Errorf("%s has %d bytes; want %d whatever the address", name, len(b), len(original[name]))
		}
	}
	if len(programs[BIOS]) == 0 {
		t.Errorf("%s is empty", BIOS)
	}
	if _, err := Programs("http://"+strings.Repeat("x", 4000), nil); err == nil {
		t.Error("Programs accepted a root whose script does not fit")
	}
}

func TestOverrideMustHaveItsDigest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "own.kpxe")
	if err := os.WriteFile(path, []byte("own"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("own"))
	good := hex.EncodeToString(sum[:])
	programs, err := Programs("http://h", Overrides{BIOS: {Path: path, SHA256: good}})
	if err != nil || string(programs[BIOS]) != "own" {
		t.Errorf("Programs(good digest) = %.10q, %v; want the file", programs[BIOS], err)
	}
	for name, o := range map[string]Overrides{
		"another digest": {BIOS: {Path: path, SHA256: strings.Repeat("0", 64)}},
		"no such file":   {BIOS: {Path: path + "x", SHA256: good}},
		"a folder":       {BIOS: {Path: filepath.Dir(path), SHA256: good}},
		"unknown name":   {"pxelinux.0": {Path: path, SHA256: good}},
	} {
		if _, err := Programs("http://h", o); err == nil {
			t.Errorf("Programs(%s) succeeded; want an error", name)
		}
	}
}

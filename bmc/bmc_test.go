package bmc_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/bmc"
)

// refusalEnv makes the test binary a process of its own that asks a BMC for its
// power state once: address, fingerprint, password and refusal directory.
const refusalEnv = "EDGE_PROVISION_TEST_REFUSAL"

func TestMain(m *testing.M) {
	if text := os.Getenv(refusalEnv); text != "" {
		arg := strings.Split(text, " ")
		c, err := bmc.Open(bmc.Config{
			Driver: bmc.DriverRedfish, Address: arg[0], Fingerprint: arg[1], Username: "admin", Password: bmc.Secret(arg[2]),
		}, bmc.Deps{Refusals: bmc.RefusalDir(arg[3]), RefusalKey: []byte(strings.Repeat("k", 32))})
		if err == nil {
			_, err = c.PowerState(context.Background())
		}
		var ce *bmc.CredentialError
		if errors.As(err, &ce) {
			fmt.Printf("refused, remembered: %t\n", ce.Remembered)
		} else {
			fmt.Println(err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// refusalProcess runs that process and returns what it prints.
func refusalProcess(t *testing.T, c bmc.Config, dir string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	// The test knows the password it made up; Secret would hide it.
	cmd.Env = append(os.Environ(), refusalEnv+"="+strings.Join([]string{c.Address, c.Fingerprint, "wrong", dir}, " "))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func TestOpenRefusesBadConfigurations(t *testing.T) {
	good := bmc.Config{Driver: bmc.DriverRedfish, Address: "https://192.0.2.7", Username: "admin", Password: "x"}
	tests := []struct {
		name   string
		change func(*bmc.Config)
		want   string
	}{
		{"unknown driver", func(c *bmc.Config) { c.Driver = "ilo" }, "use redfish, ipmi or none"},
		{"plain HTTP", func(c *bmc.Config) { c.Address = "http://192.0.2.7" }, "plain HTTP"},
		{"credential in the URL", func(c *bmc.Config) { c.Address = "https://a:b@192.0.2.7" }, "more than host and port"},
		{"path", func(c *bmc.Config) { c.Address = "https://192.0.2.7/redfish" }, "more than host and port"},
		{"no address", func(c *bmc.Config) { c.Address = "" }, "neither an IP address nor a host name"},
		{"an option as host", func(c *bmc.Config) { c.Address = "-oProxyCommand" }, "neither an IP address nor a host name"},
		{"port 0", func(c *bmc.Config) { c.Address = "192.0.2.7:0" }, "1 to 65535"},
		{"no password", func(c *bmc.Config) { c.Password = "" }, "needs a username and a password"},
		{"NUL in password", func(c *bmc.Config) { c.Password = "a\x00b" }, "NUL"},
		{"short fingerprint", func(c *bmc.Config) { c.Fingerprint = "sha256:abcd" }, "64 hexadecimal digits"},
		{"sha1 fingerprint", func(c *bmc.Config) { c.Fingerprint = "sha1:" + strings.Repeat("ab", 20) }, "64 hexadecimal digits"},
		{"CA without certificate", func(c *bmc.Config) { c.CA = []byte("nothing") }, "no certificate in PEM"},
		{"CA and pin", func(c *bmc.Config) { c.CA = []byte("x"); c.Fingerprint = "sha256:00" }, "give one of them"},
		{"negative timeout", func(c *bmc.Config) { c.Timeout = -1 }, "positive"},
		{"IPMI with a pin", func(c *bmc.Config) { c.Driver, c.Address, c.Fingerprint = "ipmi", "192.0.2.7", "sha256:00" }, "IPMI has no certificates"},
		{"IPMI with suite 0", func(c *bmc.Config) { c.Driver, c.Address, c.CipherSuite = "ipmi", "192.0.2.7", 1 }, "not 3 or 17"},
		{"IPMI with a long password", func(c *bmc.Config) {
			c.Driver, c.Address, c.Password = "ipmi", "192.0.2.7", bmc.Secret(strings.Repeat("p", 21))
		}, "at most 16 bytes"},
		{"IPMI without ipmitool", func(c *bmc.Config) {
			c.Driver, c.Address, c.IPMITool = "ipmi", "192.0.2.7", "/nonexistent/ipmitool"
		}, "install the ipmitool package"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			tt.change(&c)
			if _, err := bmc.Open(c, bmc.Deps{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Open() = %v; want an error with %q", err, tt.want)
			}
		})
	}
	for _, address := range []string{"192.0.2.7", "192.0.2.7:8443", "https://192.0.2.7/", "https://[2001:db8::1]", "[2001:db8::1]:443", "2001:db8::1", "bmc-1.example", "https://bmc-1.example:8443"} {
		c := good
		c.Address = address
		if _, err := bmc.Open(c, bmc.Deps{}); err != nil {
			t.Errorf("Open(address %s) = %v; want no error", address, err)
		}
	}
	if _, err := bmc.Open(good, bmc.Deps{Refusals: bmc.RefusalDir(t.TempDir())}); err == nil {
		t.Error("Open() with Refusals and no key = nil; want an error")
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	c := bmc.Config{Password: "hunter2-hunter2"}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "config", c, "password", c.Password)
	asJSON, err := json.Marshal(c.Password)
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{logged.String(), string(asJSON)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		texts = append(texts, fmt.Sprintf(verb, c.Password), fmt.Sprintf(verb, c))
	}
	for _, text := range texts {
		if strings.Contains(text, "hunter2") || strings.Contains(text, "68756e746572") {
			t.Errorf("%q shows the secret", text)
		}
	}
}

package rack

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// layout names the files of a rack's state directory.
type layout string

func (l layout) path(name string) string { return filepath.Join(string(l), name) }

func (l layout) lock() string       { return l.path("lock") }
func (l layout) record() string     { return l.path("rack.json") }
func (l layout) supervisor() string { return l.path("supervisor.json") }
func (l layout) log() string        { return l.path("supervisor.log") }
func (l layout) certificates() string {
	return l.path("bmc-certificates.pem")
}

func (l layout) machine(address string) string { return filepath.Join(string(l), machineDir(address)) }

func (l layout) serial(address string) string {
	return filepath.Join(l.machine(address), "serial.log")
}

func (l layout) emulatorLog(address string) string {
	return filepath.Join(l.machine(address), "qemu.log")
}

// variables is the machine's own copy of the UEFI variables. Those with keys
// enrolled are others than those without.
func (l layout) variables(m Machine) string {
	if m.SecureBoot {
		return filepath.Join(l.machine(m.Address), "nvram-secure.fd")
	}
	return filepath.Join(l.machine(m.Address), "nvram.fd")
}
func (l layout) bmc(address string) string { return filepath.Join(l.machine(address), "bmc") }

// certificate is the public certificate of a Redfish BMC; certificatePair has
// the key too. Their names hold the address, because the certificate does.
func (l layout) certificate(m Machine) string {
	return filepath.Join(l.machine(m.Address), fmt.Sprintf("bmc-%s-certificate.pem", m.BMC.Address.Addr()))
}

func (l layout) certificatePair(m Machine) string {
	return filepath.Join(l.machine(m.Address), fmt.Sprintf("bmc-%s-key.pem", m.BMC.Address.Addr()))
}

// disk is the file of a machine's nth disk.
func (l layout) disk(m Machine, n int) string {
	if p := m.Disks[n].Path; p != "" {
		return p
	}
	return filepath.Join(l.machine(m.Address), fmt.Sprintf("disk%d.raw", n))
}

var unsafeInFileName = regexp.MustCompile(`[^A-Za-z0-9_-]+`)

// machineDir turns machine.node["a"] into machine.node.a. Two addresses may
// collide; Validate refuses that.
func machineDir(address string) string {
	return strings.Trim(unsafeInFileName.ReplaceAllString(address, "."), ".")
}

// tapName matches the names that tap makes.
var tapName = regexp.MustCompile(`^m\d+n\d+$`)

// tap is the name of the tap behind a NIC.
func tap(machine, nic int) string { return fmt.Sprintf("m%dn%d", machine, nic) }

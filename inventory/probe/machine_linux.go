package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/u-root/u-root/pkg/ipmi"
	"golang.org/x/sys/unix"

	"github.com/edge-provision/edge-provision/inventory"
)

// Machine is the Source of the machine that this program runs on; boot is the
// port that it netbooted through, zero when unknown.
func Machine(boot inventory.MAC) Source {
	return Source{
		FS: os.DirFS("/"),
		Disk: func(name string) (DiskReader, error) {
			return os.Open(filepath.Join("/dev", name))
		},
		Port:      askPort,
		BMC:       askBMC,
		Boot:      boot,
		Container: inContainer(os.DirFS("/"), os.Getenv),
	}
}

// inContainer reports whether a container manager says so by the marks that it
// leaves: systemd's Container Interface, Docker's and Podman's own.
func inContainer(root fs.FS, getenv func(string) string) bool {
	for _, name := range []string{"run/systemd/container", "run/host/container-manager", ".dockerenv", "run/.containerenv"} {
		if _, err := fs.Stat(root, name); err == nil {
			return true
		}
	}
	return getenv("container") != ""
}

// ethtool structures of linux/ethtool.h.
type permanentAddress struct {
	command uint32
	size    uint32
	address [32]byte
}

// linkSettings is struct ethtool_link_settings with room for three bitmaps of
// the greatest size.
type linkSettings struct {
	command   uint32
	speed     uint32
	_         [4]byte // duplex, port, phy_address, autoneg
	_         [2]byte // mdio_support, eth_tp_mdix
	_         byte    // eth_tp_mdix_ctrl
	maskWords int8
	_         [4]byte // transceiver, master/slave, rate matching
	_         [7]uint32
	linkModes [3 * 127]uint32
	_         [0]byte
}

type ifreqData struct {
	name [unix.IFNAMSIZ]byte
	data uintptr
	_    [16]byte
}

// modeSpeeds are the speeds in Mb/s of the bits of enum
// ethtool_link_mode_bit_indices, by first and last bit of a run.
var modeSpeeds = []struct{ first, last, mbs int }{
	{0, 1, 10},
	{2, 3, 100},
	{4, 5, 1000},
	{12, 12, 10000},
	{15, 15, 2500},
	{17, 17, 1000},
	{18, 20, 10000},
	{21, 22, 20000},
	{23, 26, 40000},
	{27, 30, 56000},
	{31, 33, 25000},
	{34, 35, 50000},
	{36, 39, 100000},
	{40, 40, 50000},
	{41, 41, 1000},
	{42, 46, 10000},
	{47, 47, 2500},
	{48, 48, 5000},
	{52, 56, 50000},
	{57, 61, 100000},
	{62, 66, 200000},
	{67, 68, 100},
	{69, 73, 400000},
	{75, 79, 100000},
	{80, 84, 200000},
	{85, 89, 400000},
	{90, 91, 100},
	{92, 92, 10},
	{93, 98, 800000},
	{99, 101, 10},
}

// askPort asks a port's driver by ethtool's ioctl. What a driver does not
// support is left zero.
func askPort(name string) (Port, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Port{}, fmt.Errorf("opening a socket: %w", err)
	}
	defer unix.Close(fd)
	var port Port
	address := permanentAddress{command: unix.ETHTOOL_GPERMADDR, size: 32}
	if err := ethtool(fd, name, unsafe.Pointer(&address)); err != nil && !unsupported(err) {
		return port, fmt.Errorf("asking for the permanent address: %w", err)
	}
	if address.size == 6 {
		// An address that names no port (all zeros) is as good as none.
		if mac, err := inventory.ParseMAC(net.HardwareAddr(address.address[:6]).String()); err == nil {
			port.PermanentMAC = mac
		}
	}
	// The first call is answered with the negative number of words per bitmap,
	// the second fills them (linux/ethtool.h, ETHTOOL_GLINKSETTINGS).
	settings := linkSettings{command: unix.ETHTOOL_GLINKSETTINGS}
	err = ethtool(fd, name, unsafe.Pointer(&settings))
	if err != nil || settings.maskWords >= 0 {
		if err == nil || unsupported(err) {
			return port, nil
		}
		return port, fmt.Errorf("asking for the link modes: %w", err)
	}
	words := -settings.maskWords
	settings = linkSettings{command: unix.ETHTOOL_GLINKSETTINGS, maskWords: words}
	if err := ethtool(fd, name, unsafe.Pointer(&settings)); err != nil {
		return port, fmt.Errorf("asking for the link modes: %w", err)
	}
	supported := settings.linkModes[:words]
	for _, run := range modeSpeeds {
		for bit := run.first; bit <= run.last && bit/32 < len(supported); bit++ {
			if supported[bit/32]&(1<<(bit%32)) != 0 {
				port.MaxSpeedMbs = max(port.MaxSpeedMbs, run.mbs)
			}
		}
	}
	return port, nil
}

func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV)
}

func ethtool(fd int, name string, request unsafe.Pointer) error {
	ifr := ifreqData{data: uintptr(request)}
	copy(ifr.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr)))
	if errno != 0 {
		return errno
	}
	return nil
}

// bmcTimeout bounds all questions to the BMC together: a hung one must not hold
// up the installation.
const bmcTimeout = 5 * time.Second

// askBMC asks the BMC over the kernel's IPMI driver. The driver's reads end by
// themselves after ten seconds, so what comes late is dropped.
func askBMC(ctx context.Context) (inventory.BMCFacts, error) {
	if _, err := os.Stat("/dev/ipmi0"); err != nil {
		return inventory.BMCFacts{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bmcTimeout, fmt.Errorf("the BMC did not answer within %s", bmcTimeout))
	defer cancel()
	type answer struct {
		facts inventory.BMCFacts
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		facts, err := readBMC()
		answered <- answer{facts, err}
	}()
	select {
	case a := <-answered:
		return a.facts, a.err
	case <-ctx.Done():
		return inventory.BMCFacts{}, context.Cause(ctx)
	}
}

// bmcVendors are IANA enterprise numbers of BMC makers.
var bmcVendors = map[uint32]string{
	2: "IBM", 11: "HP", 343: "Intel", 674: "Dell", 5771: "Cisco", 6569: "Inventec", 7154: "IPMI forum",
	10368: "Fujitsu", 10876: "Supermicro", 19046: "Lenovo", 20301: "IBM eServer", 20974: "AMI",
	42817: "OpenBMC", 47196: "HPE", 47488: "Gigabyte", 49622: "ASRock Rack", 49769: "Quanta",
}

// readBMC reads the BMC's firmware and the LAN address of its first channel that
// has one (IPMI 2.0 sections 20.1 and 23.2).
func readBMC() (inventory.BMCFacts, error) {
	dev, err := ipmi.Open(0)
	if err != nil {
		return inventory.BMCFacts{}, fmt.Errorf("opening /dev/ipmi0: %w", err)
	}
	defer dev.Close()
	var facts inventory.BMCFacts
	id, err := dev.GetDeviceID()
	if err != nil {
		return facts, fmt.Errorf("asking the BMC who it is: %w", err)
	}
	facts.Firmware = fmt.Sprintf("%d.%02x", id.FwRev1&0x7f, id.FwRev2)
	number := uint32(id.ManufacturerID[0]) | uint32(id.ManufacturerID[1])<<8 | uint32(id.ManufacturerID[2]&0x0f)<<16
	facts.Vendor = bmcVendors[number]
	const paramAddress, paramMAC = 3, 5
	for _, channel := range []byte{1, 2, 3, 8} {
		raw, err := dev.GetLanConfig(channel, paramAddress)
		// The answer is a completion code, a revision and the value.
		if err != nil || len(raw) < 6 {
			continue
		}
		address := netip.AddrFrom4([4]byte(raw[2:6]))
		if address.IsUnspecified() {
			continue
		}
		facts.Address = address.String()
		if raw, err := dev.GetLanConfig(channel, paramMAC); err == nil && len(raw) >= 8 {
			facts.MAC = strings.ToLower(net.HardwareAddr(raw[2:8]).String())
		}
		break
	}
	return facts, nil
}

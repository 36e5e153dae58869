package bmc

import (
	"cmp"
	"net/netip"
	"regexp"
	"strings"

	"github.com/edge-provision/edge-provision/inventory"
)

// computerSystem is what is read of a ComputerSystem (DSP0268) for facts.
type computerSystem struct {
	Manufacturer, Model, SKU, SerialNumber, UUID, AssetTag, BiosVersion text

	ProcessorSummary struct {
		Model                                   text
		Count, CoreCount, LogicalProcessorCount amount
	}
	MemorySummary                                                  struct{ TotalSystemMemoryGiB amount }
	TrustedModules                                                 trustedModules
	Processors, Memory, Storage, SimpleStorage, EthernetInterfaces link
	Links                                                          struct{ Chassis, ManagedBy linkList }
}

// describe takes what the system's own document says.
func (d computerSystem) describe(f *inventory.Facts) {
	out := inventory.System{
		Manufacturer: genuine(d.Manufacturer), Product: genuine(d.Model), SKU: genuine(d.SKU),
		Serial: genuine(d.SerialNumber), UUID: genuineUUID(d.UUID),
	}
	if tag := serviceTag(out.Manufacturer, out.SKU); tag != "" {
		out.Serial, out.SKU = tag, ""
	}
	f.System = present(out)
	f.BIOS = present(inventory.BIOS{Version: fact(d.BiosVersion)})
	f.TPM = present(inventory.TPM{Version: d.TrustedModules.version()})
}

var dellServiceTag = regexp.MustCompile(`^[0-9A-Z]{5,7}$`)

// serviceTag is the serial number of a Dell. Its BMC has the one of the board as
// SerialNumber and the service tag, which SMBIOS and the sticker have, as SKU.
func serviceTag(manufacturer, sku string) string {
	if sku = strings.TrimSpace(sku); strings.HasPrefix(manufacturer, "Dell") && dellServiceTag.MatchString(sku) {
		return genuine(sku)
	}
	return ""
}

// trustedModules are the TPMs of a system.
type trustedModules []struct {
	InterfaceType, ModuleType text // the latter by what some vendors write
	Status                    sensorStatus
}

// version is of the TPM that is switched on.
func (t trustedModules) version() string {
	for _, m := range t {
		if m.Status.State != "Enabled" {
			continue
		}
		switch cmp.Or(m.InterfaceType, m.ModuleType) {
		case "TPM2_0":
			return "2.0"
		case "TPM1_2":
			return "1.2"
		}
	}
	return ""
}

// processor is a Processor (DSP0268).
type processor struct {
	ProcessorType, Manufacturer, Model, InstructionSet text
	TotalCores, TotalThreads                           amount
	Status                                             sensorStatus
}

// memoryModule is a Memory (DSP0268).
type memoryModule struct {
	ID                                                                      text
	DeviceLocator, MemoryDeviceType, Manufacturer, PartNumber, SerialNumber text
	ErrorCorrection                                                         text
	CapacityMiB, VolatileSizeMiB, OperatingSpeedMhz                         amount
	// HPE iLO 4 has these from before Redfish 1.0 in their place.
	SizeMB        amount
	DIMMStatus    text
	DIMMType      text
	SocketLocator text
	Status        sensorStatus
}

// module is the module in a slot; populated is false for an empty slot.
func (d memoryModule) module() (m inventory.MemoryModule, populated bool) {
	size := cmp.Or(d.CapacityMiB, d.SizeMB, d.VolatileSizeMiB).bytes(1 << 20)
	if size == 0 || !d.Status.present() || d.DIMMStatus == "NotPresent" {
		return m, false
	}
	m = inventory.MemoryModule{
		Locator: fact(cmp.Or(d.DeviceLocator, d.SocketLocator, d.ID)), Bytes: size,
		Type: genuine(cmp.Or(d.MemoryDeviceType, d.DIMMType)), SpeedMTs: d.OperatingSpeedMhz.whole(),
		Manufacturer: genuine(d.Manufacturer), Part: genuine(d.PartNumber), Serial: genuine(d.SerialNumber),
	}
	if correction := d.ErrorCorrection; correction == "NoECC" || strings.HasSuffix(string(correction), "BitECC") {
		ecc := correction != "NoECC"
		m.ECC = &ecc
	}
	return m, true
}

// storage is a Storage (DSP0268); its drives are links.
type storage struct{ Drives linkList }

// drive is a Drive, or a device of a SimpleStorage, which has a name only (DSP0268).
type drive struct {
	Name                                            text
	ID                                              text
	Model, Manufacturer, SerialNumber               text
	Revision, FirmwareVersion                       text // the latter since v1.17
	MediaType, Protocol                             text
	CapacityBytes, BlockSizeBytes, RotationSpeedRPM amount
	Identifiers                                     []struct{ DurableName, DurableNameFormat text }
	Status                                          sensorStatus
}

// buses are the agent's names of DSP0268's Protocol.
var buses = map[text]string{"NVMe": "nvme", "SATA": "sata", "SAS": "sas", "USB": "usb"}

// disk is the drive in a bay; plugged is false for an empty bay.
func (d drive) disk() (out inventory.Disk, plugged bool) {
	out = inventory.Disk{
		Name: cmp.Or(fact(d.ID), fact(d.Name), "drive"), Bytes: d.CapacityBytes.bytes(1),
		Serial: genuine(d.SerialNumber), Vendor: genuine(d.Manufacturer), Model: genuine(d.Model),
		FirmwareRev: fact(cmp.Or(d.FirmwareVersion, d.Revision)), LogicalBlock: d.BlockSizeBytes.whole(), Bus: buses[d.Protocol],
	}
	if d.MediaType == "HDD" || d.MediaType == "SSD" {
		turns := d.MediaType == "HDD"
		out.Rotational = &turns
	}
	for _, id := range d.Identifiers {
		if out.WWN = cmp.Or(out.WWN, wwn(string(id.DurableName), string(id.DurableNameFormat))); out.WWN != "" {
			break
		}
	}
	return out, out.Bytes > 0 && d.Status.present()
}

var hexadecimal = regexp.MustCompile(`^([0-9a-f]{16}|[0-9a-f]{32})$`)

// wwn writes a durable name as Linux does.
func wwn(name, format string) string {
	digits := strings.ToLower(strings.NewReplacer(":", "", "-", "").Replace(strings.TrimPrefix(strings.TrimSpace(name), "0x")))
	prefix := map[string]string{"NAA": "naa.", "EUI": "eui.", "NGUID": "eui."}[format]
	if prefix == "" || !hexadecimal.MatchString(digits) || strings.Trim(digits, "0") == "" {
		return ""
	}
	return prefix + digits
}

// simpleStorage is a SimpleStorage (DSP0268).
type simpleStorage struct{ Devices []drive }

// ethernetInterface is an EthernetInterface (DSP0268), of a system or of a BMC.
type ethernetInterface struct {
	ID                              text
	MACAddress, PermanentMACAddress text
	IPv4Addresses                   []struct{ Address text }
}

// address is where it is reached; empty when that is not said.
func (e ethernetInterface) address() string {
	for _, a := range e.IPv4Addresses {
		if ip, err := netip.ParseAddr(string(a.Address)); err == nil && ip.Is4() && ip.IsGlobalUnicast() {
			return ip.String()
		}
	}
	return ""
}

// chassisDocument is what is read of a Chassis (DSP0268) for facts.
type chassisDocument struct {
	ChassisType, Manufacturer, SerialNumber, SKU, AssetTag text
}

// managerDocument is what is read of a Manager (DSP0268).
type managerDocument struct {
	FirmwareVersion, Manufacturer text
	EthernetInterfaces            link
}

package drift

// counted are the facts that a person would call hardware, its firmware, or how
// it is cabled: what does not change unless somebody changes it.
var counted = set(
	"system.manufacturer", "system.product", "system.version", "system.serial", "system.uuid", "system.sku",
	"baseboard.manufacturer", "baseboard.product", "baseboard.version", "baseboard.serial",
	"chassis.serial", "chassis.type",
	"bios.vendor", "bios.version", "bios.date",
	"firmware.mode", "firmware.secure_boot",
	"cpu.architecture", "cpu.vendor", "cpu.model", "cpu.sockets", "cpu.cores",
	"memory.modules[].bytes", "memory.modules[].type", "memory.modules[].speed_mts", "memory.modules[].manufacturer",
	"memory.modules[].part", "memory.modules[].serial", "memory.modules[].ecc",
	"disks[].serial", "disks[].wwn", "disks[].vendor", "disks[].model", "disks[].firmware_rev", "disks[].bytes",
	"nics[].mac", "nics[].vendor", "nics[].device",
	"neighbors[].mac", "neighbors[].chassis", "neighbors[].port",
	"pci[].vendor", "pci[].device", "pci[].class",
	"bmc.mac", "bmc.firmware", "bmc.vendor",
	"tpm.version",
)

// ignored are the facts that do not count, each with the reason.
var ignored = map[string]string{
	"schema_version":               "is of the document",
	"system.family":                "is a marketing name that firmware updates rewrite",
	"chassis.manufacturer":         "says nothing that system.manufacturer does not",
	"chassis.asset_tag":            "is written by people",
	"cpu.threads":                  "follows what the kernel was told to use",
	"cpu.max_speed_mhz":            "follows settings of firmware and kernel",
	"cpu.flags":                    "follow the kernel and its mitigations",
	"memory.bytes":                 "is the sum of the modules, or what one kernel could use",
	"memory.modules[].locator":     "names the slot, by which modules are compared",
	"disks[].name":                 "is the kernel's, of one boot",
	"disks[].by_id":                "is made of serial number or WWN",
	"disks[].logical_block_bytes":  "follows how the disk is attached",
	"disks[].physical_block_bytes": "follows how the disk is attached",
	"disks[].rotational":           "follows the driver",
	"disks[].bus":                  "follows the driver",
	"disks[].path":                 "changes with the numbering of buses",
	"disks[].signatures":           "is content",
	"disks[].part_uuids":           "is content",
	"disks[].owner.catalog":        "is content",
	"disks[].owner.site":           "is content",
	"disks[].owner.address":        "is content",
	"disks[].owner.image":          "is content",
	"nics[].name":                  "is the kernel's, of one boot",
	"nics[].driver":                "is software",
	"nics[].pci":                   "changes with the numbering of buses",
	"nics[].speed_mbps":            "follows driver and transceiver",
	"nics[].boot":                  "is of one boot",
	"neighbors[].port_description": "is what people call the port",
	"neighbors[].system":           "is a setting of the switch",
	"neighbors[].address":          "is a setting of the switch",
	"neighbors[].vlan":             "is a setting of the switch",
	"pci[].address":                "changes with the numbering of buses",
	"pci[].driver":                 "is software",
	"bmc.address":                  "is a setting",
	"kernel.release":               "is software",
}

// names are the fields by which members of a list are known, best first. What has
// none of them that is more than a placeholder is compared with its likes: see
// Compare.
var names = map[string][]string{
	"disks":          {"serial", "wwn"},
	"memory.modules": {"locator", "serial"},
	"nics":           {"mac", "pci"},
	neighborList:     {"mac"},
	"pci":            {"vendor"},
}

func set(paths ...string) map[string]bool {
	out := make(map[string]bool, len(paths))
	for _, p := range paths {
		out[p] = true
	}
	return out
}

package sim

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"strings"
)

// Hardware is what a simulated BMC shows of the inside of its machine.
type Hardware struct {
	BIOSVersion string
	// CPUs is the number of cores, all in one processor.
	CPUs        int
	MemoryBytes int64
	Drives      []Drive
	AssetTag    string
}

// Drive is a disk as Redfish shows it.
type Drive struct {
	Bytes      int64
	BlockBytes int
	Serial     string
	// Protocol is NVMe, SATA or SAS; empty is left out.
	Protocol string
	// WWN is "naa." or "eui." and hexadecimal digits; empty is left out.
	WWN        string
	Rotational bool
}

// hardwareRoutes registers what hangs below the system's document. The number of
// processors and of storage units is fixed; drives are those of this moment.
func (r *Redfish) hardwareRoutes(fixed func(string, object)) {
	if r.config.Hardware == nil {
		return
	}
	fixed(systemPath+"/Processors", collection("Processors", systemPath+"/Processors/CPU0"))
	r.mux.HandleFunc("GET "+systemPath+"/Memory", r.listMemory)
	fixed(systemPath+"/Storage", collection("Storage", systemPath+"/Storage/1"))
	answer := func(path string, doc func(Hardware, *http.Request) object) {
		r.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, req *http.Request) {
			d := doc(r.config.Hardware(), req)
			if d == nil {
				http.NotFound(w, req)
				return
			}
			d["@odata.id"] = strings.TrimSuffix(req.URL.Path, "/")
			writeJSON(w, http.StatusOK, d)
		})
	}
	answer(systemPath+"/Processors/CPU0", func(h Hardware, _ *http.Request) object {
		return object{
			"@odata.type": "#Processor.v1_11_0.Processor", "Id": "CPU0", "Name": "Processor", "ProcessorType": "CPU",
			"InstructionSet": "x86-64", "TotalCores": h.CPUs, "TotalThreads": h.CPUs, "Status": enabled,
		}
	})
	answer(systemPath+"/Memory/DIMM0", func(h Hardware, _ *http.Request) object {
		return object{
			"@odata.type": "#Memory.v1_11_0.Memory", "Id": "DIMM0", "Name": "Memory", "DeviceLocator": "DIMM 0",
			"CapacityMiB": h.MemoryBytes >> 20, "Status": enabled,
		}
	})
	answer(systemPath+"/Storage/1", func(h Hardware, _ *http.Request) object {
		links := make([]object, len(h.Drives))
		for i := range h.Drives {
			links[i] = link(fmt.Sprintf("%s/Storage/1/Drives/%d", systemPath, i))
		}
		return object{"@odata.type": "#Storage.v1_10_0.Storage", "Id": "1", "Name": "Storage", "Drives": links}
	})
	answer(systemPath+"/Storage/1/Drives/{drive}", func(h Hardware, req *http.Request) object {
		for i, d := range h.Drives {
			if fmt.Sprint(i) == req.PathValue("drive") {
				return d.document(req.PathValue("drive"))
			}
		}
		return nil
	})
}

func (r *Redfish) listMemory(w http.ResponseWriter, req *http.Request) {
	switch r.currentFault() {
	case FaultNoMemory:
		redfishError(w, http.StatusServiceUnavailable, "Base.1.8.ServiceTemporarilyUnavailable", "The service is temporarily unavailable.")
	case FaultHangMemory:
		<-req.Context().Done()
	default:
		writeJSON(w, http.StatusOK, collection("Memory", systemPath+"/Memory/DIMM0"))
	}
}

var enabled = object{"State": "Enabled", "Health": "OK"}

func (d Drive) document(id string) object {
	media := "SSD"
	if d.Rotational {
		media = "HDD"
	}
	doc := object{
		"@odata.type": "#Drive.v1_11_0.Drive", "Id": id, "Name": "Drive " + id, "CapacityBytes": d.Bytes, "BlockSizeBytes": d.BlockBytes,
		"SerialNumber": d.Serial, "MediaType": media, "Status": enabled,
	}
	if d.Protocol != "" {
		doc["Protocol"] = d.Protocol
	}
	if kind, digits, found := strings.Cut(d.WWN, "."); found {
		doc["Identifiers"] = []object{{"DurableName": strings.ToUpper(digits), "DurableNameFormat": strings.ToUpper(kind)}}
	}
	return doc
}

// describeSystem adds to the system's document what its hardware is.
func (r *Redfish) describeSystem(doc object) {
	if r.config.Hardware == nil {
		return
	}
	h := r.config.Hardware()
	doc["BiosVersion"], doc["AssetTag"] = h.BIOSVersion, h.AssetTag
	doc["ProcessorSummary"] = object{"Count": 1, "CoreCount": h.CPUs, "LogicalProcessorCount": h.CPUs}
	doc["MemorySummary"] = object{"TotalSystemMemoryGiB": float64(h.MemoryBytes) / (1 << 30)}
	doc["Processors"], doc["Memory"], doc["Storage"] = link(systemPath+"/Processors"), link(systemPath+"/Memory"), link(systemPath+"/Storage")
}

// FRU is what a simulated IPMI controller has in the FRU data of its board.
type FRU struct {
	Manufacturer, Product, Serial, AssetTag string
}

// bytes is the FRU data with a product area only (IPMI Platform Management FRU
// Information Storage Definition v1.0, sections 8 and 12).
func (f FRU) bytes() []byte {
	area := []byte{1, 0, 25} // version 1, length to come, English
	for _, field := range []string{f.Manufacturer, f.Product, "", "", f.Serial, f.AssetTag} {
		field = field[:min(len(field), 63)]
		// A single character would look like the end of the fields.
		if len(field) == 1 {
			field += " "
		}
		area = append(append(area, 0xc0|byte(len(field))), field...)
	}
	area = append(area, 0xc1)
	for len(area)%8 != 7 {
		area = append(area, 0)
	}
	area = append(area, 0)
	area[1] = byte(len(area) / 8)
	header := []byte{1, 0, 0, 0, 1, 0, 0, 0} // the product area begins after 8 bytes
	for _, part := range [][]byte{header, area} {
		var sum byte
		for _, b := range part {
			sum += b
		}
		part[len(part)-1] = -sum
	}
	return binary.BigEndian.AppendUint64(append(header, area...), 0)
}

// command defines the FRU data in ipmi_sim's language.
func (f FRU) command() string {
	if f == (FRU{}) {
		return ""
	}
	raw := f.bytes()
	var out strings.Builder
	fmt.Fprintf(&out, "mc_add_fru_data 0x20 0 %d data", len(raw))
	for _, b := range raw {
		fmt.Fprintf(&out, " 0x%02x", b)
	}
	return out.String() + "\n"
}

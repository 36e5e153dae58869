package sim

import (
	"fmt"
	"math"
	"strings"
)

// Sensor is what a simulated BMC measures. Its value does not change by itself.
type Sensor struct {
	// Name has at most 16 printable ASCII bytes (IPMI 2.0 table 43-1).
	Name string
	Unit Unit
	// Value is in the unit; IPMI has one byte for it: 0 to 255 °C, 0 to 25,500
	// rpm in steps of 100, 0 to 25.5 V in steps of 0.1.
	Value float64
	// Critical is the value above which (for a fan: below which) the sensor is
	// critical; zero: none.
	Critical float64
	// Absent: what is measured is not there, and Value is not read.
	Absent bool
}

// Unit is what a Sensor measures in.
type Unit string

// Units.
const (
	Celsius Unit = "°C"
	RPM     Unit = "rpm"
	Volt    Unit = "V"
)

// critical says whether the value is past its threshold.
func (s Sensor) critical() bool {
	switch {
	case s.Critical == 0 || s.Absent:
		return false
	case s.Unit == RPM:
		return s.Value < s.Critical
	}
	return s.Value > s.Critical
}

// status is the DSP0268 Status of a sensor.
func (s Sensor) status() object {
	switch {
	case s.Absent:
		return object{"State": "Absent"}
	case s.critical():
		return object{"State": "Enabled", "Health": "Critical"}
	}
	return object{"State": "Enabled", "Health": "OK"}
}

// reading is the value, or null.
func (s Sensor) reading() any {
	if s.Absent {
		return nil
	}
	return s.Value
}

// thermal and power are the documents of the chassis' sensors in the form that
// controllers had before Chassis v1.15.
func (r *Redfish) thermal() (thermal, power object) {
	temperatures, fans, voltages := []object{}, []object{}, []object{}
	for _, s := range r.config.Sensors {
		switch s.Unit {
		case Celsius:
			temperatures = append(temperatures, object{"Name": s.Name, "ReadingCelsius": s.reading(), "Status": s.status()})
		case RPM:
			fans = append(fans, object{"Name": s.Name, "Reading": s.reading(), "ReadingUnits": "RPM", "Status": s.status()})
		case Volt:
			voltages = append(voltages, object{"Name": s.Name, "ReadingVolts": s.reading(), "Status": s.status()})
		}
	}
	thermal = object{"@odata.type": "#Thermal.v1_6_0.Thermal", "Id": "Thermal", "Name": "Thermal", "Temperatures": temperatures, "Fans": fans}
	power = object{"@odata.type": "#Power.v1_6_0.Power", "Id": "Power", "Name": "Power", "Voltages": voltages}
	return thermal, power
}

// sensorRoutes registers what the chassis measures.
func (r *Redfish) sensorRoutes(chassis object, fixed func(string, object)) {
	if len(r.config.Sensors) == 0 {
		return
	}
	if !r.config.SensorCollection {
		thermal, power := r.thermal()
		chassis["Thermal"], chassis["Power"] = link(chassisPath+"/Thermal"), link(chassisPath+"/Power")
		fixed(chassisPath+"/Thermal", thermal)
		fixed(chassisPath+"/Power", power)
		return
	}
	units := map[Unit]string{Celsius: "Cel", RPM: "{rev}/min", Volt: "V"}
	var paths []string
	for i, s := range r.config.Sensors {
		path := fmt.Sprintf("%s/Sensors/%d", chassisPath, i+1)
		paths = append(paths, path)
		fixed(path, object{
			"@odata.type": "#Sensor.v1_2_0.Sensor", "Id": fmt.Sprint(i + 1), "Name": s.Name,
			"Reading": s.reading(), "ReadingUnits": units[s.Unit], "Status": s.status(),
		})
	}
	chassis["Sensors"] = link(chassisPath + "/Sensors")
	fixed(chassisPath+"/Sensors", collection("Sensors", paths...))
}

// check says whether IPMI can express the sensor.
func (s Sensor) check() error {
	_, known := sensorCodes[s.Unit]
	switch {
	case !known:
		return fmt.Errorf("sensor %q has unit %q; use °C, rpm or V", s.Name, s.Unit)
	case s.Name == "" || len(s.Name) > 16 || strings.ContainsFunc(s.Name, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Errorf("sensor name %q is not 1 to 16 printable ASCII bytes", s.Name)
	case s.raw(s.Value) < 0 || s.raw(s.Value) > 255 || s.raw(s.Critical) < 0 || s.raw(s.Critical) > 255:
		return fmt.Errorf("sensor %q: value %g or threshold %g does not fit one byte", s.Name, s.Value, s.Critical)
	}
	return nil
}

// sensorCodes are IPMI 2.0's codes of what a sensor is (tables 42-3 and 43-15),
// and how its byte becomes a value: byte × m × 10^exponent.
var sensorCodes = map[Unit]struct {
	kind, unit, entity byte
	m                  byte
	exponent           int
}{
	Celsius: {0x01, 1, 0x03, 1, 0},
	RPM:     {0x04, 18, 0x1d, 100, 0},
	Volt:    {0x02, 4, 0x07, 1, -1},
}

func (s Sensor) raw(v float64) int {
	c := sensorCodes[s.Unit]
	return int(math.Round(v / float64(c.m) / math.Pow10(c.exponent)))
}

// commands are ipmi_sim's commands (ipmi_sim_cmd(5)) for the nth sensor: the
// sensor itself and its record in the repository.
func (s Sensor) commands(n int) string {
	c := sensorCodes[s.Unit]
	// Upper critical is threshold bit 4, lower critical bit 1 (IPMI 2.0 table 35-9).
	threshold, mask := 4, "010000"
	if s.Unit == RPM {
		threshold, mask = 1, "000010"
	}
	if s.Critical == 0 {
		mask = "000000"
	}
	values := [6]byte{} // lower non-critical, critical, non-recoverable, then upper
	values[threshold] = byte(s.raw(s.Critical))
	record := []byte{
		0, 0, 0x51, 0x01, byte(43 + len(s.Name)), // header; ipmi_sim numbers the record
		0x20, 0, byte(n), c.entity, byte(n), 0x7f, 0x04, c.kind, 0x01,
		0, 0, 0, 0, 0x12, 0x12, // readable thresholds: lower and upper critical
		0, c.unit, 0, 0, c.m, 0, 0, 0, 0, byte(c.exponent&0xf) << 4,
		0, 0, 0, 0, 0xff, 0,
		values[5], values[4], values[3], values[2], values[1], values[0],
		0, 0, 0, 0, 0, 0xc0 | byte(len(s.Name)),
	}
	var b strings.Builder
	fmt.Fprintf(&b, "sensor_add 0x20 0 %d %#x 0x01\n", n, c.kind)
	none := strings.Repeat("0", 15)
	fmt.Fprintf(&b, "sensor_set_event_support 0x20 0 %d disable scanning none %s %s %s %s\n", n, none, none, none, none)
	fmt.Fprintf(&b, "sensor_set_threshold 0x20 0 %d readable %s", n, mask)
	for i := 5; i >= 0; i-- {
		fmt.Fprintf(&b, " %#x", values[i])
	}
	fmt.Fprintf(&b, "\nsensor_set_value 0x20 0 %d %d 0\n", n, s.raw(s.Value))
	if s.critical() {
		fmt.Fprintf(&b, "sensor_set_bit 0x20 0 %d %d 1 0\n", n, threshold)
	}
	b.WriteString("main_sdr_add 0x20")
	for _, octet := range append(record, s.Name...) {
		fmt.Fprintf(&b, " %#x", octet)
	}
	b.WriteString("\n")
	return b.String()
}

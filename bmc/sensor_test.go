package bmc_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
)

var simulatedSensors = []sim.Sensor{
	{Name: "CPU Temp", Unit: sim.Celsius, Value: 45, Critical: 90},
	{Name: "Inlet Temp", Unit: sim.Celsius, Value: 61, Critical: 45},
	{Name: "FAN 1", Unit: sim.RPM, Value: 4200, Critical: 500},
	{Name: "FAN 2", Unit: sim.RPM, Value: 300, Critical: 500},
	{Name: "12V", Unit: sim.Volt, Value: 12.1},
}

const wantSensors = `fan FAN 1 4200 rpm ok
fan FAN 2 300 rpm critical
temperature CPU Temp 45 °C ok
temperature Inlet Temp 61 °C critical
voltage 12V 12.1 V ok
`

func sensorText(sensors []bmc.Sensor) string {
	var b strings.Builder
	for _, s := range sensors {
		value := "none"
		if s.Value != nil {
			value = fmt.Sprintf("%.4g", *s.Value)
		}
		fmt.Fprintf(&b, "%s %s %s %s %s\n", s.Kind, s.Name, value, s.Unit, s.Health)
	}
	return b.String()
}

func TestSensorsAreReadOverRedfishInBothForms(t *testing.T) {
	for _, collection := range []bool{false, true} {
		t.Run(fmt.Sprintf("collection=%t", collection), func(t *testing.T) {
			t.Parallel()
			absent := sim.Sensor{Name: "FAN 3", Unit: sim.RPM, Absent: true}
			r := newRig(t, func(c *sim.RedfishConfig) {
				c.Sensors, c.SensorCollection = append(slices.Clone(simulatedSensors), absent), collection
			})
			got, err := r.open(t, bmc.Deps{}).Sensors(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if sensorText(got) != wantSensors {
				t.Errorf("Sensors() =\n%s; want\n%s", sensorText(got), wantSensors)
			}
			r.noSessions(t)
		})
	}
}

func TestSensorsAreReadOverIPMI(t *testing.T) {
	t.Parallel()
	_, config := ipmiRig(t, "secret", func(c *sim.IPMIConfig) { c.Sensors = simulatedSensors })
	got, err := openIPMI(t, config, bmc.Deps{}).Sensors(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if sensorText(got) != wantSensors {
		t.Errorf("Sensors() =\n%s; want\n%s", sensorText(got), wantSensors)
	}
}

func TestWithoutSensorsOverRedfishTheErrorSaysWhatElseToTry(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, err := r.open(t, bmc.Deps{}).Sensors(t.Context())
	if e, ok := errors.AsType[*bmc.UnsupportedError](err); !ok || !strings.Contains(e.Error(), "try driver ipmi") {
		t.Errorf("Sensors() = %v; want unsupported, with what to do", err)
	}
}

package bmc

import (
	"encoding/json"
	"testing"
)

func TestIPMISensorLines(t *testing.T) {
	const text = `Loading IANA PEN Registry...
Invalid completion code received: Invalid command
CPU Temp,95,degrees C,Upper Critical,3.1,Processor,Temperature,,,,,90.000
FAN 2,,,ns,29.2,Fan Device
Intrusion,0x00,,ok
a line, of, something, else
`
	got := parseSensors(text)
	if len(got) != 3 || got[0].Health != HealthCritical || *got[0].Value != 95 || got[0].Unit != "°C" {
		t.Fatalf("parseSensors() = %+v; want three, the first 95 °C and critical", got)
	}
	if got[1].Value != nil || got[1].Health != HealthUnknown {
		t.Errorf("a fan that was not read is %+v; want no value, which is not zero", got[1])
	}
	if got[2].Value != nil || got[2].Kind != SensorOther {
		t.Errorf("a switch is %+v; want no number", got[2])
	}
}

func FuzzSensors(f *testing.F) {
	f.Add("CPU Temp,45,degrees C,ok,3.1\n")
	f.Add("FAN 1,nan,RPM,ok\nFAN 2,Inf,RPM,ok\n")
	f.Add("\x1b[2J,1e309,RPM,ok\n,,,ok\n")
	f.Add(`{"Temperatures":[{"Name":"CPU","ReadingCelsius":45,"Status":{"State":"Enabled","Health":"OK"}}],"Fans":[null]}`)
	f.Fuzz(func(t *testing.T, text string) {
		found := parseSensors(text)
		var doc thermalDocument
		if json.Unmarshal([]byte(text), &doc) == nil {
			found = append(found, doc.sensors()...)
		}
		for _, s := range found {
			if clip(s.Name) != s.Name || clip(s.Unit) != s.Unit {
				t.Errorf("sensor %q in %q carries a stranger's text unclipped", s.Name, s.Unit)
			}
			if _, err := json.Marshal(s); err != nil {
				t.Errorf("sensor %+v cannot be written as JSON: %v", s, err)
			}
		}
	})
}

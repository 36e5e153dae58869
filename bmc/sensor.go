package bmc

import (
	"cmp"
	"context"
	"slices"
)

// SensorKind is what a sensor measures.
type SensorKind string

// Kinds of sensors.
const (
	SensorTemperature SensorKind = "temperature"
	SensorFan         SensorKind = "fan"
	SensorVoltage     SensorKind = "voltage"
	SensorCurrent     SensorKind = "current"
	SensorPower       SensorKind = "power"
	SensorOther       SensorKind = "other"
)

// SensorHealth is what the BMC thinks of a reading.
type SensorHealth string

// Healths of sensors.
const (
	HealthOK       SensorHealth = "ok"
	HealthWarning  SensorHealth = "warning"  // past a threshold that is no danger yet
	HealthCritical SensorHealth = "critical" // past a threshold that is one
	HealthUnknown  SensorHealth = "unknown"  // not said, or not read
)

// Sensor is one reading of a BMC.
type Sensor struct {
	// Name is the BMC's own, clipped.
	Name string     `json:"name"`
	Kind SensorKind `json:"kind"`
	// Value is nil for a sensor that was not read, such as that of a fan
	// which is not there: absent is not zero.
	Value *float64 `json:"value"`
	// Unit is "°C", "rpm", "%", "V", "A" or "W"; another one as the BMC says it.
	Unit   string       `json:"unit,omitempty"`
	Health SensorHealth `json:"health"`
}

// maxSensors bounds the sensors of one machine; servers have up to some two
// hundred.
const maxSensors = 512

// Sensors reads what the BMC measures, sorted by kind and name. It changes
// nothing.
func (c *Controller) Sensors(ctx context.Context) ([]Sensor, error) {
	const op = "reading the sensors"
	var sensors []Sensor
	err := c.exclusive(ctx, op, func() error {
		return c.call(ctx, op, func(ctx context.Context, s session, _ *effect) (err error) {
			sensors, err = s.sensors(ctx)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(sensors, func(a, b Sensor) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return sensors, nil
}

// sensorUnits are the kinds and names of units, by what IPMI (ipmitool, in lower
// case) and Redfish (DSP0268, UCUM) call them.
var sensorUnits = map[string]struct {
	kind SensorKind
	unit string
}{
	"degrees c": {SensorTemperature, "°C"}, "cel": {SensorTemperature, "°C"},
	"rpm": {SensorFan, "rpm"}, "{rev}/min": {SensorFan, "rpm"},
	"volts": {SensorVoltage, "V"}, "v": {SensorVoltage, "V"},
	"amps": {SensorCurrent, "A"}, "a": {SensorCurrent, "A"},
	"watts": {SensorPower, "W"}, "w": {SensorPower, "W"},
	"percent": {SensorOther, "%"}, "%": {SensorOther, "%"},
}

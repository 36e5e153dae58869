package bmc

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// odataLink is a reference to another document (DSP0266 section 8.5).
type odataLink struct {
	ID string `json:"@odata.id"`
}

// own marks requests of this package: their answers are read here, and not by
// the library that checkCollection protects.
type own struct{}

// get reads one document of the session.
func (s *redfishSession) get(ctx context.Context, path string, doc any) error {
	return s.do(ctx, http.MethodGet, path, nil, doc)
}

// post carries out one action of the session.
func (s *redfishSession) post(ctx context.Context, path string, arguments any) error {
	body, err := json.Marshal(arguments)
	if err != nil {
		return err
	}
	return s.do(ctx, http.MethodPost, path, body, nil)
}

// do sends one request; a nil doc leaves the answer unread.
func (s *redfishSession) do(ctx context.Context, method, path string, body []byte, doc any) error {
	_, err := s.exchange(ctx, method, path, nil, body, doc)
	return err
}

// exchange is do with headers of the request, and returns those of the answer.
func (s *redfishSession) exchange(ctx context.Context, method, path string, header http.Header, body []byte, doc any) (http.Header, error) {
	if !strings.HasPrefix(path, "/") {
		return nil, &fault{kind: faultResponse, err: fmt.Errorf("the BMC sent a link that is no path: %s", clip(path))}
	}
	s.http.mu.Lock()
	token := s.http.token
	s.http.mu.Unlock()
	req, err := http.NewRequestWithContext(context.WithValue(ctx, own{}, true), method, "https://"+s.http.host+path, bytes.NewReader(body))
	if err != nil {
		return nil, &fault{kind: faultResponse, err: fmt.Errorf("the BMC sent a link that is no path: %s", clip(path))}
	}
	maps.Copy(req.Header, header)
	req.Header.Set("X-Auth-Token", token)
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.http.client().Do(req)
	var answered http.Header
	if err == nil {
		defer resp.Body.Close()
		answered = resp.Header
		switch {
		case resp.StatusCode >= 300:
			err = fmt.Errorf("%s %s: HTTP %s", method, clip(path), clip(resp.Status))
		case doc != nil:
			err = json.NewDecoder(resp.Body).Decode(doc)
		}
	}
	return answered, s.explain(ctx, err)
}

// sensors reads Thermal and Power of each chassis, which nearly all controllers
// have, and where they are missing the Sensors that replace them (DSP0268,
// Chassis v1.15).
func (s *redfishSession) sensors(ctx context.Context) ([]Sensor, error) {
	s.http.begin(ctx)
	var root struct{ Chassis odataLink }
	if err := s.get(ctx, "/redfish/v1/", &root); err != nil {
		return nil, err
	}
	var all struct{ Members []odataLink }
	if err := s.get(ctx, root.Chassis.ID, &all); err != nil {
		return nil, err
	}
	if len(all.Members) > maxMembers {
		return nil, &fault{kind: faultResponse, err: fmt.Errorf("the BMC lists %d chassis; at most %d are read", len(all.Members), maxMembers)}
	}
	out := []Sensor{}
	for _, member := range all.Members {
		found, err := s.chassisSensors(ctx, member.ID)
		if err != nil {
			return nil, err
		}
		if out = append(out, found...); len(out) > maxSensors {
			return nil, &fault{kind: faultResponse, err: fmt.Errorf("the BMC lists more than %d sensors", maxSensors)}
		}
	}
	if len(out) == 0 {
		return nil, &fault{kind: faultUnsupported, err: fmt.Errorf("the BMC shows no sensors over Redfish; look at its web page, or try driver ipmi")}
	}
	return out, nil
}

func (s *redfishSession) chassisSensors(ctx context.Context, path string) ([]Sensor, error) {
	var chassis struct{ Thermal, Power, Sensors *odataLink }
	if err := s.get(ctx, path, &chassis); err != nil {
		return nil, err
	}
	var out []Sensor
	for _, link := range []*odataLink{chassis.Thermal, chassis.Power} {
		if link == nil || link.ID == "" {
			continue
		}
		var doc thermalDocument
		if err := s.get(ctx, link.ID, &doc); err != nil {
			return nil, err
		}
		out = append(out, doc.sensors()...)
	}
	if len(out) > 0 || chassis.Sensors == nil {
		return out, nil
	}
	var list struct{ Members []odataLink }
	if err := s.get(ctx, chassis.Sensors.ID, &list); err != nil {
		return nil, err
	}
	if len(list.Members) > maxSensors {
		return nil, &fault{kind: faultResponse, err: fmt.Errorf("the BMC lists %d sensors; at most %d are read", len(list.Members), maxSensors)}
	}
	for _, member := range list.Members {
		var doc sensorDocument
		if err := s.get(ctx, member.ID, &doc); err != nil {
			return nil, err
		}
		if doc.present() {
			out = append(out, doc.sensor())
		}
	}
	return out, nil
}

// sensorStatus is DSP0268's Status.
type sensorStatus struct{ State, Health string }

// present says whether the thing that is measured is there.
func (s sensorStatus) present() bool { return s.State != "Absent" && s.State != "Disabled" }

func (s sensorStatus) health() SensorHealth {
	switch s.Health {
	case "OK":
		return HealthOK
	case "Warning":
		return HealthWarning
	case "Critical":
		return HealthCritical
	}
	return HealthUnknown
}

// sensorDocument is a Sensor (DSP0268, Sensor v1.2).
type sensorDocument struct {
	Name         string
	Reading      *float64
	ReadingUnits string
	Status       sensorStatus
}

func (d sensorDocument) present() bool { return d.Status.present() }

func (d sensorDocument) sensor() Sensor {
	known, ok := sensorUnits[strings.ToLower(d.ReadingUnits)]
	if !ok {
		known.kind, known.unit = SensorOther, clip(d.ReadingUnits)
	}
	return Sensor{Name: clip(d.Name), Kind: known.kind, Value: d.Reading, Unit: known.unit, Health: d.Status.health()}
}

// thermalDocument is what is read of Thermal and of Power (DSP0268).
type thermalDocument struct {
	Temperatures []struct {
		Name           string
		ReadingCelsius *float64
		Status         sensorStatus
	}
	Fans []struct {
		Name, FanName string // FanName before Thermal v1.3
		Reading       *float64
		ReadingUnits  string
		// HPE iLO 4 has these from before Redfish 1.0 in their place.
		CurrentReading *float64
		Units          string
		Status         sensorStatus
	}
	Voltages []struct {
		Name         string
		ReadingVolts *float64
		Status       sensorStatus
	}
	PowerControl []struct {
		Name, MemberID     string // HPE iLO 5 leaves the name out
		PowerConsumedWatts *float64
		Status             sensorStatus
	}
}

func (d thermalDocument) sensors() []Sensor {
	var out []Sensor
	add := func(name string, kind SensorKind, value *float64, unit string, status sensorStatus) {
		if status.present() {
			out = append(out, Sensor{Name: clip(name), Kind: kind, Value: value, Unit: unit, Health: status.health()})
		}
	}
	for _, t := range d.Temperatures {
		add(t.Name, SensorTemperature, t.ReadingCelsius, "°C", t.Status)
	}
	for _, f := range d.Fans {
		unit := "rpm"
		if cmp.Or(f.ReadingUnits, f.Units) == "Percent" {
			unit = "%"
		}
		add(cmp.Or(f.Name, f.FanName), SensorFan, cmp.Or(f.Reading, f.CurrentReading), unit, f.Status)
	}
	for _, v := range d.Voltages {
		add(v.Name, SensorVoltage, v.ReadingVolts, "V", v.Status)
	}
	for _, p := range d.PowerControl {
		add(cmp.Or(p.Name, strings.TrimSpace("PowerControl "+p.MemberID)), SensorPower, p.PowerConsumedWatts, "W", p.Status)
	}
	return out
}

// media goes through bmclib, which knows what drives and forms of the request
// controllers take, and is then read back. Of several drives, such as the two of
// an iDRAC, bmclib looks at one only, and is content when that is empty. So those
// that hold something are emptied first.
func (s *redfishSession) media(ctx context.Context, image string) (ejected []string, err error) {
	s.http.begin(ctx)
	before, held, err := s.setMedia(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, drive := range held {
		if eject := drive.Actions.Eject.Target; eject != "" {
			if err := s.post(ctx, eject, struct{}{}); err != nil {
				return nil, err
			}
		}
	}
	for _, drive := range before {
		ejected = append(ejected, mediaName(drive))
	}
	if image != "" || len(held) > 0 {
		if _, held, err = s.setMedia(ctx, image); err != nil {
			return ejected, err
		}
	}
	if len(held) > 0 != (image != "") {
		return ejected, &fault{kind: faultResponse, err: fmt.Errorf("the BMC accepted the action, but its virtual drive is not as asked; look at the virtual media of its web page: another user's session may hold the drive")}
	}
	return ejected, nil
}

// setMedia has bmclib insert or, with no image, eject, and returns the CD drives
// that held something before and afterwards.
func (s *redfishSession) setMedia(ctx context.Context, image string) (before, held []mediaDocument, err error) {
	s.http.mu.Lock()
	s.http.drives = nil
	s.http.mu.Unlock()
	_, err = s.conn.SetVirtualMedia(ctx, "CD", image)
	if err := s.explain(ctx, err); err != nil {
		return nil, nil, err
	}
	s.http.mu.Lock()
	drives := s.http.drives
	s.http.mu.Unlock()
	seen := map[string]bool{}
	for _, was := range drives {
		if seen[was.ID] {
			continue
		}
		seen[was.ID] = true
		var is mediaDocument
		if err := s.get(ctx, was.ID, &is); err != nil {
			return nil, nil, err
		}
		if was.holdsCD() {
			before = append(before, was)
		}
		if is.holdsCD() {
			held = append(held, is)
		}
	}
	return before, held, nil
}

// mediaDocument is what is read of a VirtualMedia (DSP0268).
type mediaDocument struct {
	odataLink
	MediaTypes []string
	Inserted   bool
	Image      string
	ImageName  string
	Actions    struct {
		Eject struct {
			Target string `json:"target"`
		} `json:"#VirtualMedia.EjectMedia"`
	}
}

// holdsCD reports whether a drive for discs holds one.
func (d mediaDocument) holdsCD() bool { return d.Inserted && slices.Contains(d.MediaTypes, "CD") }

func (s *redfishSession) console() (func(context.Context, io.Reader, io.Writer) error, error) {
	return nil, &fault{kind: faultUnsupported, err: fmt.Errorf("Redfish carries no console; open the one of the BMC's web page, or declare driver = \"ipmi\" for this machine where its BMC has serial over LAN")}
}

package bmc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// media: IPMI has none.
func (s *ipmi) media(context.Context, string) ([]string, error) {
	return nil, &fault{kind: faultUnsupported, err: errors.New("IPMI has no virtual media; declare driver = \"redfish\" for this machine where its BMC has it, or use the BMC's web page")}
}

func (s *ipmi) sensors(ctx context.Context) ([]Sensor, error) {
	out, err := s.run(ctx, "-c", "sdr", "elist", "full")
	if err != nil {
		return nil, err
	}
	sensors := parseSensors(out)
	switch {
	case len(sensors) == 0:
		return nil, &fault{kind: faultUnsupported, err: fmt.Errorf("the BMC lists no sensors (ipmitool: %s)", lastLine(out))}
	case len(sensors) > maxSensors:
		return nil, &fault{kind: faultResponse, err: fmt.Errorf("the BMC lists more than %d sensors", maxSensors)}
	}
	return sensors, nil
}

// parseSensors reads the comma separated lines of `ipmitool -c sdr elist full`:
// name, value, unit, health and more. A line that is none is passed over: a
// verbose ipmitool tells of itself between them.
func parseSensors(text string) []Sensor {
	var out []Sensor
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ",")
		if len(fields) < 4 || fields[0] == "" {
			continue
		}
		health, known := sensorHealths[strings.ToLower(strings.TrimSpace(fields[3]))]
		if !known {
			continue
		}
		s := Sensor{Name: clip(fields[0]), Kind: SensorOther, Health: health}
		if unit := strings.TrimSpace(fields[2]); unit != "" {
			u, ok := sensorUnits[strings.ToLower(unit)]
			if !ok {
				u.kind, u.unit = SensorOther, clip(unit)
			}
			s.Kind, s.Unit = u.kind, u.unit
		}
		if v, err := strconv.ParseFloat(strings.TrimSpace(fields[1]), 64); err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
			s.Value = &v
		}
		out = append(out, s)
	}
	return out
}

// sensorHealths are the words of a verbose ipmitool (lib/ipmi_sdr.c,
// ipmi_sdr_get_thresh_status), in lower case.
var sensorHealths = map[string]SensorHealth{
	"ok": HealthOK, "ns": HealthUnknown, "us": HealthUnknown,
	"lower non-critical": HealthWarning, "upper non-critical": HealthWarning,
	"lower critical": HealthCritical, "upper critical": HealthCritical,
	"lower non-recoverable": HealthCritical, "upper non-recoverable": HealthCritical,
}

// solEnd bounds how long a console may take to end, and to be given back.
const solEnd = 5 * time.Second

// console is IPMI's serial over LAN (IPMI 2.0 section 15).
func (s *ipmi) console() (func(context.Context, io.Reader, io.Writer) error, error) {
	return func(ctx context.Context, in io.Reader, out io.Writer) error {
		cmd := s.command(ctx, s.options("sol", "activate"))
		complaint := &cappedBuffer{}
		cmd.Stdout, cmd.Stderr = out, complaint
		err := runWithInput(cmd, in)
		if ctx.Err() != nil {
			// A console that is not given back stays taken until the BMC's own
			// timeout, if it has one.
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), solEnd)
			defer cancel()
			_, _ = s.run(end, "sol", "deactivate")
			return context.Cause(ctx)
		}
		if err != nil {
			return s.explain(complaint.String(), err)
		}
		return nil
	}, nil
}

// runWithInput runs cmd and does not wait for in once the program has ended, as
// exec does: a reader that nobody writes to would hold it for ever. A terminal
// is handed to the program itself.
func runWithInput(cmd *exec.Cmd, in io.Reader) error {
	if terminal, ok := in.(*os.File); ok {
		cmd.Stdin = terminal
		return cmd.Run()
	}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(pipe, in)
		_ = pipe.Close()
	}()
	return cmd.Run()
}

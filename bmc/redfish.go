package bmc

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/bmc-toolbox/bmclib/v2/providers/redfish"
	"github.com/go-logr/logr"
)

// redfishSession is a session of DriverRedfish over bmclib's gofish provider.
type redfishSession struct {
	conn *redfish.Conn
	http *transport
	// bootSettings is the settings object that took the boot override; empty when
	// the system itself did.
	bootSettings string
}

// redfishDialer prepares sessions.
func redfishDialer(c Config, e endpoint) (func(context.Context) (session, error), error) {
	verify, err := tlsConfig(c)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (session, error) {
		// bmclib writes whole requests, password included, to standard output
		// when this variable is set.
		if os.Getenv("DEBUG_BMCLIB") == "true" {
			return nil, &fault{kind: faultUnsupported, err: fmt.Errorf("DEBUG_BMCLIB is set, which would print the password; unset it")}
		}
		t := newTransport(ctx, e, verify)
		s := &redfishSession{http: t, conn: redfish.New("https://"+e.bracketed(), c.Username, string(c.Password), logr.Discard(),
			redfish.WithPort(strconv.Itoa(int(e.port))), redfish.WithHttpClient(t.client()))}
		if err := s.explain(ctx, s.conn.Open(ctx)); err != nil {
			return nil, err
		}
		if t.token == "" {
			return nil, &fault{kind: faultUnsupported, err: fmt.Errorf("the login gave no session token; the BMC has no Redfish sessions (DSP0266 section 13.3.4)")}
		}
		return s, nil
	}, nil
}

// explain turns the library's error into what the transport saw.
func (s *redfishSession) explain(ctx context.Context, err error) error {
	noted := s.http.noted()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case noted != nil:
		return noted
	case strings.Contains(err.Error(), "no matching redfish system"):
		return &fault{kind: faultUnsupported, err: fmt.Errorf("the BMC manages no system or several (a blade chassis?), and only one is supported")}
	case strings.Contains(err.Error(), "no virtual media found"), strings.Contains(err.Error(), "not a supported media type"),
		strings.Contains(err.Error(), "does not support insert"):
		return &fault{kind: faultUnsupported, err: fmt.Errorf("the BMC has no virtual CD drive that takes an image by URL, or no licence for it; use the one of its web page")}
	case strings.Contains(err.Error(), "is not supported by this service"):
		return &fault{kind: faultUnsupported, err: fmt.Errorf("%s", clip(err.Error()))}
	}
	return &fault{kind: faultResponse, err: fmt.Errorf("the answer makes no sense: %s", clip(err.Error()))}
}

func (s *redfishSession) power(ctx context.Context) (PowerState, error) {
	s.http.begin(ctx)
	state, err := s.conn.PowerStateGet(ctx)
	if err := s.explain(ctx, err); err != nil {
		return PowerUnknown, err
	}
	return parsePowerState(state), nil
}

// setPower maps Reset to what bmclib calls cycle (Redfish ForceRestart). Its
// own "reset" is PowerCycle, and where that fails a graceful shutdown with
// waits that cannot be cancelled.
func (s *redfishSession) setPower(ctx context.Context, a PowerAction) error {
	verb := string(a)
	if a == Reset {
		verb = "cycle"
	}
	s.http.begin(ctx)
	// Early firmware of HPE iLO 5 takes no GracefulShutdown; its power button
	// asks the operating system to shut down just so.
	if reset := s.document().Actions.Reset; a == Soft && !slices.Contains(reset.Allowed, "GracefulShutdown") && slices.Contains(reset.Allowed, "PushPowerButton") {
		return s.post(ctx, reset.Target, map[string]string{"ResetType": "PushPowerButton"})
	}
	_, err := s.conn.PowerSet(ctx, verb)
	return s.explain(ctx, err)
}

func (s *redfishSession) document() systemDocument {
	s.http.mu.Lock()
	defer s.http.mu.Unlock()
	return s.http.system
}

func (s *redfishSession) identity() Identity {
	d := s.document()
	return Identity{Manufacturer: clip(d.Manufacturer), Model: clip(d.Model), Serial: clip(d.SerialNumber), UUID: clip(d.UUID)}
}

// close logs out, in a context of its own.
func (s *redfishSession) close(ctx context.Context) {
	s.http.begin(ctx)
	_ = s.conn.Close(ctx)
	s.http.inner.CloseIdleConnections()
}

// systemDocument is what is read of a ComputerSystem (DSP0268).
type systemDocument struct {
	ID           text `json:"@odata.id"`
	etag         string
	PowerState   string
	Manufacturer string
	Model        string
	SerialNumber string
	UUID         string
	Boot         *bootDocument
	// Settings leads to where changes wait for the next start (DSP0266, settings
	// resource).
	Settings settingsLink `json:"@Redfish.Settings"`
	Actions  struct {
		Reset struct {
			Target  string   `json:"target"`
			Allowed []string `json:"ResetType@Redfish.AllowableValues"`
		} `json:"#ComputerSystem.Reset"`
	}
}

// settingsLink is where an annotation @Redfish.Settings leads; empty when nowhere.
type settingsLink string

// UnmarshalJSON takes what is no such annotation for none.
func (l *settingsLink) UnmarshalJSON(b []byte) error {
	var settings struct{ SettingsObject link }
	if json.Unmarshal(b, &settings) == nil {
		*l = settingsLink(settings.SettingsObject)
	}
	return nil
}

// parseSystem reads a ComputerSystem; ok is false for any other document.
func parseSystem(body []byte) (doc systemDocument, ok bool) {
	if err := json.Unmarshal(body, &doc); err != nil {
		return systemDocument{}, false
	}
	return doc, doc.Boot != nil && doc.PowerState != ""
}

// nextBoot translates the override.
func (d systemDocument) nextBoot() NextBoot {
	if d.Boot == nil {
		return NextBoot{}
	}
	return d.Boot.nextBoot()
}

// redfishMessage is the first message of an error answer (DSP0266 section
// 8.6), for a person; empty when there is none.
func redfishMessage(body []byte) string {
	var e struct {
		Error struct {
			Message  string                     `json:"message"`
			Extended []struct{ Message string } `json:"@Message.ExtendedInfo"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &e) != nil {
		return ""
	}
	for _, x := range e.Error.Extended {
		if x.Message != "" {
			return ": " + clip(x.Message)
		}
	}
	if e.Error.Message != "" {
		return ": " + clip(e.Error.Message)
	}
	return ""
}

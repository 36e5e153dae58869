package bmc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path"
	"slices"
	"strings"
)

// bootDocument is what is read of the Boot of a ComputerSystem (DSP0268), or of its
// settings object.
type bootDocument struct {
	BootSourceOverrideEnabled string
	BootSourceOverrideMode    string
	BootSourceOverrideTarget  string
}

// bootOverride is all that is ever sent of a Boot. bmclib and gofish send the whole of
// it back, the boot order too, which some BMCs refuse and others take for a change.
type bootOverride struct {
	Target  string `json:"BootSourceOverrideTarget"`
	Enabled string `json:"BootSourceOverrideEnabled"`
	Mode    string `json:"BootSourceOverrideMode,omitempty"`
}

// overrideOff is a BootSourceOverrideEnabled.
const overrideOff = "Disabled"

// Properties that BMCs name in their complaints.
const (
	bootProperty    = "Boot"
	targetProperty  = "BootSourceOverrideTarget"
	enabledProperty = "BootSourceOverrideEnabled"
	modeProperty    = "BootSourceOverrideMode"
)

// redfishTargets are DSP0268's names of the boot devices.
var redfishTargets = map[BootDevice]string{
	BootNone: "None", BootPXE: "Pxe", BootDisk: "Hdd", BootCDROM: "Cd", BootBIOS: "BiosSetup",
}

// newBootOverride is the override to send; Mode is what the BMC is to end up with.
func newBootOverride(d BootDevice, o BootOptions) bootOverride {
	b := bootOverride{Target: redfishTargets[d], Enabled: "Once", Mode: "Legacy"}
	if o.Persistent {
		b.Enabled = "Continuous"
	}
	if o.EFI {
		b.Mode = "UEFI"
	}
	if d == BootNone {
		b.Enabled = overrideOff
	}
	return b
}

// setBoot sends the override to the system, and where the BMC takes it in the system's
// settings object only, to that. bmclib chooses the system.
func (s *redfishSession) setBoot(ctx context.Context, d BootDevice, o BootOptions) error {
	s.bootSettings = ""
	if _, err := s.power(ctx); err != nil {
		return err
	}
	system := s.document()
	if system.ID == "" || system.Boot == nil {
		return &fault{kind: faultUnsupported, err: errors.New("the BMC shows no boot override of its system; set the boot order by hand")}
	}
	want := newBootOverride(d, o)
	err := s.sendBoot(ctx, string(system.ID), system.etag, *system.Boot, want)
	settings := string(system.Settings)
	if settings == "" || !belongsInSettings(err) {
		return err
	}
	pending, etag, err := s.settings(ctx, settings)
	if err != nil {
		return err
	}
	s.bootSettings = settings
	return s.sendBoot(ctx, settings, etag, pending, want)
}

// sendBoot changes the override of one document. The mode goes along where it is to
// change, which clearing an override is no reason for: an iDRAC9 queues a BIOS job for
// one that is merely repeated, restarts the machine once more and misses the boot
// (ironcore-dev/metal-operator issue 81). A Supermicro falls back to its own default
// without it, or refuses the rest (DMTF/Redfishtool pull request 106,
// ansible-collections/community.general issue 11542); HPE's iLO refuses to have it
// written (issue 3509 there).
func (s *redfishSession) sendBoot(ctx context.Context, at, etag string, current bootDocument, want bootOverride) error {
	changes := current.BootSourceOverrideMode != want.Mode
	if want.Enabled == overrideOff {
		want.Mode, changes = cmp.Or(current.BootSourceOverrideMode, want.Mode), false
	}
	first, second, wrong := want, want, missesMode
	if changes || supermicro(s.document().Manufacturer) {
		second.Mode, wrong = "", refusesMode
	} else {
		first.Mode = ""
	}
	err := s.patchBoot(ctx, at, etag, first)
	if !wrong(err) {
		return err
	}
	return s.patchBoot(ctx, at, etag, second)
}

func (s *redfishSession) patchBoot(ctx context.Context, at, etag string, b bootOverride) error {
	body, err := json.Marshal(map[string]bootOverride{bootProperty: b})
	if err != nil {
		return err
	}
	header := http.Header{}
	if etag != "" {
		header.Set("If-Match", etag)
	}
	_, err = s.exchange(ctx, http.MethodPatch, at, header, body, nil)
	return err
}

// settings reads the Boot of a settings object (DSP0266, settings resource).
func (s *redfishSession) settings(ctx context.Context, at string) (bootDocument, string, error) {
	var doc struct{ Boot bootDocument }
	header, err := s.exchange(ctx, http.MethodGet, at, nil, nil, &doc)
	return doc.Boot, entityTag(header), err
}

// boot reads the override back from where it was sent to, by default from the very
// document of the system: bmclib's reading of it cannot tell "off" from "once" nor
// "not said" from "legacy".
func (s *redfishSession) boot(ctx context.Context) (NextBoot, error) {
	if s.bootSettings != "" {
		s.http.begin(ctx)
		pending, _, err := s.settings(ctx, s.bootSettings)
		return pending.nextBoot(), err
	}
	if _, err := s.power(ctx); err != nil {
		return NextBoot{}, err
	}
	return s.document().nextBoot(), nil
}

// nextBoot translates the override.
func (b bootDocument) nextBoot() NextBoot {
	device := BootDevice(clip(b.BootSourceOverrideTarget))
	for known, name := range redfishTargets {
		if name == b.BootSourceOverrideTarget {
			device = known
		}
	}
	n := NextBoot{Device: device}
	if b.BootSourceOverrideTarget == "" || b.BootSourceOverrideEnabled == overrideOff {
		n.Device = BootNone
	}
	if b.BootSourceOverrideEnabled != "" {
		once := b.BootSourceOverrideEnabled == "Once"
		n.Once = &once
	}
	if b.BootSourceOverrideMode != "" {
		efi := b.BootSourceOverrideMode == "UEFI"
		n.EFI = &efi
	}
	return n
}

// entityTag is the version of a document, for If-Match. A web server that compresses
// its answer adds "-gzip", and does not know the tag by that name
// (stmcginnis/gofish pull request 511).
func entityTag(h http.Header) string {
	return strings.Replace(h.Get("ETag"), `-gzip"`, `"`, 1)
}

// supermicro reports whether a system needs its mode each time.
func supermicro(manufacturer string) bool {
	return strings.Contains(strings.ReplaceAll(strings.ToLower(manufacturer), " ", ""), "supermicro")
}

// belongsInSettings reports whether a refusal means that Boot is written in the settings
// object: AMI says so outright (DMTF/Redfish-Tacklebox issue 144), an iDRAC10 calls Boot
// read-only (ansible-collections/community.general issue 11297).
func belongsInSettings(err error) bool {
	var f *fault
	if !errors.As(err, &f) {
		return false
	}
	return f.status == http.StatusMethodNotAllowed || slices.ContainsFunc(f.complaints, func(c complaint) bool {
		return c.name() == "OperationSupportedInFutureStateURI" || c.notWritable() && !c.names(modeProperty) &&
			(c.names(bootProperty) || c.names(targetProperty) || c.names(enabledProperty))
	})
}

// refusesMode reports whether a request was refused because the mode cannot be written;
// a BMC that names no property may mean that. A mode that the machine does not have is
// another matter.
func refusesMode(err error) bool {
	var f *fault
	if !errors.As(err, &f) || f.kind != faultResponse || f.status == 0 {
		return false
	}
	if !slices.ContainsFunc(f.complaints, complaint.namesAny) {
		return true
	}
	return slices.ContainsFunc(f.complaints, func(c complaint) bool {
		return c.names(modeProperty) && !strings.HasPrefix(c.name(), "PropertyValue")
	})
}

// missesMode reports whether a request was refused because it had no mode.
func missesMode(err error) bool {
	var f *fault
	return errors.As(err, &f) && slices.ContainsFunc(f.complaints, func(c complaint) bool {
		return c.names(modeProperty) && c.name() == "PropertyMissing"
	})
}

// complaint is a message of an error answer (DSP0266, error responses), with the
// property it stands at where it is an annotation.
type complaint struct {
	MessageID  string   `json:"MessageId"`
	Arguments  []string `json:"MessageArgs"`
	Properties []string `json:"RelatedProperties"`
	annotated  string
}

// name is the message without its registry and that one's version.
func (c complaint) name() string {
	return c.MessageID[strings.LastIndex(c.MessageID, ".")+1:]
}

// notWritable: DSP0268's registry has PropertyNotWritable, HPE adds "OrUnknown".
func (c complaint) notWritable() bool { return strings.HasPrefix(c.name(), "PropertyNotWritable") }

// names reports whether the message is about a property. They are given by name, as a
// JSON pointer ("#/Boot/BootSourceOverrideMode"), or with a dot before them.
func (c complaint) names(property string) bool {
	return slices.ContainsFunc(append(append([]string{c.annotated}, c.Arguments...), c.Properties...), func(s string) bool {
		return path.Base(strings.ReplaceAll(s, ".", "/")) == property
	})
}

// namesAny reports whether the message is about any property of the request.
func (c complaint) namesAny() bool {
	return c.names(bootProperty) || c.names(targetProperty) || c.names(enabledProperty) || c.names(modeProperty)
}

const messageKey = "@Message.ExtendedInfo"

// maxComplaintDepth is how deep messages stand: beside a property of Boot.
const maxComplaintDepth = 2

// readComplaints collects the messages of an answer wherever they are: most BMCs have
// them in "error", OpenBMC beside the property.
func readComplaints(body []byte) []complaint { return complaintsWithin(body, maxComplaintDepth) }

func complaintsWithin(body []byte, depth int) []complaint {
	var keys map[string]json.RawMessage
	if json.Unmarshal(body, &keys) != nil {
		return nil
	}
	var all []complaint
	for key, value := range keys {
		property, found := strings.CutSuffix(key, messageKey)
		if !found && depth > 0 {
			all = append(all, complaintsWithin(value, depth-1)...)
		}
		if !found {
			continue
		}
		var messages []json.RawMessage
		_ = json.Unmarshal(value, &messages)
		for _, m := range messages {
			c := complaint{annotated: property}
			// A message that is not as it should be leaves what could be read.
			_ = json.Unmarshal(m, &c)
			all = append(all, c)
		}
	}
	return all
}

package sim

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// BootRules are where real controllers differ from DSP0268, or from one another, in how
// they take a boot override. A boot order is shown by all, and written by none.
type BootRules struct {
	// ModeReadOnly refuses a request that has the mode, as HPE's iLO does.
	ModeReadOnly bool
	// ModeAnnotated says that beside the property, as OpenBMC does.
	ModeAnnotated bool
	// ModeRequired refuses a request without the mode, as a Supermicro does.
	ModeRequired bool
	// ModeForgotten takes a request without the mode for legacy BIOS, as an older
	// Supermicro does.
	ModeForgotten bool
	// ModeHidden does not show the mode.
	ModeHidden bool
	// EFI is the mode that is shown while nothing is overridden: UEFI, or legacy BIOS.
	EFI bool
	// Settings is whether overrides are taken in a settings object instead.
	Settings SettingsRule
	// TagSuffix stands in the ETag of answers that may be compressed, as Apache's
	// compression has it, and is not known in If-Match.
	TagSuffix string
}

// SettingsRule is how a controller says that its system's Boot is written in the settings
// object of the system.
type SettingsRule string

// Settings rules.
const (
	SettingsNone        SettingsRule = ""             // there is no such object
	SettingsOffered     SettingsRule = "offered"      // there is one, for other things: it refuses Boot, and the system takes it (iDRAC9)
	SettingsReadOnly    SettingsRule = "read-only"    // Boot cannot be written at the system (iDRAC10)
	SettingsFutureState SettingsRule = "future state" // the object is named in the refusal (AMI)
	SettingsNoPatch     SettingsRule = "no PATCH"     // the system takes no PATCH at all
	settingsPath                     = systemPath + "/SD"
)

// BootRequest is a request for a boot override.
type BootRequest struct {
	Path string
	Boot map[string]any
	// Taken: it was carried out.
	Taken bool
}

// BootRequests returns the requests for boot overrides so far; at most 1000 are kept.
func (r *Redfish) BootRequests() []BootRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]BootRequest(nil), r.boots...)
}

func (r *Redfish) bootRoutes() {
	if r.config.Boot.Settings == SettingsNone {
		return
	}
	r.mux.HandleFunc("GET "+settingsPath, r.showSettings)
	r.mux.HandleFunc("PATCH "+settingsPath, r.patchSettings)
}

// bootObject is a Boot that shows an override.
func (r *Redfish) bootObject(o Override) object {
	enabled, target, mode := "Disabled", "None", "Legacy"
	for name, device := range bootTargets {
		if device == o.Device {
			target = name
		}
	}
	if o.Device != FirmwareOrder {
		enabled = "Continuous"
		if o.Once {
			enabled = "Once"
		}
	}
	if o.EFI || o.Device == FirmwareOrder && r.config.Boot.EFI {
		mode = "UEFI"
	}
	boot := object{
		"BootSourceOverrideEnabled": enabled, "BootSourceOverrideTarget": target, "BootSourceOverrideMode": mode,
		"BootSourceOverrideTarget@Redfish.AllowableValues": []string{"None", "Pxe", "Hdd", "Cd", "BiosSetup"},
		"BootOrder": []string{"Boot0001", "Boot0002"}, "UefiTargetBootSourceOverride": "",
	}
	if r.config.Boot.ModeHidden {
		boot["BootSourceOverrideMode"] = nil
	}
	return boot
}

// currentBoot is the Boot of the system. What waits in a settings object is not in it.
func (r *Redfish) currentBoot(o Override) object {
	if !r.bootWaits() {
		return r.bootObject(o)
	}
	boot := r.bootObject(Override{})
	if r.config.Boot.Settings == SettingsFutureState {
		boot["BootSourceOverrideMode"] = nil
	}
	return boot
}

// bootWaits: an override is taken, and shown, in the settings object.
func (r *Redfish) bootWaits() bool {
	return r.config.Boot.Settings != SettingsNone && r.config.Boot.Settings != SettingsOffered
}

// settings is the settings object of this moment.
func (r *Redfish) settings(req *http.Request) (object, error) {
	doc := object{"@odata.id": settingsPath, "@odata.type": "#ComputerSystem.v1_13_0.ComputerSystem", "Id": "SD", "Name": "Simulated settings"}
	if !r.bootWaits() {
		return doc, nil
	}
	o, err := r.machine.Boot(req.Context())
	doc["Boot"] = r.bootObject(o)
	return doc, err
}

func (r *Redfish) showSettings(w http.ResponseWriter, req *http.Request) {
	doc, err := r.settings(req)
	if err != nil {
		redfishError(w, http.StatusInternalServerError, "Base.1.8.InternalError", err.Error())
		return
	}
	w.Header().Set("ETag", r.tag(req, doc))
	writeJSON(w, http.StatusOK, doc)
}

// tag is the ETag that goes with an answer.
func (r *Redfish) tag(req *http.Request, doc object) string {
	tag := etag(doc)
	if strings.Contains(req.Header.Get("Accept-Encoding"), "gzip") {
		tag = strings.TrimSuffix(tag, `"`) + r.config.Boot.TagSuffix + `"`
	}
	return tag
}

// patchSystem changes the boot override; anything else is refused.
func (r *Redfish) patchSystem(w http.ResponseWriter, req *http.Request) {
	doc, err := r.system(req)
	if err != nil {
		redfishError(w, http.StatusInternalServerError, "Base.1.8.InternalError", err.Error())
		return
	}
	r.patchBoot(w, req, doc)
}

// patchSettings is patchSystem of the settings object, which wants its ETag, as AMI's
// does.
func (r *Redfish) patchSettings(w http.ResponseWriter, req *http.Request) {
	if req.Header.Get("If-Match") == "" {
		redfishError(w, http.StatusPreconditionRequired, "Ami.1.0.PreconditionHeaderMissing", "The request has no If-Match.")
		return
	}
	doc, err := r.settings(req)
	if err != nil {
		redfishError(w, http.StatusInternalServerError, "Base.1.8.InternalError", err.Error())
		return
	}
	r.patchBoot(w, req, doc)
}

func (r *Redfish) patchBoot(w http.ResponseWriter, req *http.Request, doc object) {
	raw, err := io.ReadAll(req.Body)
	var body struct{ Boot map[string]any }
	if err != nil || json.Unmarshal(raw, &body) != nil || body.Boot == nil {
		redfishError(w, http.StatusBadRequest, "Base.1.8.MalformedJSON", "The request has no Boot object.")
		return
	}
	taken := r.takeBoot(w, req, doc, body.Boot)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.boots = append(r.boots, BootRequest{Path: req.URL.Path, Boot: body.Boot, Taken: taken})
	if len(r.boots) > 1000 {
		r.boots = r.boots[1:]
	}
}

// takeBoot answers a request, and reports whether it was carried out.
func (r *Redfish) takeBoot(w http.ResponseWriter, req *http.Request, doc object, boot map[string]any) bool {
	if match := req.Header.Get("If-Match"); match != "" && match != "*" && match != etag(doc) {
		redfishError(w, http.StatusPreconditionFailed, "Base.1.8.PreconditionFailed", "The ETag is of an older version.")
		return false
	}
	if r.forbidden(w) || r.refusesPlace(w, req.URL.Path == settingsPath) || r.refusesProperty(w, boot) {
		return false
	}
	o, err := r.machine.Boot(req.Context())
	if err != nil {
		redfishError(w, http.StatusInternalServerError, "Base.1.8.InternalError", err.Error())
		return false
	}
	o, known := r.overridden(o, boot)
	if !known {
		redfishError(w, http.StatusBadRequest, "Base.1.8.PropertyValueNotInList", "A value is not in the list.")
		return false
	}
	if err := r.machine.SetBoot(req.Context(), o); err != nil {
		redfishError(w, http.StatusInternalServerError, "Base.1.8.InternalError", err.Error())
		return false
	}
	w.WriteHeader(http.StatusNoContent)
	return true
}

// refusesPlace refuses a Boot at the system or at its settings object.
func (r *Redfish) refusesPlace(w http.ResponseWriter, settings bool) bool {
	rule := r.config.Boot.Settings
	switch {
	case settings && rule == SettingsOffered, !settings && rule == SettingsReadOnly:
		refusedProperty(w, "PropertyNotWritable", "Boot", "#/Boot")
	case settings:
		return false
	case rule == SettingsFutureState:
		refuse(w, object{
			"MessageId": "Ami.1.0.OperationSupportedInFutureStateURI", "Severity": "Critical", "MessageArgs": []string{"Boot", settingsPath},
			"Message": "Support of this operation has moved to " + settingsPath,
		})
	case rule == SettingsNoPatch:
		w.Header().Set("Allow", "GET, HEAD")
		redfishError(w, http.StatusMethodNotAllowed, "Base.1.8.OperationNotAllowed", "The system takes no PATCH.")
	default:
		return false
	}
	return true
}

// refusesProperty refuses what may not be in a Boot, or is missing from it.
func (r *Redfish) refusesProperty(w http.ResponseWriter, boot map[string]any) bool {
	const mode = "BootSourceOverrideMode"
	writable := []string{"BootSourceOverrideEnabled", "BootSourceOverrideTarget", mode}
	for _, name := range slices.Sorted(maps.Keys(boot)) {
		if !slices.Contains(writable, name) {
			refusedProperty(w, "PropertyNotWritable", name, "#/Boot/"+name)
			return true
		}
	}
	_, given := boot[mode]
	switch rules := r.config.Boot; {
	case given && rules.ModeAnnotated:
		writeJSON(w, http.StatusBadRequest, object{"Boot": object{mode + "@Message.ExtendedInfo": []object{{
			"MessageId": "Base.1.8.PropertyUnknown", "Message": "The property is not known.",
		}}}})
	case given && rules.ModeReadOnly:
		// An iLO gives a message's arguments and no text.
		refuse(w, object{"MessageId": "Base.1.4.PropertyNotWritableOrUnknown", "MessageArgs": []string{mode}})
	case !given && rules.ModeRequired:
		refusedProperty(w, "PropertyMissing", mode, "#/Boot")
	default:
		return false
	}
	return true
}

// overridden is an override with the properties of a Boot; known is false when a value
// is not.
func (r *Redfish) overridden(o Override, boot map[string]any) (_ Override, known bool) {
	if target, given := boot["BootSourceOverrideTarget"]; given {
		name, _ := target.(string)
		if o.Device, known = bootTargets[name]; !known {
			return o, false
		}
	}
	switch enabled, given := boot["BootSourceOverrideEnabled"]; {
	case enabled == "Once":
		o.Once = r.currentFault() != FaultSticky
	case enabled == "Continuous":
		o.Once = false
	case enabled == "Disabled":
		o = Override{}
	case given:
		return o, false
	}
	switch mode, given := boot["BootSourceOverrideMode"]; {
	case given && mode != "UEFI" && mode != "Legacy":
		return o, false
	case given:
		o.EFI = mode == "UEFI"
	case r.config.Boot.ModeForgotten:
		o.EFI = false
	default:
		o.EFI = o.EFI || r.config.Boot.EFI
	}
	if o.Device == FirmwareOrder {
		o = Override{}
	}
	return o, true
}

// refusedProperty refuses a request for one property of it.
func refusedProperty(w http.ResponseWriter, message, name, pointer string) {
	refuse(w, object{
		"MessageId": "Base.1.18." + message, "Message": "The property " + name + " is refused: " + message + ".", "Severity": "Warning",
		"MessageArgs": []string{name}, "RelatedProperties": []string{pointer},
	})
}

// refuse answers with a message.
func refuse(w http.ResponseWriter, message object) {
	writeJSON(w, http.StatusBadRequest, object{"error": object{
		"code": "Base.1.18.GeneralError", "message": "See ExtendedInfo.", "@Message.ExtendedInfo": []object{message},
	}})
}

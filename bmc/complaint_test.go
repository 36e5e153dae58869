package bmc

import (
	"net/http"
	"strings"
	"testing"
)

func TestRefusedBootOverridesAreUnderstood(t *testing.T) {
	message := func(fields string) string {
		return `{"error":{"code":"Base.1.18.GeneralError","message":"See ExtendedInfo.","@Message.ExtendedInfo":[{` + fields + `}]}}`
	}
	tests := []struct {
		name, body                string
		settings, refuses, misses bool
	}{
		{"iDRAC10", message(`"Message":"The property Boot is a read-only property and cannot be assigned a value.","MessageArgs":["Boot"],"MessageId":"Base.1.18.PropertyNotWritable","RelatedProperties":["#/Boot"]`), true, false, false},
		{"AMI", message(`"MessageId":"Ami.1.0.OperationSupportedInFutureStateURI","MessageArgs":["Boot","/redfish/v1/Systems/Self/SD"]`), true, false, false},
		{"iLO", message(`"MessageArgs":["BootSourceOverrideMode"],"MessageId":"Base.1.4.PropertyNotWritableOrUnknown"`), false, true, false},
		{"iDRAC8", message(`"MessageArgs":[],"MessageId":"IDRAC.1.6.SYS410","RelatedProperties":["BootSourceOverrideMode"]`), false, true, false},
		{"pointer to the mode within Boot", message(`"MessageArgs":["Boot"],"MessageId":"Base.1.8.PropertyNotWritable","RelatedProperties":["#/Boot/BootSourceOverrideMode"]`), false, true, false},
		{"OpenBMC", `{"Boot":{"BootSourceOverrideMode@Message.ExtendedInfo":[{"MessageId":"Base.1.8.1.PropertyUnknown","MessageArgs":["BootSourceOverrideMode"]}]}}`, false, true, false},
		{"OpenBMC, beside", `{"BootSourceOverrideMode@Message.ExtendedInfo":[{"MessageId":"Base.1.8.1.PropertyNotWritable"}]}`, false, true, false},
		{"Supermicro in legacy mode", message(`"MessageId":"Base.1.0.0.PropertyValueNotInList","MessageArgs":["UEFI","BootSourceOverrideMode"],"RelatedProperties":["Boot"]`), false, false, false},
		{"Supermicro without a mode", message(`"MessageId":"Base.v1_4_0.PropertyMissing","MessageArgs":["BootSourceOverrideMode"]`), false, true, true},
		{"target that cannot be written", message(`"MessageId":"Base.1.8.PropertyNotWritable","MessageArgs":["BootSourceOverrideTarget"]`), true, false, false},
		{"target that it does not have", message(`"MessageId":"Base.1.8.PropertyValueNotInList","MessageArgs":["Hdd","BootSourceOverrideTarget"]`), false, false, false},
		{"boot that does not say why", message(`"MessageId":"Base.1.8.GeneralError"`), false, true, false},
		{"old firmware", `{"Messages":[{"MessageID":"Base.0.10.PropertyNotWritable"}]}`, false, true, false},
		{"no JSON", `<html>`, false, true, false},
		{"other types", message(`"MessageId":7,"MessageArgs":"BootSourceOverrideMode","RelatedProperties":{}`), false, true, false},
	}
	for _, tt := range tests {
		err := error(&fault{kind: faultResponse, status: http.StatusBadRequest, complaints: readComplaints([]byte(tt.body))})
		if got := belongsInSettings(err); got != tt.settings {
			t.Errorf("%s: belongsInSettings() = %t; want %t", tt.name, got, tt.settings)
		}
		if got := refusesMode(err); got != tt.refuses {
			t.Errorf("%s: refusesMode() = %t; want %t", tt.name, got, tt.refuses)
		}
		if got := missesMode(err); got != tt.misses {
			t.Errorf("%s: missesMode() = %t; want %t", tt.name, got, tt.misses)
		}
	}
	for _, err := range []error{nil, &fault{kind: faultUnreachable}, &fault{kind: faultResponse}, &fault{kind: faultBusy, status: http.StatusServiceUnavailable}} {
		if belongsInSettings(err) || refusesMode(err) || missesMode(err) {
			t.Errorf("%#v is taken for a refusal of the override", err)
		}
	}
}

func TestMessagesDeepInAnAnswerAreNotLookedFor(t *testing.T) {
	// Each level is read once more than the one around it.
	body := strings.Repeat(`{"a":`, 9000) + `{"BootSourceOverrideMode@Message.ExtendedInfo":[{"MessageId":"Base.1.8.PropertyMissing"}]}` + strings.Repeat("}", 9000)
	if got := readComplaints([]byte(body)); len(got) > 0 {
		t.Errorf("readComplaints() = %+v; want none", got)
	}
}

func TestSystemWithOddSettingsIsStillRead(t *testing.T) {
	for _, settings := range []string{`7`, `[]`, `null`, `{"SettingsObject":null}`, `{"SettingsObject":"/x"}`, `{"SettingsObject":{"@odata.id":1}}`} {
		doc, ok := parseSystem([]byte(`{"@odata.id":"/s","PowerState":"On","Boot":{"BootSourceOverrideTarget":"Pxe"},"@Redfish.Settings":` + settings + `}`))
		if !ok || doc.Settings != "" || doc.ID != "/s" || doc.nextBoot().Device != BootPXE {
			t.Errorf("parseSystem() with settings %s = %+v, %t; want the system without a settings object", settings, doc, ok)
		}
	}
}

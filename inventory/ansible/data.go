package ansible

import (
	"bytes"
	"encoding/json"

	"github.com/edge-provision/edge-provision/inventory"
)

// data is a string that Ansible must not take for a template. Of its JSON Ansible
// makes what !unsafe is in YAML (AnsibleJSONDecoder in ansible-core;
// https://docs.ansible.com/ansible/latest/playbook_guide/playbooks_advanced_syntax.html#unsafe-or-raw-strings).
type data struct {
	Text string `json:"__ansible_unsafe"`
}

// asData makes data of every string in decoded JSON.
func asData(v any) any {
	switch v := v.(type) {
	case string:
		return data{v}
	case []any:
		for i := range v {
			v[i] = asData(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = asData(v[k])
		}
	}
	return v
}

// plain is what facts are in JSON, decoded.
func plain(facts *inventory.Facts) (any, error) {
	raw, err := json.Marshal(facts)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // bytes of memory are exact above 2^53 too
	var out any
	if err := d.Decode(&out); err != nil {
		return nil, err
	}
	return out, nil
}

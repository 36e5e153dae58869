package host

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/edge-provision/edge-provision/workflows/agent"
)

// hasCloudInit reports whether a root directory is that of a system with
// cloud-init.
func (t *tree) hasCloudInit() bool {
	return t.present("usr/bin/cloud-init") && t.exists("etc/cloud")
}

// seedDir is where cloud-init's NoCloud data source looks for files
// (cloud-init documentation, reference/datasources/nocloud).
const seedDir = "var/lib/cloud/seed/nocloud/"

// seed leaves a machine's identity as NoCloud files, for an image that was made
// elsewhere. The three files are JSON, which is YAML as well (YAML 1.2 section
// 1.3) and has no quoting to get wrong.
func (t *tree) seed(c agent.Configure) (personal, error) {
	private, public, err := makeHostKey(c.Hostname)
	if err != nil {
		return personal{}, err
	}
	fqdn := c.Hostname
	if c.Domain != "" {
		fqdn += "." + c.Domain
	}
	users := []any{"default"}
	users = append(users, map[string]any{"name": "root", "lock_passwd": true, "ssh_authorized_keys": list0(c.RootKeys)})
	for _, u := range c.Users {
		user := map[string]any{"name": u.Name, "lock_passwd": true, "ssh_authorized_keys": list0(u.Keys)}
		if u.Shell != "" {
			user["shell"] = u.Shell
		}
		if u.Sudo {
			user["sudo"] = "ALL=(ALL) NOPASSWD:ALL"
		}
		users = append(users, user)
	}
	userData := map[string]any{
		"hostname": c.Hostname, "fqdn": fqdn, "prefer_fqdn_over_hostname": false, "manage_etc_hosts": true,
		"users": users, "disable_root": false, "ssh_deletekeys": true, "ssh_genkeytypes": []string{"ed25519"},
		"ssh_keys": map[string]string{"ed25519_private": string(private), "ed25519_public": public + " root@" + c.Hostname},
		"growpart": map[string]any{"mode": "auto", "devices": []string{"/"}},
	}
	if len(c.NTP) > 0 {
		userData["ntp"] = map[string]any{"enabled": true, "servers": c.NTP}
	}
	ethernet := map[string]any{"match": map[string]string{"macaddress": c.Network.MAC.String()}}
	if c.Network.DHCP {
		ethernet["dhcp4"] = true
		ethernet["dhcp-identifier"] = "mac"
	} else {
		ethernet["addresses"] = []string{c.Network.Address}
		if c.Network.Gateway != "" {
			ethernet["routes"] = []map[string]string{{"to": "0.0.0.0/0", "via": c.Network.Gateway}}
		}
	}
	if len(c.Network.DNS)+len(c.Network.Search) > 0 {
		ethernet["nameservers"] = map[string]any{"addresses": list0(c.Network.DNS), "search": list0(c.Network.Search)}
	}
	if c.Network.MTU != 0 {
		ethernet["mtu"] = c.Network.MTU
	}
	// The instance id makes cloud-init run anew when a disk is written again.
	metaData := map[string]any{"instance-id": c.Identity.Machine.String() + "-" + c.Identity.Run, "local-hostname": c.Hostname}
	network := map[string]any{"version": 2, "ethernets": map[string]any{"edge": ethernet}}
	for _, f := range []struct {
		name, head string
		content    any
	}{
		{"user-data", "#cloud-config\n", userData},
		{"meta-data", "", metaData},
		{"network-config", "", network},
	} {
		text, err := json.MarshalIndent(f.content, "", "  ")
		if err != nil {
			return personal{}, fmt.Errorf("writing the cloud-init %s: %w", f.name, err)
		}
		if err := t.write(file{name: seedDir + f.name, data: []byte(f.head + string(text) + "\n"), mode: 0o600}); err != nil {
			return personal{}, err
		}
	}
	// Without this an image may look for its cloud's metadata service first,
	// and wait for it for minutes.
	source := "# Written by edge-provision when the machine was installed.\ndatasource_list: [NoCloud, None]\n"
	if err := t.write(file{name: "etc/cloud/cloud.cfg.d/99-edge-provision.cfg", data: []byte(source), mode: 0o644}); err != nil {
		return personal{}, err
	}
	if t.exists("etc/cloud/cloud-init.disabled") {
		if err := t.remove("etc/cloud/cloud-init.disabled"); err != nil {
			return personal{}, err
		}
	}
	machineID, err := t.machineID()
	if err != nil {
		return personal{}, err
	}
	return personal{hostKey: strings.TrimSpace(public), machineID: machineID}, t.identity(c.Identity)
}

// list0 is s, but never null in JSON.
func list0(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

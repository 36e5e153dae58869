package timeline

import (
	"fmt"
	"strconv"

	"github.com/edge-provision/edge-provision/inventory"
)

// detectors look for events that say themselves what is wrong, the most
// decisive first. One that no longer matters, because the machine went on
// afterwards, is passed over. When none applies, waiting tells what is missing.
var detectors = []func(*view) *Finding{
	(*view).conflict,
	(*view).ignored,
	(*view).refusedLogin,
	(*view).unreachable,
	(*view).bmcError,
	(*view).firewall,
	(*view).foreign,
	(*view).refusedAddress,
	(*view).loop,
	(*view).refusedSession,
	(*view).noDisk,
	(*view).failedTask,
	(*view).reaction,
	(*view).failedStep,
}

// reaction is what a class was to start for the machine and did not bring to an
// end. A step that failed tells more.
func (v *view) reaction() *Finding {
	i := v.last(kinds(inventory.EventMachineReaction))
	if i < 0 || v.hasAfter(i, kinds(inventory.EventStepStarted)) {
		return nil
	}
	e := v.events[i]
	switch inventory.ReactionState(e.Attrs["state"]) {
	case inventory.ReactionRefused:
		return problem(HopDecision, v.events[i:i+1],
			fmt.Sprintf("Class %s was to start work for it, and that needs a person: %s.", plain(e.Attrs["class"]), plain(e.Attrs["reason"])),
			"do what the reason says, then run edge-provision apply; it is not tried again by itself")
	case inventory.ReactionStarted:
		if e.Attrs["reason"] == "" {
			return nil
		}
		return problem(HopDecision, v.events[i:i+1],
			fmt.Sprintf("What class %s started for it waits: %s.", plain(e.Attrs["class"]), plain(e.Attrs["reason"])),
			"put back what is missing, or have another version of the site served, by SIGHUP or apply; it is tried again by itself")
	case inventory.ReactionFailed:
		if v.has(failedSteps) {
			return nil
		}
		return problem(HopDecision, v.events[i:i+1],
			fmt.Sprintf("What class %s started for it failed: %s.", plain(e.Attrs["class"]), plain(e.Attrs["reason"])),
			"run edge-provision apply, which continues it; it is not tried again by itself")
	}
	return nil
}

func (v *view) conflict() *Finding {
	i := v.last(kinds(inventory.EventIdentityConflict))
	if i < 0 || v.has(sshUp) {
		return nil
	}
	e := v.events[i]
	if attr(e, "b") == "" {
		return problem(HopSite, []inventory.Event{e},
			fmt.Sprintf("What was seen is machine %s by one of its identifiers, but its %s is another. Nothing of it is kept until a person decides.", attr(e, "a"), attr(e, "by")),
			"Compare the label on the machine with its serial and MACs in site.hcl: a network card or mainboard may have been swapped.",
			"If its hardware was changed for good, forget what was known of it: edge-provision inventory forget "+attr(e, "a"),
			"If the network card was moved from another machine, correct the MAC of that machine in site.hcl first.")
	}
	return problem(HopSite, []inventory.Event{e},
		fmt.Sprintf("What was seen points at two machines: by its %s it is %s and %s. Nothing is merged until a person decides.", attr(e, "by"), attr(e, "a"), attr(e, "b")),
		"Compare the labels on both machines with their serials and MACs in site.hcl: a network card or mainboard may have been swapped.",
		"If a part was moved for good, correct the MAC of the machine in site.hcl and apply again.")
}

func (v *view) ignored() *Finding {
	i := v.last(kinds(inventory.EventDHCPIgnored))
	if i < 0 || v.hasAfter(i, kinds(inventory.EventDHCPOffer, inventory.EventDHCPAck, inventory.EventAgentSession)) {
		return nil
	}
	e := v.events[i]
	if v.Declared {
		return problem(HopSite, []inventory.Event{e},
			fmt.Sprintf("The machine asks for an address and gets no answer: %s.", reasonOf(e, "it is not admitted")),
			"Compare the MAC that asks with the mac of the machine in site.hcl: a server has several, and the one that netboots counts.",
			"If it is declared for another network, move its cable or its network in site.hcl.")
	}
	return problem(HopSite, []inventory.Event{e},
		fmt.Sprintf("The machine asks for an address and is not declared in site.hcl: %s.", reasonOf(e, "unknown machines are ignored")),
		"Declare it: a machine block with this MAC.",
		"Or let the network discover unknown machines; they are then recorded and never imaged.")
}

func reasonOf(e inventory.Event, otherwise string) string {
	if r := attr(e, "reason"); r != "" {
		return r
	}
	return otherwise
}

// wentOn says whether the machine came to life after the i-th event, so that a
// failed call to its BMC is history.
func (v *view) wentOn(i int) bool {
	return v.hasAfter(i, switchedOn) || v.hasAfter(i, kinds(
		inventory.EventDHCPDiscover, inventory.EventTFTPStart, inventory.EventHTTPStart,
		inventory.EventAgentSession, inventory.EventAgentResult, inventory.EventSSHUp))
}

func (v *view) refusedLogin() *Finding {
	i := v.last(kinds(inventory.EventBMCRefused))
	if i < 0 || v.wentOn(i) {
		return nil
	}
	return problem(HopBMC, []inventory.Event{v.events[i]},
		fmt.Sprintf("%s refuses the login of site.hcl. It is not tried again until the credential changes, so that the account is not locked.", capital(v.bmc())),
		"Correct username or password in the machine's bmc block (or the variable behind it) and apply again.",
		"Log in to the BMC's own web page with the same credential: the account may be locked, disabled or lack the right to switch power.",
		"For ipmi: the account needs \"IPMI over LAN\" with the administrator or operator privilege, and passwords of more than 16 or 20 bytes do not fit.")
}

func (v *view) unreachable() *Finding {
	i := v.last(kinds(inventory.EventBMCUnreachable))
	if i < 0 || v.wentOn(i) {
		return nil
	}
	return problem(HopBMC, []inventory.Event{v.events[i]},
		fmt.Sprintf("%s does not answer: %s.", capital(v.bmc()), reasonText(v.events[i])),
		"Check the BMC's cable and that its address is the one in site.hcl; a BMC on DHCP may have moved.",
		"Check that this host has a route to the BMC's network, and that no firewall is between (TCP 443 for redfish, UDP 623 for ipmi).",
		"A hung BMC comes back after the machine's mains cable was out for half a minute.")
}

func reasonText(e inventory.Event) string {
	if r := attr(e, "error"); r != "" {
		return r
	}
	if e.Message != "" {
		return plain(e.Message)
	}
	return "no reason was given"
}

func (v *view) bmcError() *Finding {
	i := v.last(kinds(inventory.EventBMCError))
	if i < 0 || v.wentOn(i) {
		return nil
	}
	return problem(HopBMC, []inventory.Event{v.events[i]},
		fmt.Sprintf("%s answers with an error: %s.", capital(v.bmc()), reasonText(v.events[i])),
		"Apply again: a BMC that was busy or restarting recovers within minutes.",
		"Update the BMC's firmware, or try the other driver (redfish, ipmi) in the machine's bmc block.")
}

func capital(s string) string {
	if s == "" {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}

// firewall counts as long as the hop that needs the port was not passed.
func (v *view) firewall() *Finding {
	passed := map[string]test{
		"67":   kinds(inventory.EventDHCPDiscover, inventory.EventDHCPRequest),
		"4011": acknowledged,
		"69":   kinds(inventory.EventTFTPStart),
	}
	var found []inventory.Event
	for _, e := range v.all(kinds(inventory.EventHostFirewall)) {
		by, known := passed[e.Attrs["port"]]
		if !known {
			by = scriptAsked
		}
		if !v.has(by) && !v.has(session) {
			found = append(found, e)
		}
	}
	if len(found) == 0 {
		return nil
	}
	e := found[0]
	return problem(firewallHop(e), found,
		fmt.Sprintf("This host's own firewall blocks port %s%s, so the machine cannot be heard (%s).", attr(e, "port"), v.onInterface(), attr(e, "rule")),
		fmt.Sprintf("Allow what netboot needs%s: UDP 67, 69 and 4011, and the TCP port of the controller.", v.onInterface()),
		"If the firewall is managed by another program (firewalld, ufw, a container runtime), allow it there: its rules come back.")
}

func firewallHop(e inventory.Event) Hop {
	switch e.Attrs["port"] {
	case "67", "4011":
		return HopDHCP
	case "69":
		return HopBootFile
	}
	return HopIPXE
}

func (v *view) foreign() *Finding {
	i := v.last(foreignServer)
	if i < 0 || v.hasAfter(i, kinds(inventory.EventDHCPAck)) || v.has(session) {
		return nil
	}
	e := v.events[i]
	server := attr(e, "server")
	if server == "" {
		server = "unknown address"
	}
	return problem(HopDHCP, v.evidence(discovered, foreignServer),
		fmt.Sprintf("Another DHCP server (%s) answered, and the machine follows it.", server),
		"If that server is wanted on this network, set mode = \"proxy\" in the network's dhcp block: it keeps giving addresses, and this host adds the boot file.",
		"If it is not wanted (a home router, a forgotten virtual machine), find it by its address and switch its DHCP off.",
		"Or give the machines a network or VLAN of their own.")
}

func (v *view) refusedAddress() *Finding {
	i := v.last(kinds(inventory.EventDHCPNak, inventory.EventDHCPDecline))
	if i < 0 || v.hasAfter(i, kinds(inventory.EventDHCPAck, inventory.EventDHCPOffer)) {
		return nil
	}
	e := v.events[i]
	if e.Kind == inventory.EventDHCPDecline {
		return problem(HopDHCP, []inventory.Event{e},
			fmt.Sprintf("The machine found %s in use by somebody else and declined it; the address is kept out of use for a while.", attr(e, "address")),
			"Find the device that took the address without asking and give it another one, outside the range of the network.",
			"Or change the machine's address in site.hcl.")
	}
	return problem(HopDHCP, []inventory.Event{e},
		fmt.Sprintf("The machine was refused an address: %s.", reasonOf(e, plain(e.Message))),
		"If the range is exhausted, widen the range of the network's dhcp block or shorten the lease.",
		"If the machine asked for an address of another network, it will ask afresh; wait for its next DISCOVER.",
		"If the lease could not be stored, check the space and rights of the data directory.")
}

// loop is iPXE loaded more than once in one boot, without its script between.
func (v *view) loop() *Finding {
	count, since := 0, 0
	var evidence []inventory.Event
	for i, e := range v.events {
		switch {
		case scriptAsked(e):
			count, since, evidence = 0, i, nil
		case fileFetched(e):
			count++
			evidence = append(evidence, e)
		case e.Kind == inventory.EventBootLoop:
			if n, err := strconv.Atoi(e.Attrs["count"]); err == nil {
				count = max(count, n)
			}
			evidence = append(evidence, e)
		}
	}
	if count < 2 || v.hasAfter(since, session) {
		return nil
	}
	return problem(HopIPXE, evidence,
		fmt.Sprintf("The machine loaded iPXE %d times without ever asking for its script: it chain-loads itself in a circle, or iPXE comes back at once.", count),
		"If another DHCP server gives the boot file too, iPXE takes that answer and loads itself again: that server must give the boot file only to clients whose user class is not iPXE, or leave it to this host.",
		"If Secure Boot is on, the firmware refuses iPXE and tries again: switch it off in the firmware's setup.",
		"Update the firmware of the network card, or let the machine boot from another of its ports.")
}

func (v *view) refusedSession() *Finding {
	i := v.last(kinds(inventory.EventAgentRefused))
	if i < 0 || v.hasAfter(i, session) {
		return nil
	}
	return problem(HopAgent, []inventory.Event{v.events[i]},
		fmt.Sprintf("The installer runs, but its session was refused: %s.", reasonOf(v.events[i], "no reason was given")),
		"Switch the machine off and on again: a boot gets a token of its own, which can be used once and by that boot only.",
		"If it repeats, another device may be using this machine's MAC or address.")
}

func (v *view) noDisk() *Finding {
	i := v.last(kinds(inventory.EventDiskNoMatch))
	if i < 0 || v.hasAfter(i, diskTask) {
		return nil
	}
	e := v.events[i]
	summary := fmt.Sprintf("root_disk matches none of the machine's %s disks.", attr(e, "of"))
	advice := "Loosen the match of root_disk in site.hcl: absent is not zero, so a disk that does not say whether it rotates matches neither way."
	if n := attr(e, "matched"); n != "0" && n != "" {
		summary = fmt.Sprintf("root_disk matches %s of the machine's %s disks, and exactly one must match.", n, attr(e, "of"))
		advice = "Narrow the match of root_disk in site.hcl, for example by disk.serial or disk.wwn."
	}
	return problem(HopDisk, []inventory.Event{e}, summary,
		"Look at the disks that were found: edge-provision inventory show MACHINE.", advice,
		"If a disk is missing there, look for a storage controller in RAID mode, a loose cable, or a controller whose driver the installer lacks.")
}

func (v *view) failedTask() *Finding {
	failed := kinds(inventory.EventAgentResult).and(func(e inventory.Event) bool {
		return e.Attrs["outcome"] != "ok" && e.Attrs["outcome"] != "" && e.Attrs["outcome"] != "cancelled"
	})
	i := v.last(failed)
	if i < 0 {
		return nil
	}
	e := v.events[i]
	kind := attr(e, "kind")
	if v.hasAfter(i, kinds(inventory.EventAgentTask)) || v.hasAfter(i, sshUp) {
		return nil
	}
	hop := map[string]Hop{"facts": HopFacts, "configure": HopConfigure, "reboot": HopReboot}[e.Attrs["kind"]]
	if hop == "" {
		hop = HopDisk
	}
	try := []string{"Apply again: chunks that are on the disk are proved by their digests and not fetched again."}
	if hop != HopDisk {
		try = []string{"Apply again: the task is repeated from its beginning."}
	}
	if hop == HopDisk {
		try = append(try, "If the same disk fails again, replace it: look for its serial with edge-provision inventory show MACHINE.")
	}
	return problem(hop, []inventory.Event{e},
		fmt.Sprintf("The installer could not %s: %s.", kind, reasonText(e)), try...)
}

func (v *view) failedStep() *Finding {
	i := v.last(failedSteps)
	if i < 0 {
		return nil
	}
	e := v.events[i]
	again := kinds(inventory.EventStepStarted, inventory.EventStepFinished).and(func(o inventory.Event) bool {
		return o.Step == e.Step && o.Attrs["outcome"] != "failed"
	})
	// What a machine did not do in time is better told by the hop it is at.
	if v.hasAfter(i, again) || !v.has(sshUp) && !v.has(installed) && v.last(switchedOn) < i && v.has(switchedOn) {
		return nil
	}
	return problem(HopStep, []inventory.Event{e},
		fmt.Sprintf("Step %s failed: %s.", plain(e.Step), reasonText(e)),
		"Correct what the error names and apply again: what is done is not repeated.")
}

package timeline

import (
	"fmt"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// How long each hop may be silent before it counts as stuck. They fit real
// servers: some take ten minutes from power to their first DISCOVER.
const (
	patienceFirmware = 10 * time.Minute
	patienceDHCP     = 30 * time.Second
	patienceFetch    = time.Minute
	patienceKernel   = 2 * time.Minute
	patienceAgent    = 3 * time.Minute
	patienceWrite    = 5 * time.Minute
	// patienceUnheard is for a write whose progress is not known.
	patienceUnheard = time.Hour
	patienceBoot    = 15 * time.Minute
)

// waiting goes from the last hop back to the first and says what the machine
// has reached, and so which hop it is waiting in.
func (v *view) waiting() *Finding {
	switch {
	case len(v.events) == 0:
		return v.nothing()
	case v.has(sshUp):
		return v.well()
	case v.has(configured), v.has(rebooted), v.has(installed):
		return v.disk()
	case v.has(diskTask):
		return v.writing()
	case v.has(factsReported):
		return &Finding{
			Hop: HopDecision, Level: Progress, Evidence: v.evidence(session, factsReported),
			Summary: fmt.Sprintf("The machine is described and waits in the installer for a decision, for %s.", span(v.silent())),
			Try: []string{
				"If no apply is running, run edge-provision apply SITE.hcl: it shows what would be erased and asks.",
			},
		}
	case v.has(session):
		return v.overdue(HopFacts, patienceAgent, "the agent gathers facts",
			"The agent opened its session and reported no facts.", v.evidence(session),
			"Look at the machine's console: a device that hangs when it is read shows there.",
			"Switch the machine off and on again; if it repeats, take out added cards and disks one by one.")
	case v.has(kernelFetched):
		return v.agent()
	case v.has(scriptAsked):
		return v.kernel()
	case v.has(ipxeRuns):
		return v.script()
	case v.has(fileFetched):
		return v.silentFile()
	case v.has(fileStarted), v.has(fileBroken):
		return v.bootFile()
	case v.has(acknowledged):
		return v.noFile()
	case v.has(requested):
		return v.noAck()
	case v.has(discovered):
		return v.noRequest()
	case v.has(kinds(inventory.EventDHCPDiscover, inventory.EventDHCPRequest)):
		return v.system()
	}
	return v.noDiscover()
}

func (v *view) nothing() *Finding {
	switch {
	case !v.Declared:
		return problem(HopSite, nil, "Nothing was ever heard from this machine, and it is not declared in site.hcl.",
			"Check the name or MAC that you asked for: edge-provision inventory list shows the machines that are known.")
	case v.State == inventory.StateInstalled:
		return &Finding{
			Hop: HopSSH, Level: Well, Summary: "The machine is installed; events of its installation are no longer kept.",
			Try: []string{"Run edge-provision plan SITE.hcl: it looks at the machine itself."},
		}
	case v.hasBMC():
		return &Finding{
			Hop: HopBMC, Level: Progress, Summary: "Nothing was done with this machine yet: no run has switched it on.",
			Try: []string{"Run edge-provision apply SITE.hcl."},
		}
	}
	return problem(HopFirmware, nil, fmt.Sprintf("Nothing was heard from this machine, and it has no BMC: somebody must switch it on while apply or serve is running%s.", v.onInterface()),
		append([]string{"Switch the machine on, while edge-provision apply or serve is running."}, v.bootAdvice()...)...)
}

// bootAdvice is what to check when no DISCOVER arrives.
func (v *view) bootAdvice() []string {
	return []string{
		fmt.Sprintf("Check the cable and that the switch port is in the provisioning network%s; with spanning tree, the port must be an edge port (portfast).", v.onInterface()),
		"In the firmware's setup: network boot (the \"network stack\" or \"PXE\" of the port) must be enabled, and before the disk when there is no BMC to choose it.",
		"Compare the MAC in site.hcl with the label of the port that is plugged in.",
	}
}

func (v *view) noDiscover() *Finding {
	try := v.bootAdvice()
	if !v.has(switchedOn) {
		evidence := v.evidence(func(inventory.Event) bool { return true })
		if v.hasBMC() {
			return v.overdue(HopBMC, patienceFirmware, "the machine is about to be switched on",
				"The machine was not switched on.", evidence, "Run edge-provision apply SITE.hcl again.")
		}
		return v.overdue(HopFirmware, patienceFirmware, "waiting for somebody to switch the machine on",
			"No DISCOVER came from the machine, which has no BMC.", evidence,
			append([]string{"Switch the machine on."}, try...)...)
	}
	return v.overdue(HopFirmware, patienceFirmware, "the firmware starts",
		"The machine was switched on, and no DISCOVER came from its firmware.", v.evidence(kinds(inventory.EventBMCBoot), switchedOn),
		append(try, "Look at its screen or console: it may wait for a key, a password or a memory error to be confirmed.")...)
}

func (v *view) noRequest() *Finding {
	asked := v.all(discovered)
	evidence := v.evidence(discovered, offered, kinds(inventory.EventDHCPForeign))
	going := "the firmware is being given an address"
	if !v.has(offered) {
		if v.Mode == "off" {
			return problem(HopDHCP, evidence, "The firmware asks for an address, and dhcp is off for this network in site.hcl.",
				"Set mode = \"server\", or \"proxy\" beside another DHCP server, in the network's dhcp block.")
		}
		return v.overdue(HopDHCP, patienceDHCP, going,
			fmt.Sprintf("The firmware sent %s and no offer was made to it.", times(len(asked), "DISCOVER")), evidence,
			"Check that edge-provision apply or serve is running: it answers only then.",
			"Check that the machine is declared in the network it is plugged into.")
	}
	if v.Mode == "proxy" {
		return v.overdue(HopDHCP, patienceDHCP, going,
			fmt.Sprintf("The firmware sent %s and got our boot file, but took no address: the network's own DHCP server gives it none.", times(len(asked), "DISCOVER")), evidence,
			"Check that the other DHCP server is up, has free addresses, and admits this MAC.",
			"If there is no other DHCP server, set mode = \"server\" in the network's dhcp block.")
	}
	return v.overdue(HopDHCP, patienceDHCP, going,
		fmt.Sprintf("The firmware sent %s and was made an offer, but sent no REQUEST: the offer does not reach it, or it prefers another.", times(len(asked), "DISCOVER")), evidence,
		"Look for another DHCP server: probe from a laptop on the same switch port.",
		"Check that the switch does not filter DHCP answers (\"DHCP snooping\"): the port of this host must be trusted.",
		"Check the VLAN: the machine is heard, but may not hear what comes back on a tagged port.")
}

func times(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (v *view) noAck() *Finding {
	return v.overdue(HopDHCP, patienceDHCP, "the firmware is being given an address",
		"The firmware took an offer, and its REQUEST was not answered.", v.evidence(discovered, offered, requested),
		"Look in the controller's log for an error of the lease store: an address is given only when the lease is on disk.",
		"In mode = \"proxy\" the other DHCP server must answer the REQUEST.")
}

func (v *view) noFile() *Finding {
	i := v.last(acknowledged)
	evidence := v.evidence(discovered, acknowledged)
	if v.bootsFromDisk() {
		return v.sentToDisk(acknowledged)
	}
	if v.events[i].Attrs["boot_file"] == "" && v.Mode != "proxy" {
		return v.overdue(HopBootFile, patienceFirmware, "the firmware was told to boot from its disk",
			"The firmware got an address and, as intended, no boot file: it should have started from its disk.", evidence,
			"Look at the machine's screen: a disk that cannot be started shows there.",
			"To install it again, plan a replacement: edge-provision plan -replace=ADDRESS SITE.hcl.")
	}
	return v.overdue(HopBootFile, patienceFetch, "the firmware is about to fetch its boot file",
		"The firmware got an address and the name of its boot file, and never asked for the file.", evidence,
		fmt.Sprintf("Check that nothing between blocks UDP 69%s, also a firewall of this host.", v.onInterface()),
		"Check that the file's server in the answer is an address that the machine can reach without a router.",
		"If another DHCP server answers too, the firmware may have mixed both answers.")
}

// bootsFromDisk says whether a netboot of the machine is answered with local
// boot, as it is for one that is finished or only discovered.
func (v *view) bootsFromDisk() bool {
	return v.State == inventory.StateInstalled || v.State == inventory.StateDiscovered
}

// sentToDisk is the end of the road for such a machine: what it boots then is
// not heard when its address is static.
func (v *view) sentToDisk(by test) *Finding {
	try := "Run edge-provision plan SITE.hcl: it looks at the machine itself."
	if v.State == inventory.StateDiscovered {
		try = "To install it, declare it in site.hcl: a machine block with its MAC."
	}
	return &Finding{
		Hop: HopReboot, Level: Well, Evidence: v.evidence(discovered, by), Try: []string{try},
		Summary: fmt.Sprintf("The machine is %s: it restarted %s ago and was sent on to its disk.", v.State, span(v.silent())),
	}
}

func (v *view) bootFile() *Finding {
	started, broken := v.last(fileStarted), v.last(fileBroken)
	if broken > started || (broken >= 0 && v.silent() > patienceFetch) {
		e := v.events[broken]
		stuck := fmt.Sprintf("The transfer of the boot file broke off: %s.", brokenReason(e))
		if gaveUp := strings.Contains(e.Attrs["error"], "timeout"); gaveUp {
			stuck = fmt.Sprintf("The transfer of boot file %s began and never ended: the machine stopped answering after %s of %s.",
				attr(e, "file"), size(attr(e, "bytes")), size(attr(e, "size")))
		}
		return v.overdue(HopBootFile, patienceFetch, "the firmware tries its boot file again", stuck, v.evidence(fileStarted, fileBroken),
			transferAdvice()...)
	}
	return v.overdue(HopBootFile, patienceFetch, "the firmware is fetching its boot file",
		fmt.Sprintf("The transfer of boot file %s began and never ended.", attr(v.events[started], "file")), v.evidence(acknowledged, fileStarted),
		transferAdvice()...)
}

func brokenReason(e inventory.Event) string {
	if r := attr(e, "error"); r != "" {
		return r
	}
	if s := attr(e, "status"); s != "" {
		return "HTTP status " + s
	}
	return fmt.Sprintf("%s of %s bytes were taken", attr(e, "bytes"), attr(e, "size"))
}

func transferAdvice() []string {
	return []string{
		"Check for a firewall that lets UDP 69 in but drops the rest: TFTP goes on from another port of each side (RFC 1350).",
		"Check the cable and the switch port for errors, and the path for an MTU below 1500.",
		"Switch the machine off and on again; if it repeats, update the firmware of its network card.",
	}
}

func (v *view) silentFile() *Finding {
	e := v.events[v.last(fileFetched)]
	try := []string{
		"If Secure Boot is on, the firmware loads iPXE, refuses its signature and says so only on the screen: switch Secure Boot off in the firmware's setup.",
		"Check that the boot file fits the firmware: a machine with another processor or in BIOS mode needs another file.",
		"Look at the machine's screen: an iPXE that cannot drive the network card says so there; try another port or update its firmware.",
	}
	if f := v.events[max(0, v.last(discovered))].Attrs["firmware"]; f == "bios" {
		try = try[1:]
	}
	return v.overdue(HopIPXE, patienceFetch, "iPXE starts",
		fmt.Sprintf("The boot file %s was fetched whole, and nothing came after it: the firmware did not run it.", fileName(e)),
		v.evidence(acknowledged, fileFetched), try...)
}

func fileName(e inventory.Event) string {
	if f := attr(e, "file"); f != "" {
		return f
	}
	return attr(e, "path")
}

func (v *view) script() *Finding {
	return v.overdue(HopIPXE, patienceFetch, "iPXE is about to fetch its script",
		"iPXE runs and asked for an address, and never asked for its script.",
		v.evidence(fileFetched, ipxeRuns, kinds(inventory.EventDHCPAck).and(having("firmware", "ours"))),
		fmt.Sprintf("Check that nothing blocks the controller's HTTP port%s, also a firewall of this host.", v.onInterface()),
		"Look for another DHCP server: iPXE may have taken its address, gateway or boot file from there.",
		"Look at the machine's screen: iPXE names the URL that it cannot open and a code that ipxe.org/err explains.")
}

func (v *view) kernel() *Finding {
	if !v.has(scriptFetched) && !v.has(kernelAsked) {
		i := v.last(scriptAsked)
		return v.overdue(HopIPXE, patienceFetch, "iPXE is fetching its script",
			fmt.Sprintf("iPXE asked for its script and did not get it whole (%s).", describe(v.events[i])), v.evidence(ipxeRuns, scriptAsked),
			"If the status is 403 or 404, the machine is not admitted to boot now: look at its state with edge-provision inventory show MACHINE.",
			"Otherwise look in the controller's log for the error of this request.")
	}
	if !v.has(kernelAsked) && v.bootsFromDisk() {
		return v.sentToDisk(scriptFetched)
	}
	if !v.has(kernelAsked) {
		return v.overdue(HopKernel, patienceFetch, "iPXE reads its script",
			"iPXE has its script and fetches no kernel: the script tells it to wait or to boot from disk, or it cannot go on.", v.evidence(scriptFetched),
			"Look at its state with edge-provision inventory show MACHINE: one that is installed or only discovered is sent to its disk.",
			"Look at the machine's screen: iPXE names the URL that it cannot open.")
	}
	return v.overdue(HopKernel, patienceKernel, "iPXE is fetching kernel and initramfs",
		"iPXE began to fetch the kernel and did not finish.", v.evidence(scriptFetched, kernelAsked),
		"Check the cable and the switch port for errors: tens of megabytes go over it here.",
		"Switch the machine off and on again: iPXE does not resume.")
}

func (v *view) agent() *Finding {
	evidence := v.evidence(kernelFetched, initramfs, agentDHCP, agentAddressed)
	switch {
	case !v.has(initramfs):
		return v.overdue(HopKernel, patienceKernel, "iPXE is fetching the initramfs",
			"The kernel was fetched, the initramfs was not fetched whole.", evidence,
			"Check the cable and the switch port for errors: tens of megabytes go over it here.",
			"Switch the machine off and on again: iPXE does not resume.")
	case v.has(agentAddressed):
		return v.overdue(HopAgent, patienceAgent, "the installer has an address and connects",
			"The installer runs and has an address, but opened no session with the controller.", evidence,
			fmt.Sprintf("Check that nothing blocks the controller's HTTPS port%s, also a firewall of this host.", v.onInterface()),
			"Look at the machine's console: the agent says there why it cannot connect.")
	case v.has(agentDHCP):
		return v.overdue(HopAgent, patienceAgent, "the installer asks for an address",
			"The installer runs and asks for an address, and gets none.", evidence,
			"Look for another DHCP server, and whether the network's range has free addresses.")
	}
	return v.overdue(HopAgent, patienceAgent, "the kernel starts",
		"Kernel and initramfs were fetched, and the agent was never heard.", evidence,
		"Look at the machine's console: a kernel that stops says why. A machine needs at least 1 GiB of memory to unpack the installer.",
		"If the console ends at the agent looking for a network: the installer may lack the network card's driver or firmware; look for its PCI ids.",
		"If the screen stays black after iPXE, try the other firmware mode (UEFI or BIOS).")
}

func (v *view) writing() *Finding {
	progressed := kinds(inventory.EventAgentProgress)
	evidence := v.evidence(diskTask, progressed, kinds(inventory.EventAgentResult))
	if v.has(written) {
		return v.overdue(HopConfigure, patienceWrite, "the image is written and the machine gets its identity",
			"The image is written, and the machine was not configured.", evidence,
			"Run edge-provision apply SITE.hcl: it goes on where it stopped.")
	}
	going := "the disk is worked on"
	if i := v.last(progressed); i >= 0 {
		going = strings.TrimSuffix("the disk is worked on ("+describe(v.events[i])+")", " ()")
	}
	patience := patienceWrite
	if v.Heard.IsZero() {
		patience = patienceUnheard
	}
	return v.overdue(HopDisk, patience, going, "The image is not written whole.", evidence,
		"If the controller was stopped, run edge-provision apply SITE.hcl: chunks that are on the disk are not fetched again.",
		"If it is running, look at the machine's console and at the disk's health: a dying disk slows down before it fails.")
}

// disk is the time between the installer's end and SSH.
func (v *view) disk() *Finding {
	done := max(v.last(configured), v.last(rebooted), v.last(installed))
	evidence := v.evidence(written, configured, rebooted, installed)
	if v.last(discovered) > done {
		return v.overdue(HopReboot, patienceBoot, "the machine netboots first and was sent on to its disk",
			"The image is written, but the machine started from the network again and did not come up from its disk.", v.evidence(configured, rebooted, installed, discovered),
			"In the firmware's setup, put the disk with the new system before the network, or add its boot entry (EFI/BOOT/BOOTX64.EFI).",
			"Check that the image supports the firmware mode (UEFI or BIOS) that the machine starts in.",
			"If root_disk chose a disk that the firmware cannot start from, choose another one.")
	}
	system := kinds(inventory.EventDHCPDiscover, inventory.EventDHCPRequest).and(having("firmware", "os"))
	if v.last(system) > done {
		return v.overdue(HopSSH, patienceBoot, "the installed system starts",
			"The installed system runs and asked for an address, and does not answer over SSH.", v.evidence(configured, rebooted, installed, system),
			"Check that the image holds an SSH server that starts by itself, and that no firewall of the image blocks TCP 22.",
			"If the address of the machine is static in site.hcl, check that the image's network configuration was taken: it asked by DHCP.")
	}
	return v.overdue(HopReboot, patienceBoot, "the machine restarts from its disk",
		"The image is written, and the installed system was never heard.", evidence,
		"Look at the machine's screen: a boot loader or kernel that stops shows there.",
		"Check that the firmware starts the disk that was written, in the mode (UEFI or BIOS) that the image supports.",
		"Check that the machine's address in site.hcl is reachable from this host.")
}

// system is an operating system that boots from disk, without an attempt.
func (v *view) system() *Finding {
	e := v.events[len(v.events)-1]
	return &Finding{
		Hop: HopFirmware, Level: Progress, Evidence: []inventory.Event{e},
		Summary: fmt.Sprintf("The machine runs a system of its own (last heard %s ago): its firmware did not ask to netboot.", span(v.since(e))),
		Try:     append([]string{"To install it, run edge-provision apply SITE.hcl; without a BMC, restart the machine meanwhile."}, v.bootAdvice()[1:]...),
	}
}

func (v *view) well() *Finding {
	e := v.events[v.last(sshUp)]
	return &Finding{
		Hop: HopSSH, Level: Well, Evidence: []inventory.Event{e},
		Summary: fmt.Sprintf("All is well: the machine is installed and answered over SSH %s ago.", span(v.since(e))),
	}
}

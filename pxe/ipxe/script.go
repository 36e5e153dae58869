package ipxe

import (
	"fmt"
	"strings"
)

// Embedded is the script inside our UEFI programs. It asks DHCP for IPv4 only
// (iPXE by default also waits 13 s for an IPv6 router), on one NIC after the
// other until one of them finds this server, at most five rounds, and then
// leaves for the firmware's next boot device.
func Embedded(root string) string {
	return `#!ipxe
set user-class ` + UserClass + `
set round:int32 0
:round
set i:int32 0
:nic
isset ${net${i}/mac} || goto again
ifconf -c dhcp net${i} || goto next
chain --replace --autofree ` + root + `/boot/${net${i}/mac:hexhyp}/script.ipxe ||
ifclose net${i}
:next
inc i
goto nic
:again
inc round
iseq ${round} 5 && exit 1 ||
sleep 2
goto round
`
}

// Install is the script that boots the installer. It tries five times to fetch
// both files and then leaves for the firmware's next boot device.
func Install(kernel, initramfs, commandLine string) (string, error) {
	for what, url := range map[string]string{"kernel": kernel, "initramfs": initramfs} {
		if url == "" || strings.ContainsFunc(url, func(r rune) bool { return r <= ' ' || r > '~' }) || strings.Contains(url, "${") {
			return "", fmt.Errorf("%s URL %q cannot stand in an iPXE script", what, url)
		}
	}
	if err := checkCommandLine(commandLine); err != nil {
		return "", err
	}
	if commandLine != "" {
		commandLine = " " + commandLine
	}
	// initrd= names the image for kernels that are started through their EFI
	// stub without the LoadFile2 protocol (Linux before 5.8).
	return `#!ipxe
set try:int32 0
:fetch
imgfree
kernel ` + kernel + ` initrd=initramfs` + commandLine + ` || goto failed
initrd --name initramfs ` + initramfs + ` || goto failed
boot || goto failed
:failed
inc try
iseq ${try} 5 && exit 1 ||
sleep 2
goto fetch
`, nil
}

// maxCommandLine is COMMAND_LINE_SIZE of Linux on x86, without the final NUL
// and our "initrd=initramfs ".
const maxCommandLine = 2047 - len("initrd=initramfs ")

// checkCommandLine refuses what iPXE would not hand on as it is: it expands
// ${…} and splits commands at || && and ; and ends them at #.
func checkCommandLine(s string) error {
	if len(s) > maxCommandLine {
		return fmt.Errorf("a kernel command line of %d bytes is longer than %d", len(s), maxCommandLine)
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
		return fmt.Errorf("the kernel command line has an unprintable or non-ASCII character at byte %d", i)
	}
	if strings.ContainsAny(s, "\"'\\") || strings.Contains(s, "${") {
		return fmt.Errorf("the kernel command line has a quote, backslash or ${, which iPXE would change")
	}
	for _, word := range strings.Fields(s) {
		if word == "||" || word == "&&" || word == ";" || strings.HasPrefix(word, "#") {
			return fmt.Errorf("the kernel command line has the word %q, which iPXE takes for its own", word)
		}
	}
	return nil
}

// Local is the script of a machine that is to boot from its own disk.
//
// Under UEFI it leaves with an error, which alone makes the boot manager go on
// to the next entry: after success EDK2 stops and shows its menu (UEFI 2.10
// section 3.1.1). Under BIOS it starts the disk itself, because the next boot
// device of a network-only boot order would be the network again; drive is the
// disk's INT 13h number, 0x80 when zero.
func Local(drive uint8) string {
	if drive == 0 {
		drive = 0x80
	}
	return fmt.Sprintf(`#!ipxe
iseq ${platform} efi && exit 1 ||
sanboot --no-describe --drive 0x%02x || exit 1
`, drive)
}

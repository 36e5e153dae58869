package pxe

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestBootFor(t *testing.T) {
	const url = "http://172.22.77.1:8480"
	script := url + "/boot/" + macA.String() + "/script.ipxe"
	tests := []struct {
		name    string
		c       Client
		http    bool
		kind    Kind
		site    bootSite
		want    bootFile
		refused string
	}{
		{"BIOS loads our iPXE", Client{Stage: StageBIOS, HasArch: true}, false, KindInstall, bootSite{}, bootFile{name: "undionly.kpxe"}, ""},
		{"PXE without an architecture is BIOS", Client{Stage: StageBIOS}, false, KindInstall, bootSite{}, bootFile{name: "undionly.kpxe"}, ""},
		{"UEFI loads our iPXE", Client{Stage: StageUEFI, Arch: 7, HasArch: true}, false, KindInstall, bootSite{}, bootFile{name: "ipxe.efi"}, ""},
		{"UEFI that says 9", Client{Stage: StageUEFI, Arch: 9, HasArch: true}, false, KindInstall, bootSite{}, bootFile{name: "ipxe.efi"}, ""},
		{"arm64 UEFI", Client{Stage: StageUEFI, Arch: 11, HasArch: true}, false, KindInstall, bootSite{}, bootFile{name: "snp.efi"}, ""},
		{"an architecture without program", Client{Stage: StageUEFI, Arch: 27, HasArch: true}, false, KindInstall, bootSite{}, bootFile{}, "no boot program for architecture 27"},
		{"UEFI HTTP boot", Client{Stage: StageHTTPBoot, Arch: 16, HasArch: true}, false, KindInstall, bootSite{}, bootFile{name: url + "/ipxe/ipxe.efi", class: "HTTPClient"}, ""},
		{"a ROM's iPXE that has HTTP gets the script", Client{Stage: StageROMIPXE, HasArch: true}, true, KindInstall, bootSite{}, bootFile{name: script, noProxyWait: true}, ""},
		{"a ROM's iPXE without HTTP gets ours", Client{Stage: StageROMIPXE, HasArch: true}, false, KindInstall, bootSite{}, bootFile{name: "undionly.kpxe", noProxyWait: true}, ""},
		{"a ROM's iPXE that is not trusted gets ours", Client{Stage: StageROMIPXE, HasArch: true}, true, KindInstall, bootSite{chainROM: true}, bootFile{name: "undionly.kpxe", noProxyWait: true}, ""},
		{"and when it comes back under the same name, the script", Client{Stage: StageROMIPXE, HasArch: true}, true, KindInstall, bootSite{chainROM: true, chained: 1}, bootFile{name: script, noProxyWait: true}, ""},
		{"our iPXE gets the script", Client{Stage: StageIPXE}, false, KindInstall, bootSite{}, bootFile{name: script, noProxyWait: true}, ""},
		{"a finished machine gets the same path", Client{Stage: StageUEFI, Arch: 7, HasArch: true}, false, KindLocal, bootSite{}, bootFile{name: "ipxe.efi"}, ""},
		{"the installer has nothing to boot", Client{Stage: StageAgent}, false, KindInstall, bootSite{}, bootFile{}, ""},
		{"nor has an operating system", Client{Stage: StageOS}, false, KindInstall, bootSite{}, bootFile{}, ""},
		{"an address alone", Client{Stage: StageUEFI, Arch: 7, HasArch: true}, false, KindAddressOnly, bootSite{}, bootFile{}, ""},
		{"a proxy says PXEClient and: this very file", Client{Stage: StageUEFI, Arch: 7, HasArch: true}, false, KindInstall, bootSite{proxy: true}, bootFile{name: "ipxe.efi", class: "PXEClient", direct: true}, ""},
		{"a proxy answers HTTP boot as such", Client{Stage: StageHTTPBoot, Arch: 16, HasArch: true}, false, KindInstall, bootSite{proxy: true}, bootFile{name: url + "/ipxe/ipxe.efi", class: "HTTPClient"}, ""},
		{"three programs without a script are enough", Client{Stage: StageUEFI, Arch: 7, HasArch: true}, false, KindInstall, bootSite{chained: 3}, bootFile{}, "ipxe.efi was loaded 3 times and never asked for its script"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.c.MAC, tt.site.url = macA, url
			got, refused := bootFor(tt.c, tt.http, Answer{Kind: tt.kind}, tt.site)
			if got != tt.want || refused != tt.refused {
				t.Errorf("bootFor(%+v) = %+v, %q; want %+v, %q", tt.c, got, refused, tt.want, tt.refused)
			}
		})
	}
}

func TestStageOf(t *testing.T) {
	tests := []struct {
		name string
		o    dhcpv4.Options
		want Stage
	}{
		{"UEFI firmware", uefiPXE(), StageUEFI},
		{"BIOS firmware", dhcpv4.Options{60: []byte("PXEClient:Arch:00000:UNDI:002001"), 93: {0, 0}}, StageBIOS},
		{"BIOS firmware without option 93", dhcpv4.Options{60: []byte("PXEClient:Arch:00000:UNDI:002001")}, StageBIOS},
		{"UEFI firmware without option 93", dhcpv4.Options{60: []byte("PXEClient:Arch:00007:UNDI:003001")}, StageUEFI},
		{"QEMU's iPXE", romIPXE(), StageROMIPXE},
		{"an iPXE with another user class", dhcpv4.Options{60: []byte("PXEClient:Arch:00000"), 77: []byte("mine"), 175: {0x13, 1, 1}}, StageROMIPXE},
		{"our iPXE", dhcpv4.Options{60: []byte("PXEClient:Arch:00007"), 77: []byte("edge-provision"), 175: {0x13, 1, 1}}, StageIPXE},
		{"our iPXE for BIOS", dhcpv4.Options{60: []byte("PXEClient:Arch:00000"), 77: []byte("Tinkerbell"), 175: {0x13, 1, 1}}, StageIPXE},
		{"a user class in RFC 3004's form", dhcpv4.Options{60: []byte("PXEClient:Arch:00000"), 77: []byte("\x04iPXE")}, StageROMIPXE},
		{"UEFI HTTP boot", dhcpv4.Options{60: []byte("HTTPClient:Arch:00016:UNDI:003001"), 93: {0, 16}}, StageHTTPBoot},
		{"the installer", dhcpv4.Options{60: []byte(AgentVendorClass)}, StageAgent},
		{"an operating system", dhcpv4.Options{60: []byte("MSFT 5.0")}, StageOS},
		{"nobody in particular", nil, StageOS},
	}
	for _, tt := range tests {
		m, err := parseMessage(request{typ: dhcpv4.MessageTypeDiscover, mac: macA, options: tt.o}.bytes())
		if err != nil {
			t.Fatal(err)
		}
		if m.client.Stage != tt.want {
			t.Errorf("stage of %s = %s; want %s", tt.name, m.client.Stage, tt.want)
		}
	}
}

func TestClientUUIDIsReadAsTheCatalogReadsIt(t *testing.T) {
	m, err := parseMessage(request{typ: dhcpv4.MessageTypeDiscover, mac: macA, options: uefiPXE()}.bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got := m.client.UUID.String(); got != "564d0421-0000-4000-8000-000000042101" {
		t.Errorf("UUID = %s; want QEMU's 564d0421-0000-4000-8000-000000042101, which OVMF sends in SMBIOS byte order", got)
	}
	junk := strings.Repeat("\xff", 16)
	for _, v := range []string{"", "\x00", "\x00" + junk, "\x01" + junk[1:] + "a", "\x00" + junk + "a"} {
		if got := clientUUID([]byte(v)); got != (uuid.UUID{}) {
			t.Errorf("clientUUID(%q) = %s; want none", v, got)
		}
	}
}

func TestSightingsAreBounded(t *testing.T) {
	s := newSightings()
	for i := range maxSightings + 100 {
		c := Client{MAC: [6]byte{2, 0, 0, 0, byte(i >> 8), byte(i)}, Address: testServer}
		s.saw(c, noon)
	}
	if len(s.byMAC) > maxSightings {
		t.Errorf("%d machines remembered; want at most %d", len(s.byMAC), maxSightings)
	}
	g := s.saw(Client{MAC: macA}, noon)
	g.chained, g.loaded = 2, noon
	if got := g.chainedNow(noon.Add(time.Minute)); got != 2 {
		t.Errorf("chainedNow a minute later = %d; want 2", got)
	}
	if got := g.chainedNow(noon.Add(chainWindow + time.Second)); got != 0 {
		t.Errorf("chainedNow after the window = %d; want 0: the machine may try again", got)
	}
}

//go:build e2e

package boot_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/imagebuilder"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/dispatch"
	"github.com/edge-provision/edge-provision/workflows/keyring"
	"github.com/edge-provision/edge-provision/workflows/keyring/keyringtest"
)

const (
	testMAC  = "52:54:00:04:21:01"
	diskSize = 2 << 30
)

// qemu starts a machine with user-mode networking: 10.0.2.2 is this host.
func qemu(t *testing.T, log string, args ...string) (wait func() error) {
	t.Helper()
	base := []string{
		"-nographic", "-no-reboot", "-m", "1024", "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512",
		"-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand", "-smp", "2", "-device", "virtio-rng-pci",
		"-uuid", "0f8e3c4e-5b5b-4f0e-9d5c-42a9cf3f7f10", "-smbios", "type=1,manufacturer=QEMU,serial=SN-0421",
		"-serial", "file:" + log, "-monitor", "none",
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(base, args...)...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var once sync.Once
	var err error
	wait = func() error {
		once.Do(func() { err = <-ended })
		return err
	}
	t.Cleanup(func() {
		cancel()
		_ = wait()
		if t.Failed() {
			console, _ := os.ReadFile(log)
			t.Logf("qemu said: %s\nconsole:\n%s", output.String(), console[max(0, len(console)-12000):])
		}
	})
	return wait
}

// TestInstallerInstallsAMachine boots the real installer in an emulated machine,
// installs the real image through the real protocol, boots the disk and logs in
// over SSH with the host key that the agent reported.
func TestInstallerInstallsAMachine(t *testing.T) {
	for _, machine := range []struct {
		name   string
		bus    string
		serial string
		args   func(dir string) []string
	}{
		{"bios", "virtio", "VDISK1", func(dir string) []string {
			return []string{"-drive", "if=none,id=d,format=raw,file=" + dir + "/disk", "-device", "virtio-blk-pci,drive=d,serial=VDISK1", "-device", "virtio-net-pci,netdev=n,mac=" + testMAC}
		}},
		{"uefi", "nvme", "NVME1", func(dir string) []string {
			return []string{
				"-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd", "-drive", "if=pflash,format=raw,file=" + dir + "/vars",
				"-drive", "if=none,id=d,format=raw,file=" + dir + "/disk", "-device", "nvme,drive=d,serial=NVME1", "-device", "virtio-net-pci,netdev=n,mac=" + testMAC,
			}
		}},
	} {
		// The image's small kernel has drivers of virtual hardware only.
		t.Run(machine.name, func(t *testing.T) {
			install(t, machine.bus, machine.serial, machine.args)
		})
	}
}

func install(t *testing.T, bus, serial string, hardware func(dir string) []string) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	dir := t.TempDir()
	began := time.Now()
	mark := func(what string) { t.Logf("%6.1fs %s", time.Since(began).Seconds(), what) }

	agentPath := filepath.Join(dir, "edge-agent")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", agentPath, "github.com/edge-provision/edge-provision/cmd/edge-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v\n%s", err, out)
	}
	builder := &imagebuilder.Builder{}
	installer, err := builder.BuildInstaller(ctx, imagebuilder.InstallerSpec{AgentPath: agentPath})
	if err != nil {
		t.Fatal(err)
	}
	image, err := builder.BuildOS(ctx, imagebuilder.OSSpec{Release: "bookworm", Packages: []string{"openssh-server", "chrony"}, Kernel: "cloud"})
	if err != nil {
		t.Fatal(err)
	}
	mark("installer and image are there")
	if err := errors.Join(os.WriteFile(dir+"/disk", nil, 0o600), os.Truncate(dir+"/disk", diskSize)); err != nil {
		t.Fatal(err)
	}
	vars, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.fd")
	if err == nil {
		err = os.WriteFile(dir+"/vars", vars, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}

	values, err := keyringtest.OpenFiles(dir + "/values")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.Open(ctx, keyring.Config{KeyFile: dir + "/key", Values: values})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := keys.Authority(ctx, "e2e", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	signer, publicKey, err := keys.SSH(ctx, "edge-provision controller")
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig, err := authority.TLS([]string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	server, err := dispatch.New(dispatch.Config{Site: "e2e", Store: values, TLS: tlsConfig})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	serveCtx, stopServing := context.WithCancel(ctx)
	go func() { served <- server.Serve(serveCtx, listener) }()
	defer func() {
		stopServing()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	files, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fileServer := &http.Server{Handler: http.FileServer(http.Dir(image.Dir)), ReadHeaderTimeout: time.Minute}
	go func() { _ = fileServer.Serve(files) }()
	defer fileServer.Close()
	fileURL := fmt.Sprintf("http://10.0.2.2:%d/", files.Addr().(*net.TCPAddr).Port)

	machine := uuid.Must(uuid.NewV7())
	mac, err := inventory.ParseMAC(testMAC)
	if err != nil {
		t.Fatal(err)
	}
	token, err := server.MintToken(ctx, machine, mac, "boot-1")
	if err != nil {
		t.Fatal(err)
	}
	cmdline := fmt.Sprintf("console=ttyS0 no_timer_check panic=10 edge.url=https://10.0.2.2:%d edge.pin=%s edge.token=%s edge.boot=boot-1 BOOTIF=01-%s",
		listener.Addr().(*net.TCPAddr).Port, authority.Pin(), token, strings.ReplaceAll(testMAC, ":", "-"))
	mark("power on")
	wait := qemu(t, dir+"/installer.log", append(hardware(dir), "-netdev", "user,id=n",
		"-kernel", installer.Kernel.Path, "-initrd", installer.Initramfs.Path, "-append", cmdline)...)
	session, err := server.WaitSession(ctx, machine)
	if err != nil {
		t.Fatal(err)
	}
	mark("session of " + session.Agent)
	facts, err := server.WaitFacts(ctx, machine)
	if err != nil {
		t.Fatal(err)
	}
	mark("facts")
	text, err := json.MarshalIndent(facts, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("facts: %s", text)
	disk := checkFacts(t, facts, bus, serial)

	do := func(task agent.Task) agent.Result {
		t.Helper()
		result, err := server.Do(ctx, machine, task, nil)
		if err != nil || result.Outcome != agent.OutcomeOK {
			t.Fatalf("Do(%s) = %+v (%+v), %v; want ok", task.Kind, result, result.Error, err)
		}
		return result
	}
	written := do(agent.Task{ID: "write", Attempt: 1, Kind: agent.KindWrite, Write: &agent.Write{
		Disk: agent.Ref(disk), Image: image.Digest, ManifestURL: fileURL + filepath.Base(image.ManifestPath), FramesURL: fileURL + filepath.Base(image.FramesPath),
	}})
	mark(fmt.Sprintf("written: %+v in %s", *written.Write, written.Duration))
	configured := do(agent.Task{ID: "configure", Attempt: 1, Kind: agent.KindConfigure, Configure: &agent.Configure{
		Disk: agent.Ref(disk), Image: image.Digest, Hostname: "node-a", Domain: "store.example",
		Network:  agent.NetworkConfig{MAC: mac, Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}},
		NTP:      []string{"10.0.2.2"},
		RootKeys: []string{publicKey}, Users: []agent.User{{Name: "ops", Keys: []string{publicKey}}},
		Identity: agent.Identity{Catalog: "c", Site: "e2e", Machine: machine, Address: `machine.node["a"]`, Image: image.Digest, Run: "r"},
	}})
	mark(fmt.Sprintf("configured: %+v", *configured.Configure))
	if uefi := facts.Firmware.Mode == "uefi"; uefi != (configured.Configure.BootEntry != "") {
		t.Errorf("boot entry = %q (%s) under %s", configured.Configure.BootEntry, configured.Configure.BootEntryNote, facts.Firmware.Mode)
	}
	do(agent.Task{ID: "reboot", Attempt: 1, Kind: agent.KindReboot})
	if err := wait(); err != nil {
		t.Fatalf("the installer's machine ended with %v; want a reboot", err)
	}
	mark("rebooting from disk")

	forward, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := forward.Addr().String()
	if err := forward.Close(); err != nil {
		t.Fatal(err)
	}
	qemu(t, dir+"/disk.log", append(hardware(dir), "-netdev", "user,id=n,hostfwd=tcp:"+address+"-10.0.2.15:22", "-boot", "c")...)
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(configured.Configure.HostKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"root", "ops"} {
		out := run(ctx, t, address, &ssh.ClientConfig{
			User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(hostKey),
			HostKeyAlgorithms: []string{ssh.KeyAlgoED25519}, Timeout: 10 * time.Second,
		}, "hostname -f; cat /etc/machine-id /etc/edge-provision/identity.json; findmnt -no PARTUUID /; id -un; df -B1 --output=size / | tail -1; getent hosts node-a; networkctl --no-pager status | head -3; cat /etc/chrony/sources.d/*")
		mark("SSH as " + user)
		t.Log(out)
		for _, want := range []string{"node-a.store.example", configured.Configure.MachineID, machine.String(), configured.Configure.RootPartUUID, user} {
			if !strings.Contains(out, want) {
				t.Errorf("over SSH as %s: no %q in %s", user, want, out)
			}
		}
	}
}

// checkFacts holds the facts to what qemu was told, and returns the disk.
func checkFacts(t *testing.T, facts inventory.Facts, bus, serial string) inventory.Disk {
	t.Helper()
	if facts.System == nil || facts.System.Serial != "SN-0421" || facts.System.UUID != "0f8e3c4e-5b5b-4f0e-9d5c-42a9cf3f7f10" {
		t.Errorf("system facts = %+v; want serial and UUID that qemu was given", facts.System)
	}
	if facts.Memory == nil || facts.Memory.Bytes != 1<<30 {
		t.Errorf("memory facts = %+v; want 1 GiB", facts.Memory)
	}
	if len(facts.NICs) != 1 || facts.NICs[0].MAC.String() != testMAC || !facts.NICs[0].Boot {
		t.Errorf("NIC facts = %+v; want the one that booted", facts.NICs)
	}
	for _, d := range facts.Disks {
		if d.Serial == serial {
			if d.Bus != bus || d.Bytes != diskSize || len(d.Signatures) != 0 {
				t.Errorf("disk facts = %+v; want a blank %s disk of %d bytes", d, bus, diskSize)
			}
			return d
		}
	}
	t.Fatalf("disk facts = %+v; want one with serial %s", facts.Disks, serial)
	return inventory.Disk{}
}

// run runs a command over SSH once the machine answers.
func run(ctx context.Context, t *testing.T, address string, config *ssh.ClientConfig, command string) string {
	t.Helper()
	for {
		client, err := ssh.Dial("tcp", address, config)
		if err == nil {
			defer client.Close()
			session, err := client.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			session.Stdout, session.Stderr = &out, io.Discard
			if err := session.Run(command); err != nil {
				t.Logf("running %q: %v", command, err)
			}
			return out.String()
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("SSH to %s: %v", address, err)
		}
	}
}

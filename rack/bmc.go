package rack

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/edge-provision/edge-provision/bmc/sim"
)

// bmcStopTimeout is what a Redfish service gets to answer what it was asked.
const bmcStopTimeout = 2 * time.Second

// startBMC puts a BMC in front of the machine and returns what stops it, or nil
// when the machine has none. It answers when startBMC returns.
func startBMC(ctx context.Context, l layout, c *computer) (stop func() error, err error) {
	switch c.spec.BMC.Driver {
	case BMCRedfish:
		return startRedfish(ctx, l, c)
	case BMCIPMI:
		s, err := sim.StartIPMI(ctx, sim.IPMIConfig{
			Addr:     c.spec.BMC.Address,
			Username: c.spec.BMC.Username, Password: c.spec.BMC.Password,
			StateDir: l.bmc(c.spec.Address),
			GUID:     c.spec.UUID,
			EFI:      c.spec.Firmware == FirmwareUEFI,
			FRU:      sim.FRU{Manufacturer: c.spec.Manufacturer, Product: c.spec.Product, Serial: c.spec.Serial},
		}, c)
		if err != nil {
			return nil, err
		}
		return s.Stop, nil
	case BMCNone:
	}
	return nil, nil
}

// startRedfish binds the BMC's own address and serves until stopped.
func startRedfish(ctx context.Context, l layout, c *computer) (stop func() error, err error) {
	m := c.spec
	cert, _, err := existingCertificate(l.certificatePair(m), m.BMC.Address.Addr())
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", m.BMC.Address.String())
	if err != nil {
		return nil, fmt.Errorf("binding the BMC's address: %w", err)
	}
	macs := make([]string, len(m.NICs))
	for i, n := range m.NICs {
		macs[i] = n.MAC.String()
	}
	server := &http.Server{
		Handler: sim.NewRedfish(sim.RedfishConfig{
			Username: m.BMC.Username, Password: m.BMC.Password,
			SystemUUID: m.UUID.String(), Serial: m.Serial,
			Manufacturer: m.Manufacturer, Model: m.Product,
			MACs: macs, Hardware: c.hardware,
		}, c),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          log.New(slogWriter{c.log}, "", 0),
	}
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(listener, "", "") }()
	return func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bmcStopTimeout)
		defer cancel()
		err := server.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close()
		}
		if end := <-served; !errors.Is(end, http.ErrServerClosed) {
			err = errors.Join(err, end)
		}
		return err
	}, nil
}

// hardware is what the machine has now, as its BMC shows it.
func (c *computer) hardware() sim.Hardware {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := sim.Hardware{CPUs: c.spec.CPUs, MemoryBytes: c.spec.MemoryBytes / mib * mib}
	protocols := map[DiskBus]string{DiskNVMe: "NVMe", DiskAHCI: "SATA", DiskSCSI: "SAS"}
	for _, d := range c.disks {
		out.Drives = append(out.Drives, sim.Drive{
			Bytes: d.Bytes, BlockBytes: d.LogicalBlock, Serial: d.Serial, Protocol: protocols[d.Bus], WWN: d.WWN, Rotational: d.Rotational,
		})
	}
	return out
}

// slogWriter takes the lines of net/http's own log.
type slogWriter struct{ log *slog.Logger }

func (w slogWriter) Write(b []byte) (int, error) {
	w.log.Debug("Redfish service", "message", string(b))
	return len(b), nil
}

// describeBMC adds to the status where the BMC answers.
func describeBMC(l layout, m Machine, s *MachineStatus) {
	switch m.BMC.Driver {
	case BMCIPMI:
		s.BMC = m.BMC.Address.String()
	case BMCRedfish:
		s.BMC = "https://" + m.BMC.Address.String()
		if m.BMC.Address.Port() == redfishPort {
			s.BMC = "https://" + m.BMC.Address.Addr().String()
		}
		// Without its certificate the BMC would not have started.
		if _, fingerprint, err := existingCertificate(l.certificatePair(m), m.BMC.Address.Addr()); err == nil {
			s.Fingerprint, s.Certificate = fingerprint, l.certificate(m)
		}
	case BMCNone:
	}
}

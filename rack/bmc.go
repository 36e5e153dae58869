package rack

import (
	"context"

	"github.com/edge-provision/edge-provision/bmc/sim"
)

// startBMC puts a BMC in front of the machine and returns what stops it, or nil
// when the machine has none.
func startBMC(ctx context.Context, l layout, c *computer) (stop func() error, err error) {
	b := c.spec.BMC
	switch b.Driver {
	case BMCIPMI:
		s, err := sim.StartIPMI(ctx, sim.IPMIConfig{
			Addr: b.Address, Username: b.Username, Password: b.Password,
			StateDir: l.bmc(c.spec.Address),
		}, c)
		if err != nil {
			return nil, err
		}
		return s.Stop, nil
	case BMCRedfish, BMCNone:
	}
	return nil, nil
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
		s.Certificate = l.certificate(m.Address)
		if c, err := loadCertificate(s.Certificate, l.certificateKey(m.Address)); err == nil {
			s.Fingerprint = fingerprint(c)
		}
	case BMCNone:
	}
}

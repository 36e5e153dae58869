package lldp

import (
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// openSocket opens a packet(7) socket that gets a port's frames of LLDP and no
// others.
func openSocket(port string) (io.ReadCloser, error) {
	link, err := net.InterfaceByName(port)
	if err != nil {
		return nil, err
	}
	// Protocol 0 receives nothing until bind says what: else frames of all ports
	// would come first.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket: %w", err)
	}
	if err := join(fd, link.Index); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "lldp on "+port), nil
}

func join(fd, index int) error {
	for _, g := range groups {
		member := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_MULTICAST, Alen: uint16(len(g))}
		copy(member.Address[:], g[:])
		if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &member); err != nil {
			return fmt.Errorf("joining the group %s: %w", net.HardwareAddr(g[:]), err)
		}
	}
	const networkOrder = EtherType>>8 | EtherType&0xff<<8
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder, Ifindex: index}); err != nil {
		return fmt.Errorf("binding a packet socket: %w", err)
	}
	return nil
}

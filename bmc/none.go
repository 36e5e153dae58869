package bmc

import (
	"context"
	"errors"
	"io"
)

// person is the session of DriverNone.
type person struct{}

func ask(do string) error { return &fault{kind: faultPerson, err: errors.New(do)} }

func (person) power(context.Context) (PowerState, error) {
	return PowerUnknown, nil
}

func (person) setPower(_ context.Context, a PowerAction) error {
	switch a {
	case On:
		return ask("switch it on by hand")
	case Off:
		return ask("switch it off by hand")
	case Soft:
		return ask("shut it down by hand")
	case Cycle, Reset:
	}
	return ask("switch it off and on again by hand, or on if it is off")
}

func (person) setBoot(_ context.Context, d BootDevice, _ BootOptions) error {
	switch d {
	case BootPXE:
		return ask("choose network boot in its boot menu, or put the network first in its boot order")
	case BootNone:
		return ask("leave its boot order as it is")
	case BootDisk, BootCDROM, BootBIOS:
	}
	return ask("choose " + string(d) + " in its boot menu")
}

func (person) media(_ context.Context, image string) ([]string, error) {
	if image == "" {
		return nil, ask("take the disc or USB stick out by hand")
	}
	return nil, ask("put a disc or USB stick with the image in by hand")
}

func (person) sensors(context.Context) ([]Sensor, error) {
	return nil, ask("boot it: edge-provision inventory show MACHINE has what its installer found")
}

func (p person) facts(ctx context.Context) (Reading, error) {
	_, err := p.sensors(ctx)
	return Reading{}, err
}

func (person) console() (func(context.Context, io.Reader, io.Writer) error, error) {
	return nil, ask("look at its screen, or join its serial port to this host by a cable")
}

func (person) boot(context.Context) (NextBoot, error) { return NextBoot{}, nil }
func (person) identity() Identity                     { return Identity{} }
func (person) close(context.Context)                  {}

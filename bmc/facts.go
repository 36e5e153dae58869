package bmc

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// Bounds of one reading of facts. A big server needs some eighty requests where its
// BMC takes no $expand; a slow BMC needs half a second for each.
const (
	maxFactRequests = 160
	factsTimeout    = 90 * time.Second // of one attempt
	maxFactMembers  = 128              // of a collection; a longer one is not read
	maxFactText     = 256              // runes of one fact
)

// Reading is what a BMC knows of its machine, which may be switched off.
type Reading struct {
	// Source is how it was read.
	Source inventory.Source
	// Facts has what was observed; the rest is absent. A list is whole or absent.
	Facts inventory.Facts
	// Missing says what could not be read and why, for a person.
	Missing []string
}

// Facts reads the hardware inventory of the machine and of the BMC itself. It
// changes nothing. What the BMC does not have is left out; when the BMC falls
// silent in the middle the call fails, so that a half-read inventory is never
// taken for the whole.
//
// It gives way to every other call of the Controller, and then returns ErrGaveWay.
//
// A BMC learns of most hardware when the machine starts, so this is what was there
// at the last start, and drives behind a RAID controller are what is plugged in,
// not what an operating system sees.
func (c *Controller) Facts(ctx context.Context) (Reading, error) {
	const op = "reading the hardware inventory"
	var r Reading
	err := c.alone(ctx, op, func() error {
		ctx, done := c.yield.begin(ctx)
		defer done()
		return c.callWithin(ctx, op, max(c.config.Timeout, factsTimeout), func(ctx context.Context, s session, _ *effect) (err error) {
			r, err = s.facts(ctx)
			if err == nil {
				if invalid := r.Facts.Validate(); invalid != nil {
					err = &fault{kind: faultResponse, err: invalid}
				}
			}
			return err
		})
	})
	return r, err
}

// ErrGaveWay says that a reading was ended because something else is asked of the
// BMC, such as its machine's power.
var ErrGaveWay = errors.New("given up, because something else is asked of the BMC")

// yield ends a reading, which nobody waits for, when a call comes that somebody does
// wait for. The zero value is ready for use.
type yield struct {
	mu      sync.Mutex
	waiting int // calls that wait for their turn, or have it
	end     context.CancelCauseFunc
}

// ask counts a call until the returned function is called, and ends the reading.
func (y *yield) ask() func() {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.waiting++
	if y.end != nil {
		y.end(ErrGaveWay)
	}
	return func() {
		y.mu.Lock()
		defer y.mu.Unlock()
		y.waiting--
	}
}

// begin is of a reading that has the turn; done ends it.
func (y *yield) begin(ctx context.Context) (reading context.Context, done func()) {
	reading, end := context.WithCancelCause(ctx)
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.end = end; y.waiting > 0 {
		end(ErrGaveWay)
	}
	return reading, func() {
		y.mu.Lock()
		defer y.mu.Unlock()
		y.end = nil
		end(nil)
	}
}

// fact makes a BMC's text fit for a facts document: printable, single blanks, short.
func fact[S ~string](text S) string {
	s := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(text), " "))
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > maxFactText {
		return string(r[:maxFactText])
	}
	return s
}

// genuine is fact, and empty for a placeholder such as "To Be Filled By O.E.M.", for
// which two letters are taken too: but for one maker's.
func genuine[S ~string](text S) string {
	s := fact(text)
	if s != "HP" && inventory.JunkSerial(s) {
		return ""
	}
	return s
}

// genuineUUID is a system UUID in RFC 9562 text order; empty for one that says
// nothing.
func genuineUUID[S ~string](text S) string {
	u, err := uuid.Parse(strings.TrimSpace(string(text)))
	if err != nil || inventory.JunkUUID(u) {
		return ""
	}
	return u.String()
}

// genuineMAC is the first of some texts that is the address of one port.
func genuineMAC[S ~string](texts ...S) inventory.MAC {
	for _, s := range texts {
		m, err := inventory.ParseMAC(strings.TrimSpace(string(s)))
		if err == nil && !m.IsZero() && m[0]&1 == 0 {
			return m
		}
	}
	return inventory.MAC{}
}

// present keeps a part of a document only when something in it was observed.
func present[T comparable](part T) *T {
	var nothing T
	if part == nothing {
		return nil
	}
	return &part
}

// chassisTypes are the names of SMBIOS (DSP0134 table 17) by its number, which IPMI
// FRU data has too; those that computers with a BMC come in.
var chassisTypes = map[byte]string{
	0x03: "Desktop", 0x04: "Low Profile Desktop", 0x06: "Mini Tower", 0x07: "Tower", 0x11: "Main Server Chassis",
	0x17: "Rack Mount Chassis", 0x19: "Multi-system Chassis", 0x1c: "Blade", 0x1d: "Blade Enclosure", 0x22: "Embedded PC", 0x23: "Mini PC",
}

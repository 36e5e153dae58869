package api

import (
	"context"
	"errors"
	"time"

	"github.com/edge-provision/edge-provision/inventory/store"
)

// duty is the right to deliver to webhooks, which one of all the controllers that
// use a catalog has at a time: the lock dutyLock, which belongs to no site. Whoever
// has it says so every dutyInterval and stops after dutyEnds without; the others look
// every dutyInterval. A controller that ended, or was killed on the same host, is
// replaced when the next one looks, one whose host is gone when it was silent for
// dutySilence: 80 seconds after its last word at the latest.
type duty struct {
	cfg   Config
	fence int64 // zero: it is another's
	// held ends when the right does: ends has it lose it when nothing was said.
	held context.Context
	lose context.CancelFunc
	ends *time.Timer
	next time.Time // of its next word, or look
	// other had the right when it was looked at last, and has said nothing since.
	other store.Held
	since time.Time
}

const (
	dutyLock     = "webhooks"
	dutyInterval = store.HeartbeatInterval
	dutyEnds     = 3 * dutyInterval
	// dutySilence leaves room for a word that took dutyInterval to be written, and
	// for what is still recorded of a delivery that was cut off.
	dutySilence = 6 * dutyInterval
)

// take returns the context in which this controller may deliver; nil when another
// one does. It is called often, and does something when it is due.
func (d *duty) take(ctx context.Context) context.Context {
	if now := d.cfg.Now(); !now.Before(d.next) || d.held != nil && d.held.Err() != nil {
		d.next = now.Add(dutyInterval)
		bounded, cancel := context.WithTimeout(ctx, dutyInterval)
		defer cancel()
		if err := d.look(bounded, now); err == nil && d.fence != 0 {
			d.extend(ctx)
		} else if err != nil && ctx.Err() == nil {
			d.cfg.Log.Warn("taking turns in delivering to webhooks", "error", err)
		}
	}
	if d.held == nil || d.held.Err() != nil {
		return nil
	}
	return d.held
}

// look says that this controller is there, or takes the right from one that is not.
func (d *duty) look(ctx context.Context, now time.Time) error {
	if d.fence != 0 {
		err := d.cfg.Catalog.Heartbeat(ctx, "", dutyLock, d.fence)
		if _, lost := errors.AsType[*store.LostLockError](err); lost {
			d.fence = 0
			d.end()
		}
		return err
	}
	owner, err := store.Self(dutyLock)
	if err != nil {
		return err
	}
	fence, err := d.cfg.Catalog.Lock(ctx, "", dutyLock, owner)
	if locked, ok := errors.AsType[*store.LockedError](err); ok {
		if !d.silent(locked.Held, now) {
			return nil
		}
		fence, err = d.cfg.Catalog.TakeOver(ctx, locked.Held, owner)
	}
	if err != nil {
		return err
	}
	d.fence = fence
	d.cfg.Log.Info("this controller delivers to webhooks from now on")
	return nil
}

// silent reports whether who has the right has said nothing for so long that it has
// stopped.
func (d *duty) silent(held store.Held, now time.Time) bool {
	if held.Fence != d.other.Fence || !held.Heartbeat.Equal(d.other.Heartbeat) {
		d.other, d.since = held, now
	}
	return now.Sub(d.since) > dutySilence
}

// extend lets this controller deliver until dutyEnds from now.
func (d *duty) extend(ctx context.Context) {
	if d.held != nil && d.held.Err() == nil && d.ends.Reset(dutyEnds) {
		return
	}
	d.end() // its time was up, and nobody has taken the right meanwhile
	d.held, d.lose = context.WithCancel(ctx)
	d.ends = time.AfterFunc(dutyEnds, d.lose)
}

// end has what is under way stop.
func (d *duty) end() {
	if d.held != nil {
		d.ends.Stop()
		d.lose()
		d.held = nil
	}
}

// leave gives the right back, so that another controller need not wait.
func (d *duty) leave(ctx context.Context) {
	d.end()
	if d.fence == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dutyInterval)
	defer cancel()
	if err := d.cfg.Catalog.Unlock(ctx, "", dutyLock, d.fence); err != nil {
		d.cfg.Log.Warn("giving webhooks to another controller", "error", err)
	}
}

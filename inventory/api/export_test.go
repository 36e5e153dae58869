package api

import "context"

// Duty is the right to deliver to webhooks.
type Duty = duty

// NewDuty has the right be taken by turns.
func NewDuty(cfg Config) *Duty { return &duty{cfg: cfg.withDefaults()} }

// Take returns the context in which this controller may deliver; nil when another one
// does.
func (d *duty) Take(ctx context.Context) context.Context { return d.take(ctx) }

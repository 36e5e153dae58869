package store

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/lock"
)

// Owner identifies a process, so that another one can prove that it is dead.
type Owner struct {
	// Host is the host's name. A process of another host may be alive.
	Host string
	// BootID is its kernel's boot, with the namespace of its process ids behind a
	// slash: containers of one host that share its name number their processes
	// each for itself. Programs before this one wrote no namespace.
	BootID string
	PID    int
	// PIDStart is when the process started, in clock ticks since boot: a
	// process id is used again, the pair is not.
	PIDStart int64
	// Purpose says what it does, for a person, such as "apply" or a run's id.
	Purpose string
}

// Held describes a lock that is held.
type Held struct {
	Site, Address string
	Owner         Owner
	Fence         int64
	Since         time.Time
	Heartbeat     time.Time
}

// LockedError says that another owner holds the lock and is not proven dead.
type LockedError struct {
	Site string
	Held Held
}

// Error implements error.
func (e *LockedError) Error() string {
	h := e.Held
	return fmt.Sprintf("%s is locked by %s (process %d on %s) since %s, last heard of at %s; wait for it, "+
		"or if it runs on another host and is gone for good: edge-provision runs unlock %s",
		h.Address, h.Owner.Purpose, h.Owner.PID, h.Owner.Host, h.Since.Format(time.RFC3339), h.Heartbeat.Format(time.RFC3339), e.Site)
}

// LostLockError says that a lock was taken over: what its former owner still
// does must not count any more.
type LostLockError struct {
	Address string
	Fence   int64
}

// Error implements error.
func (e *LostLockError) Error() string {
	return fmt.Sprintf("the lock on %s (fencing token %d) was lost to another process; this one must stop", e.Address, e.Fence)
}

// Self is this process as the owner of locks.
func Self(purpose string) (Owner, error) {
	host, err := os.Hostname()
	if err != nil {
		return Owner{}, fmt.Errorf("naming this process: %w", err)
	}
	boot, err := bootID()
	if err != nil {
		return Owner{}, fmt.Errorf("naming this process: %w", err)
	}
	start, err := pidStart(os.Getpid())
	if err != nil {
		return Owner{}, fmt.Errorf("naming this process: %w", err)
	}
	return Owner{Host: host, BootID: boot, PID: os.Getpid(), PIDStart: start, Purpose: purpose}, nil
}

func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	namespace, err := os.Readlink("/proc/self/ns/pid") // "pid:[4026531836]", namespaces(7)
	return strings.TrimSpace(string(raw)) + "/" + namespace, err
}

// pidStart reads field 22 of /proc/PID/stat (proc(5)). The command in field 2
// may hold blanks and parentheses, so fields are counted from its end.
func pidStart(pid int) (int64, error) {
	name := fmt.Sprintf("/proc/%d/stat", pid)
	raw, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')')+1:]), " ")
	fields := strings.Fields(rest)
	const start = 22 - 3 // the rest begins with field 3
	if !found || len(fields) <= start {
		return 0, fmt.Errorf("%s has too few fields", name)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, os.ErrNotExist // a zombie does nothing any more
	}
	return strconv.ParseInt(fields[start], 10, 64)
}

// HeartbeatInterval is how often who holds a lock has to say that it is alive, and
// silence how long one in another container may say nothing and be taken for alive.
const (
	HeartbeatInterval = 10 * time.Second
	silence           = 6 * HeartbeatInterval
)

// Dead reports whether the holder is proven dead: no process of this host has its
// id, or another one has. On another host nothing can be proven, and in another
// container of this host only by its silence: what is not dead, and finds at its
// next heartbeat that the lock was taken, must stop. Another boot alone proves
// nothing: in a container, a service whose unit protects the kernel's settings sees
// the kernel's own boot_id, and a command beside it the container's.
func (h Held) Dead(now time.Time) bool {
	o := h.Owner
	host, err := os.Hostname()
	if err != nil || host != o.Host {
		return false
	}
	own, err := bootID()
	if err != nil {
		return false
	}
	boot, namespace, known := strings.Cut(o.BootID, "/")
	ownBoot, ownNamespace, _ := strings.Cut(own, "/")
	if known && namespace != ownNamespace {
		return now.Sub(h.Heartbeat) > silence
	}
	// What this process has taken it calls by the boot that it sees.
	if o.PID == os.Getpid() && boot != ownBoot {
		return true
	}
	start, err := pidStart(o.PID)
	if err != nil {
		return os.IsNotExist(err)
	}
	return start != o.PIDStart
}

// Lock takes the lock on an address of a site and returns its fencing token,
// which is greater than that of every owner before. A lock whose owner is
// proven dead is taken over. Otherwise, also when this very process holds it, the
// error is *LockedError.
func (s *Store) Lock(ctx context.Context, site, address string, owner Owner) (fence int64, err error) {
	return s.takeLock(ctx, site, address, owner, func(held Held) bool { return held.Dead(s.now()) })
}

// TakeOver takes a lock from an owner that has said nothing since held was read, as
// Lock does from one that is proven dead. It is for what shall go on although a whole
// host is gone: the owner stops by itself when it cannot say that it is alive, and the
// caller has waited for longer than that, by its own clock. What the clocks of two
// hosts say is not compared.
func (s *Store) TakeOver(ctx context.Context, held Held, owner Owner) (fence int64, err error) {
	return s.takeLock(ctx, held.Site, held.Address, owner, func(now Held) bool {
		return now.Fence == held.Fence && now.Heartbeat.Equal(held.Heartbeat)
	})
}

// takeLock takes a lock that nobody holds, or whose owner is gone.
func (s *Store) takeLock(ctx context.Context, site, address string, owner Owner, gone func(Held) bool) (fence int64, err error) {
	err = s.write(ctx, "locking "+address, func(tx *ent.Tx) error {
		// The insert first: under PostgreSQL it serialises two takers.
		err := tx.Lock.Create().SetSite(site).SetAddress(address).SetHeld(false).SetFence(0).SetAcquiredAt(s.now()).SetHeartbeat(s.now()).
			OnConflictColumns(lock.FieldSite, lock.FieldAddress).Ignore().Exec(ctx)
		if err != nil {
			return err
		}
		row, err := s.lockRow(ctx, tx, site, address)
		if err != nil {
			return err
		}
		if held := heldOf(row); row.Held && !gone(held) {
			return &LockedError{Site: site, Held: held}
		}
		fence = row.Fence + 1
		return tx.Lock.UpdateOne(row).SetHeld(true).SetFence(fence).SetHost(owner.Host).SetBootID(owner.BootID).
			SetPid(owner.PID).SetPidStart(owner.PIDStart).SetOwner(owner.Purpose).
			SetAcquiredAt(s.now()).SetHeartbeat(s.now()).Exec(ctx)
	})
	return fence, err
}

// lockRow reads a row that nobody else may change until the transaction ends.
func (s *Store) lockRow(ctx context.Context, tx *ent.Tx, site, address string) (*ent.Lock, error) {
	q := tx.Lock.Query().Where(lock.Site(site), lock.Address(address))
	if s.gate == nil {
		q.ForUpdate() // SQLite's transactions exclude each other already
	}
	return q.Only(ctx)
}

// Heartbeat says that the holder of a fencing token is alive. It returns
// *LostLockError when another owner has the lock by now.
func (s *Store) Heartbeat(ctx context.Context, site, address string, fence int64) error {
	return s.withFence(ctx, "keeping the lock on "+address, site, address, fence, func(u *ent.LockUpdate) { u.SetHeartbeat(s.now()) })
}

// Unlock gives a lock back. It returns *LostLockError when another owner has it
// by now.
func (s *Store) Unlock(ctx context.Context, site, address string, fence int64) error {
	return s.withFence(ctx, "unlocking "+address, site, address, fence, func(u *ent.LockUpdate) { u.SetHeld(false) })
}

func (s *Store) withFence(ctx context.Context, op, site, address string, fence int64, change func(*ent.LockUpdate)) error {
	return s.write(ctx, op, func(tx *ent.Tx) error {
		u := tx.Lock.Update().Where(lock.Site(site), lock.Address(address), lock.Held(true), lock.Fence(fence))
		change(u)
		n, err := u.Save(ctx)
		if err == nil && n == 0 {
			return &LostLockError{Address: address, Fence: fence}
		}
		return err
	})
}

// BreakLock takes a lock from whoever holds it, because a person said that the
// owner is gone. Its fencing token will not be accepted again. ErrNotFound when
// nobody holds it.
func (s *Store) BreakLock(ctx context.Context, site, address string) error {
	return s.write(ctx, "breaking the lock on "+address, func(tx *ent.Tx) error {
		n, err := tx.Lock.Update().Where(lock.Site(site), lock.Address(address), lock.Held(true)).SetHeld(false).AddFence(1).Save(ctx)
		if err == nil && n == 0 {
			return ErrNotFound
		}
		return err
	})
}

// Locks returns the locks of a site that are held, by address.
func (s *Store) Locks(ctx context.Context, site string) ([]Held, error) {
	rows, err := s.main.client.Lock.Query().Where(lock.Held(true), lock.Site(site)).Order(ent.Asc(lock.FieldAddress)).All(ctx)
	if err != nil {
		return nil, s.explain("listing locks", err)
	}
	out := make([]Held, len(rows))
	for i, r := range rows {
		out[i] = heldOf(r)
	}
	return out, nil
}

func heldOf(r *ent.Lock) Held {
	return Held{
		Site: r.Site, Address: r.Address, Fence: r.Fence, Since: r.AcquiredAt.UTC(), Heartbeat: r.Heartbeat.UTC(),
		Owner: Owner{Host: r.Host, BootID: r.BootID, PID: r.Pid, PIDStart: r.PidStart, Purpose: r.Owner},
	}
}

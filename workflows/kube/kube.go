// Package kube brings declared objects into a Kubernetes cluster and keeps them
// there: it reads manifests, shows what differs, applies by server-side apply,
// waits until what was applied works, and takes away what is no longer declared.
//
// # Fields and their owners
//
// The API server knows for each field of an object which manager applied it
// (https://kubernetes.io/docs/reference/using-api/server-side-apply/). Ours is
// called edge-provision. When somebody else writes a field that we applied, the
// server gives the field to them; so what we applied last is kept beside the
// objects, in an inventory. With it two things can be told apart that look alike
// to the server:
//
//   - drift: a field that we applied and somebody changed. Diff names the manager
//     and the time, and Apply takes it back.
//   - conflict: a field that we never applied and that another manager owns.
//     Diff and Apply stop, unless Options.Force says that we take it.
//
// # What is whose
//
// Every applied object carries the label edge-provision.io/owner, a digest of
// the catalog and the address of the step that declares it. The inventory is a
// Secret in the namespace edge-provision, one for each step, written before the
// first object is sent and after the last, so that nothing is forgotten when a
// run is cut off. An object is deleted only when it has the label of the step
// and the UID of the inventory; of a definition that an operator has written anew
// without the label the UID is enough. An object that another step has begun to declare
// carries that step's label by then, and is left to it.
package kube

import (
	"fmt"
	"strings"
	"time"
)

// Manager is our name among the managers of fields.
const Manager = "edge-provision"

// Owner names the step that declares a set.
type Owner struct {
	// Catalog is the id of the catalog; two catalogs never take objects from
	// each other unasked.
	Catalog string
	// Address is the step's, such as workflow.cluster.step.manifest.shop.
	Address string
}

// Options says how one set is compared, applied or removed. All calls for one
// step get equal options.
type Options struct {
	Owner Owner
	// Namespace is where objects go that need a namespace and name none;
	// "default" when empty. It is not created: declare it.
	Namespace string
	// Force takes fields that other managers own.
	Force bool
	// IgnoreFields are applied when the object is created and left alone after.
	// Each is "PATH" or "KIND/NAME PATH" or "KIND/NAMESPACE/NAME PATH"; a path is
	// like spec.replicas, metadata.annotations["a.b/c"] or
	// spec.template.spec.containers[name=web].image.
	IgnoreFields []string
	// PruneData names objects, as ID.String does, that may be deleted although
	// that can destroy data: Namespaces, CustomResourceDefinitions,
	// PersistentVolumes and PersistentVolumeClaims are kept otherwise.
	PruneData []string
	// Elsewhere tells which other step declares an object now; "" when none. An
	// object that moves to another step is left for it to take.
	Elsewhere func(ID) string
	// Definitions are CustomResourceDefinitions of other sets that will be in
	// the cluster by the time this set is applied; only Diff looks at them.
	Definitions []Object
	// Wait bounds the waiting for one phase of the set to work; 10 min when
	// zero. NoWait applies and does not wait for workloads; definitions,
	// namespaces and hooks are awaited all the same.
	Wait   time.Duration
	NoWait bool
	// Gone bounds the waiting for a deleted object to be gone; Wait, and 5 min at
	// most, when zero.
	Gone time.Duration
	// Parting are merge patches (RFC 7386) for objects, named as ID.String does,
	// which each gets right before it is deleted: what says how its controller takes
	// it down.
	Parting map[string]map[string]any
	// Sensitive withholds all values from lines and errors; those of Secrets
	// are always withheld.
	Sensitive bool
	// Say reports one line of progress; nil discards it.
	Say func(format string, args ...any)
}

func (o *Options) say(format string, args ...any) {
	if o.Say != nil {
		o.Say(format, args...)
	}
}

func (o *Options) wait() time.Duration {
	if o.Wait == 0 {
		return 10 * time.Minute
	}
	return o.Wait
}

func (o *Options) gone() time.Duration {
	if o.Gone == 0 {
		return min(o.wait(), goneFor)
	}
	return o.Gone
}

// Operation is what Apply would do to one object.
type Operation string

// The operations.
const (
	None   Operation = "none"
	Create Operation = "create"
	Update Operation = "update"
	Delete Operation = "delete"
	// Release leaves an object to the step that declares it now, or for good
	// when it holds data and nobody consented to its deletion.
	Release Operation = "release"
)

// Change is the difference of one object.
type Change struct {
	ID        ID
	Operation Operation
	// Fields are what differs, and why.
	Fields []Field
	// Note says in a sentence what the operation alone does not tell: that the
	// object was deleted by somebody, or comes from another step.
	Note string
}

// Field is one field that is not as declared.
type Field struct {
	// Path is like .spec.template.spec.containers[name="web"].image.
	Path string
	// Old and New are the values there and as declared, in JSON, shortened;
	// "(absent)" where there is none and "(sensitive)" where they are withheld.
	Old, New string
	// Cause tells drift from conflict from a changed declaration.
	Cause Cause
	// Manager wrote the field at Time, when the server knows.
	Manager string
	Time    time.Time
}

// Cause is why a field differs.
type Cause string

// The causes.
const (
	// Declared: what is declared has changed since it was applied.
	Declared Cause = "declared"
	// Drift: we applied the field, and somebody changed or removed it.
	Drift Cause = "drift"
	// Conflict: another manager owns the field and we never applied it.
	Conflict Cause = "conflict"
	// Taken is a conflict that Options.Force resolves for us.
	Taken Cause = "taken"
)

// String is the field as a line of a plan.
func (f Field) String() string {
	line := fmt.Sprintf("%s: %s -> %s", f.Path, f.Old, f.New)
	switch f.Cause {
	case Drift:
		line += " (changed" + f.by() + ")"
	case Conflict:
		line += " (owned" + f.by() + ", and never applied here: a conflict)"
	case Taken:
		line += " (taken from" + strings.TrimPrefix(f.by(), " by") + ")"
	}
	return line
}

func (f Field) by() string {
	if f.Manager == "" {
		return " by somebody"
	}
	by := " by " + f.Manager
	if !f.Time.IsZero() {
		by += " at " + f.Time.UTC().Format(time.RFC3339)
	}
	return by
}

// Diff is how a cluster differs from a set.
type Diff struct {
	// Installed is whether the set has been applied before.
	Installed bool
	// Changes are the objects for which Operation is not None, in the order of their
	// kinds.
	Changes []Change
	// Unchanged counts the objects that are as declared.
	Unchanged int
	// Kept are objects that are declared no longer and stay, because their
	// deletion can destroy data; they are no change.
	Kept []ID
}

// Empty reports whether Apply would do nothing.
func (d Diff) Empty() bool { return d.Installed && len(d.Changes) == 0 }

// maxFieldLines bounds what one object shows of itself.
const maxFieldLines = 20

// Lines are the differences for a person, one each.
func (d Diff) Lines() []string {
	var out []string
	for _, c := range d.Changes {
		head := c.ID.String() + ": " + string(c.Operation)
		if c.Note != "" {
			head += ": " + c.Note
		}
		if len(c.Fields) == 0 || c.Note != "" {
			out = append(out, head)
		}
		for i, f := range c.Fields {
			if i == maxFieldLines {
				out = append(out, fmt.Sprintf("%s: and %d more fields", c.ID, len(c.Fields)-i))
				break
			}
			out = append(out, c.ID.String()+": "+f.String())
		}
	}
	return out
}

// Conflicts is the error about all conflicts of d; nil when there are none.
func (d Diff) Conflicts() error {
	var e ConflictError
	for _, c := range d.Changes {
		for _, f := range c.Fields {
			if f.Cause == Conflict {
				e.Fields = append(e.Fields, c.ID.String()+": "+f.String())
			}
		}
	}
	if len(e.Fields) == 0 {
		return nil
	}
	return &e
}

// ConflictError says that fields belong to other managers.
type ConflictError struct {
	// Fields are lines, each with object, path, values, manager and time.
	Fields []string
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("other managers own fields that are declared here and were never applied from here:\n  %s\n"+
		"Remove the fields from the declaration, add them to ignore_fields, or take them with force_conflicts = true",
		strings.Join(e.Fields, "\n  "))
}

// UnreachableError says that the API server could not be asked, or did not
// answer with anything about what was asked. It says nothing about whether an
// object is there.
type UnreachableError struct {
	Server string
	// Operation is what was asked.
	Operation string
	Err       error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("%s: the API server %s gave no answer: %v", e.Operation, e.Server, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Config says how to reach a cluster.
type Config struct {
	// Kubeconfig has one current context with the server's address, its CA and
	// a client certificate or token. References to files and programs are
	// refused: it may come from a machine.
	Kubeconfig []byte
	// RequestTimeout bounds one attempt of one request; 30 s when zero.
	RequestTimeout time.Duration
	// ReachTimeout bounds Reach with all its attempts; 15 s when zero.
	ReachTimeout time.Duration
	// Attempts bounds how often a request is sent, and RetryFor for how long;
	// 6 and 45 s when zero. Between attempts lie growing, jittered pauses, or
	// what Retry-After says.
	Attempts int
	RetryFor time.Duration
	// PollInterval is the pause between two looks at what is waited for; 1 s
	// when zero.
	PollInterval time.Duration
	Clock        Clock // the system's when nil
}

// Clock is the time that a Cluster waits by.
type Clock interface {
	Now() time.Time
	// After is time.After of this clock.
	After(d time.Duration) <-chan time.Time
}

// Status is how far an object has come.
type Status struct {
	Done bool
	// Failed says that waiting longer is idle.
	Failed bool
	// Reason is a clause: "1 of 3 replicas are available".
	Reason string
}

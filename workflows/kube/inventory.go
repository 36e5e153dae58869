package kube

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// Namespace is where inventories are kept. It is made with the first and
	// goes with the last.
	Namespace = "edge-provision"
	// OwnerLabel is on every object that was applied; its value is Owner.Label.
	OwnerLabel = "edge-provision.io/owner"
	// inventoryLabel is on the inventories and on their namespace.
	inventoryLabel = "edge-provision.io/inventory"
	inventoryType  = "edge-provision.io/inventory"
	contentKey     = "inventory.json.gz"

	// maxSecretBytes is the API server's limit for the data of a Secret, base64
	// not counted. Calico's definitions and operator need 4 kB, 5000 objects
	// about 600 kB.
	maxSecretBytes = 1 << 20
	// maxInventoryBytes bounds an inventory after unpacking.
	maxInventoryBytes = 256 << 20
)

var (
	secrets    = resource{schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, true}
	namespaces = resource{schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, false}
)

// Label is the owner in a label: a digest, because an address is no label.
func (o Owner) Label() string {
	sum := sha256.Sum256([]byte(o.Catalog + "\n" + o.Address))
	return hex.EncodeToString(sum[:16])
}

// inventory is what was applied for one owner.
type inventory struct {
	Version int    `json:"version"`
	Catalog string `json:"catalog"`
	Address string `json:"address"`
	// Set is the digest of the set that was applied to its end; empty until
	// that happened once.
	Set string `json:"set,omitempty"`
	// Pending is the digest of a set whose application began.
	Pending string `json:"pending,omitempty"`
	// Removal is the last of a removal's events whose hooks have run.
	Removal Event   `json:"removal,omitempty"`
	Objects []entry `json:"objects"`

	// resourceVersion of the Secret it was read from; empty when there is none.
	resourceVersion string
}

// entry is one object of an inventory.
type entry struct {
	ID
	APIVersion string `json:"apiVersion"`
	// UID is empty from before the object is applied for the first time until
	// that is written down.
	UID types.UID `json:"uid,omitempty"`
	// Digest is of the declaration that was applied.
	Digest string `json:"digest,omitempty"`
	// Fields are those that were applied, as in managedFields.
	Fields json.RawMessage `json:"fields,omitempty"`
	// Hook is an object that a hook made; it is not compared.
	Hook bool `json:"hook,omitempty"`
	// Kept is declared no longer and holds data.
	Kept bool `json:"kept,omitempty"`
}

// unlabelled reports whether an object is the very definition that was applied, without
// our label. An operator that brings its definitions itself writes them anew when it
// starts, and keeps nothing of what was there but resourceVersion (libopenstorage/operator,
// createOrUpdateCRD).
func (e *entry) unlabelled(live Object) bool {
	_, labelled := live.GetLabels()[OwnerLabel]
	return e != nil && !labelled && e.groupKind() == crdKind && e.UID != "" && e.UID == live.GetUID()
}

func (i *inventory) find(id ID) *entry {
	at := slices.IndexFunc(i.Objects, func(e entry) bool { return e.ID == id })
	if at < 0 {
		return nil
	}
	return &i.Objects[at]
}

// put adds or replaces an entry.
func (i *inventory) put(e entry) {
	if old := i.find(e.ID); old != nil {
		*old = e
		return
	}
	i.Objects = append(i.Objects, e)
}

func (i *inventory) drop(id ID) {
	i.Objects = slices.DeleteFunc(i.Objects, func(e entry) bool { return e.ID == id })
}

func inventoryName(owner string) string { return "inventory-" + owner }

// inventory reads what was applied for an owner; empty when nothing was.
func (c *Cluster) inventory(ctx context.Context, owner Owner) (*inventory, error) {
	i, err := c.readInventory(ctx, owner.Label())
	if errors.Is(err, ErrNotFound) {
		return &inventory{Version: 1, Catalog: owner.Catalog, Address: owner.Address}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what was applied before: %w", err)
	}
	return i, nil
}

func (c *Cluster) readInventory(ctx context.Context, label string) (*inventory, error) {
	name := inventoryName(label)
	main, err := c.get(ctx, secrets, ID{Kind: "Secret", Namespace: Namespace, Name: name})
	if err != nil {
		return nil, err
	}
	packed, err := secretBytes(main, contentKey)
	if err != nil {
		return nil, err
	}
	i := &inventory{resourceVersion: main.GetResourceVersion()}
	if err := unpack(packed, i); err != nil {
		return nil, fmt.Errorf("Secret/%s/%s is damaged: %w", Namespace, name, err)
	}
	if i.Version != 1 {
		return nil, fmt.Errorf("Secret/%s/%s was written by a newer edge-provision (version %d); use that one", Namespace, name, i.Version)
	}
	return i, nil
}

func secretBytes(o Object, key string) ([]byte, error) {
	text, _, err := unstructured.NestedString(o.Object, "data", key)
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) == 0 {
		return nil, fmt.Errorf("%s has no %s that can be read", IDOf(o), key)
	}
	return b, nil
}

// pack compresses an inventory. The same inventory gives the same bytes.
func pack(i *inventory) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(json.NewEncoder(z).Encode(i), z.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func unpack(packed []byte, i *inventory) error {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxInventoryBytes+1))
	if err != nil {
		return err
	}
	if len(plain) > maxInventoryBytes {
		return fmt.Errorf("it has more than %d bytes", maxInventoryBytes)
	}
	return json.Unmarshal(plain, i)
}

// save writes an inventory. It notices when another run has written it since.
func (c *Cluster) save(ctx context.Context, i *inventory) error {
	owner := Owner{i.Catalog, i.Address}.Label()
	packed, err := pack(i)
	if err != nil {
		return fmt.Errorf("packing the inventory: %w", err)
	}
	if len(packed) > maxSecretBytes {
		return fmt.Errorf("the inventory of %d objects does not fit into a Secret (%d bytes of %d); declare them in several steps", len(i.Objects), len(packed), maxSecretBytes)
	}
	secret := Make("v1", "Secret", Namespace, inventoryName(owner), map[string]any{
		"type": inventoryType, "data": map[string]any{contentKey: base64.StdEncoding.EncodeToString(packed)},
	})
	secret.SetLabels(map[string]string{inventoryLabel: owner})
	if i.resourceVersion == "" {
		secret, err = c.saveFirst(ctx, secret)
	} else {
		secret.SetResourceVersion(i.resourceVersion)
		secret, err = c.at(secrets, Namespace).Update(ctx, secret, metav1.UpdateOptions{FieldManager: Manager})
		if apierrors.IsConflict(err) {
			secret, err = c.savedAlready(ctx, inventoryName(owner), packed, err)
		}
		err = c.asked(ctx, "writing the inventory", err)
	}
	if err != nil {
		return err
	}
	i.resourceVersion = secret.GetResourceVersion()
	return nil
}

// savedAlready finds out whether a conflict is about our own write, whose answer
// was lost, so that it was sent again.
func (c *Cluster) savedAlready(ctx context.Context, name string, packed []byte, conflict error) (Object, error) {
	there, err := c.get(ctx, secrets, ID{Kind: "Secret", Namespace: Namespace, Name: name})
	if err != nil {
		return nil, err
	}
	if content, err := secretBytes(there, contentKey); err == nil && bytes.Equal(content, packed) {
		return there, nil
	}
	return nil, fmt.Errorf("%w: another run applies the same step at the same time", conflict)
}

// saveFirst writes a first inventory. Another step may be removing its own, the
// last one, and our namespace with it: it deletes the namespace as it was before
// it looked for inventories, so that touching the namespace after ours is there
// keeps it from that; and where it was quicker, ours is written again.
func (c *Cluster) saveFirst(ctx context.Context, main Object) (Object, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, goneFor, fmt.Errorf("Namespace/%s is being deleted and does not go", Namespace))
	defer cancel()
	for {
		if err := c.ensureNamespace(ctx); err != nil {
			return nil, err
		}
		out, err := c.create(ctx, secrets, main)
		if err != nil && !apierrors.HasStatusCause(err, "NamespaceTerminating") && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		if err == nil {
			ns, err := c.get(ctx, namespaces, ID{Kind: "Namespace", Name: Namespace})
			if err == nil && ns.GetDeletionTimestamp() == nil {
				annotations := ns.GetAnnotations()
				if annotations == nil {
					annotations = map[string]string{}
				}
				annotations["edge-provision.io/newest"] = string(out.GetUID())
				ns.SetAnnotations(annotations)
				_, err = c.at(namespaces, "").Update(ctx, ns, metav1.UpdateOptions{FieldManager: Manager})
				if err == nil {
					return out, nil
				}
			}
			if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				return nil, c.asked(ctx, "touching Namespace/"+Namespace, err)
			}
		}
		if err := c.sleep(ctx); err != nil {
			return nil, err
		}
	}
}

// create makes an object. A request that is sent again because its answer was
// lost finds its own work.
func (c *Cluster) create(ctx context.Context, r resource, o Object) (Object, error) {
	out, err := c.at(r, o.GetNamespace()).Create(ctx, o, metav1.CreateOptions{FieldManager: Manager})
	if apierrors.IsAlreadyExists(err) {
		there, getErr := c.get(ctx, r, IDOf(o))
		if getErr == nil && equalValues(there.Object["data"], o.Object["data"]) {
			return there, nil
		}
	}
	return out, c.asked(ctx, "creating "+IDOf(o).String(), err)
}

// ensureNamespace makes our namespace, and waits when an earlier one is still
// going.
func (c *Cluster) ensureNamespace(ctx context.Context) error {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{"name": Namespace, "labels": map[string]any{inventoryLabel: "namespace"}},
	}}
	for {
		there, err := c.get(ctx, namespaces, IDOf(o))
		switch {
		case err == nil && there.GetDeletionTimestamp() == nil:
			return nil
		case errors.Is(err, ErrNotFound):
			_, err = c.at(namespaces, "").Create(ctx, o, metav1.CreateOptions{FieldManager: Manager})
			if err == nil {
				return nil
			}
			if !apierrors.IsAlreadyExists(err) {
				return c.asked(ctx, "creating "+IDOf(o).String(), err)
			}
		case err != nil:
			return err
		}
		if err := c.sleep(ctx); err != nil {
			return err
		}
	}
}

// forget deletes an inventory, and the namespace when it was the last one and
// is ours.
func (c *Cluster) forget(ctx context.Context, i *inventory) error {
	id := ID{Kind: "Namespace", Name: Namespace}
	ns, err := c.get(ctx, namespaces, id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	owner := Owner{i.Catalog, i.Address}.Label()
	all, err := c.list(ctx, secrets, "Secret", Namespace, metav1.ListOptions{LabelSelector: inventoryLabel})
	if err != nil {
		return err
	}
	others := ns.GetLabels()[inventoryLabel] != "namespace" || ns.GetDeletionTimestamp() != nil
	for _, o := range all {
		if o.GetLabels()[inventoryLabel] != owner {
			others = true
			continue
		}
		if err := c.delete(ctx, secrets, IDOf(o), o.GetUID()); err != nil {
			return err
		}
	}
	if others {
		return nil
	}
	uid, version := ns.GetUID(), ns.GetResourceVersion()
	err = c.at(namespaces, "").Delete(ctx, Namespace, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // somebody else has begun to use it, or has deleted it too
	}
	return c.asked(ctx, "deleting "+id.String(), err)
}

// sleep is the pause between two looks.
func (c *Cluster) sleep(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.config.Clock.After(c.config.PollInterval):
		return nil
	}
}

// goneFor bounds the waiting for a deleted object to be gone, where nobody knows that
// it takes longer.
const goneFor = 5 * time.Minute

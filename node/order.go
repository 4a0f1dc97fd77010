// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem/api"
	"tandem/host/etcd"
	"tandem/host/nbd"
	"tandem/machine/event"
)

// ResizeRequest makes a disk of a running VM larger.
type ResizeRequest struct {
	Slot  int    `json:"slot"`
	Bytes uint64 `json:"bytes"`
}

// AttachRequest puts a disk into an empty drive of a VM.
type AttachRequest struct {
	Disk string `json:"disk"`           // nbd://HOST:PORT/EXPORT
	Slot *int   `json:"slot,omitempty"` // default: the first empty drive
}

// DetachRequest takes a disk out of a VM; its data stay where they are.
type DetachRequest struct {
	Slot int `json:"slot"`
}

// MemoryRequest asks a guest to run in some of its memory, and to give back the rest.
type MemoryRequest struct {
	Bytes int64 `json:"bytes"`
}

// order is what a VM's primary is told to do to it.
type order struct {
	name  string // resize, attach, detach, memory, move or stay
	slot  int    // of a disk
	bytes uint64 // of resize and memory
	disk  string // of attach and move
}

func (o order) values() url.Values {
	return url.Values{"slot": {strconv.Itoa(o.slot)}, "bytes": {strconv.FormatUint(o.bytes, 10)}, "disk": {o.disk}}
}

func readOrder(name string, q url.Values) (o order, err error) {
	slot, err := strconv.Atoi(q.Get("slot"))
	bytes, err2 := strconv.ParseUint(q.Get("bytes"), 10, 64)
	if err := errors.Join(err, err2); err != nil {
		return o, refuse("slot and bytes: %w", err)
	}
	return order{name, slot, bytes, q.Get("disk")}, nil
}

// orderTime is how long another host's primary may take.
const orderTime = time.Minute

// A VM is changed where its primary is, and then in its record, for whoever starts it the
// next time. Of a VM that is to be off only the record changes.

func (n *Node) postResize(r *http.Request) (any, error) {
	q, _, _, v, err := askedOf[ResizeRequest](n, r)
	if err == nil {
		_, err = diskIn(v, q.Slot)
	}
	if err == nil {
		err = n.give(r, order{name: "resize", slot: q.Slot, bytes: q.Bytes})
	}
	if err != nil {
		return nil, err
	}
	return n.rewrite(r.Context(), v.Name, func(s *etcd.Spec) {
		if q.Slot < len(s.Sizes) { // else its size is asked for at each start
			s.Sizes[q.Slot] = max(s.Sizes[q.Slot], q.Bytes)
		}
	})
}

func (n *Node) postAttach(r *http.Request) (any, error) {
	q, _, _, v, err := askedOf[AttachRequest](n, r)
	if err != nil {
		return nil, err
	}
	if err := checkPlace(q.Disk); err != nil {
		return nil, err
	}
	slot := slices.Index(v.Spec.Disks, etcd.EmptyDrive)
	if q.Slot != nil {
		slot = *q.Slot
	}
	switch old, err := diskIn(v, slot); {
	case q.Slot == nil && slot < 0:
		return nil, refuse("%s has no empty drive: take a disk out, or make the VM anew with more drives", v.Name)
	case err != nil:
		return nil, err
	case old != etcd.EmptyDrive:
		return nil, refuse("disk %d of %s is %s: take that out first, or choose an empty drive", slot, v.Name, old)
	case slices.Contains(v.Spec.Disks, q.Disk):
		return nil, refuse("%s has the disk %s already", v.Name, q.Disk)
	}
	size, err := sizeAt(r.Context(), q.Disk)
	if err != nil {
		return nil, err
	}
	if v.Power {
		if err := n.give(r, order{name: "attach", slot: slot, disk: q.Disk}); err != nil {
			return nil, err
		}
	}
	return n.rewrite(r.Context(), v.Name, func(s *etcd.Spec) { putDisk(s, slot, q.Disk, size) })
}

func (n *Node) postDetach(r *http.Request) (any, error) {
	q, _, _, v, err := askedOf[DetachRequest](n, r)
	if err != nil {
		return nil, err
	}
	switch disk, err := diskIn(v, q.Slot); {
	case err != nil:
		return nil, err
	case disk == etcd.EmptyDrive:
		return nil, refuse("drive %d of %s is empty", q.Slot, v.Name)
	}
	if v.Power {
		if err := n.give(r, order{name: "detach", slot: q.Slot}); err != nil {
			return nil, err
		}
	}
	return n.rewrite(r.Context(), v.Name, func(s *etcd.Spec) { putDisk(s, q.Slot, etcd.EmptyDrive, 0) })
}

func (n *Node) postMemory(r *http.Request) (any, error) {
	q, _, _, v, err := askedOf[MemoryRequest](n, r)
	if err != nil {
		return nil, err
	}
	if q.Bytes < min(event.LeastMemory, v.Spec.Memory) || q.Bytes > v.Spec.Memory {
		return nil, refuse("memory of %d bytes: choose from %d to %d, which is all that %s has", q.Bytes, min(event.LeastMemory, v.Spec.Memory), v.Spec.Memory, v.Name)
	}
	if v.Power {
		if err := n.give(r, order{name: "memory", bytes: uint64(q.Bytes)}); err != nil {
			return nil, err
		}
	}
	return n.rewrite(r.Context(), v.Name, func(s *etcd.Spec) { s.Target = q.Bytes })
}

// sizeAt asks a store how large a disk is, in bytes.
func sizeAt(ctx context.Context, disk string) (uint64, error) {
	d, err := nbd.DialReader(ctx, disk, func() {})
	if err != nil {
		return 0, refuse("%w; see that tandem store serves it and is reached", err)
	}
	defer d.Close()
	return d.Size(), nil
}

func diskIn(v etcd.VM, slot int) (string, error) {
	if slot < 0 || slot >= len(v.Spec.Disks) {
		return "", refuse("%s has no disk %d: it has %d, the first is 0", v.Name, slot, len(v.Spec.Disks))
	}
	return v.Spec.Disks[slot], nil
}

func putDisk(s *etcd.Spec, slot int, disk string, size uint64) {
	s.Disks[slot] = disk
	if slot < len(s.Sizes) {
		s.Sizes[slot] = size
	}
}

// checkPlace validates the address of a disk alone.
func checkPlace(disk string) error {
	if err := checkDisk(disk); err != nil || disk == etcd.EmptyDrive || strings.ContainsRune(disk, ',') {
		return refuse("disk %s: give the nbd:// address of an export of a tandem store, without options", disk)
	}
	return nil
}

// checkDisk validates a disk of a VM's record.
func checkDisk(disk string) error {
	if disk != etcd.EmptyDrive && !strings.HasPrefix(disk, "nbd://") {
		return fmt.Errorf("disk %s: a VM of a cluster needs a disk that every host reaches: serve it with tandem store and give its nbd:// address, or %s for a drive that a disk can be put into later", disk, etcd.EmptyDrive)
	}
	return nil
}

// rewrite changes the record of a VM that may be changed by others, too.
func (n *Node) rewrite(ctx context.Context, vm string, change func(*etcd.Spec)) (any, error) {
	c, err := n.connected()
	for err == nil {
		var s *etcd.Snapshot
		if s, err = c.Load(ctx); err != nil {
			break
		}
		v, ok := s.VM(vm)
		if !ok {
			return nil, missing("VM", vm)
		}
		v.Revision++
		v.Spec.Disks, v.Spec.Sizes = slices.Clone(v.Spec.Disks), slices.Clone(v.Spec.Sizes)
		change(&v.Spec)
		if err = c.SaveVM(ctx, s, v); err == nil {
			return v, nil
		}
		if errors.Is(err, etcd.ErrChanged) {
			err = nil
		}
	}
	return nil, fmt.Errorf("it is done, but the VM's record could not be changed, by which it starts the next time: %w", err)
}

// give has the VM's primary do it, wherever that is.
func (n *Node) give(r *http.Request, o order) error {
	vm := r.PathValue("name")
	p, s, c, err := n.find(r.Context(), vm)
	if err != nil {
		return err
	}
	if p.here {
		err = n.orderHere(vm, o)
	} else {
		err = n.orderAt(r.Context(), p.peer, vm, o)
	}
	if err == nil {
		n.asked(r, c, vm, s.Claims[vm].Epoch, "%s", o)
	}
	return err
}

func (o order) String() string {
	switch o.name {
	case "memory":
		return fmt.Sprintf("memory: %d bytes", o.bytes)
	case "resize":
		return fmt.Sprintf("disk %d: %d bytes", o.slot, o.bytes)
	}
	return strings.TrimSpace(fmt.Sprintf("%s disk %d %s", o.name, o.slot, o.disk))
}

func (n *Node) orderAt(ctx context.Context, peer etcd.Node, vm string, o order) error {
	by := n.peerClient(peer, orderTime)
	defer by.CloseIdleConnections()
	return n.askPeer(ctx, by, peer, "POST", "vms/"+url.PathEscape(vm)+"/order/"+o.name+"?"+o.values().Encode(), nil)
}

// followPeer is the same where the primary is.
func (n *Node) followPeer(r *http.Request) (any, error) {
	o, err := readOrder(r.PathValue("order"), r.URL.Query())
	if err != nil {
		return nil, err
	}
	return struct{}{}, n.orderHere(r.PathValue("name"), o)
}

func (n *Node) orderHere(vm string, o order) error {
	p, err := n.primaryHere(vm)
	if err != nil {
		return err
	}
	switch o.name {
	case "resize":
		err = p.client.ResizeDisk(o.slot, o.bytes)
	case "attach":
		err = p.client.InsertDisk(o.slot, o.disk)
	case "detach":
		err = p.client.EjectDisk(o.slot)
	case "memory":
		err = p.client.SetMemory(o.bytes)
	case "move":
		err = p.client.MoveDisk(o.slot, o.disk)
	case "stay":
		err = p.client.StayDisk()
	default:
		return missing("order", o.name)
	}
	if err != nil {
		return api.Fail(http.StatusConflict, err)
	}
	return nil
}

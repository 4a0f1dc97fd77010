// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"tandem/api"
)

// ResizeRequest makes a disk of a running VM larger.
type ResizeRequest struct {
	Slot  int    `json:"slot"`
	Bytes uint64 `json:"bytes"`
}

// postResize makes the disk larger where the VM's primary is, and then says so in the
// VM's record, for whoever starts it the next time.
func (n *Node) postResize(r *http.Request) (any, error) {
	q, err := api.Read[ResizeRequest](r)
	if err != nil {
		return nil, err
	}
	vm := r.PathValue("name")
	p, s, c, err := n.find(r.Context(), vm)
	if err != nil {
		return nil, err
	}
	v, _ := s.VM(vm)
	if q.Slot < 0 || q.Slot >= len(v.Spec.Disks) {
		return nil, refuse("%s has no disk %d: it has %d, the first is 0", vm, q.Slot, len(v.Spec.Disks))
	}
	if p.here {
		err = n.resizeHere(vm, q)
	} else {
		by := n.peerClient(p.peer, time.Minute)
		defer by.CloseIdleConnections()
		err = n.askPeer(r.Context(), by, p.peer, "POST", fmt.Sprintf("vms/%s/resize?slot=%d&bytes=%d", url.PathEscape(vm), q.Slot, q.Bytes), nil)
	}
	if err != nil {
		return nil, err
	}
	n.asked(r, c, vm, s.Claims[vm].Epoch, "disk %d: %d bytes", q.Slot, q.Bytes)
	if s, err = c.Load(r.Context()); err != nil {
		return nil, err
	}
	if v, _ = s.VM(vm); q.Slot >= len(v.Spec.Sizes) {
		return v, nil // its size is asked for at each start
	}
	v.Revision++
	v.Spec.Sizes[q.Slot] = max(v.Spec.Sizes[q.Slot], q.Bytes)
	return v, c.SaveVM(r.Context(), s, v)
}

// resizePeer is the same where the primary is.
func (n *Node) resizePeer(r *http.Request) (any, error) {
	var q ResizeRequest
	if _, err := fmt.Sscan(r.URL.Query().Get("slot")+" "+r.URL.Query().Get("bytes"), &q.Slot, &q.Bytes); err != nil {
		return nil, refuse("slot and bytes: %w", err)
	}
	return struct{}{}, n.resizeHere(r.PathValue("name"), q)
}

func (n *Node) resizeHere(vm string, q ResizeRequest) error {
	p, err := n.primaryHere(vm)
	if err != nil {
		return err
	}
	if err := p.client.ResizeDisk(q.Slot, q.Bytes); err != nil {
		return api.Fail(http.StatusConflict, err)
	}
	return nil
}

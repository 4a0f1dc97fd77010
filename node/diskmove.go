// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"tandem/host/control"
	"tandem/host/etcd"
	"tandem/replica"
)

// A disk of a VM moves to another place. The primary copies it; when both disks are
// complete, and the backup knows, the daemon on its host writes the new place into the
// VM's record, and only then the old one is left behind (package replica, move.go). A
// daemon that ends in between goes on with it when it is back, and so does that of the
// host where the VM goes live meanwhile.

// DiskMoveRequest moves a disk of a VM.
type DiskMoveRequest struct {
	Slot int    `json:"slot"`
	Disk string `json:"disk"` // nbd://HOST:PORT/EXPORT, whose contents are lost
}

func (n *Node) postDiskMove(r *http.Request) (any, error) {
	q, _, _, v, err := askedOf[DiskMoveRequest](n, r)
	if err != nil {
		return nil, err
	}
	if err := checkPlace(q.Disk); err != nil {
		return nil, err
	}
	switch old, err := diskIn(v, q.Slot); {
	case err != nil:
		return nil, err
	case old == etcd.EmptyDrive:
		return nil, refuse("drive %d of %s is empty", q.Slot, v.Name)
	case !v.Power:
		return nil, refuse("%s is off: copy the disk with a tool of your own, and make the VM anew with the copy; or start it", v.Name)
	}
	for i, d := range v.Spec.Disks {
		if addressOf(d) == q.Disk {
			return nil, refuse("%s is disk %d of %s already", q.Disk, i, v.Name)
		}
	}
	if _, err := sizeAt(r.Context(), q.Disk); err != nil {
		return nil, err
	}
	return struct{}{}, n.give(r, order{name: "move", slot: q.Slot, disk: q.Disk})
}

// deleteDiskMove gives a move up.
func (n *Node) deleteDiskMove(r *http.Request) (any, error) {
	return struct{}{}, n.give(r, order{name: "stay"})
}

// getDiskMove tells how the newest move goes, wherever the primary is.
func (n *Node) getDiskMove(r *http.Request) (any, error) {
	vm := r.PathValue("name")
	p, _, _, err := n.find(r.Context(), vm)
	if err != nil {
		return nil, err
	}
	if p.here {
		return n.diskMoveHere(vm)
	}
	by := n.peerClient(p.peer, orderTime)
	defer by.CloseIdleConnections()
	var m control.DiskMove
	return &m, n.askPeer(r.Context(), by, p.peer, "GET", "vms/"+url.PathEscape(vm)+"/disk-move", &m)
}

func (n *Node) getDiskMoveHere(r *http.Request) (any, error) {
	return n.diskMoveHere(r.PathValue("name"))
}

func (n *Node) diskMoveHere(vm string) (*control.DiskMove, error) {
	p, err := n.primaryHere(vm)
	if err != nil {
		return nil, err
	}
	s, err := p.client.Status()
	if err != nil {
		return nil, err
	}
	if s.DiskMove == nil {
		return nil, missing("move of a disk of", vm)
	}
	return s.DiskMove, nil
}

// addressOf is a disk of a VM's record without its options.
func addressOf(disk string) string {
	disk, _, _ = strings.Cut(disk, ",")
	return disk
}

// settleDisks ends the moves of disks of primaries here that have been copied.
func (n *Node) settleDisks(ctx context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for vm, p := range n.procs {
		m := p.status.DiskMove
		if !p.alive || p.status.Role != rolePrimary || m == nil || m.Phase != replica.BothDisks || p.settling {
			continue
		}
		p.settling = true
		n.wg.Go(func() {
			err := n.settleDisk(ctx, vm, p.client, m)
			if err != nil {
				n.opt.Log.Warn("a disk has been copied, and is kept in both places", "vm", vm, "disk", m.To, "err", err)
			}
			n.mu.Lock()
			p.settling = false
			n.mu.Unlock()
		})
	}
}

func (n *Node) settleDisk(ctx context.Context, vm string, c *control.Client, m *control.DiskMove) error {
	_, err := n.rewrite(ctx, vm, func(s *etcd.Spec) {
		if m.Slot < len(s.Disks) {
			s.Disks[m.Slot] = m.To + strings.TrimPrefix(s.Disks[m.Slot], addressOf(s.Disks[m.Slot]))
		}
	})
	if err != nil {
		return err
	}
	return c.SettleDisk(m.Slot)
}

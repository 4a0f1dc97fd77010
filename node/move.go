// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"tandem/cluster"
	"tandem/host/etcd"
)

// MoveRequest asks for a copy to be on another host.
type MoveRequest struct {
	Role string `json:"role"` // primary or backup
	To   string `json:"to"`
}

var roles = map[string]cluster.Role{rolePrimary: cluster.PrimaryRole, roleBackup: cluster.BackupRole}

// moveTime is how long a move may take before it is given up: a clone of a large guest
// over a slow network, tried again after a failure.
const moveTime = 15 * time.Minute

// postMove enters a wish, which Plan sees until the owner of the epoch ends it.
func (n *Node) postMove(r *http.Request) (any, error) {
	q, c, s, v, err := askedOf[MoveRequest](n, r)
	if err != nil {
		return nil, err
	}
	if err := n.movable(s, v, q); err != nil {
		return nil, err
	}
	v.Revision++
	v.Move = &etcd.Move{Role: q.Role, To: q.To, Since: time.Now().Unix()}
	if err := c.SaveVM(r.Context(), s, v); err != nil {
		return nil, err
	}
	n.asked(r, c, v.Name, 0, "move the %s to %s", q.Role, q.To)
	return v, nil
}

// movable says why a copy can't be moved now.
func (n *Node) movable(s *etcd.Snapshot, v etcd.VM, q MoveRequest) error {
	in := instanceOf(s, v)
	to, known := s.Node(q.To)
	_, up := s.Alive[q.To]
	switch {
	case roles[q.Role] == cluster.NoRole:
		return refuse("role %q: choose primary or backup", q.Role)
	case v.Deleted || !v.Power || in.Primary.State != cluster.Running:
		return refuse("%s does not run: start it, then move it", v.Name)
	case !known:
		return missing("node", q.To)
	case to.Witness:
		return refuse("%s is a witness: it runs no VMs", q.To)
	case !up:
		return refuse("%s is not heard: bring it back, or choose another host", q.To)
	case to.Evacuation != "" || to.Cordoned:
		return refuse("%s takes no copies: run tandem cluster restore %s, or choose another host", q.To, q.To)
	case q.Role == roleBackup && !v.FT:
		return refuse("%s has no backup: run tandem ft enable %s", v.Name, v.Name)
	case in.Primary.Host == q.To && q.Role == roleBackup:
		return refuse("the primary is on %s: choose another host, or move the primary", q.To)
	case in.Primary.Host == q.To, in.Backup.Host == q.To && q.Role == roleBackup:
		return refuse("the %s is on %s already", q.Role, q.To)
	}
	return nil
}

// endMoves says of moves of VMs that are ours what came of them.
func (n *Node) endMoves(ctx context.Context, c *etcd.Client, s *etcd.Snapshot, d cluster.Decision, o cluster.Observed) {
	instances, statuses := map[string]cluster.Instance{}, map[string]cluster.Status{}
	for _, in := range o.VMs {
		instances[in.VM] = in
	}
	for _, st := range d.VMs {
		statuses[st.VM] = st
	}
	for _, v := range s.VMs {
		if v.Move == nil || v.Move.Ended() || s.Claims[v.Name].Node != n.set.Name {
			continue
		}
		_, up := s.Alive[v.Move.To]
		m := ended(*v.Move, v.Power && !v.Deleted, instances[v.Name], statuses[v.Name], up, time.Now())
		if !m.Ended() {
			continue
		}
		v.Move = &m
		v.Revision++
		if c.SaveVM(ctx, s, v) != nil {
			continue // changed meanwhile: the next look decides
		}
		text := fmt.Sprintf("the %s is on %s, as was asked", m.Role, m.To)
		if m.Over != "" {
			text = fmt.Sprintf("the move of the %s to %s is given up: %s", m.Role, m.To, m.Over)
		}
		n.event(ctx, c, v.Name, "moved", s.Claims[v.Name].Epoch, "%s", text)
	}
}

// ended returns a move with what came of it, if its end has come; on is whether the VM
// shall run. While roles change no copy may seem to run.
func ended(m etcd.Move, on bool, in cluster.Instance, st cluster.Status, up bool, now time.Time) etcd.Move {
	primary := m.Role == rolePrimary
	switch {
	case primary && in.Primary.Host == m.To && in.Primary.State == cluster.Running,
		!primary && in.Backup.Host == m.To && in.Backup.State == cluster.Protected:
		m.Done = true
	case !on, in.Primary.State == cluster.PoweredOff:
		m.Over = "the VM does not run any more"
	case !primary && in.Primary.Host == m.To:
		m.Over = "its primary went there"
	case !up:
		m.Over = "that host is not heard: bring it back, or choose another"
	case in.FailedOn == m.To && in.Failures > 0 && int64(in.FailedAt) >= m.Since:
		m.Over = "the copy there failed; the events say why"
	case st.Hold == cluster.NoHost:
		m.Over = "it does not fit there: " + st.Fit.String()
	case now.Sub(time.Unix(m.Since, 0)) > moveTime:
		m.Over = fmt.Sprintf("not done within %v", moveTime)
	}
	return m
}

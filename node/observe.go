// SPDX-License-Identifier: Apache-2.0

package node

import (
	"maps"
	"slices"
	"time"

	"tandem/cluster"
	"tandem/host/control"
	"tandem/host/etcd"
	"tandem/machine/event"
)

// hostSeen is since when a host has been as it is, by our own clock.
type hostSeen struct {
	up    bool
	since time.Time
}

// seeHosts notes which hosts are heard.
func (n *Node) seeHosts(s *etcd.Snapshot, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, h := range s.Nodes {
		_, up := s.Alive[h.Name]
		if was, known := n.seen[h.Name]; !known || was.up != up {
			n.seen[h.Name] = hostSeen{up, now}
			if known {
				n.opt.Log.Info("a host's state changed", "host", h.Name, "heard", up)
			}
		}
	}
}

// ticks counts seconds, alike on all hosts whose clocks are right.
func ticks(t time.Time) cluster.Tick  { return cluster.Tick(t.Unix()) }
func timeOf(t cluster.Tick) time.Time { return time.Unix(int64(t), 0) }

// plan says what there is to do, and what is the matter, at a look. What is under way
// here without showing in a copy is the loop's own knowledge.
func (n *Node) plan(s *etcd.Snapshot, now time.Time, under map[string]doing) (cluster.Decision, cluster.Observed, error) {
	desired, observed := n.observe(s, now, under)
	d, err := cluster.Plan(desired, observed)
	return d, observed, err
}

// observe makes what Plan looks at from the records.
func (n *Node) observe(s *etcd.Snapshot, now time.Time, under map[string]doing) (d cluster.Desired, o cluster.Observed) {
	n.mu.Lock()
	defer n.mu.Unlock()
	d.Policy, o.Now = cluster.DefaultPolicy(), ticks(now)
	for _, h := range s.Nodes {
		if !h.Witness {
			o.Hosts = append(o.Hosts, hostOf(h, s.Alive, n.seen[h.Name]))
		}
	}
	for _, v := range s.VMs {
		d.VMs = append(d.VMs, desiredOf(v))
		in := instanceOf(s, v)
		in.Arbiter, in.Endangered = n.votes.enough(), n.votes.endangered(in)
		if x, is := under[v.Name]; is && x.until.After(now) && in.Primary.State != cluster.Dead && in.Primary.State != cluster.PoweredOff {
			in.Doing = x.kind
		}
		if in.Epoch > 0 || in.Primary.State != cluster.NoCopy || in.Failures > 0 {
			o.VMs = append(o.VMs, in)
		}
	}
	return d, o
}

func hostOf(h etcd.Node, alive map[string]etcd.Alive, seen hostSeen) cluster.Host {
	out := cluster.Host{Name: h.Name, Domain: h.Domain, Labels: h.Labels, Cordoned: h.Cordoned, State: cluster.Down, Since: ticks(seen.since)}
	switch h.Evacuation {
	case evacuate:
		out.Evacuation = cluster.Evacuate
	case forceEvacuate:
		out.Evacuation = cluster.Force
	}
	a, up := alive[h.Name]
	if !up {
		out.Dead = h.Dead != ""
		return out
	}
	out.State, out.CPUs, out.Memory, out.Free = cluster.Up, a.CPUs, a.Memory, a.Free
	for _, v := range a.Versions {
		out.Versions = append(out.Versions, cluster.Version(v))
	}
	return out
}

// Values of Node.Evacuation and Spec.Spread.
const (
	evacuate      = "evacuate"
	forceEvacuate = "force"
	spreadRequire = "require"
)

func desiredOf(v etcd.VM) cluster.VM {
	out := cluster.VM{Name: v.Name, Revision: cluster.Revision(v.Revision), Asked: cluster.Revision(v.Asked),
		Size: cluster.Size{CPUs: v.Spec.CPUs, Memory: v.Spec.Memory}, Power: v.Power, Deleted: v.Deleted, FT: v.FT,
		Groups: v.Spec.Groups, Labels: v.Spec.Labels, Host: v.Spec.Host}
	if m := v.Move; m != nil && !m.Ended() {
		out.Move, out.To = roles[m.Role], m.To
	}
	if v.Spec.Spread == spreadRequire {
		out.Spread = cluster.Require
	}
	return out
}

// instanceOf joins what is known of a VM: its claim says whose word counts.
func instanceOf(s *etcd.Snapshot, v etcd.VM) cluster.Instance {
	cl := s.Claims[v.Name]
	in := cluster.Instance{VM: v.Name, Epoch: event.Epoch(cl.Epoch)}
	st, begun := s.States[v.Name]
	if !begun { // the claim is of a VM that had the same name
		return in
	}
	in.Owner, in.Revision, in.Version = cl.Node, cluster.Revision(st.Revision), cluster.Version(st.Version)
	in.Size = cluster.Size{CPUs: st.CPUs, Memory: st.Memory}
	in.Failures, in.FailedAt, in.FailedOn = st.Failures, cluster.Tick(st.FailedAt), st.FailedOn
	in.Fence = true // what a replica opens in an epoch can be fenced, or it refuses (host/site)
	copies := s.Copies[v.Name]
	if cl.Epoch > 0 {
		in.Primary = cluster.Copy{Host: cl.Node, State: primaryState(cl, copies[cl.Node])}
		in.Backup = backupOf(cl, st, copies)
	}
	for _, node := range slices.Sorted(maps.Keys(copies)) {
		c := copies[node]
		switch begins := c.Role == rolePrimary && c.Epoch == cl.Epoch+1; {
		case !c.Alive || c.Token == cl.Owner:
		case begins && (in.Primary.State == cluster.NoCopy || in.Primary.State == cluster.PoweredOff):
			in.Primary = cluster.Copy{Host: node, State: cluster.Starting}
		case begins:
			in.Next = cluster.Copy{Host: node, State: cluster.Starting}
		case in.Backup.State == cluster.NoCopy && c.Epoch <= cl.Epoch && node != cl.Node:
			in.Backup = cluster.Copy{Host: node, State: cluster.Lost} // the primary before this one, silent
		}
	}
	return in
}

// primaryState is the state of the copy that owns the epoch.
func primaryState(cl etcd.Claim, c etcd.Copy) cluster.CopyState {
	switch {
	case c.Token != cl.Owner && c.Token != "" && !c.Alive:
		return cluster.Dead // another one was started there since, in vain
	case c.Token != cl.Owner:
		return cluster.Starting // its node will report in a moment
	case !c.Alive && c.End == control.EndOff:
		return cluster.PoweredOff
	case !c.Alive:
		return cluster.Dead
	case c.State == "Solo" || c.State == "Syncing" || c.State == "Protected" || c.State == "Claiming" || c.State == "Live":
		return cluster.Running
	}
	return cluster.Starting
}

// backupOf is the copy that the owner ordered.
func backupOf(cl etcd.Claim, st etcd.State, copies map[string]etcd.Copy) cluster.Copy {
	b := st.Backup
	if b == nil || b.Owner != cl.Owner {
		return cluster.Copy{}
	}
	c, p := copies[b.Host], copies[cl.Node]
	out := cluster.Copy{Host: b.Host, State: cluster.Cloning}
	switch ours := c.Token == b.Token; {
	case ours && !c.Alive && c.End == control.EndOff:
		out.State = cluster.PoweredOff
	case ours && !c.Alive:
		out.State = cluster.Dead
	case b.Over != "", cl.Epoch > b.Epoch: // claimed since: the primary goes on without it
		out.State = cluster.Lost
	case p.Token == cl.Owner && p.State == "Protected":
		out.State = cluster.Protected
	case ours && (c.State == "Replaying" || c.State == "Draining" || c.State == "Fencing"):
		out.State = cluster.Protected // its primary is lost, and it goes on or knows better
	case p.Token == cl.Owner && p.State == "Syncing":
		out.State = cluster.Syncing
	}
	return out
}

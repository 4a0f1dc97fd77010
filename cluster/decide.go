// SPDX-License-Identifier: Apache-2.0

package cluster

// This file is the decision itself: decide says what a VM needs by what was
// observed of it alone, act finds the room.

// decide returns the level of a VM's need, or false if it needs nothing now; the
// status then says why.
func (p *planner) decide(v *vm) (level, bool) {
	in, want := v.in, v.want
	off := !in.Primary.present() && !in.Backup.present() && !in.Next.present()
	// A guest that powered off took its backup with it, or had lost it already.
	off = off || in.Primary.State == PoweredOff && p.ended(in.Backup) && p.ended(in.Next)
	up := p.heard(in.Primary)
	switch {
	case want == nil:
		if !off {
			v.status.Hold = Unknown
		}
		return 0, false
	case in.Next.State == Starting && v.held[2]:
		return p.hold(v, InProgress, "")
	case !off && !up && (v.held[1] || v.held[2]):
		return p.hold(v, Deciding, "")
	case up && in.Owner != in.Primary.Host && p.reachable(in.Owner):
		return p.hold(v, Deciding, in.Owner)
	case in.Doing != 0 && (up || off) && p.reachable(in.Owner): // what a lost primary was doing has ended with it
		return p.hold(v, InProgress, "")
	case want.Deleted || !want.Power:
		return p.end(v, off, up)
	case off:
		return p.start(v)
	case !up:
		return p.restart(v)
	case p.sites[v.primary].State == Suspect:
		return p.hold(v, Silent, in.Primary.Host)
	case in.Primary.State == Starting:
		return p.hold(v, InProgress, "")
	case in.Next.present() && v.held[2]:
		return p.hold(v, InProgress, "")
	case in.Backup.present() && in.Backup.State != Lost && in.Backup.State != Dead:
		return p.pair(v)
	}
	return p.single(v)
}

// reachable reports a known host that is not down.
func (p *planner) reachable(host string) bool {
	i, ok := p.index[host]
	return ok && p.sites[i].State != Down
}

func (p *planner) hold(v *vm, h Hold, host string) (level, bool) {
	v.status.Hold, v.status.Host = h, host
	return 0, false
}

func (v *vm) need(l level, k Kind, c Cause) (level, bool) {
	v.todo, v.cause = k, c
	return l, true
}

// end takes a VM off that shall not run.
func (p *planner) end(v *vm, off, up bool) (level, bool) {
	switch {
	case up:
		return v.need(ending, PowerOff, Asked)
	case !v.want.Deleted && (off || p.evidence(v) == ProvenDead):
		return 0, false
	case !v.want.Deleted:
		return p.hold(v, NoProof, v.silentHost(p))
	case v.in.VM == "":
		return 0, false // it never was
	}
	if v.evidence = p.evidence(v); v.evidence == NoEvidence {
		return p.hold(v, NoProof, v.silentHost(p))
	}
	return v.need(ending, Delete, Asked)
}

// evidence is what allows to replace all copies of a VM (design §5.7).
func (p *planner) evidence(v *vm) Evidence {
	in := v.in
	switch {
	case p.ended(in.Primary) && p.ended(in.Backup) && p.ended(in.Next):
		return ProvenDead
	case in.Arbiter && in.Fence:
		return ClaimAndFence
	}
	return NoEvidence
}

// silentHost names a host whose copy is not proven dead.
func (v *vm) silentHost(p *planner) string {
	for _, c := range [...]Copy{v.in.Primary, v.in.Backup, v.in.Next} {
		if !p.ended(c) {
			return c.Host
		}
	}
	return ""
}

// start starts a VM that has no copy. A guest that powered off by itself after
// it was last asked to run stays off.
func (p *planner) start(v *vm) (level, bool) {
	if v.in.Primary.State == PoweredOff && v.in.Revision >= v.want.Asked {
		return p.hold(v, GuestOff, "")
	}
	return v.need(starting, StartPrimary, Asked)
}

// restart starts a VM whose copies are all lost.
func (p *planner) restart(v *vm) (level, bool) {
	v.evidence = p.evidence(v)
	switch v.evidence {
	case NoEvidence:
		return p.hold(v, NoProof, v.silentHost(p))
	case ClaimAndFence:
		if p.isolated {
			return p.hold(v, Isolated, v.silentHost(p))
		}
		if until := p.silence(v) + p.policy.RestartAfter; until > p.now {
			v.status.Until = until
			return p.hold(v, Patience, v.silentHost(p))
		}
	}
	return v.need(restarting, ColdRestart, CopyLost)
}

// silence is the tick at which the last of a VM's silent hosts went down.
func (p *planner) silence(v *vm) Tick {
	var last Tick
	for _, i := range [...]int{v.primary, v.backup, v.next} {
		if i != none && p.sites[i].State == Down && !p.sites[i].Dead {
			last = max(last, p.sites[i].Since)
		}
	}
	return last
}

// pair looks after a primary that has a backup.
func (p *planner) pair(v *vm) (level, bool) {
	in := v.in
	leave := p.mustLeave(v, v.primary)
	if leave == 0 && !v.want.FT && v.conflict && !v.meets(v.backup, false) {
		leave = GroupShared
	}
	here := v.moving() && v.backup == v.target // the primary's new place has the backup already
	if here {
		leave = Asked
	}
	switch {
	case in.Backup.Host == in.Primary.Host:
		return v.need(ending, StopBackup, HostShared)
	case !v.want.FT && leave == 0:
		return v.need(ending, StopBackup, Asked)
	case in.Backup.State != Protected:
		return p.hold(v, InProgress, "")
	case v.backup == none || p.sites[v.backup].State != Up:
		return 0, false // the primary hears it; for moves the cluster must, too
	case !v.want.FT:
		return v.need(evacuating, SwapRoles, leave)
	}
	v.status.SharedDomain = p.sites[v.primary].domain == p.sites[v.backup].domain
	if v.moving() && !here {
		return v.need(evacuating, MigrateBackup, Asked)
	}
	if c := p.mustLeave(v, v.backup); c != 0 && !here {
		return v.need(evacuating, MigrateBackup, c)
	}
	if leave != 0 {
		return v.need(evacuating, SwapRoles, leave)
	}
	return repairing, v.status.SharedDomain || v.conflict || p.sites[v.backup].over > 0
}

// single looks after a primary without a backup.
func (p *planner) single(v *vm) (level, bool) {
	l, k, c := protecting, CloneBackup, CopyLost
	if !v.want.FT {
		l, k, c = evacuating, MigratePrimary, p.mustLeave(v, v.primary)
		if v.moving() && v.want.Move == PrimaryRole {
			c = Asked
		}
		if c == 0 && v.conflict {
			l, c = repairing, GroupShared
		}
		if c == 0 {
			return 0, false
		}
	}
	if !v.in.Arbiter {
		return p.hold(v, NoClaim, "")
	}
	return v.need(l, k, c)
}

// mustLeave says why a copy can't stay on its host.
func (p *planner) mustLeave(v *vm, host int) Cause {
	switch {
	case host == none:
		return 0
	case p.sites[host].Evacuation != Stay:
		return HostEvacuated
	case v.labels != nil && !v.labels.has(host):
		return LabelMissing
	}
	return 0
}

// act does what decide found, if there is room now.
func (p *planner) act(v *vm) {
	switch v.todo {
	case PowerOff, StopBackup, Delete:
		p.emit(v, v.todo, none)
		return
	}
	if until := p.backoff(v.in); until > p.now {
		v.status.Hold, v.status.Until = BackingOff, until
		return
	}
	switch v.todo {
	case StartPrimary, ColdRestart:
		p.try(v, v.todo, &ask{v: v, size: v.want.Size, beside: none, from: none, only: none})
	case CloneBackup, MigratePrimary:
		a := p.clone(v)
		if v.cause == GroupShared {
			a.repair = GroupShared
		}
		p.try(v, v.todo, a)
	case MigrateBackup:
		if !p.try(v, MigrateBackup, p.clone(v)) && v.status.Hold == NoHost && p.sites[v.backup].Evacuation == Force {
			p.emit(v, StopBackup, none)
		}
	case SwapRoles:
		p.swap(v)
	default:
		p.repair(v)
	}
}

// backoff is the tick before which nothing is tried.
func (p *planner) backoff(in *Instance) Tick {
	if in.Failures == 0 || in.FailedAt > p.now {
		return p.now
	}
	wait := p.policy.Backoff
	for n := 1; n < in.Failures && wait > 0 && wait < p.policy.MaxBackoff; n++ {
		wait *= 2
	}
	return in.FailedAt + min(wait, p.policy.MaxBackoff)
}

// clone asks for a host beside the primary, cloned from there.
func (p *planner) clone(v *vm) *ask {
	a := &ask{v: v, size: v.size(), version: v.in.Version, beside: v.primary, from: v.primary, only: none}
	if v.moving() {
		a.only = v.target
	}
	return a
}

// try places a copy and plans the action, or says why not.
func (p *planner) try(v *vm, k Kind, a *ask) bool {
	if a.from != none && p.sites[a.from].clones >= p.policy.ClonesPerHost {
		v.status.Hold, v.status.Host = NoSlot, p.sites[a.from].Name
		return false
	}
	to, fit := p.place(a)
	if to == none {
		v.status.Hold, v.status.Fit = NoHost, fit
		if fit[Cloned] > 0 {
			v.status.Hold = NoSlot
		}
		return false
	}
	p.take(a, to)
	if k == MigrateBackup {
		p.sites[v.backup].over -= a.size.Memory + p.policy.Overhead
	}
	p.emit(v, k, to)
	return true
}

// swap moves the primary off its host. Of a protected VM only when the next
// backup will have a place, which is booked: swapping all VMs of a host at once
// would leave most of them waiting for a clone. An operator who asks for it by name
// may not have another host.
func (p *planner) swap(v *vm) {
	if v.want.FT && v.cause != Asked {
		a := p.clone(v)
		a.beside, a.from = v.backup, v.backup
		forced := p.sites[v.primary].Evacuation == Force
		if !p.try(v, SwapRoles, a) && v.status.Hold == NoHost && forced {
			p.emit(v, SwapRoles, v.backup)
		}
		return
	}
	p.emit(v, SwapRoles, v.backup)
}

// repair moves a protected VM's backup, or swaps its copies, to end a complaint.
// If it can't be ended nothing moves.
func (p *planner) repair(v *vm) {
	a := p.clone(v)
	if v.status.SharedDomain {
		a.repair, v.cause = DomainShared, DomainShared
		if p.try(v, MigrateBackup, a) {
			return
		}
	}
	if v.conflict && !v.meets(v.backup, false) {
		v.cause = GroupShared
		v.status.Hold = NoHold
		p.emit(v, SwapRoles, v.backup)
		for _, g := range v.groups {
			g.primaries.add(v.backup)
		}
		return
	}
	if v.conflict {
		a.repair, v.cause = GroupShared, GroupShared
		if p.try(v, MigrateBackup, a) {
			return
		}
	}
	if p.sites[v.backup].over > 0 {
		a.repair, v.cause = HostOverfull, HostOverfull
		p.try(v, MigrateBackup, a)
	}
}

// emit adds an action; to is the host of its copy.
func (p *planner) emit(v *vm, k Kind, to int) {
	in := v.in
	a := Action{Kind: k, VM: v.status.VM, Epoch: in.Epoch, Revision: v.want.Revision, By: in.Owner, Cause: v.cause}
	switch k {
	case StartPrimary, ColdRestart:
		s := &p.sites[to]
		a.By, a.To, a.Version = s.Name, s.Name, s.version
		if k == ColdRestart {
			a.From, a.Evidence = in.Primary.Host, v.evidence
		}
	case CloneBackup, MigratePrimary:
		a.From, a.To = in.Primary.Host, p.sites[to].Name
	case MigrateBackup:
		a.From, a.To = in.Backup.Host, p.sites[to].Name
	case StopBackup:
		a.From = in.Backup.Host
	case SwapRoles:
		a.From, a.To = in.Primary.Host, in.Backup.Host
	case Delete:
		a.Evidence = v.evidence
		a.By = p.deleter(in.Owner)
	}
	v.status.Hold, v.status.Fit, v.status.Host = InProgress, Fit{}, ""
	if a.By == "" {
		v.status.Hold = NoHost
		return
	}
	p.actions = append(p.actions, a)
}

// deleter is the owner, or any host that is up.
func (p *planner) deleter(owner string) string {
	if i, ok := p.index[owner]; ok && p.sites[i].State == Up {
		return owner
	}
	for i := range p.sites {
		if p.sites[i].State == Up {
			return p.sites[i].Name
		}
	}
	return ""
}

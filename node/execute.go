// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"tandem/cluster"
	"tandem/host/control"
	"tandem/host/etcd"
	"tandem/machine/event"
)

const (
	// brief is the life after which the end of a copy counts as a failure of what
	// started it.
	brief = time.Minute
	// reachTime is how long an ordered backup may take to reach its primary.
	reachTime = 30 * time.Second
	// lastWords is how long a copy that a newer epoch left behind may take to notice.
	lastWords = 5 * time.Second
	// doneTime is how long what was asked of a process may take to show.
	doneTime = 2 * time.Second
)

// report tells etcd what our processes do, if that has changed.
func (n *Node) report(ctx context.Context, c *etcd.Client, s *etcd.Snapshot) {
	for vm, p := range n.procs {
		if now := p.copyRecord(); now != p.written {
			if err := c.SaveCopy(ctx, vm, n.set.Name, now); err != nil {
				continue
			}
			if !now.Alive && p.written.Alive {
				n.event(ctx, c, vm, "process", p.Epoch, "the %s on %s has ended (%s) %s", p.Role, n.set.Name, now.End, now.Why)
			}
			p.written = now
			put(s, vm, n.set.Name, now)
		}
	}
	n.reportGone(ctx, c, s)
}

func put(s *etcd.Snapshot, vm, node string, c etcd.Copy) {
	if s.Copies[vm] == nil {
		s.Copies[vm] = map[string]etcd.Copy{}
	}
	s.Copies[vm][node] = c
}

// reportGone tells of processes that the records speak of and that are not here: the
// host was booted again.
func (n *Node) reportGone(ctx context.Context, c *etcd.Client, s *etcd.Snapshot) {
	me := n.set.Name
	for _, v := range s.VMs {
		is := s.Copies[v.Name][me]
		p := n.procs[v.Name]
		cl := s.Claims[v.Name]
		_, begun := s.States[v.Name]
		owned := begun && cl.Node == me && is.Token != cl.Owner && (p == nil || !p.alive && p.Token != cl.Owner)
		switch {
		case is.Alive && (p == nil || p.Token != is.Token):
		case owned:
			is = etcd.Copy{Token: cl.Owner, Role: rolePrimary, Epoch: cl.Epoch}
		default:
			continue
		}
		is.Alive, is.End, is.Why = false, control.EndKilled, "the process is gone"
		if c.SaveCopy(ctx, v.Name, me, is) == nil {
			put(s, v.Name, me, is)
			n.event(ctx, c, v.Name, "process", is.Epoch, "the copy that ran on %s is gone", me)
		}
	}
}

// settle draws the conclusions for VMs that are ours: an ordered backup that is
// ready or has failed, a start that has failed.
func (n *Node) settle(ctx context.Context, c *etcd.Client, s *etcd.Snapshot) {
	for _, v := range s.VMs {
		st, begun := s.States[v.Name]
		p := n.procs[v.Name]
		if !begun || p == nil {
			continue
		}
		next, text := n.conclude(s, v, st, p)
		if text == "" {
			continue
		}
		if err := c.SaveState(ctx, s, v.Name, next); err == nil {
			p.failed = p.failed || !p.alive
			n.event(ctx, c, v.Name, "outcome", s.Claims[v.Name].Epoch, "%s", text)
		}
	}
}

// conclude returns the new State of a VM and what happened, or no text.
func (n *Node) conclude(s *etcd.Snapshot, v etcd.VM, st etcd.State, p *process) (etcd.State, string) {
	cl := s.Claims[v.Name]
	switch {
	case p.Role == rolePrimary && !p.alive && !p.failed && p.Epoch == st.Epoch && !left(p, cl) && p.result.End != control.EndOff && p.ended.Sub(p.Began) < brief:
		blame(&st, n.set.Name)
		return st, fmt.Sprintf("the start on %s failed: %s", n.set.Name, p.result.Why)
	case cl.Owner != p.Token || !p.alive:
	case st.Backup != nil && st.Backup.Owner == cl.Owner:
		return judge(st, cl, p.status.State, s.Copies[v.Name][st.Backup.Host], time.Now())
	case st.Failures > 0 && !v.FT && time.Since(p.Began) > brief:
		st.Failures = 0
		return st, "it has run for a while: earlier failures are forgiven"
	}
	return st, ""
}

// judge looks at the backup that the owner of the epoch ordered, with the state of the
// primary and what the backup's node says.
func judge(st etcd.State, cl etcd.Claim, primary string, c etcd.Copy, now time.Time) (etcd.State, string) {
	b := *st.Backup
	st.Backup = &b
	age := now.Sub(time.Unix(b.Since, 0))
	ours := c.Token == b.Token
	switch {
	case b.Over != "", ours && !c.Alive && c.End == control.EndOff: // with its VM: nobody has failed
		return st, ""
	case cl.Epoch > b.Epoch:
		b.Over = "the primary lost it and goes on alone"
	case ours && !c.Alive:
		b.Over = "its process has ended: " + c.End + " " + c.Why
	case primary == "Protected" && ours && !b.Ready:
		b.Ready, st.Failures = true, 0
		return st, fmt.Sprintf("protected: the backup on %s could go on, %d s after it was ordered", b.Host, int(age.Seconds()))
	case primary == "Solo" && age > reachTime && !b.Ready:
		b.Over = fmt.Sprintf("it did not reach the primary within %v", reachTime)
	default:
		return st, ""
	}
	if !b.Ready || age < brief {
		blame(&st, b.Host)
	}
	return st, fmt.Sprintf("the backup on %s is lost: %s", b.Host, b.Over)
}

func blame(st *etcd.State, host string) {
	st.Failures++
	st.FailedAt, st.FailedOn = time.Now().Unix(), host
}

// execute does an action whose executor we are.
func (n *Node) execute(ctx context.Context, c *etcd.Client, s *etcd.Snapshot, a cluster.Action) {
	err := n.do(ctx, c, s, a)
	switch {
	case err == nil:
		n.said[a.VM] = ""
		n.event(ctx, c, a.VM, "action", uint64(a.Epoch), "%s", a)
	case errors.Is(err, etcd.ErrChanged): // stale; the next plan knows better
	default:
		n.complain(ctx, c, a.VM, fmt.Sprintf("%s: %v", a, err))
	}
	n.kick()
}

func (n *Node) do(ctx context.Context, c *etcd.Client, s *etcd.Snapshot, a cluster.Action) error {
	v, ok := s.VM(a.VM)
	p := n.procs[a.VM]
	if !ok || event.Epoch(s.Claims[a.VM].Epoch) != a.Epoch || cluster.Revision(v.Revision) != a.Revision {
		return etcd.ErrChanged
	}
	switch a.Kind {
	case cluster.StartPrimary, cluster.ColdRestart:
		return n.startPrimary(ctx, c, s, a, v)
	case cluster.Delete:
		return n.forget(ctx, c, s, a, v)
	}
	if p == nil || !p.alive || p.Token != s.Claims[a.VM].Owner {
		return fmt.Errorf("the primary does not run here: %w", etcd.ErrChanged)
	}
	switch a.Kind {
	case cluster.CloneBackup, cluster.MigratePrimary:
		return n.order(ctx, c, s, a, p)
	case cluster.StopBackup, cluster.MigrateBackup:
		return n.withdraw(ctx, c, s, a, p)
	case cluster.SwapRoles:
		n.command(a, p.client.Switch)
		return nil
	case cluster.PowerOff:
		n.command(a, p.client.PowerOff)
		return nil
	}
	return fmt.Errorf("unknown action %v", a.Kind)
}

// answered is what came of a command to a replica.
type answered struct {
	action cluster.Action
	err    error
}

// command tells a replica to do something that may take a while; the loop goes on, and
// Plan asks for nothing else meanwhile.
func (n *Node) command(a cluster.Action, f func() error) {
	n.doing[a.VM] = doing{a.Kind, time.Now().Add(time.Minute)}
	n.wg.Go(func() {
		n.answers <- answered{a, f()}
		n.kick()
	})
}

// hear takes the answers of commands. What was done shows in a copy after a moment.
func (n *Node) hear(ctx context.Context, c *etcd.Client) {
	for {
		select {
		case r := <-n.answers:
			n.doing[r.action.VM] = doing{r.action.Kind, time.Now().Add(doneTime)}
			if r.err != nil || r.action.Kind == cluster.MigrateBackup { // whose order was taken back: that shows already
				delete(n.doing, r.action.VM)
			}
			if r.err != nil {
				n.complain(ctx, c, r.action.VM, fmt.Sprintf("%s: %v", r.action, r.err))
			}
		default:
			return
		}
	}
}

func newToken() string { return rand.Text() }

// startPrimary starts the copy that will claim the epoch after the action's. The
// State comes first: of two nodes only one can write it.
func (n *Node) startPrimary(ctx context.Context, c *etcd.Client, s *etcd.Snapshot, a cluster.Action, v etcd.VM) error {
	if err := n.clear(s, v.Name); err != nil {
		return err
	}
	st := s.States[v.Name]
	st.Epoch, st.Revision, st.Version = uint64(a.Epoch)+1, int64(a.Revision), uint32(a.Version)
	st.CPUs, st.Memory, st.Backup = v.Spec.CPUs, v.Spec.Memory, nil
	if err := c.SaveState(ctx, s, v.Name, st); err != nil {
		return err
	}
	p := &process{Token: newToken(), Role: rolePrimary, Epoch: st.Epoch}
	err := n.start(ctx, c, v, p, "--epoch", fmt.Sprint(st.Epoch))
	if err != nil && n.procs[v.Name] != p { // not even begun: nothing will end and tell
		blame(&st, n.set.Name)
		return errors.Join(err, c.SaveState(ctx, s, v.Name, st))
	}
	return err
}

// clear makes room for a new copy of a VM: one that a newer epoch has left behind is
// ended, any other one is in the way.
func (n *Node) clear(s *etcd.Snapshot, vm string) error {
	p := n.procs[vm]
	if p == nil || !p.alive {
		return nil
	}
	if !left(p, s.Claims[vm]) {
		return errors.New("a copy of it runs on this host")
	}
	if err := p.kill(); err != nil {
		return err
	}
	return errors.New("an older copy of it is being ended on this host")
}

// left reports a process that a newer epoch has left behind: it can never go on.
func left(p *process, cl etcd.Claim) bool { return p.Token != cl.Owner && cl.Epoch >= p.Epoch }

// order orders a backup on another host.
func (n *Node) order(ctx context.Context, c *etcd.Client, s *etcd.Snapshot, a cluster.Action, p *process) error {
	cl, st := s.Claims[a.VM], s.States[a.VM]
	if backupOf(cl, st, s.Copies[a.VM]).State == cluster.PoweredOff {
		return etcd.ErrChanged // the VM has ended, and its primary will say so in a moment
	}
	st.Backup = &etcd.Backup{Host: a.To, Token: newToken(), Owner: p.Token, Epoch: cl.Epoch, Dial: p.Address, Since: time.Now().Unix()}
	return c.SaveState(ctx, s, a.VM, st)
}

// withdraw takes an order back: the primary lets its backup go in order, and the node
// that obeyed ends what is left of it.
func (n *Node) withdraw(ctx context.Context, c *etcd.Client, s *etcd.Snapshot, a cluster.Action, p *process) error {
	st := s.States[a.VM]
	st.Backup = nil
	err := c.SaveState(ctx, s, a.VM, st)
	if err == nil && (p.status.State == "Protected" || p.status.State == "Syncing") {
		n.command(a, p.client.Detach)
	}
	return err
}

// forget removes a VM. Without proof that its copies have ended the next epoch is
// claimed first, so that none of them can ever go on; its claim stays.
func (n *Node) forget(ctx context.Context, c *etcd.Client, s *etcd.Snapshot, a cluster.Action, v etcd.VM) error {
	if a.Evidence != cluster.ProvenDead {
		if err := c.TakeEpoch(ctx, v.Name, uint64(a.Epoch)+1, newToken()); err != nil {
			return err
		}
	}
	return c.ForgetVM(ctx, s, v.Name)
}

// obey starts the backups that others ordered here, and ends copies that nobody needs.
func (n *Node) obey(ctx context.Context, c *etcd.Client, s *etcd.Snapshot) {
	for vm, p := range n.procs {
		n.endStale(s, p)
		if _, wanted := s.VM(vm); !wanted && !p.alive && time.Since(p.ended) > lastWords {
			p.forget()
			n.mu.Lock()
			delete(n.procs, vm)
			n.mu.Unlock()
		}
	}
	for _, v := range s.VMs {
		b, cl := s.States[v.Name].Backup, s.Claims[v.Name]
		if b == nil || b.Host != n.set.Name || b.Over != "" || b.Owner != cl.Owner || b.Epoch != cl.Epoch ||
			s.Copies[v.Name][n.set.Name].Token == b.Token {
			continue
		}
		if err := n.startBackup(ctx, c, s, v, *b); err != nil {
			n.complain(ctx, c, v.Name, "the backup on "+n.set.Name+": "+err.Error())
		}
	}
}

func (n *Node) startBackup(ctx context.Context, c *etcd.Client, s *etcd.Snapshot, v etcd.VM, b etcd.Backup) error {
	if err := n.clear(s, v.Name); err != nil {
		return err
	}
	p := &process{Token: b.Token, Role: roleBackup, Epoch: b.Epoch + 1}
	if a := n.alive(); s.States[v.Name].Memory+cluster.DefaultPolicy().Overhead > a.Free {
		// Two owners chose this host at the same moment.
		refused := p.copyRecord()
		refused.End, refused.Why = control.EndFailed, fmt.Sprintf("%s has %d MiB left", n.set.Name, a.Free>>20)
		return c.SaveCopy(ctx, v.Name, n.set.Name, refused)
	}
	if err := n.start(ctx, c, v, p, "--dial", b.Dial); err != nil {
		return err
	}
	n.event(ctx, c, v.Name, "process", p.Epoch, "the backup starts on %s and dials %s", n.set.Name, b.Dial)
	return nil
}

// endStale ends a copy that can't go on and does not notice (it may have been stopped).
func (n *Node) endStale(s *etcd.Snapshot, p *process) {
	switch now := time.Now(); {
	case !p.alive || !useless(s, p):
		p.stale = time.Time{}
	case p.stale.IsZero():
		p.stale = now
	case now.Sub(p.stale) > lastWords:
		if err := p.kill(); err != nil {
			n.opt.Log.Warn("a replica could not be ended", "vm", p.VM, "pid", p.PID, "err", err)
		}
	}
}

// useless reports a copy that a newer epoch has left behind, a backup whose order was
// taken back, and one that could not go on yet when its primary went.
func useless(s *etcd.Snapshot, p *process) bool {
	cl := s.Claims[p.VM]
	if left(p, cl) {
		return true
	}
	if p.Role != roleBackup || p.Token == cl.Owner || cl.Epoch+1 != p.Epoch {
		return false
	}
	if b := s.States[p.VM].Backup; b == nil || b.Token != p.Token || b.Over != "" {
		return true
	}
	primary := s.Copies[p.VM][cl.Node]
	_, heard := s.Alive[cl.Node]
	gone := !heard || primary.Token == cl.Owner && !primary.Alive
	return gone && (p.status.State == "" || p.status.State == "Receiving")
}

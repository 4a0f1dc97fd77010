// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// world is a cluster in which Plan is obeyed: hosts crash and return, or fall
// silent and go on; actions take time, fail, come late or not at all.
//
// truth is what the copies are; what Plan sees is Observed, where a VM's record
// is what its owner wrote last, and a lost copy is Dead only if its host says so.
type world struct {
	scene
	r     *rand.Rand
	hosts []simHost // parallel to Hosts
	truth []simVM   // parallel to both lists of VMs
	late  []Action
	calm  bool // no faults, no failures, nothing comes late

	keepsOld bool // a moving backup serves until the new one can
	oldStays bool // a swapped primary becomes the backup
	tight    bool // memory is short

	seen map[string]int // what happened, to prove that the rare paths were reached
	err  error
}

type simHost struct {
	crashed, cut bool
	back         Tick // when it returns
	since        Tick
}

// simVM is a VM in truth.
type simVM struct {
	Instance
	op    Action // under way, unless its Kind is 0
	until Tick
	lost  Tick // since when a copy has been lost unnoticed
}

func newWorld(seed uint64) *world {
	r := rand.New(rand.NewPCG(seed, 0))
	w := &world{r: r, seen: map[string]int{}, keepsOld: seed&1 != 0, oldStays: seed&2 != 0, tight: seed%5 == 0}
	w.Policy = DefaultPolicy()
	w.Policy.ClonesPerHost, w.Policy.Settle = 1+r.IntN(3), Tick(r.IntN(30))
	racks := 3 + r.IntN(3)
	memory := int64(64 * gib)
	if w.tight {
		memory = 22 * gib
	}
	for i := range racks * 3 {
		h := Host{Name: fmt.Sprintf("h%02d", i), Domain: fmt.Sprint("rack", i%racks), CPUs: 16, Memory: memory,
			Versions: []Version{1}, State: Up, Labels: []string{"any"}}
		if i/racks > 0 {
			h.Labels = append(h.Labels, "ssd")
			h.Versions = append(h.Versions, 2)
		}
		w.Hosts = append(w.Hosts, h)
	}
	w.hosts = make([]simHost, len(w.Hosts))
	for i := range 24 {
		v := VM{Name: fmt.Sprintf("vm%02d", i), Revision: 1, Asked: 1, Power: true, FT: i%6 != 5, Size: Size{1 + r.IntN(4), int64(1+r.IntN(6)) * gib}}
		if i%3 == 0 {
			v.Spread = Require
		}
		if i%4 == 0 {
			v.Labels = []string{"ssd", "any"}
		}
		if i < 6 {
			v.Groups = []string{fmt.Sprint("group", i%2)}
		}
		w.Desired.VMs = append(w.Desired.VMs, v)
		in := Instance{VM: v.Name, Arbiter: true, Fence: i%5 != 0}
		w.truth = append(w.truth, simVM{Instance: in})
		w.Observed.VMs = append(w.Observed.VMs, in)
	}
	return w
}

// n is a host's index; their names count from h00.
func (w *world) n(name string) int {
	if len(name) != 3 {
		return -1
	}
	return int(name[1]-'0')*10 + int(name[2]-'0')
}

func (w *world) talks(name string) bool {
	i := w.n(name)
	return i >= 0 && !w.hosts[i].crashed && !w.hosts[i].cut
}

func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("tick %d: "+format, append([]any{w.Now}, args...)...)
	}
}

// alive reports a copy that runs in truth, whoever hears it.
func alive(c Copy) bool { return c.present() && c.State != Lost && c.State != Dead }

// tick lets a tick pass: faults, what the copies do by themselves, what was
// begun, what is seen, and Plan.
func (w *world) tick() Decision {
	w.Now++
	if !w.calm {
		w.faults()
	}
	for i := range w.hosts {
		if h := &w.hosts[i]; (h.crashed || h.cut) && w.Now >= h.back {
			*h = simHost{since: w.Now}
			w.seen["return"]++
		}
	}
	for i := range w.truth {
		w.react(&w.truth[i])
		w.finish(&w.truth[i])
	}
	for _, a := range w.late {
		w.begin(a, true)
	}
	w.late = nil
	w.observe()
	w.check()
	d, err := Plan(w.Desired, w.Observed)
	if err != nil {
		w.fail("%v", err)
	}
	var begun []string
	for i, a := range d.Actions {
		w.judge(a, d.Actions[:i])
		switch {
		case !w.calm && w.r.IntN(20) == 0:
			w.late = append(w.late, a)
		case w.begin(a, false):
			begun = append(begun, a.VM)
		}
	}
	w.observe()
	w.check()
	again, _ := Plan(w.Desired, w.Observed)
	for _, a := range again.Actions {
		if slices.Contains(begun, a.VM) {
			w.fail("%v though another action is under way", a)
		}
	}
	return d
}

// faults breaks a host now and then, and sometimes a rack. Operators confirm
// some deaths.
func (w *world) faults() {
	if w.r.IntN(25) == 0 {
		w.down(w.r.IntN(len(w.hosts)), w.r.IntN(4) == 0)
	}
	if w.r.IntN(200) == 0 {
		w.seen["rack"]++
		rack := w.Hosts[w.r.IntN(len(w.hosts))].Domain
		for i := range w.hosts {
			if w.Hosts[i].Domain == rack {
				w.down(i, false)
			}
		}
	}
	if w.r.IntN(60) == 0 {
		h := &w.Hosts[w.r.IntN(len(w.hosts))]
		h.Evacuation = Evacuation(w.r.IntN(3))
		h.Cordoned = w.r.IntN(6) == 0
	}
	if w.r.IntN(40) == 0 {
		v := &w.Desired.VMs[w.r.IntN(len(w.truth))]
		v.Revision++
		if v.Power = w.r.IntN(3) != 0; v.Power {
			v.Asked = v.Revision
		}
		v.FT = w.r.IntN(4) != 0
	}
}

func (w *world) down(i int, cut bool) {
	h := &w.hosts[i]
	if h.crashed || h.cut {
		return
	}
	*h = simHost{crashed: !cut, cut: cut, back: w.Now + Tick(1+w.r.IntN(100)), since: w.Now}
	if cut {
		w.seen["cut"]++
		return
	}
	w.seen["crash"]++
	for i := range w.truth {
		v := &w.truth[i]
		for _, c := range []*Copy{&v.Primary, &v.Backup, &v.Next} {
			if alive(*c) && c.Host == w.Hosts[w.n(c.Host)].Name && w.hosts[w.n(c.Host)].crashed {
				c.State = Dead
				v.lost = w.Now
			}
		}
	}
}

// react is what package ft does when a copy is lost, two ticks later.
func (w *world) react(v *simVM) {
	if v.lost == 0 || w.Now < v.lost+2 {
		return
	}
	v.lost = 0
	switch {
	case v.Next.State == Starting: // a cold restart goes on by itself
	case alive(v.Primary):
		if v.Backup.State == Dead {
			v.Backup.State = Lost
			v.Epoch++
			v.op.Epoch++
			if !alive(v.Next) {
				v.op, v.Doing = Action{}, 0
			}
		}
		if v.Next.State == Dead {
			v.Next = Copy{}
			if v.op.Kind == MigrateBackup {
				v.op = Action{}
			}
		}
	case v.Backup.State == Protected:
		w.seen["failover"]++
		v.Primary, v.Backup, v.Next, v.op, v.Doing = Copy{v.Backup.Host, Running}, Copy{}, Copy{}, Action{}, 0
		v.Epoch++
		v.Owner = v.Primary.Host
	default: // a backup that was not ready ends with its primary
		v.op, v.Doing = Action{}, 0
		for _, c := range []*Copy{&v.Backup, &v.Next} {
			if alive(*c) {
				c.State = Dead
			}
		}
	}
}

// observe lets the hosts and the owners report.
func (w *world) observe() {
	used := w.used()
	for i := range w.Hosts {
		h, s := &w.Hosts[i], w.hosts[i]
		was := h.State
		switch silent := w.Now - s.since; {
		case !s.crashed && !s.cut:
			h.State, h.Dead = Up, false
		case silent < 3:
			h.State = Suspect
		default:
			h.State = Down
			h.Dead = h.Dead || s.crashed && silent == 20 && w.r.IntN(2) == 0
		}
		if was != h.State {
			h.Since = w.Now
		}
		h.Free = max(0, h.Memory-used[i].Memory)
	}
	for i := range w.truth {
		t, o := &w.truth[i], &w.Observed.VMs[i]
		starter := t.Next.State == Starting && w.talks(t.Next.Host)
		if w.talks(t.Owner) && alive(t.Primary) || t.Owner == "" || starter || !t.Primary.present() {
			*o = t.Instance
			// The record of a restart says nothing of the silent copies.
			if starter {
				o.Primary, o.Backup = w.rumour(t.Primary), w.rumour(t.Backup)
			}
			continue
		}
		o.Primary, o.Backup, o.Next = w.report(o.Primary, t), w.report(o.Backup, t), w.report(o.Next, t)
	}
}

// rumour is a copy as known without an owner: dead if its host says so.
func (w *world) rumour(c Copy) Copy {
	if c.State == Dead && !w.talks(c.Host) {
		c.State = Lost
	}
	return c
}

// report is what the hosts' nodes add to the record of a VM without an owner.
func (w *world) report(c Copy, t *simVM) Copy {
	if !c.present() || !w.talks(c.Host) {
		return c
	}
	for _, is := range []Copy{t.Primary, t.Backup, t.Next} {
		if is.Host == c.Host && alive(is) {
			return c
		}
	}
	c.State = Dead
	return c
}

// begin executes an action unless it is stale. One that comes late may find its
// place taken, which its host refuses.
func (w *world) begin(a Action, late bool) bool {
	v := &w.truth[slices.IndexFunc(w.truth, func(v simVM) bool { return v.VM == a.VM })]
	want := w.Desired.VMs[slices.IndexFunc(w.Desired.VMs, func(v VM) bool { return v.Name == a.VM })]
	start := a.Kind == StartPrimary || a.Kind == ColdRestart
	if a.Epoch != v.Epoch || a.Revision != want.Revision || v.op.Kind != 0 || !w.talks(a.By) || !start && (a.By != v.Owner || !alive(v.Primary)) {
		w.seen["stale"]++
		return false
	}
	if late && a.To != "" && a.Kind != SwapRoles && !w.admits(v, a, want) {
		w.seen["refused"]++
		return false
	}
	switch a.Kind {
	case StartPrimary:
		v.Primary, v.Owner, v.Size, v.Version = Copy{a.To, Starting}, a.To, want.Size, a.Version
		v.Backup, v.Next = Copy{}, Copy{}
		v.Epoch++
		v.Revision = a.Revision
		a.Epoch++
	case ColdRestart:
		if a.Evidence == ProvenDead && (alive(v.Primary) || alive(v.Backup)) {
			w.fail("%v, but it runs", a)
		}
		v.Next = Copy{a.To, Starting}
	case CloneBackup, MigratePrimary:
		v.Backup = Copy{a.To, Cloning}
	case MigrateBackup:
		if w.keepsOld {
			v.Next = Copy{a.To, Cloning}
		} else {
			v.Backup = Copy{a.To, Cloning}
		}
	default:
		v.Doing = a.Kind
	}
	w.seen[a.Kind.String()]++
	v.op, v.until = a, w.Now+Tick(1+w.r.IntN(6))
	return true
}

// admits is a host's own check.
func (w *world) admits(v *simVM, a Action, want VM) bool {
	i := w.n(a.To)
	used, clones := w.used(), w.clones()
	h := w.Hosts[i]
	for _, c := range []Copy{v.Primary, v.Backup, v.Next} {
		if alive(c) && (c.Host == a.To || want.Spread == Require && w.Hosts[w.n(c.Host)].Domain == h.Domain && a.Kind != MigrateBackup) {
			return false
		}
	}
	if a.Kind == MigrateBackup && w.Hosts[w.n(v.Primary.Host)].Domain == h.Domain {
		return false
	}
	return w.talks(a.To) && used[i].Memory+want.Size.Memory+w.Policy.Overhead <= h.Memory && used[i].CPUs+want.Size.CPUs <= h.CPUs*w.Policy.CPUFactor &&
		max(clones[i], clones[w.n(a.By)]) < w.Policy.ClonesPerHost
}

// finish ends what was begun.
func (w *world) finish(v *simVM) {
	a := v.op
	if a.Kind == 0 || w.Now < v.until {
		return
	}
	v.op = Action{}
	failed := !w.calm && w.r.IntN(8) == 0
	blame := func() {
		v.Failures++
		v.FailedAt, v.FailedOn = w.Now, a.To
		w.seen["failure"]++
	}
	if !failed {
		v.Failures = 0
	}
	switch a.Kind {
	case StartPrimary:
		switch {
		case !alive(v.Primary):
		case failed:
			v.Primary = Copy{}
			blame()
		default:
			v.Primary.State = Running
		}
	case ColdRestart:
		switch {
		case !alive(v.Next) || v.Epoch != a.Epoch || failed:
			if v.Next = (Copy{}); failed {
				blame()
			}
		default: // the claim is won, and the fences end what still ran
			if alive(v.Primary) || alive(v.Backup) {
				w.seen["fenced"]++
			}
			want := w.Desired.VMs[slices.IndexFunc(w.Desired.VMs, func(d VM) bool { return d.Name == v.VM })]
			v.Primary, v.Backup, v.Next = Copy{a.To, Running}, Copy{}, Copy{}
			v.Owner, v.Size, v.Version, v.Revision = a.To, want.Size, a.Version, a.Revision
			v.Epoch++
		}
	case CloneBackup, MigratePrimary, MigrateBackup:
		c := &v.Backup
		if a.Kind == MigrateBackup && w.keepsOld {
			c = &v.Next
		}
		switch {
		case !alive(*c) || !alive(v.Primary):
		case failed:
			*c = Copy{}
			blame()
		case c == &v.Next:
			v.Backup, v.Next = Copy{v.Next.Host, Protected}, Copy{}
			v.Epoch++
		default:
			c.State = Protected
			v.Epoch++
		}
	case StopBackup:
		v.Doing, v.Backup = 0, Copy{}
	case SwapRoles:
		v.Doing = 0
		if alive(v.Primary) && v.Backup.State == Protected && !failed {
			old := v.Primary.Host
			v.Primary, v.Owner = Copy{v.Backup.Host, Running}, v.Backup.Host
			v.Backup = Copy{}
			if w.oldStays {
				v.Backup = Copy{old, Protected}
			}
			v.Epoch++
		}
	case PowerOff:
		v.Doing = 0
		v.Primary, v.Backup, v.Next, v.Revision = Copy{v.Primary.Host, PoweredOff}, Copy{}, Copy{}, a.Revision
	}
}

// used is what runs on each host in truth.
func (w *world) used() []Size {
	sum := make([]Size, len(w.Hosts))
	for i := range w.truth {
		v := &w.truth[i]
		for _, c := range []Copy{v.Primary, v.Backup, v.Next} {
			if alive(c) {
				sum[w.n(c.Host)].CPUs += v.Size.CPUs
				sum[w.n(c.Host)].Memory += v.Size.Memory + w.Policy.Overhead
			}
		}
	}
	return sum
}

func (w *world) clones() []int {
	n := make([]int, len(w.Hosts))
	for i := range w.truth {
		v := &w.truth[i]
		for _, c := range []Copy{v.Backup, v.Next} {
			if alive(c) && (c.State == Cloning || c.State == Syncing) && alive(v.Primary) {
				n[w.n(c.Host)]++
				n[w.n(v.Primary.Host)]++
			}
		}
	}
	return n
}

// check is what must hold at every tick.
func (w *world) check() {
	used, clones := w.used(), w.clones()
	for i, h := range w.Hosts {
		if used[i].Memory > h.Memory || used[i].CPUs > h.CPUs*w.Policy.CPUFactor {
			w.fail("%s has %v, its copies need %v", h.Name, Size{h.CPUs, h.Memory}, used[i])
		}
		if clones[i] > w.Policy.ClonesPerHost {
			w.fail("%s makes %d clones", h.Name, clones[i])
		}
	}
	for i := range w.truth {
		v := &w.truth[i]
		for n, pair := range [][2]Copy{{v.Primary, v.Backup}, {v.Primary, v.Next}, {v.Backup, v.Next}} {
			a, b := pair[0], pair[1]
			if !alive(a) || !alive(b) || v.Next.State == Starting {
				continue
			}
			if a.Host == b.Host {
				w.fail("%s has two copies on %s", v.VM, a.Host)
			}
			if n < 2 && w.Desired.VMs[i].Spread == Require && w.Hosts[w.n(a.Host)].Domain == w.Hosts[w.n(b.Host)].Domain {
				w.fail("%s has copies on %s and %s of one domain", v.VM, a.Host, b.Host)
			}
		}
	}
}

// judge holds an action against what Plan had seen.
func (w *world) judge(a Action, before []Action) {
	i := slices.IndexFunc(w.Observed.VMs, func(v Instance) bool { return v.VM == a.VM })
	seen, want := w.Observed.VMs[i], w.Desired.VMs[i]
	if a.Epoch != seen.Epoch || a.Revision != want.Revision {
		w.fail("%v for a stale epoch: it is %d, revision %d", a, seen.Epoch, want.Revision)
	}
	for _, b := range before {
		if b.VM == a.VM {
			w.fail("%v and %v", a, b)
		}
	}
	switch a.Kind {
	case StartPrimary, ColdRestart, CloneBackup, MigrateBackup, MigratePrimary:
		h := w.Hosts[w.n(a.To)]
		if h.State != Up || h.Cordoned || h.Evacuation != Stay {
			w.fail("%v, which is no host for more copies", a)
		}
		for _, l := range want.Labels {
			if !slices.Contains(h.Labels, l) {
				w.fail("%v, which lacks %s", a, l)
			}
		}
		if a.Version == 0 && !slices.Contains(h.Versions, seen.Version) {
			w.fail("%v, which can't run version %d", a, seen.Version)
		}
	}
}

// settle ends all faults and lets the cluster come to rest.
func (w *world) settle(ticks int) Decision {
	w.calm = true
	for i := range w.hosts {
		w.hosts[i].back = w.Now
	}
	for i := range w.Hosts {
		w.Hosts[i].Evacuation, w.Hosts[i].Cordoned = Stay, false
	}
	for i := range w.Desired.VMs {
		v := &w.Desired.VMs[i]
		v.Revision++
		v.Power, v.Asked = true, v.Revision
	}
	var d Decision
	for range ticks {
		d = w.tick()
	}
	return d
}

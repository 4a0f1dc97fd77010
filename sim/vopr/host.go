// SPDX-License-Identifier: Apache-2.0

package vopr

import (
	"fmt"
	"slices"
	"strings"

	"tandem/ft"
	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/machinetest"
	"tandem/replica"
	"tandem/sim"
	"tandem/vswitch"
	"tandem/world"
)

// host is one computer.
type host struct {
	id   int
	name string
	up   bool
	slow world.Time // a step takes so many times as long
	// Out of reach from here.
	noArbiter, noStore, noSwitch bool
	lazy                         world.Time     // added to claims and fences
	gone                         []*sim.Process // since it lost power
}

// vm is one protected VM, with what looks after it.
type vm struct {
	*sim.VM
	id      int
	copies  []*copyOf
	clients []*client
	check   *checker
	boots   int // that may have been
}

// copyOf is one copy of a VM in its process.
type copyOf struct {
	*replica.Replica
	v     *vm
	p     *sim.Process
	site  *sim.Site
	end   *sim.End
	to    *copyOf // that it dials, if it began as a backup
	host  *host
	ram   []byte
	ran   *machine.Machine
	steps event.Step
	since world.Time
	state ft.State // reported last
}

func (c *cluster) newVM(id int) *vm {
	v := &vm{VM: c.w.VM(machinetest.ServiceDisk, machinetest.DiskSlot, machinetest.NetSlot), id: id}
	v.Name, v.MAC = fmt.Sprintf("vm%d", id), vswitch.MAC{2, 7, 7, 7, 7, byte(id)}
	v.check = newChecker(c, v)
	v.Storage.Wrote = v.check.wrote
	c.sw.Plug(v.VM)
	return v
}

// process starts a process for a copy on a host.
func (c *cluster) process(v *vm, h *host) *copyOf {
	c.names++
	k := &copyOf{v: v, p: c.w.Process(fmt.Sprintf("%s.%d@%s", v.Name, c.names, h.name)), host: h, since: c.w.Now()}
	c.home[k.p] = h
	k.site = v.Site(k.p)
	k.p.Turn = func() (at world.Time, ended bool) {
		at, ended = k.Turn()
		c.watch(k)
		return at, ended
	}
	k.p.Spent = k.spent
	k.p.Cost = func() world.Time {
		d := 3*us*h.slow + k.spent()
		if m := k.Machine(); m != nil {
			k.ran, k.steps = m, m.Step()
		}
		return d
	}
	c.reach(k)
	v.copies = append(v.copies, k)
	return k
}

// spent is the time that the machine's steps in this turn have taken.
func (k *copyOf) spent() world.Time {
	if k.Replica == nil || k.Machine() == nil || k.Machine() != k.ran {
		return 0
	}
	return world.Time(k.ran.Step()-k.steps) * 100 * k.host.slow
}

// reach tells a copy's site what its host can reach.
func (c *cluster) reach(k *copyOf) {
	k.site.Cut, k.site.NoStore, k.site.NoSwitch, k.site.Slow = k.host.noArbiter, k.host.noStore, k.host.noSwitch, k.host.lazy
}

func (c *cluster) memory(k *copyOf, size uint64) []byte {
	if n := len(c.free); n > 0 {
		k.ram, c.free = c.free[n-1], c.free[:n-1]
		clear(k.ram)
		return k.ram
	}
	k.ram = make([]byte, size)
	return k.ram
}

func (c *cluster) config(k *copyOf) replica.Config {
	cfg := replica.DefaultConfig()
	cfg.FT = cfg.FT.WithTimeout(ft.Time(c.plan.timeout))
	cfg.FT.VM, cfg.FT.Machine, cfg.FT.Arbiter = ft.VM{1, byte(k.v.id)}, machine.Version, "sim"
	cfg.Slice, cfg.HashEvery, cfg.CloneRate = 2000, ft.Time(c.plan.hashEvery), c.plan.cloneRate
	cfg.Report = func(e replica.Event) { c.report(k, e) }
	return cfg
}

func (c *cluster) outside(k *copyOf) replica.World {
	return replica.World{Clock: k.p, Entropy: c.chance(), Channel: k.end, Site: k.site, Terminal: k.site.Terminal(),
		RAM: func(size uint64) ([]byte, error) { return c.memory(k, size), nil }}
}

// boot starts a VM from its disk.
func (c *cluster) boot(v *vm, h *host) {
	if v.Arbiter.Down || v.Storage.Down { // it would wait for them
		return
	}
	k := c.process(v, h)
	k.end = c.net.Join(k.p, nil)
	epoch, devices := k.site.Restart()
	cfg := c.guest
	cfg.Devices = slices.Clone(cfg.Devices)
	cfg.Devices[machinetest.NetSlot].MAC = v.MAC
	if cfg.Wall = k.p.Wall(); epoch > 1 {
		cfg.Console = machine.ConsoleStart(epoch)
		c.res.Restarts++
		c.res.Marks.Add("a VM boots from its disk")
	}
	v.boots++
	v.check.incarnation, v.check.began = epoch, c.w.Now()
	m, err := machine.New(cfg, c.memory(k, cfg.RAM))
	if err == nil {
		k.Replica, err = replica.NewPrimary(c.config(k), c.outside(k), m, epoch, devices)
	}
	if err != nil {
		c.w.Breach("boot: %v", err)
		return
	}
	c.say("%s boots %s in epoch %d", k.p.Name, v.Name, epoch)
	k.p.Start()
}

// backup starts a backup of a copy on a host.
func (c *cluster) backup(of *copyOf, h *host) {
	k := c.process(of.v, h)
	k.to = of
	k.end = c.net.Join(k.p, of.end)
	var err error
	if k.Replica, err = replica.NewBackup(c.config(k), c.outside(k)); err != nil {
		c.w.Breach("backup: %v", err)
		return
	}
	c.say("%s is to be a backup of %s", k.p.Name, of.p.Name)
	k.p.Start()
	k.end.Redial()
}

// care is the cluster service of a VM: it looks now and then.
func (c *cluster) care(v *vm) {
	c.bury(v)
	switch on := v.primary(); {
	case len(v.copies) == 0:
		if h := c.place(nil); h != nil && (c.calm || c.one(3)) {
			c.boot(v, h)
		}
	case on != nil && on.Status().State == ft.Solo && v.candidates(on) == 0:
		if h := c.place(on.host); h != nil {
			c.backup(on, h)
		}
	}
	c.w.After(20*ms+c.upTo(100*ms), func() { c.care(v) })
}

// bury forgets copies that are gone, and ends backups that nobody will ever answer.
func (c *cluster) bury(v *vm) {
	v.copies = slices.DeleteFunc(v.copies, func(k *copyOf) bool {
		if !k.p.Gone() && k.to != nil && k.to.p.Gone() && k.Machine() == nil && k.Status().State == ft.Receiving {
			k.p.Kill()
		}
		if !k.p.Gone() {
			return false
		}
		if k.ram != nil && !k.p.InTurn() {
			c.free = append(c.free, k.ram)
		}
		return true
	})
}

// primary is the copy that goes on, if the service knows of one.
func (v *vm) primary() (on *copyOf) {
	for _, k := range v.copies {
		switch k.Status().State {
		case ft.Solo, ft.Syncing, ft.Protected:
			if !k.p.Gone() && k.host.up && (on == nil || k.Status().Epoch > on.Status().Epoch) {
				on = k
			}
		}
	}
	return on
}

// candidates counts copies that dial one.
func (v *vm) candidates(on *copyOf) (n int) {
	for _, k := range v.copies {
		if !k.p.Gone() && k.to == on && k.host.up {
			n++
		}
	}
	return n
}

// place is a host for a copy, other than one.
func (c *cluster) place(not *host) *host {
	var fit []*host
	for _, h := range c.hosts {
		if h.up && h != not {
			fit = append(fit, h)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	return fit[c.chance().IntN(len(fit))]
}

// protected reports whether a backup could go on.
func (v *vm) protected() bool {
	on := v.primary()
	return on != nil && on.Status().State == ft.Protected
}

// watch holds a copy that just took a turn to the rule that only the owner of the
// newest epoch is live.
func (c *cluster) watch(k *copyOf) {
	switch s := k.Status(); s.State {
	case ft.Solo, ft.Syncing:
		r, err := k.v.Arbiter.Read()
		if err == nil && r.Epoch <= s.Epoch && r.Owner != k.p.Name && k.Err() == nil {
			c.w.Breach("%s is live in epoch %d, which belongs to %s", k.p.Name, s.Epoch, r.Owner)
		}
	}
}

// report sees what a copy has to say.
func (c *cluster) report(k *copyOf, e replica.Event) {
	switch e.Kind {
	case replica.StateChanged:
		c.say("%s: %v → %v: %s", k.p.Name, e.From, e.To, e.Text)
		c.res.Marks.state(k.Role(), e)
		k.state = e.To
	case replica.WentLive:
		c.res.Failovers++
		c.say("%s is live in epoch %d after entry %d", k.p.Name, e.Epoch, e.Seq)
	case replica.Trouble:
		if contains(e.Text, "the primary has a backup, or waits") {
			c.res.Marks.Add("a primary is occupied")
		}
		c.say("%s: %s", k.p.Name, e.Text)
		if strings.Contains(e.Text, "diverged") || strings.HasPrefix(e.Text, "record ") || strings.Contains(e.Text, "can't follow") {
			c.w.Breach("%s: %s", k.p.Name, e.Text)
		}
	default:
		c.say("%s: %s %s", k.p.Name, e.Kind, e.Text)
	}
}

func (v *vm) describe() string {
	var b strings.Builder
	for _, k := range v.copies {
		fmt.Fprintf(&b, "  %s: %+v, gone %v, err %v\n", k.p.Name, k.Status(), k.p.Gone(), k.Err())
		if m := k.Machine(); m != nil {
			fmt.Fprintf(&b, "    %s\n", m.Describe())
		}
	}
	for _, l := range v.clients {
		fmt.Fprintf(&b, "  client %d: request %d, %d answered\n", l.id, l.n, l.answered)
	}
	return b.String()
}

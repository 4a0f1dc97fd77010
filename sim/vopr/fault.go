// SPDX-License-Identifier: Apache-2.0

package vopr

import (
	"fmt"
	"strings"

	"tandem/ft"
	"tandem/sim"
	"tandem/world"
)

// plan is what a seed draws before it begins.
type plan struct {
	hosts, vms, clients, keys int
	rounds                    int
	storms                    bool       // several faults at a time; otherwise one, of a cluster that is whole
	round, every, think       world.Time // faults last, and come
	timeout, hashEvery        world.Time
	cloneRate                 int
	faults                    []fault
}

// draw chooses: each run knows some of the faults only, so that they don't always
// drown each other (Groce et al., Swarm Testing, 2012).
func draw(c *sim.Chance) plan {
	p := plan{
		hosts: 3 + c.IntN(3), vms: 1 + c.IntN(2), clients: 1 + c.IntN(4), keys: 1 + c.IntN(keys), rounds: 1 + c.IntN(2),
		storms: !c.OneIn(4), round: c.Between(200*ms, 2*sim.Second), every: c.Between(20*ms, 300*ms), think: 4 * ms << c.IntN(7),
		timeout: c.Between(60*ms, 300*ms), hashEvery: c.Between(2*ms, 50*ms),
	}
	if c.OneIn(3) {
		p.cloneRate = 100_000 << c.IntN(6)
	}
	for _, f := range faults {
		if f.blow && !p.storms {
			continue
		}
		if c.OneIn(2) {
			p.faults = append(p.faults, f)
		}
		if f.often && c.OneIn(2) {
			p.faults = append(p.faults, f, f)
		}
	}
	if len(p.faults) == 0 {
		p.faults = append(p.faults, faults[0])
	}
	return p
}

func (p plan) String() string {
	var names []string
	for i, f := range p.faults {
		if i == 0 || p.faults[i-1].name != f.name {
			names = append(names, f.name)
		}
	}
	kind := "one failure at a time"
	if p.storms {
		kind = fmt.Sprintf("faults every %d ms", p.every/ms)
	}
	return fmt.Sprintf("%d hosts, %d VMs, %d clients of %d keys each; %d rounds, timeout %d ms, %s: %s",
		p.hosts, p.vms, p.clients, p.keys, p.rounds, p.timeout/ms, kind, strings.Join(names, ", "))
}

// weather sets how bad the networks and disks are for a round.
func (p *plan) weather(c *cluster) {
	odds := func(least, most int) int {
		if c.one(2) {
			return 0
		}
		return least + c.chance().IntN(most-least)
	}
	n := c.net
	n.Loss, n.Twice, n.Spoil = odds(3, 50), odds(3, 50), odds(10, 100)
	n.Late, n.LateBy = odds(20, 500), c.upTo(p.timeout/2)
	if n.Broken = 0; p.storms {
		n.Broken = odds(300, 3000)
	}
	for _, v := range c.vms {
		l, s := v.LAN, v.Storage
		l.Loss, l.Twice, l.Spoil = odds(3, 30), odds(3, 30), odds(5, 50)
		l.Late, l.LateBy = odds(5, 50), c.upTo(100*ms)
		s.Fail, s.Stall, s.StallBy = odds(4, 40), odds(10, 100), c.upTo(400*ms)
		v.Arbiter.Forget = odds(2, 4)
	}
}

// fault is something that breaks; heal mends what lasts.
type fault struct {
	name  string
	blow  bool // it takes more than one copy, or more than a failure
	often bool
	do    func(c *cluster)
}

var faults = []fault{
	{"kill", false, true, func(c *cluster) { c.victim(func(k *copyOf) { k.p.Kill() }) }},
	{"crash in a turn", false, true, func(c *cluster) {
		c.victim(func(k *copyOf) { k.p.Crash(1+c.chance().IntN(60), c.one(3)) })
	}},
	{"host loses power", false, true, func(c *cluster) { c.powerOff(c.anyHost()) }},
	{"pause", false, false, func(c *cluster) {
		c.victim(func(k *copyOf) {
			k.p.Pause()
			c.w.After(c.upTo(3*c.plan.timeout), func() {
				if !k.p.Gone() {
					k.p.Resume()
				}
			})
		})
	}},
	{"freeze in a turn", false, false, func(c *cluster) {
		c.victim(func(k *copyOf) { k.p.Freeze(c.chance().IntN(60), c.upTo(3*c.plan.timeout)) })
	}},
	{"clock jumps", false, false, func(c *cluster) {
		c.victim(func(k *copyOf) {
			d := c.upTo(20 * ms)
			c.jumped += d
			k.p.Jump(d, int64(c.upTo(sim.Second))-int64(sim.Second/2))
		})
	}},
	{"slow host", false, false, func(c *cluster) {
		h := c.anyHost()
		h.slow = 1 << c.chance().IntN(8)
		c.say("%s is slow: %d", h.name, h.slow)
	}},
	{"one way cut", false, false, func(c *cluster) { c.cut(c.anyHost(), c.anyHost()) }},
	{"cut", false, false, func(c *cluster) { a, b := c.anyHost(), c.anyHost(); c.cut(a, b); c.cut(b, a) }},
	{"host cut off", false, false, func(c *cluster) {
		a := c.anyHost()
		for _, b := range c.hosts {
			c.cut(a, b)
			c.cut(b, a)
		}
		if c.one(2) {
			a.noArbiter, a.noStore, a.noSwitch = true, true, true
			c.changed(a)
		}
	}},
	{"only the channel is lost", false, false, func(c *cluster) {
		c.victim(func(k *copyOf) {
			c.say("no stream reaches %s", k.host.name)
			for _, h := range c.hosts {
				c.only.streams[h.id][k.host.id] = h != k.host
			}
			if c.one(2) {
				k.end.Reset()
			}
		})
	}},
	{"only heartbeats are lost", false, false, func(c *cluster) {
		h := c.anyHost()
		c.say("no heartbeat reaches %s", h.name)
		for _, from := range c.hosts {
			c.only.beats[from.id][h.id] = from != h
		}
	}},
	{"reset", false, false, func(c *cluster) { c.victim(func(k *copyOf) { k.end.Reset() }) }},
	{"arbiter away", false, false, func(c *cluster) { c.anyVM().Arbiter.Down = true; c.say("the arbiter is away") }},
	{"arbiter out of reach", false, false, func(c *cluster) { h := c.anyHost(); h.noArbiter = true; c.changed(h) }},
	{"store away", false, false, func(c *cluster) { c.anyVM().Storage.Down = true; c.say("the store is away") }},
	{"store out of reach", false, false, func(c *cluster) { h := c.anyHost(); h.noStore = true; c.changed(h) }},
	{"switch out of reach", false, false, func(c *cluster) { h := c.anyHost(); h.noSwitch = true; c.changed(h) }},
	{"slow claims", false, false, func(c *cluster) { h := c.anyHost(); h.lazy = c.upTo(400 * ms); c.changed(h) }},
	{"second backup", false, false, func(c *cluster) {
		if on := c.anyVM().primary(); on != nil {
			if h := c.place(on.host); h != nil {
				c.backup(on, h)
			}
			c.w.After(5*ms, on.end.Reset) // it may be there first
		}
	}},
	{"operator", false, false, func(c *cluster) { c.operate() }},
	{"blackout", true, false, func(c *cluster) {
		c.say("blackout")
		for _, h := range c.hosts {
			c.powerOff(h)
		}
		for _, v := range c.vms {
			v.Storage.PowerLoss()
		}
		for _, h := range c.hosts {
			c.powerOn(h)
		}
	}},
	{"hasty restart", true, false, func(c *cluster) {
		v := c.anyVM()
		if h := c.place(nil); h != nil {
			c.say("somebody starts %s again, whatever runs", v.Name)
			c.boot(v, h)
		}
	}},
}

// strike has a fault happen, or one end.
func (c *cluster) strike() {
	if c.plan.storms && c.one(4) {
		c.heal()
		return
	}
	c.plan.faults[c.chance().IntN(len(c.plan.faults))].do(c)
}

func (c *cluster) anyHost() *host { return c.hosts[c.chance().IntN(len(c.hosts))] }
func (c *cluster) anyVM() *vm     { return c.vms[c.chance().IntN(len(c.vms))] }

// victim is a copy of a VM that is there.
func (c *cluster) victim(do func(k *copyOf)) {
	var all []*copyOf
	for _, k := range c.anyVM().copies {
		if !k.p.Gone() {
			all = append(all, k)
		}
	}
	if len(all) > 0 {
		do(all[c.chance().IntN(len(all))])
	}
}

func (c *cluster) powerOff(h *host) {
	if !h.up {
		return
	}
	c.say("%s loses power", h.name)
	h.up = false
	for _, k := range c.on(h) {
		k.p.PullPlug()
		h.gone = append(h.gone, k.p)
	}
	c.w.After(c.upTo(2*sim.Second), func() { c.powerOn(h) })
}

func (c *cluster) powerOn(h *host) {
	if h.up {
		return
	}
	c.say("%s is up again", h.name)
	h.up = true
	for _, p := range h.gone {
		p.Reboot()
	}
	h.gone = nil
}

// on lists the copies on a host.
func (c *cluster) on(h *host) (list []*copyOf) {
	for _, v := range c.vms {
		for _, k := range v.copies {
			if k.host == h && !k.p.Gone() {
				list = append(list, k)
			}
		}
	}
	return list
}

func (c *cluster) cut(from, to *host) {
	if from != to {
		c.say("nothing goes from %s to %s", from.name, to.name)
		c.away[from.id][to.id] = true
	}
}

// changed tells the copies on a host what they can reach now.
func (c *cluster) changed(h *host) {
	c.say("%s reaches: arbiter %v, store %v, switch %v", h.name, !h.noArbiter, !h.noStore, !h.noSwitch)
	for _, v := range c.vms {
		for _, k := range v.copies {
			if k.host == h {
				c.reach(k)
			}
		}
	}
}

// heal ends all that lasts; in a calm the weather is fine too.
func (c *cluster) heal() {
	c.say("what was broken is mended")
	for _, h := range c.hosts {
		was := *h
		h.slow, h.noArbiter, h.noStore, h.noSwitch, h.lazy = 1, false, false, false, 0
		if was.noArbiter || was.noStore || was.noSwitch || was.lazy != 0 {
			c.changed(h)
		}
		c.powerOn(h)
		clear(c.away[h.id])
		clear(c.only.streams[h.id])
		clear(c.only.beats[h.id])
	}
	for _, v := range c.vms {
		v.Arbiter.Down, v.Storage.Down = false, false
	}
	if c.calm {
		n := c.net
		n.Loss, n.Twice, n.Spoil, n.Late, n.Broken = 0, 0, 0, 0, 0
		for _, v := range c.vms {
			l, s := v.LAN, v.Storage
			l.Loss, l.Twice, l.Spoil, l.Late = 0, 0, 0, 0
			s.Fail, s.Stall, v.Arbiter.Forget = 0, 0, 0
		}
	}
	c.net.Retry()
}

// operate has somebody ask for what operators ask for (paper §3.3).
func (c *cluster) operate() {
	v := c.anyVM()
	on := v.primary()
	if on == nil || on.p.InTurn() || on.p.Gone() {
		return
	}
	var err error
	what := []string{"switch", "detach", "CPU share", "reset", "power off"}[c.chance().IntN(5)]
	switch what {
	case "switch":
		err = on.Switch()
	case "detach":
		err = on.Detach()
	case "CPU share":
		err = on.SetCPUShare(100 + c.chance().IntN(ft.FullShare-100))
	case "reset":
		if err = on.Reset(); err == nil {
			v.boots++
		}
	case "power off":
		if !c.plan.storms {
			return
		}
		err = on.PowerOff()
	}
	c.say("the operator asks %s for %s: %v", on.p.Name, what, err)
	on.p.Wake()
}

func contains(s, part string) bool { return strings.Contains(s, part) }

// SPDX-License-Identifier: Apache-2.0

// Package vopr runs whole clusters in the seeded world of package sim, breaks what can
// break, and holds what comes out to what one machine that never fails would give.
//
//	clients ── Switch ──┬──── VM 0: Storage, Console, Arbiter
//	  │                 └──── VM 1 …
//	  │ history            ▲ copies: replica.Replica, a real machine with a real guest
//	  ▼                    │
//	porcupine     hosts ───┴── Net (channels, heartbeats) ── faults
//
// One seed is one run: the size of the cluster, which faults it knows, when they come.
// A run goes through rounds. In each there are faults for a while, then none, and the
// cluster must come to rest: every VM protected by a new backup, every client answered.
// Whatever happens, checker holds:
//
//   - no acknowledged store is lost, and clients see one linearizable store each key
//   - answers are numbered without a hole; a number has one content whoever sends it,
//     and so has each byte of a client's stream: the outputs of all epochs are one history
//   - once an epoch has sent a frame no older one does
//   - the guest's clock never runs backward, nor ahead of the world
//   - a disk request has one content, whoever issues it
//   - a VM boots only when it was told to, or when no copy was left
//   - no copy ever differs from the log
//
// and package sim holds: who emits owns the newest epoch; the console never forks. The
// name is that of TigerBeetle's simulator, from which this one learned.
package vopr

import (
	"fmt"

	"tandem/machine"
	"tandem/sim"
	"tandem/world"
)

const (
	ms = sim.Millisecond
	us = sim.Microsecond
)

// Options say what to run.
type Options struct {
	Guest machine.Config // machinetest.Service
	// Trace is told what happens, as it does.
	Trace func(line string)
}

// Result is what a run came to.
type Result struct {
	Seed      uint64
	Plan      string // the cluster and its faults
	Broken    []string
	Story     []string // what happened, the newest last
	Marks     Marks
	Time      world.Time // simulated
	Failovers int
	Restarts  int // of VMs of which no copy was left
	Answers   int
}

// maxStory bounds the lines of a story.
const maxStory = 4000

// cluster is a run.
type cluster struct {
	w      *sim.World
	net    *sim.Net
	sw     *sim.Switch
	guest  machine.Config
	plan   plan
	hosts  []*host
	vms    []*vm
	home   map[*sim.Process]*host
	away   [][]bool // from host, to host
	only   struct{ streams, beats [][]bool }
	calm   bool
	jumped world.Time // sum of all jumps of clocks
	free   [][]byte   // memory of copies that are gone
	names  int
	res    *Result
	trace  func(string)
}

// Run runs a seed.
func Run(seed uint64, o Options) *Result {
	c := &cluster{w: sim.New(seed), guest: o.Guest, home: map[*sim.Process]*host{}, res: &Result{Seed: seed}, trace: o.Trace}
	c.w.Trace = c.say
	c.w.Mark = func(what string) { c.res.Marks.Add(what) }
	began := c.w.Now()
	c.build()
	for round := 0; round < c.plan.rounds && len(c.broken()) == 0; round++ {
		c.say("round %d", round)
		c.storm()
		c.rest()
	}
	for _, v := range c.vms {
		v.check.history(c)
	}
	c.res.Broken, c.res.Time = c.broken(), c.w.Now()-began
	return c.res
}

func (c *cluster) broken() []string { return c.w.Broken() }

// say adds a line to the story.
func (c *cluster) say(format string, args ...any) {
	line := fmt.Sprintf("%9.3f ms  ", float64(c.w.Now()-3600*sim.Second)/float64(ms)) + fmt.Sprintf(format, args...)
	if len(c.res.Story) == maxStory {
		c.res.Story = append(c.res.Story[:0], c.res.Story[maxStory/2:]...)
	}
	c.res.Story = append(c.res.Story, line)
	if c.trace != nil {
		c.trace(line)
	}
}

func (c *cluster) chance() *sim.Chance { return c.w.Chance() }

// one is true once in n times.
func (c *cluster) one(n int) bool { return c.chance().OneIn(n) }

// upTo is a time from 0 to d.
func (c *cluster) upTo(d world.Time) world.Time { return c.chance().Between(0, d) }

func (c *cluster) build() {
	c.plan = draw(c.chance())
	c.res.Plan = c.plan.String()
	c.say("%s", c.res.Plan)
	c.net, c.sw = c.w.Net(), c.w.Switch()
	c.net.Redial = 10 * ms
	c.net.Blocked = func(from, to *sim.Process) bool { return c.away[c.home[from].id][c.home[to].id] }
	c.net.Only = func(from, to *sim.Process) (streams, beats bool) {
		f, t := c.home[from].id, c.home[to].id
		return c.only.streams[f][t], c.only.beats[f][t]
	}
	for i := range c.plan.hosts {
		c.hosts = append(c.hosts, &host{id: i, name: fmt.Sprintf("h%d", i), up: true, slow: 1})
		for _, m := range []*[][]bool{&c.away, &c.only.streams, &c.only.beats} {
			*m = append(*m, make([]bool, c.plan.hosts))
		}
	}
	for i := range c.plan.vms {
		c.vms = append(c.vms, c.newVM(i))
	}
	c.sw.Sent = c.sent
	for _, v := range c.vms {
		c.boot(v, c.hosts[c.chance().IntN(len(c.hosts))])
		for id := range c.plan.clients {
			c.newClient(v, id).next()
		}
		c.care(v)
	}
}

// storm lets faults happen for a while.
func (c *cluster) storm() {
	if !c.plan.storms {
		c.single()
		return
	}
	c.calm = false
	c.plan.weather(c)
	end := c.w.Now() + c.plan.round
	for c.w.Now() < end && len(c.broken()) == 0 {
		c.w.Run(c.upTo(2 * c.plan.every))
		c.strike()
	}
}

// single has one fault, and only of a cluster that is whole: nothing may be lost.
func (c *cluster) single() {
	for range 2 {
		c.rest()
		c.plan.weather(c)
		c.w.Run(c.upTo(200 * ms))
		restarts := c.res.Restarts
		c.calm = false
		c.strike()
		c.w.Run(c.upTo(c.plan.every))
		c.rest()
		if c.res.Restarts != restarts {
			c.w.Breach("a VM was lost by a single failure")
		}
		if len(c.broken()) > 0 {
			return
		}
	}
}

// rest ends all faults and awaits what must come then.
func (c *cluster) rest() {
	c.calm = true
	c.heal()
	var want []int
	for _, v := range c.vms {
		for _, k := range v.clients {
			want = append(want, k.answered+3)
		}
	}
	within := 20*sim.Second + 2*c.plan.timeout
	if c.w.RunUntil(within, func() bool { return len(c.broken()) > 0 || c.whole(want) }) {
		return
	}
	for _, v := range c.vms {
		c.w.Breach("VM %d is not well %d s after the last fault:\n%s", v.id, within/sim.Second, v.describe())
	}
}

// whole reports whether all VMs are protected and all clients were answered.
func (c *cluster) whole(want []int) bool {
	for _, v := range c.vms {
		if !v.protected() {
			return false
		}
		for _, k := range v.clients {
			if k.answered < want[0] {
				return false
			}
			want = want[1:]
		}
	}
	return true
}

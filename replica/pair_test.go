// SPDX-License-Identifier: Apache-2.0

package replica_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"strings"
	"testing"

	"tandem/ft"
	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/machinetest"
	"tandem/replica"
	"tandem/sim"
	"tandem/world"
)

var (
	seeds   = flag.Uint64("seeds", 3, "seeds of each scenario")
	first   = flag.Uint64("seed", 0, "the first seed")
	verbose = flag.Bool("trace", false, "log what happens in the simulated world")
)

const ms = sim.Millisecond

// copyOf is one replica in its process.
type copyOf struct {
	*replica.Replica
	p      *sim.Process
	site   *sim.Site
	ram    []byte
	events []replica.Event
	ran    *machine.Machine
	steps  event.Step

	arbiter  string     // that it asks, if not the one of all
	stepCost world.Time // 100 ns if it is less
}

// pair is a protected VM in a simulated world: the guest of machinetest, its
// primary and its backup.
type pair struct {
	t      testing.TB
	w      *sim.World
	vm     *sim.VM
	link   *sim.Link
	a, b   *copyOf
	copies []*copyOf
	names  int
	log    []event.Entry // of a, from its start
	policy ft.Policy
	others string // arbiter of the backup
	rate   int    // of clones
	sinks  map[*copyOf]func(event.Entry)
	reads  bool   // by the backup
	ring   uint64 // sectors on which the guest writes, if they are few
	stop   bool   // on a disk's error
	own    bool   // each copy has a disk of its own
}

// eachSeed runs a scenario in many worlds.
func eachSeed(t *testing.T, cfg machine.Config, scenario func(p *pair), options ...func(p *pair)) {
	t.Helper()
	for seed := *first; seed < *first+*seeds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { scenario(newPair(t, seed, cfg, options...)) })
		if t.Failed() {
			return
		}
	}
}

func newPair(t testing.TB, seed uint64, cfg machine.Config, options ...func(p *pair)) *pair {
	p := &pair{t: t, w: sim.New(seed)}
	for _, o := range options {
		o(p)
	}
	if *verbose {
		p.w.Trace = func(format string, args ...any) {
			t.Logf("%d µs: %s", (p.w.Now()-3600*sim.Second)/sim.Microsecond, fmt.Sprintf(format, args...))
		}
	}
	p.vm = p.w.VM(machinetest.DiskSize, machinetest.DiskSlot, machinetest.NetSlot)
	p.vm.Storage.Readers = p.reads
	p.vm.LAN.Answer = echo
	p.vm.LAN.Loss = 20
	p.a, p.b = p.process("a"), p.process("b")
	p.b.arbiter = p.others
	p.link = p.w.Link(p.a.p, p.b.p)
	p.link.Loss = 10
	m, err := machine.New(cfg, p.a.memory(cfg.RAM))
	if err != nil {
		t.Fatal(err)
	}
	if p.a.Replica, err = replica.NewPrimary(p.config(p.a), p.world(p.a, p.link.End(0)), m, 1, p.a.site.Start()); err != nil {
		t.Fatal(err)
	}
	p.a.p.Start()
	p.backup(p.b, p.link.End(1))
	return p
}

// echo answers what the guest sends.
func echo(f []byte) []byte {
	if len(f) < 30 || f[12] != 0x88 {
		return nil
	}
	back := bytes.Clone(f)
	copy(back, f[6:12])
	copy(back[6:], f[:6])
	return back
}

func (p *pair) process(name string) *copyOf {
	c := &copyOf{p: p.w.Process(name)}
	c.site = p.vm.Site(c.p)
	if p.own {
		c.site.Own = p.vm.OwnDisk()
	}
	c.p.Turn = func() (world.Time, bool) {
		at, ended := c.Turn()
		p.watch(c)
		return at, ended
	}
	c.p.Cost = func() world.Time {
		spent := 3*sim.Microsecond + c.spent()
		if m := c.Machine(); m != nil {
			c.ran, c.steps = m, m.Step()
		}
		return spent
	}
	c.p.Spent = c.spent
	p.copies = append(p.copies, c)
	return c
}

// another starts a new backup in place of a copy that is gone.
func (p *pair) another() *copyOf {
	p.names++
	c := p.process(fmt.Sprintf("c%d", p.names))
	p.backup(c, p.link.Rewire(c.p))
	return c
}

// backup starts the replica of a process as a backup, and connects it.
func (p *pair) backup(c *copyOf, end *sim.End) {
	var err error
	if c.Replica, err = replica.NewBackup(p.config(c), p.world(c, end)); err != nil {
		p.t.Fatal(err)
	}
	c.p.Start()
	p.link.Connect()
}

// spent is the time that the machine's steps in this turn have taken.
func (c *copyOf) spent() world.Time {
	if c.Replica == nil || c.Machine() == nil || c.Machine() != c.ran {
		return 0
	}
	return world.Time(c.ran.Step()-c.steps) * max(c.stepCost, 100)
}

func (c *copyOf) memory(size uint64) []byte {
	c.ram = make([]byte, size)
	return c.ram
}

func (p *pair) config(c *copyOf) replica.Config {
	cfg := replica.DefaultConfig()
	cfg.FT.OnDivergence, cfg.FT.Arbiter = p.policy, "folder 1"
	if c.arbiter != "" {
		cfg.FT.Arbiter = c.arbiter
	}
	cfg.FT.VM, cfg.FT.Machine = ft.VM{1}, machine.Version
	cfg.CloneRate = p.rate
	cfg.StopOnDiskError = p.stop
	if p.reads {
		cfg.Reads = cfg.Reads.With(machinetest.DiskSlot)
	}
	cfg.Slice, cfg.HashEvery = 2000, 5*ft.Millisecond
	cfg.Report = func(e replica.Event) {
		c.events = append(c.events, e)
		p.w.Trace("%s: %s %v→%v %s", c.p.Name, e.Kind, e.From, e.To, e.Text)
	}
	if p.sinks != nil {
		cfg.Sink = func(e event.Entry) error {
			if sink := p.sinks[c]; sink != nil {
				sink(e)
			}
			return nil
		}
	}
	if c == p.a {
		cfg.Sink = func(e event.Entry) error { p.log = append(p.log, e); return nil }
	}
	return cfg
}

func (p *pair) world(c *copyOf, ch world.Channel) replica.World {
	return replica.World{Clock: c.p, Entropy: p.w.Chance(), Channel: ch, Site: c.site, Terminal: c.site.Terminal(),
		RAM: func(size uint64) ([]byte, error) { return c.memory(size), nil }}
}

// watch holds a copy that just took a turn to the rule that only the owner of
// the newest epoch is live.
func (p *pair) watch(c *copyOf) {
	switch c.Status().State {
	case ft.Solo, ft.Syncing:
		r, err := p.vm.Arbiter.Read()
		if err == nil && r.Owner != c.p.Name && c.Err() == nil {
			p.w.Breach("%s is live in epoch %d, but %s owns epoch %d", c.p.Name, c.Status().Epoch, r.Owner, r.Epoch)
		}
	}
}

func (c *copyOf) state() ft.State { return c.Status().State }

// owner is the name of whoever won the newest epoch.
func (p *pair) owner() string {
	r, _ := p.vm.Arbiter.Read()
	return r.Owner
}

// saw reports whether the copy reported an event with these words.
func (c *copyOf) saw(kind replica.EventKind, words string) bool {
	for _, e := range c.events {
		if e.Kind == kind && strings.Contains(e.Text, words) {
			return true
		}
	}
	return false
}

// await lets time pass until something holds.
func (p *pair) await(what string, d world.Time, cond func() bool) {
	p.t.Helper()
	if !p.w.RunUntil(d, cond) {
		p.t.Fatalf("no sign of: %s\n%s", what, p.describe())
	}
}

// protected waits until the backup could go on, and a while more.
func (p *pair) protected() {
	p.t.Helper()
	p.await("a protected VM", 10*sim.Second, func() bool { return p.a.state() == ft.Protected })
	p.w.Run(p.w.Chance().Between(0, 100*ms))
}

// goesOn checks that a copy is the VM now and that the guest makes progress.
func (p *pair) goesOn(c *copyOf) {
	p.t.Helper()
	p.await(c.p.Name+" alone", 10*sim.Second, func() bool { return c.state() == ft.Solo })
	p.progress(20)
}

// progress waits for some rounds of the guest.
func (p *pair) progress(rounds int) {
	p.t.Helper()
	want := bytes.Count(p.vm.Console.Printed, []byte("\n")) + rounds
	p.await("progress of the guest", 15*sim.Second, func() bool { return bytes.Count(p.vm.Console.Printed, []byte("\n")) >= want })
}

func (p *pair) describe() string {
	var b strings.Builder
	for _, c := range p.copies {
		if c.Replica == nil {
			continue
		}
		fmt.Fprintf(&b, "%s: %+v, err %v", c.p.Name, c.Status(), c.Err())
		if m := c.Machine(); m != nil {
			b.WriteString("; " + m.Describe())
		}
		b.WriteString("\n")
		for _, e := range c.events[max(0, len(c.events)-8):] {
			fmt.Fprintf(&b, "  %s %v→%v %s\n", e.Kind, e.From, e.To, e.Text)
		}
	}
	printed := p.vm.Console.Printed
	fmt.Fprintf(&b, "printed: %s\nbroken: %s", printed[max(0, len(printed)-200):], strings.Join(p.w.Broken(), "\n"))
	return b.String()
}

// check holds the run to what nobody may ever see.
func (p *pair) check() {
	p.t.Helper()
	p.w.Run(10 * ms)
	for _, rule := range p.w.Broken() {
		p.t.Error(rule)
	}
	for _, c := range p.copies {
		if c.Replica != nil && c.saw(replica.Diverged, "diverged") {
			p.t.Errorf("%s diverged", c.p.Name)
		}
	}
	p.checkConsole()
	p.checkFrames()
	if p.t.Failed() {
		p.t.Log(p.describe())
	}
}

// lines are the console's whole lines; where the VM booted from its disk the last
// one before may be cut short.
func (p *pair) lines() (lines []string) {
	from := 0
	for _, to := range append(p.vm.Console.Boots[:len(p.vm.Console.Boots):len(p.vm.Console.Boots)], len(p.vm.Console.Printed)) {
		part := strings.Split(string(p.vm.Console.Printed[from:to]), "\n")
		lines, from = append(lines, part[:len(part)-1]...), to
	}
	return lines
}

// checkConsole: rounds follow each other from each boot on, and what a line tells
// is on the disk.
func (p *pair) checkConsole() {
	p.t.Helper()
	next, printed := uint64(0), map[uint64]uint64{}
	for _, line := range p.lines() {
		var n, hash, ticks, shared uint64
		switch _, err := fmt.Sscanf(line, "%d %x %d %d", &n, &hash, &ticks, &shared); {
		case line == "boot":
			next = 0
		case line == "disk error" || line == "bye" || strings.HasPrefix(line, "capacity "):
		case err != nil || n != next:
			p.t.Errorf("the guest printed %q, round %d was due", line, next)
			return
		default:
			printed[n] = hash
			next++
		}
	}
	delete(printed, next) // a guest that was reset is about to write it again
	sectors := uint64(4096)
	if p.ring > 0 {
		sectors = p.ring
	}
	for n, hash := range printed {
		if p.ring > 0 && n+p.ring <= next {
			continue // written over
		}
		sector := p.disk()[n%sectors*512:]
		if m, got := binary.LittleEndian.Uint64(sector), binary.LittleEndian.Uint64(sector[8:]); m != n || got != hash {
			p.t.Errorf("sector %d has %d, hash %x; the guest printed hash %x", n, m, got, hash)
		}
	}
}

// disk is what the VM has on its disk: the live copy's, if each has its own.
func (p *pair) disk() []byte {
	if !p.own {
		return p.vm.Disk().Bytes
	}
	for _, c := range p.copies {
		switch c.state() {
		case ft.Solo, ft.Syncing, ft.Protected, ft.Claiming:
			if c.Role() == ft.RolePrimary && !c.p.Gone() {
				return c.site.Own.Bytes
			}
		}
	}
	return p.copies[0].site.Own.Bytes
}

// checkFrames: what was sent again is what was sent.
func (p *pair) checkFrames() {
	p.t.Helper()
	if bytes.Count(p.vm.Console.Printed, []byte("boot\n")) > 1 {
		return // each boot counts anew
	}
	hashes := map[uint64]uint64{}
	for _, f := range p.vm.LAN.Sent {
		if len(f) < 30 || f[12] != 0x88 {
			continue
		}
		n, hash := binary.LittleEndian.Uint64(f[14:]), binary.LittleEndian.Uint64(f[22:])
		if h, ok := hashes[n]; ok && h != hash {
			p.t.Errorf("frame %d left with hash %x and with %x", n, h, hash)
		}
		hashes[n] = hash
	}
}

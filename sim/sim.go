// SPDX-License-Identifier: Apache-2.0

// Package sim is the seeded world: the other implementation of package world, in
// which pairs of replicas run on one goroutine, faster than time, among faults.
//
//	        World: now, a queue of what happens next, a seed
//	          │
//	  ┌───────┴────────┐          ┌─────────── VM ───────────┐
//	Process ── Link ── Process    │ Arbiter Storage LAN Console │
//	  │ clock, turns,   pause,    └──▲──────────────────────▲──┘
//	  │ kill, freeze                 │ Site, Disk, Port      │ Terminal
//	  └──────────────────────────────┴───────────────────────┘
//
// One seed is one run: all chance comes from it, and things that happen at one
// moment happen in the order in which they were arranged. A World also holds the
// processes to what must never happen, whatever fails: two owners that emit, a
// console or a frame with two contents. Broken lists what did not hold.
package sim

import (
	"container/heap"
	"fmt"

	"tandem/world"
)

// Units of world.Time.
const (
	Microsecond world.Time = 1000
	Millisecond            = 1000 * Microsecond
	Second                 = 1000 * Millisecond
)

// World is one seeded universe.
type World struct {
	// Trace, if set, is told what happens.
	Trace func(format string, args ...any)
	// Mark is told that something rare has happened.
	Mark func(what string)

	now    world.Time
	chance Chance
	queue  agenda
	count  uint64 // things arranged, so that equals keep their order
	broken []string
}

// New returns the world of a seed, at an hour after its beginning.
func New(seed uint64) *World {
	return &World{now: 3600 * Second, chance: Chance{seed}, Trace: func(string, ...any) {}, Mark: func(string) {}}
}

// Now is the time of the world, which no process sees.
func (w *World) Now() world.Time { return w.now }

// Chance is the source of all chance in the world.
func (w *World) Chance() *Chance { return &w.chance }

// After arranges for f to be called after a while.
func (w *World) After(d world.Time, f func()) { w.at(w.now+max(d, 0), f) }

func (w *World) at(t world.Time, f func()) {
	w.count++
	heap.Push(&w.queue, task{t, w.count, f})
}

// Run lets time pass.
func (w *World) Run(d world.Time) { w.runUntil(w.now+d, func() bool { return false }) }

// RunUntil lets time pass until a condition holds, for d at most; it reports
// whether it came to hold.
func (w *World) RunUntil(d world.Time, cond func() bool) bool { return w.runUntil(w.now+d, cond) }

func (w *World) runUntil(end world.Time, cond func() bool) bool {
	for !cond() {
		if len(w.queue) == 0 || w.queue[0].at > end {
			w.now = max(w.now, end)
			return cond()
		}
		t := heap.Pop(&w.queue).(task)
		w.now = max(w.now, t.at)
		t.do()
	}
	return true
}

// Breach notes a rule that did not hold.
func (w *World) Breach(format string, args ...any) {
	w.broken = append(w.broken, fmt.Sprintf("%d µs: ", (w.now-3600*Second)/Microsecond)+fmt.Sprintf(format, args...))
}

// Broken lists the rules that did not hold.
func (w *World) Broken() []string { return w.broken }

// task is something that will happen; agenda is a heap of them.
type task struct {
	at  world.Time
	seq uint64
	do  func()
}

type agenda []task

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].seq < a[j].seq
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(task)) }
func (a *agenda) Pop() any {
	last := len(*a) - 1
	t := (*a)[last]
	(*a)[last] = task{}
	*a = (*a)[:last]
	return t
}

// Chance is a generator of numbers: SplitMix64 (Steele, Lea, Flood 2014).
type Chance struct{ state uint64 }

// Uint64 returns the next number.
func (c *Chance) Uint64() uint64 {
	c.state += 0x9e3779b97f4a7c15
	z := c.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// IntN returns a number from 0 to n-1.
func (c *Chance) IntN(n int) int { return int(c.Uint64() % uint64(n)) }

// Between returns a time from a to b.
func (c *Chance) Between(a, b world.Time) world.Time { return a + world.Time(c.Uint64()%uint64(b-a+1)) }

// OneIn reports true once in n times; never for n of 0.
func (c *Chance) OneIn(n int) bool { return n > 0 && c.Uint64()%uint64(n) == 0 }

// Fill implements world.Entropy.
func (c *Chance) Fill(b []byte) {
	for i := range b {
		b[i] = byte(c.Uint64() >> 56)
	}
}

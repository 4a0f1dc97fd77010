// SPDX-License-Identifier: Apache-2.0

// Package rtc is the goldfish real-time clock: nanoseconds since 1970, and one
// alarm.
//
// The wall clock is guest time plus a base, and the base is state like any
// other: the machine gets it once, at power-on, as logged input. From then on
// what the guest reads follows from guest time alone, on both copies alike.
//
//	wall = base + ticks × 100 ns
//
// The registers are those of "Goldfish virtual hardware" (Android emulator,
// docs/GOLDFISH-VIRTUAL-HARDWARE.TXT).
package rtc

import (
	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/state"
)

// Size of the register space in bytes.
const Size = 0x1000

// Register map; all 32 bits wide. A 64-bit value is read low half first, which
// latches the high half, and written high half first: the low half commits it.
const (
	timeLow        = 0x00
	timeHigh       = 0x04
	alarmLow       = 0x08
	alarmHigh      = 0x0c
	irqEnabled     = 0x10
	clearAlarm     = 0x14
	alarmStatus    = 0x18
	clearInterrupt = 0x1c
	end            = 0x20
)

// NanosPerTick is the length of a tick of guest time.
const NanosPerTick = 1_000_000_000 / event.TicksPerSecond

// RTC is the clock.
type RTC struct {
	base     uint64 // wall clock at guest time 0, ns since 1970, modulo 2^64
	latch    uint32 // high half of the time last read
	alarm    uint64 // as the guest wrote it, ns since 1970
	armed    bool
	due      event.Ticks // when an armed alarm fires
	enabled  bool
	fired    bool
	now      func() event.Ticks
	irq      bus.Line
	newAlarm func()
}

// New returns a clock at 1970. now is guest time; newAlarm is called when what
// NextAlarm returns may have changed.
func New(now func() event.Ticks, irq bus.Line, newAlarm func()) *RTC {
	return &RTC{now: now, irq: irq, newAlarm: newAlarm}
}

// SetWall sets the wall clock at guest time 0, in nanoseconds since 1970.
func (r *RTC) SetWall(base uint64) {
	r.base = base
	r.rearm()
}

// Wall returns the wall clock now, in nanoseconds since 1970.
func (r *RTC) Wall() uint64 { return r.base + uint64(r.now())*NanosPerTick }

// NextAlarm returns when Tick will fire the alarm; ok is false if none is set.
func (r *RTC) NextAlarm() (due event.Ticks, ok bool) { return r.due, r.armed }

// Tick fires the alarm if it is due. The machine calls it at the step at which
// guest time reaches NextAlarm.
func (r *RTC) Tick(now event.Ticks) {
	if r.armed && now >= r.due {
		r.armed, r.due, r.fired = false, 0, true
		r.update()
		r.newAlarm()
	}
}

// Load reads a register.
func (r *RTC) Load(off uint64, size int) (uint64, bool) {
	if size != 4 {
		return 0, false
	}
	switch off {
	case timeLow:
		wall := r.Wall()
		r.latch = uint32(wall >> 32)
		return wall & 0xffff_ffff, true
	case timeHigh:
		return uint64(r.latch), true
	case alarmLow:
		return r.alarm & 0xffff_ffff, true
	case alarmHigh:
		return r.alarm >> 32, true
	case irqEnabled:
		return bit(r.enabled), true
	case alarmStatus:
		return bit(r.armed), true
	}
	return 0, off < end && off%4 == 0
}

// Store writes a register.
func (r *RTC) Store(off uint64, size int, v uint64) bool {
	if size != 4 {
		return false
	}
	switch off {
	case timeLow:
		wall := r.Wall()
		r.base += low(wall, v) - wall
		r.rearm()
	case timeHigh:
		wall := r.Wall()
		r.base += high(wall, v) - wall
	case alarmLow:
		r.alarm = low(r.alarm, v)
		r.armed = true
		r.rearm()
	case alarmHigh:
		r.alarm = high(r.alarm, v)
	case irqEnabled:
		r.enabled = v&1 != 0
	case clearAlarm:
		r.armed, r.due = false, 0
		r.newAlarm()
	case clearInterrupt:
		r.fired = false
	default:
		return off < end && off%4 == 0
	}
	r.update()
	return true
}

// Reset forgets the alarm. The clock goes on, as one with a battery does.
func (r *RTC) Reset() {
	r.latch, r.alarm = 0, 0
	r.armed, r.due, r.enabled, r.fired = false, 0, false, false
	r.update()
	r.newAlarm()
}

// State saves, loads or hashes the clock.
func (r *RTC) State(c *state.Coder) {
	state.U64(c, &r.base)
	state.U32(c, &r.latch)
	state.U64(c, &r.alarm)
	c.Bool(&r.armed)
	state.U64(c, &r.due)
	c.Bool(&r.enabled)
	c.Bool(&r.fired)
	if c.Loading() && c.Err() == nil {
		r.newAlarm()
	}
}

// rearm computes when an armed alarm fires; one in the past fires at once. The
// distance is rounded up to a tick, so that the alarm is never early.
func (r *RTC) rearm() {
	if !r.armed {
		return
	}
	now, wall := r.now(), r.Wall()
	r.due = now
	if r.alarm > wall {
		r.due += event.Ticks((r.alarm-wall-1)/NanosPerTick + 1)
	}
	if r.due < now { // past the end of time
		r.due = ^event.Ticks(0)
	}
	r.Tick(now)
	r.newAlarm()
}

func (r *RTC) update() { r.irq.Set(r.fired && r.enabled) }

// low and high replace one half of a 64-bit value.
func low(old, v uint64) uint64  { return old&^0xffff_ffff | v&0xffff_ffff }
func high(old, v uint64) uint64 { return old&0xffff_ffff | v<<32 }

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// SPDX-License-Identifier: Apache-2.0

package rtc

import (
	"bytes"
	"math/rand"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/state"
)

var _ bus.Device = (*RTC)(nil)

// board is a clock, its time and its interrupt line.
type board struct {
	*RTC
	time  event.Ticks
	irq   bool
	moved int // calls of newAlarm
}

func (b *board) Set(level bool) { b.irq = level }

func newBoard() *board {
	b := &board{}
	b.RTC = New(func() event.Ticks { return b.time }, b, func() { b.moved++ })
	return b
}

func (b *board) reg(t *testing.T, off uint64) uint64 {
	t.Helper()
	v, ok := b.Load(off, 4)
	if !ok {
		t.Fatalf("load of %#x failed", off)
	}
	return v
}

// read reads the time as a driver does.
func (b *board) read(t *testing.T) uint64 {
	t.Helper()
	low := b.reg(t, timeLow)
	return b.reg(t, timeHigh)<<32 | low
}

func (b *board) write(off, v uint64) { b.Store(off, 4, v) }

// setAlarm sets the alarm as a driver does.
func (b *board) setAlarm(ns uint64) {
	b.write(alarmHigh, ns>>32)
	b.write(alarmLow, ns&0xffff_ffff)
}

const day = 1_700_000_000_000_000_000

// Shows that the clock is its base plus guest time, that reading the low half
// latches the high one, and that the guest can set it.
func TestTime(t *testing.T) {
	b := newBoard()
	b.SetWall(day)
	if got := b.read(t); got != day {
		t.Fatalf("time %d, want %d", got, uint64(day))
	}
	b.time = 25
	if got := b.read(t); got != day+2500 {
		t.Fatalf("time %d, want %d", got, uint64(day+2500))
	}
	b.SetWall(1<<32 - 2600) // 100 ns before the low half wraps
	low := b.reg(t, timeLow)
	b.time++
	if got := b.reg(t, timeHigh)<<32 | low; got != 1<<32-100 {
		t.Fatalf("torn read %#x", got)
	}
	if got := b.read(t); got != 1<<32 {
		t.Fatalf("time %#x after the wrap", got)
	}
	want := uint64(day + 123)
	b.write(timeHigh, want>>32)
	b.write(timeLow, want&0xffff_ffff)
	if got := b.read(t); got != want {
		t.Fatalf("time %d, want %d", got, want)
	}
	b.time += 10
	if got := b.read(t); got != want+1000 || b.Wall() != got {
		t.Fatalf("time %d, want %d", got, want+1000)
	}
}

// Shows an alarm from setting to clearing, never a tick early.
func TestAlarm(t *testing.T) {
	b := newBoard()
	b.SetWall(day)
	b.time = 1000
	b.write(irqEnabled, 1)
	b.setAlarm(day + 200_001) // between ticks 2000 and 2001
	if due, ok := b.NextAlarm(); !ok || due != 2001 || b.moved == 0 {
		t.Fatalf("alarm at %d, %v; want 2001", due, ok)
	}
	if b.reg(t, alarmStatus) != 1 || b.reg(t, alarmLow) != (day+200_001)&0xffff_ffff || b.reg(t, alarmHigh) != (day+200_001)>>32 {
		t.Fatal("alarm registers don't read back")
	}
	if b.Tick(2000); b.irq {
		t.Fatal("alarm is early")
	}
	b.time = 2001
	if b.Tick(2001); !b.irq || b.reg(t, alarmStatus) != 0 {
		t.Fatal("alarm did not fire")
	}
	if _, ok := b.NextAlarm(); ok {
		t.Fatal("alarm still set after it fired")
	}
	if b.write(irqEnabled, 0); b.irq {
		t.Fatal("a masked interrupt is high")
	}
	if b.write(irqEnabled, 1); !b.irq {
		t.Fatal("an unmasked pending interrupt is low")
	}
	if b.write(clearInterrupt, 1); b.irq {
		t.Fatal("a cleared interrupt is high")
	}
	if b.setAlarm(day); !b.irq {
		t.Fatal("an alarm in the past doesn't fire at once")
	}
	b.write(clearInterrupt, 1)
	b.setAlarm(day + 900_000)
	b.write(clearAlarm, 1)
	if _, ok := b.NextAlarm(); ok {
		t.Fatal("a cleared alarm is set")
	}
	if b.Tick(100_000); b.irq {
		t.Fatal("a cleared alarm fired")
	}
}

// Shows that setting the clock moves an alarm, which is wall-clock time, and
// that an alarm beyond the end of guest time is kept there.
func TestAlarmMoves(t *testing.T) {
	b := newBoard()
	b.SetWall(day)
	b.setAlarm(day + 1_000_000)
	b.write(timeHigh, (day+400_000)>>32)
	b.write(timeLow, (day+400_000)&0xffff_ffff)
	if due, _ := b.NextAlarm(); due != 6000 {
		t.Fatalf("alarm at %d, want 6000", due)
	}
	b.SetWall(0)
	b.time = ^event.Ticks(0) - 5
	b.write(timeHigh, 0)
	b.write(timeLow, 0)
	b.setAlarm(^uint64(0))
	if due, ok := b.NextAlarm(); !ok || due != ^event.Ticks(0) {
		t.Fatalf("alarm at %d, %v", due, ok)
	}
}

// Shows that a reset forgets the alarm and keeps the time.
func TestReset(t *testing.T) {
	b := newBoard()
	b.SetWall(day)
	b.write(irqEnabled, 1)
	b.setAlarm(1)
	b.Reset()
	if b.irq || b.reg(t, irqEnabled) != 0 || b.read(t) != day {
		t.Fatal("reset kept the interrupt or lost the time")
	}
}

// Shows that loading restores every bit and announces the alarm.
func TestState(t *testing.T) {
	b := newBoard()
	b.SetWall(day)
	b.time = 7
	b.read(t)
	b.write(irqEnabled, 1)
	b.setAlarm(0)
	b.setAlarm(day + 5000)
	saved := save(t, b)
	d := newBoard()
	c := state.Loader(bytes.NewReader(saved))
	if d.State(c); c.Err() != nil {
		t.Fatal(c.Err())
	}
	if due, ok := d.NextAlarm(); !bytes.Equal(save(t, d), saved) || !ok || due != 50 || d.moved != 1 {
		t.Fatalf("loaded state differs; alarm at %d, %v, announced %d times", due, ok, d.moved)
	}
}

func save(t *testing.T, d bus.Device) []byte {
	t.Helper()
	var b bytes.Buffer
	c := state.Saver(&b)
	if d.State(c); c.Err() != nil {
		t.Fatal(c.Err())
	}
	return b.Bytes()
}

// Shows that no access panics, that only aligned words of the eight registers
// are taken, and that the line always is what fired and enabled say.
func TestHostile(t *testing.T) {
	b := newBoard()
	r := rand.New(rand.NewSource(1))
	for i := range 200_000 {
		off, size := uint64(i)%Size, []int{1, 2, 4, 8}[r.Intn(4)]
		switch r.Intn(4) {
		case 0:
			off = uint64(r.Intn(end + 4))
		case 1:
			off = r.Uint64()
		}
		b.time += event.Ticks(r.Intn(1000))
		b.Tick(b.time)
		want := size == 4 && off%4 == 0 && off < end
		if _, ok := b.Load(off, size); ok != want {
			t.Fatalf("load of %d bytes at %#x: %v", size, off, ok)
		}
		if ok := b.Store(off, size, r.Uint64()); ok != want {
			t.Fatalf("store of %d bytes at %#x: %v", size, off, ok)
		}
		if due, ok := b.NextAlarm(); ok && due <= b.time {
			t.Fatalf("alarm of %d not fired at %d", due, b.time)
		}
		if b.irq != (b.fired && b.enabled) {
			t.Fatal("line differs from its registers")
		}
	}
}

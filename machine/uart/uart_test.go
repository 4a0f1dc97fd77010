// SPDX-License-Identifier: Apache-2.0

package uart

import (
	"bytes"
	"math/rand"
	"strings"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/state"
)

var _ bus.Device = (*UART)(nil)

// board is a port, its interrupt line and what it emitted.
type board struct {
	*UART
	irq bool
	out []event.ConsoleOut
}

func (b *board) Set(level bool) { b.irq = level }

func newBoard() *board {
	b := &board{}
	b.UART = New(b, func(body event.OutputBody) { b.out = append(b.out, body.(event.ConsoleOut)) }, 0)
	return b
}

// step is one thing done to a port and what is seen after it.
type step struct {
	do    string // "load", "store", "in"
	off   uint64
	value uint64 // expected or stored value; the number of bytes for "in"
	irq   bool
}

var scenarios = []struct {
	why   string
	steps []step
}{
	{"power-on", []step{
		{"load", ier, 0, false},
		{"load", iirFCR, 0x01, false},
		{"load", lcr, 0, false},
		{"load", mcr, 0, false},
		{"load", lsr, 0x60, false},
		{"load", msr, 0xb0, false},
		{"load", data, 0, false},
	}},
	{"scratch, divisor and the bits that exist", []step{
		{"store", scr, 0x5a, false},
		{"load", scr, 0x5a, false},
		{"store", ier, 0xf4, false},
		{"load", ier, 0x04, false},
		{"store", lcr, 0x83, false},
		{"load", data, 12, false},
		{"store", data, 0x34, false},
		{"store", ier, 0x12, false},
		{"load", data, 0x34, false},
		{"load", ier, 0x12, false},
		{"load", lcr, 0x83, false},
		{"store", lcr, 0x03, false},
		{"load", ier, 0x04, false},
		{"store", mcr, 0xef, false},
		{"load", mcr, 0x0f, false},
		{"store", lsr, 0xff, false},
		{"load", lsr, 0x60, false},
	}},
	{"without the FIFO one byte is ready at a time", []step{
		{"store", ier, ierRx, false},
		{"in", 0, 3, true},
		{"load", iirFCR, 0x04, true},
		{"load", lsr, 0x61, true},
		{"load", data, 0, true},
		{"load", data, 1, true},
		{"load", data, 2, false},
		{"load", iirFCR, 0x01, false},
		{"load", lsr, 0x60, false},
	}},
	{"below the trigger level bytes have timed out, at it they are available", []step{
		{"store", iirFCR, 0x81, false}, // trigger 8
		{"load", iirFCR, 0xc1, false},
		{"store", ier, ierRx, false},
		{"in", 0, 7, true},
		{"load", iirFCR, 0xcc, true},
		{"in", 0, 1, true},
		{"load", iirFCR, 0xc4, true},
		{"load", data, 0, true},
		{"load", iirFCR, 0xcc, true},
		{"store", iirFCR, 0x83, false}, // clear
		{"load", lsr, 0x60, false},
	}},
	{"bytes beyond the FIFO wait; clearing it loses only what was in it", []step{
		{"store", iirFCR, 0x01, false},
		{"in", 0, 40, false},
		{"store", iirFCR, 0x03, false},
		{"load", data, 16, false},
		{"store", iirFCR, 0x00, false},
		{"load", data, 33, false},
		{"load", data, 34, false},
	}},
	{"the transmitter's interrupt: enabling raises it, identification clears it, sending raises it again", []step{
		{"store", ier, ierTx, true},
		{"load", iirFCR, 0x02, false},
		{"load", iirFCR, 0x01, false},
		{"store", data, 'x', true},
		{"load", iirFCR, 0x02, false},
		{"store", ier, ierTx, false},
		{"store", ier, 0, false},
		{"store", ier, ierTx, true},
		{"store", ier, 0, false},
	}},
	{"priorities: line status, received data, transmitter, modem", []step{
		{"store", mcr, mcrLoop, false},
		{"store", ier, 0x0f, true},
		{"store", data, 'a', true},
		{"store", data, 'b', true}, // overrun
		{"load", iirFCR, 0x06, true},
		{"load", lsr, 0x63, true},
		{"load", lsr, 0x61, true},
		{"load", iirFCR, 0x04, true},
		{"load", data, 'a', true},
		{"load", iirFCR, 0x02, true},
		{"load", iirFCR, 0x00, true},
		{"load", msr, 0x0b, false},
		{"load", iirFCR, 0x01, false},
	}},
	{"loopback: outputs are the modem's lines, and the wire is cut off", []step{
		{"store", mcr, mcrLoop | mcrRTS | mcrOut2, false},
		{"load", msr, 0x92, false}, // DSR fell
		{"load", msr, 0x90, false},
		{"store", mcr, mcrLoop | mcrDTR | mcrOut1, false},
		{"load", msr, 0x6b, false}, // all but RI count both ways
		{"store", mcr, mcrLoop, false},
		{"load", msr, 0x06, false}, // RI ended
		{"in", 0, 1, false},
		{"load", lsr, 0x60, false},
		{"store", data, 0x77, false},
		{"load", data, 0x77, false},
		{"store", mcr, 0, false},
		{"load", lsr, 0x61, false},
		{"load", data, 0, false},
	}},
	{"Linux tells a 16550A from its neighbours", []step{
		{"store", lcr, 0, false},
		{"store", iirFCR, 0x01, false},
		{"load", iirFCR, 0xc1, false},
		{"store", lcr, 0xbf, false},
		{"load", iirFCR, 0xc1, false}, // not zero: no EFR
		{"store", lcr, 0, false},
		{"store", iirFCR, 0x21, false},
		{"load", iirFCR, 0xc1, false}, // bit 5 clear: no 64-byte FIFO
		{"store", ier, 0x40, false},
		{"load", ier, 0, false}, // no UART unit enable
	}},
}

// Shows the port's registers as sequences of accesses.
func TestScenarios(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.why, func(t *testing.T) {
			b, typed := newBoard(), byte(0)
			for i, st := range s.steps {
				switch st.do {
				case "in":
					for range st.value {
						b.In([]byte{typed})
						typed++
					}
				case "store":
					if !b.Store(st.off, 1, st.value) {
						t.Fatalf("step %d: store failed", i)
					}
				case "load":
					if v, ok := b.Load(st.off, 1); !ok || v != st.value {
						t.Fatalf("step %d: register %d = %#x, %v; want %#x", i, st.off, v, ok, st.value)
					}
				}
				if b.irq != st.irq {
					t.Fatalf("step %d: interrupt line %v", i, b.irq)
				}
			}
		})
	}
}

// Shows where the output is cut, and that offsets count every byte, over a reset too.
func TestOutput(t *testing.T) {
	b := newBoard()
	put := func(s string) {
		for _, c := range []byte(s) {
			b.Store(data, 1, uint64(c))
		}
	}
	var want []event.ConsoleOut
	next := func(offset uint64, s string) {
		want = append(want, event.ConsoleOut{Device: event.UART, Offset: offset, Data: []byte(s)})
	}
	put("hello\nwor")
	next(0, "hello\n")
	b.Flush()
	b.Flush()
	next(6, "wor")
	put(strings.Repeat("x", 70))
	next(9, strings.Repeat("x", 64))
	b.Print([]byte("yy\n"))
	next(73, "xxxxxxyy\n")
	put("end")
	b.Reset()
	next(82, "end")
	put("\n")
	next(85, "\n")
	b.Store(mcr, 1, mcrLoop)
	put("looped\n")
	if len(b.out) != len(want) {
		t.Fatalf("%d outputs, want %d: %v", len(b.out), len(want), b.out)
	}
	for i, o := range b.out {
		if o.Device != want[i].Device || o.Offset != want[i].Offset || string(o.Data) != string(want[i].Data) {
			t.Errorf("output %d: %d %q, want %d %q", i, o.Offset, o.Data, want[i].Offset, want[i].Data)
		}
	}
}

// Shows that typing has a bound, that no byte within it is lost or reordered,
// and that Take and the registers drain the same queue.
func TestBacklog(t *testing.T) {
	b := newBoard()
	b.Store(iirFCR, 1, 0x01)
	b.In([]byte{0xee})
	typed := bytes.Repeat([]byte("0123456789"), 10_000)
	b.In(typed)
	b.In(typed)
	if v, _ := b.Load(data, 1); v != 0xee {
		t.Fatalf("first byte %#x", v)
	}
	v, _ := b.Load(data, 1)
	got := append([]byte{byte(v)}, b.Take(1<<20)...)
	// The second time there was room only for what the FIFO had taken over.
	want := append(bytes.Clone(typed[:backlogSize]), typed[:fifoSize-1]...)
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes kept, want %d", len(got), len(want))
	}
	if more := b.Take(10); len(more) != 0 || b.irq {
		t.Fatalf("%d bytes after the last", len(more))
	}
}

// Shows that loading restores every bit, so that both ports go on alike, and
// that impossible states are refused.
func TestState(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for range 200 {
		b := newBoard()
		for range 100 {
			scramble(b, r)
		}
		saved := save(t, b)
		d := newBoard()
		c := state.Loader(bytes.NewReader(saved))
		if d.State(c); c.Err() != nil {
			t.Fatal(c.Err())
		}
		if !bytes.Equal(save(t, d), saved) {
			t.Fatal("loaded state differs")
		}
		seed := r.Int63()
		scramble(b, rand.New(rand.NewSource(seed)))
		scramble(d, rand.New(rand.NewSource(seed)))
		if !bytes.Equal(save(t, d), save(t, b)) || b.irq != d.irq {
			t.Fatal("loaded port goes on differently")
		}
	}
	zero := save(t, newBoard())
	for _, bad := range []struct {
		at int
		v  byte
	}{{0, 0x10}, {2, 0x20}, {4, 0x02}, {7, 0x10}, {8, 2}, {10, 2}, {16, 2}, {18, 64}} {
		forged := append(bytes.Clone(zero), make([]byte, 1<<18)...)
		forged[bad.at] = bad.v
		c := state.Loader(bytes.NewReader(forged))
		if newBoard().State(c); c.Err() == nil {
			t.Errorf("byte %d = %d accepted", bad.at, bad.v)
		}
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

func scramble(b *board, r *rand.Rand) {
	switch r.Intn(4) {
	case 0:
		b.In(make([]byte, r.Intn(30)))
	case 1:
		b.Load(uint64(r.Intn(registers)), 1)
	default:
		b.Store(uint64(r.Intn(registers)), 1, r.Uint64())
	}
}

// Shows that no access panics, that the FIFO never outgrows its depth, and that
// the line always is what the registers say.
func TestHostile(t *testing.T) {
	b := newBoard()
	r := rand.New(rand.NewSource(2))
	for i := range 200_000 {
		off, size := uint64(i)%Size, []int{1, 2, 4, 8}[r.Intn(4)]
		if r.Intn(8) == 0 {
			off = r.Uint64()
		}
		want := off < registers
		if _, ok := b.Load(off, size); ok != want {
			t.Fatalf("load of %d bytes at %#x: %v", size, off, ok)
		}
		if ok := b.Store(off, size, r.Uint64()); ok != want {
			t.Fatalf("store of %d bytes at %#x: %v", size, off, ok)
		}
		scramble(b, r)
		if len(b.fifo) > b.depth() || b.irq != (b.cause() != iirNone) {
			t.Fatalf("access %d: %d bytes in a FIFO of %d, line %v", i, len(b.fifo), b.depth(), b.irq)
		}
		b.out = b.out[:0]
	}
}

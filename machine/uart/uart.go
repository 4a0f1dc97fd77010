// SPDX-License-Identifier: Apache-2.0

// Package uart is a 16550A serial port: the guest's console.
//
//	guest ──THR──► line buffer ──Flush──► event.ConsoleOut
//	guest ◄──RBR── FIFO (16) ◄── backlog (64 KiB) ◄──In── event.ConsoleIn
//
// It takes no time: a byte is sent as it is written, and a byte waiting below
// the FIFO's trigger level counts as timed out at once. So the transmitter is
// always empty and nothing here depends on a clock.
//
// An output for every byte would cost more than the byte, so bytes collect
// until a newline, a full buffer, or a Flush by the machine. The machine may
// call Flush only at moments that its own state decides (the end of a turn,
// a hash entry), for both copies must cut the stream at the same places.
//
// Registers: National Semiconductor PC16550D data sheet, §8. Each is one byte;
// wider accesses reach the same byte, as in QEMU.
package uart

import (
	"bytes"

	"tandem/machine/bus"
	"tandem/machine/event"
	"tandem/machine/state"
)

const (
	// Size of the register space in bytes, as the device tree gives it. There
	// is something in the first 8.
	Size = 0x100

	fifoSize    = 16
	bufferSize  = 64
	backlogSize = 64 << 10
)

// Register map. With LCR's divisor latch bit, the first two are the divisor.
const (
	data      = 0 // RBR on load, THR on store; DLL
	ier       = 1 // DLM
	iirFCR    = 2 // IIR on load, FCR on store
	lcr       = 3
	mcr       = 4
	lsr       = 5
	msr       = 6
	scr       = 7
	registers = 8
)

// Interrupt enable register.
const (
	ierRx    = 1 << iota // received data
	ierTx                // transmitter empty
	ierLine              // line status
	ierModem             // modem status
	ierBits  = ierRx | ierTx | ierLine | ierModem
)

// Interrupt identification, highest priority first (table V of the data sheet).
const (
	iirLine    = 0x06
	iirRx      = 0x04
	iirTimeout = 0x0c
	iirTx      = 0x02
	iirModem   = 0x00
	iirNone    = 0x01
	iirFIFO    = 0xc0 // FIFO enabled; this is how drivers tell a 16550A
)

// FIFO control, line control, modem control and line status.
const (
	fcrEnable  = 0x01
	fcrClearRx = 0x02
	fcrTrigger = 0xc0

	lcrDivisor = 0x80

	mcrDTR  = 0x01
	mcrRTS  = 0x02
	mcrOut1 = 0x04
	mcrOut2 = 0x08
	mcrLoop = 0x10
	mcrBits = 0x1f

	lsrReady   = 0x01
	lsrOverrun = 0x02
	lsrIdle    = 0x60 // holding register and transmitter empty: always
)

// Modem status: the lines, and in the low four bits which of them changed.
const (
	msrCTS = 0x10
	msrDSR = 0x20
	msrRI  = 0x40
	msrDCD = 0x80
)

// triggers is the FIFO level that raises iirRx, by fcrTrigger.
var triggers = [4]int{1, 4, 8, 14}

// divisor at power-on, as in QEMU; the speed of the line means nothing here.
const divisor = 12

// UART is the port.
type UART struct {
	ier, lcr, mcr, scr uint8
	fcr                uint8 // fcrEnable and fcrTrigger
	dll, dlm           uint8
	changed            uint8 // low half of the modem status
	overrun            bool
	txEmpty            bool // the interrupt of an empty transmitter is pending

	fifo    []byte
	backlog []byte // typed, and waiting for room in the FIFO
	buffer  []byte // sent, and not yet emitted
	sent    uint64 // number of the next byte to be emitted

	irq  bus.Line
	emit bus.Emit
}

// New returns a port that drives irq and emits event.ConsoleOut, whose first byte
// has the number start.
func New(irq bus.Line, emit bus.Emit, start uint64) *UART {
	return &UART{dll: divisor, sent: start, irq: irq, emit: emit}
}

// Room is how many typed bytes In takes now.
func (u *UART) Room() int { return backlogSize - len(u.backlog) }

// In appends typed bytes. What exceeds the backlog is lost, as on a wire.
func (u *UART) In(data []byte) {
	u.backlog = append(u.backlog, data[:min(len(data), backlogSize-len(u.backlog))]...)
	u.update()
}

// Take removes up to n received bytes: SBI's way to read the console.
func (u *UART) Take(n int) []byte {
	var out []byte
	for len(out) < n && len(u.fifo) > 0 {
		out = append(out, u.receive())
		u.update()
	}
	return out
}

// Print sends bytes: SBI's way to write the console.
func (u *UART) Print(data []byte) {
	for _, b := range data {
		u.send(b)
	}
}

// Flush emits what was sent since the last output.
func (u *UART) Flush() {
	if len(u.buffer) == 0 {
		return
	}
	out := event.ConsoleOut{Device: event.UART, Offset: u.sent, Data: bytes.Clone(u.buffer)}
	u.sent += uint64(len(u.buffer))
	u.buffer = u.buffer[:0]
	u.emit(out)
}

// Load reads a register.
func (u *UART) Load(off uint64, size int) (uint64, bool) {
	if off >= registers {
		return 0, false
	}
	v := u.load(off)
	u.update()
	return uint64(v), true
}

func (u *UART) load(off uint64) uint8 {
	switch {
	case off == data && u.latch():
		return u.dll
	case off == ier && u.latch():
		return u.dlm
	case off == data:
		return u.receive()
	case off == ier:
		return u.ier
	case off == iirFCR:
		return u.identify()
	case off == lcr:
		return u.lcr
	case off == mcr:
		return u.mcr
	case off == lsr:
		return u.lineStatus()
	case off == msr:
		return u.modemStatus()
	}
	return u.scr
}

// Store writes a register. The status registers can't be written.
func (u *UART) Store(off uint64, size int, v uint64) bool {
	if off >= registers {
		return false
	}
	u.store(off, uint8(v))
	u.update()
	return true
}

func (u *UART) store(off uint64, v uint8) {
	switch {
	case off == data && u.latch():
		u.dll = v
	case off == ier && u.latch():
		u.dlm = v
	case off == data:
		u.transmit(v)
	case off == ier:
		u.enable(v & ierBits)
	case off == iirFCR:
		u.controlFIFO(v)
	case off == lcr:
		u.lcr = v
	case off == mcr:
		u.controlModem(v & mcrBits)
	case off == scr:
		u.scr = v
	}
}

// Reset returns to power-on. What was sent is emitted, and the offset of the
// console goes on: a reboot doesn't rewind the terminal.
func (u *UART) Reset() {
	u.Flush()
	*u = UART{dll: divisor, buffer: u.buffer, sent: u.sent, irq: u.irq, emit: u.emit}
	u.update()
}

// State saves, loads or hashes the port. The level of its line is kept by
// whoever is at the other end.
func (u *UART) State(c *state.Coder) {
	for _, r := range []*uint8{&u.ier, &u.lcr, &u.mcr, &u.scr, &u.fcr, &u.dll, &u.dlm, &u.changed} {
		state.U8(c, r)
	}
	if u.ier&^ierBits != 0 || u.mcr&^mcrBits != 0 || u.fcr&^(fcrEnable|fcrTrigger) != 0 || u.changed > 15 {
		c.Fail("uart: reserved register bits are set")
	}
	c.Bool(&u.overrun)
	c.Bool(&u.txEmpty)
	c.Bytes(&u.fifo, u.depth())
	c.Bytes(&u.backlog, backlogSize)
	c.Bytes(&u.buffer, bufferSize-1)
	state.U64(c, &u.sent)
}

func (u *UART) latch() bool { return u.lcr&lcrDivisor != 0 }
func (u *UART) loop() bool  { return u.mcr&mcrLoop != 0 }

// depth is how many bytes the receiver holds.
func (u *UART) depth() int {
	if u.fcr&fcrEnable != 0 {
		return fifoSize
	}
	return 1
}

// transmit sends a byte, or with loopback receives it.
func (u *UART) transmit(b uint8) {
	switch {
	case !u.loop():
		u.send(b)
	case len(u.fifo) < u.depth():
		u.fifo = append(u.fifo, b)
	default:
		u.overrun = true
	}
	u.txEmpty = true
}

func (u *UART) send(b uint8) {
	u.buffer = append(u.buffer, b)
	if b == '\n' || len(u.buffer) == bufferSize {
		u.Flush()
	}
}

func (u *UART) receive() uint8 {
	if len(u.fifo) == 0 {
		return 0
	}
	b := u.fifo[0]
	u.fifo = append(u.fifo[:0], u.fifo[1:]...)
	return b
}

// enable sets the interrupt enable register. Enabling the transmitter's
// interrupt raises it, for the transmitter is empty; drivers start sending so.
func (u *UART) enable(v uint8) {
	if v&^u.ier&ierTx != 0 {
		u.txEmpty = true
	}
	u.ier = v
}

// controlFIFO sets the FIFO control register. Turning the FIFO on or off clears
// it, as the clear bit does; the trigger level needs the FIFO on.
func (u *UART) controlFIFO(v uint8) {
	if (u.fcr^v)&fcrEnable != 0 || v&fcrClearRx != 0 {
		u.fifo = u.fifo[:0]
	}
	u.fcr = 0
	if v&fcrEnable != 0 {
		u.fcr = v & (fcrEnable | fcrTrigger)
	}
}

// controlModem sets the modem control register and notes which of the modem's
// lines that changes; of the ring indicator only the end counts.
func (u *UART) controlModem(v uint8) {
	before := u.modemLines()
	u.mcr = v
	flips := before ^ u.modemLines()
	if before&msrRI == 0 {
		flips &^= msrRI
	}
	u.changed |= flips >> 4
}

// modemLines are the upper half of the modem status: a terminal that is always
// there, or with loopback the port's own outputs.
func (u *UART) modemLines() uint8 {
	if !u.loop() {
		return msrCTS | msrDSR | msrDCD
	}
	v := uint8(0)
	for _, wire := range [...]struct{ from, to uint8 }{
		{mcrRTS, msrCTS}, {mcrDTR, msrDSR}, {mcrOut1, msrRI}, {mcrOut2, msrDCD},
	} {
		if u.mcr&wire.from != 0 {
			v |= wire.to
		}
	}
	return v
}

// modemStatus is the modem status register; reading it clears the changes.
func (u *UART) modemStatus() uint8 {
	v := u.modemLines() | u.changed
	u.changed = 0
	return v
}

// lineStatus is the line status register; reading it clears the errors.
func (u *UART) lineStatus() uint8 {
	v := uint8(lsrIdle)
	if len(u.fifo) > 0 {
		v |= lsrReady
	}
	if u.overrun {
		v |= lsrOverrun
	}
	u.overrun = false
	return v
}

// identify is the interrupt identification register; reading it clears the
// transmitter's interrupt if that is what it reports.
func (u *UART) identify() uint8 {
	v := u.cause()
	if v == iirTx {
		u.txEmpty = false
	}
	if u.fcr&fcrEnable != 0 {
		v |= iirFIFO
	}
	return v
}

// cause is the pending interrupt of highest priority.
func (u *UART) cause() uint8 {
	switch {
	case u.ier&ierLine != 0 && u.overrun:
		return iirLine
	case u.ier&ierRx != 0 && len(u.fifo) >= triggers[u.fcr>>6]:
		return iirRx
	case u.ier&ierRx != 0 && len(u.fifo) > 0:
		return iirTimeout
	case u.ier&ierTx != 0 && u.txEmpty:
		return iirTx
	case u.ier&ierModem != 0 && u.changed != 0:
		return iirModem
	}
	return iirNone
}

// update fills the FIFO from the backlog and drives the interrupt line. With
// loopback the receiver is cut off from the wire, and the backlog waits.
func (u *UART) update() {
	if n := min(u.depth()-len(u.fifo), len(u.backlog)); n > 0 && !u.loop() {
		u.fifo = append(u.fifo, u.backlog[:n]...)
		u.backlog = u.backlog[n:]
	}
	u.irq.Set(u.cause() != iirNone)
}

// SPDX-License-Identifier: Apache-2.0

// Package sbi answers the supervisor's calls when the machine starts a kernel
// directly, with no firmware in M-mode: the RISC-V Supervisor Binary Interface
// 2.0 as one function of a Platform and eight registers.
//
//	a7 extension, a6 function, a0–a5 arguments  ──Call──►  a0 error, a1 value
//
// Chapters below are those of the specification. Extensions: Base (4), TIME
// (6), IPI (7), RFENCE (8), HSM (9), SRST (10) and DBCN (12), and of the legacy
// ones (5) those that small systems still use: set timer, console, shutdown.
package sbi

import (
	"math/bits"

	"tandem/machine/bus"
	"tandem/machine/event"
)

// Extension IDs.
const (
	LegacySetTimer = 0x00
	LegacyPutchar  = 0x01
	LegacyGetchar  = 0x02
	LegacyShutdown = 0x08

	Base   = 0x10
	Time   = 0x5449_4d45 // "TIME"
	IPI    = 0x0073_5049 // "sPI"
	RFence = 0x5246_4e43 // "RFNC"
	HSM    = 0x0048_534d // "HSM"
	SRST   = 0x5352_5354 // "SRST"
	DBCN   = 0x4442_434e // "DBCN"
)

// Errors (§3, table 1), as they stand in a0; those that can happen here.
const (
	Success             = 0
	ErrFailed           = -1
	ErrNotSupported     = -2
	ErrInvalidParam     = -3
	ErrInvalidAddress   = -5
	ErrAlreadyAvailable = -6
)

// What Base tells. The implementation ID is "tandem" in ASCII: the register has
// 64 bits, and the specification's list of assigned IDs (§4.9) is of small numbers.
const (
	SpecVersion = 2 << 24
	ImplID      = 0x7461_6e64_656d
	ImplVersion = 1
)

// Status is the state of a hart (§9).
type Status uint64

const (
	Started Status = iota
	Stopped
	StartPending
	StopPending
	Suspended
	SuspendPending
	ResumePending
)

// Platform is what the machine does for the calls. Hart numbers are always
// valid and addresses checked.
type Platform interface {
	// Harts is the number of harts; their IDs count from 0.
	Harts() int
	Memory() bus.Memory
	// IDs are the CSRs mvendorid, marchid and mimpid.
	IDs() (vendor, arch, imp uint64)

	// SetTimer makes the hart's supervisor timer interrupt due at t and clears
	// one that is pending for an earlier time.
	SetTimer(hart int, t event.Ticks)
	// SendIPI makes the hart's supervisor software interrupt pending.
	SendIPI(hart int)

	HartStatus(hart int) Status
	// StartHart starts a stopped hart: S-mode, pc = addr, a0 = hart, a1 =
	// opaque, satp = 0, sstatus.SIE = 0 (§9.1).
	StartHart(hart int, addr, opaque uint64)
	StopHart(hart int)
	// Suspend puts the hart to sleep as WFI does: until an enabled interrupt is
	// pending, then it goes on after the call.
	Suspend(hart int)
	// SuspendTo does so, but the hart wakes as StartHart describes.
	SuspendTo(hart int, addr, opaque uint64)

	// Shutdown ends the machine; code is 0, or 1 if the guest says it failed.
	Shutdown(code int)
	Reset()

	ConsoleWrite(b []byte)
	// ConsoleRead takes up to n typed bytes without waiting.
	ConsoleRead(n int) []byte
}

// consoleChunk bounds the bytes of one console call. The specification lets a
// call move fewer than it was asked to, and callers loop.
const consoleChunk = 4096

// Call carries out the call that a hart in S-mode made; a is its a0 to a7.
// Where resume is false the hart doesn't return from the call (it stopped,
// sleeps to wake elsewhere, or the machine ends) and a is unchanged.
func Call(p Platform, hart int, a *[8]uint64) (resume bool) {
	c := call{p, hart, a}
	r := c.dispatch(a[7], a[6])
	if r.gone {
		return false
	}
	a[0] = uint64(r.err)
	if !legacy(a[7]) {
		a[1] = r.value
	}
	return true
}

// Legacy calls return one value and keep a1 (§5).
func legacy(eid uint64) bool { return eid <= 0x0f }

type call struct {
	p    Platform
	hart int
	a    *[8]uint64
}

type result struct {
	err   int64
	value uint64
	gone  bool // the hart doesn't return
}

func value(v uint64) result    { return result{value: v} }
func failure(err int64) result { return result{err: err} }

var (
	success      = result{}
	gone         = result{gone: true}
	notSupported = failure(ErrNotSupported)
)

func (c call) dispatch(eid, fid uint64) result {
	switch eid {
	case Base:
		return c.base(fid)
	case Time:
		return c.time(fid)
	case IPI:
		return c.ipi(fid)
	case RFence:
		return c.rfence(fid)
	case HSM:
		return c.hsm(fid)
	case SRST:
		return c.srst(fid)
	case DBCN:
		return c.dbcn(fid)
	case LegacySetTimer:
		return c.setTimer()
	case LegacyPutchar:
		return c.writeByte()
	case LegacyGetchar:
		return c.getchar()
	case LegacyShutdown:
		return c.shutdown(0)
	}
	return notSupported
}

// probe reports whether dispatch knows an extension.
func probe(eid uint64) uint64 {
	switch eid {
	case Base, Time, IPI, RFence, HSM, SRST, DBCN,
		LegacySetTimer, LegacyPutchar, LegacyGetchar, LegacyShutdown:
		return 1
	}
	return 0
}

// base is §4.
func (c call) base(fid uint64) result {
	vendor, arch, imp := c.p.IDs()
	switch fid {
	case 0:
		return value(SpecVersion)
	case 1:
		return value(ImplID)
	case 2:
		return value(ImplVersion)
	case 3:
		return value(probe(c.a[0]))
	case 4:
		return value(vendor)
	case 5:
		return value(arch)
	case 6:
		return value(imp)
	}
	return notSupported
}

// time is §6.
func (c call) time(fid uint64) result {
	if fid != 0 {
		return notSupported
	}
	return c.setTimer()
}

func (c call) setTimer() result {
	c.p.SetTimer(c.hart, event.Ticks(c.a[0]))
	return success
}

// ipi is §7. A stopped hart is a valid target that has nothing to interrupt.
func (c call) ipi(fid uint64) result {
	if fid != 0 {
		return notSupported
	}
	return c.each(c.a[0], c.a[1], func(hart int) {
		if c.p.HartStatus(hart) != Stopped {
			c.p.SendIPI(hart)
		}
	})
}

// rfence is §8. Instruction fetch and translation always see what memory says
// (package hart), so there is nothing to do but to check. Functions 3 to 6 need
// the hypervisor extension.
func (c call) rfence(fid uint64) result {
	if fid > 2 {
		return notSupported
	}
	return c.each(c.a[0], c.a[1], func(int) {})
}

// each does f for all harts of a mask, or for none if one of them doesn't
// exist. Base −1 means all harts (§3.1).
func (c call) each(mask, base uint64, f func(hart int)) result {
	n := uint64(c.p.Harts())
	if base == ^uint64(0) {
		for hart := range int(n) {
			f(hart)
		}
		return success
	}
	if mask != 0 && (base >= n || uint64(bits.Len64(mask)) > n-base) {
		return failure(ErrInvalidParam)
	}
	for ; mask != 0; mask &= mask - 1 {
		f(int(base) + bits.TrailingZeros64(mask))
	}
	return success
}

// hsm is §9.
func (c call) hsm(fid uint64) result {
	switch fid {
	case 0:
		return c.startHart()
	case 1:
		c.p.StopHart(c.hart)
		return gone
	case 2:
		if c.a[0] >= uint64(c.p.Harts()) {
			return failure(ErrInvalidParam)
		}
		return value(uint64(c.p.HartStatus(int(c.a[0]))))
	case 3:
		return c.suspend()
	}
	return notSupported
}

func (c call) startHart() result {
	hart, addr := c.a[0], c.a[1]
	switch {
	case hart >= uint64(c.p.Harts()):
		return failure(ErrInvalidParam)
	case !c.executable(addr):
		return failure(ErrInvalidAddress)
	case c.p.HartStatus(int(hart)) != Stopped:
		return failure(ErrAlreadyAvailable)
	}
	c.p.StartHart(int(hart), addr, c.a[2])
	return success
}

// Suspend types (§9.4): the two defaults; all others are reserved or another
// platform's.
const (
	retentive    = 0
	nonRetentive = 0x8000_0000
)

func (c call) suspend() result {
	switch uint32(c.a[0]) {
	case retentive:
		c.p.Suspend(c.hart)
		return success
	case nonRetentive:
		if !c.executable(c.a[1]) {
			return failure(ErrInvalidAddress)
		}
		c.p.SuspendTo(c.hart, c.a[1], c.a[2])
		return gone
	}
	return failure(ErrInvalidParam)
}

// executable reports whether an instruction can lie at addr.
func (c call) executable(addr uint64) bool {
	var parcel [2]byte
	return addr%2 == 0 && c.p.Memory().Read(addr, parcel[:])
}

// srst is §10: reset types 0 shutdown, 1 cold reboot, 2 warm reboot, which is
// the same here; reasons 0 none, 1 system failure.
func (c call) srst(fid uint64) result {
	if fid != 0 {
		return notSupported
	}
	kind, reason := uint32(c.a[0]), uint32(c.a[1])
	switch {
	case kind > 2 || reason > 1:
		return failure(ErrInvalidParam)
	case kind == 0:
		return c.shutdown(int(reason))
	}
	c.p.Reset()
	return gone
}

func (c call) shutdown(code int) result {
	c.p.Shutdown(code)
	return gone
}

// dbcn is §12.
func (c call) dbcn(fid uint64) result {
	switch fid {
	case 0:
		return c.write()
	case 1:
		return c.read()
	case 2:
		return c.writeByte()
	}
	return notSupported
}

func (c call) write() result {
	b, ok := c.shared()
	if !ok {
		return failure(ErrInvalidParam)
	}
	c.p.ConsoleWrite(b)
	return value(uint64(len(b)))
}

func (c call) read() result {
	b, ok := c.shared()
	if !ok {
		return failure(ErrInvalidParam)
	}
	b = c.p.ConsoleRead(len(b))
	if len(b) > 0 && !c.p.Memory().Write(c.a[1], b) {
		return failure(ErrFailed)
	}
	return value(uint64(len(b)))
}

// shared reads the start of the memory that a console call names (§3.2): a0
// bytes at a1, the high half a2 being 0 on a 64-bit machine. All of it must be RAM; RAM
// has no holes, so its two ends tell.
func (c call) shared() ([]byte, bool) {
	n, base := c.a[0], c.a[1]
	if c.a[2] != 0 || base+n < base {
		return nil, false
	}
	if n == 0 {
		return nil, true
	}
	var last [1]byte
	b := make([]byte, min(n, consoleChunk))
	return b, c.p.Memory().Read(base, b) && c.p.Memory().Read(base+n-1, last[:])
}

func (c call) writeByte() result {
	c.p.ConsoleWrite([]byte{uint8(c.a[0])})
	return success
}

// getchar returns the byte, or −1, where others return an error (§5.3).
func (c call) getchar() result {
	if b := c.p.ConsoleRead(1); len(b) == 1 {
		return failure(int64(b[0]))
	}
	return failure(-1)
}

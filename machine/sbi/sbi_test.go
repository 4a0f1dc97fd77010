// SPDX-License-Identifier: Apache-2.0

package sbi

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/event"
)

const ramBase, ramSize = 0x8000_0000, 0x4000

// platform records what it is asked to do.
type platform struct {
	t      *testing.T
	ram    [ramSize]byte
	status []Status
	typed  string
	did    []string
}

func newPlatform(t *testing.T, status ...Status) *platform {
	p := &platform{t: t, status: status}
	copy(p.ram[0x100:], "hello")
	return p
}

func (p *platform) do(format string, args ...any) {
	p.did = append(p.did, fmt.Sprintf(format, args...))
}

// valid fails the test if a call let a hart through that doesn't exist.
func (p *platform) valid(hart int) int {
	if hart < 0 || hart >= len(p.status) {
		p.t.Errorf("hart %d", hart)
		return 0
	}
	return hart
}

func (p *platform) Harts() int                       { return len(p.status) }
func (p *platform) Memory() bus.Memory               { return p }
func (p *platform) IDs() (vendor, arch, imp uint64)  { return 11, 12, 13 }
func (p *platform) SetTimer(hart int, t event.Ticks) { p.do("timer %d %d", p.valid(hart), t) }
func (p *platform) SendIPI(hart int)                 { p.do("ipi %d", p.valid(hart)) }
func (p *platform) HartStatus(hart int) Status       { return p.status[p.valid(hart)] }
func (p *platform) StopHart(hart int)                { p.do("stop %d", p.valid(hart)) }
func (p *platform) Suspend(hart int)                 { p.do("suspend %d", p.valid(hart)) }
func (p *platform) Shutdown(code int)                { p.do("shutdown %d", code) }
func (p *platform) Reset()                           { p.do("reset") }
func (p *platform) ConsoleWrite(b []byte)            { p.do("write %q", b) }

func (p *platform) StartHart(hart int, addr, opaque uint64) {
	p.do("start %d %#x %#x", p.valid(hart), addr, opaque)
}

func (p *platform) SuspendTo(hart int, addr, opaque uint64) {
	p.do("suspend %d to %#x %#x", p.valid(hart), addr, opaque)
}

func (p *platform) ConsoleRead(n int) []byte {
	b := p.typed[:min(n, len(p.typed))]
	p.typed = p.typed[len(b):]
	return []byte(b)
}

func (p *platform) span(pa uint64, n int) []byte {
	if pa < ramBase || pa-ramBase > ramSize || ramSize-(pa-ramBase) < uint64(n) {
		return nil
	}
	return p.ram[pa-ramBase:][:n]
}

func (p *platform) Read(pa uint64, b []byte) bool {
	s := p.span(pa, len(b))
	copy(b, s)
	return s != nil
}

func (p *platform) Write(pa uint64, b []byte) bool {
	s := p.span(pa, len(b))
	copy(s, b)
	return s != nil
}

const all = ^uint64(0)

// exit stands for a call that doesn't return.
const exit = int64(1)

// The platform of these calls has four harts: 0 and 1 run, 2 is stopped, 3 is
// suspended. Hart 1 calls. Typed: "abc".
var calls = []struct {
	eid, fid   uint64
	a          []uint64
	err        int64
	value      uint64
	did        string
	annotation string
}{
	{Base, 0, nil, Success, 0x0200_0000, "", "2.0"},
	{Base, 1, nil, Success, 0x7461_6e64_656d, "", ""},
	{Base, 2, nil, Success, 1, "", ""},
	{Base, 3, []uint64{HSM}, Success, 1, "", ""},
	{Base, 3, []uint64{LegacyPutchar}, Success, 1, "", ""},
	{Base, 3, []uint64{0x504d55}, Success, 0, "", "PMU"},
	{Base, 3, []uint64{4}, Success, 0, "", "legacy IPI"},
	{Base, 3, []uint64{HSM | 1<<32}, Success, 0, "", ""},
	{Base, 4, nil, Success, 11, "", ""},
	{Base, 5, nil, Success, 12, "", ""},
	{Base, 6, nil, Success, 13, "", ""},
	{Base, 7, nil, ErrNotSupported, 0, "", ""},

	{Time, 0, []uint64{12345}, Success, 0, "timer 1 12345", ""},
	{Time, 1, nil, ErrNotSupported, 0, "", ""},
	{LegacySetTimer, 99, []uint64{all}, Success, 0, "timer 1 18446744073709551615", "a6 is ignored"},

	{IPI, 0, []uint64{0b11, 0}, Success, 0, "ipi 0; ipi 1", ""},
	{IPI, 0, []uint64{0b1100, 0}, Success, 0, "ipi 3", "2 is stopped"},
	{IPI, 0, []uint64{0b1, 3}, Success, 0, "ipi 3", ""},
	{IPI, 0, []uint64{0b11, 3}, ErrInvalidParam, 0, "", "hart 4, so none"},
	{IPI, 0, []uint64{1 << 63, 0}, ErrInvalidParam, 0, "", ""},
	{IPI, 0, []uint64{1, 4}, ErrInvalidParam, 0, "", ""},
	{IPI, 0, []uint64{0b100, all - 1}, ErrInvalidParam, 0, "", "wraps to hart 0"},
	{IPI, 0, []uint64{0, 0}, Success, 0, "", ""},
	{IPI, 0, []uint64{0, all}, Success, 0, "ipi 0; ipi 1; ipi 3", "all"},
	{IPI, 1, nil, ErrNotSupported, 0, "", ""},

	{RFence, 0, []uint64{0b1111, 0}, Success, 0, "", ""},
	{RFence, 1, []uint64{0, all, 0, all}, Success, 0, "", ""},
	{RFence, 2, []uint64{0b10000, 0}, ErrInvalidParam, 0, "", ""},
	{RFence, 3, []uint64{1, 0}, ErrNotSupported, 0, "", "needs H"},
	{RFence, 6, []uint64{1, 0}, ErrNotSupported, 0, "", "needs H"},

	{HSM, 0, []uint64{2, 0x8000_0200, 0x99}, Success, 0, "start 2 0x80000200 0x99", ""},
	{HSM, 0, []uint64{0, 0x8000_0200, 0}, ErrAlreadyAvailable, 0, "", ""},
	{HSM, 0, []uint64{3, 0x8000_0200, 0}, ErrAlreadyAvailable, 0, "", ""},
	{HSM, 0, []uint64{4, 0x8000_0200, 0}, ErrInvalidParam, 0, "", ""},
	{HSM, 0, []uint64{1 << 32, 0x8000_0200, 0}, ErrInvalidParam, 0, "", ""},
	{HSM, 0, []uint64{2, 0x1000_0000, 0}, ErrInvalidAddress, 0, "", "a device"},
	{HSM, 0, []uint64{2, 0x8000_0201, 0}, ErrInvalidAddress, 0, "", "odd"},
	{HSM, 0, []uint64{2, all, 0}, ErrInvalidAddress, 0, "", ""},
	{HSM, 1, nil, exit, 0, "stop 1", ""},
	{HSM, 2, []uint64{0}, Success, 0, "", ""},
	{HSM, 2, []uint64{2}, Success, 1, "", ""},
	{HSM, 2, []uint64{3}, Success, 4, "", ""},
	{HSM, 2, []uint64{4}, ErrInvalidParam, 0, "", ""},
	{HSM, 3, []uint64{0, all, 0}, Success, 0, "suspend 1", ""},
	{HSM, 3, []uint64{0xffff_ffff_8000_0000, 0x8000_0400, 7}, exit, 0, "suspend 1 to 0x80000400 0x7", "32-bit type, sign-extended"},
	{HSM, 3, []uint64{0x8000_0000, 0, 7}, ErrInvalidAddress, 0, "", ""},
	{HSM, 3, []uint64{1, 0, 0}, ErrInvalidParam, 0, "", "reserved"},
	{HSM, 3, []uint64{0x9000_0000, 0x8000_0000, 0}, ErrInvalidParam, 0, "", "another platform's"},
	{HSM, 4, nil, ErrNotSupported, 0, "", ""},

	{SRST, 0, []uint64{0, 0}, exit, 0, "shutdown 0", ""},
	{SRST, 0, []uint64{0, 1}, exit, 0, "shutdown 1", ""},
	{SRST, 0, []uint64{1, 0}, exit, 0, "reset", ""},
	{SRST, 0, []uint64{2, 1}, exit, 0, "reset", ""},
	{SRST, 0, []uint64{3, 0}, ErrInvalidParam, 0, "", ""},
	{SRST, 0, []uint64{0xf000_0000, 0}, ErrInvalidParam, 0, "", ""},
	{SRST, 0, []uint64{0, 2}, ErrInvalidParam, 0, "", ""},
	{SRST, 1, nil, ErrNotSupported, 0, "", ""},
	{LegacyShutdown, 0, []uint64{5}, exit, 0, "shutdown 0", ""},

	{DBCN, 0, []uint64{5, ramBase + 0x100, 0}, Success, 5, `write "hello"`, ""},
	{DBCN, 0, []uint64{0, all, 0}, Success, 0, `write ""`, ""},
	{DBCN, 0, []uint64{5, ramBase + 0x100, 1}, ErrInvalidParam, 0, "", "high half"},
	{DBCN, 0, []uint64{5, ramBase - 1, 0}, ErrInvalidParam, 0, "", ""},
	{DBCN, 0, []uint64{ramSize + 1, ramBase, 0}, ErrInvalidParam, 0, "", "ends outside"},
	{DBCN, 0, []uint64{all, ramBase, 0}, ErrInvalidParam, 0, "", "wraps"},
	{DBCN, 0, []uint64{all - 9, ramBase + 0x100, 0}, ErrInvalidParam, 0, "", "wraps into RAM"},
	{DBCN, 0, []uint64{1, all, 0}, ErrInvalidParam, 0, "", "ends at 2^64"},
	{DBCN, 0, []uint64{2, ramBase + ramSize - 2, 0}, Success, 2, `write "\x00\x00"`, "the last bytes"},
	{DBCN, 1, []uint64{2, ramBase, 0}, Success, 2, "ram ab", ""},
	{DBCN, 1, []uint64{ramSize, ramBase, 0}, Success, 3, "ram abc", ""},
	{DBCN, 1, []uint64{0, 0, 0}, Success, 0, "", ""},
	{DBCN, 1, []uint64{8, 0x1000, 0}, ErrInvalidParam, 0, "", "and nothing is lost"},
	{DBCN, 2, []uint64{0x141}, Success, 0, `write "A"`, ""},
	{DBCN, 3, nil, ErrNotSupported, 0, "", ""},
	{LegacyPutchar, 0, []uint64{'z'}, Success, 0, `write "z"`, ""},
	{LegacyGetchar, 0, nil, 'a', 0, "", ""},

	{0x504d55, 0, nil, ErrNotSupported, 0, "", "PMU"},
	{0x0a00_0000, 0, nil, ErrNotSupported, 0, "", ""},
	{Base | 1<<40, 0, nil, ErrNotSupported, 0, "", ""},
	{Base, 1 << 32, nil, ErrNotSupported, 0, "", ""},
	{4, 0, []uint64{0}, ErrNotSupported, 0, "", "legacy IPI"},
}

// Shows the answer to every function of every extension, its errors, and what
// it asks of the machine; and that no register but a0 and a1 changes.
func TestCalls(t *testing.T) {
	for _, c := range calls {
		name := fmt.Sprintf("%#x/%d(%#x) %s", c.eid, c.fid, c.a, c.annotation)
		p := newPlatform(t, Started, Started, Stopped, Suspended)
		p.typed = "abc"
		regs := [8]uint64{2: 0xa2, 3: 0xa3, 4: 0xa4, 5: 0xa5, 6: c.fid, 7: c.eid}
		copy(regs[:], c.a)
		before := regs
		resume := Call(p, 1, &regs)
		if string(p.ram[:2]) == "ab" {
			p.do("ram %s", strings.TrimRight(string(p.ram[:8]), "\x00"))
		}
		if did := strings.Join(p.did, "; "); did != c.did {
			t.Errorf("%s did %q, want %q", name, did, c.did)
		}
		want := before
		if c.err != exit {
			want[0] = uint64(c.err)
			if c.eid > 0xf {
				want[1] = c.value
			}
		}
		if resume != (c.err != exit) || regs != want {
			t.Errorf("%s: %x, %v; want %x", name, regs, resume, want)
		}
		if c.err == ErrInvalidParam && p.typed != "abc" {
			t.Errorf("%s lost typed bytes", name)
		}
	}
}

// Shows that getchar says −1 when nothing was typed.
func TestGetcharEmpty(t *testing.T) {
	regs := [8]uint64{0, 77, 0, 0, 0, 0, 0, LegacyGetchar}
	if !Call(newPlatform(t, Started), 0, &regs) || regs[0] != all || regs[1] != 77 {
		t.Errorf("a0 %#x, a1 %d", regs[0], regs[1])
	}
}

// Shows that one console call moves a bounded number of bytes and says how many.
func TestConsoleChunk(t *testing.T) {
	p := newPlatform(t, Started)
	p.typed = strings.Repeat("k", 2*consoleChunk)
	for _, fid := range []uint64{0, 1} {
		regs := [8]uint64{ramSize, ramBase, 0, 0, 0, 0, fid, DBCN}
		if Call(p, 0, &regs); regs[0] != Success || regs[1] != consoleChunk {
			t.Errorf("function %d: error %d, %d bytes", fid, int64(regs[0]), regs[1])
		}
	}
	if p.ram[consoleChunk-1] != 'k' || p.ram[consoleChunk] != 0 || len(p.typed) != consoleChunk {
		t.Error("bytes went astray")
	}
}

// Shows that probe and the calls agree on which extensions there are.
func TestProbe(t *testing.T) {
	for _, eid := range []uint64{Base, Time, IPI, RFence, HSM, SRST, DBCN, 0x504d55, 0x53555350, 0x4e41434c, 0x535441, 0x43505043,
		0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} {
		probe := [8]uint64{0: eid, 6: 3, 7: Base}
		Call(newPlatform(t, Started), 0, &probe)
		call := [8]uint64{7: eid}
		resume := Call(newPlatform(t, Started), 0, &call)
		if there := !resume || int64(call[0]) != ErrNotSupported; there != (probe[1] == 1) {
			t.Errorf("extension %#x: probe says %d, the call %d", eid, probe[1], int64(call[0]))
		}
	}
}

// Shows that no call panics or reaches a hart or an address that doesn't exist.
func TestHostile(t *testing.T) {
	p := newPlatform(t, Started, Stopped, Suspended)
	eids := []uint64{Base, Time, IPI, RFence, HSM, SRST, DBCN, 0, 1, 2, 8}
	r := rand.New(rand.NewSource(1))
	edge := []uint64{0, 1, 2, 3, ramBase, ramBase + ramSize - 1, ramBase + ramSize, 1 << 31, 1 << 63, all, all - 1}
	for range 200_000 {
		var regs [8]uint64
		for i := range regs {
			if regs[i] = r.Uint64(); r.Intn(4) > 0 {
				regs[i] = edge[r.Intn(len(edge))]
			}
		}
		regs[6] = uint64(r.Intn(8))
		regs[7] = eids[r.Intn(len(eids))]
		Call(p, r.Intn(3), &regs)
		p.did = p.did[:0]
	}
}

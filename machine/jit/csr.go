// SPDX-License-Identifier: Apache-2.0

package jit

import "tandem/machine/riscv"

// What all backends know of CSRs.

// plainCSR is a CSR that is a word of the hart: what a write leaves out of it,
// and whether a write is the interpreter's.
type plainCSR struct {
	place    int32
	clear    int32
	readOnly bool
}

func (t *translator) plainCSR(n riscv.CSR) (c plainCSR, ok bool) {
	l := &t.layout
	switch n {
	case riscv.CSRSScratch:
		return plainCSR{place: l.SScratch}, true
	case riscv.CSRSEPC:
		return plainCSR{place: l.SEPC, clear: 1}, true
	case riscv.CSRSCause:
		return plainCSR{place: l.SCause}, true
	case riscv.CSRSTVal:
		return plainCSR{place: l.STVal}, true
	case riscv.CSRSTVec:
		return plainCSR{place: l.STVec, readOnly: true}, true
	}
	return c, false
}

func isCSR(op riscv.Op) bool { return op >= riscv.CSRRW && op <= riscv.CSRRCI }

// writesCSR reports whether an instruction writes its CSR (Unpriv. 6.1).
func writesCSR(in *Inst) bool {
	return in.Op == riscv.CSRRW || in.Op == riscv.CSRRWI || in.Rs1 != 0
}

// knowsCSR reports whether a CSR instruction has a translation.
func (t *translator) knowsCSR(in *Inst) bool {
	n := riscv.CSR(in.Imm)
	if c, ok := t.plainCSR(n); ok {
		return !c.readOnly || !writesCSR(in)
	}
	return n == riscv.CSRSStatus || n == riscv.CSRTime && !writesCSR(in)
}

// Bits of sstatus that a write changes, and that a read shows (Priv. 10.1.1).
const (
	statusWrite = int32(riscv.StatusSIE | riscv.StatusSPIE | riscv.StatusSPP | riscv.StatusFS | riscv.StatusSUM | riscv.StatusMXR)
	statusRead  = uint64(statusWrite) | riscv.StatusSD
	userXLEN    = uint64(2) << 32
)

// SPDX-License-Identifier: Apache-2.0

// Package jit translates decoded RISC-V instructions to the host's machine code.
//
// A unit is a block: instructions that follow each other, past branches that
// are not taken, up to a jump, to the end of the page or to one that is left to
// the interpreter. All units keep eight guest registers in the same host
// registers and the others in memory, so that a jump from unit to unit moves
// nothing. Jumps within a page go straight to their target once that is
// translated; others look it up in the jump cache of the address space.
//
//	unit:  sub steps, n ; fewer than n left? → out
//	       instruction … slow or special? → give back the rest, out
//	       branch taken  → give back the rest, jmp unit
//	       …             → jmp next unit
//
// A unit counts its steps at its start and gives back what it did not execute
// wherever it is left, so the count is exact at every way out. A load or store
// looks into the TLB of the address space; whatever is not a plain hit leaves
// the unit before the instruction, and the interpreter executes it. Translated
// code itself never faults, and knows of no device, privilege or CSR.
//
// Translations are position-independent: addresses come from the virtual
// address of the page, which is in the State, so that one translation serves
// all address spaces. They live as long as the page's bytes do not change.
package jit

import (
	"tandem/machine/riscv"
)

// Inst is a decoded instruction at an offset of its page.
type Inst struct {
	Op           riscv.Op
	Off          uint16
	Imm          int32
	Rd, Rs1, Rs2 uint8 // Rd is Sink for x0
	Len          uint8
	Rs3, RM      uint8 // of floating point
}

// Sink is the register that writes to x0 go to.
const Sink = 32

// MaxUnit is the largest number of instructions in a unit.
const MaxUnit = 64

// Layout tells translated code where things are: offsets in bytes, from the
// registers x for those of a hart, from the base of an address space's TLB for
// the others.
type Layout struct {
	PC, Off, Reason, VPage, RAM int32 // State
	ResvValid, ResvAddr         int32 // the reservation of LR: a bool, and an offset in RAM

	// Privileged state.
	Priv, MStatus, MEDeleg, Traps        int32
	SScratch, SEPC, SCause, STVal, STVec int32
	Pending                              int32 // interrupts that are pending and enabled in mie
	TLB                                  int32 // where the TLB in use is, from x
	TLBs                                 int32 // where those of UserTLB and so on are; 0 where there is none
	ClockEnd, ClockBase, ClockRate       int32 // steps since the clock began when none are left
	TimeOK                               int32 // by privilege, a byte: may it read the time?
	RateShift                            uint8

	Float FloatLayout

	Read, Write, Jumps        int32 // arrays of 16-byte entries: tag, value
	ReadEntries, WriteEntries int32
	JumpEntries               int32
}

// Places in TLBs: the address spaces of one satp.
const (
	UserTLB = iota
	SupervisorTLB
	SupervisorUserTLB // S-mode with SUM, which reaches the user's pages
	NumTLBs
)

// Reason says why translated code came back.
type Reason uint32

const (
	AtOffset  Reason = iota // go on at Off of the page
	AtPC                    // go on at PC
	Interpret               // the interpreter must execute the instruction at Off
)

// JumpIndex is the place of an address in the jump cache: 64 places for a page,
// so that those of one page are easily found.
func JumpIndex(va uint64) int { return int(va>>1&63 | va>>12&15<<6) }

// JumpEntries is the size of a jump cache.
const JumpEntries = 1024

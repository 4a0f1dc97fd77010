// SPDX-License-Identifier: Apache-2.0

// Package jit translates decoded RISC-V instructions to the host's machine code.
//
// What is translated together is a region: blocks of one page that lead to each
// other, with the loops among them. It is entered at its blocks and left by jumps
// to others, by returning to Go, and at instructions that are left to the
// interpreter.
//
//	block: sub steps, n ; fewer than n left? → out
//	       instruction … slow or special? → give back the rest, out
//	       branch taken  → give back the rest, jmp other region
//	       …             → jmp block
//
// Steps: a block counts its steps at its start and gives back what it did not
// execute wherever it is left, so the count is exact at every way out.
//
// Registers: at the borders of all regions the same guest registers, eight or
// more, are in host registers and the others in memory, so that a jump from region
// to region moves nothing. A region with loops has a mapping of its own for what
// the loops use most, and changes from one to the other at its borders.
//
// Work that nobody looks at is not done: a result that its block overwrites unread,
// or only its upper half, is made up for where the block is left before that.
//
// Memory: an access compares the page of its address with the page that its base
// register was used for last (Pairs), then looks into the TLB of the address
// space. If that has no entry, translated code returns to Go, which fills it and
// lets the same instruction go on; whatever is not plain memory leaves the region
// before the instruction, and the interpreter executes it. Translated code itself
// never faults.
//
// Indirect jumps, and those to other pages, look up their target in the jump
// cache of the address space. Translations are position-independent: addresses
// come from the virtual address of the page, which is in the State, so that one
// translation serves all address spaces. They live as long as the page's bytes do
// not change.
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
	ZeroOK                               int32 // the same for cbo.zero
	RateShift                            uint8

	Float FloatLayout

	// For and of a miss: the Target of Enter and Resume, the address that
	// missed and its site, and room for Saved registers.
	Target, Address, Site, Save int32

	// In a TLB: arrays of 16-byte entries, of tag and value.
	Read, Write, Jumps        int32
	ReadPairs, WritePairs     int32 // by base register, twice: the page it was used for last, and host address minus guest's
	Paired                    int32 // a bool: there are pairs
	ReadEntries, WriteEntries int32
}

// Pairs is the size of an array of pairs.
const Pairs = 64

// Saved is how many host registers are put by during a miss.
const Saved = 24

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
	Short                   // too few steps are left for the block at Off
	Miss                    // the TLB has no entry for Address, which Site accesses
)

// JumpIndex is the place of an address in the jump cache.
func JumpIndex(va uint64) int { return int((va ^ va>>12) >> 1 & (JumpEntries - 1)) }

// JumpEntries is the size of a jump cache.
const JumpEntries = 8192

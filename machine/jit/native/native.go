// SPDX-License-Identifier: Apache-2.0

// Package native enters translated code from Go.
//
// Enter is a function in assembly with a frame of its own on the goroutine's
// stack. Translated code is called from it and returns to it; it never moves the
// stack pointer, calls nothing and keeps RBP, so that signals find a stack they
// understand. While it runs, the goroutine can't be preempted: translated code
// counts its steps and comes back after at most as many as it was given.
//
// The fixed registers of translated code on amd64:
//
//	RBX        Context
//	R15        steps left
//	R14        base of the TLB arrays of the address space
//	others     free, but for the stack pointer
//
// Translated code may leave the guest's MXCSR behind; Enter restores Go's before
// anything else can run. Signal handlers have one of their own.
//
// On arm64:
//
//	R19        Context
//	R20        base of the TLB arrays of the address space
//	R21        steps left
//	R18 R28 R29 R30, stack pointer  not to be touched: the platform's, the goroutine, its
//	                                frame, the way back to Enter
//	others     free
//
// Translated code may leave the guest's FPCR behind; Enter clears it, as Go has it,
// before anything else but a signal handler can run. Go's compute nothing with
// floats.
//
// An arm64 CPU may run stale bytes of code that was written: whoever writes code
// or patches a jump calls Flush for these bytes, by their address in the
// executable view, before the next Enter. On amd64 Flush does nothing.
package native

// Float is the floating-point state of translated code.
type Float struct {
	// Mode and WhenDirty are of jit.FloatMode; the host computes as the guest wants
	// it where WhenDirty is on, 2.
	Mode, WhenDirty uint32
	// Guest is MXCSR or FPCR as translated code begins with it, and after
	// Enter, if it was on, MXCSR or FPSR as it left that. Host is Go's MXCSR in the
	// meantime, and on arm64 flags of FPSR that were put by, which are added.
	Guest, Host uint32
}

// FloatAt is where a Context has its Float: behind 256 registers.
const FloatAt = 256 * 8

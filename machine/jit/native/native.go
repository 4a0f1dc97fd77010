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
//	RSI RDI R8 R9 R10 R11 R12 R13   guest registers, in the order of Fixed
//	RAX RCX RDX                     scratch
package native

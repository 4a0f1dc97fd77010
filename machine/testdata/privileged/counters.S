/* SPDX-License-Identifier: Apache-2.0
 *
 * mcycle and minstret count exactly (Priv. 3.1.10), and who may read what.
 */
#include "test.h"

main:
	/* One more for each instruction between two reads. */
	csrr	a0, minstret
	csrr	a1, minstret
	sub	a1, a1, a0
	CHECK(a1, 1)
	csrr	a0, mcycle
	nop
	nop
	nop
	csrr	a1, mcycle
	sub	a1, a1, a0
	CHECK(a1, 4)

	/* The value written is what the next instruction reads. */
	li	t0, 1000
	csrw	minstret, t0
	csrr	a0, minstret
	CHECK(a0, 1000)
	csrw	mcycle, t0
	nop
	csrr	a0, mcycle
	CHECK(a0, 1001)
	li	t0, -1
	csrw	minstret, t0
	csrr	a0, minstret
	csrr	a1, minstret
	CHECK(a0, -1)
	CHECK(a1, 0)

	/* A trap is a cycle, but retires nothing. The handler has thirteen instructions. */
	csrr	a0, mcycle
	csrr	a1, minstret
	la	s11, 1f
	.word	0
1:	csrr	a3, minstret
	csrr	a2, mcycle
	sub	a2, a2, a0
	sub	a3, a3, a1
	CHECK(a2, 19)
	CHECK(a3, 16)

	/* Inhibited they stand still, each by itself, and can be written. */
	csrr	a0, minstret
	csrsi	mcountinhibit, 4
	csrr	a1, minstret
	nop
	csrr	a2, minstret
	sub	a0, a1, a0
	CHECK(a0, 2)
	SAME(a1, a2)
	csrr	a0, mcycle
	csrsi	mcountinhibit, 4		/* no change, no loss */
	csrr	a1, mcycle
	sub	a1, a1, a0
	CHECK(a1, 2)
	li	t0, 77
	csrw	minstret, t0
	csrr	a0, minstret
	csrci	mcountinhibit, 4
	csrr	a1, minstret
	csrr	a2, minstret
	CHECK(a0, 77)
	CHECK(a1, 77)
	CHECK(a2, 78)
	csrsi	mcountinhibit, 1
	csrr	a0, mcycle
	csrr	a1, mcycle
	SAME(a0, a1)
	csrr	a0, minstret
	csrr	a1, minstret
	sub	a1, a1, a0
	CHECK(a1, 1)
	csrci	mcountinhibit, 1
	li	t0, -1				/* time cannot be stopped, the rest isn't there */
	csrw	mcountinhibit, t0
	csrr	a0, mcountinhibit
	CHECK(a0, 5)
	csrw	mcountinhibit, zero

	/* mcounteren, scounteren. */
	TO_S
	TRAPS(ILLEGAL, rdcycle a0)
	TRAPS(ILLEGAL, rdtime a0)
	TRAPS(ILLEGAL, rdinstret a0)
	TO_M
	csrwi	mcounteren, 2
	TO_S
	TRAPS(ILLEGAL, rdcycle a0)
	OK(rdtime a0)
	TO_M
	TO_U
	TRAPS(ILLEGAL, rdtime a0)
	TO_M
	csrwi	scounteren, 7
	TO_U
	OK(rdtime a0)
	TRAPS(ILLEGAL, rdinstret a0)
	TO_M
	csrwi	mcounteren, 7
	TO_U
	OK(rdinstret a0)
	OK(rdcycle a0)
	TRAPS(ILLEGAL, csrw cycle, a0)
	TRAPS(ILLEGAL, csrr a0, hpmcounter3)
	TO_M
	TRAPS(ILLEGAL, csrw instret, a0)
	OK(csrr a0, hpmcounter3)
	OK(csrr a0, mhpmcounter31)
	OK(csrr a0, mhpmevent3)
	DONE

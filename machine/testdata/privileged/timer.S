/* SPDX-License-Identifier: Apache-2.0
 *
 * Spins until the timer interrupt at WHEN ticks and leaves mcycle in found.
 */
#include "test.h"
main:
	la	t0, taken
	csrw	mtvec, t0
	li	t1, WHEN
#ifdef SSTC
	li	t0, 1<<63
	csrs	menvcfg, t0
	csrw	stimecmp, t1
	li	t0, 0x20
#else
	li	t0, 0x02004000
	sd	t1, 0(t0)
	li	t0, 0x80
#endif
	csrw	mie, t0
	csrsi	mstatus, 8
1:	addi	a0, a0, 1
	xori	a1, a0, 5
	j	1b
	.align	2
taken:
	csrr	a1, mcycle
	la	t0, found
	sd	a1, 0(t0)
	DONE
	.section .data
	.globl	found
found:	.dword	0
	.section .text

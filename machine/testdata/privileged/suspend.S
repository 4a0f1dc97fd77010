/* SPDX-License-Identifier: Apache-2.0
 *
 * A kernel that suspends its hart by SBI without retention and leaves what
 * cycle and instret are as it resumes in found.
 */
	.section .text
	.globl _start
_start:
	li	a7, 0x48534d
	li	a6, 3
	li	a0, 0x80000000
	la	a1, resume
	li	a2, 0
	ecall
	j	.
	.align	2
resume:
	rdcycle	a0
	rdinstret a1
	la	t0, found
	sd	a0, 0(t0)
	sd	a1, 8(t0)
	j	.
	.section .data
	.globl	found, tohost
tohost:	.dword	0
found:	.dword	0, 0

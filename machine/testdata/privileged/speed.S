/* SPDX-License-Identifier: Apache-2.0
 *
 * Small loops that never end, one for each kind of work, for benchmarks.
 */
#include "test.h"
main:
	csrwi	mie, 0
	la	sp, stack + 4096
	j	PROGRAM

integer:				/* xorshift and a count of bits by hand */
	li	a0, 88172645463325252
1:	slli	a1, a0, 13
	xor	a0, a0, a1
	srli	a1, a0, 7
	xor	a0, a0, a1
	slli	a1, a0, 17
	xor	a0, a0, a1
	andi	a2, a0, 63
2:	addi	a2, a2, -1
	add	a3, a3, a2
	bgtz	a2, 2b
	j	1b

stream:					/* c = a + b over 3 times 128 KiB */
	la	s1, area
	li	s2, 128<<10
1:	mv	a0, s1
	add	a1, a0, s2
	add	a2, a1, s2
	mv	a3, a1
2:	ld	a4, 0(a0)
	ld	a5, 0(a1)
	add	a4, a4, a5
	sd	a4, 0(a2)
	addi	a0, a0, 8
	addi	a1, a1, 8
	addi	a2, a2, 8
	bne	a0, a3, 2b
	j	1b

calls:					/* fib(20), recursively */
	li	a0, 20
	call	fib
	j	calls
	.zero	4096			/* in another page */
fib:	addi	sp, sp, -32
	sd	ra, 24(sp)
	sd	s0, 16(sp)
	sd	s1, 8(sp)
	mv	s0, a0
	li	t0, 2
	bltu	a0, t0, 1f
	addi	a0, a0, -1
	call	fib
	mv	s1, a0
	addi	a0, s0, -2
	call	fib
	add	a0, a0, s1
1:	ld	s1, 8(sp)
	ld	s0, 16(sp)
	ld	ra, 24(sp)
	addi	sp, sp, 32
	ret

chase:					/* a ring of nodes over 1 MiB, 4 KiB and a little apart */
	la	s1, area
	li	s2, 1<<20
	li	t0, 0
	li	t1, 4096+64
	li	t3, 0
1:	add	a0, t0, t1
	addi	t2, s2, -1
	and	a0, a0, t2
	add	a1, s1, t0
	add	a2, s1, a0
	sd	a2, 0(a1)
	mv	t0, a0
	addi	t3, t3, 1
	bnez	t0, 1b
	mv	a0, s1
2:	ld	a0, 0(a0)
	ld	a0, 0(a0)
	ld	a0, 0(a0)
	ld	a0, 0(a0)
	j	2b

divide:					/* greatest common divisors */
	li	s0, 1
1:	addi	s0, s0, 7
	mv	a0, s0
	li	a1, 5040
2:	remu	a2, a0, a1
	mv	a0, a1
	mv	a1, a2
	bnez	a1, 2b
	j	1b

atomics:				/* a lock is taken and given back */
	la	s0, area
	li	a2, 1
1:	lr.w.aq	a0, (s0)
	bnez	a0, 1b
	sc.w	a0, a2, (s0)
	bnez	a0, 1b
	addi	s1, s0, 8
	amoadd.d a1, a2, (s1)
	fence	rw, w
	amoswap.w.rl zero, zero, (s0)
	j	1b

floats:					/* y += a x over 8 KiB */
	la	s1, area
	li	t0, 1
	fcvt.d.l fa0, t0
1:	mv	a0, s1
	li	a1, 4096
	add	a1, a1, a0
	mv	a2, a1
2:	fld	fa1, 0(a0)
	fld	fa2, 0(a2)
	fmadd.d	fa2, fa1, fa0, fa2
	fsd	fa2, 0(a2)
	addi	a0, a0, 8
	addi	a2, a2, 8
	bne	a0, a1, 2b
	j	1b

kernel:					/* sums, products and a quotient in registers, which converge */
	li	t0, 3
	fcvt.d.l fa0, t0
	fcvt.d.l fs0, t0
	fmv.d	fa1, fa0
	fmv.d	fa2, fa0
1:	fmul.d	fa3, fa0, fa0
	fmul.d	fa4, fa1, fa1
	fadd.d	fa5, fa3, fa4
	fmadd.d	fa5, fa2, fa2, fa5
	fdiv.d	ft0, fs0, fa5
	fmul.d	ft1, ft0, fa0
	fmul.d	ft2, ft0, fa1
	fsub.d	ft1, ft1, ft0
	fmadd.d	fa0, ft1, ft0, fs0
	fmadd.d	fa1, ft2, ft0, fs0
	fneg.d	ft3, fa0
	fadd.d	fa2, ft3, fa1
	addi	t0, t0, 1
	bnez	t0, 1b

system:					/* a trap, CSRs and a return */
	la	t0, 3f
	csrw	mtvec, t0
1:	addi	a0, a0, 1
	add	a1, a1, a0
	ecall
	j	1b
	.align	2
3:	csrr	t0, mepc
	csrr	t1, mcause
	addi	t0, t0, 4
	csrw	mepc, t0
	mret

syscalls:				/* system calls from U-mode, as a kernel takes them in */
	li	t0, -1
	csrw	pmpaddr0, t0
	li	t0, 0x1f
	csrw	pmpcfg0, t0
	li	t0, 1 << 8
	csrw	medeleg, t0
	la	t0, 3f
	csrw	stvec, t0
	la	t0, stack
	csrw	sscratch, t0
	li	t0, 3 << 11
	csrc	mstatus, t0
	la	t0, 1f
	csrw	mepc, t0
	mret
1:	addi	a0, a0, 1
	add	a1, a1, a0
	ecall
	j	1b
	.align	2
3:	csrrw	tp, sscratch, tp
	sd	sp, -8(tp)
	mv	sp, tp
	csrrw	tp, sscratch, tp
	sd	s0, -16(sp)
	sd	s1, -24(sp)
	li	s0, 1 << 18
	csrrc	s1, sstatus, s0
	csrr	s0, scause
	csrr	t0, sepc
	csrr	t1, stval
	addi	t0, t0, 4
	csrsi	sstatus, 2
	add	a1, a1, s0
	csrci	sstatus, 2
	csrw	sstatus, s1
	csrw	sepc, t0
	ld	s0, -16(sp)
	ld	s1, -24(sp)
	ld	sp, -8(sp)
	sret

	.section .bss
	.align	12
area:	.zero	2<<20
stack:	.zero	4096
	.section .text

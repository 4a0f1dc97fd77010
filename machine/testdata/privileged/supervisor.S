/* SPDX-License-Identifier: Apache-2.0
 *
 * The path of a system call, many times over: ecall from U-mode, sret, SUM, and
 * interrupts that come at once where sstatus or sret lets them in.
 */
#define LEVELS 3
#include "test.h"
#include "paging.h"

#define SIE 2
#define SPIE 0x20
#define SPP 0x100
#define SUM (1<<18)
#define STATUS (2<<32)			/* UXL: what sstatus shows besides what is set */
#define SSI (1<<63|1)

/* RETURNS: sret with bits of sstatus to an address; whatever traps then goes on at 78. */
#define RETURNS(bits, to) \
	li t0, SIE|SPIE|SPP; csrc sstatus, t0; li t0, bits; csrs sstatus, t0; csrw sepc, to; \
	la s8, 78f; li s5, -1; sret; 78:

main:
	paging_on
	SETPTE(0, pageA, RWXAD|U)
	SETPTE(1, pageB, RWXAD|U)
	la	t0, pageB		/* of the user: nop, ecall */
	li	t1, 0x13
	sw	t1, 0(t0)
	li	t1, 0x73
	sw	t1, 4(t0)
	fence.i
	li	s0, AREA
	li	s1, AREA+4096
	li	t0, 0x100
	csrw	medeleg, t0
	csrwi	mideleg, 2
	csrwi	mie, 2
	la	t0, supervisor
	csrw	stvec, t0
	li	t0, 3<<13
	csrc	mstatus, t0
	li	s9, 40
	TO_S
1:
	/* The user's page: with SUM alone. */
	TRAPS(LOAD_PAGE, ld a0, 0(s0))
	li	t0, SUM
	csrrs	t1, sstatus, t0
	li	t2, SUM
	and	t1, t1, t2
	CHECK(t1, 0)
	OK(sd s9, 0(s0))
	OK(ld a0, 0(s0))
	SAME(a0, s9)
	csrrc	t1, sstatus, t0
	and	t1, t1, t2
	CHECK(t1, SUM)
	TRAPS(LOAD_PAGE, ld a0, 0(s0))
	TRAPS(STORE_PAGE, sd a0, 0(s0))

	/* A system call, with SPIE and without. */
	addi	s11, s1, 4
	RETURNS(0, s1)
	CHECK(s5, 8)
	SAME(s6, s11)
	CHECK(s7, STATUS)
	RETURNS(SPIE, s1)
	CHECK(s5, 8)
	CHECK(s7, STATUS|SPIE)
	SAME(s6, s11)
	csrr	t0, stval
	CHECK(t0, 0)

	/* An interrupt that waits comes behind csrsi, and not before. */
	csrci	sstatus, SIE
	csrsi	sip, 2
	li	s5, -1
	la	s8, 78f
	mv	a1, zero
	csrsi	sstatus, SIE
2:	addi	a1, a1, 1
	addi	a1, a1, 1
78:	CHECK(s5, SSI)
	CHECK(a1, 0)
	la	t0, 2b
	SAME(s6, t0)

	/* The same by a register, and by csrrw. */
	csrci	sstatus, SIE
	csrsi	sip, 2
	li	s5, -1
	la	s8, 78f
	csrr	t0, sstatus
	ori	t0, t0, SIE
	csrw	sstatus, t0
2:	nop
	nop
78:	CHECK(s5, SSI)
	la	t0, 2b
	SAME(s6, t0)

	/* And behind sret: to S-mode with SPIE only, to U-mode always. */
	csrsi	sip, 2
	la	s10, 3f
	RETURNS(SPIE|SPP, s10)
	CHECK(s5, SSI)
	SAME(s6, s10)
	csrsi	sip, 2
	RETURNS(0, s1)
	CHECK(s5, SSI)
	SAME(s6, s1)
	csrsi	sip, 2
	la	s10, 2f
	RETURNS(SPP, s10)
	j	4f			/* not here: it returns to 2 */
2:	CHECK(s5, -1)
	csrr	t0, sstatus
	CHECK(t0, STATUS|SPIE)
	csrci	sip, 2

	addi	s9, s9, -1
	bnez	s9, 1b
	ecall
	DONE
3:	nop
4:	mv	t5, s5
	li	a0, __LINE__
	j	fail

	/* supervisor notes a trap and goes on at s8 in S-mode, with interrupts off. */
	.align	2
supervisor:
	csrr	s5, scause
	csrr	s6, sepc
	csrr	s7, sstatus
	csrci	sip, 2
	csrw	sepc, s8
	li	t5, SPIE
	csrc	sstatus, t5
	li	t5, SPP
	csrs	sstatus, t5
	sret

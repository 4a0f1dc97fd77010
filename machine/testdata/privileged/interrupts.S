/* SPDX-License-Identifier: Apache-2.0
 *
 * Interrupts: enables, priorities, delegation, vectors, Sstc and wfi.
 */
#include "test.h"

#define CLINT 0x02000000
#define MSIP(v) li t0, CLINT; li t1, v; sw t1, 0(t0)
#define MTIMECMP(v) li t0, CLINT+0x4000; li t1, v; sd t1, 0(t0)
#define MIE 8
#define SIE 2
#define INT (1<<63)

/* TAKEN: right after the enabling instruction interrupt n of M is taken. */
#define TAKEN(n) la s11, 78f; li s2, -1; csrsi mstatus, MIE; .word 0; 78: CHECK(s2, INT|n) CHECK(s3, 0)

main:
	li	t0, -1
	csrw	mie, t0
	csrr	t0, mie
	CHECK(t0, 0xaaa)
	li	t0, -1
	csrw	mideleg, t0
	csrr	t0, mideleg
	CHECK(t0, 0x222)
	csrw	mideleg, zero

	/* Pending, but not enabled: nothing. Then the highest first: MSI, MTI, SEI, SSI, STI. */
	MTIMECMP(0)
	MSIP(1)
	li	t0, 0x222
	csrs	mip, t0
	csrr	t0, mip
	CHECK(t0, 0x2aa)
	TAKEN(3)
	MSIP(0)
	TAKEN(7)
	MTIMECMP(-1)
	csrr	t0, mip
	CHECK(t0, 0x222)
	TAKEN(9)
	li	t0, 0x200
	csrc	mip, t0
	TAKEN(1)
	csrci	mip, 2
	TAKEN(5)
	li	t0, 0x20
	csrc	mip, t0
	csrr	t0, mip
	CHECK(t0, 0)

	/* The handler's mepc is the instruction that was not executed. */
	csrsi	mip, 2
	la	s11, 1f
	csrsi	mstatus, MIE
	nop
1:	csrci	mstatus, MIE
	la	t0, 1b
	addi	t0, t0, -4
	SAME(s4, t0)
	csrci	mip, 2

	/* Vectored: base + 4 times the cause; exceptions to the base. */
	la	t0, vectors+1
	csrw	mtvec, t0
	csrr	t1, mtvec
	SAME(t0, t1)
	TRAPS(ILLEGAL, .word 0)
	li	s5, 0
	csrsi	mip, 2
	TAKEN(1)
	CHECK(s5, 1)
	csrci	mip, 2
	MSIP(1)
	TAKEN(3)
	CHECK(s5, 3)
	MSIP(0)
	la	t0, handler
	csrw	mtvec, t0

	/* M's interrupts are taken in S whatever MIE says; S's own by SIE, from U always. */
	csrci	mstatus, MIE
	la	s11, 1f
	li	s2, -1
	MSIP(1)
	TO_S
1:	CHECK(s2, INT|3)
	TO_M
	MSIP(0)
	li	t0, 0x222
	csrw	mideleg, t0
	la	t0, svectors+1
	csrw	stvec, t0
	li	t0, 0x200
	csrw	mie, t0
	csrs	mip, t0				/* SEI pending */
	csrsi	mstatus, MIE			/* delegated: never in M */
	nop
	csrci	mstatus, MIE
	li	s5, 0
	li	s6, 0
	TO_S
	csrr	t0, sip
	CHECK(t0, 0x200)
	csrr	t0, sie
	CHECK(t0, 0x200)
	li	t0, 0x200
	csrc	sip, t0				/* read-only */
	csrr	t0, sip
	CHECK(t0, 0x200)
	CHECK(s5, 0)
	la	s11, 1f
	csrsi	sstatus, SIE
	.word	0
1:	csrci	sstatus, SIE
	CHECK(s5, INT|9)
	CHECK(s6, 9)
	TO_M
	li	t0, 0x200
	csrc	mip, t0
	csrsi	mip, 2
	csrwi	mie, 2
	li	s5, 0
	la	s11, 1f
	TO_U
	.word	0
1:	CHECK(s5, INT|1)
	TO_M
	csrci	mip, 2
	csrw	mie, zero

	/* Software bits of sip: SSIP only, and only delegated ones. */
	TO_S
	csrsi	sip, 2
	csrr	t0, sip
	CHECK(t0, 2)
	TO_M
	csrr	t0, mip
	CHECK(t0, 2)
	csrw	mideleg, zero
	TO_S
	csrci	sip, 2
	csrr	t0, sip
	CHECK(t0, 0)
	TO_M
	csrr	t0, mip
	CHECK(t0, 2)
	csrci	mip, 2
	li	t0, 0x222
	csrw	mideleg, t0

	/* Sstc: STIP is stimecmp against time, and nobody's to write. */
	li	t0, 0x20
	csrs	mip, t0
	csrc	mip, t0
	li	t1, 1<<63
	csrs	menvcfg, t1
	csrwi	mcounteren, 2
	csrw	stimecmp, zero
	csrr	t0, mip
	CHECK(t0, 0x20)
	li	t0, 0x20
	csrc	mip, t0
	csrr	t0, mip
	CHECK(t0, 0x20)
	csrs	mip, t0
	li	t1, -1
	csrw	stimecmp, t1
	csrr	t0, mip
	CHECK(t0, 0)
	li	t1, 1<<63
	csrc	menvcfg, t1
	csrr	t0, mip
	CHECK(t0, 0)
	csrs	menvcfg, t1
	TO_S
	OK(csrr a0, stimecmp)
	TO_M

	/* wfi: goes on for an interrupt that is enabled in mie, taken or not. */
	csrw	mideleg, zero
	csrci	mstatus, MIE
	li	t0, 0x80
	csrw	mie, t0
	csrr	a0, time
	addi	a0, a0, 100
	li	t0, CLINT+0x4000
	sd	a0, 0(t0)
	li	s2, -1
	wfi
	csrr	a1, time
	CHECK(s2, -1)
	sltu	a2, a1, a0
	CHECK(a2, 0)
	sub	a1, a1, a0
	sltiu	a1, a1, 2
	CHECK(a1, 1)
	csrr	a0, time
	addi	a0, a0, 100
	li	t0, CLINT+0x4000
	sd	a0, 0(t0)
	la	s11, 2f
	csrsi	mstatus, MIE
1:	wfi
	.word	0
2:	csrci	mstatus, MIE
	CHECK(s2, INT|7)
	la	t0, 1b+4
	SAME(s4, t0)
	DONE

	.align	8
vectors:
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11
	.if	\n == 1 || \n == 3
	j	vector\n
	.else
	j	handler
	.endif
	.endr
vector1: li	s5, 1
	j	handler
vector3: li	s5, 3
	j	handler

	.align	8
svectors:
	.irp	n, 0,1,2,3,4,5,6,7,8
	j	shandler
	.endr
	li	s6, 9				/* and on to the handler */
shandler:
	csrr	s5, scause
	csrw	sepc, s11
	csrw	sie, zero
	li	t5, 0x20			/* SPIE */
	csrc	sstatus, t5
	sret

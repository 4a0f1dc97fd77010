/* SPDX-License-Identifier: Apache-2.0
 *
 * Interrupts: enables, priorities, delegation, vectors, Sstc and wfi.
 */
#include "test.h"

#define CLINT 0x02000000
#define MSIP(reg, v) li t0, CLINT; li t1, v; sw t1, 0(t0)
#define MTIMECMP(v) li t0, CLINT+0x4000; li t1, v; sd t1, 0(t0)
#define MIE 8
#define SIE 2
#define INT (1<<63)

/* TAKEN: between the enabling instruction and the next, interrupt n of M is taken. */
#define ENABLED csrsi mstatus, MIE
#define TAKEN(n) la s11, 1f; li s2, -1; ENABLED; .word 0; 1: csrci mstatus, MIE; CHECK(s2, INT|n) CHECK(s3, 0)

main:
	li	t0, -1
	csrw	mie, t0
	csrr	t0, mie
	CHECK(t0, 0xaaa)
	csrw	mideleg, -1
	csrr	t0, mideleg
	CHECK(t0, 0x222)
	csrw	mideleg, zero

	/* Pending, but not enabled: nothing. Then the highest first: MSI, MTI, SEI, SSI, STI. */
	MTIMECMP(0)
	MSIP(t0, 1)
	li	t0, 0x222
	csrs	mip, t0
	csrr	t0, mip
	CHECK(t0, 0x2aa)
	TAKEN(3)
	MSIP(t0, 0)
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
	MSIP(t0, 1)
	TAKEN(3)
	CHECK(s5, 3)
	MSIP(t0, 0)
	la	t0, handler
	csrw	mtvec, t0

	/* M's interrupts are taken in S whatever MIE says; S's own by SIE, from U always. */
	csrci	mstatus, MIE
	la	s11, 1f
	li	s2, -1
	MSIP(t0, 1)
	TO_S
1:	CHECK(s2, INT|3)
	TO_M
	MSIP(t0, 0)
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
	csrw	stimecmp, -1
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
	.set	n, 0
	.rept	12
	.if	n == 0
	j	handler
	.else
	j	vector\@
	.endif
	.set	n, n+1
	.endr

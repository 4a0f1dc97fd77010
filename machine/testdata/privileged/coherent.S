/* SPDX-License-Identifier: Apache-2.0
 *
 * Nothing that the processor caches can be seen: translations follow every
 * store to a page table and fetches every store to code, without a fence.
 */
#include "test.h"
#include "paging.h"

#define RET 0x00008067
#define LI_A0(n) (0x00000513|(n)<<20)

main:
	paging_on
	la	t0, pageA
	li	t1, 0xaaaa
	sd	t1, 8(t0)
	la	t0, pageB
	li	t1, 0xbbbb
	sd	t1, 8(t0)
	SETPTE(0, pageA, RWXAD)
	li	s0, AREA
	la	s1, leaf
	TO_S

	/* Another page: the next load and store see it. */
	OK(ld a0, 8(s0)) CHECK(a0, 0xaaaa)
	SETPTE(0, pageB, RWXAD)
	OK(ld a0, 8(s0)) CHECK(a0, 0xbbbb)
	li	t0, 0xb0b0
	OK(sd t0, 16(s0))
	SETPTE(0, pageA, RWXAD)
	li	t0, 0xa0a0
	OK(sd t0, 16(s0))
	la	t0, pageB
	ld	a0, 16(t0)
	CHECK(a0, 0xb0b0)
	la	t0, pageA
	ld	a0, 16(t0)
	CHECK(a0, 0xa0a0)

	/* Fewer rights, none, and a table that goes away. */
	SETPTE(0, pageA, V|R|A|D)
	addi	a1, s0, 24
	TRAPS(STORE_PAGE, sd a1, 0(a1)) TVAL(a1)
	OK(ld a0, 24(s0)) CHECK(a0, 0)
	sd	zero, 0(s1)
	TRAPS(LOAD_PAGE, ld a0, 0(a1)) TVAL(a1)
	SETPTE(0, pageA, RWXAD)
	OK(ld a0, 8(s0)) CHECK(a0, 0xaaaa)
	la	t0, middle
	ld	s5, 0(t0)
	sd	zero, 0(t0)
	TRAPS(LOAD_PAGE, ld a0, 8(s0))
	TRAPS(STORE_PAGE, sd a0, 8(s0))
	la	t0, middle
	sd	s5, 0(t0)
	OK(ld a0, 8(s0)) CHECK(a0, 0xaaaa)

	/* Another leaf table, then a superpage over it. */
	PTE(t0, pageB, RWXAD)
	la	t1, leaf2
	sd	t0, 0(t1)
	PTE(t0, leaf2, V)
	la	t1, middle
	sd	t0, 0(t1)
	OK(ld a0, 8(s0)) CHECK(a0, 0xbbbb)
	li	t0, 0x80000000>>2|RWXAD
	la	t1, middle
	sd	t0, 0(t1)
	OK(ld a0, 0(s0))
	la	t0, _start
	ld	a1, 0(t0)
	SAME(a0, a1)
	la	t1, middle
	sd	s5, 0(t1)
	OK(ld a0, 8(s0)) CHECK(a0, 0xaaaa)

	/* One byte of an entry is enough: the page number's lowest bits. */
	PTE(a2, pageB, RWXAD)
	srli	a2, a2, 8
	sb	a2, 1(s1)
	OK(ld a0, 8(s0)) CHECK(a0, 0xbbbb)

	/* A and D are set by the access that needs them, each time they are clear. */
	SETPTE(1, pageA, V|R|W)
	li	s0, AREA+0x1000
	OK(ld a0, 8(s0))
	ld	a0, 8(s1)
	andi	a0, a0, A|D
	CHECK(a0, A)
	OK(sd zero, 32(s0))
	ld	a0, 8(s1)
	andi	a0, a0, A|D
	CHECK(a0, A|D)
	SETPTE(1, pageA, V|R|W)
	OK(ld a0, 8(s0))
	ld	a0, 8(s1)
	andi	a0, a0, A|D
	CHECK(a0, A)
	SETPTE(1, pageA, V|R|W|A)
	OK(sd zero, 32(s0))
	ld	a0, 8(s1)
	andi	a0, a0, A|D
	CHECK(a0, A|D)
	SETPTE(1, pageA, V|R)		/* not by one that faults */
	TRAPS(STORE_PAGE, sd zero, 32(s0))
	ld	a0, 8(s1)
	andi	a0, a0, A|D
	CHECK(a0, 0)
	SETPTE(1, pageA, V|R|W)		/* an AMO and an SC are stores, an LR is not */
	OK(lr.d a0, (s0))
	ld	a0, 8(s1)
	andi	a0, a0, A|D
	CHECK(a0, A)
	OK(amoadd.d a0, zero, (s0))
	ld	a0, 8(s1)
	andi	a0, a0, A|D
	CHECK(a0, A|D)

	/* The leaf table seen through itself: a store to it by that mapping. */
	SETPTE(2, leaf, V|R|W|A|D)
	li	s0, AREA+0x2000
	OK(ld a0, 16(s0))
	ld	a1, 16(s1)
	SAME(a0, a1)
	SETPTE(3, pageA, RWXAD)
	li	a3, AREA+0x3000
	OK(ld a0, 8(a3)) CHECK(a0, 0xaaaa)
	PTE(a0, pageB, RWXAD)
	OK(sd a0, 24(s0))
	OK(ld a0, 8(a3)) CHECK(a0, 0xbbbb)

	/* A table of a higher level seen through the area: a store that drops all
	   translations, then the mapping that it was made by goes away. */
	SETPTE(0x44, middle, V|R|W|A|D)
	li	s0, AREA+0x44000
	OK(ld a0, 0(s0))
	OK(sd a0, 0(s0))
	OK(sd a0, 0(s0))
	SETPTE(0x44, pageC, V|R|A|D)
	TRAPS(STORE_PAGE, sd zero, 0(s0))
	la	t0, middle
	ld	a0, 0(t0)
	SAME(a0, s5)

	/* Code written through another mapping, and code that changes itself. */
	SETPTE(5, pageC, V|R|X|A|D)
	li	s0, AREA+0x5000
	la	a1, pageC
	li	t0, LI_A0(1)
	sw	t0, 0(a1)
	li	t0, RET
	sw	t0, 4(a1)
	jalr	s0
	CHECK(a0, 1)
	li	t0, LI_A0(2)
	sw	t0, 0(a1)
	jalr	s0
	CHECK(a0, 2)
	la	t0, patch
	li	t1, LI_A0(4)
	li	a0, 0
	sw	t1, 0(t0)
patch:	.word	LI_A0(3)
	CHECK(a0, 4)
	SETPTE(5, pageA, V|R|X|A|D)
	la	a1, pageA
	li	t0, LI_A0(5)
	sw	t0, 0(a1)
	li	t0, RET
	sw	t0, 4(a1)
	jalr	s0
	CHECK(a0, 5)

	/* An instruction in two pages: the second one changes. */
	SETPTE(6, pageA, V|R|X|A|D)
	SETPTE(7, pageB, V|R|X|A|D)
	li	s0, AREA+0x6ffe
	li	t0, LI_A0(6)
	la	a1, pageA
	li	t1, 0xffe
	add	a1, a1, t1
	sh	t0, 0(a1)
	srli	t0, t0, 16
	la	a2, pageB
	sh	t0, 0(a2)
	li	t0, RET
	sw	t0, 2(a2)
	jalr	s0
	CHECK(a0, 6)
	li	t0, LI_A0(7)>>16
	sh	t0, 0(a2)
	jalr	s0
	CHECK(a0, 7)
	li	t0, LI_A0(8)>>16
	la	a2, pageC
	sh	t0, 0(a2)
	li	t0, RET
	sw	t0, 2(a2)
	SETPTE(7, pageC, V|R|X|A|D)
	jalr	s0
	CHECK(a0, 8)
	sd	zero, 8*7(s1)
	TRAPS(FETCH_PAGE, jalr s0)
	SAME(s4, s0)
	addi	a1, s0, 2
	TVAL(a1)
	sd	zero, 8*6(s1)
	TRAPS(FETCH_PAGE, jalr s0)
	TVAL(s0)

	/* A fetch that drops all translations, by setting A in a superpage's entry: the
	   stores after it must still be noticed by code that was decoded after it. */
	.macro	after_flush
	TO_M
	csrw	menvcfg, s6			/* S-mode gets a fresh set of translations */
	TO_S
	li	t0, AREA+0x1000
	ld	zero, 0(t0)			/* a walk by way of middle */
	la	a1, pageC
	li	t0, LI_A0(1)
	sw	t0, 0(a1)
	li	t0, RET
	sw	t0, 4(a1)
	li	t0, LI_A0(2)
	jalr	s0
	jalr	a1
	mv	a2, a0
	sw	t0, 0(a1)
	jalr	a1
	CHECK(a2, 1)
	CHECK(a0, 2)
	.endm
	TO_M
	csrr	s6, menvcfg
	TO_S
	li	t0, 0x80200000>>2|V|R|X
	la	t1, middle
	sd	t0, 8*2(t1)
	li	t1, 0x80200100
	li	t0, RET
	sw	t0, 0(t1)
	li	s0, AREA+0x400100
	after_flush
	li	t0, 0x80200000>>2|V|R|X		/* the second half of an instruction does it */
	la	t1, middle
	sd	t0, 8*1(t1)
	PTE(t0, pageA, V|R|X|A)
	la	t1, leaf+2048
	sd	t0, 8*511-2048(t1)
	li	s0, AREA+0x1ffffe
	la	t1, pageA+0xffe
	li	t0, LI_A0(0)
	sh	t0, 0(t1)
	li	t1, 0x80200000
	sh	zero, 0(t1)
	li	t0, RET
	sw	t0, 2(t1)
	after_flush

	/* Accesses across two pages, the second of which faults. */
	SETPTE(8, pageA, V|R|W)
	SETPTE(9, pageB, V|R|W)
	li	s0, AREA+0x8ffc
	li	a1, AREA+0x9000
	li	t0, 0x1122334455667788
	OK(sd t0, 0(s0))
	OK(ld a0, 0(s0))
	CHECK(a0, 0x1122334455667788)
	lw	a0, 0(a1)
	CHECK(a0, 0x11223344)
	SETPTE(9, pageB, V|R)
	TRAPS(STORE_PAGE, sd zero, 0(s0)) TVAL(a1)
	OK(ld a0, 0(s0))
	CHECK(a0, 0x1122334455667788)
	SETPTE(9, pageB, 0)
	TRAPS(LOAD_PAGE, ld a0, 0(s0)) TVAL(a1)
	SETPTE(9, pageB, V|R)
	SETPTE(8, pageA, 0)
	TRAPS(LOAD_PAGE, ld a0, 0(s0)) TVAL(s0)
	TRAPS(STORE_PAGE, sd a0, 0(s0)) TVAL(s0)

	/* Without ADUE a clear bit is a fault, and stays clear. */
	TO_M
	li	t0, 1<<61
	csrc	menvcfg, t0
	TO_S
	SETPTE(8, pageA, V|R|W)
	TRAPS(LOAD_PAGE, ld a0, 0(s0))
	SETPTE(8, pageA, V|R|W|A)
	addi	s0, s0, -4
	OK(ld a0, 0(s0))
	TRAPS(STORE_PAGE, sd a0, 0(s0))
	ld	a0, 8*8(s1)
	andi	a0, a0, A|D
	CHECK(a0, A)
	TO_M
	DONE

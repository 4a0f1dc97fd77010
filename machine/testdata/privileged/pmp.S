/* SPDX-License-Identifier: Apache-2.0
 *
 * Physical memory protection (Priv. 3.7): TOR, NA4 and NAPOT regions smaller
 * than a page, priorities, locks, and its say in page table walks.
 */
#include "test.h"
#include "paging.h"

#define PMP_R 1
#define PMP_W 2
#define PMP_X 4
#define TOR (1<<3)
#define NA4 (2<<3)
#define NAPOT (3<<3)
#define LOCK (1<<7)

/* REGION sets pmpaddr n to a symbol plus an offset. */
#define REGION(n, symbol, offset) la t0, symbol; addi t0, t0, offset; srli t0, t0, 2; csrw pmpaddr##n, t0

main:
	la	s0, pageA
	la	s1, pageB
	li	a0, 0x55

	/* NA4: four bytes that may not be written, in a page that may. */
	REGION(0, pageA, 16)
	li	t0, NA4|PMP_R
	csrw	pmpcfg0, t0
	TO_S
	OK(sw a0, 12(s0))
	addi	a1, s0, 16
	OK(lw a2, 16(s0))
	TRAPS(STORE_ACCESS, sw a0, 16(s0)) TVAL(a1)
	TRAPS(STORE_ACCESS, sb a0, 16(s0)) TVAL(a1)
	addi	a1, s0, 19
	TRAPS(STORE_ACCESS, sb a0, 19(s0)) TVAL(a1)
	OK(sw a0, 20(s0))
	addi	a1, s0, 12
	TRAPS(STORE_ACCESS, sd a0, 12(s0))	/* a part of it is enough */
	TRAPS(LOAD_ACCESS, ld a0, 12(s0))	/* nor may a load be of two regions */
	lw	a2, 12(s0)
	CHECK(a2, 0x55)
	OK(lr.w a2, (s0))
	TO_M
	OK(sw a0, 16(s0))			/* not locked: M is free */

	/* NAPOT of 8 bytes, without rights; a cache block cannot be zeroed over it. */
	REGION(0, pageA, 64)
	li	t0, NAPOT
	csrw	pmpcfg0, t0
	TO_S
	addi	a1, s0, 64
	TRAPS(LOAD_ACCESS, ld a2, (a1)) TVAL(a1)
	TRAPS(LOAD_ACCESS, lb a2, 7(a1))
	OK(ld a2, 8(a1))
	OK(ld a2, -8(a1))
	TRAPS(STORE_ACCESS, amoadd.w a2, a0, (a1)) TVAL(a1)
	TRAPS(LOAD_ACCESS, lr.d a2, (a1))
	TO_M
	REGION(0, pageA, 256+8)			/* 256 to 383: 128 bytes */
	csrr	t0, pmpaddr0
	ori	t0, t0, 0xf
	andi	t0, t0, ~0x10
	csrw	pmpaddr0, t0
	TO_S
	OK(sb a0, 255(s0))
	TRAPS(STORE_ACCESS, sb a0, 256(s0))
	TRAPS(STORE_ACCESS, sb a0, 383(s0))
	OK(sb a0, 384(s0))
	TO_M

	/* TOR from pageA+512 to pageA+1024 read-only, and the part below it by entry 0. */
	REGION(1, pageA, 512)
	REGION(2, pageA, 1024)
	li	t0, (TOR|PMP_R)<<16
	csrw	pmpcfg0, t0
	TO_S
	OK(sb a0, 511(s0))
	TRAPS(STORE_ACCESS, sb a0, 512(s0))
	OK(lb a2, 512(s0))
	TRAPS(STORE_ACCESS, sb a0, 1023(s0))
	OK(sb a0, 1024(s0))
	TO_M
	REGION(2, pageA, 512)			/* empty: it matches nothing */
	TO_S
	OK(sd a0, 508(s0))
	OK(sb a0, 512(s0))
	TO_M
	REGION(2, pageA, 508)			/* and so does one that ends before it begins */
	TO_S
	OK(sd a0, 508(s0))
	OK(sd a0, 504(s0))
	TO_M

	/* The lowest entry decides. */
	REGION(0, pageA, 16)
	REGION(1, pageA, 16)
	li	t0, (NA4|PMP_R|PMP_W) | NA4<<8
	csrw	pmpcfg0, t0
	TO_S
	OK(sw a0, 16(s0))
	TO_M
	li	t0, NA4 | (NA4|PMP_R|PMP_W)<<8
	csrw	pmpcfg0, t0
	TO_S
	TRAPS(LOAD_ACCESS, lw a2, 16(s0))
	TO_M

	/* Execution: the first four bytes of pageB only. */
	li	t0, 0x00008067			/* ret */
	sw	t0, 0(s1)
	sw	t0, 4(s1)
	REGION(0, pageB, 4)
	li	t0, NA4|PMP_R|PMP_W
	csrw	pmpcfg0, t0
	TO_S
	OK(jalr s1)
	addi	a1, s1, 4
	TRAPS(FETCH_ACCESS, jalr a1) TVAL(a1)
	SAME(s4, a1)
	TO_M

	/* W without R is not taken. */
	li	t0, NA4|PMP_W
	csrw	pmpcfg0, t0
	csrr	t1, pmpcfg0
	CHECK(t1, NA4|PMP_R|PMP_W)

	/* A page table that may not be read, or not be written. */
	csrw	pmpcfg0, zero
	paging_on
	SETPTE(0, pageA, V|R|W)
	li	s0, AREA
	REGION(0, leaf, 0)
	li	t0, NA4
	csrw	pmpcfg0, t0
	TO_S
	TRAPS(LOAD_ACCESS, ld a2, 0(s0)) TVAL(s0)
	TRAPS(STORE_ACCESS, sd a2, 0(s0)) TVAL(s0)
	TRAPS(FETCH_ACCESS, jalr s0) TVAL(s0)
	TO_M
	li	t0, NAPOT|PMP_R
	csrw	pmpcfg0, t0
	TO_S
	TRAPS(LOAD_ACCESS, ld a2, 0(s0)) TVAL(s0)	/* A could not be set */
	TO_M
	csrw	pmpcfg0, zero
	SETPTE(0, pageA, V|R|W|A|D)
	li	t0, NAPOT|PMP_R
	csrw	pmpcfg0, t0
	TO_S
	OK(ld a2, 0(s0))
	TO_M
	csrw	satp, zero

	/* MPRV: M-mode under the rules of S. */
	la	s0, pageA
	REGION(0, pageA, 0)
	li	t0, NA4
	csrw	pmpcfg0, t0
	OK(lw a2, 0(s0))
	li	t0, 1<<17
	csrs	mstatus, t0
	li	t0, 3<<11
	csrc	mstatus, t0
	TRAPS(LOAD_ACCESS, lw a2, 0(s0))
	OK(lw a2, 4(s0))
	li	t0, 1<<17
	csrc	mstatus, t0

	/* A lock binds M-mode too, and stays. */
	REGION(1, pageA, 8)
	REGION(2, pageA, 16)
	li	t0, (LOCK|TOR|PMP_R)<<16
	csrw	pmpcfg0, t0
	OK(lw a2, 8(s0))
	TRAPS(STORE_ACCESS, sw a0, 8(s0))
	csrw	pmpcfg0, zero
	csrr	t0, pmpcfg0
	CHECK(t0, (LOCK|TOR|PMP_R)<<16)
	csrr	t0, pmpaddr2
	csrw	pmpaddr2, zero
	csrr	t1, pmpaddr2
	SAME(t0, t1)
	csrr	t0, pmpaddr1			/* the lower bound of a locked TOR */
	csrw	pmpaddr1, zero
	csrr	t1, pmpaddr1
	SAME(t0, t1)
	csrw	pmpaddr0, zero			/* not of another */
	csrr	t1, pmpaddr0
	CHECK(t1, 0)

	/* Without any match S has no access, M has. */
	csrw	pmpcfg2, zero
	la	s1, pageC
	li	t0, 1<<17
	csrs	mstatus, t0
	li	t0, 3<<11
	csrc	mstatus, t0
	TRAPS(LOAD_ACCESS, lw a2, 0(s1))
	li	t0, 1<<17
	csrc	mstatus, t0
	OK(lw a2, 0(s1))
	DONE

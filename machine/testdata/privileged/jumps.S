/* SPDX-License-Identifier: Apache-2.0
 *
 * What jumps from page to page could remember for too long: each part calls a
 * function often enough for that, changes what is at its address, and calls again.
 * The function returns 1 from page one and 2 from page two.
 */
#include "test.h"
#include "paging.h"

#define CALLS 8
#define PAGE 32				/* not where the TLB of fetches would have this program too */
#define AT (AREA+PAGE*4096)

	.macro	calls want
	li	s5, CALLS
1:	li	a0, 0
	jalr	s6
	addi	s5, s5, -1
	bnez	s5, 1b
	CHECK(a0, \want)
	.endm

#define SPACES 24

/* The root of the second kind of address space, where page two is. */
#if LEVELS == 3
#define ROOT2 other
#elif LEVELS == 4
#define ROOT2 top4b
#else
#define ROOT2 top5b
#endif

main:
	paging_on
	SETPTE(PAGE, one, RWXAD)
	SETPTE(1, two, RWXAD)
	TO_S
	li	s6, AT+0x10

	/* another page at the address, by a store to the page table */
	calls	1
	SETPTE(PAGE, two, RWXAD)
	calls	2
	SETPTE(PAGE, one, RWXAD)
	sfence.vma
	calls	1

	/* the last instructions of the page too: 63 halfwords on */
	li	s6, AT+0xffe-0x80
	calls	1
	SETPTE(PAGE, two, RWXAD)
	calls	2
	li	s6, AT+0x10
	SETPTE(PAGE, one, RWXAD)

	/* no page: the jump faults at its target */
	calls	1
	SETPTE(PAGE, one, V|R|W|A|D)
	TRAPS(FETCH_PAGE, jalr s6)
	TVAL(s6)
	SETPTE(PAGE, one, RWXAD)

	/* other bytes, stored to by the address of another mapping */
	calls	1
	la	t0, one
	li	t1, 0x00300513			/* li a0, 3 */
	sw	t1, 0x10(t0)
	calls	3
	li	t1, 0x00100513
	sw	t1, 0x10(t0)
	calls	1

	/* another table, a level up */
	PTE(t0, two, RWXAD)
	la	t1, leaf2
	sd	t0, 8*PAGE(t1)
	calls	1
	PTE(t0, leaf2, V)
	la	t1, middle
	sd	t0, 0(t1)
	calls	2
	PTE(t0, leaf, V)
	sd	t0, 0(t1)
	calls	1

	/* pages that share places of caches: 1 MiB and 64 KiB further */
	SETPTE(PAGE+16, two, RWXAD)
	la	t1, leaf + 8*(PAGE+256)
	sd	t0, 0(t1)
	li	s7, 3
2:	li	s6, AT+0x10
	calls	1
	li	s6, AT+0x10+256*4096
	calls	2
	li	s6, AT+0x10+16*4096
	calls	2
	addi	s7, s7, -1
	bnez	s7, 2b
	li	s6, AT+0x10

	/* a page of U-mode's */
	calls	1
	SETPTE(PAGE, one, RWXAD|U)
	TRAPS(FETCH_PAGE, jalr s6)
	SETPTE(PAGE, one, RWXAD)
	calls	1

	/* more address spaces than are remembered: odd ones have page two */
	la	t0, giga
	la	t1, other
	ld	t2, 16(t0)
	sd	t2, 16(t1)
	PTE(t0, middle2, V)
	sd	t0, 8(t1)
	PTE(t0, leaf2, V)
	la	t1, middle2
	sd	t0, 0(t1)
#if LEVELS > 3
	PTE(t0, other, V)
	la	t1, top4b
	sd	t0, 0(t1)
#endif
#if LEVELS > 4
	PTE(t0, top4b, V)
	la	t1, top5b
	sd	t0, 0(t1)
#endif
	li	s7, 3*SPACES
3:	li	t1, SPACES
	remu	s8, s7, t1
	slli	t1, s8, 44			/* ASID */
	andi	t2, s8, 1
	bnez	t2, 4f
	SATP(t0, ROOT)
	or	t0, t0, t1
	csrw	satp, t0
	calls	1
	j	5f
4:	SATP(t0, ROOT2)
	or	t0, t0, t1
	csrw	satp, t0
	calls	2
5:	addi	s7, s7, -1
	bnez	s7, 3b

	/* physical memory protection takes the right to execute away, and gives it back */
	SATP(t0, ROOT)
	csrw	satp, t0
	calls	1
	TO_M
	la	t0, one
	srli	t0, t0, 2
	ori	t0, t0, 511			/* a region of 4 KiB */
	csrw	pmpaddr0, t0
	li	t0, 0x1b			/* NAPOT, RW */
	csrw	pmpcfg0, t0
	TO_S
	TRAPS(FETCH_ACCESS, jalr s6)
	TO_M
	csrw	pmpcfg0, zero
	TO_S
	calls	1

	/* without translation the address is another */
	TO_M
	la	s6, two
	addi	s6, s6, 0x10
	calls	2
	li	t0, 3<<11
	csrc	mstatus, t0
	li	t0, 1<<17|1<<11			/* MPRV: loads as in S-mode, fetches as in M-mode */
	csrs	mstatus, t0
	calls	2
	li	t0, AT+0x10
	lw	t0, 0(t0)
	li	t1, 0x00100513
	SAME(t0, t1)
	li	t0, 1<<17
	csrc	mstatus, t0
	DONE

	.section .bss
	.align	12
other:	.zero	4096
middle2: .zero	4096
top4b:	.zero	4096
top5b:	.zero	4096
	.section .text
	.align	12
one:	.zero	16
	li	a0, 1
	ret
	.zero	0xffe-0x80-24
	.option	rvc
	c.li	a0, 1
	c.jr	ra
	.option	norvc
	.align	12
two:	.zero	16
	li	a0, 2
	ret
	.zero	0xffe-0x80-24
	.option	rvc
	c.li	a0, 2
	c.jr	ra
	.option	norvc
	.align	12

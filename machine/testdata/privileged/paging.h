/* SPDX-License-Identifier: Apache-2.0
 *
 * Page tables for LEVELS of 3 to 5: all of RAM one to one by a gigapage, for
 * S-mode, and the 2 MiB from AREA on by the table leaf, whose entries tests write.
 */
#define AREA 0x40000000
#define PTE(reg, symbol, flags) la reg, symbol; srli reg, reg, 2; ori reg, reg, (flags)&0x7ff
#define SETPTE(index, symbol, flags) PTE(t0, symbol, flags); la t1, leaf; sd t0, 8*(index)(t1)

#if LEVELS == 3
#define ROOT giga
#elif LEVELS == 4
#define ROOT top4
#else
#define ROOT top5
#endif

/* SATP computes satp for a root table. */
#define SATP(reg, symbol) la reg, symbol; srli reg, reg, 12; li t6, (LEVELS+5)<<60; or reg, reg, t6

	.macro	paging_on
	PTE(t0, leaf, V)
	la	t1, middle
	sd	t0, 0(t1)
	PTE(t0, middle, V)
	la	t1, giga
	sd	t0, 8*1(t1)
	li	t0, 0x80000000>>2|RWXAD
	sd	t0, 8*2(t1)
#if LEVELS > 3
	PTE(t0, giga, V)
	la	t1, top4
	sd	t0, 0(t1)
#endif
#if LEVELS > 4
	PTE(t0, top4, V)
	la	t1, top5
	sd	t0, 0(t1)
#endif
	SATP(t0, ROOT)
	csrw	satp, t0
	csrr	t1, satp
	SAME(t0, t1)
	.endm

	.section .bss
	.align	12
leaf:	.zero	4096
leaf2:	.zero	4096
middle:	.zero	4096
giga:	.zero	4096
top4:	.zero	4096
top5:	.zero	4096
pageA:	.zero	4096
pageB:	.zero	4096
pageC:	.zero	4096
	.section .text

/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs random code for ever, which a test puts into eight pages at code: in all
 * modes, through two address spaces, with pointers to data, code and page tables
 * in its registers. Every trap and the timer come back here; then the code goes
 * on behind the instruction, or anew elsewhere. All that is random comes from
 * seed, so that two engines do the same.
 *
 * In the 2 MiB at AREA a page table maps, by index:
 *	0 to 7 code, 8 to 15 data for S-mode; 16 to 31 the same for U-mode; 32, 33 leaf and leaf2
 * The second address space begins with code and data in another order.
 */
#define LEVELS 3
#include "test.h"
#include "paging.h"

#define CLINT 0x02000000
#define CODE 0
#define DATA 0x8000
#define USER 0x10000
#define TABLES 0x20000

/* RANDOM is the next number of the generator, its high bits the best. */
	.macro	RANDOM reg, tmp
	la	\tmp, seed
	ld	\reg, 0(\tmp)
	mul	\reg, \reg, s10
	add	\reg, \reg, s11
	sd	\reg, 0(\tmp)
	srli	\reg, \reg, 24
	.endm

/* BITS is n bits of a random number from bit at on, times 1 << shift. */
	.macro	BITS to, from, at, n, shift
	slli	\to, \from, 64-(\at)-(\n)
	srli	\to, \to, 64-(\n)
	slli	\to, \to, \shift
	.endm

main:
	paging_on
	PTE(t0, leaf2, V)		/* the second space: top4, top5 and leaf2 */
	la	t1, top5
	sd	t0, 0(t1)
	PTE(t0, top5, V)
	la	t1, top4
	sd	t0, 8*1(t1)
	li	t0, 0x80000000>>2|RWXAD
	sd	t0, 8*2(t1)
	la	t0, trap
	csrw	mtvec, t0
	li	t0, 0x82			/* MTIE, SSIE */
	csrw	mie, t0
	csrwi	mideleg, 2			/* SSIP */
	csrwi	mcounteren, 7
	csrwi	scounteren, 7
	jal	fill
	j	trap

/* fill writes both leaf tables as they are at first. */
fill:
	la	t0, leaf
	la	t1, leaf2
	la	t2, code
	srli	t2, t2, 2
	li	t3, 0
1:	andi	t4, t3, 15
	xori	t5, t4, 5			/* pages 0 and 5, 1 and 4, ... changed for each other */
	andi	t6, t3, 16			/* U */
	slli	t4, t4, 10
	slli	t5, t5, 10
	add	t4, t4, t2
	add	t5, t5, t2
	or	t4, t4, t6
	or	t5, t5, t6
	ori	t4, t4, RWXAD
	ori	t5, t5, V|R|W|X
	sd	t4, 0(t0)
	sd	t5, 0(t1)
	addi	t0, t0, 8
	addi	t1, t1, 8
	addi	t3, t3, 1
	li	t4, 32
	bne	t3, t4, 1b
	PTE(t4, leaf, V|R|W|A|D)
	sd	t4, 0(t0)
	sd	t4, 8(t1)
	PTE(t4, leaf2, V|R|W|A|D)
	sd	t4, 8(t0)
	sd	t4, 0(t1)
	ret

	.align	2
trap:
	li	s10, 6364136223846793005
	li	s11, 1442695040888963407
	RANDOM	t6, t5
	csrr	t4, mcause
	bltz	t4, anew			/* the timer */
	andi	t4, t4, ~(FETCH_ACCESS|FETCH_PAGE)
	beqz	t4, anew
	BITS	t5, t6, 13, 3, 0		/* in seven of eight, on behind the instruction */
	beqz	t5, anew
	csrr	t4, mepc
	BITS	t5, t6, 16, 1, 1
	add	t4, t4, t5
	addi	t4, t4, 2
	csrw	mepc, t4
	li	t4, 0x80			/* MPIE: the timer ends all */
	csrs	mstatus, t4
	BITS	t5, t6, 8, 2, 0
	bnez	t5, 1f
	jal	t5, edit
1:	mret

/* edit changes a page table entry. */
edit:
	RANDOM	t6, t4
	BITS	t4, t6, 0, 1, 12		/* leaf or leaf2 */
	BITS	t3, t6, 1, 5, 3			/* entry */
	add	t4, t4, t3
	la	t3, leaf
	add	t4, t4, t3
	BITS	t3, t6, 6, 4, 10		/* page */
	la	s9, code
	srli	s9, s9, 2
	add	t3, t3, s9
	BITS	s9, t6, 10, 4, 0		/* flags */
	la	t6, flags
	add	s9, s9, t6
	lbu	s9, 0(s9)
	or	t3, t3, s9
	sd	t3, 0(t4)
	jr	t5
anew:
	/* the timer, in 64 to 575 ticks */
	li	t5, CLINT+0xbff8
	ld	t4, 0(t5)
	BITS	t5, t6, 0, 9, 0
	add	t4, t4, t5
	addi	t4, t4, 64
	li	t5, CLINT+0x4000
	sd	t4, 0(t5)
	BITS	t5, t6, 10, 1, 0
	beqz	t5, 1f
	jal	t5, edit
	RANDOM	t6, t5
1:	/* in one of 16, all are as at first */
	BITS	t5, t6, 9, 4, 0
	bnez	t5, 1f
	jal	fill
	RANDOM	t6, t5
	BITS	t5, t6, 0, 1, 10		/* or the two tables are exchanged, a level up */
	PTE(t4, leaf, V)
	add	t4, t4, t5
	la	t5, middle
	sd	t4, 0(t5)
1:	RANDOM	t6, t5
	la	t0, giga
	BITS	t4, t6, 0, 1, 12
	add	t0, t0, t4
	srli	t0, t0, 12
	li	t4, 8<<60
	or	t0, t0, t4
	BITS	t4, t6, 20, 1, 44		/* of two ASIDs */
	BITS	t5, t6, 21, 2, 0
	bnez	t5, 1f
	or	t0, t0, t4
1:
	csrw	satp, t0
	li	t0, 3<<11|3<<17|3<<18|3<<13	/* MPP, MPRV, SUM, MXR, FS */
	csrc	mstatus, t0
	li	t0, 1<<13|0x80
	csrs	mstatus, t0
	BITS	t4, t6, 24, 5, 3		/* f registers, frm and FS */
	la	t5, floats
	add	t5, t5, t4
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	fld	f\n, 8*\n(t5)
	.endr
	BITS	t4, t6, 29, 2, 5
	csrw	fcsr, t4
	li	t4, 3<<13
	csrc	mstatus, t4
	BITS	t4, t6, 31, 2, 13
	csrs	mstatus, t4
	BITS	t0, t6, 1, 1, 18		/* SUM, MXR: in one of four */
	BITS	t1, t6, 2, 1, 19
	or	t0, t0, t1
	BITS	t1, t6, 3, 1, 0
	bnez	t1, 1f
	csrs	mstatus, t0
1:
	/* system calls and software interrupts go to random code of S-mode, which returns to U-mode or S-mode */
	RANDOM	t0, t5
	BITS	t1, t0, 0, 2, 0
	snez	t1, t1
	slli	t1, t1, 8			/* three times of four */
	csrw	medeleg, t1
	BITS	t1, t0, 2, 13, 2
	li	t2, AREA+CODE
	add	t2, t2, t1
	csrw	stvec, t2
	BITS	t1, t0, 15, 14, 1
	li	t2, AREA+USER+CODE
	add	t2, t2, t1
	csrw	sepc, t2
	BITS	t1, t0, 29, 1, 8		/* SPP */
	li	t2, 0x100
	csrc	mstatus, t2
	csrs	mstatus, t1
	csrwi	sip, 0

	/* s6: where code is, s7: where data is, s8: where tables are, by mode */
	BITS	t0, t6, 4, 3, 2
	la	t1, modes
	add	t1, t1, t0
	jr	t1
modes:
	j	machine
	j	modify
	j	alias
	j	supervisor
	j	supervisor
	j	supervisor
	j	user
	j	user
modify:	li	t0, 1<<17			/* MPRV: after mret to M, MPP is U */
	csrs	mstatus, t0
	la	s6, code
	li	s7, AREA+USER+DATA
	li	s8, AREA+USER
	j	2f
machine:
	la	s6, code
	la	s7, data
	la	s8, leaf
2:	li	t0, 3<<11
	csrs	mstatus, t0
	j	3f
alias:	la	s6, code			/* by the gigapage */
	la	s7, data
	la	s8, leaf
	j	2f
supervisor:
	li	s6, AREA+CODE
	li	s7, AREA+DATA
	li	s8, AREA+TABLES
2:	li	t0, 1<<11
	csrs	mstatus, t0
	j	3f
user:	li	s6, AREA+USER+CODE
	li	s7, AREA+USER+DATA
	li	s8, AREA+USER+CODE
3:
	BITS	t0, t6, 8, 3, 12		/* the page to begin in */
	BITS	t1, t6, 11, 5, 7
	BITS	t2, t6, 16, 3, 0
	bnez	t2, 1f
	BITS	t1, t6, 19, 11, 1		/* in one of eight, anywhere */
1:	add	t0, t0, t1
	add	t0, t0, s6
	csrw	mepc, t0
	addi	a2, t0, 64			/* code ahead */
	RANDOM	t6, t5
	BITS	t0, t6, 0, 12, 3
	add	sp, t0, s7			/* data, aligned */
	BITS	t0, t6, 3, 12, 3
	add	s1, t0, s7
	BITS	t0, t6, 12, 15, 0
	add	a0, t0, s7			/* data, anyhow */
	BITS	t0, t6, 15, 3, 12
	add	s0, t0, s7
	BITS	t0, t6, 18, 5, 0
	add	s0, s0, t0
	li	t0, 4096-24
	add	s0, s0, t0			/* data, near the end of a page */
	RANDOM	t6, t5
	BITS	t0, t6, 0, 12, 3
	add	a1, t0, s6			/* code */
	BITS	t0, t6, 4, 5, 3
	add	a3, t0, s8			/* page tables */
	BITS	t0, t6, 9, 2, 7			/* functions: of four in four pages */
	BITS	t1, t6, 11, 2, 12
	add	ra, t0, t1
	add	ra, ra, s6
	BITS	t0, t6, 13, 2, 7
	BITS	t1, t6, 15, 2, 12
	add	s2, t0, t1
	add	s2, s2, s6
	BITS	a5, t6, 20, 6, 0
	csrw	sscratch, t6
	RANDOM	t6, t5
	la	t5, edges
	.irp	reg, a4, a6, a7, s3, s4, s5, t0, t1, t2
	andi	t4, t6, 0x78
	srli	t6, t6, 4
	add	t4, t4, t5
	ld	\reg, 0(t4)
	.endr
	mret

	.section .data
	.align	3
	.globl	seed, code
seed:	.dword	1
edges:	.dword	0, 1, -1, 1<<63, (1<<63)-1, 1<<31, (1<<31)-1, -1<<31, 1<<32, (1<<32)-1, 31, 63, 64, -2, 0x8000, 0x0123456789abcdef
floats:	.rept	2				/* doubles, boxed singles, and what is both or neither */
	.dword	0, 1<<63, 0x3ff0000000000000, 0xbff8000000000000, 0x7ff0000000000000, 0xfff0000000000000
	.dword	0x7ff8000000000000, 0x7ff0000000000001, 0xfff8000000000123, 1, 0x800fffffffffffff, 0x0010000000000000
	.dword	0x7fefffffffffffff, 0x3fb999999999999a, 0x41dfffffffe00000, 0xc3e0000000000000, 0x43f0000000000000, 0x3fe0000000000000
	.dword	0x380fffffffffffff, 0x47efffffefffffff, 0x400921fb54442d18, 0xffffffff00000000, 0xffffffff80000000, 0xffffffff3f800000
	.dword	0xffffffffbfc00000, 0xffffffff7f800000, 0xffffffff7f800001, 0xffffffff7fc00000, 0xffffffff00000001, 0xffffffff3dcccccd
	.dword	0xffffffff4f000000, 0xfffffffe3f800000
	.endr
flags:	.byte	RWXAD, RWXAD, RWXAD|U, RWXAD|U, RWXAD, RWXAD|U, V|R|X|A, V|R|X|A|U
	.byte	V|R|W|X, V|R|W|X|U, V|R|W|A, V|X|A, V|X|A|U, 0, V|R|U, V|R|W|X|A
	.section .text
	.align	16
code:	.zero	4096*8
data:	.zero	4096*8

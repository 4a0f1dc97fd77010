/* SPDX-License-Identifier: Apache-2.0
 *
 * Floating point and what surrounds it, many times over in S-mode: mstatus.FS
 * that turns it off and notes writes, frm, fflags, and boxed singles. A unit may
 * see FS change in its midst, so checks are few and instructions follow closely.
 */
#include "test.h"

#define FS (3<<13)
#define OFF 0
#define INITIAL (1<<13)
#define CLEAN (2<<13)
#define DIRTY FS
#define NX 1
#define UF 2
#define DZ 8
#define NV 16

/* TURN sets FS; LEFT checks what it has become, and SD with it. */
#define TURN(fs) li t0, FS; csrc sstatus, t0; li t0, fs; csrs sstatus, t0;
#define LEFT(fs, sd) csrr t0, sstatus; srli t1, t0, 63; CHECK(t1, sd); li t1, FS; and t0, t0, t1; CHECK(t0, fs)
/* FLAGS checks and clears fflags. */
#define FLAGS(flags) fsflags t0, zero; CHECK(t0, flags)
#define BITS(reg, value) fmv.x.d t0, reg; CHECK(t0, value)

main:
	li	s9, 20
	TO_S
1:
	/* Off within a unit that has computed. */
	TURN(DIRTY)
	li	t0, 3
	fcvt.d.w ft0, t0
	fcvt.d.w ft1, zero
	csrwi	fcsr, 0
	fadd.d	ft2, ft0, ft0
	fdiv.d	ft3, ft0, ft1		/* 3/0 */
	li	t0, FS
	li	t1, INITIAL
	TRAPS(ILLEGAL, csrc sstatus, t0; fadd.d ft2, ft2, ft0)
	TRAPS(ILLEGAL, fmv.x.d a0, ft2)
	la	a1, area
	TRAPS(ILLEGAL, fld ft2, 0(a1))
	TRAPS(ILLEGAL, fsd ft2, 0(a1))
	TRAPS(ILLEGAL, csrs sstatus, t0; fadd.d ft2, ft2, ft0; csrc sstatus, t0; fsgnj.d ft2, ft0, ft0)
	TRAPS(ILLEGAL, csrr a0, fflags)
	TURN(CLEAN)
	BITS(ft2, 0x4022000000000000)	/* 9 */
	csrr	a0, fflags
	CHECK(a0, DZ)			/* through off and on */
	LEFT(CLEAN, 0)

	/* Rounding modes that do not exist, whether or not something is rounded. */
	TURN(DIRTY)
	fadd.d	ft2, ft2, ft1
	TRAPS(ILLEGAL, .word 0xd2005053)
	TRAPS(ILLEGAL, .word 0xd2106053)
	TRAPS(ILLEGAL, .word 0x42005053)
	TRAPS(ILLEGAL, .word 0xc2206053)
	TRAPS(ILLEGAL, .word 0xc2005053)
	TRAPS(ILLEGAL, .word 0x2105053)
	TRAPS(ILLEGAL, .word 0xd0206053)
	TURN(CLEAN)

	/* What writes is noted, and nothing else. */
	la	a1, area
	fsd	ft2, 0(a1)
	feq.d	a0, ft2, ft2
	fcvt.w.d a0, ft2
	CHECK(a0, 9)
	LEFT(CLEAN, 0)
	fmul.d	ft4, ft0, ft0
	LEFT(DIRTY, 1)
	TURN(INITIAL)
	fld	ft4, 0(a1)
	LEFT(DIRTY, 1)
	TURN(CLEAN)
	fmv.d.x	ft4, zero
	LEFT(DIRTY, 1)
	TURN(INITIAL)
	flt.d	a0, ft0, ft1
	LEFT(INITIAL, 0)
	csrwi	fflags, 0
	TURN(CLEAN)
	li	t2, 0x7ff0000000000001
	TURN(DIRTY)
	fmv.d.x	ft5, t2
	TURN(CLEAN)
	feq.d	a0, ft5, ft5		/* of a signaling NaN: the flag alone */
	LEFT(DIRTY, 1)

	/* The mode of frm, of the instruction, and one that there isn't. */
	TURN(DIRTY)
	li	t0, 1
	fcvt.d.w ft5, t0
	fsrmi	3			/* up */
	fdiv.d	ft6, ft5, ft0
	fsrmi	2			/* down */
	fdiv.d	ft7, ft5, ft0
	fdiv.d	fa0, ft5, ft0, rup
	fdiv.d	fa1, ft5, ft0, rmm
	fsrmi	4			/* to nearest, ties away */
	fdiv.d	fa2, ft5, ft0
	BITS(ft6, 0x3fd5555555555556)
	BITS(ft7, 0x3fd5555555555555)
	BITS(fa0, 0x3fd5555555555556)
	BITS(fa1, 0x3fd5555555555555)
	BITS(fa2, 0x3fd5555555555555)
	fsrmi	5
	TRAPS(ILLEGAL, fadd.d fa2, ft5, ft5)
	TRAPS(ILLEGAL, .word 0xd2057653)	/* fcvt.d.w fa2, a0, exact but in mode dyn */
	OK(fadd.d fa2, ft5, ft5, rtz; fmin.d fa2, fa2, ft5)
	fsrmi	0

	/* Flags of one entry add to those of another. */
	fsflags	zero
	fdiv.d	fa2, ft5, ft0
	frflags	a0
	CHECK(a0, NX)
	fsub.d	fa2, ft5, ft5
	fdiv.d	fa2, fa2, fa2		/* 0/0 */
	BITS(fa2, 0x7ff8000000000000)
	frflags	a0
	CHECK(a0, NX|NV)

	/* Singles in a box and without. */
	fcvt.s.d fa3, ft0
	fadd.s	fa3, fa3, fa3
	fadd.d	fa4, ft0, ft0
	fmv.d	fa3, fa4
	fadd.s	fa3, fa3, fa3		/* of a double */
	BITS(fa3, 0xffffffff7fc00000)
	fsw	fa4, 0(a1)
	flw	fa4, 0(a1)
	BITS(fa4, 0xffffffff00000000)

	/* Registers that are computed, moved to and used in a row. */
	fadd.d	fa3, ft0, ft0
	fmv.d.x	fa3, zero
	fadd.d	fa3, fa3, ft0
	BITS(fa3, 0x4008000000000000)	/* 3 */
	fadd.d	fa4, ft0, ft0
	fsgnjn.d fa4, ft0, ft7
	fadd.d	fa4, fa4, ft0
	BITS(fa4, 0)

	/* Tiny or not is seen after rounding (Unpriv. 20.3). */
	li	t2, 0x1e30000000000000		/* 2^-540 */
	fmv.d.x	fa5, t2
	li	t2, 0x0010000000000000		/* 2^-1022, the least normal number */
	fmv.d.x	fa6, t2
	li	t2, 0x3fefffffffffffff		/* 1 - 2^-53 */
	fmv.d.x	fa7, t2
	fsflags	zero
	fnmsub.d fa4, fa5, fa5, fa6		/* 2^-1022 - 2^-1080, rounded up to 2^-1022 */
	BITS(fa4, 0x0010000000000000)
	FLAGS(NX)
	fsrmi	2
	fnmsub.d fa4, fa5, fa5, fa6
	fsrmi	0
	BITS(fa4, 0x000fffffffffffff)
	FLAGS(UF|NX)
	fmul.d	fa4, fa6, fa7			/* to 2^-1022 from a number that is none with more exponents */
	BITS(fa4, 0x0010000000000000)
	FLAGS(UF|NX)
	fmul.d	fa4, fa6, fa6
	BITS(fa4, 0)
	FLAGS(UF|NX)
	fmul.d	fa4, fa6, ft7
	FLAGS(UF|NX)
	fdiv.d	fa4, fa6, ft0
	fnmsub.d fa4, fa5, fa5, fa6
	FLAGS(UF|NX)				/* of the quotient, in the same unit */
	fnmsub.d fa4, fa5, fa5, fa6
	fnmsub.d fa4, fa5, fa5, fa6
	fadd.d	fa4, fa4, fa4
	fsub.d	fa4, fa6, fa6
	FLAGS(NX)
	li	t2, 0x380ffffffff80000		/* 2^-126 - 2^-160 */
	fmv.d.x	fa5, t2
	fcvt.s.d fa4, fa5
	BITS(fa4, 0xffffffff00800000)
	FLAGS(NX)
	li	t2, 0x3f7fffff
	fmv.w.x	fa5, t2
	fmul.s	fa4, fa4, fa5
	BITS(fa4, 0xffffffff00800000)
	FLAGS(UF|NX)
	fdiv.s	fa4, fa4, fa4
	FLAGS(0)

	/* Over the end of a page. */
	la	a2, area + 4096 - 4
	fsd	ft6, 0(a2)
	fld	fa5, 0(a2)
	BITS(fa5, 0x3fd5555555555556)
	flw	fa5, 2(a2)
	lw	a3, 2(a2)
	fmv.x.w	a4, fa5
	SAME(a3, a4)

	addi	s9, s9, -1
	bnez	s9, 1b
	DONE

	.section .bss
	.align	12
area:	.zero	8192
	.section .text

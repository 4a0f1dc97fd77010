/* SPDX-License-Identifier: Apache-2.0
 *
 * Exceptions and what they report, delegation, and what S and U may not do.
 */
#include "test.h"

#define TVM (1<<20)
#define TW (1<<21)
#define TSR (1<<22)
#define FS (3<<13)

main:
	/* tval of an illegal instruction is the instruction; of a compressed one its half. */
	TRAPS(ILLEGAL, .word 0xdeadbeff)
	CHECK(s3, 0xdeadbeff)
	TRAPS(ILLEGAL, .word 0)
	CHECK(s3, 0)
	la	s11, 4f
	.option	rvc
	.balign	4
3:	.half	0x6101, 0x1234			/* c.addi16sp of 0 */
	.option	norvc
4:	CHECK(s2, ILLEGAL)
	CHECK(s3, 0x6101)
	TRAPS(ILLEGAL, csrr a0, 0x5c0)
	CHECK(s3, 0x5c002573)
	TRAPS(ILLEGAL, csrw mhartid, a0)
	CHECK(s3, 0xf1451073)
	OK(csrr a0, mhartid)
	TRAPS(ILLEGAL, csrw 0xc00, zero)
	TRAPS(BREAKPOINT, ebreak)
	TVAL(s4)

	/* Misaligned: loads and stores are done, atomics are not. */
	la	s0, data
	addi	a1, s0, 1
	OK(ld a0, 1(s0))
	OK(sw a0, 1(s0))
	TRAPS(LOAD_MISALIGNED, lr.w a0, (a1)) TVAL(a1)
	TRAPS(STORE_MISALIGNED, sc.w a0, a0, (a1)) TVAL(a1)
	TRAPS(STORE_MISALIGNED, amoswap.d a0, a0, (a1)) TVAL(a1)

	/* Nothing there, or a device where an atomic or a misaligned access is not possible. */
	TRAPS(LOAD_ACCESS, ld a0, 0(zero)) CHECK(s3, 0)
	li	a1, 0x10000000
	OK(lb a0, 0(a1))
	TRAPS(STORE_ACCESS, amoadd.w a0, a0, (a1)) TVAL(a1)
	li	a1, 0x0200bff9
	TRAPS(LOAD_ACCESS, ld a0, 0(a1)) TVAL(a1)
	li	a1, 0x40
	TRAPS(FETCH_ACCESS, jalr a1) TVAL(a1)
	SAME(s4, a1)
	li	a1, 1<<63
	TRAPS(FETCH_ACCESS, jalr a1) TVAL(a1)

	/* FS off: every floating-point instruction and CSR is illegal, and changes nothing. */
	li	t0, FS
	csrc	mstatus, t0
	.macro	no_float
	TRAPS(ILLEGAL, fadd.s ft0, ft1, ft2, rne)
	CHECK(s3, 0x00208053)
	TRAPS(ILLEGAL, fld ft0, 0(s0))
	TRAPS(ILLEGAL, fsw ft0, 0(s0))
	TRAPS(ILLEGAL, fmv.x.d a0, ft0)
	TRAPS(ILLEGAL, frcsr a0)
	TRAPS(ILLEGAL, fsflags a0)
	TRAPS(ILLEGAL, fld ft0, 0(zero))
	.endm
	no_float
	csrr	t0, mstatus
	li	t1, FS
	and	t0, t0, t1
	CHECK(t0, 0)

	/* FS clean becomes dirty by a write, not by a read. */
	.macro	fs_clean
	li	t0, FS
	csrc	mstatus, t0
	li	t0, 2<<13
	csrs	mstatus, t0
	.endm
	.macro	fs_is, want
	csrr	t0, mstatus
	srli	t1, t0, 13
	andi	t1, t1, 3
	CHECK(t1, \want)
	srli	t0, t0, 63
	CHECK(t0, \want/3)
	.endm
	fs_clean
	fs_is	2
	fmv.x.d	a0, ft0
	fsd	ft0, 0(s0)
	frcsr	a0
	feq.d	a0, ft0, ft0
	fs_is	2
	fld	ft0, 0(s0)
	fs_is	3
	fs_clean
	fsflagsi 0
	fs_is	3
	fs_clean
	fmv.d.x	ft1, zero
	fs_is	3
	fsflagsi 0
	fs_clean
	li	t0, 0x7ff0000000000001
	sd	t0, 0(s0)
	fld	ft0, 0(s0)
	fs_clean
	feq.d	a0, ft0, ft0			/* raises a flag */
	fs_is	3
	fs_clean
	fdiv.d	ft2, ft1, ft1
	fs_is	3
	fsrmi	5				/* no such mode: dynamic rounding is illegal */
	TRAPS(ILLEGAL, fadd.d ft0, ft0, ft0)
	OK(fadd.d ft0, ft0, ft0, rtz)
	OK(fsgnj.d ft0, ft0, ft0)
	fsrmi	0

	/* MPP holds modes that exist, xRET goes to the lowest one next. */
	li	t0, 3<<11
	csrs	mstatus, t0
	li	t0, 1<<12
	csrr	t1, mstatus
	xor	t2, t1, t0
	li	t0, 1<<11
	xor	t0, t1, t0			/* MPP 2 */
	csrw	mstatus, t0
	csrr	t2, mstatus
	SAME(t1, t2)

	/* U and S may not. */
	TO_U
	TRAPS(ILLEGAL, wfi)
	TRAPS(ILLEGAL, sret)
	TRAPS(ILLEGAL, mret)
	TRAPS(ILLEGAL, sfence.vma)
	TRAPS(ILLEGAL, sinval.vma zero, zero)
	TRAPS(ILLEGAL, sfence.w.inval)
	TRAPS(ILLEGAL, sfence.inval.ir)
	TRAPS(ILLEGAL, csrr a0, sstatus)
	TRAPS(ILLEGAL, csrr a0, satp)
	TRAPS(ILLEGAL, csrr a0, mstatus)
	TRAPS(ILLEGAL, cbo.zero (s0))
	TRAPS(ILLEGAL, cbo.clean (s0))
	TRAPS(ILLEGAL, cbo.inval (s0))
	OK(wrs.nto)
	OK(wrs.sto)
	OK(fence.i)
	TO_M
	TO_S
	TRAPS(ILLEGAL, mret)
	TRAPS(ILLEGAL, csrr a0, mstatus)
	TRAPS(ILLEGAL, csrr a0, stimecmp)
	OK(csrr a0, satp)
	OK(sfence.vma)
	OK(sinval.vma zero, zero)
	OK(sfence.w.inval)
	TRAPS(ILLEGAL, cbo.zero (s0))
	TO_M
	li	t0, TVM|TW|TSR
	csrs	mstatus, t0
	TO_S
	TRAPS(ILLEGAL, csrr a0, satp)
	TRAPS(ILLEGAL, csrw satp, a0)
	TRAPS(ILLEGAL, sfence.vma)
	TRAPS(ILLEGAL, sinval.vma zero, zero)
	OK(sfence.w.inval)
	TRAPS(ILLEGAL, sret)
	TRAPS(ILLEGAL, wfi)
	TO_M
	OK(csrr a0, satp)
	OK(sfence.vma)
	li	t0, TVM|TW|TSR
	csrc	mstatus, t0

	/* Cache blocks by menvcfg and senvcfg; 2 is no value of CBIE. */
	li	t0, 0xf0
	csrw	menvcfg, t0
	TO_S
	OK(cbo.zero (s0))
	OK(cbo.clean (s0))
	OK(cbo.flush (s0))
	OK(cbo.inval (s0))
	ld	a0, 0(s0)
	CHECK(a0, 0)
	TO_M
	TO_U
	TRAPS(ILLEGAL, cbo.zero (s0))
	TO_M
	li	t0, 0xe0
	csrw	senvcfg, t0
	csrr	t0, senvcfg
	CHECK(t0, 0xc0)
	TO_U
	OK(cbo.zero (s0))
	OK(cbo.flush (s0))
	TRAPS(ILLEGAL, cbo.inval (s0))
	TRAPS(STORE_ACCESS, cbo.zero (zero)) CHECK(s3, 0)
	TO_M

	/* Delegated to S: from U and S, not from M. */
	la	t0, shandler
	csrw	stvec, t0
	li	t0, -1
	csrw	medeleg, t0
	csrr	t0, medeleg
	CHECK(t0, 0xb3ff)
	li	t0, 1<<ILLEGAL|1<<8
	csrw	medeleg, t0
	li	s5, 0
	TRAPS(ILLEGAL, .word 0xdeadbeff)	/* M's own */
	CHECK(s5, 0)
	TO_S
	li	s5, 0
	la	s11, 1f
	li	s2, -1
	.word	0xdeadbeff
1:	CHECK(s2, -1)
	CHECK(s5, ILLEGAL)
	CHECK(s6, 0xdeadbeff)
	CHECK(s7, 0x100)			/* SPP: from S */
	TRAPS(BREAKPOINT, ebreak)		/* not delegated */
	li	s5, 0
	la	s11, 1f				/* to U by sret, back by ecall */
	csrw	sepc, s11
	li	t0, 0x100
	csrc	sstatus, t0
	li	t0, 0x20			/* SPIE */
	csrs	sstatus, t0
	sret
1:	la	s11, 2f
	ecall
2:	CHECK(s5, 8)
	CHECK(s7, 0)
	la	s11, 3f
	csrr	a0, scause			/* U: illegal, to S again, which stays in S */
3:	CHECK(s5, ILLEGAL)
	DONE

	/* S-mode's handler: cause, tval and SPP in s5, s6 and s7; goes on at s11 in the
	   mode that trapped. */
	.align	2
shandler:
	csrr	s5, scause
	csrr	s6, stval
	csrr	s7, sstatus
	andi	s7, s7, 0x100
	csrw	sepc, s11
	sret

	.section .bss
	.align	6
data:	.zero	64

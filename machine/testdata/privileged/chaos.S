/* SPDX-License-Identifier: Apache-2.0
 *
 * Harts that for ever do at random what could show a cache, an engine or the
 * place where a run was cut: loads and stores through page tables that both
 * edit, atomics, code that changes, interrupts, waits, floating point, counters.
 * s0 is the random state, s3 what was seen.
 */
#define LEVELS 3
#include "test.h"
#include "paging.h"

#define CLINT 0x02000000
#define RTC 0x00101000

main:
	csrr	s9, mhartid
	bnez	s9, 1f
	paging_on
	li	t0, V|R|W|A|D			/* devices one to one */
	la	t1, giga
	sd	t0, 0(t1)
	SETPTE(8, code, V|R|X|A|D)
	la	t0, ready
	li	t1, 1
	sd	t1, 0(t0)
1:	la	t0, ready
	ld	t0, 0(t0)
	beqz	t0, 1b
	SATP(t0, giga)
	csrw	satp, t0
	la	t0, trap
	csrw	mtvec, t0
	la	t0, save
	slli	t1, s9, 6
	add	t0, t0, t1
	csrw	mscratch, t0
	li	t0, 0x88			/* MTIE, MSIE */
	csrw	mie, t0
	csrwi	mcounteren, 7
	addi	s0, s9, 12
	li	s10, 6364136223846793005
	li	s11, 1442695040888963407
	li	s3, 0
	fmv.d.x	fs0, zero
	li	t0, 0x3ff8000000000000
	fmv.d.x	fs1, t0
	TO_S

next:
	mul	s0, s0, s10
	add	s0, s0, s11
	srli	a0, s0, 59			/* one of 32, some of them alike */
	srli	a1, s0, 30
	li	t0, 0x7fff
	and	a2, a1, t0			/* an address in the area, of any alignment */
	li	t0, AREA
	add	a2, a2, t0
	la	t0, table
	slli	a0, a0, 2
	add	t0, t0, a0
	jr	t0
table:
	j	load
	j	load
	j	load
	j	store
	j	store
	j	store
	j	byte
	j	byte
	j	amo
	j	amo
	j	lrsc
	j	lrsc
	j	edit
	j	edit
	j	call
	j	call
	j	patch
	j	pauses
	j	ipi
	j	waits
	j	float
	j	float
	j	count
	j	count
	j	timer
	j	alarm
	j	alarm
	j	space
	j	loop
	j	loop
	j	across
	j	across

load:	ld	t0, 0(a2)
	add	s3, s3, t0
	lw	t0, 4(a2)
	xor	s3, s3, t0
	j	next
store:	sd	s3, 0(a2)
	sh	s0, 6(a2)
	j	next
byte:	lbu	t0, 0(a2)
	add	s3, s3, t0
	sb	s3, 1(a2)
	j	next
amo:	la	t0, shared
	andi	t1, a1, 56
	add	t0, t0, t1
	amoadd.d t1, s3, (t0)
	amoxor.w t1, t1, (t0)
	andi	a2, a2, -8
	amomaxu.d t1, s3, (a2)
	add	s3, s3, t1
	j	next
lrsc:	la	t0, shared
	lr.d	t1, (t0)
	add	t1, t1, s3
	sc.d	t2, t1, (t0)
	add	s3, s3, t2
	j	next
edit:	andi	t0, a1, 7			/* entry 0 to 7 */
	la	t1, leaf
	slli	t0, t0, 3
	add	t1, t1, t0
	srli	t0, a1, 3
	andi	t0, t0, 3			/* page A to D */
	slli	t0, t0, 12
	la	t2, pages
	add	t2, t2, t0
	srli	t2, t2, 2
	srli	t0, a1, 5
	andi	t0, t0, 7
	la	t3, flags
	add	t3, t3, t0
	lbu	t0, 0(t3)
	or	t2, t2, t0
	sd	t2, 0(t1)
	j	next
call:	li	t0, AREA+0x8000
	jalr	t0
	j	next
patch:	la	t0, code
	andi	t1, a1, 0x7f
	slli	t1, t1, 20
	li	t2, 0x00098993			/* addi s3, s3, 0 */
	or	t1, t1, t2
	sw	t1, 4(t0)
	j	call
pauses:	.word	0x0100000f
	wrs.sto
	j	next
ipi:	xori	t0, s9, 1
	slli	t0, t0, 2
	li	t1, CLINT
	add	t0, t0, t1
	li	t1, 1
	sw	t1, 0(t0)
	j	next
waits:	wfi
	j	next
float:	fcvt.d.l ft0, s3
	fmadd.d	fs0, fs0, fs1, ft0
	fdiv.s	ft1, fs0, ft0
	fmv.x.w	t0, ft1
	frflags	t1
	add	s3, s3, t1
	j	next
count:	rdtime	t0
	rdinstret t1
	rdcycle	t2
	add	s3, s3, t0
	xor	s3, s3, t1
	add	s3, s3, t2
	j	next
timer:	andi	t0, a1, 255
	rdtime	t1
	add	t0, t0, t1
	li	t1, CLINT+0x4000
	slli	t2, s9, 3
	add	t1, t1, t2
	sd	t0, 0(t1)
	j	next
alarm:	li	t0, RTC
	lwu	t1, 0(t0)
	lwu	t2, 4(t0)
	add	s3, s3, t1
	lw	t3, 0x18(t0)			/* still armed? */
	slli	t3, t3, 32
	add	s3, s3, t3
	srli	t3, s3, 60
	bnez	t3, next
	li	t3, 0x3fff
	and	t3, t3, a1
	add	t1, t1, t3
	sw	t2, 0xc(t0)
	sw	t1, 8(t0)
	j	next
space:	csrr	t0, satp
	li	t1, 1<<44
	xor	t0, t0, t1
	csrw	satp, t0
	j	next
loop:	andi	t0, a1, 15
1:	addi	t0, t0, -1
	mul	s3, s3, s10
	andi	t1, s3, 1
	beqz	t1, 2f
	xori	s3, s3, 21
2:	bgtz	t0, 1b
	j	next
across:	li	t0, 0xfff
	or	a2, a2, t0
	andi	t0, a1, 7
	sub	a2, a2, t0
	sd	s3, 0(a2)
	ld	t0, 0(a2)
	add	s3, s3, t0
	j	next

/* Page faults are skipped and counted; the timer and IPIs go on. */
	.align	2
trap:
	csrrw	t5, mscratch, t5
	sd	t6, 0(t5)
	csrr	t6, mcause
	bltz	t6, 1f
	csrr	t6, mepc
	addi	t6, t6, 4
	csrw	mepc, t6
	ld	t6, 8(t5)
	addi	t6, t6, 1
	sd	t6, 8(t5)
	j	3f
1:	sd	t4, 16(t5)
	andi	t6, t6, 4
	bnez	t6, 2f
	slli	t6, s9, 2			/* software: clear msip */
	li	t4, CLINT
	add	t6, t6, t4
	sw	zero, 0(t6)
	ld	t4, 16(t5)
	j	3f
2:	csrr	t6, time			/* timer: again in 100 to 355 ticks */
	andi	t4, s3, 255
	add	t6, t6, t4
	addi	t6, t6, 100
	sd	t6, 24(t5)
	li	t4, CLINT+0x4000
	slli	t6, s9, 3
	add	t4, t4, t6
	ld	t6, 24(t5)
	sd	t6, 0(t4)
	ld	t4, 16(t5)
3:	ld	t6, 0(t5)
	csrrw	t5, mscratch, t5
	mret

	.section .data
	.align	3
ready:	.dword	0
shared:	.zero	64
flags:	.byte	RWXAD, RWXAD, V|R|W, V|R|W, V|R|A, 0, V|R|W|A, V|R|W|A|D
	.align	6
save:	.zero	64*4
	.section .bss
	.align	12
pages:	.zero	4096*4
	.section .text
	.align	12
code:	addi	s3, s3, 1
	addi	s3, s3, 2
	ret
	.align	12

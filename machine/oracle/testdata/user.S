# SPDX-License-Identifier: Apache-2.0
#
# Executes cases: loads x1-x30, f0-f31 and fcsr, jumps to the instructions of
# the case, which end by a jump to x31, and stores all of it with the scratch
# memory. The same code runs as a process of QEMU (_start, cases from standard
# input, results to standard output) and on a bare hart (bare, cases in memory
# already). The sections .cases and .results are placed by the linker's command line.

.equ CASE, 8*(32+32+1) + 4*24   # x, f, fcsr, instructions
.equ RESULT, 8*(32+32+1) + 128  # x, f, fcsr, scratch

.option norvc
.section .text
.globl _start, bare
_start:
	la	s0, cases
	mv	s1, s0
1:	li	a0, 0
	mv	a1, s1
	li	a2, 1<<20
	li	a7, 63			# read
	ecall
	add	s1, s1, a0
	bgtz	a0, 1b
	call	run
	la	a1, results
2:	sub	a2, s0, a1
	beqz	a2, 3f
	li	a0, 1
	li	a7, 64			# write
	ecall
	add	a1, a1, a0
	bgtz	a0, 2b
3:	li	a0, 0
	li	a7, 93			# exit
	ecall

bare:
	li	t0, 3<<13		# mstatus.FS
	csrs	mstatus, t0
	call	run
	li	t0, 1
	la	t1, tohost
	sd	t0, 0(t1)
4:	j	4b

# run executes all cases and returns the end of the results in s0.
run:
	la	s0, state
	sd	ra, 0(s0)
	la	t0, results
	sd	t0, 8(s0)
	la	t0, cases
	ld	t1, 0(t0)
	sd	t1, 16(s0)		# cases to go
	addi	t0, t0, 8
	sd	t0, 24(s0)
next:
	la	x31, state
	ld	t0, 16(x31)
	beqz	t0, finish
	addi	t0, t0, -1
	sd	t0, 16(x31)
	ld	x31, 24(x31)
	ld	t0, 8*64(x31)
	fscsr	t0
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	fld	f\n, 8*(32+\n)(x31)
	.endr
	la	x1, state
	addi	x2, x31, 8*65		# the instructions
	sd	x2, 32(x1)
	.irp	n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
	ld	x\n, 8*\n(x31)
	.endr
	.word	0x0100000f		# pause: on our hart a turn begins
	la	x31, state
	ld	x31, 32(x31)
	jalr	x31, x31, 0		# the case returns to x31 as it finds it
	j	done

done:
	la	x31, state
	ld	x31, 8(x31)
	.irp	n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
	sd	x\n, 8*\n(x31)
	.endr
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	fsd	f\n, 8*(32+\n)(x31)
	.endr
	frcsr	t0
	sd	t0, 8*64(x31)
	sd	zero, 0(x31)
	la	t1, scratch
	li	t2, 16
5:	ld	t0, 0(t1)
	sd	t0, 8*65(x31)
	addi	t1, t1, 8
	addi	x31, x31, 8
	addi	t2, t2, -1
	bnez	t2, 5b
	la	t0, state
	ld	t1, 8(t0)
	addi	t1, t1, RESULT
	sd	t1, 8(t0)
	ld	t1, 24(t0)
	addi	t1, t1, CASE
	sd	t1, 24(t0)
	j	next

finish:
	ld	s0, 8(x31)
	ld	ra, 0(x31)
	ret

.section .data
.align	12
state:	.zero	64
.globl cases, results, scratch, tohost
.align	12
	.zero	64
scratch: .zero	128
	.zero	64
.align	12
tohost:	.dword	0

.section .cases, "awx", @nobits
cases:	.zero	24<<20
.section .results, "aw", @nobits
results: .zero	24<<20

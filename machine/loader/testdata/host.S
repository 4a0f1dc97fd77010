# SPDX-License-Identifier: Apache-2.0
#
# Prints "ok\n" byte by byte and by a write system call, leaves a signature and
# ends as test 7 failed.
	.globl	_start, tohost, fromhost, begin_signature, end_signature
_start:
	la	s0, tohost
	la	s1, fromhost
	la	s2, text
1:	lbu	a0, 0(s2)
	beqz	a0, 2f
	li	t0, 0x0101			# device 1, command 1
	slli	t0, t0, 48
	or	a0, a0, t0
	sd	a0, 0(s0)
	addi	s2, s2, 1
	j	1b
2:	la	a0, call
	la	t0, text
	sd	t0, 16(a0)
	sd	zero, 0(s1)
	sd	a0, 0(s0)
3:	ld	t0, 0(s1)
	beqz	t0, 3b
	ld	t0, 0(a0)			# the number of bytes written
	la	t1, begin_signature
	sd	t0, 0(t1)
	li	t0, 0x1122334455667788
	sd	t0, 8(t1)
	li	t0, 7<<1|1
	sw	t0, 0(s0)
	sw	zero, 4(s0)
4:	j	4b
	.data
text:	.asciz	"ok\n"
	.align	3
call:	.dword	64, 1, 0, 3
	.align	4
begin_signature: .dword 0, 0
end_signature:
	.align	6
tohost:	.dword	0
fromhost: .dword 0

/* SPDX-License-Identifier: Apache-2.0
 *
 * What the programs of this directory share. Each begins at main in M-mode and
 * ends by DONE; a check that fails leaves its line, the value found and the one
 * expected in failed.
 *
 * Traps go to M-mode, where the handler leaves mcause, mtval and mepc in s2, s3
 * and s4 and goes on at s11 in the mode that trapped; an ecall goes on behind
 * itself in M-mode, and so does an interrupt, at s11 with MIE clear. t5, t6 and s2 to s4 are the handler's, s11 is PROBE's.
 */
#define CHECK(reg, value) \
	li t6, value; beq reg, t6, 77f; mv t5, reg; li a0, __LINE__; j fail; 77:
#define SAME(reg, other) \
	beq reg, other, 77f; mv t5, reg; mv t6, other; li a0, __LINE__; j fail; 77:

/* PROBE executes an instruction that may trap; s2 is -1 where it did not. */
#define PROBE(...) la s11, 78f; li s2, -1; __VA_ARGS__; 78:
#define OK(...) PROBE(__VA_ARGS__) CHECK(s2, -1)
#define TRAPS(cause, ...) PROBE(__VA_ARGS__) CHECK(s2, cause)
#define TVAL(reg) SAME(s3, reg)

/* Changes of mode; the next instruction is the first in it. */
#define TO_MODE(mpp) \
	li t5, 3<<11; csrc mstatus, t5; li t5, mpp<<11; csrs mstatus, t5; la t5, 79f; csrw mepc, t5; mret; 79:
#define TO_S TO_MODE(1)
#define TO_U TO_MODE(0)
#define TO_M ecall

#define DONE j pass

#define FETCH_ACCESS 1
#define ILLEGAL 2
#define BREAKPOINT 3
#define LOAD_MISALIGNED 4
#define LOAD_ACCESS 5
#define STORE_MISALIGNED 6
#define STORE_ACCESS 7
#define FETCH_PAGE 12
#define LOAD_PAGE 13
#define STORE_PAGE 15

/* Page table entries. */
#define V 1
#define R 2
#define W 4
#define X 8
#define U 16
#define A 64
#define D 128
#define RWXAD (V|R|W|X|A|D)

	.option arch, +zicsr, +svinval, +zawrs
	.option norvc
	.section .text
	.globl _start
_start:
	la	t0, handler
	csrw	mtvec, t0
	li	t0, 3<<13
	csrs	mstatus, t0
	li	t0, -1			/* all of memory is open to S and U */
	csrw	pmpaddr15, t0
	li	t0, 0x1f
	slli	t0, t0, 56
	csrw	pmpcfg2, t0
	j	main

	.align	2
handler:
	csrr	t5, mcause
	addi	t6, t5, -8
	beqz	t6, 1f
	addi	t6, t5, -9
	beqz	t6, 1f
	addi	t6, t5, -11
	beqz	t6, 1f
	mv	s2, t5
	csrr	s3, mtval
	csrr	s4, mepc
	csrw	mepc, s11
	bltz	t5, 2f
	mret
2:	li	t6, 0x80			/* MPIE */
	csrc	mstatus, t6
	li	t6, 3<<11
	csrs	mstatus, t6
	mret
1:	csrr	t6, mepc
	addi	t6, t6, 4
	csrw	mepc, t6
	li	t6, 3<<11
	csrs	mstatus, t6
	mret

fail:
	la	a1, failed
	sd	a0, 0(a1)
	sd	t5, 8(a1)
	sd	t6, 16(a1)
	ecall				/* in M-mode from here, wherever we were */
	li	a0, 3
	j	1f
pass:
	li	a0, 1
1:	la	a1, tohost
	sd	a0, 0(a1)
2:	j	2b

	.section .data
	.globl tohost, failed
	.align	12
tohost:	.dword	0
	.align	12
failed:	.dword	0, 0, 0
	.section .text

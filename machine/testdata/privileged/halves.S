/* SPDX-License-Identifier: Apache-2.0
 *
 * Two address spaces whose upper halves are the same, for a time: what is cached of
 * one may serve the other only as long as they are. Code runs in the lower half, in a
 * gigapage; the first gigabyte of the upper half has data, by leaf, in both.
 */
#include "test.h"
#include "paging.h"

#define HIGH -(1<<(LEVELS*9+11))	/* the lowest address of the upper half */
#define UPPER 8*256			/* its entry in a root */
#define HAS(value) ld a0, 0(s0); CHECK(a0, value)
#define USE(space) csrw satp, space

main:
	paging_on			/* the first space: ROOT */
	la	t0, pageA
	li	t1, 0xa
	sd	t1, 0(t0)
	la	t0, pageB
	li	t1, 0xb
	sd	t1, 0(t0)
	la	t0, pageC
	li	t1, 0xc
	sd	t1, 0(t0)
	PTE(t0, pageA, RWXAD)		/* leaf and leaf2: other pages */
	la	t1, leaf
	sd	t0, 0(t1)
	PTE(t0, pageB, RWXAD)
	la	t1, leaf2
	sd	t0, 0(t1)

	/* tables of the upper half below the root: chain by leaf, chain2 by leaf2 */
	la	t1, leaf
	la	t2, leaf2
	la	t3, chains
	li	t5, LEVELS-2
1:	srli	t0, t1, 2
	ori	t0, t0, V
	sd	t0, 0(t3)
	mv	t1, t3
	li	t0, 4096
	add	t3, t3, t0
	srli	t0, t2, 2
	ori	t0, t0, V
	sd	t0, 0(t3)
	mv	t2, t3
	li	t0, 4096
	add	t3, t3, t0
	addi	t5, t5, -1
	bnez	t5, 1b
	srli	s2, t1, 2
	ori	s5, s2, V		/* the entry for chain */
	srli	s2, t2, 2
	ori	s6, s2, V		/* the entry for chain2 */

	/* the second space: a copy of the first one's root */
	la	t0, ROOT
	la	t1, second
	li	t2, 512
1:	ld	t3, 0(t0)
	sd	t3, 0(t1)
	addi	t0, t0, 8
	addi	t1, t1, 8
	addi	t2, t2, -1
	bnez	t2, 1b
	SATP(s7, ROOT)
	SATP(s8, second)
	la	s9, ROOT
	li	t0, UPPER
	add	s9, s9, t0
	la	s10, second
	add	s10, s10, t0
	li	s0, HIGH
	li	s1, 40
	TO_S
#ifdef POKED
	/* Both known and alike, the second in use; then a device makes it another. */
	sd	s5, 0(s9)
	sd	s5, 0(s10)
	sd	s5, 8(s10)
	USE(s7)
	HAS(0xa)
	USE(s8)
	HAS(0xa)
	sd	s5, 8(s9)
	li	s1, 20000
1:	addi	s1, s1, -1
	bnez	s1, 1b
	HAS(0xb)
	ecall
	DONE
#endif
1:
	/* The same in both: through one and the other, and a shared table that changes. */
	sd	s5, 0(s9)
	sd	s5, 0(s10)
	USE(s7)
	HAS(0xa)
	USE(s8)
	HAS(0xa)
	PTE(t0, pageC, RWXAD)
	la	t1, leaf
	sd	t0, 0(t1)
	HAS(0xc)
	USE(s7)
	HAS(0xc)
	PTE(t0, pageA, RWXAD)
	sd	t0, 0(t1)
	HAS(0xa)

	/* Another in the second, written while the first is in use, and while it is itself. */
	sd	s6, 0(s10)
	HAS(0xa)
	USE(s8)
	HAS(0xb)
	sd	s5, 0(s10)
	HAS(0xa)
	sd	s6, 0(s10)
	HAS(0xb)
	USE(s7)
	HAS(0xa)

	/* None in the first, then the same as in the second, while both are known. */
	sd	zero, 0(s9)
	TRAPS(LOAD_PAGE, ld a0, 0(s0))
	USE(s8)
	HAS(0xb)
	sd	s6, 0(s9)
	USE(s7)
	HAS(0xb)
	USE(s8)
	HAS(0xb)

	/* Both known and alike; then the one in use changes. */
	sd	zero, 8(s9)
	sd	s5, 8(s10)
	USE(s7)
	HAS(0xb)
	USE(s8)
	HAS(0xb)
	sd	s5, 8(s9)
	sd	s5, 0(s10)
	HAS(0xa)
	USE(s7)
	HAS(0xb)
	sd	s5, 0(s9)
	HAS(0xa)
	USE(s8)
	HAS(0xa)
	sd	zero, 8(s10)
	sd	zero, 8(s9)

	/* The same the other way round. */
	sd	zero, 8(s10)
	sd	s5, 8(s9)
	HAS(0xa)
	USE(s7)
	HAS(0xa)
	sd	s5, 8(s10)
	sd	s6, 0(s9)
	HAS(0xb)
	sd	zero, 8(s9)
	sd	zero, 8(s10)

	addi	s1, s1, -1
	bnez	s1, 1b
	ecall
	DONE

	.section .bss
	.align	12
second:	.zero	4096
chains:	.zero	4096*6
	.section .text

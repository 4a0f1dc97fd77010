/* SPDX-License-Identifier: Apache-2.0
 *
 * Who may do what with which page: U, SUM, MXR, MPRV, reserved encodings,
 * Svnapot, Svpbmt and what satp takes.
 */
#include "test.h"
#include "paging.h"

#define SUM (1<<18)
#define MXR (1<<19)
#define MPRV (1<<17)

/* FAULTS: an entry with more bits faults all accesses in S-mode. */
#define FAULTS(bits) \
	PTE(t0, pageA, RWXAD); li t1, bits; or t0, t0, t1; sd t0, 0(s1); \
	TRAPS(LOAD_PAGE, ld a0, 0(s0)) TVAL(s0) TRAPS(STORE_PAGE, sd a0, 0(s0)) TRAPS(FETCH_PAGE, jalr s0)

main:
	paging_on
	li	s0, AREA
	la	s1, leaf
	TO_S

	/* U pages: not to S without SUM, never to execute. */
	SETPTE(0, pageA, RWXAD|U)
	TRAPS(LOAD_PAGE, ld a0, 0(s0))
	TRAPS(STORE_PAGE, sd a0, 0(s0))
	TRAPS(FETCH_PAGE, jalr s0)
	li	t0, SUM
	csrs	sstatus, t0
	OK(ld a0, 0(s0))
	OK(sd a0, 0(s0))
	TRAPS(FETCH_PAGE, jalr s0)
	li	t0, SUM
	csrc	sstatus, t0
	TRAPS(LOAD_PAGE, ld a0, 0(s0))
	TRAPS(STORE_PAGE, sd a0, 0(s0))

	/* Execute-only: read with MXR. */
	SETPTE(0, pageA, V|X|A|D)
	TRAPS(LOAD_PAGE, ld a0, 0(s0))
	li	t0, MXR
	csrs	sstatus, t0
	OK(ld a0, 0(s0))
	TRAPS(STORE_PAGE, sd a0, 0(s0))
	li	t0, MXR
	csrc	sstatus, t0
	TRAPS(LOAD_PAGE, ld a0, 0(s0))

	/* Not executable. */
	SETPTE(0, pageA, V|R|W|A|D)
	TRAPS(FETCH_PAGE, jalr s0)
	TVAL(s0)
	SAME(s4, s0)

	/* Reserved: W without R, bits 54 to 60, memory types that are not, NAPOT sizes that are not. */
	SETPTE(0, pageA, V|W|A|D)
	TRAPS(LOAD_PAGE, ld a0, 0(s0))
	TRAPS(STORE_PAGE, sd a0, 0(s0))
	SETPTE(0, pageA, V|W|X|A|D)
	TRAPS(FETCH_PAGE, jalr s0)
	FAULTS(1<<54)
	FAULTS(1<<57)
	FAULTS(1<<60)
	FAULTS(1<<61)			/* PBMTE is 0 */
	FAULTS(1<<62)
	TO_M
	li	t0, 1<<62
	csrs	menvcfg, t0
	TO_S
	FAULTS(3<<61)
	PTE(t0, pageA, RWXAD)
	li	t1, 1<<61
	or	t0, t0, t1
	sd	t0, 0(s1)
	OK(ld a0, 0(s0))
	slli	t1, t1, 1
	PTE(t0, pageA, RWXAD)
	or	t0, t0, t1
	sd	t0, 0(s1)
	OK(sd a0, 0(s0))
	TO_M
	li	t0, 1<<62
	csrc	menvcfg, t0
	TO_S
	TRAPS(LOAD_PAGE, ld a0, 0(s0))

	/* NAPOT: 16 pages by one kind of entry. */
	la	a1, napot
	li	t0, 0x1234
	li	t1, 0x5000
	add	a2, a1, t1
	sd	t0, 64(a2)
	srli	a1, a1, 2
	li	t0, RWXAD|8<<10
	or	a1, a1, t0
	li	t0, 1<<63
	or	a1, a1, t0
	sd	a1, 8*0x15(s1)
	li	a2, AREA+0x15040
	OK(ld a0, 0(a2))
	CHECK(a0, 0x1234)
	li	t0, 4<<10
	xor	t0, a1, t0
	sd	t0, 8*0x15(s1)
	TRAPS(LOAD_PAGE, ld a0, 0(a2)) TVAL(a2)

	/* Levels above the last: no A, D, U, N or memory type in a pointer; aligned superpages only. */
	la	t2, middle
	ld	s5, 0(t2)
	SETPTE(0, pageA, RWXAD)
	OK(ld a0, 0(s0))
	.irp	bit, 4, 6, 7, 61, 62, 63, 54
	li	t0, 1<<\bit
	or	t0, t0, s5
	sd	t0, 0(t2)
	TRAPS(LOAD_PAGE, ld a0, 0(s0))
	.endr
	li	t0, 0x80001000>>2|RWXAD
	sd	t0, 0(t2)
	TRAPS(LOAD_PAGE, ld a0, 0(s0))
	li	t0, 0x80000000>>2|RWXAD
	li	t1, 1<<63|8<<10
	or	t0, t0, t1
	sd	t0, 0(t2)
	TRAPS(LOAD_PAGE, ld a0, 0(s0))
	li	t0, 0x10001000>>2|V		/* a table that is not in memory */
	sd	t0, 0(t2)
	TRAPS(LOAD_ACCESS, ld a0, 0(s0)) TVAL(s0)
	TRAPS(STORE_ACCESS, sd a0, 0(s0))
	TRAPS(FETCH_ACCESS, jalr s0)
	sd	s5, 0(t2)
	OK(ld a0, 0(s0))
	ld	t0, 0(s1)			/* a pointer at the last level */
	andi	t0, t0, ~(R|W|X)
	sd	t0, 0(s1)
	TRAPS(LOAD_PAGE, ld a0, 0(s0))

	/* Addresses that are not sign-extended. */
	li	a1, 1<<(11+9*LEVELS)
	TRAPS(LOAD_PAGE, ld a0, 0(a1)) TVAL(a1)
	li	a1, 1<<63|AREA
	TRAPS(STORE_PAGE, sd a0, 0(a1)) TVAL(a1)
	TRAPS(FETCH_PAGE, jalr a1) TVAL(a1)

	/* MPRV: loads and stores of M-mode by MPP's rules, fetches not. */
	TO_M
	SETPTE(0, pageA, V|R|A|D|U)
	li	t0, MPRV|3<<11
	csrc	mstatus, t0
	li	t0, MPRV|1<<11		/* as S */
	csrs	mstatus, t0
	TRAPS(LOAD_PAGE, ld a0, 0(s0))
	csrr	t0, mstatus		/* the trap left MPP M; mret went back to M: MPRV stays */
	li	t1, 3<<11
	csrc	mstatus, t1
	li	t1, MPRV		/* as U */
	csrs	mstatus, t1
	OK(ld a0, 0(s0))
	TRAPS(STORE_PAGE, sd a0, 0(s0)) TVAL(s0)
	li	t1, MPRV
	csrc	mstatus, t1
	TRAPS(LOAD_ACCESS, ld a0, 0(s0))	/* physical: nothing is there */

	/* satp: a mode that does not exist changes nothing; ASID has 16 bits. */
	csrr	s5, satp
	li	t0, 1<<60
	csrw	satp, t0
	csrr	t1, satp
	SAME(t1, s5)
	li	t0, 11<<60
	csrw	satp, t0
	csrr	t1, satp
	SAME(t1, s5)
	li	t0, 0xffff<<44
	or	s6, s5, t0
	csrw	satp, s6
	csrr	t1, satp
	SAME(t1, s6)
	csrw	satp, zero
	csrr	t1, satp
	CHECK(t1, 0)
	DONE

	.section .bss
	.align	16
napot:	.zero	0x10000

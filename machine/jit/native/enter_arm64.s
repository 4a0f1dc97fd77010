// SPDX-License-Identifier: Apache-2.0

#include "go_asm.h"
#include "textflag.h"

// The frame is that of any function that calls: the assembler keeps R30 in it,
// and R29, which translated code leaves alone, below it. No other register of
// Go's is in use across a call of assembly but R28 and R18, and translated code
// has neither.
//
// The goroutine may have come to another thread since the code was written and
// Flush was called: ISB makes this one fetch what that left in memory.
//
// func enter(code uintptr, ctx unsafe.Pointer, tlb unsafe.Pointer, steps uint64) (left uint64)
TEXT ·enter(SB), 0, $0-40
	MOVD code+0(FP), R10
	MOVD ctx+8(FP), R19
	MOVD tlb+16(FP), R20
	MOVD steps+24(FP), R21
	ISB  $15
	BL   (R10)
	MOVD R21, left+32(FP)
	MOVW (const_FloatAt+Float_WhenDirty)(R19), R0
	CMPW $2, R0
	BNE  done
	MRS  FPSR, R0
	MOVWU (const_FloatAt+Float_Host)(R19), R1
	ORR  R1, R0
	MOVW R0, (const_FloatAt+Float_Guest)(R19)
	MSR  ZR, FPCR
done:
	RET

// flush makes the instructions of addr to end be fetched from what was written
// there (ARM ARM, Synchronization and coherency issues between data and
// instruction accesses): data caches are cleaned to the point of unification,
// then instruction caches invalidated, both by the address at which the code
// runs. CTR_EL0 has the log of the line sizes in words, data's at bit 16, and
// says at IDC, bit 28, and DIC, bit 29, that a host does the one or the other by
// itself.
//
// func flush(addr, end uintptr)
TEXT ·flush(SB), NOSPLIT, $0-16
	MOVD addr+0(FP), R0
	MOVD end+8(FP), R1
	MRS  CTR_EL0, R2
	MOVD $4, R3
	TBNZ $28, R2, cleaned
	UBFX $16, R2, $4, R4
	LSL  R4, R3, R4
	SUB  $1, R4, R5
	BIC  R5, R0, R6

clean:
	DC  CVAU, R6
	ADD R4, R6
	CMP R1, R6
	BLO clean

cleaned:
	DSB  $11                          // ISH
	TBNZ $29, R2, done
	AND  $15, R2, R4
	LSL  R4, R3, R4
	SUB  $1, R4, R5
	BIC  R5, R0, R6

invalidate:
	SYS $0x37520, R6 // ic ivau
	ADD R4, R6
	CMP R1, R6
	BLO invalidate
	DSB $11

done:
	ISB $15
	RET

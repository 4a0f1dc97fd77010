// SPDX-License-Identifier: Apache-2.0

#include "go_asm.h"
#include "textflag.h"

// func enter(code uintptr, ctx unsafe.Pointer, tlb unsafe.Pointer, steps uint64) (left uint64)
//
// The frame saves RBP, which translated code uses.
TEXT ·enter(SB), 0, $8-40
	MOVQ code+0(FP), AX
	MOVQ ctx+8(FP), BX
	MOVQ tlb+16(FP), R14
	MOVQ steps+24(FP), R15
	CALL AX
	MOVQ R15, left+32(FP)
	CMPL (const_FloatAt+Float_WhenDirty)(BX), $2
	JNE  done
	STMXCSR (const_FloatAt+Float_Guest)(BX)
	LDMXCSR (const_FloatAt+Float_Host)(BX)
done:
	RET

// SPDX-License-Identifier: Apache-2.0

#include "go_asm.h"
#include "textflag.h"

// The place of guest register r in a Context, which begins with them.
#define X(r) ((r)*8)(BX)

// func enter(code uintptr, ctx unsafe.Pointer, tlb unsafe.Pointer, steps uint64) (left uint64)
TEXT ·enter(SB), 0, $32-40
	MOVQ code+0(FP), AX
	MOVQ ctx+8(FP), BX
	MOVQ tlb+16(FP), R14
	MOVQ steps+24(FP), R15
	MOVQ X(2), SI
	MOVQ X(8), DI
	MOVQ X(10), R8
	MOVQ X(11), R9
	MOVQ X(12), R10
	MOVQ X(13), R11
	MOVQ X(14), R12
	MOVQ X(15), R13
	CALL AX
	MOVQ SI, X(2)
	MOVQ DI, X(8)
	MOVQ R8, X(10)
	MOVQ R9, X(11)
	MOVQ R10, X(12)
	MOVQ R11, X(13)
	MOVQ R12, X(14)
	MOVQ R13, X(15)
	MOVQ R15, left+32(FP)
	CMPL (const_FloatAt+Float_WhenDirty)(BX), $2
	JNE  done
	STMXCSR (const_FloatAt+Float_Guest)(BX)
	LDMXCSR (const_FloatAt+Float_Host)(BX)
done:
	RET

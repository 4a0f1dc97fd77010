// SPDX-License-Identifier: Apache-2.0

package riscv

// Op is an operation: a mnemonic of the manual with dots as underscores.
type Op uint16

const (
	Illegal Op = iota
	// RV64I
	LUI
	AUIPC
	JAL
	JALR
	BEQ
	BNE
	BLT
	BGE
	BLTU
	BGEU
	LB
	LH
	LW
	LD
	LBU
	LHU
	LWU
	SB
	SH
	SW
	SD
	ADDI
	SLTI
	SLTIU
	XORI
	ORI
	ANDI
	SLLI
	SRLI
	SRAI
	ADD
	SUB
	SLL
	SLT
	SLTU
	XOR
	SRL
	SRA
	OR
	AND
	ADDIW
	SLLIW
	SRLIW
	SRAIW
	ADDW
	SUBW
	SLLW
	SRLW
	SRAW
	FENCE
	PAUSE
	ECALL
	EBREAK
	// Zifencei, Zicsr
	FENCE_I
	CSRRW
	CSRRS
	CSRRC
	CSRRWI
	CSRRSI
	CSRRCI
	// M
	MUL
	MULH
	MULHSU
	MULHU
	DIV
	DIVU
	REM
	REMU
	MULW
	DIVW
	DIVUW
	REMW
	REMUW
	// A
	LR_W
	SC_W
	AMOSWAP_W
	AMOADD_W
	AMOXOR_W
	AMOAND_W
	AMOOR_W
	AMOMIN_W
	AMOMAX_W
	AMOMINU_W
	AMOMAXU_W
	LR_D
	SC_D
	AMOSWAP_D
	AMOADD_D
	AMOXOR_D
	AMOAND_D
	AMOOR_D
	AMOMIN_D
	AMOMAX_D
	AMOMINU_D
	AMOMAXU_D
	// F
	FLW
	FSW
	FMADD_S
	FMSUB_S
	FNMSUB_S
	FNMADD_S
	FADD_S
	FSUB_S
	FMUL_S
	FDIV_S
	FSQRT_S
	FSGNJ_S
	FSGNJN_S
	FSGNJX_S
	FMIN_S
	FMAX_S
	FCVT_W_S
	FCVT_WU_S
	FCVT_L_S
	FCVT_LU_S
	FMV_X_W
	FCLASS_S
	FMV_W_X
	FEQ_S
	FLT_S
	FLE_S
	FCVT_S_W
	FCVT_S_WU
	FCVT_S_L
	FCVT_S_LU
	// D
	FLD
	FSD
	FMADD_D
	FMSUB_D
	FNMSUB_D
	FNMADD_D
	FADD_D
	FSUB_D
	FMUL_D
	FDIV_D
	FSQRT_D
	FSGNJ_D
	FSGNJN_D
	FSGNJX_D
	FMIN_D
	FMAX_D
	FCVT_S_D
	FCVT_D_S
	FEQ_D
	FLT_D
	FLE_D
	FCLASS_D
	FMV_X_D
	FMV_D_X
	FCVT_W_D
	FCVT_WU_D
	FCVT_L_D
	FCVT_LU_D
	FCVT_D_W
	FCVT_D_WU
	FCVT_D_L
	FCVT_D_LU
	// Zba
	ADD_UW
	SH1ADD
	SH2ADD
	SH3ADD
	SH1ADD_UW
	SH2ADD_UW
	SH3ADD_UW
	SLLI_UW
	// Zbb
	ANDN
	ORN
	XNOR
	CLZ
	CTZ
	CPOP
	CLZW
	CTZW
	CPOPW
	MIN
	MINU
	MAX
	MAXU
	SEXT_B
	SEXT_H
	ZEXT_H
	ROL
	ROR
	RORI
	ROLW
	RORW
	RORIW
	ORC_B
	REV8
	// Zbc, Zbs
	CLMUL
	CLMULR
	CLMULH
	BSET
	BCLR
	BINV
	BEXT
	BSETI
	BCLRI
	BINVI
	BEXTI
	// Zicond
	CZERO_EQZ
	CZERO_NEZ
	// Zicbom, Zicboz
	CBO_INVAL
	CBO_CLEAN
	CBO_FLUSH
	CBO_ZERO
	// Zawrs
	WRS_NTO
	WRS_STO
	// Privileged, Svinval
	SRET
	MRET
	WFI
	SFENCE_VMA
	SINVAL_VMA
	SFENCE_W_INVAL
	SFENCE_INVAL_IR

	numOps
)

// NumOps is the number of operations, Illegal included.
const NumOps = int(numOps)

// String returns the manual's mnemonic.
func (o Op) String() string {
	if int(o) < len(mnemonics) {
		return mnemonics[o]
	}
	return "?"
}

var mnemonics = [numOps]string{
	Illegal:         "illegal",
	LUI:             "lui",
	AUIPC:           "auipc",
	JAL:             "jal",
	JALR:            "jalr",
	BEQ:             "beq",
	BNE:             "bne",
	BLT:             "blt",
	BGE:             "bge",
	BLTU:            "bltu",
	BGEU:            "bgeu",
	LB:              "lb",
	LH:              "lh",
	LW:              "lw",
	LD:              "ld",
	LBU:             "lbu",
	LHU:             "lhu",
	LWU:             "lwu",
	SB:              "sb",
	SH:              "sh",
	SW:              "sw",
	SD:              "sd",
	ADDI:            "addi",
	SLTI:            "slti",
	SLTIU:           "sltiu",
	XORI:            "xori",
	ORI:             "ori",
	ANDI:            "andi",
	SLLI:            "slli",
	SRLI:            "srli",
	SRAI:            "srai",
	ADD:             "add",
	SUB:             "sub",
	SLL:             "sll",
	SLT:             "slt",
	SLTU:            "sltu",
	XOR:             "xor",
	SRL:             "srl",
	SRA:             "sra",
	OR:              "or",
	AND:             "and",
	ADDIW:           "addiw",
	SLLIW:           "slliw",
	SRLIW:           "srliw",
	SRAIW:           "sraiw",
	ADDW:            "addw",
	SUBW:            "subw",
	SLLW:            "sllw",
	SRLW:            "srlw",
	SRAW:            "sraw",
	FENCE:           "fence",
	PAUSE:           "pause",
	ECALL:           "ecall",
	EBREAK:          "ebreak",
	FENCE_I:         "fence.i",
	CSRRW:           "csrrw",
	CSRRS:           "csrrs",
	CSRRC:           "csrrc",
	CSRRWI:          "csrrwi",
	CSRRSI:          "csrrsi",
	CSRRCI:          "csrrci",
	MUL:             "mul",
	MULH:            "mulh",
	MULHSU:          "mulhsu",
	MULHU:           "mulhu",
	DIV:             "div",
	DIVU:            "divu",
	REM:             "rem",
	REMU:            "remu",
	MULW:            "mulw",
	DIVW:            "divw",
	DIVUW:           "divuw",
	REMW:            "remw",
	REMUW:           "remuw",
	LR_W:            "lr.w",
	SC_W:            "sc.w",
	AMOSWAP_W:       "amoswap.w",
	AMOADD_W:        "amoadd.w",
	AMOXOR_W:        "amoxor.w",
	AMOAND_W:        "amoand.w",
	AMOOR_W:         "amoor.w",
	AMOMIN_W:        "amomin.w",
	AMOMAX_W:        "amomax.w",
	AMOMINU_W:       "amominu.w",
	AMOMAXU_W:       "amomaxu.w",
	LR_D:            "lr.d",
	SC_D:            "sc.d",
	AMOSWAP_D:       "amoswap.d",
	AMOADD_D:        "amoadd.d",
	AMOXOR_D:        "amoxor.d",
	AMOAND_D:        "amoand.d",
	AMOOR_D:         "amoor.d",
	AMOMIN_D:        "amomin.d",
	AMOMAX_D:        "amomax.d",
	AMOMINU_D:       "amominu.d",
	AMOMAXU_D:       "amomaxu.d",
	FLW:             "flw",
	FSW:             "fsw",
	FMADD_S:         "fmadd.s",
	FMSUB_S:         "fmsub.s",
	FNMSUB_S:        "fnmsub.s",
	FNMADD_S:        "fnmadd.s",
	FADD_S:          "fadd.s",
	FSUB_S:          "fsub.s",
	FMUL_S:          "fmul.s",
	FDIV_S:          "fdiv.s",
	FSQRT_S:         "fsqrt.s",
	FSGNJ_S:         "fsgnj.s",
	FSGNJN_S:        "fsgnjn.s",
	FSGNJX_S:        "fsgnjx.s",
	FMIN_S:          "fmin.s",
	FMAX_S:          "fmax.s",
	FCVT_W_S:        "fcvt.w.s",
	FCVT_WU_S:       "fcvt.wu.s",
	FCVT_L_S:        "fcvt.l.s",
	FCVT_LU_S:       "fcvt.lu.s",
	FMV_X_W:         "fmv.x.w",
	FCLASS_S:        "fclass.s",
	FMV_W_X:         "fmv.w.x",
	FEQ_S:           "feq.s",
	FLT_S:           "flt.s",
	FLE_S:           "fle.s",
	FCVT_S_W:        "fcvt.s.w",
	FCVT_S_WU:       "fcvt.s.wu",
	FCVT_S_L:        "fcvt.s.l",
	FCVT_S_LU:       "fcvt.s.lu",
	FLD:             "fld",
	FSD:             "fsd",
	FMADD_D:         "fmadd.d",
	FMSUB_D:         "fmsub.d",
	FNMSUB_D:        "fnmsub.d",
	FNMADD_D:        "fnmadd.d",
	FADD_D:          "fadd.d",
	FSUB_D:          "fsub.d",
	FMUL_D:          "fmul.d",
	FDIV_D:          "fdiv.d",
	FSQRT_D:         "fsqrt.d",
	FSGNJ_D:         "fsgnj.d",
	FSGNJN_D:        "fsgnjn.d",
	FSGNJX_D:        "fsgnjx.d",
	FMIN_D:          "fmin.d",
	FMAX_D:          "fmax.d",
	FCVT_S_D:        "fcvt.s.d",
	FCVT_D_S:        "fcvt.d.s",
	FEQ_D:           "feq.d",
	FLT_D:           "flt.d",
	FLE_D:           "fle.d",
	FCLASS_D:        "fclass.d",
	FMV_X_D:         "fmv.x.d",
	FMV_D_X:         "fmv.d.x",
	FCVT_W_D:        "fcvt.w.d",
	FCVT_WU_D:       "fcvt.wu.d",
	FCVT_L_D:        "fcvt.l.d",
	FCVT_LU_D:       "fcvt.lu.d",
	FCVT_D_W:        "fcvt.d.w",
	FCVT_D_WU:       "fcvt.d.wu",
	FCVT_D_L:        "fcvt.d.l",
	FCVT_D_LU:       "fcvt.d.lu",
	ADD_UW:          "add.uw",
	SH1ADD:          "sh1add",
	SH2ADD:          "sh2add",
	SH3ADD:          "sh3add",
	SH1ADD_UW:       "sh1add.uw",
	SH2ADD_UW:       "sh2add.uw",
	SH3ADD_UW:       "sh3add.uw",
	SLLI_UW:         "slli.uw",
	ANDN:            "andn",
	ORN:             "orn",
	XNOR:            "xnor",
	CLZ:             "clz",
	CTZ:             "ctz",
	CPOP:            "cpop",
	CLZW:            "clzw",
	CTZW:            "ctzw",
	CPOPW:           "cpopw",
	MIN:             "min",
	MINU:            "minu",
	MAX:             "max",
	MAXU:            "maxu",
	SEXT_B:          "sext.b",
	SEXT_H:          "sext.h",
	ZEXT_H:          "zext.h",
	ROL:             "rol",
	ROR:             "ror",
	RORI:            "rori",
	ROLW:            "rolw",
	RORW:            "rorw",
	RORIW:           "roriw",
	ORC_B:           "orc.b",
	REV8:            "rev8",
	CLMUL:           "clmul",
	CLMULR:          "clmulr",
	CLMULH:          "clmulh",
	BSET:            "bset",
	BCLR:            "bclr",
	BINV:            "binv",
	BEXT:            "bext",
	BSETI:           "bseti",
	BCLRI:           "bclri",
	BINVI:           "binvi",
	BEXTI:           "bexti",
	CZERO_EQZ:       "czero.eqz",
	CZERO_NEZ:       "czero.nez",
	CBO_INVAL:       "cbo.inval",
	CBO_CLEAN:       "cbo.clean",
	CBO_FLUSH:       "cbo.flush",
	CBO_ZERO:        "cbo.zero",
	WRS_NTO:         "wrs.nto",
	WRS_STO:         "wrs.sto",
	SRET:            "sret",
	MRET:            "mret",
	WFI:             "wfi",
	SFENCE_VMA:      "sfence.vma",
	SINVAL_VMA:      "sinval.vma",
	SFENCE_W_INVAL:  "sfence.w.inval",
	SFENCE_INVAL_IR: "sfence.inval.ir",
}

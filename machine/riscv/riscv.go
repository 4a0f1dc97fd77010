// SPDX-License-Identifier: Apache-2.0

// Package riscv holds the facts of the RISC-V manual as tables: instructions,
// registers, CSRs and trap causes. It executes nothing.
//
// Decode looks an instruction word up by opcode and funct3 and then compares
// mask and match. Compressed instructions (Unpriv. ch. 26) are first expanded
// to the 32-bit instruction that the manual defines them by, so that there is
// one meaning to each operation.
package riscv

// Format says which operands an instruction has and where its immediate lies
// (Unpriv. 2.2, 2.3).
type Format uint8

const (
	FormatNone  Format = iota
	FormatR            // rd, rs1, rs2
	FormatR1           // rd, rs1
	FormatR4           // rd, rs1, rs2, rs3, rm
	FormatRM           // rd, rs1, rs2, rm
	FormatRM1          // rd, rs1, rm
	FormatI            // rd, rs1, imm[11:0]
	FormatShift        // rd, rs1, shamt[5:0]
	FormatS            // rs1, rs2, imm
	FormatB            // rs1, rs2, branch offset
	FormatU            // rd, imm[31:12]
	FormatJ            // rd, jump offset
	FormatCSR          // rd, rs1, csr
	FormatCSRI         // rd, uimm[4:0], csr
	FormatAMO          // rd, rs1, rs2 (aq and rl are not kept: harts take turns)
	FormatRs1          // rs1
	FormatRs12         // rs1, rs2
)

// Inst is a decoded instruction. Imm is the immediate, sign-extended; the CSR
// number for FormatCSR and FormatCSRI; the shift amount for FormatShift.
type Inst struct {
	Op                Op
	Rd, Rs1, Rs2, Rs3 uint8
	RM                uint8 // rounding mode field of floating point
	Imm               int32
}

// encoding is one row of the instruction table.
type encoding struct {
	op     Op
	format Format
	match  uint32
	mask   uint32
}

// Major opcodes (Unpriv. table 70), with the two low bits set.
const (
	opLoad    = 0x03
	opLoadFP  = 0x07
	opMiscMem = 0x0f
	opImm     = 0x13
	opAUIPC   = 0x17
	opImm32   = 0x1b
	opStore   = 0x23
	opStoreFP = 0x27
	opAMO     = 0x2f
	opOp      = 0x33
	opLUI     = 0x37
	opOp32    = 0x3b
	opMAdd    = 0x43
	opMSub    = 0x47
	opNMSub   = 0x4b
	opNMAdd   = 0x4f
	opFP      = 0x53
	opBranch  = 0x63
	opJALR    = 0x67
	opJAL     = 0x6f
	opSystem  = 0x73
)

// Row constructors: the name says which fields are fixed.
func major(op Op, f Format, opcode uint32) encoding { return encoding{op, f, opcode, 0x7f} }
func f3(op Op, f Format, opcode, funct3 uint32) encoding {
	return encoding{op, f, opcode | funct3<<12, 0x707f}
}
func f7(op Op, f Format, opcode, funct3, funct7 uint32) encoding {
	return encoding{op, f, opcode | funct3<<12 | funct7<<25, 0xfe00707f}
}
func f6(op Op, opcode, funct3, funct6 uint32) encoding { // 6-bit shift amount
	return encoding{op, FormatShift, opcode | funct3<<12 | funct6<<26, 0xfc00707f}
}
func f12(op Op, f Format, opcode, funct3, imm12 uint32) encoding { // rs2 is fixed too
	return encoding{op, f, opcode | funct3<<12 | imm12<<20, 0xfff0707f}
}
func amo(op Op, width, funct5 uint32) encoding {
	return encoding{op, FormatAMO, opAMO | width<<12 | funct5<<27, 0xf800707f}
}
func lr(op Op, width uint32) encoding {
	return encoding{op, FormatAMO, opAMO | width<<12 | 2<<27, 0xf9f0707f}
}
func fp(op Op, funct7 uint32) encoding { // rounding mode in funct3
	return encoding{op, FormatRM, opFP | funct7<<25, 0xfe00007f}
}
func fp1(op Op, funct7, rs2 uint32) encoding {
	return encoding{op, FormatRM1, opFP | funct7<<25 | rs2<<20, 0xfff0007f}
}
func fma(op Op, opcode, fmt uint32) encoding {
	return encoding{op, FormatR4, opcode | fmt<<25, 0x0600007f}
}
func exact(op Op, word uint32) encoding { return encoding{op, FormatNone, word, 0xffffffff} }

// table is the instruction set, extension by extension.
var table = []encoding{
	// RV64I
	major(LUI, FormatU, opLUI), major(AUIPC, FormatU, opAUIPC),
	major(JAL, FormatJ, opJAL), f3(JALR, FormatI, opJALR, 0),
	f3(BEQ, FormatB, opBranch, 0), f3(BNE, FormatB, opBranch, 1), f3(BLT, FormatB, opBranch, 4),
	f3(BGE, FormatB, opBranch, 5), f3(BLTU, FormatB, opBranch, 6), f3(BGEU, FormatB, opBranch, 7),
	f3(LB, FormatI, opLoad, 0), f3(LH, FormatI, opLoad, 1), f3(LW, FormatI, opLoad, 2), f3(LD, FormatI, opLoad, 3),
	f3(LBU, FormatI, opLoad, 4), f3(LHU, FormatI, opLoad, 5), f3(LWU, FormatI, opLoad, 6),
	f3(SB, FormatS, opStore, 0), f3(SH, FormatS, opStore, 1), f3(SW, FormatS, opStore, 2), f3(SD, FormatS, opStore, 3),
	f3(ADDI, FormatI, opImm, 0), f3(SLTI, FormatI, opImm, 2), f3(SLTIU, FormatI, opImm, 3),
	f3(XORI, FormatI, opImm, 4), f3(ORI, FormatI, opImm, 6), f3(ANDI, FormatI, opImm, 7),
	f6(SLLI, opImm, 1, 0x00), f6(SRLI, opImm, 5, 0x00), f6(SRAI, opImm, 5, 0x10),
	f7(ADD, FormatR, opOp, 0, 0x00), f7(SUB, FormatR, opOp, 0, 0x20), f7(SLL, FormatR, opOp, 1, 0x00),
	f7(SLT, FormatR, opOp, 2, 0x00), f7(SLTU, FormatR, opOp, 3, 0x00), f7(XOR, FormatR, opOp, 4, 0x00),
	f7(SRL, FormatR, opOp, 5, 0x00), f7(SRA, FormatR, opOp, 5, 0x20), f7(OR, FormatR, opOp, 6, 0x00), f7(AND, FormatR, opOp, 7, 0x00),
	f3(ADDIW, FormatI, opImm32, 0), f7(SLLIW, FormatShift, opImm32, 1, 0x00),
	f7(SRLIW, FormatShift, opImm32, 5, 0x00), f7(SRAIW, FormatShift, opImm32, 5, 0x20),
	f7(ADDW, FormatR, opOp32, 0, 0x00), f7(SUBW, FormatR, opOp32, 0, 0x20), f7(SLLW, FormatR, opOp32, 1, 0x00),
	f7(SRLW, FormatR, opOp32, 5, 0x00), f7(SRAW, FormatR, opOp32, 5, 0x20),
	exact(PAUSE, 0x0100000f), f3(FENCE, FormatNone, opMiscMem, 0),
	exact(ECALL, 0x00000073), exact(EBREAK, 0x00100073),
	// Zifencei, Zicsr
	f3(FENCE_I, FormatNone, opMiscMem, 1),
	f3(CSRRW, FormatCSR, opSystem, 1), f3(CSRRS, FormatCSR, opSystem, 2), f3(CSRRC, FormatCSR, opSystem, 3),
	f3(CSRRWI, FormatCSRI, opSystem, 5), f3(CSRRSI, FormatCSRI, opSystem, 6), f3(CSRRCI, FormatCSRI, opSystem, 7),
	// M
	f7(MUL, FormatR, opOp, 0, 1), f7(MULH, FormatR, opOp, 1, 1), f7(MULHSU, FormatR, opOp, 2, 1), f7(MULHU, FormatR, opOp, 3, 1),
	f7(DIV, FormatR, opOp, 4, 1), f7(DIVU, FormatR, opOp, 5, 1), f7(REM, FormatR, opOp, 6, 1), f7(REMU, FormatR, opOp, 7, 1),
	f7(MULW, FormatR, opOp32, 0, 1), f7(DIVW, FormatR, opOp32, 4, 1), f7(DIVUW, FormatR, opOp32, 5, 1),
	f7(REMW, FormatR, opOp32, 6, 1), f7(REMUW, FormatR, opOp32, 7, 1),
	// A
	lr(LR_W, 2), amo(SC_W, 2, 3), amo(AMOSWAP_W, 2, 1), amo(AMOADD_W, 2, 0), amo(AMOXOR_W, 2, 4), amo(AMOAND_W, 2, 12),
	amo(AMOOR_W, 2, 8), amo(AMOMIN_W, 2, 16), amo(AMOMAX_W, 2, 20), amo(AMOMINU_W, 2, 24), amo(AMOMAXU_W, 2, 28),
	lr(LR_D, 3), amo(SC_D, 3, 3), amo(AMOSWAP_D, 3, 1), amo(AMOADD_D, 3, 0), amo(AMOXOR_D, 3, 4), amo(AMOAND_D, 3, 12),
	amo(AMOOR_D, 3, 8), amo(AMOMIN_D, 3, 16), amo(AMOMAX_D, 3, 20), amo(AMOMINU_D, 3, 24), amo(AMOMAXU_D, 3, 28),
	// F
	f3(FLW, FormatI, opLoadFP, 2), f3(FSW, FormatS, opStoreFP, 2),
	fma(FMADD_S, opMAdd, 0), fma(FMSUB_S, opMSub, 0), fma(FNMSUB_S, opNMSub, 0), fma(FNMADD_S, opNMAdd, 0),
	fp(FADD_S, 0x00), fp(FSUB_S, 0x04), fp(FMUL_S, 0x08), fp(FDIV_S, 0x0c), fp1(FSQRT_S, 0x2c, 0),
	f7(FSGNJ_S, FormatR, opFP, 0, 0x10), f7(FSGNJN_S, FormatR, opFP, 1, 0x10), f7(FSGNJX_S, FormatR, opFP, 2, 0x10),
	f7(FMIN_S, FormatR, opFP, 0, 0x14), f7(FMAX_S, FormatR, opFP, 1, 0x14),
	fp1(FCVT_W_S, 0x60, 0), fp1(FCVT_WU_S, 0x60, 1), fp1(FCVT_L_S, 0x60, 2), fp1(FCVT_LU_S, 0x60, 3),
	f12(FMV_X_W, FormatR1, opFP, 0, 0xe00), f12(FCLASS_S, FormatR1, opFP, 1, 0xe00), f12(FMV_W_X, FormatR1, opFP, 0, 0xf00),
	f7(FEQ_S, FormatR, opFP, 2, 0x50), f7(FLT_S, FormatR, opFP, 1, 0x50), f7(FLE_S, FormatR, opFP, 0, 0x50),
	fp1(FCVT_S_W, 0x68, 0), fp1(FCVT_S_WU, 0x68, 1), fp1(FCVT_S_L, 0x68, 2), fp1(FCVT_S_LU, 0x68, 3),
	// D
	f3(FLD, FormatI, opLoadFP, 3), f3(FSD, FormatS, opStoreFP, 3),
	fma(FMADD_D, opMAdd, 1), fma(FMSUB_D, opMSub, 1), fma(FNMSUB_D, opNMSub, 1), fma(FNMADD_D, opNMAdd, 1),
	fp(FADD_D, 0x01), fp(FSUB_D, 0x05), fp(FMUL_D, 0x09), fp(FDIV_D, 0x0d), fp1(FSQRT_D, 0x2d, 0),
	f7(FSGNJ_D, FormatR, opFP, 0, 0x11), f7(FSGNJN_D, FormatR, opFP, 1, 0x11), f7(FSGNJX_D, FormatR, opFP, 2, 0x11),
	f7(FMIN_D, FormatR, opFP, 0, 0x15), f7(FMAX_D, FormatR, opFP, 1, 0x15),
	fp1(FCVT_S_D, 0x20, 1), fp1(FCVT_D_S, 0x21, 0),
	f7(FEQ_D, FormatR, opFP, 2, 0x51), f7(FLT_D, FormatR, opFP, 1, 0x51), f7(FLE_D, FormatR, opFP, 0, 0x51),
	f12(FCLASS_D, FormatR1, opFP, 1, 0xe20), f12(FMV_X_D, FormatR1, opFP, 0, 0xe20), f12(FMV_D_X, FormatR1, opFP, 0, 0xf20),
	fp1(FCVT_W_D, 0x61, 0), fp1(FCVT_WU_D, 0x61, 1), fp1(FCVT_L_D, 0x61, 2), fp1(FCVT_LU_D, 0x61, 3),
	fp1(FCVT_D_W, 0x69, 0), fp1(FCVT_D_WU, 0x69, 1), fp1(FCVT_D_L, 0x69, 2), fp1(FCVT_D_LU, 0x69, 3),
	// Zba
	f7(ADD_UW, FormatR, opOp32, 0, 0x04), f7(SH1ADD, FormatR, opOp, 2, 0x10), f7(SH2ADD, FormatR, opOp, 4, 0x10), f7(SH3ADD, FormatR, opOp, 6, 0x10),
	f7(SH1ADD_UW, FormatR, opOp32, 2, 0x10), f7(SH2ADD_UW, FormatR, opOp32, 4, 0x10), f7(SH3ADD_UW, FormatR, opOp32, 6, 0x10),
	f6(SLLI_UW, opImm32, 1, 0x02),
	// Zbb
	f7(ANDN, FormatR, opOp, 7, 0x20), f7(ORN, FormatR, opOp, 6, 0x20), f7(XNOR, FormatR, opOp, 4, 0x20),
	f12(CLZ, FormatR1, opImm, 1, 0x600), f12(CTZ, FormatR1, opImm, 1, 0x601), f12(CPOP, FormatR1, opImm, 1, 0x602),
	f12(CLZW, FormatR1, opImm32, 1, 0x600), f12(CTZW, FormatR1, opImm32, 1, 0x601), f12(CPOPW, FormatR1, opImm32, 1, 0x602),
	f7(MIN, FormatR, opOp, 4, 0x05), f7(MINU, FormatR, opOp, 5, 0x05), f7(MAX, FormatR, opOp, 6, 0x05), f7(MAXU, FormatR, opOp, 7, 0x05),
	f12(SEXT_B, FormatR1, opImm, 1, 0x604), f12(SEXT_H, FormatR1, opImm, 1, 0x605), f12(ZEXT_H, FormatR1, opOp32, 4, 0x080),
	f7(ROL, FormatR, opOp, 1, 0x30), f7(ROR, FormatR, opOp, 5, 0x30), f6(RORI, opImm, 5, 0x18),
	f7(ROLW, FormatR, opOp32, 1, 0x30), f7(RORW, FormatR, opOp32, 5, 0x30), f7(RORIW, FormatShift, opImm32, 5, 0x30),
	f12(ORC_B, FormatR1, opImm, 5, 0x287), f12(REV8, FormatR1, opImm, 5, 0x6b8),
	// Zbc, Zbs
	f7(CLMUL, FormatR, opOp, 1, 0x05), f7(CLMULR, FormatR, opOp, 2, 0x05), f7(CLMULH, FormatR, opOp, 3, 0x05),
	f7(BSET, FormatR, opOp, 1, 0x14), f7(BCLR, FormatR, opOp, 1, 0x24), f7(BINV, FormatR, opOp, 1, 0x34), f7(BEXT, FormatR, opOp, 5, 0x24),
	f6(BSETI, opImm, 1, 0x0a), f6(BCLRI, opImm, 1, 0x12), f6(BINVI, opImm, 1, 0x1a), f6(BEXTI, opImm, 5, 0x12),
	// Zicond
	f7(CZERO_EQZ, FormatR, opOp, 5, 0x07), f7(CZERO_NEZ, FormatR, opOp, 7, 0x07),
	// Zicbom, Zicboz: rd is 0
	cbo(CBO_INVAL, 0), cbo(CBO_CLEAN, 1), cbo(CBO_FLUSH, 2), cbo(CBO_ZERO, 4),
	// Zawrs
	exact(WRS_NTO, 0x00d00073), exact(WRS_STO, 0x01d00073),
	// Privileged, Svinval
	exact(SRET, 0x10200073), exact(MRET, 0x30200073), exact(WFI, 0x10500073),
	sfence(SFENCE_VMA, 0x09), sfence(SINVAL_VMA, 0x0b),
	exact(SFENCE_W_INVAL, 0x18000073), exact(SFENCE_INVAL_IR, 0x18100073),
}

func cbo(op Op, n uint32) encoding {
	return encoding{op, FormatRs1, opMiscMem | 2<<12 | n<<20, 0xfff07fff}
}
func sfence(op Op, funct7 uint32) encoding {
	return encoding{op, FormatRs12, opSystem | funct7<<25, 0xfe007fff}
}

// index holds the rows that can match a word, by opcode[6:2] and funct3.
var index = func() (ix [256][]encoding) {
	for _, e := range table {
		for funct3 := uint32(0); funct3 < 8; funct3++ {
			if e.mask>>12&7 == 0 || e.match>>12&7 == funct3 {
				slot := e.match>>2&31<<3 | funct3
				ix[slot] = append(ix[slot], e)
			}
		}
	}
	return ix
}()

// Decode decodes a 32-bit instruction. Op is Illegal where the word is none of ours.
func Decode(w uint32) Inst {
	if w&3 == 3 {
		for _, e := range index[w>>2&31<<3|w>>12&7] {
			if w&e.mask == e.match {
				return operands(e, w)
			}
		}
	}
	return Inst{Op: Illegal, Imm: int32(w)}
}

// operands extracts the fields of a word that matched e (Unpriv. 2.3).
func operands(e encoding, w uint32) Inst {
	i := Inst{
		Op: e.op, Rd: uint8(w >> 7 & 31), Rs1: uint8(w >> 15 & 31), Rs2: uint8(w >> 20 & 31),
		Rs3: uint8(w >> 27), RM: uint8(w >> 12 & 7),
	}
	s := int32(w)
	switch e.format {
	case FormatI:
		i.Imm = s >> 20
	case FormatShift:
		i.Imm = s >> 20 & 63
	case FormatS:
		i.Imm = s>>25<<5 | int32(i.Rd)
	case FormatB:
		i.Imm = s>>31<<12 | s<<4&0x800 | s>>20&0x7e0 | s>>7&0x1e
	case FormatU:
		i.Imm = s &^ 0xfff
	case FormatJ:
		i.Imm = s>>31<<20 | s&0xff000 | s>>9&0x800 | s>>20&0x7fe
	case FormatCSR, FormatCSRI:
		i.Imm = s >> 20 & 0xfff
	case FormatRM, FormatRM1, FormatR4:
		if i.RM == 5 || i.RM == 6 { // reserved rounding modes
			return Inst{Op: Illegal, Imm: s}
		}
	}
	return i
}

// Encoding returns the bits that are fixed in an operation's encoding: a word w
// is one of op where w&mask == match. Both are 0 for Illegal.
func Encoding(op Op) (match, mask uint32) {
	for _, e := range table {
		if e.op == op {
			return e.match, e.mask
		}
	}
	return 0, 0
}

// FormatOf returns the operand format of an operation.
func FormatOf(op Op) Format { return formats[op] }

var formats = func() (f [numOps]Format) {
	for _, e := range table {
		f[e.op] = e.format
	}
	return f
}()

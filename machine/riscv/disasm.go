// SPDX-License-Identifier: Apache-2.0

package riscv

import "fmt"

// xNames and fNames are the ABI names of the registers (psABI 1.1, 1.2).
var (
	xNames = [32]string{"zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5",
		"a6", "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6"}
	fNames = [32]string{"ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4", "fa5",
		"fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8", "ft9", "ft10", "ft11"}
	rmNames = [8]string{"rne", "rtz", "rdn", "rup", "rmm", "?", "?", "dyn"} // 5 and 6 are reserved
)

// Disassemble returns an instruction as the GNU assembler takes it, without
// aliases. A compressed one, with the low two bits not 3, appears as what it
// stands for. Targets are relative: ".+8". A word that is none of ours is ".word".
func Disassemble(word uint32) string {
	w, raw := word, word
	if w&3 != 3 {
		raw = w & 0xffff
		w = Expand(uint16(w))
	}
	i := Decode(w)
	if i.Op == Illegal {
		return fmt.Sprintf(".word %#x", raw)
	}
	if text := operandText(i, w); text != "" {
		return i.Op.String() + orderSuffix(i, w) + " " + text
	}
	return i.Op.String()
}

// operandText formats the operands of an instruction.
func operandText(i Inst, w uint32) string {
	d, a, b, c := registers(i)
	switch FormatOf(i.Op) {
	case FormatR:
		return d + "," + a + "," + b
	case FormatR1:
		return d + "," + a
	case FormatR4:
		return d + "," + a + "," + b + "," + c + rounding(i)
	case FormatRM:
		return d + "," + a + "," + b + rounding(i)
	case FormatRM1:
		return d + "," + a + rounding(i)
	case FormatI:
		if accessesMemory(i.Op) || i.Op == JALR {
			return fmt.Sprintf("%s,%d(%s)", d, i.Imm, a)
		}
		return fmt.Sprintf("%s,%s,%d", d, a, i.Imm)
	case FormatShift:
		return fmt.Sprintf("%s,%s,%#x", d, a, i.Imm)
	case FormatS:
		return fmt.Sprintf("%s,%d(%s)", b, i.Imm, a)
	case FormatB:
		return fmt.Sprintf("%s,%s,.%+d", a, b, i.Imm)
	case FormatU:
		return fmt.Sprintf("%s,%#x", d, uint32(i.Imm)>>12)
	case FormatJ:
		return fmt.Sprintf("%s,.%+d", d, i.Imm)
	case FormatCSR:
		return fmt.Sprintf("%s,%v,%s", d, CSR(i.Imm), a)
	case FormatCSRI:
		return fmt.Sprintf("%s,%v,%d", d, CSR(i.Imm), i.Rs1)
	case FormatAMO:
		if i.Op == LR_W || i.Op == LR_D {
			return d + ",(" + a + ")"
		}
		return d + "," + b + ",(" + a + ")"
	case FormatRs1:
		return "(" + a + ")"
	case FormatRs12:
		return a + "," + b
	}
	if i.Op == FENCE {
		return fenceSets(w)
	}
	return ""
}

// registers names rd, rs1, rs2 and rs3 by the register files that they are in.
func registers(i Inst) (d, a, b, c string) {
	d, a, b, c = xNames[i.Rd], xNames[i.Rs1], xNames[i.Rs2], fNames[i.Rs3]
	float := i.Op >= FLW && i.Op <= FCVT_D_LU
	if float && !intResult(i.Op) {
		d = fNames[i.Rd]
	}
	if float && FormatOf(i.Op) != FormatI && FormatOf(i.Op) != FormatS && !intOperand(i.Op) {
		a = fNames[i.Rs1]
	}
	if float {
		b = fNames[i.Rs2]
	}
	return d, a, b, c
}

// intResult and intOperand tell the floating-point operations that write or
// read an integer register.
func intResult(op Op) bool {
	switch op {
	case FCVT_W_S, FCVT_WU_S, FCVT_L_S, FCVT_LU_S, FCVT_W_D, FCVT_WU_D, FCVT_L_D, FCVT_LU_D,
		FMV_X_W, FMV_X_D, FCLASS_S, FCLASS_D, FEQ_S, FLT_S, FLE_S, FEQ_D, FLT_D, FLE_D:
		return true
	}
	return false
}

func intOperand(op Op) bool {
	switch op {
	case FCVT_S_W, FCVT_S_WU, FCVT_S_L, FCVT_S_LU, FCVT_D_W, FCVT_D_WU, FCVT_D_L, FCVT_D_LU, FMV_W_X, FMV_D_X:
		return true
	}
	return false
}

func accessesMemory(op Op) bool {
	return op >= LB && op <= SD || op == FLW || op == FSW || op == FLD || op == FSD
}

// rounding is the static rounding mode; without one the mode is dynamic.
// Conversions that are always exact have one that means nothing; there it is
// left out where it is the assembler's, rne.
func rounding(i Inst) string {
	exact := i.Op == FCVT_D_S || i.Op == FCVT_D_W || i.Op == FCVT_D_WU
	if exact && i.RM == 0 || !exact && i.RM == 7 {
		return ""
	}
	return "," + rmNames[i.RM]
}

// orderSuffix is .aq, .rl or .aqrl of an atomic.
func orderSuffix(i Inst, w uint32) string {
	if FormatOf(i.Op) != FormatAMO {
		return ""
	}
	return [...]string{"", ".rl", ".aq", ".aqrl"}[w>>25&3]
}

// fenceSets is the predecessor and successor sets of a fence, or its mode.
func fenceSets(w uint32) string {
	set := func(bits uint32) (s string) {
		for i, c := range "iorw" {
			if bits>>(3-i)&1 != 0 {
				s += string(c)
			}
		}
		if s == "" {
			return "unknown"
		}
		return s
	}
	return set(w>>24&15) + "," + set(w>>20&15)
}

// String returns the name of a CSR, or its number where it has none here.
func (n CSR) String() string {
	for _, r := range csrRanges {
		if n >= r.first && n < r.first+CSR(r.n) {
			return fmt.Sprintf("%s%d", r.name, int(n-r.first)+r.from)
		}
	}
	for _, c := range csrNames {
		if c.n == n {
			return c.name
		}
	}
	return fmt.Sprintf("%#x", uint16(n))
}

// csrRanges are the CSRs that are numbered.
var csrRanges = []struct {
	first CSR
	n     int
	name  string
	from  int
}{
	{CSRPMPCfg0, 16, "pmpcfg", 0}, {CSRPMPAddr0, 64, "pmpaddr", 0}, {CSRMHPMEvent3, 29, "mhpmevent", 3},
	{CSRMHPMCounter3, 29, "mhpmcounter", 3}, {CSRHPMCounter3, 29, "hpmcounter", 3},
}

var csrNames = []struct {
	n    CSR
	name string
}{
	{CSRFFlags, "fflags"}, {CSRFRM, "frm"}, {CSRFCSR, "fcsr"}, {CSRCycle, "cycle"}, {CSRTime, "time"}, {CSRInstret, "instret"},
	{CSRSStatus, "sstatus"}, {CSRSIE, "sie"}, {CSRSTVec, "stvec"}, {CSRSCounterEn, "scounteren"}, {CSRSEnvCfg, "senvcfg"},
	{CSRSScratch, "sscratch"}, {CSRSEPC, "sepc"}, {CSRSCause, "scause"}, {CSRSTVal, "stval"}, {CSRSIP, "sip"},
	{CSRSTimeCmp, "stimecmp"}, {CSRSATP, "satp"},
	{CSRMVendorID, "mvendorid"}, {CSRMArchID, "marchid"}, {CSRMImpID, "mimpid"}, {CSRMHartID, "mhartid"}, {CSRMConfigPtr, "mconfigptr"},
	{CSRMStatus, "mstatus"}, {CSRMISA, "misa"}, {CSRMEDeleg, "medeleg"}, {CSRMIDeleg, "mideleg"}, {CSRMIE, "mie"},
	{CSRMTVec, "mtvec"}, {CSRMCounterEn, "mcounteren"}, {CSRMEnvCfg, "menvcfg"}, {CSRMCountInhibit, "mcountinhibit"},
	{CSRMScratch, "mscratch"}, {CSRMEPC, "mepc"}, {CSRMCause, "mcause"}, {CSRMTVal, "mtval"}, {CSRMIP, "mip"},
	{CSRMCycle, "mcycle"}, {CSRMInstret, "minstret"},
	{CSRTSelect, "tselect"}, {CSRTData1, "tdata1"}, {CSRTData2, "tdata2"}, {CSRTData3, "tdata3"},
}

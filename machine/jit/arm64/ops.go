// SPDX-License-Identifier: Apache-2.0

package arm64

// ALU is an operation of two integers. Those that end in S set the flags.
type ALU uint8

const (
	ADD ALU = iota
	ADDS
	SUB
	SUBS
	AND
	BIC // x &^ y
	ORR
	ORN // x | ^y
	EOR
	EON // x ^ ^y
	ANDS
	BICS
	ADC // x + y + C
	ADCS
	SBC // x - y - 1 + C
	SBCS
)

// aluKind is what else an operation has.
type aluKind uint8

const (
	arithmetic aluKind = 1 << iota // an immediate of 12 bits, an extended register
	logical                        // a bitmask immediate
	inverted                       // of a bitmask immediate the opposite
	flags                          // sets flags: Rd is ZR, not SP
)

// alus has each operation with a shifted register and with an immediate
// (ARM ARM, Data Processing — Register and — Immediate).
var alus = [...]struct {
	reg, imm uint32
	kind     aluKind
}{
	ADD:  {0x0b000000, 0x11000000, arithmetic},
	ADDS: {0x2b000000, 0x31000000, arithmetic | flags},
	SUB:  {0x4b000000, 0x51000000, arithmetic},
	SUBS: {0x6b000000, 0x71000000, arithmetic | flags},
	AND:  {0x0a000000, 0x12000000, logical},
	BIC:  {0x0a200000, 0x12000000, logical | inverted},
	ORR:  {0x2a000000, 0x32000000, logical},
	ORN:  {0x2a200000, 0x32000000, logical | inverted},
	EOR:  {0x4a000000, 0x52000000, logical},
	EON:  {0x4a200000, 0x52000000, logical | inverted},
	ANDS: {0x6a000000, 0x72000000, logical | flags},
	BICS: {0x6a200000, 0x72000000, logical | inverted | flags},
	ADC:  {0x1a000000, 0, 0},
	ADCS: {0x3a000000, 0, 0},
	SBC:  {0x5a000000, 0, 0},
	SBCS: {0x7a000000, 0, 0},
}

// Shift is a shift or rotation.
type Shift uint8

const (
	LSL Shift = iota
	LSR
	ASR
	ROR
)

// Extend takes the low bits of a register and extends them.
type Extend uint8

const (
	UXTB Extend = iota
	UXTH
	UXTW
	UXTX // all 64 bits
	SXTB
	SXTH
	SXTW
	SXTX
)

// Binary is an operation of two registers and nothing else. Division by zero
// gives zero; shifts take the count modulo the size.
type Binary uint32

const (
	UDIV Binary = 0x1ac00800
	SDIV Binary = 0x1ac00c00
	LSLV Binary = 0x1ac02000
	LSRV Binary = 0x1ac02400
	ASRV Binary = 0x1ac02800
	RORV Binary = 0x1ac02c00
)

// Unary is an operation of one register.
type Unary uint32

const (
	RBIT  Unary = 0x5ac00000 // reverses bits
	REV16 Unary = 0x5ac00400 // bytes in each 16 bits
	REV32 Unary = 0x5ac00800 // bytes in each 32 bits
	REV   Unary = 0x5ac00c00 // bytes; of S32 it is written as REV32 is
	CLZ   Unary = 0x5ac01000 // leading zeros; all of them where there is no one
	CLS   Unary = 0x5ac01400 // leading bits equal to the sign, itself not counted
)

// MulAdd is acc ± x × y.
type MulAdd uint32

const (
	MADD   MulAdd = 0x1b000000
	MSUB   MulAdd = 0x1b008000
	SMADDL MulAdd = 0x1b200000 // of 32 bits each, to 64: S64 only
	SMSUBL MulAdd = 0x1b208000
	UMADDL MulAdd = 0x1ba00000
	UMSUBL MulAdd = 0x1ba08000
)

// MulHigh is the upper half of a product of 128 bits.
type MulHigh uint32

const (
	SMULH MulHigh = 0x9b407c00
	UMULH MulHigh = 0x9bc07c00
)

// Field takes bits of a register or puts them into one. X takes width bits at
// lsb and puts them lowest; IZ and I put the low bits at lsb.
type Field uint8

const (
	SBFX  Field = iota // extended by sign
	SBFIZ              // extended by sign, zeros below
	UBFX
	UBFIZ
	BFXIL // the rest of the destination stays
	BFI
)

// fields has SBFM, UBFM and BFM, by two.
var fields = [...]uint32{0x13000000, 0x53000000, 0x33000000}

// Select is a choice by a condition: the first operand, or what is made of the
// second.
type Select uint32

const (
	CSEL  Select = 0x1a800000
	CSINC Select = 0x1a800400 // y + 1
	CSINV Select = 0x5a800000 // ^y
	CSNEG Select = 0x5a800400 // -y
)

// Cond is a condition on flags.
type Cond uint8

const (
	EQ Cond = iota
	NE
	HS // unsigned ≥; carry
	LO
	MI // negative
	PL
	VS // overflow; of a float comparison: unordered
	VC
	HI // unsigned >
	LS
	GE // signed; of floats: ≥
	LT // of floats: < or unordered; MI is < alone
	GT // of floats: >
	LE // of floats: ≤ or unordered; LS is ≤ alone
	AL // always
)

// Not is the opposite condition. Of floats too: what is unordered changes sides.
func (c Cond) Not() Cond { return c ^ 1 }

// Sys is a system register.
type Sys uint32

const (
	FPCR Sys = 0xd51b4400 // rounding mode and more of floating point
	FPSR Sys = 0xd51b4420 // its cumulative flags
	NZCV Sys = 0xd51b4200
)

// Barrier says what a barrier orders, for the inner shareable domain.
type Barrier uint8

const (
	ISHLD Barrier = 0x9 // loads before it with all after it
	ISHST Barrier = 0xa // stores with stores
	ISH   Barrier = 0xb // all with all
)

// Float2 is an operation of two floats.
type Float2 uint32

const (
	FMUL   Float2 = 0x1e200800
	FDIV   Float2 = 0x1e201800
	FADD   Float2 = 0x1e202800
	FSUB   Float2 = 0x1e203800
	FMAX   Float2 = 0x1e204800
	FMIN   Float2 = 0x1e205800
	FMAXNM Float2 = 0x1e206800 // a quiet NaN loses to a number
	FMINNM Float2 = 0x1e207800
	FNMUL  Float2 = 0x1e208800
)

// Float1 is an operation of one float.
type Float1 uint32

const (
	FMOV   Float1 = 0x1e204000
	FABS   Float1 = 0x1e20c000
	FNEG   Float1 = 0x1e214000
	FSQRT  Float1 = 0x1e21c000
	FRINTN Float1 = 0x1e244000 // to an integer: ties to even
	FRINTP Float1 = 0x1e24c000 // up
	FRINTM Float1 = 0x1e254000 // down
	FRINTZ Float1 = 0x1e25c000 // to zero
	FRINTA Float1 = 0x1e264000 // ties away
	FRINTX Float1 = 0x1e274000 // as FPCR says, Inexact raised
	FRINTI Float1 = 0x1e27c000 // as FPCR says
)

// Float3 is a fused multiplication and addition.
type Float3 uint32

const (
	FMADD  Float3 = 0x1f000000 // a + x × y
	FMSUB  Float3 = 0x1f008000 // a - x × y
	FNMADD Float3 = 0x1f200000 // -a - x × y
	FNMSUB Float3 = 0x1f208000 // -a + x × y
)

// Compare compares floats and sets flags: unordered 0011, less 1000, equal 0110,
// greater 0010 (NZCV). FCMP is quiet with quiet NaNs.
type Compare uint32

const (
	FCMP  Compare = 0x1e202000
	FCMPE Compare = 0x1e202010
)

// ToFloat converts an integer, rounded as FPCR says.
type ToFloat uint32

const (
	SCVTF ToFloat = 0x1e220000
	UCVTF ToFloat = 0x1e230000
)

// ToInt converts a float, signed or unsigned. What does not fit gives the
// nearest that does, a NaN gives 0, and either raises Invalid.
type ToInt uint32

const (
	FCVTNS ToInt = 0x1e200000 // ties to even
	FCVTNU ToInt = 0x1e210000
	FCVTAS ToInt = 0x1e240000 // ties away
	FCVTAU ToInt = 0x1e250000
	FCVTPS ToInt = 0x1e280000 // up
	FCVTPU ToInt = 0x1e290000
	FCVTMS ToInt = 0x1e300000 // down
	FCVTMU ToInt = 0x1e310000
	FCVTZS ToInt = 0x1e380000 // to zero
	FCVTZU ToInt = 0x1e390000
)

// Logic8 is an operation of 64 bits of vector registers; it clears the others.
type Logic8 uint32

const (
	VAND   Logic8 = 0x0e201c00
	VBIC   Logic8 = 0x0e601c00
	VORR   Logic8 = 0x0ea01c00
	VORN   Logic8 = 0x0ee01c00
	VEOR   Logic8 = 0x2e201c00
	VBSL   Logic8 = 0x2e601c00 // dst picks: x where it is 1, y where 0
	VBIT   Logic8 = 0x2ea01c00 // x where y is 1, else dst
	VBIF   Logic8 = 0x2ee01c00 // x where y is 0, else dst
	VCMTST Logic8 = 0x0e208c00 // a byte of ones where x & y is not 0
)

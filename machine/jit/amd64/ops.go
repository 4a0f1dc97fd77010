// SPDX-License-Identifier: Apache-2.0

package amd64

// enc is an opcode as the manual writes it: mandatory prefix, map, last byte.
// Prefixes and maps are numbered as in VEX.pp and VEX.mmmmm (SDM 2.3.6).
type enc uint16

const (
	m0F   enc = 1 << 8
	m0F38 enc = 2 << 8
	m0F3A enc = 3 << 8

	p66 enc = 1 << 10
	pF3 enc = 2 << 10
	pF2 enc = 3 << 10

	mapMask = m0F | m0F38 | m0F3A
)

var (
	prefixes = [4]word{{0, 0}, {0x66, 8}, {0xf3, 8}, {0xf2, 8}}
	escapes  = [4]word{{0, 0}, {0x0f, 8}, {0x380f, 16}, {0x3a0f, 16}}
)

// Opcodes with one mnemonic and one shape. Where a method goes through sized,
// this is the opcode for 8 bits, and the next is for the other sizes.
const (
	opStore    enc = 0x88
	opLoad     enc = 0x8a
	opStoreImm enc = 0xc6 // /0
	opTest     enc = 0x84
	opTestAcc  enc = 0xa8
	opLea      enc = 0x8d
	opMovsxd   enc = 0x63
	opMovzx8       = m0F | 0xb6
	opMovzx16      = m0F | 0xb7
	opMovsx8       = m0F | 0xbe
	opMovsx16      = m0F | 0xbf
	opImul         = m0F | 0xaf
	opImulImm8 enc = 0x6b
	opImulImm  enc = 0x69
	opALUImm   enc = 0x80
	opALUImm8  enc = 0x83
	opUnary    enc = 0xf6
	opShiftImm enc = 0xc0
	opShift1   enc = 0xd0
	opShiftCL  enc = 0xd2
	opMovbeTo      = m0F38 | 0xf0
	opMovbeOf      = m0F38 | 0xf1
	opBitImm       = m0F | 0xba
	opCmov         = m0F | 0x40 // + condition
	opSet          = m0F | 0x90 // + condition
	opGroup5   enc = 0xff       // /2 call, /4 jmp
	opMXCSR        = m0F | 0xae // /2 load, /3 store
	opRorx         = pF2 | m0F3A | 0xf0
	opAndn         = m0F38 | 0xf2

	opMovaps = m0F | 0x28
	opMovd   = p66 | m0F | 0x6e // movd, movq to xmm
	opMovdOf = p66 | m0F | 0x7e // from xmm
	opClmul  = p66 | m0F3A | 0x44
	opPextr  = p66 | m0F3A | 0x16
)

// sized picks the opcode of a pair: even for 8 bits, odd for the rest.
func sized(e enc, s Size) enc {
	if s == S8 {
		return e
	}
	return e | 1
}

// ALU is an operation of two integers. Its number is the opcode digit, and its
// opcodes begin at eight times that.
type ALU uint8

const (
	ADD ALU = iota
	OR
	ADC
	SBB
	AND
	SUB
	XOR
	CMP
)

// Unary is an operation of opcode F7; MUL to IDIV have RDX:RAX for their other
// operand.
type Unary uint8

const (
	NOT Unary = iota + 2
	NEG
	MUL
	IMUL
	DIV
	IDIV
)

// Shift is a shift or rotation.
type Shift uint8

const (
	ROL Shift = 0
	ROR Shift = 1
	SHL Shift = 4
	SHR Shift = 5
	SAR Shift = 7
)

// ShiftX is a shift that leaves flags alone (BMI2).
type ShiftX enc

const (
	SHLX = ShiftX(p66 | m0F38 | 0xf7)
	SHRX = ShiftX(pF2 | m0F38 | 0xf7)
	SARX = ShiftX(pF3 | m0F38 | 0xf7)
)

// Count counts bits: those set, or the zeros at one end (POPCNT, LZCNT, BMI1).
type Count enc

const (
	POPCNT = Count(pF3 | m0F | 0xb8)
	TZCNT  = Count(pF3 | m0F | 0xbc)
	LZCNT  = Count(pF3 | m0F | 0xbd)
)

// Bit copies a bit to the carry flag, and changes it there.
type Bit uint8

const (
	BT Bit = iota + 4
	BTS
	BTR
	BTC
)

// reg is the opcode for a bit number in a register.
func (op Bit) reg() enc { return m0F | 0x83 | enc(op)<<3 }

// Cond is a condition on flags.
type Cond uint8

const (
	O  Cond = iota
	NO      // no overflow
	B       // below, unsigned; carry
	AE
	E
	NE
	BE
	A
	S // sign
	NS
	P // parity; of a float comparison: unordered
	NP
	L // less, signed
	GE
	LE
	G
)

// Not is the opposite condition.
func (c Cond) Not() Cond { return c ^ 1 }

// SSE is an operation on XMM registers. Its two-operand form is SSE, its
// three-operand form the same opcode with VEX (AVX).
type SSE enc

const (
	ADDSS      = SSE(pF3 | m0F | 0x58)
	ADDSD      = SSE(pF2 | m0F | 0x58)
	MULSS      = SSE(pF3 | m0F | 0x59)
	MULSD      = SSE(pF2 | m0F | 0x59)
	SUBSS      = SSE(pF3 | m0F | 0x5c)
	SUBSD      = SSE(pF2 | m0F | 0x5c)
	DIVSS      = SSE(pF3 | m0F | 0x5e)
	DIVSD      = SSE(pF2 | m0F | 0x5e)
	SQRTSS     = SSE(pF3 | m0F | 0x51)
	SQRTSD     = SSE(pF2 | m0F | 0x51)
	MINSS      = SSE(pF3 | m0F | 0x5d)
	MINSD      = SSE(pF2 | m0F | 0x5d)
	MAXSS      = SSE(pF3 | m0F | 0x5f)
	MAXSD      = SSE(pF2 | m0F | 0x5f)
	CVTSS2SD   = SSE(pF3 | m0F | 0x5a)
	CVTSD2SS   = SSE(pF2 | m0F | 0x5a)
	ANDPS      = SSE(m0F | 0x54)
	ANDNPS     = SSE(m0F | 0x55)
	ORPS       = SSE(m0F | 0x56)
	XORPS      = SSE(m0F | 0x57)
	PAND       = SSE(p66 | m0F | 0xdb)
	PANDN      = SSE(p66 | m0F | 0xdf)
	POR        = SSE(p66 | m0F | 0xeb)
	PXOR       = SSE(p66 | m0F | 0xef)
	PUNPCKHQDQ = SSE(p66 | m0F | 0x6d)
)

// Compare compares floats and sets flags. UCOMI is quiet with quiet NaNs.
type Compare enc

const (
	UCOMISS = Compare(m0F | 0x2e)
	UCOMISD = Compare(p66 | m0F | 0x2e)
	COMISS  = Compare(m0F | 0x2f)
	COMISD  = Compare(p66 | m0F | 0x2f)
)

// FMA is a fused multiplication and addition (FMA3). Of operands 1, 2 and 3,
// the numbers name the factors first and the term last. Double precision has the
// same opcode, with VEX.W.
type FMA enc

const (
	VFMADD132  = FMA(p66 | m0F38 | 0x99)
	VFMSUB132  = FMA(p66 | m0F38 | 0x9b)
	VFNMADD132 = FMA(p66 | m0F38 | 0x9d)
	VFNMSUB132 = FMA(p66 | m0F38 | 0x9f)
	VFMADD213  = FMA(p66 | m0F38 | 0xa9)
	VFMSUB213  = FMA(p66 | m0F38 | 0xab)
	VFNMADD213 = FMA(p66 | m0F38 | 0xad)
	VFNMSUB213 = FMA(p66 | m0F38 | 0xaf)
	VFMADD231  = FMA(p66 | m0F38 | 0xb9)
	VFMSUB231  = FMA(p66 | m0F38 | 0xbb)
	VFNMADD231 = FMA(p66 | m0F38 | 0xbd)
	VFNMSUB231 = FMA(p66 | m0F38 | 0xbf)
)

// ToFloat converts an integer.
type ToFloat enc

const (
	CVTSI2SS = ToFloat(pF3 | m0F | 0x2a)
	CVTSI2SD = ToFloat(pF2 | m0F | 0x2a)
)

// ToInt converts a float, rounded as MXCSR says, or with TT toward zero.
type ToInt enc

const (
	CVTTSS2SI = ToInt(pF3 | m0F | 0x2c)
	CVTTSD2SI = ToInt(pF2 | m0F | 0x2c)
	CVTSS2SI  = ToInt(pF3 | m0F | 0x2d)
	CVTSD2SI  = ToInt(pF2 | m0F | 0x2d)
)

// Round rounds a float to an integer.
type Round enc

const (
	ROUNDSS = Round(p66 | m0F3A | 0x0a)
	ROUNDSD = Round(p66 | m0F3A | 0x0b)
)

// nops are the longest no-ops of each length (SDM, NOP).
var nops = [10][9]byte{
	1: {0x90},
	2: {0x66, 0x90},
	3: {0x0f, 0x1f, 0x00},
	4: {0x0f, 0x1f, 0x40, 0x00},
	5: {0x0f, 0x1f, 0x44, 0x00, 0x00},
	6: {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00},
	7: {0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00},
	8: {0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},
	9: {0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},
}

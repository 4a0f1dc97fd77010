// SPDX-License-Identifier: Apache-2.0

package softfloat_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"tandem/host/codemem"
	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/jit"
	"tandem/machine/riscv"
	"tandem/machine/softfloat"
)

// Where the program of TestTranslated is.
const (
	codeAt, recordsAt, resultsAt = 0x8000_0000, 0x8010_0000, 0x8020_0000
	recordSize, resultSize       = 48, 16
	translatedRecords            = 4000
)

// asm writes the program.
type asm struct {
	code  []byte
	steps int // of its functions so far
}

// Its registers.
const (
	x0      = 0
	at      = 10 // record
	to      = 11 // result
	left    = 12
	integer = 13 // operand and result
	flags   = 14
	records = 18
	results = 19
	count   = 20
)

func (a *asm) word(w uint32) { a.code = binary.LittleEndian.AppendUint32(a.code, w) }

func (a *asm) op(op riscv.Op, rd, rs1 uint32, imm int32) {
	w, _ := riscv.Encoding(op)
	v := uint32(imm)
	switch riscv.FormatOf(op) {
	case riscv.FormatS: // rd is the source
		a.word(w | v&31<<7 | rs1<<15 | rd<<20 | v>>5<<25)
	case riscv.FormatB:
		a.word(w | v>>11&1<<7 | v>>1&15<<8 | rs1<<15 | rd<<20 | v>>5&63<<25 | v>>12&1<<31)
	case riscv.FormatU:
		a.word(w | rd<<7 | v&^0xfff)
	case riscv.FormatJ: // forward, below 2 KiB
		a.word(w | rd<<7 | v<<20)
	default:
		a.word(w | rd<<7 | rs1<<15 | v<<20)
	}
}

// function executes an operation with all records. Jumps make of it a block of
// its own, with its loads and its store.
func (a *asm) function(op riscv.Op, rm, frm, before uint32) {
	single, result := strings.HasSuffix(op.String(), ".s"), "f"
	load, first, size := riscv.FLD, int32(0), int32(8)
	if single {
		load, first, size = riscv.FLW, 32, 4
	}
	a.op(riscv.CSRRWI, x0, frm, 2)
	a.op(riscv.ADDI, at, records, 0)
	a.op(riscv.ADDI, to, results, 0)
	a.op(riscv.ADDI, left, count, 0)
	loop := len(a.code)
	a.op(riscv.CSRRWI, x0, before, 1)
	a.op(riscv.JAL, x0, 0, 4)
	for i := range int32(3) {
		a.op(load, uint32(1+i), at, first+i*size)
	}
	a.op(riscv.LD, integer, at, 24)
	match, mask := riscv.Encoding(op)
	w := rm<<12 | 4<<7 | 1<<15 | 2<<20 | 3<<27
	switch name := op.String(); {
	case strings.HasPrefix(name, "fcvt.d.s"), strings.HasPrefix(name, "fcvt.s.d"):
	case strings.HasPrefix(name, "fcvt.d."), strings.HasPrefix(name, "fcvt.s."):
		w = w&^(31<<15) | integer<<15
	case strings.HasPrefix(name, "fcvt."), op == riscv.FCLASS_S, op == riscv.FCLASS_D, isCompare(op):
		w, result = w&^(31<<7)|integer<<7, "x"
	}
	a.word(match | w&^mask)
	if result == "f" {
		a.op(riscv.FSD, 4, to, 0)
	} else {
		a.op(riscv.SD, integer, to, 0)
	}
	a.op(riscv.JAL, x0, 0, 4)
	a.op(riscv.CSRRS, flags, x0, 1)
	a.op(riscv.SD, flags, to, 8)
	a.op(riscv.ADDI, at, at, recordSize)
	a.op(riscv.ADDI, to, to, resultSize)
	a.op(riscv.ADDI, left, left, -1)
	a.op(riscv.BNE, x0, left, int32(loop-len(a.code)))
	a.steps = 4 + (len(a.code)-loop)/4*translatedRecords
}

func isCompare(op riscv.Op) bool {
	switch op {
	case riscv.FEQ_S, riscv.FLT_S, riscv.FLE_S, riscv.FEQ_D, riscv.FLT_D, riscv.FLE_D:
		return true
	}
	return false
}

// test is one function of the program.
type test struct {
	op              riscv.Op
	rm, frm, before uint32
	steps           int
}

// program is all operations in all modes, given by the instruction and by frm.
func program() (code []byte, tests []test) {
	const dyn = 7
	a := &asm{}
	a.op(riscv.LUI, 5, 0, 3<<13)
	a.op(riscv.CSRRS, x0, 5, 0x300) // mstatus.FS
	a.op(riscv.AUIPC, records, 0, recordsAt-codeAt)
	a.op(riscv.ADDI, records, records, -8)
	a.op(riscv.AUIPC, results, 0, resultsAt-codeAt)
	a.op(riscv.ADDI, results, results, -16)
	a.op(riscv.LUI, count, 0, (translatedRecords+0x800)&^0xfff)
	a.op(riscv.ADDI, count, count, translatedRecords<<20>>20&0xfff|-(translatedRecords&0x800))
	for op := riscv.FMADD_S; op <= riscv.FCVT_D_LU; op++ {
		if _, ok := softfloat.Execute(op.String(), softfloat.Operands{}, 0, new(softfloat.Flags)); !ok {
			continue
		}
		if f := riscv.FormatOf(op); f != riscv.FormatRM && f != riscv.FormatRM1 && f != riscv.FormatR4 {
			a.function(op, 0, 0, 0)
			tests = append(tests, test{op, 0, 0, 0, a.steps})
			continue
		}
		for rm := range uint32(5) {
			for i, how := range [][2]uint32{{dyn, rm}, {rm, rm}, {rm, (rm + 1) % 4}} {
				before := (rm + uint32(i)) & 1 // NX or nothing
				a.function(op, how[0], how[1], before)
				tests = append(tests, test{op, rm, how[1], before, a.steps})
			}
		}
	}
	a.op(riscv.JAL, x0, 0, 0)
	return a.code, tests
}

// Translated code computes what this package does, flags included, for every
// operation in every rounding mode, with operands that are hard to get right.
func TestTranslated(t *testing.T) {
	if !codemem.Supported() {
		t.Skip("this host has no translator")
	}
	defer func(before uint8) { jit.HotAfter = before }(jit.HotAfter)
	jit.HotAfter = 1
	code, tests := program()
	operands := softfloat.Draw(2, translatedRecords)
	var input bytes.Buffer
	binary.Write(&input, binary.LittleEndian, operands)
	boot := machine.Boot{Mode: machine.BootELF, Entry: codeAt, Segments: []machine.Segment{{Addr: codeAt, Data: code}, {Addr: recordsAt, Data: input.Bytes()}}}
	const ram = 4 << 20
	m, err := machine.New(machine.Config{Harts: 1, RAM: ram, Levels: 3, Boot: boot}, make([]byte, ram))
	if err != nil {
		t.Fatal(err)
	}
	cache, err := codemem.New(4 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	m.Translate(cache.RW, cache.RX())
	if err := m.Apply(event.Clock{Rate: 1, Limit: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	const preamble = 6 + 8 // of the reset vector and of program
	m.Run(preamble)
	out := make([]byte, resultSize*translatedRecords)
	for _, c := range tests {
		m.Run(m.Step() + event.Step(c.steps))
		m.Memory(resultsAt, out)
		for i, o := range operands {
			f := softfloat.Flags(c.before)
			want, _ := softfloat.Execute(c.op.String(), o, softfloat.RM(c.rm), &f)
			got, flags := binary.LittleEndian.Uint64(out[resultSize*i:]), binary.LittleEndian.Uint64(out[resultSize*i+8:])
			if single := c.op.String(); strings.HasSuffix(single, ".s") && !strings.HasPrefix(single, "fcvt.") || strings.HasPrefix(single, "fcvt.s") {
				if !isCompare(c.op) && c.op != riscv.FCLASS_S {
					want |= 0xffff_ffff_0000_0000
				}
			}
			if got != want || flags != uint64(f) {
				t.Fatalf("record %d: %v, mode %d, frm %d, flags %#x before: got %#x flags %#x, want %#x flags %#x\noperands %#x",
					i, c.op, c.rm, c.frm, c.before, got, flags, want, f, o)
			}
		}
	}
	t.Logf("%d functions of %d records", len(tests), translatedRecords)
}

// SPDX-License-Identifier: Apache-2.0

// Package replay makes the log of a machine and makes a machine from its log.
//
// A Recorder runs the primary: it numbers each input, places it at the step the
// machine has reached, applies it and hands the entry to the log. A Replayer
// runs a backup: it brings the machine to the step of each entry and applies it
// by the same code, so that the two machines are the same (paper §2.1). A log
// travels in batches over the logging channel or in a file (Writer, Reader).
//
//	Recorder ──entries──► Encoder ──bytes──► Decoder ──entries──► Replayer
//	   │ Run, Apply                                       Run, Apply │
//	machine ───────────────── same state at every step ────────── machine
//
// A copy that stops being the same is a *Divergence, found at the first sign: a
// hash that differs, an output without its mark or a mark without its output, a
// machine that waits where the log says it ran, an input that it refuses.
//
// # Encoding, Version 1
//
// uvarint is LEB128 of at most 64 bits, in its shortest form. zigzag is a uvarint
// of (x<<1) ^ (x>>63) of a signed difference; differences of unsigned values wrap
// at 2^64. bytes is a uvarint length and that many bytes. After the head of a
// batch, entries have one encoding only; what an Encoder would not write is refused.
//
//	batch:  first   uvarint  Seq of the first entry, not 0; the others count up
//	        step    uvarint  the step before the first entry's delta
//	        entry…           up to the end of the batch, or on without end
//
//	entry:  head    1 byte   bits 0–3 kind, bits 4–6 by kind, bit 7 GoLive
//	        delta   uvarint  steps since the entry before
//	        body             by kind:
//
//	1 Clock      head bit 4: rate and window are those of the clock before
//	             base    zigzag   what the clock before reads at this step, subtracted from Base
//	             rate    zigzag   Rate minus the one before; absent with bit 4
//	             window  zigzag   (Limit − step) minus the one before; absent with bit 4
//	2 Frames     device  1 byte   0–7, or 255 for the UART, here and below
//	             count   uvarint  at most 1024, then per frame:
//	             size    uvarint  length of data times 2, plus 1 if an offload follows
//	             offload          flags 1 byte, GSO type 1 byte, then HdrLen,
//	                              GSOSize, CsumStart, CsumOffset as uvarints
//	             data             at most 66 KiB, of all frames 15 MiB
//	3 DiskDone   head bits 4–5: Status (3 is refused); bit 6: FromDisk
//	             device  1 byte
//	             id      uvarint
//	             data    bytes    at most 8 MiB; absent with FromDisk
//	4 ConsoleIn  device  1 byte
//	             data    bytes    at most 64 KiB
//	5 Entropy    device  1 byte
//	             id      uvarint
//	             data    bytes    at most 64 KiB
//	6 OutputMark last    zigzag   Last minus that of the mark before
//	7 Released   last    zigzag   Last of the mark before, minus Last
//	8 Control    op      1 byte   1–6, 16–19
//	             arg     uvarint
//	9 Hash       state   8 bytes  little-endian
//	             memory  8 bytes  little-endian
//	10 Medium    device  1 byte
//	             size    uvarint  Capacity
//	             source  bytes    at most 4 KiB
//	             mirror  bytes    at most 4 KiB
//
// "Before" is counted from the start of the batch, where all is zero: a clock
// of base, rate and window 0 stands before the first. An entry is at most 16 MiB.
//
// # Recording
//
// A file; all integers are little-endian, crc is CRC-32C.
//
//	prefix:  "TANDEMLG", version uint32, crc uint32 of these 12 bytes
//	record:  tag 4 bytes, length uint32, crc uint32 of the body, crc uint32 of
//	         the 12 bytes before; then the body, length bytes
//
//	"DESC"   once, first: the machine's description, opaque here
//	"BTCH"   a batch; the Seqs of a file's batches are consecutive
//	"DONE"   once, last: Seq uint64 and Step uint64 of the last entry
//
// The prefix has this form in all versions.
package replay

import (
	"fmt"

	"tandem/machine/event"
)

// Machine is what can be recorded and replayed: a pure function of its inputs.
type Machine interface {
	// Step is the number of steps executed.
	Step() event.Step
	// Run executes until a reason to stop, and never past step limit. Only steps
	// and inputs emit outputs: Run(Step()) changes nothing.
	Run(limit event.Step) event.Stop
	// Apply carries out an input at the current step. An input that it refuses
	// changes nothing.
	Apply(in event.Input) error
	// Outputs takes what Run and Apply have emitted, in order of ID.
	Outputs() []event.Output
	// Hash computes the content of the Hash entry with number seq. It is called
	// once for each such entry, on both sides.
	Hash(seq event.Seq) event.Hash
}

// cursor is a machine and its place in the log: what Recorder and Replayer share.
type cursor struct {
	m        Machine
	seq      event.Seq      // of the last entry applied
	output   event.OutputID // of the last output emitted
	unmarked bool           // an external output was emitted since the last mark
	outputs  []event.Output // emitted, not yet taken
	recent   recent
}

// Executed returns the last entry applied and the step that the machine has reached.
func (c *cursor) Executed() (event.Seq, event.Step) { return c.seq, c.m.Step() }

// LastOutput returns the number of the last output that the machine has emitted.
func (c *cursor) LastOutput() event.OutputID { return c.output }

// Outputs takes the outputs emitted since the last call, in order.
func (c *cursor) Outputs() []event.Output {
	out := c.outputs
	c.outputs = nil
	return out
}

// collect takes what the machine has emitted. Outputs that only ask for an input
// (reads, entropy) need no mark: the answer's entry proves them.
func (c *cursor) collect() error {
	for _, o := range c.m.Outputs() {
		if o.ID != c.output+1 {
			return c.diverged(c.seq, PlaceOutput,
				fmt.Sprintf("output %d", c.output+1), fmt.Sprintf("output %d", o.ID))
		}
		c.output = o.ID
		c.unmarked = c.unmarked || o.External()
		c.outputs = append(c.outputs, o)
	}
	return nil
}

// apply carries out an entry whose step the machine has reached: the one rule
// for primary and backup. logged is the entry as the log has it, in the input as
// the machine gets it; they differ in the payload of a DiskDone only.
func (c *cursor) apply(logged event.Entry, in event.Input) error {
	switch in := in.(type) {
	case event.OutputMark:
		if in.Last != c.output {
			return c.diverged(logged.Seq, PlaceOutput,
				fmt.Sprintf("output %d emitted last", in.Last), fmt.Sprintf("output %d", c.output))
		}
		c.unmarked = false
	case event.Released:
		if in.Last > c.output {
			return c.diverged(logged.Seq, PlaceOutput,
				fmt.Sprintf("output %d released", in.Last), fmt.Sprintf("only %d emitted", c.output))
		}
	case event.Hash:
		if err := c.compare(logged.Seq, in); err != nil {
			return err
		}
	default:
		if err := c.m.Apply(in); err != nil {
			return fmt.Errorf("input refused: %w", err)
		}
	}
	c.done(logged)
	return c.collect()
}

func (c *cursor) done(e event.Entry) {
	c.seq = e.Seq
	c.recent.add(e)
}

func (c *cursor) compare(seq event.Seq, want event.Hash) error {
	got := c.m.Hash(seq)
	switch {
	case got.State != want.State:
		return c.diverged(seq, PlaceState, fmt.Sprintf("hash %016x", want.State), fmt.Sprintf("%016x", got.State))
	case got.Memory != want.Memory:
		return c.diverged(seq, PlaceMemory, fmt.Sprintf("hash %016x", want.Memory), fmt.Sprintf("%016x", got.Memory))
	}
	return nil
}

func (c *cursor) diverged(seq event.Seq, place Place, want, got string) error {
	return &Divergence{Seq: seq, Step: c.m.Step(), Place: place, Want: want, Got: got, Recent: c.recent.list()}
}

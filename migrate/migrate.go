// SPDX-License-Identifier: Apache-2.0

// Package migrate clones a machine to another host while it runs (paper §3.1): a
// Source turns a machine into parts that each fit into one packet of the channel, a
// Target builds the machine from them.
//
//	         machine runs ─────────────────────────► │ machine runs, its log is sent too
//	Source ── config ── round 0: all pages that are  │ last round ── state ──► Target
//	          not zero ── round 1: those written     │
//	          since ── …                       Freeze: the step of the clone
//
// Pre-copy makes the last round small: rounds go on while each leaves much less to
// do than the one before (Settled). At Freeze the machine's state is taken, and that
// is all it stands still for: pages of the last round that it stores to are saved
// first (mem.Copy). So a guest that writes faster than its pages leave costs no
// longer pause; the last round is long then, and the backup begins with a lag as
// long as that takes. Its memory is bounded by MaxSaved: the machine must wait while
// more is saved, which slows it to what the network takes.
//
// Neither side works on more than a part at a time, so that heartbeats, the log and
// the guest go on between them.
//
// A part is a byte for its kind and a body compressed with Zstandard: 1, a piece of
// the encoded machine.Config, without what its boot segments hold, and an empty one
// when that is whole; 4, between the two, a piece of a segment: its index (4 bytes,
// little-endian) and bytes; 2, pages, each its number (4
// bytes, little-endian) and 4096 bytes, or with bit 31 of the number set no bytes: it
// is all zero; 3, a piece of the state, whose last is empty.
package migrate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"

	"tandem/machine"
	"tandem/machine/mem"
	"tandem/machine/state"
)

// Kinds of parts.
const (
	partConfig = 1
	partPages  = 2
	partState  = 3
	partBoot   = 4
)

const (
	pagesPerPart = 64
	looksPerPart = 512 // pages that may be zero, and are made as they are looked at
	pageRecord   = 4 + mem.PageSize
	zeroRecord   = 1 << 31 // in the number of a page without bytes
	// maxBody bounds a body when decompressed.
	maxBody    = pagesPerPart * pageRecord
	pieceBytes = 256 << 10
	// maxState bounds the encoded config and state.
	maxState = machine.MaxBootBytes + 256<<20
)

// The rounds end when little is left, at most 4 MiB or a 64th of memory, or when
// another would not make it much less, which is not judged by the first ones: the
// guest gets less of the time from round to round.
const (
	littlePages = 1024
	littlePart  = 64
	judgedRound = 4
	maxRounds   = 8
)

// MaxSaved is how many pages a machine may have saved after Freeze (64 MiB); with
// more it must wait until parts have left.
const MaxSaved = 16 << 10

// ErrPart is wrapped by the errors of parts that no Source makes.
var ErrPart = errors.New("invalid part of a clone")

// Source makes the parts of a machine.
type Source struct {
	m       *machine.Machine
	copy    *mem.Copy
	zip     *zstd.Encoder
	config  []byte
	boot    []machine.Segment // still to be sent
	segment uint32            // the index of the first
	state   []byte
	stage   stage
	round   int
	size    int // pages of this round
	bytes   int // of all parts so far
	scratch []byte
}

type stage uint8

const (
	config stage = iota
	rounds
	lastRound
	rest // the state
	ended
)

// NewSource begins a clone. It must be closed, whole or not.
func NewSource(m *machine.Machine) (*Source, error) {
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	s := &Source{m: m, zip: zip, size: int(m.Pages())}
	// The kernel and the initrd are large: they are not copied here.
	cfg := m.Config()
	s.boot = slices.Clone(cfg.Boot.Segments)
	cfg.Boot.Segments = slices.Clone(s.boot)
	for i := range cfg.Boot.Segments {
		cfg.Boot.Segments[i].Data = nil
	}
	var b bytes.Buffer
	c := state.Saver(&b)
	cfg.State(c)
	if c.Err() != nil {
		return nil, c.Err()
	}
	s.config, s.copy = b.Bytes(), m.StartCopy()
	return s, nil
}

// Next returns the next part; ok is false if there is none now: it is time for
// Freeze, or the pages that it looked at were zero, or the clone has ended.
func (s *Source) Next() (part []byte, ok bool) {
	switch s.stage {
	case config:
		if body := s.piece(&s.config); len(body) > 0 {
			return s.pack(partConfig, body), true
		}
		if body := s.bootPiece(); len(body) > 0 {
			return s.pack(partBoot, body), true
		}
		s.stage = rounds
		return s.pack(partConfig, nil), true
	case rounds, lastRound:
		if body := s.pages(); len(body) > 0 {
			return s.pack(partPages, body), true
		}
		if s.stage == rounds {
			return nil, false
		}
		s.stage = rest
		fallthrough
	case rest:
		body := s.piece(&s.state)
		if len(body) == 0 {
			s.stage = ended
		}
		return s.pack(partState, body), true
	}
	return nil, false
}

// Settled reports that it is time for Freeze.
func (s *Source) Settled() bool {
	return s.stage == rounds && s.copy.Left() == 0 && s.enough()
}

func (s *Source) enough() bool {
	n := s.copy.Written()
	return n <= min(littlePages, int(s.m.Pages())/littlePart) || s.round >= judgedRound && n > s.size*3/4 || s.round == maxRounds
}

// Freeze makes the present step that of the clone. The machine must be between
// steps, its outputs taken; it may go on at once.
func (s *Source) Freeze() error {
	var b bytes.Buffer
	if err := s.m.SaveState(&b); err != nil {
		return err
	}
	s.state, s.size = b.Bytes(), s.copy.Written()+s.copy.Left()
	s.copy.Freeze()
	s.stage = lastRound
	return nil
}

// Frozen reports that Freeze has been called, and Ended that the last part is made.
func (s *Source) Frozen() bool { return s.stage >= lastRound }
func (s *Source) Ended() bool  { return s.stage == ended }

// Saved is how many pages the machine has saved since Freeze; see MaxSaved.
func (s *Source) Saved() int { return s.copy.Saved() }

// Close gives up what is left of the clone; the machine is as if there had been none.
func (s *Source) Close() {
	s.copy.End()
	s.zip.Close()
}

// Progress is how far a clone has come.
type Progress struct {
	Round   int
	Pages   int // of the round
	Left    int // of these
	Written int // since they were sent: what another round would have
	Bytes   int // of all parts
}

// Progress returns how far the clone has come.
func (s *Source) Progress() Progress {
	return Progress{Round: s.round, Pages: s.size, Left: s.copy.Left(), Written: s.copy.Written(), Bytes: s.bytes}
}

func (s *Source) piece(b *[]byte) []byte {
	n := min(len(*b), pieceBytes)
	p := (*b)[:n]
	*b = (*b)[n:]
	return p
}

// bootPiece is the next piece of a segment, behind its index.
func (s *Source) bootPiece() []byte {
	for len(s.boot) > 0 && len(s.boot[0].Data) == 0 {
		s.boot = s.boot[1:]
		s.segment++
	}
	if len(s.boot) == 0 {
		return nil
	}
	s.scratch = binary.LittleEndian.AppendUint32(s.scratch[:0], s.segment)
	s.scratch = append(s.scratch, s.piece(&s.boot[0].Data)...)
	return s.scratch
}

// pages collects the next pages. In round 0 those that are zero need not be sent.
func (s *Source) pages() []byte {
	s.scratch = s.scratch[:0]
	for len(s.scratch) == 0 {
		if s.copy.Left() == 0 {
			if s.stage != rounds || s.enough() {
				break
			}
			s.round++
			s.size = s.copy.Written()
			s.copy.NextRound()
		}
		s.copy.Take(looksPerPart, s.take)
		if s.round == 0 && s.stage == rounds {
			break // so many pages of zeros are enough for one turn
		}
	}
	return s.scratch
}

func (s *Source) take(p mem.PFN, b []byte) (more bool) {
	zero := bytes.Equal(b, zeroPage[:])
	switch {
	case !zero:
		s.scratch = append(binary.LittleEndian.AppendUint32(s.scratch, uint32(p)), b...)
	case s.round > 0 || s.stage == lastRound:
		s.scratch = binary.LittleEndian.AppendUint32(s.scratch, uint32(p)|zeroRecord)
	}
	return len(s.scratch) <= maxBody-pageRecord
}

var zeroPage [mem.PageSize]byte

func (s *Source) pack(kind byte, body []byte) []byte {
	part := s.zip.EncodeAll(body, []byte{kind})
	s.bytes += len(part)
	return part
}

// Target builds a machine from parts.
type Target struct {
	newRAM func(size uint64) ([]byte, error)
	unzip  *zstd.Decoder
	config []byte
	boot   [][]byte // by segment
	size   int      // of config, boot and state
	state  []byte
	m      *machine.Machine
	ended  bool // the last part came, or one that can't be used
}

// NewTarget returns a Target that gets the memory of its machine from newRAM.
func NewTarget(newRAM func(size uint64) ([]byte, error)) (*Target, error) {
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2*maxBody))
	return &Target{newRAM: newRAM, unzip: unzip}, err
}

// Part takes the next part. With the last it returns the machine. The first error
// is final.
func (t *Target) Part(part []byte) (*machine.Machine, error) {
	m, err := t.part(part)
	if m != nil || err != nil {
		t.ended, t.config, t.boot, t.state, t.m = true, nil, nil, nil, nil
		t.unzip.Close()
	}
	return m, err
}

func (t *Target) part(part []byte) (*machine.Machine, error) {
	switch {
	case t.ended:
		return nil, fmt.Errorf("%w: the clone has ended", ErrPart)
	case len(part) == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrPart)
	}
	body, err := t.unzip.DecodeAll(part[1:], nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPart, err)
	}
	if len(body) > maxBody {
		return nil, fmt.Errorf("%w: a body of %d bytes, the limit is %d", ErrPart, len(body), maxBody)
	}
	switch kind := part[0]; {
	case kind == partConfig && t.m == nil:
		return nil, t.takeConfig(body)
	case kind == partBoot && t.m == nil:
		return nil, t.takeBoot(body)
	case kind == partPages && t.m != nil:
		return nil, t.takePages(body)
	case kind == partState && t.m != nil:
		return t.takeState(body)
	}
	return nil, fmt.Errorf("%w: kind %d out of turn", ErrPart, part[0])
}

func (t *Target) takeConfig(body []byte) error {
	if len(body) > 0 {
		return t.grow(&t.config, body)
	}
	var cfg machine.Config
	c := state.Loader(bytes.NewReader(t.config))
	if cfg.State(c); c.Err() != nil {
		return c.Err()
	}
	if len(t.boot) > len(cfg.Boot.Segments) {
		return fmt.Errorf("%w: %d boot segments, there are %d", ErrPart, len(t.boot), len(cfg.Boot.Segments))
	}
	for i, b := range t.boot {
		cfg.Boot.Segments[i].Data = b
	}
	t.config, t.boot = nil, nil
	if err := cfg.CheckRAM(); err != nil {
		return err
	}
	ram, err := t.newRAM(cfg.RAM)
	if err != nil {
		return err
	}
	t.m, err = machine.Blank(cfg, ram)
	return err
}

func (t *Target) takeBoot(body []byte) error {
	if len(body) < 4 || binary.LittleEndian.Uint32(body) >= machine.MaxSegments {
		return fmt.Errorf("%w: a piece of no boot segment", ErrPart)
	}
	i := int(binary.LittleEndian.Uint32(body))
	for len(t.boot) <= i {
		t.boot = append(t.boot, nil)
	}
	return t.grow(&t.boot[i], body[4:])
}

func (t *Target) grow(b *[]byte, body []byte) error {
	if t.size += len(body); t.size > maxState {
		return fmt.Errorf("%w: more than %d bytes of state", ErrPart, maxState)
	}
	*b = append(*b, body...)
	return nil
}

func (t *Target) takePages(body []byte) error {
	for len(body) >= 4 {
		n := binary.LittleEndian.Uint32(body)
		p, b := mem.PFN(n&^zeroRecord), zeroPage[:]
		body = body[4:]
		if n&zeroRecord == 0 {
			if len(body) < mem.PageSize {
				break
			}
			b, body = body[:mem.PageSize], body[mem.PageSize:]
		} else if p < t.m.Pages() && t.m.Page(p) == nil {
			continue // and need not exist
		}
		if err := t.m.SetPage(p, b); err != nil {
			return err
		}
	}
	if len(body) > 0 {
		return fmt.Errorf("%w: a page is cut short", ErrPart)
	}
	return nil
}

func (t *Target) takeState(body []byte) (*machine.Machine, error) {
	if len(body) > 0 {
		return nil, t.grow(&t.state, body)
	}
	r := bytes.NewReader(t.state)
	if err := t.m.LoadState(r); err != nil {
		return nil, err
	}
	if r.Len() > 0 {
		return nil, fmt.Errorf("%w: %d bytes behind the state", ErrPart, r.Len())
	}
	return t.m, nil
}

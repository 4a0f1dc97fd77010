// SPDX-License-Identifier: Apache-2.0

// Package migrate clones a machine to another host (paper §3.1): a Source turns
// a machine into parts that each fit into one packet of the channel, a Target
// builds the machine from them.
//
//	Source ── config ── pages … ── state ──► Target
//
// This is stop-and-copy: the machine must stand still from NewSource to the
// last part. Neither side works on more than a part at a time, so that
// heartbeats go on between them.
//
// A part is a byte for its kind and a body compressed with Zstandard: 1, a piece
// of the encoded machine.Config; 2, pages, each its number (4 bytes,
// little-endian) and 4096 bytes; 3, a piece of the state, whose last is empty.
package migrate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

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
)

const (
	pieceBytes   = 1 << 20
	pagesPerPart = 256
	pageRecord   = 4 + mem.PageSize
	// maxBody bounds a body when decompressed.
	maxBody = pagesPerPart * pageRecord
	// maxState bounds the encoded config and state.
	maxState = machine.MaxBootBytes + 256<<20
)

// ErrPart is wrapped by the errors of parts that no Source makes.
var ErrPart = errors.New("invalid part of a clone")

// Source makes the parts of a machine that stands still.
type Source struct {
	m       *machine.Machine
	zip     *zstd.Encoder
	config  []byte
	page    mem.PFN
	state   []byte
	stage   uint8
	scratch []byte
}

// NewSource begins a clone.
func NewSource(m *machine.Machine) (*Source, error) {
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	s := &Source{m: m, zip: zip, stage: partConfig}
	cfg := m.Config()
	var b bytes.Buffer
	b.Grow(bootBytes(cfg) + pieceBytes) // doubling would take twice the kernel
	c := state.Saver(&b)
	cfg.State(c)
	s.config = b.Bytes()
	b = bytes.Buffer{}
	if err := m.SaveState(&b); err != nil {
		return nil, err
	}
	s.state = b.Bytes()
	return s, c.Err()
}

// bootBytes is what makes a Config large.
func bootBytes(cfg machine.Config) (n int) {
	for _, s := range cfg.Boot.Segments {
		n += len(s.Data)
	}
	return n
}

// Next returns the next part; ok is false after the last.
func (s *Source) Next() (part []byte, ok bool) {
	switch s.stage {
	case partConfig:
		body := s.piece(&s.config)
		if len(body) == 0 {
			s.stage = partPages
		}
		return s.pack(partConfig, body), true
	case partPages:
		if body := s.pages(); len(body) > 0 {
			return s.pack(partPages, body), true
		}
		s.stage = partState
		fallthrough
	case partState:
		body := s.piece(&s.state)
		if len(body) == 0 {
			s.stage = 0
		}
		return s.pack(partState, body), true
	}
	return nil, false
}

// Progress returns how many pages of how many were looked at.
func (s *Source) Progress() (done, of mem.PFN) { return s.page, s.m.Pages() }

func (s *Source) piece(b *[]byte) []byte {
	n := min(len(*b), pieceBytes)
	p := (*b)[:n]
	*b = (*b)[n:]
	return p
}

// pages collects the next pages that are not zero.
func (s *Source) pages() []byte {
	body := s.scratch[:0]
	for ; s.page < s.m.Pages() && len(body) < pagesPerPart*pageRecord; s.page++ {
		if b := s.m.Page(s.page); b != nil {
			body = binary.LittleEndian.AppendUint32(body, uint32(s.page))
			body = append(body, b...)
		}
	}
	s.scratch = body
	return body
}

func (s *Source) pack(kind byte, body []byte) []byte {
	return s.zip.EncodeAll(body, []byte{kind})
}

// Target builds a machine from parts.
type Target struct {
	newRAM func(size uint64) ([]byte, error)
	unzip  *zstd.Decoder
	config []byte
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
		t.ended, t.config, t.state, t.m = true, nil, nil, nil
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
	case kind == partPages && t.m != nil:
		return nil, t.takePages(body)
	case kind == partState && t.m != nil:
		return t.takeState(body)
	}
	return nil, fmt.Errorf("%w: kind %d out of turn", ErrPart, part[0])
}

func (t *Target) takeConfig(body []byte) error {
	if len(body) > 0 {
		return grow(&t.config, body)
	}
	var cfg machine.Config
	c := state.Loader(bytes.NewReader(t.config))
	t.config = nil
	if cfg.State(c); c.Err() != nil {
		return c.Err()
	}
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

func grow(b *[]byte, body []byte) error {
	if len(*b)+len(body) > maxState {
		return fmt.Errorf("%w: more than %d bytes of state", ErrPart, maxState)
	}
	*b = append(*b, body...)
	return nil
}

func (t *Target) takePages(body []byte) error {
	for ; len(body) >= pageRecord; body = body[pageRecord:] {
		if err := t.m.SetPage(mem.PFN(binary.LittleEndian.Uint32(body)), body[4:pageRecord]); err != nil {
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
		return nil, grow(&t.state, body)
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

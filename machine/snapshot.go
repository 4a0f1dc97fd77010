// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"
	"fmt"
	"io"

	"tandem/machine/event"
	"tandem/machine/mem"
	"tandem/machine/state"
)

// A snapshot is a machine's bytes at a step: "TANDEMVM", a version, the
// Config, the pages of RAM that are not zero, each as its number (uint32) and
// 4096 bytes, ended by the number 2^32-1, and the state of all components in
// the order of visit. It can be restored anywhere.
const (
	snapshotMagic   = "TANDEMVM"
	snapshotVersion = 2
	lastPage        = ^mem.PFN(0)
)

// State to hash with one entry: pages written since their last hash, and pages
// of the round over all of RAM. 256 pages are 1 MiB.
const (
	hashDirty = 256
	hashScrub = 64
)

// visit names all state but the bytes of RAM, once, for saving, loading and hashing.
func (m *Machine) visit(c *state.Coder) {
	state.U64(c, &m.step)
	state.U64(c, &m.clock.Base)
	state.U64(c, &m.clock.Rate)
	state.U64(c, &m.clock.Limit)
	state.U64(c, &m.clockAt)
	current, code := uint32(m.current), uint32(m.exitCode)
	state.U32(c, &current)
	state.U64(c, &m.turn)
	state.U64(c, &m.lastID)
	c.Bool(&m.exited)
	state.U32(c, &code)
	if int(current) >= m.cfg.Harts || m.turn == 0 || m.turn > quantum || m.clockAt > m.step {
		c.Fail("rotation: hart %d, %d steps left, clock from step %d at %d", current, m.turn, m.clockAt, m.step)
		return
	}
	if c.Loading() && !sound(m.clock, m.clockAt) {
		c.Fail("clock of rate %d from %d ticks with limit %d", m.clock.Rate, m.clock.Base, m.clock.Limit)
		return
	}
	m.current, m.exitCode = int(current), int(code)
	m.ram.State(c)
	for _, h := range m.sys.Harts {
		h.State(c)
	}
	for _, r := range m.bus.Regions() {
		r.Device.State(c)
	}
}

// Hash computes the content of the hash entry with number seq: registers and
// devices whole, and of memory what Choose picks. It must be called once for
// each such entry, on both copies.
func (m *Machine) Hash(event.Seq) event.Hash {
	pages := m.ram.Choose(hashDirty, hashScrub)
	memory := state.Hasher()
	for _, p := range pages {
		state.U32(memory, &p)
		memory.Fixed(m.ram.Page(p))
	}
	return event.Hash{State: m.HashState(), Memory: memory.Sum()}
}

// HashState computes a hash of registers and devices. It changes nothing.
func (m *Machine) HashState() uint64 {
	c := state.Hasher()
	m.visit(c)
	return c.Sum()
}

// HashAll computes a hash of the whole state and all of RAM, for tests and for
// the end of a replay. It changes nothing.
func (m *Machine) HashAll() uint64 {
	c := state.Hasher()
	m.visit(c)
	for p := mem.PFN(0); p < m.ram.Pages(); p++ {
		c.Fixed(m.ram.Page(p))
	}
	return c.Sum()
}

// Pages is the number of pages of RAM.
func (m *Machine) Pages() mem.PFN { return m.ram.Pages() }

// Page returns a page of RAM, or nil where it is all zero.
func (m *Machine) Page(p mem.PFN) []byte {
	if b := m.ram.Page(p); !bytes.Equal(b, zeroPage[:]) {
		return b
	}
	return nil
}

// SetPage fills a page of a Blank machine.
func (m *Machine) SetPage(p mem.PFN, b []byte) error {
	if p >= m.ram.Pages() || len(b) != mem.PageSize {
		return fmt.Errorf("%w: page %d of %d bytes", state.ErrInvalid, p, len(b))
	}
	copy(m.ram.Page(p), b)
	return nil
}

// SaveState writes all state but the bytes of RAM. The machine must be between
// steps, its outputs taken.
func (m *Machine) SaveState(w io.Writer) error {
	if len(m.outputs) > 0 {
		return fmt.Errorf("save a machine with %d outputs not taken: they would be lost", len(m.outputs))
	}
	c := state.Saver(w)
	m.visit(c)
	return c.Err()
}

// LoadState ends the making of a Blank machine, whose pages are set.
func (m *Machine) LoadState(r io.Reader) error {
	c := state.Loader(r)
	m.visit(c)
	m.watchHost()
	return c.Err()
}

// StartCopy begins to hand on the pages of RAM while the machine runs.
func (m *Machine) StartCopy() *mem.Copy { return m.ram.StartCopy() }

// Blank builds a machine that is to be filled by SetPage and LoadState.
func Blank(cfg Config, ram []byte) (*Machine, error) { return build(cfg, ram) }

// Save writes a snapshot. The machine must be between steps, its outputs taken.
func (m *Machine) Save(w io.Writer) error {
	if _, err := io.WriteString(w, snapshotMagic); err != nil {
		return err
	}
	c := state.Saver(w)
	version, machine := uint32(snapshotVersion), uint32(Version)
	state.U32(c, &version)
	state.U32(c, &machine)
	m.cfg.State(c)
	for p := mem.PFN(0); p < m.ram.Pages(); p++ {
		if b := m.Page(p); b != nil {
			state.U32(c, &p)
			c.Fixed(b)
		}
	}
	last := lastPage
	state.U32(c, &last)
	if c.Err() != nil {
		return c.Err()
	}
	return m.SaveState(w)
}

var zeroPage [mem.PageSize]byte

// Restore builds the machine of a snapshot. newRAM supplies zeroed memory of a
// size; it may refuse one that is too large for this host.
func Restore(r io.Reader, newRAM func(size uint64) ([]byte, error)) (*Machine, error) {
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != snapshotMagic {
		return nil, fmt.Errorf("%w: this is not a snapshot of a machine", state.ErrInvalid)
	}
	c := state.Loader(r)
	var version, machine uint32
	state.U32(c, &version)
	state.U32(c, &machine)
	if c.Err() == nil && (version != snapshotVersion || machine != Version) {
		return nil, fmt.Errorf("%w: snapshot version %d of machine version %d, this tandem has %d and %d: use the same tandem on both sides",
			state.ErrInvalid, version, machine, snapshotVersion, Version)
	}
	var cfg Config
	cfg.State(c)
	if c.Err() != nil {
		return nil, c.Err()
	}
	if err := cfg.CheckRAM(); err != nil {
		return nil, err
	}
	ram, err := newRAM(cfg.RAM)
	if err != nil {
		return nil, err
	}
	m, err := Blank(cfg, ram)
	if err != nil {
		return nil, err
	}
	if err := m.loadPages(c); err != nil {
		return nil, err
	}
	if err := m.LoadState(r); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Machine) loadPages(c *state.Coder) error {
	for {
		var p mem.PFN
		state.U32(c, &p)
		if c.Err() != nil || p == lastPage {
			return c.Err()
		}
		if p >= m.ram.Pages() {
			c.Fail("page %d is outside RAM", p)
			return c.Err()
		}
		c.Fixed(m.ram.Page(p))
	}
}

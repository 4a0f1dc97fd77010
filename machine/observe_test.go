// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"slices"
	"testing"

	"tandem/host/codemem"
	"tandem/machine"
	"tandem/machine/jit"
	"tandem/machine/riscv"
)

// An observer hears of pieces that lie in the cache side by side and are of the
// program; with the thunks they are all of the code, and hearing of them changes
// nothing.
func TestObserve(t *testing.T) {
	if !codemem.Supported() {
		t.Skip("this host has no translator")
	}
	atOnce(t)
	p := assemble(t, "supervisor")
	code, err := codemem.New(largeCache)
	if err != nil {
		t.Fatal(err)
	}
	defer code.Close()
	m, oracle := p.start(t, 1), p.start(t, 1)
	m.Translate(code.RW, code.RX())
	var all []jit.Piece
	thunks, regions, privileges := 0, uint64(0), map[riscv.Privilege]bool{}
	m.Observe(func(priv riscv.Privilege, pieces []jit.Piece) {
		all = append(all, pieces...)
		if pieces[0].Thunk != "" {
			thunks += len(pieces)
			return
		}
		regions++
		privileges[priv] = true
	})
	for _, m := range []*machine.Machine{m, oracle} {
		apply(t, m, tick)
		run(t, m, limit)
	}
	if m.HashAll() != oracle.HashAll() {
		t.Error("the observer was noticed")
	}
	s := m.Stats()
	if thunks == 0 || regions == 0 || regions != s.Translated.Regions || !privileges[riscv.Machine] || !privileges[riscv.Supervisor] {
		t.Errorf("%d thunks, %d regions of %d, privileges %v", thunks, regions, s.Translated.Regions, privileges)
	}
	slices.SortFunc(all, func(a, b jit.Piece) int { return int(a.At) - int(b.At) })
	at, named := code.RX(), 0
	for _, p := range all {
		if p.At != at || p.Size <= 0 {
			t.Errorf("a piece at %#x of %d bytes, want it at %#x", p.At, p.Size, at)
		}
		at = p.At + uintptr(p.Size)
		if p.Thunk == "" && (p.VA < 0x4000_0000 || // where the program maps pages of its own
			p.VA >= 0x8000_0000+m.Config().RAM) {
			t.Errorf("a piece for %#x", p.VA)
		}
		if p.Thunk == "" && !p.Beside {
			named++
		}
	}
	if used := int(at - code.RX()); used != s.CodeUsed || used > s.CodeSize || s.CodeSize != largeCache || named < int(regions) {
		t.Errorf("pieces of %d bytes, %d are in use of %d; %d blocks in %d regions", used, s.CodeUsed, s.CodeSize, named, regions)
	}
}

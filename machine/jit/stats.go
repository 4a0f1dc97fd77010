// SPDX-License-Identifier: Apache-2.0

package jit

import "slices"

// Stats counts what was done with a Cache. Translated code itself counts nothing:
// all of it is known where Go makes, enters and leaves it.
type Stats struct {
	Regions uint64 // translated
	Insts   uint64 // in them
	Resets  uint64 // times that it was emptied
	Chained uint64 // jumps from region to region that were patched
	Jumps   uint64 // places of jump caches that were filled

	Entries uint64          // of translated code, from Go; each ends with an exit
	Exits   [Reasons]uint64 // by Reason
	Refills uint64          // misses of the TLB after which the same instruction went on
	Steps   uint64          // executed by it
}

// Reasons is the number of Reasons, made a power of two so that to count one
// needs no check.
const Reasons = 8

// Leave counts an exit.
func (s *Stats) Leave(r Reason) { s.Exits[r%Reasons]++ }

// Used is how many bytes of the cache hold code.
func (c *Cache) Used() int { return c.used }

// Size is how many bytes the cache has.
func (c *Cache) Size() int { return len(c.rw) }

// Piece is a run of host code: of a block of the guest, of what a region has out
// of line, or of a thunk. Profilers are told of them.
type Piece struct {
	At     uintptr
	Size   int
	VA     uint64 // of the block, where it was first translated; of the region's head
	Beside bool   // out of line: TLB lookups, rare cases and ways out
	Thunk  string // its name; there is no VA
}

// piece is a Piece inside a region.
type piece struct {
	off    uint16
	place  int
	beside bool
}

// Last are the pieces of the latest region, whose page is at an address.
func (c *Cache) Last(vpage uint64) []Piece {
	var out []Piece
	end := c.used
	for _, p := range slices.Backward(c.tr.pieces) {
		at := c.last + p.place
		if at < end {
			out = append(out, Piece{At: c.base + uintptr(at), Size: end - at, VA: vpage + uint64(p.off), Beside: p.beside})
		}
		end = at
	}
	slices.Reverse(out)
	return out
}

// Thunks are the pieces that all translations share. They stay where they are.
func (c *Cache) Thunks() []Piece {
	t := &c.thunks
	out := []Piece{
		{At: uintptr(t.enter), Thunk: "enter"}, {At: uintptr(t.leave), Thunk: "leave"},
		{At: uintptr(t.miss), Thunk: "miss"}, {At: uintptr(t.missFloat), Thunk: "miss with floats"},
		{At: uintptr(t.resume), Thunk: "resume"}, {At: uintptr(t.resumeFloat), Thunk: "resume with floats"},
	}
	slices.SortFunc(out, func(a, b Piece) int { return int(a.At) - int(b.At) })
	for i := range out {
		end := uintptr(c.first)
		if i+1 < len(out) {
			end = out[i+1].At
		}
		out[i].Size = int(end - out[i].At)
		out[i].At += c.base
	}
	return out
}

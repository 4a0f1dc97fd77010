// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 && !arm64

package jit

// maxRegionBytes is the size of no region.
const maxRegionBytes = 0

// translator has no backend on this host: the interpreter runs everything.
type translator struct {
	layout  Layout
	former  former
	entries []entry
	links   []link
	shared  []sharedJump
	sites   []site
	pieces  []piece
}

func (t *translator) knows(*Inst) bool { return false }

func (t *translator) region(uint16, uint32) ([]byte, bool) { return nil, false }

func (c *Cache) writeThunks() { c.used = 0 }

const jumpBytes = 0

func patchJump([]byte, int32, int32) {}

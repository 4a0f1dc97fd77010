// SPDX-License-Identifier: Apache-2.0

package ext4

import "math/bits"

// layout says where the metadata of each group lies.
type layout struct {
	blocks     uint64 // of the file system: whole groups, and a last one worth having
	groups     uint64
	descBlocks uint64 // group descriptors, 128 to a block
}

const descsPerBlock = blockSize / descSize

func newLayout(blocks uint64) layout {
	l := layout{}
	l.set(blocks)
	// A short last group must hold what it may be asked to: a backup of the
	// superblock, or the tables of a flex group of its own.
	if tail := blocks % blocksPerGroup; tail != 0 && l.groups > 1 && tail < l.descBlocks+1+2+tableBlocks+64 {
		l.set(blocks - tail)
	}
	return l
}

func (l *layout) set(blocks uint64) {
	l.blocks = blocks
	l.groups = (blocks + blocksPerGroup - 1) / blocksPerGroup
	l.descBlocks = (l.groups + descsPerBlock - 1) / descsPerBlock
}

// hasSuper says whether group g begins with a copy of superblock and
// descriptors (sparse_super).
func hasSuper(g uint64) bool {
	if g <= 1 {
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		p := base
		for p < g {
			p *= base
		}
		if p == g {
			return true
		}
	}
	return false
}

// flex returns the first block of the tables of g's flex group, the number of
// groups in it and g's place among them.
func (l *layout) flex(g uint64) (start, groups, index uint64) {
	leader := g / flexGroups * flexGroups
	start = leader * blocksPerGroup
	if hasSuper(leader) {
		start += 1 + l.descBlocks
	}
	return start, min(flexGroups, l.groups-leader), g - leader
}

func (l *layout) blockBitmap(g uint64) uint64 {
	start, _, i := l.flex(g)
	return start + i
}

func (l *layout) inodeBitmap(g uint64) uint64 {
	start, n, i := l.flex(g)
	return start + n + i
}

func (l *layout) inodeTable(g uint64) uint64 {
	start, n, i := l.flex(g)
	return start + 2*n + i*tableBlocks
}

// reserve marks all that the layout occupies.
func (l *layout) reserve(b *bitmap) {
	for g := range l.groups {
		if hasSuper(g) {
			b.mark(extent{g * blocksPerGroup, 1 + l.descBlocks})
		}
		b.mark(extent{l.blockBitmap(g), 1})
		b.mark(extent{l.inodeBitmap(g), 1})
		b.mark(extent{l.inodeTable(g), tableBlocks})
	}
}

// bitmap is the blocks in use, one bit each.
type bitmap struct {
	words []uint64
	size  uint64
	free  uint64
	next  uint64 // no free block lies below
}

func newBitmap(size uint64) bitmap {
	return bitmap{words: make([]uint64, (size+63)/64), size: size, free: size}
}

func (b *bitmap) used(i uint64) bool { return b.words[i/64]>>(i%64)&1 != 0 }

func (b *bitmap) mark(e extent) {
	for i := e.start; i < e.start+e.count; i++ {
		b.words[i/64] |= 1 << (i % 64)
	}
	b.free -= e.count
}

func (b *bitmap) release(e extent) {
	for i := e.start; i < e.start+e.count; i++ {
		b.words[i/64] &^= 1 << (i % 64)
	}
	b.free += e.count
	b.next = min(b.next, e.start)
}

// take allocates the first free run, at most want blocks of it.
func (b *bitmap) take(want uint64) (extent, bool) {
	i := b.next
	for i < b.size && b.used(i) {
		if w := b.words[i/64] >> (i % 64); w == ^uint64(0)>>(i%64) {
			i += 64 - i%64
		} else {
			i += uint64(bits.TrailingZeros64(^w))
		}
	}
	if i >= b.size {
		return extent{}, false
	}
	e := extent{start: i}
	for e.count < want && i < b.size && !b.used(i) {
		e.count++
		i++
	}
	b.mark(e)
	b.next = i
	return e, true
}

// inGroup counts the free blocks of group g.
func (b *bitmap) inGroup(g uint64) uint64 {
	first, end := g*blocksPerGroup, min((g+1)*blocksPerGroup, b.size)
	n := uint64(0)
	for i := first; i < end; i++ {
		if !b.used(i) {
			n++
		}
	}
	return n
}

// bytes is group g's bitmap as a block; what lies beyond the end counts as used.
func (b *bitmap) bytes(g uint64) []byte {
	out := make([]byte, blockSize)
	for i := range uint64(blocksPerGroup) {
		if at := g*blocksPerGroup + i; at >= b.size || b.used(at) {
			out[i/8] |= 1 << (i % 8)
		}
	}
	return out
}

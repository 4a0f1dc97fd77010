// SPDX-License-Identifier: Apache-2.0

package ext4

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

const (
	descSize    = 32
	fastSymlink = 60 // shorter targets lie in the inode
	treeRoot    = 4  // extents that fit in an inode
	treeLeaf    = (blockSize - 12) / 12

	rootInode     = 2
	journalInode  = 8
	firstInode    = 11
	flagExtents   = 0x80000
	journalMagic  = 0xC03B3998
	extentMagic   = 0xF30A
	superMagic    = 0xEF53
	maxDirLinks   = 65000
	lostFoundSize = 16 << 10
)

// Features, by name as dumpe2fs prints them.
const (
	compat   = 0x4 | 0x8 | 0x20              // has_journal ext_attr dir_index
	incompat = 0x2 | 0x40 | 0x200            // filetype extent flex_bg
	roCompat = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 // sparse_super large_file huge_file dir_nlink extra_isize
	mountOpt = 0x4 | 0x8                     // user_xattr acl
)

var le, be = binary.LittleEndian, binary.BigEndian

// Close writes directories, inodes, journal, bitmaps, descriptors and
// superblocks. The file system is valid only after it.
func (fs *FS) Close() error {
	if fs.closed {
		return nil
	}
	fs.closed = true
	journal, err := fs.makeJournal()
	if err != nil {
		return fs.wrap("write", "journal", err)
	}
	nodes := fs.number()
	if max := fs.layout.groups * inodesPerGroup; uint64(len(nodes)) > max-firstInode+2 {
		return fmt.Errorf("ext4: %d files need more than the %d inodes of this disk: make it larger", len(nodes), max)
	}
	for _, n := range nodes {
		if n.kind == Dir {
			if err := fs.writeDir(n); err != nil {
				return fs.wrap("write directory", fmt.Sprint("inode ", n.number), err)
			}
		}
	}
	// Trees take blocks too, so they come before the bitmaps are written.
	table := append(nodes, journal)
	for _, n := range table {
		if err := fs.writeTree(n); err != nil {
			return fs.wrap("write extents of", fmt.Sprint("inode ", n.number), err)
		}
	}
	for _, n := range table {
		if err := fs.writeInode(n); err != nil {
			return fs.wrap("write", fmt.Sprint("inode ", n.number), err)
		}
	}
	return fs.wrap("write", "group tables", fs.writeGroups(nodes, journal))
}

// number gives every node its inode: the root 2, lost+found 11, the rest in the
// order of a walk, so that a directory's files lie near one another.
func (fs *FS) number() []*node {
	fs.root.number = rootInode
	nodes, next := []*node{fs.root}, uint32(firstInode)
	for i := 0; i < len(nodes); i++ {
		for _, name := range nodes[i].names {
			c := nodes[i].children[name]
			if c.number == 0 {
				c.number = next
				next++
				nodes = append(nodes, c)
			}
		}
	}
	return nodes
}

// makeJournal allocates an empty journal (JBD2 version 2): one superblock that
// says that there is nothing to replay, and zeros.
func (fs *FS) makeJournal() (*node, error) {
	blocks := uint64(1024)
	switch total := fs.layout.blocks; {
	case total >= 256<<10:
		blocks = 8192
	case total >= 32<<10:
		blocks = 4096
	}
	n := &node{kind: Regular, attr: Attr{Mode: 0o600, Time: fs.opt.Time}, links: 1, number: journalInode}
	for left := blocks; left > 0; {
		e, ok := fs.blocks.take(left)
		if !ok {
			return nil, ErrNoSpace
		}
		n.addExtent(e)
		left -= e.count
	}
	n.size = int64(blocks) * blockSize
	b := make([]byte, blockSize)
	be.PutUint32(b[0x00:], journalMagic)
	be.PutUint32(b[0x04:], 4) // superblock, version 2
	be.PutUint32(b[0x0C:], blockSize)
	be.PutUint32(b[0x10:], uint32(blocks))
	be.PutUint32(b[0x14:], 1) // first block of the log
	be.PutUint32(b[0x18:], 1) // first expected transaction; s_start 0: clean
	copy(b[0x30:], fs.opt.UUID[:])
	be.PutUint32(b[0x40:], 1) // one user
	return n, fs.put(n.data[0].start, b)
}

func (fs *FS) put(block uint64, b []byte) error {
	_, err := fs.dev.WriteAt(b, int64(block)*blockSize)
	return err
}

var dirType = map[Kind]byte{Regular: 1, Dir: 2, Char: 3, Block: 4, FIFO: 5, Symlink: 7}

// writeDir packs the entries into blocks; each block's last entry reaches its
// end.
func (fs *FS) writeDir(n *node) error {
	var out []byte
	last := 0 // offset of the last entry
	add := func(name string, c *node) {
		size := (8 + len(name) + 3) &^ 3
		if used := len(out) % blockSize; len(out) == 0 || used+size > blockSize {
			out = closeDirBlock(out, last)
		}
		last = len(out)
		e := make([]byte, size)
		le.PutUint32(e[0:], c.number)
		le.PutUint16(e[4:], uint16(size))
		e[6], e[7] = byte(len(name)), dirType[c.kind]
		copy(e[8:], name)
		out = append(out, e...)
	}
	add(".", n)
	add("..", n.parent)
	for _, name := range n.names {
		add(name, n.children[name])
	}
	out = closeDirBlock(out, last)
	if n == fs.root.children["lost+found"] {
		for len(out) < lostFoundSize { // empty blocks, for fsck to fill without allocating
			b := make([]byte, blockSize)
			le.PutUint16(b[4:], blockSize)
			out = append(out, b...)
		}
	}
	n.size = int64(len(out))
	return fs.write(n, n.size, bytes.NewReader(out))
}

// closeDirBlock stretches the entry at last to the end of its block.
func closeDirBlock(out []byte, last int) []byte {
	pad := -len(out) & (blockSize - 1)
	if pad > 0 {
		le.PutUint16(out[last+4:], le.Uint16(out[last+4:])+uint16(pad))
	}
	return append(out, make([]byte, pad)...)
}

// writeTree writes the leaves of a file whose extents don't fit in its inode.
func (fs *FS) writeTree(n *node) error {
	if len(n.data) <= treeRoot {
		return nil
	}
	if len(n.data) > treeRoot*treeLeaf {
		return fmt.Errorf("the disk is too fragmented: %w", ErrNoSpace)
	}
	logical := uint64(0)
	for rest := n.data; len(rest) > 0; {
		part := rest[:min(len(rest), treeLeaf)]
		rest = rest[len(part):]
		e, ok := fs.blocks.take(1)
		if !ok {
			return ErrNoSpace
		}
		n.tree = append(n.tree, e.start)
		b := make([]byte, blockSize)
		logical = putExtents(b, part, treeLeaf, logical)
		if err := fs.put(e.start, b); err != nil {
			return err
		}
	}
	return nil
}

func putHeader(b []byte, entries, limit, depth int) {
	le.PutUint16(b[0:], extentMagic)
	le.PutUint16(b[2:], uint16(entries))
	le.PutUint16(b[4:], uint16(limit))
	le.PutUint16(b[6:], uint16(depth))
}

func putExtents(b []byte, data []extent, limit int, logical uint64) uint64 {
	putHeader(b, len(data), limit, 0)
	for i, e := range data {
		p := b[12+12*i:]
		le.PutUint32(p[0:], uint32(logical))
		le.PutUint16(p[4:], uint16(e.count)) // 32768 is the largest initialized length
		le.PutUint16(p[6:], uint16(e.start>>32))
		le.PutUint32(p[8:], uint32(e.start))
		logical += e.count
	}
	return logical
}

// iblock fills the 60 bytes of i_block and returns the inode's flags.
func (n *node) iblock(b []byte) uint32 {
	switch {
	case n.kind == Symlink && n.size < fastSymlink:
		copy(b, n.target)
		return 0
	case n.kind == Char || n.kind == Block:
		major, minor := n.rdev[0], n.rdev[1]
		if major < 256 && minor < 256 {
			le.PutUint32(b, major<<8|minor)
		} else {
			le.PutUint32(b[4:], minor&0xff|major<<8|minor&^0xff<<12)
		}
		return 0
	case n.kind == FIFO:
		return 0
	case len(n.tree) == 0:
		putExtents(b, n.data, treeRoot, 0)
		return flagExtents
	}
	putHeader(b, len(n.tree), treeRoot, 1)
	logical, rest := uint64(0), n.data
	for i, block := range n.tree {
		p := b[12+12*i:]
		le.PutUint32(p[0:], uint32(logical))
		le.PutUint32(p[4:], uint32(block))
		le.PutUint16(p[8:], uint16(block>>32))
		for _, e := range rest[:min(len(rest), treeLeaf)] {
			logical += e.count
		}
		rest = rest[min(len(rest), treeLeaf):]
	}
	return flagExtents
}

// sectors is i_blocks: all blocks of the file in units of 512 bytes.
func (n *node) sectors() uint64 {
	blocks := uint64(len(n.tree))
	for _, e := range n.data {
		blocks += e.count
	}
	return blocks * (blockSize / 512)
}

func (fs *FS) writeInode(n *node) error {
	b := make([]byte, inodeSize)
	links := n.links
	if n.kind == Dir && links > maxDirLinks {
		links = 1 // dir_nlink
	}
	le.PutUint16(b[0x00:], uint16(n.kind)|n.attr.Mode&0o7777)
	le.PutUint16(b[0x02:], uint16(n.attr.UID))
	le.PutUint32(b[0x04:], uint32(n.size))
	le.PutUint16(b[0x18:], uint16(n.attr.GID))
	le.PutUint16(b[0x1A:], uint16(links))
	le.PutUint32(b[0x1C:], uint32(n.sectors()))
	le.PutUint32(b[0x20:], n.iblock(b[0x28:0x28+60]))
	le.PutUint32(b[0x6C:], uint32(n.size>>32))
	le.PutUint16(b[0x74:], uint16(n.sectors()>>32))
	le.PutUint16(b[0x78:], uint16(n.attr.UID>>16))
	le.PutUint16(b[0x7A:], uint16(n.attr.GID>>16))
	le.PutUint16(b[0x80:], 32) // i_extra_isize
	for _, at := range []struct{ low, extra int }{{0x08, 0x8C}, {0x0C, 0x84}, {0x10, 0x88}, {0x90, 0x94}} {
		low, extra := timestamp(n.attr.Time)
		le.PutUint32(b[at.low:], low)
		le.PutUint32(b[at.extra:], extra)
	}
	group, index := uint64(n.number-1)/inodesPerGroup, int64(n.number-1)%inodesPerGroup
	_, err := fs.dev.WriteAt(b, int64(fs.layout.inodeTable(group))*blockSize+index*inodeSize)
	return err
}

// timestamp splits a time into i_xtime and the two epoch bits of i_xtime_extra;
// times outside 1901..2446 become 1970.
func timestamp(t time.Time) (low, extra uint32) {
	s := t.Unix()
	if t.IsZero() || s < math.MinInt32 || s > math.MaxInt32+3<<32 {
		return 0, 0
	}
	return uint32(s), uint32((s-int64(int32(s)))>>32) & 3
}

func (fs *FS) writeGroups(nodes []*node, journal *node) error {
	l := &fs.layout
	descs := make([]byte, l.descBlocks*blockSize)
	freeInodes := uint64(0)
	inUse, dirs := fs.perGroup(nodes)
	for g := range l.groups {
		free := inodesPerGroup - inUse[g]
		freeInodes += free
		d := descs[g*descSize:]
		le.PutUint32(d[0x00:], uint32(l.blockBitmap(g)))
		le.PutUint32(d[0x04:], uint32(l.inodeBitmap(g)))
		le.PutUint32(d[0x08:], uint32(l.inodeTable(g)))
		le.PutUint16(d[0x0C:], uint16(fs.blocks.inGroup(g)))
		le.PutUint16(d[0x0E:], uint16(free))
		le.PutUint16(d[0x10:], uint16(dirs[g]))
		if err := fs.put(l.blockBitmap(g), fs.blocks.bytes(g)); err != nil {
			return err
		}
		if err := fs.put(l.inodeBitmap(g), inodeBits(inUse[g])); err != nil {
			return err
		}
	}
	super := fs.super(freeInodes, journal)
	for g := range l.groups {
		if hasSuper(g) {
			if err := fs.writeSuper(g, super, descs); err != nil {
				return err
			}
		}
	}
	return nil
}

// perGroup counts the inodes and directories of each group. Inodes are handed
// out in order, so those in use are the first of their group.
func (fs *FS) perGroup(nodes []*node) (inUse, dirs []uint64) {
	inUse, dirs = make([]uint64, fs.layout.groups), make([]uint64, fs.layout.groups)
	inUse[0] = firstInode - 1
	for _, n := range nodes {
		g := uint64(n.number-1) / inodesPerGroup
		if n.number >= firstInode {
			inUse[g]++
		}
		if n.kind == Dir {
			dirs[g]++
		}
	}
	return inUse, dirs
}

func inodeBits(inUse uint64) []byte {
	b := make([]byte, blockSize)
	for i := range uint64(blocksPerGroup) {
		if i < inUse || i >= inodesPerGroup {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

func (fs *FS) super(freeInodes uint64, journal *node) []byte {
	b := make([]byte, 1024)
	l, made := &fs.layout, uint32(fs.opt.Time.Unix())
	for _, f := range []struct {
		at    int
		value uint32
	}{
		{0x00, uint32(l.groups * inodesPerGroup)},
		{0x04, uint32(l.blocks)},
		{0x0C, uint32(fs.blocks.free)},
		{0x10, uint32(freeInodes)},
		{0x18, 2}, {0x1C, 2}, // blocks and clusters are 1024<<2 bytes
		{0x20, blocksPerGroup}, {0x24, blocksPerGroup}, {0x28, inodesPerGroup},
		{0x30, made},               // last write
		{0x34, 0xFFFF << 16},       // never mounted, never check for the count
		{0x38, 1<<16 | superMagic}, // clean
		{0x3C, 1},                  // on errors continue
		{0x40, made},               // last check
		{0x4C, 1},                  // dynamic revision
		{0x54, firstInode},         //
		{0x58, inodeSize},          // and this copy's group, by writeSuper
		{0x5C, compat}, {0x60, incompat}, {0x64, roCompat},
		{0xE0, journalInode},
		{0xFC, 1 | 1<<8}, // half MD4 for directories; a copy of the journal's inode below
		{0x100, mountOpt},
		{0x108, made},
		{0x14C, uint32(journal.size)},
		{0x15C, 32 | 32<<16}, // extra inode bytes: at least, wanted
		{0x160, 1},           // signed directory hash
		{0x174, 4},           // 1<<4 groups to a flex group
	} {
		le.PutUint32(b[f.at:], f.value)
	}
	copy(b[0x68:0x78], fs.opt.UUID[:])
	copy(b[0x78:0x88], fs.opt.Label)
	copy(b[0xEC:0xFC], fs.opt.UUID[:]) // seed of directory hashes
	journal.iblock(b[0x10C : 0x10C+60])
	return b
}

func (fs *FS) writeSuper(g uint64, super, descs []byte) error {
	start, at := g*blocksPerGroup, int64(g)*blocksPerGroup*blockSize
	if g == 0 {
		at += 1024 // after the boot sector's place
	}
	le.PutUint16(super[0x5A:], uint16(g))
	if _, err := fs.dev.WriteAt(super, at); err != nil {
		return err
	}
	return fs.put(start+1, descs)
}

// SPDX-License-Identifier: Apache-2.0

package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Reader reads an ext2, ext3 or ext4 file system that others made. It may be
// hostile: every read is bounded by the caller's limit, every walk by a count.
// Checksums are not verified, and a journal that was not replayed is ignored.
type Reader struct {
	dev        io.ReaderAt
	size       int64
	block      int64
	inodeSize  int64
	perGroup   uint32 // inodes
	inodes     uint32
	groups     uint64
	descSize   int64
	descs      int64 // offset of the group descriptors
	Label      string
	UUID       [16]byte
	unreplayed bool
}

// Incompatible features that a reader must know.
const (
	needsRecovery = 0x4
	knownIncompat = 0x2 | needsRecovery | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x10000 | 0x20000
	wide          = 0x80 // 64-bit: descriptors of a size of their own
	flagEncrypted = 0x800
	flagInline    = 0x10000000
	maxDirBytes   = 16 << 20
	maxTreeDepth  = 5
)

// ErrFormat is the kind of errors about what the disk says.
var ErrFormat = errors.New("not a readable ext4 file system")

// OpenReader reads the superblock of a file system of at most size bytes.
func OpenReader(dev io.ReaderAt, size int64) (*Reader, error) {
	b := make([]byte, 1024)
	if _, err := dev.ReadAt(b, 1024); err != nil || le.Uint16(b[0x38:]) != superMagic {
		return nil, fmt.Errorf("%w: it has no superblock", ErrFormat)
	}
	incompat, shift := le.Uint32(b[0x60:]), le.Uint32(b[0x18:])
	if incompat&^knownIncompat != 0 || shift > 6 {
		return nil, fmt.Errorf("%w: features %#x, blocks of 1024<<%d bytes", ErrFormat, incompat&^knownIncompat, shift)
	}
	r := &Reader{dev: dev, size: size, block: 1024 << shift, inodeSize: 128, perGroup: le.Uint32(b[0x28:]), inodes: le.Uint32(b),
		descSize: descSize, Label: string(bytes.TrimRight(b[0x78:0x88], "\x00")), unreplayed: incompat&needsRecovery != 0}
	copy(r.UUID[:], b[0x68:])
	if le.Uint32(b[0x4C:]) > 0 {
		r.inodeSize = int64(le.Uint16(b[0x58:]))
	}
	if incompat&wide != 0 {
		r.descSize = int64(le.Uint16(b[0xFE:]))
	}
	blocks := uint64(le.Uint32(b[0x04:]))
	if incompat&wide != 0 {
		blocks |= uint64(le.Uint32(b[0x150:])) << 32
	}
	perGroup := uint64(le.Uint32(b[0x20:]))
	if r.inodeSize < 128 || r.inodeSize > 4096 || r.descSize < 32 || r.descSize > 1024 || r.perGroup == 0 || perGroup == 0 || blocks == 0 {
		return nil, fmt.Errorf("%w: inodes of %d bytes, %d in a group", ErrFormat, r.inodeSize, r.perGroup)
	}
	r.groups = (blocks + perGroup - 1) / perGroup
	r.descs = (int64(le.Uint32(b[0x14:])) + 1) * r.block
	return r, nil
}

// Unreplayed reports that the journal holds changes that are not in place yet.
func (r *Reader) Unreplayed() bool { return r.unreplayed }

// DirEntry is a name in a folder.
type DirEntry struct {
	Name string
	Kind Kind // 0 if the folder doesn't say
}

// ReadFile returns the content of a regular file of at most limit bytes.
func (r *Reader) ReadFile(name string, limit int64) ([]byte, error) {
	n, err := r.lookup(name)
	if err == nil && n.kind() != Regular {
		err = ErrName
	}
	var b []byte
	if err == nil {
		b, err = r.content(n, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("ext4: read %s: %w", name, err)
	}
	return b, nil
}

// ReadDir lists a folder, sorted by name, without "." and "..".
func (r *Reader) ReadDir(name string) ([]DirEntry, error) {
	n, err := r.lookup(name)
	var list []DirEntry
	if err == nil {
		err = r.each(n, func(d DirEntry, _ uint32) bool {
			list = append(list, d)
			return true
		})
	}
	if err != nil {
		return nil, fmt.Errorf("ext4: list %s: %w", name, err)
	}
	slices.SortFunc(list, func(a, b DirEntry) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Exists reports whether a name is there, symbolic links followed.
func (r *Reader) Exists(name string) bool {
	_, err := r.lookup(name)
	return err == nil
}

// diskInode is an inode as it lies on the disk.
type diskInode []byte

func (n diskInode) kind() Kind    { return Kind(le.Uint16(n) & 0xF000) }
func (n diskInode) flags() uint32 { return le.Uint32(n[0x20:]) }
func (n diskInode) size() int64   { return int64(le.Uint32(n[4:])) | int64(le.Uint32(n[0x6C:]))<<32 }
func (n diskInode) data() []byte  { return n[0x28:][:60] }

func (r *Reader) inode(number uint32) (diskInode, error) {
	group, index := uint64(number-1)/uint64(r.perGroup), int64((number-1)%r.perGroup)
	if number == 0 || number > r.inodes || group >= r.groups {
		return nil, fmt.Errorf("%w: inode %d", ErrFormat, number)
	}
	d := make([]byte, r.descSize)
	if err := r.readAt(d, r.descs+int64(group)*r.descSize); err != nil {
		return nil, err
	}
	table := uint64(le.Uint32(d[8:]))
	if r.descSize >= 64 {
		table |= uint64(le.Uint32(d[0x28:])) << 32
	}
	n := make(diskInode, 128)
	at, err := r.offset(table)
	if err != nil {
		return nil, err
	}
	if err := r.readAt(n, at+index*r.inodeSize); err != nil {
		return nil, err
	}
	if n.flags()&(flagEncrypted|flagInline) != 0 {
		return nil, fmt.Errorf("%w: inode %d is encrypted or inline", ErrFormat, number)
	}
	return n, nil
}

// offset is where a block begins.
func (r *Reader) offset(block uint64) (int64, error) {
	if block == 0 || block >= uint64(r.size/r.block) {
		return 0, fmt.Errorf("%w: block %d", ErrFormat, block)
	}
	return int64(block) * r.block, nil
}

func (r *Reader) readAt(b []byte, at int64) error {
	if at < 0 || at > r.size-int64(len(b)) {
		return fmt.Errorf("%w: it says %d, of %d bytes", ErrFormat, at, r.size)
	}
	_, err := r.dev.ReadAt(b, at)
	return err
}

// content reads all bytes of a file, a folder or a long symbolic link. Each look
// into the tree gives at least one block, so the work is bounded by the limit.
func (r *Reader) content(n diskInode, limit int64) ([]byte, error) {
	size := n.size()
	if size < 0 || size > limit {
		return nil, fmt.Errorf("it has %d bytes, more than %d: %w", uint64(size), limit, ErrName)
	}
	b := make([]byte, 0, min(size, 1<<20)) // the size may be a lie
	for int64(len(b)) < size {
		block, count, err := r.find(n, uint64(int64(len(b))/r.block))
		if err != nil {
			return nil, err
		}
		part := make([]byte, min(size-int64(len(b)), int64(min(count, 256))*r.block))
		if block != 0 {
			at, err := r.offset(block)
			if err == nil {
				err = r.readAt(part, at)
			}
			if err != nil {
				return nil, err
			}
		}
		b = append(b, part...)
	}
	return b, nil
}

// find tells where a file's block lies on the disk, and how many follow it there;
// block 0 is a hole.
func (r *Reader) find(n diskInode, logical uint64) (block, count uint64, err error) {
	if n.flags()&flagExtents == 0 {
		block, err = r.mapped(n, logical)
		return block, 1, err
	}
	node := n.data()
	for range maxTreeDepth + 1 {
		entries, depth := int(le.Uint16(node[2:])), le.Uint16(node[6:])
		if le.Uint16(node) != extentMagic || 12+12*entries > len(node) {
			return 0, 0, fmt.Errorf("%w: a damaged tree of extents", ErrFormat)
		}
		e := lastBefore(node[12:12+12*entries], logical)
		if e == nil {
			return 0, 1, nil
		}
		if depth == 0 {
			first, length := uint64(le.Uint32(e)), uint64(le.Uint16(e[4:]))
			start := uint64(le.Uint32(e[8:])) | uint64(le.Uint16(e[6:]))<<32
			written := length <= maxExtentLen // more: allocated and not written, zeros
			if !written {
				length -= maxExtentLen
			}
			if logical >= first+length {
				return 0, 1, nil
			}
			if !written {
				return 0, first + length - logical, nil
			}
			return start + logical - first, first + length - logical, nil
		}
		at, err := r.offset(uint64(le.Uint32(e[4:])) | uint64(le.Uint16(e[8:]))<<32)
		if err != nil {
			return 0, 0, err
		}
		node = make([]byte, r.block)
		if err := r.readAt(node, at); err != nil {
			return 0, 0, err
		}
	}
	return 0, 0, fmt.Errorf("%w: a tree of extents is too deep", ErrFormat)
}

// lastBefore is the last entry that begins at or before a block.
func lastBefore(entries []byte, logical uint64) (found []byte) {
	for ; len(entries) >= 12; entries = entries[12:] {
		if uint64(le.Uint32(entries)) > logical {
			break
		}
		found = entries[:12]
	}
	return found
}

// mapped finds a block by ext2's way: 12 in the inode, then tables of tables.
func (r *Reader) mapped(n diskInode, logical uint64) (uint64, error) {
	fan := uint64(r.block / 4)
	if logical < 12 {
		return uint64(le.Uint32(n.data()[4*logical:])), nil
	}
	logical -= 12
	span := fan
	for level := 1; level <= 3; level++ {
		if logical < span {
			return r.indirect(uint64(le.Uint32(n.data()[4*(11+level):])), logical, level, fan)
		}
		logical -= span
		span *= fan
	}
	return 0, fmt.Errorf("%w: a block beyond any table", ErrFormat)
}

func (r *Reader) indirect(table, logical uint64, level int, fan uint64) (uint64, error) {
	for ; level > 0 && table != 0; level-- {
		under := uint64(1) // blocks that one entry covers
		for range level - 1 {
			under *= fan
		}
		at, err := r.offset(table)
		if err != nil {
			return 0, err
		}
		var b [4]byte
		if err := r.readAt(b[:], at+int64(logical/under)*4); err != nil {
			return 0, err
		}
		table, logical = uint64(le.Uint32(b[:])), logical%under
	}
	return table, nil
}

var kindOf = map[byte]Kind{1: Regular, 2: Dir, 3: Char, 4: Block, 5: FIFO, 7: Symlink}

// each calls fn for the names of a folder until it says false. Indexed folders
// look like plain ones: the index hides in empty entries.
func (r *Reader) each(n diskInode, fn func(DirEntry, uint32) bool) error {
	if n.kind() != Dir {
		return ErrNotDir
	}
	b, err := r.content(n, maxDirBytes)
	if err != nil {
		return err
	}
	for ; len(b) >= 8; b = b[le.Uint16(b[4:]):] {
		inode, size, name := le.Uint32(b), int(le.Uint16(b[4:])), int(b[6])
		if size < 8 || size > len(b) || 8+name > size {
			return fmt.Errorf("%w: a damaged folder", ErrFormat)
		}
		if s := string(b[8 : 8+name]); inode != 0 && s != "." && s != ".." && !fn(DirEntry{s, kindOf[b[7]]}, inode) {
			return nil
		}
	}
	return nil
}

// lookup walks a path from the root; symbolic links are followed inside the tree.
func (r *Reader) lookup(name string) (diskInode, error) {
	root, err := r.inode(rootInode)
	if err != nil {
		return nil, err
	}
	at, todo, hops := []diskInode{root}, split(name), 0
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		if part == ".." {
			at = at[:max(1, len(at)-1)]
			continue
		}
		next, err := r.child(at[len(at)-1], part)
		if err != nil {
			return nil, err
		}
		if next.kind() != Symlink {
			at = append(at, next)
			continue
		}
		target, err := r.target(next)
		if hops++; err != nil || hops > maxSymlinks {
			return nil, fmt.Errorf("a symbolic link: %w", errors.Join(err, ErrName))
		}
		if strings.HasPrefix(target, "/") {
			at = at[:1]
		}
		todo = append(split(target), todo...)
	}
	return at[len(at)-1], nil
}

// split gives the parts of a path that lead on.
func split(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(s string) bool { return s == "" || s == "." })
}

func (r *Reader) child(dir diskInode, name string) (diskInode, error) {
	number := uint32(0)
	if err := r.each(dir, func(d DirEntry, inode uint32) bool {
		if d.Name == name {
			number = inode
		}
		return number == 0
	}); err != nil {
		return nil, err
	}
	if number == 0 {
		return nil, ErrNotExist
	}
	return r.inode(number)
}

func (r *Reader) target(n diskInode) (string, error) {
	if size := n.size(); size >= 0 && size < fastSymlink {
		return string(n.data()[:size]), nil
	}
	b, err := r.content(n, 4096)
	return string(b), err
}

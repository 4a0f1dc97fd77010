// SPDX-License-Identifier: Apache-2.0

// Package ext4 makes a new ext4 file system in a file, without root and
// without the host's tools.
//
// The tree lives in memory; the bytes of regular files go to the disk as they
// arrive, all other metadata when Close is called. What was never written stays
// a hole, so a 1 GiB disk with 60 MiB of files costs 60 MiB.
//
//	group 0 (and every 16th, the first of its flex group):
//	  superblock │ group descriptors │ block bitmaps │ inode bitmaps │ inode tables │ data
//	other groups:
//	  [copy of superblock and descriptors, in groups 1 and powers of 3, 5, 7] │ data
//
// The result is an ordinary file system to read and write: an empty journal,
// free blocks and inodes, extents, and no checksums (a slow guest need not
// compute them; tune2fs -O metadata_csum adds them). It is a function of its
// inputs: same calls, same bytes.
//
// Layout: Documentation/filesystems/ext4/ of the Linux kernel.
package ext4

import (
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	blockSize      = 4096
	blocksPerGroup = 8 * blockSize
	inodeSize      = 256
	inodesPerGroup = 8192 // one inode per 16 KiB, as mke2fs
	tableBlocks    = inodesPerGroup * inodeSize / blockSize
	flexGroups     = 16
	maxExtentLen   = 32768
	maxSymlinks    = 40
	maxName        = 255
)

// MinSize and MaxSize bound the size of a disk in bytes.
const (
	MinSize = 32 << 20
	MaxSize = 1 << 40
)

// Device is where the file system is written; *os.File is one. It must read as
// zeros where it was not written and hold Options.Size bytes.
type Device interface {
	io.ReaderAt
	io.WriterAt
}

// Options describe the file system as a whole.
type Options struct {
	Size  int64 // bytes, rounded down to a whole block
	UUID  [16]byte
	Label string    // at most 16 bytes
	Time  time.Time // when it was made; also of lost+found and directories made on the way
}

// Attr is what a name has beside its content. Mode holds the permission bits
// with setuid (04000), setgid (02000) and sticky (01000).
type Attr struct {
	Mode     uint16
	UID, GID uint32
	Time     time.Time
}

// Kind is the type of a file, as in the upper bits of i_mode.
type Kind uint16

const (
	FIFO    Kind = 0x1000
	Char    Kind = 0x2000
	Dir     Kind = 0x4000
	Block   Kind = 0x6000
	Regular Kind = 0x8000
	Symlink Kind = 0xA000
)

// ErrExist, ErrNotExist and the rest are wrapped with the name they are about.
var (
	ErrExist    = errors.New("name is taken")
	ErrNotExist = errors.New("no such file or directory")
	ErrNotDir   = errors.New("not a directory")
	ErrName     = errors.New("not a usable name")
	ErrNoSpace  = errors.New("the disk is full: make it larger")
)

// FS is a file system being made. It is not safe for concurrent use.
type FS struct {
	dev    Device
	opt    Options
	layout layout
	blocks bitmap
	root   *node
	inodes int // nodes reachable from root
	closed bool
}

// extent is a run of blocks on the disk; runs of a file follow one another.
type extent struct {
	start uint64
	count uint64
}

// node is an inode and, for a directory, its names in the order they came.
type node struct {
	kind     Kind
	attr     Attr
	links    int
	size     int64
	data     []extent
	tree     []uint64 // blocks of the extent tree below the inode
	target   string   // of a symbolic link
	rdev     [2]uint32
	parent   *node
	children map[string]*node
	names    []string
	number   uint32 // given by Close
}

// New starts a file system on dev, which must read as zeros.
func New(dev Device, o Options) (*FS, error) {
	if o.Size < MinSize || o.Size > MaxSize {
		return nil, fmt.Errorf("ext4: size %d is outside %d..%d bytes", o.Size, int64(MinSize), int64(MaxSize))
	}
	if len(o.Label) > 16 {
		return nil, fmt.Errorf("ext4: label %q is longer than 16 bytes", o.Label)
	}
	fs := &FS{dev: dev, opt: o, layout: newLayout(uint64(o.Size / blockSize))}
	fs.blocks = newBitmap(fs.layout.blocks)
	fs.layout.reserve(&fs.blocks)
	fs.root = &node{kind: Dir, attr: fs.dirAttr(0o755), links: 2, children: map[string]*node{}}
	fs.root.parent = fs.root
	fs.inodes = 1
	if err := fs.Mkdir("/lost+found", fs.dirAttr(0o700)); err != nil {
		return nil, err
	}
	return fs, nil
}

func (fs *FS) dirAttr(mode uint16) Attr { return Attr{Mode: mode, Time: fs.opt.Time} }

// Mkdir makes a directory, and those above it that are missing. One that is
// there, even through a symbolic link, gets the attributes.
func (fs *FS) Mkdir(name string, a Attr) error {
	if n, err := fs.lookup(name, true); err == nil && n.kind == Dir {
		n.attr = a
		return nil
	}
	n := &node{kind: Dir, attr: a, links: 2, children: map[string]*node{}}
	return fs.wrap("make directory", name, fs.insert(name, n))
}

// Create makes a regular file of exactly size bytes read from r. It replaces
// another file, never a directory.
func (fs *FS) Create(name string, a Attr, size int64, r io.Reader) error {
	n := &node{kind: Regular, attr: a, links: 1, size: size}
	if err := fs.write(n, size, r); err != nil {
		fs.free(n)
		return fs.wrap("write", name, err)
	}
	if err := fs.insert(name, n); err != nil {
		fs.free(n)
		return fs.wrap("create", name, err)
	}
	return nil
}

// Symlink makes a symbolic link; its target is not looked at.
func (fs *FS) Symlink(name, target string, a Attr) error {
	if target == "" || len(target) >= blockSize || strings.IndexByte(target, 0) >= 0 {
		return fs.wrap("link to a target of", name, ErrName)
	}
	a.Mode = 0o777
	n := &node{kind: Symlink, attr: a, links: 1, target: target, size: int64(len(target))}
	if len(target) >= fastSymlink {
		if err := fs.write(n, n.size, strings.NewReader(target)); err != nil {
			return fs.wrap("link", name, err)
		}
	}
	if err := fs.insert(name, n); err != nil {
		fs.free(n)
		return fs.wrap("link", name, err)
	}
	return nil
}

// Remove takes a name away; of a folder, with all that is in it. A symbolic link
// is not followed. Nothing there is no error.
func (fs *FS) Remove(name string) error {
	dir, base := path.Split(path.Clean("/" + name))
	if base == "" {
		return fs.wrap("remove", name, ErrName)
	}
	parent, err := fs.lookup(dir, true)
	if errors.Is(err, ErrNotExist) || err == nil && parent.children[base] == nil {
		return nil
	}
	if err != nil {
		return fs.wrap("remove", name, err)
	}
	fs.detach(parent, base)
	return nil
}

func (fs *FS) detach(parent *node, base string) {
	n := parent.children[base]
	delete(parent.children, base)
	parent.names = slices.DeleteFunc(parent.names, func(s string) bool { return s == base })
	if n.kind != Dir {
		fs.unlink(n)
		return
	}
	for len(n.names) > 0 {
		fs.detach(n, n.names[len(n.names)-1])
	}
	parent.links--
	fs.inodes--
}

// Names lists a folder, in the order in which the names came.
func (fs *FS) Names(dir string) ([]string, error) {
	n, err := fs.lookup(dir, true)
	if err == nil && n.kind != Dir {
		err = ErrNotDir
	}
	if err != nil {
		return nil, fs.wrap("list", dir, err)
	}
	return slices.Clone(n.names), nil
}

// Link gives an existing file a further name.
func (fs *FS) Link(name, existing string) error {
	n, err := fs.lookup(existing, false)
	if err != nil {
		return fs.wrap("link to", existing, err)
	}
	if n.kind == Dir || n.links >= math.MaxUint16-1 {
		return fs.wrap("link to", existing, ErrName)
	}
	n.links++
	if err := fs.insert(name, n); err != nil {
		n.links--
		return fs.wrap("link", name, err)
	}
	return nil
}

// Mknod makes a device node or a FIFO.
func (fs *FS) Mknod(name string, k Kind, major, minor uint32, a Attr) error {
	if k != Char && k != Block && k != FIFO {
		return fs.wrap("make node", name, ErrName)
	}
	n := &node{kind: k, attr: a, links: 1, rdev: [2]uint32{major, minor}}
	return fs.wrap("make node", name, fs.insert(name, n))
}

// SetAttr changes the attributes of a name; a symbolic link is followed.
func (fs *FS) SetAttr(name string, a Attr) error {
	n, err := fs.lookup(name, true)
	if err != nil {
		return fs.wrap("change", name, err)
	}
	n.attr = a
	return nil
}

// Stat tells the kind and attributes of a name, not following a last symbolic
// link.
func (fs *FS) Stat(name string) (Kind, Attr, error) {
	n, err := fs.lookup(name, false)
	if err != nil {
		return 0, Attr{}, fs.wrap("stat", name, err)
	}
	return n.kind, n.attr, nil
}

// ReadFile returns the content of a regular file of at most 16 MiB.
func (fs *FS) ReadFile(name string) ([]byte, error) {
	n, err := fs.lookup(name, true)
	if err != nil {
		return nil, fs.wrap("read", name, err)
	}
	if n.kind != Regular || n.size > 16<<20 {
		return nil, fs.wrap("read", name, ErrName)
	}
	out := make([]byte, 0, n.size)
	for _, e := range n.data {
		b := make([]byte, min(int64(e.count)*blockSize, n.size-int64(len(out))))
		if _, err := fs.dev.ReadAt(b, int64(e.start)*blockSize); err != nil {
			return nil, fs.wrap("read", name, err)
		}
		out = append(out, b...)
	}
	return out, nil
}

// Usage is the number of inodes in use and of bytes free.
func (fs *FS) Usage() (inodes int, free int64) {
	return fs.inodes, int64(fs.blocks.free) * blockSize
}

func (fs *FS) wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("ext4: %s %s: %w", op, name, err)
}

// lookup walks a path from the root. Symbolic links on the way are followed
// inside the tree; ".." at the root is the root. So no name leads out.
func (fs *FS) lookup(name string, follow bool) (*node, error) {
	return fs.walk(fs.root, name, follow, new(int))
}

func (fs *FS) walk(at *node, name string, follow bool, hops *int) (*node, error) {
	if strings.HasPrefix(name, "/") {
		at = fs.root
	}
	parts := strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
	for i, part := range parts {
		if at.kind != Dir {
			return nil, ErrNotDir
		}
		next, err := at.child(part)
		if err != nil {
			return nil, err
		}
		if next.kind == Symlink && (follow || i < len(parts)-1) {
			if *hops++; *hops > maxSymlinks {
				return nil, fmt.Errorf("too many symbolic links: %w", ErrName)
			}
			if next, err = fs.walk(at, next.target, true, hops); err != nil {
				return nil, err
			}
		}
		at = next
	}
	return at, nil
}

func (n *node) child(part string) (*node, error) {
	switch part {
	case ".":
		return n, nil
	case "..":
		return n.parent, nil
	}
	if c := n.children[part]; c != nil {
		return c, nil
	}
	return nil, ErrNotExist
}

// insert puts n at name, making directories above it that are missing.
func (fs *FS) insert(name string, n *node) error {
	if strings.IndexByte(name, 0) >= 0 || len(name) >= 4096 {
		return ErrName
	}
	for _, part := range strings.Split(name, "/") {
		if part == ".." || len(part) > maxName {
			return ErrName
		}
	}
	dir, base := path.Split(path.Clean("/" + name))
	if base == "" {
		return ErrExist
	}
	parent, err := fs.mkdirAll(dir)
	if err != nil {
		return err
	}
	return fs.attach(parent, base, n)
}

func (fs *FS) mkdirAll(dir string) (*node, error) {
	n, err := fs.lookup(dir, true)
	if errors.Is(err, ErrNotExist) {
		// A dangling link on the way is found when the directory is attached.
		if err := fs.insert(strings.TrimSuffix(dir, "/"), &node{
			kind: Dir, attr: fs.dirAttr(0o755), links: 2, children: map[string]*node{},
		}); err != nil {
			return nil, err
		}
		n, err = fs.lookup(dir, true)
	}
	if err != nil {
		return nil, err
	}
	if n.kind != Dir {
		return nil, ErrNotDir
	}
	return n, nil
}

func (fs *FS) attach(parent *node, base string, n *node) error {
	old := parent.children[base]
	switch {
	case old == n:
		n.links-- // linked to itself: nothing changes
		return nil
	case old == nil:
		parent.names = append(parent.names, base)
	case old.kind == Dir || n.kind == Dir:
		return ErrExist
	default:
		fs.unlink(old)
	}
	if n.kind == Dir {
		parent.links++
		n.parent = parent
	}
	if n.kind == Dir || n.links == 1 {
		fs.inodes++
	}
	parent.children[base] = n
	return nil
}

func (fs *FS) unlink(n *node) {
	if n.links--; n.links == 0 {
		fs.inodes--
		fs.free(n)
	}
}

func (fs *FS) free(n *node) {
	for _, e := range n.data {
		fs.blocks.release(e)
	}
	n.data = nil
}

// write allocates blocks for size bytes and fills them from r. The tail of the
// last block is zeroed: the block may have belonged to a replaced file.
func (fs *FS) write(n *node, size int64, r io.Reader) error {
	const piece = 256 // blocks
	buf := make([]byte, min((size+blockSize-1)/blockSize, piece)*blockSize)
	for left := size; left > 0; {
		e, ok := fs.blocks.take(uint64(min((left+blockSize-1)/blockSize, piece)))
		if !ok {
			return ErrNoSpace
		}
		n.addExtent(e)
		b := buf[:e.count*blockSize]
		got := min(left, int64(len(b)))
		if _, err := io.ReadFull(r, b[:got]); err != nil {
			return err
		}
		clear(b[got:])
		if _, err := fs.dev.WriteAt(b, int64(e.start)*blockSize); err != nil {
			return err
		}
		left -= got
	}
	return nil
}

func (n *node) addExtent(e extent) {
	if last := len(n.data) - 1; last >= 0 {
		p := &n.data[last]
		if p.start+p.count == e.start && p.count+e.count <= maxExtentLen {
			p.count += e.count
			return
		}
	}
	n.data = append(n.data, e)
}

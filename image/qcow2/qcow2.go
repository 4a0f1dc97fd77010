// SPDX-License-Identifier: Apache-2.0

// Package qcow2 reads disks in QEMU's format, versions 2 and 3.
//
// A disk is made of clusters. Two levels of tables say where in the file each of
// them is:
//
//	offset of the guest ─► L1 ─► L2 ─► a cluster of the file
//	                        │     ├──► zeros
//	                        │     └──► compressed: deflate or zstd
//	                        └───► a whole L2 table of zeros
//
// What needs another file (a backing file, external data), a key, or a feature
// that we don't know is refused with the command that makes a plain copy. A
// file may be hostile: a read costs at most one table and one cluster of memory,
// 4 MiB together, whatever it says, and for a compressed cluster for a moment that
// as the file has it (4 MiB) and the window of its decoder (8 MiB).
//
// Format: docs/interop/qcow2.txt of QEMU.
package qcow2

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// MaxSize bounds the disk that a file may describe, in bytes.
const MaxSize = 1 << 40

const maxWindow = 8 << 20 // what every decoder of zstd shall support (RFC 8878 3.1.1.1.2)

// Magic begins every file.
const Magic = "QFI\xfb"

// Fields of the header by offset; what version 3 adds is from 72 on.
const (
	atVersion     = 4
	atBacking     = 8
	atClusterBits = 20
	atSize        = 24
	atCrypt       = 32
	atL1Size      = 36
	atL1          = 40
	atFeatures    = 72
	atHeaderSize  = 100
	atCompression = 104
	headerSize    = 112
)

// Incompatible features. A dirty file has stale reference counts only, which
// nobody needs who reads.
const (
	featureDirty       = 1 << 0
	featureCorrupt     = 1 << 1
	featureExternal    = 1 << 2
	featureCompression = 1 << 3
	featureExtendedL2  = 1 << 4
)

// Bits of an entry in a table.
const (
	flagCompressed = 1 << 62
	flagZero       = 1 << 0
	offsetMask     = 0x00ff_ffff_ffff_fe00
)

// ErrFormat is the kind of all errors about what the file says.
var ErrFormat = errors.New("damaged qcow2 file")

// Disk is an open file. It is not for several goroutines at once.
type Disk struct {
	file     io.ReaderAt
	fileSize int64
	size     int64
	bits     uint // of a cluster
	l1       int64
	l1Size   uint64
	zstd     bool

	tableAt int64 // of table, or 0
	table   []byte
	packed  uint64 // entry of plain, or 0
	plain   []byte // a decompressed cluster
}

// Open reads the header of a file of some bytes.
func Open(file io.ReaderAt, fileSize int64) (*Disk, error) {
	h := make([]byte, headerSize)
	if n, err := file.ReadAt(h, 0); err != nil && err != io.EOF {
		return nil, err
	} else if n < atFeatures || string(h[:4]) != Magic {
		return nil, fmt.Errorf("%w: it has no header", ErrFormat)
	}
	be := binary.BigEndian
	d := &Disk{file: file, fileSize: fileSize, size: int64(be.Uint64(h[atSize:])), bits: uint(be.Uint32(h[atClusterBits:])),
		l1: int64(be.Uint64(h[atL1:])), l1Size: uint64(be.Uint32(h[atL1Size:]))}
	features := uint64(0)
	version := be.Uint32(h[atVersion:])
	if version == 3 {
		features = be.Uint64(h[atFeatures:])
		d.zstd = features&featureCompression != 0 && be.Uint32(h[atHeaderSize:]) > atCompression && h[atCompression] == 1
	}
	return d, d.check(version, features, be.Uint64(h[atBacking:]), be.Uint32(h[atCrypt:]))
}

func (d *Disk) check(version uint32, features, backing uint64, crypt uint32) error {
	const convert = "make a plain copy: qemu-img convert -O raw FILE DISK"
	known := uint64(featureDirty | featureCompression)
	switch {
	case version != 2 && version != 3:
		return fmt.Errorf("qcow2 version %d is not known: %s", version, convert)
	case backing != 0:
		return fmt.Errorf("it holds only what differs from another file: %s", convert)
	case crypt != 0:
		return fmt.Errorf("it is encrypted: %s", convert)
	case features&featureCorrupt != 0:
		return fmt.Errorf("%w: it is marked corrupt: repair it with qemu-img check -r all FILE", ErrFormat)
	case features&featureExternal != 0:
		return fmt.Errorf("its data is in another file: %s", convert)
	case features&^known != 0: // extended L2 too
		return fmt.Errorf("it uses features %#x that are not known: %s", features&^known, convert)
	case d.bits < 9 || d.bits > 21:
		return fmt.Errorf("%w: clusters of 2^%d bytes", ErrFormat, d.bits)
	case d.size <= 0 || d.size > MaxSize:
		return fmt.Errorf("%w: a disk of %d bytes; at most %d are read", ErrFormat, uint64(d.size), int64(MaxSize))
	case d.l1Size < d.tables():
		return fmt.Errorf("%w: its first table has %d entries, the disk needs %d", ErrFormat, d.l1Size, d.tables())
	case d.l1 <= 0 || d.l1 > d.fileSize || uint64(d.fileSize-d.l1) < 8*d.tables():
		return fmt.Errorf("%w: its first table lies outside the file", ErrFormat)
	}
	return nil
}

// Size is the number of bytes of the disk.
func (d *Disk) Size() int64 { return d.size }

// ClusterSize is the unit in which a disk has holes.
func (d *Disk) ClusterSize() int64 { return 1 << d.bits }

func (d *Disk) tables() uint64 {
	span := uint64(d.bits + d.bits - 3) // a table of 8-byte entries covers 2^span bytes
	return (uint64(d.size) + 1<<span - 1) >> span
}

// ReadAt reads the disk as the guest sees it.
func (d *Disk) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off >= d.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > d.size-off
	if short {
		p = p[:d.size-off]
	}
	for n < len(p) {
		at := off + int64(n)
		inside := at & (d.ClusterSize() - 1)
		part := p[n:min(len(p), n+int(d.ClusterSize()-inside))]
		if _, err := d.cluster(part, at, inside); err != nil {
			return n, fmt.Errorf("at %d: %w", at, err)
		}
		n += len(part)
	}
	if short {
		return n, io.EOF
	}
	return n, nil
}

// Hole reports whether the cluster at off reads as zeros.
func (d *Disk) Hole(off int64) (bool, error) { return d.cluster(nil, off, 0) }

// cluster fills p from a place inside the cluster that the guest has at off.
func (d *Disk) cluster(p []byte, off, inside int64) (hole bool, err error) {
	entry, err := d.entry(off)
	switch {
	case err != nil:
		return false, err
	case entry&flagCompressed != 0:
		if len(p) == 0 {
			return false, nil
		}
		if err := d.unpack(entry); err != nil {
			return false, err
		}
		copy(p, d.plain[inside:])
		return false, nil
	case entry&flagZero != 0 || entry&offsetMask == 0:
		clear(p)
		return true, nil
	}
	host := int64(entry & offsetMask)
	if host > d.fileSize || host&(d.ClusterSize()-1) != 0 {
		return false, fmt.Errorf("%w: a cluster at %#x", ErrFormat, host)
	}
	got, err := d.file.ReadAt(p, host+inside)
	if err == io.EOF { // the last cluster of a file may be cut short
		clear(p[got:])
		err = nil
	}
	return false, err
}

// entry finds the entry of a cluster in its L2 table.
func (d *Disk) entry(off int64) (uint64, error) {
	var b [8]byte
	if _, err := d.file.ReadAt(b[:], d.l1+off>>(d.bits+d.bits-3)*8); err != nil {
		return 0, noEOF(err)
	}
	at := int64(binary.BigEndian.Uint64(b[:]) & offsetMask)
	if at == 0 {
		return 0, nil
	}
	if at&(d.ClusterSize()-1) != 0 || at > d.fileSize-d.ClusterSize() {
		return 0, fmt.Errorf("%w: a table at %#x", ErrFormat, at)
	}
	if d.tableAt != at {
		if d.table == nil {
			d.table = make([]byte, d.ClusterSize())
		}
		d.tableAt = 0
		if _, err := d.file.ReadAt(d.table, at); err != nil {
			return 0, noEOF(err)
		}
		d.tableAt = at
	}
	i := off >> d.bits & (d.ClusterSize()/8 - 1)
	return binary.BigEndian.Uint64(d.table[i*8:]), nil
}

// unpack decompresses a cluster into d.plain.
func (d *Disk) unpack(entry uint64) error {
	if d.packed == entry {
		return nil
	}
	shift := 62 - (d.bits - 8)
	at := int64(entry & (1<<shift - 1))
	sectors := int64(entry&^(3<<62)>>shift) + 1
	size := min(sectors*512-at&511, d.fileSize-at) // the last may be cut short
	if at >= d.fileSize || size > 2*d.ClusterSize() {
		return fmt.Errorf("%w: a compressed cluster at %#x of %d sectors", ErrFormat, at, sectors)
	}
	raw := make([]byte, size)
	if _, err := d.file.ReadAt(raw, at); err != nil && err != io.EOF {
		return err
	}
	if d.plain == nil {
		d.plain = make([]byte, d.ClusterSize())
	}
	d.packed = 0
	var r io.Reader = flate.NewReader(bytes.NewReader(raw))
	if d.zstd {
		z, err := zstd.NewReader(bytes.NewReader(raw), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return fmt.Errorf("%w: %v", ErrFormat, err)
		}
		defer z.Close()
		r = z
	}
	if _, err := io.ReadFull(r, d.plain); err != nil {
		return fmt.Errorf("%w: a compressed cluster at %#x: %v", ErrFormat, at, err)
	}
	d.packed = entry
	return nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return fmt.Errorf("%w: it ends too early", ErrFormat)
	}
	return err
}

// SPDX-License-Identifier: Apache-2.0

package deb

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// unxz unpacks an .xz file (The .xz File Format 1.2.1). The library has a reader for
// them too, which gives each block the dictionary that it asks for, up to 4 GiB; so
// here the file is taken apart, and the library only unpacks the blocks.
//
//	file:   stream { zeros stream }
//	stream: header { block } index footer
//	block:  header LZMA2 zeros check
//
// What must stand in the index and the footer is known when all blocks have been
// read: it is made and compared.
type unxz struct {
	in  counted
	err error // of all reads from now on

	check   byte   // how the stream's blocks are checked
	records []byte // of its index, so far
	blocks  uint64

	block  io.Reader // what the open block unpacks to; nil between blocks
	sum    hash.Hash // of it
	plain  uint64    // bytes of it
	header blockHeader
}

// blockHeader is section 3.1 without the filters; a size that isn't given is -1.
type blockHeader struct {
	bytes         uint64
	packed, plain int64
	dictionary    int
}

// Fields of the format that every reader must know.
const (
	xzMagic     = "\xfd7zXZ\x00"
	xzEnd       = "YZ"
	filterLZMA2 = 0x21

	filterCount = 0x03 // of a block's flags: one less than there are
	reserved    = 0x3c
	givesPacked = 0x40
	givesPlain  = 0x80
)

// xzChecks are the kinds of section 2.1.1.2 that xz writes.
var xzChecks = map[byte]func() hash.Hash{
	0:  func() hash.Hash { return nothing{crc32.NewIEEE()} },
	1:  func() hash.Hash { return backwards{crc32.NewIEEE()} },
	4:  func() hash.Hash { return backwards{crc64.New(crc64.MakeTable(crc64.ECMA))} },
	10: sha256.New,
}

// backwards is a hash whose sum is written with the lowest byte first.
type backwards struct{ hash.Hash }

func (h backwards) Sum(b []byte) []byte {
	sum := h.Hash.Sum(nil)
	for i := range sum {
		b = append(b, sum[len(sum)-1-i])
	}
	return b
}

// nothing is the check of a stream that has none.
type nothing struct{ hash.Hash }

func (nothing) Sum(b []byte) []byte { return b }

type counted struct {
	io.Reader
	n uint64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += uint64(n)
	return n, err
}

func newUnxz(r io.Reader) (*unxz, error) {
	u := &unxz{in: counted{Reader: r}}
	return u, u.stream(nil)
}

func (u *unxz) Read(p []byte) (n int, err error) {
	for u.err == nil && n == 0 && len(p) > 0 {
		if u.block == nil {
			u.err = u.next()
			continue
		}
		n, err = u.block.Read(p)
		u.sum.Write(p[:n])
		u.plain += uint64(n)
		if err == io.EOF {
			u.err = u.endBlock()
		} else if err != nil {
			u.err = fmt.Errorf("%w: xz: %w", ErrFormat, err)
		}
	}
	if n > 0 {
		return n, nil
	}
	return 0, u.err
}

// full reads all of b.
func (u *unxz) full(b []byte) error {
	_, err := io.ReadFull(&u.in, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return malformed("xz: cut off")
	}
	return err
}

// expect reads what must come.
func (u *unxz) expect(what string, want []byte) error {
	got := make([]byte, len(want))
	if err := u.full(got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return malformed("xz: wrong %s", what)
	}
	return nil
}

// stream reads the header of a stream, of which some bytes may have been read.
func (u *unxz) stream(begun []byte) error {
	b := append(begun, make([]byte, len(xzMagic)+6-len(begun))...)
	if err := u.full(b[len(begun):]); err != nil {
		return err
	}
	u.check = b[7]
	if !bytes.Equal(b, append([]byte(xzMagic), summed(u.flags())...)) {
		return malformed("xz: a wrong header")
	}
	if xzChecks[u.check] == nil {
		return malformed("xz: check %d is not known", u.check)
	}
	u.records, u.blocks = nil, 0
	return nil
}

// another reads the header of the next stream, behind any zeros. The file may end
// instead.
func (u *unxz) another() error {
	var b [4]byte
	for b == [4]byte{} {
		if _, err := io.ReadFull(&u.in, b[:1]); err != nil {
			return err
		}
		if err := u.full(b[1:]); err != nil {
			return err
		}
	}
	return u.stream(b[:])
}

// flags are the stream's.
func (u *unxz) flags() []byte { return []byte{0, u.check} }

// summed is b and its CRC32.
func summed(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// next opens the next block, or ends the stream.
func (u *unxz) next() error {
	var size [1]byte
	if err := u.full(size[:]); err != nil {
		return err
	}
	if size[0] == 0 {
		if err := u.endStream(); err != nil {
			return err
		}
		return u.another()
	}
	b := make([]byte, (int(size[0])+1)*4)
	b[0] = size[0]
	err := u.full(b[1:])
	if err != nil {
		return err
	}
	if u.header, err = parseBlockHeader(b); err != nil {
		return err
	}
	u.in.n, u.plain, u.sum = 0, 0, xzChecks[u.check]()
	u.block, err = lzma.Reader2Config{DictCap: u.header.dictionary}.NewReader2(&u.in)
	return err
}

func parseBlockHeader(b []byte) (h blockHeader, err error) {
	body, flags := b[2:len(b)-4], b[1]
	if !bytes.Equal(summed(bytes.Clone(b[:len(b)-4])), b) || flags&reserved != 0 {
		return h, malformed("xz: a wrong block header")
	}
	number := func(given byte) int64 {
		if flags&given == 0 {
			return -1
		}
		v, n := binary.Uvarint(body)
		if n <= 0 || int64(v) < 0 {
			err = malformed("xz: a wrong size in a block header")
			return -1
		}
		body = body[n:]
		return int64(v)
	}
	h = blockHeader{bytes: uint64(len(b)), packed: number(givesPacked), plain: number(givesPlain)}
	switch {
	case err != nil:
		return h, err
	case len(body) < 3 || flags&filterCount == 0 && body[0] == filterLZMA2 && body[1] != 1:
		return h, malformed("xz: a wrong filter")
	case flags&filterCount != 0 || body[0] != filterLZMA2:
		return h, malformed("xz: filter %#x is not supported, only LZMA2 alone", body[0])
	case len(bytes.Trim(body[3:], "\x00")) > 0:
		return h, malformed("xz: a wrong block header")
	}
	size, err := lzma.DecodeDictCap(body[2])
	if err != nil || size > maxWindow {
		return h, malformed("xz: it asks for a dictionary of %d bytes, at most %d are given", size, maxWindow)
	}
	h.dictionary = int(size)
	return h, nil
}

// endBlock reads what is behind the data of a block and notes its sizes.
func (u *unxz) endBlock() error {
	u.block = nil
	packed, h := u.in.n, u.header
	if h.packed >= 0 && uint64(h.packed) != packed || h.plain >= 0 && uint64(h.plain) != u.plain {
		return malformed("xz: a block has %d bytes for %d, its header says otherwise", packed, u.plain)
	}
	sum := u.sum.Sum(nil)
	u.records = binary.AppendUvarint(u.records, h.bytes+packed+uint64(len(sum)))
	u.records = binary.AppendUvarint(u.records, u.plain)
	u.blocks++
	return u.expect("checksum of a block", append(make([]byte, -packed&3), sum...))
}

// endStream reads index and footer; the index's first byte has been read.
func (u *unxz) endStream() error {
	index := append(binary.AppendUvarint([]byte{0}, u.blocks), u.records...)
	index = summed(append(index, make([]byte, -len(index)&3)...))
	if err := u.expect("index", index[1:]); err != nil {
		return err
	}
	size := append(binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4-1)), u.flags()...)
	footer := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(size))
	return u.expect("footer", append(append(footer, size...), xzEnd...))
}

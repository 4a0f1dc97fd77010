// SPDX-License-Identifier: Apache-2.0

// Package state walks the state of a machine in a fixed order, to save it, to
// load it or to hash it. Each component has one method
//
//	func (d *Device) State(c *state.Coder)
//
// that names its fields once, so that a field can't be saved and forgotten at
// loading, or loaded and left out of the hash.
//
// Encoding: integers are little-endian in their own width, a bool is a byte 0
// or 1, a byte string is a uint32 length and the bytes. Loading never panics
// on hostile input and never allocates more than the input can fill: the first
// error sticks, all later fields stay as they are, and Err reports it.
package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"
)

// ErrInvalid is wrapped by the errors of a state that can't be loaded.
var ErrInvalid = errors.New("invalid machine state")

// Coder saves, loads or hashes. Make one with Saver, Loader or Hasher.
type Coder struct {
	w    io.Writer
	r    io.Reader
	hash *xxhash.Digest
	buf  [8]byte
	err  error
}

// Saver returns a Coder that writes fields to w.
func Saver(w io.Writer) *Coder { return &Coder{w: w} }

// Loader returns a Coder that overwrites fields with what it reads from r.
func Loader(r io.Reader) *Coder { return &Coder{r: r} }

// Hasher returns a Coder that only looks; Sum is the 64-bit hash (XXH64).
func Hasher() *Coder {
	h := xxhash.New()
	return &Coder{w: h, hash: h}
}

// Loading reports whether fields are being overwritten, for components that
// must rebuild what they derive.
func (c *Coder) Loading() bool { return c.r != nil }

// Hashing reports whether the Coder is a Hasher.
func (c *Coder) Hashing() bool { return c.hash != nil }

// Sum returns the hash of a Hasher's fields so far.
func (c *Coder) Sum() uint64 { return c.hash.Sum64() }

// Err returns the first error.
func (c *Coder) Err() error { return c.err }

// Fail records an error found by a component, for instance a value out of range.
func (c *Coder) Fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
}

func (c *Coder) bytes(b []byte) {
	if c.err != nil {
		return
	}
	if c.r == nil {
		_, c.err = c.w.Write(b)
		return
	}
	if _, err := io.ReadFull(c.r, b); err != nil {
		c.err = fmt.Errorf("%w: %w", ErrInvalid, err)
	}
}

// U64 visits a field of any 64-bit unsigned type.
func U64[T ~uint64](c *Coder, v *T) {
	b := c.buf[:8]
	binary.LittleEndian.PutUint64(b, uint64(*v))
	c.bytes(b)
	if c.r != nil && c.err == nil {
		*v = T(binary.LittleEndian.Uint64(b))
	}
}

// U32 visits a field of any 32-bit unsigned type.
func U32[T ~uint32](c *Coder, v *T) {
	b := c.buf[:4]
	binary.LittleEndian.PutUint32(b, uint32(*v))
	c.bytes(b)
	if c.r != nil && c.err == nil {
		*v = T(binary.LittleEndian.Uint32(b))
	}
}

// U16 visits a field of any 16-bit unsigned type.
func U16[T ~uint16](c *Coder, v *T) {
	b := c.buf[:2]
	binary.LittleEndian.PutUint16(b, uint16(*v))
	c.bytes(b)
	if c.r != nil && c.err == nil {
		*v = T(binary.LittleEndian.Uint16(b))
	}
}

// U8 visits a field of any 8-bit unsigned type.
func U8[T ~uint8](c *Coder, v *T) {
	b := c.buf[:1]
	b[0] = byte(*v)
	c.bytes(b)
	if c.r != nil && c.err == nil {
		*v = T(b[0])
	}
}

// Bool visits a bool.
func (c *Coder) Bool(v *bool) {
	b := uint8(0)
	if *v {
		b = 1
	}
	U8(c, &b)
	if c.r == nil || c.err != nil {
		return
	}
	if b > 1 {
		c.Fail("bool is %d", b)
		return
	}
	*v = b == 1
}

// Len visits the length of a list; loading refuses more than max.
func (c *Coder) Len(n, max int) int {
	v := uint32(n)
	U32(c, &v)
	if c.err != nil {
		return 0
	}
	if int64(v) > int64(max) {
		c.Fail("length %d exceeds %d", v, max)
		return 0
	}
	return int(v)
}

// Bytes visits a byte string of at most max bytes.
func (c *Coder) Bytes(v *[]byte, max int) {
	n := c.Len(len(*v), max)
	if c.err != nil {
		return
	}
	if c.r == nil {
		c.bytes(*v)
		return
	}
	// Grow as bytes arrive: a forged length must not allocate by itself.
	var out []byte
	for len(out) < n && c.err == nil {
		chunk := make([]byte, min(n-len(out), 64<<10))
		c.bytes(chunk)
		out = append(out, chunk...)
	}
	if c.err == nil {
		*v = out
	}
}

// Fixed visits a byte array in place, without a length.
func (c *Coder) Fixed(v []byte) { c.bytes(v) }

// List visits a slice of at most max elements, each with visit.
func List[T any](c *Coder, v *[]T, max int, visit func(*T)) {
	n := c.Len(len(*v), max)
	if c.Loading() {
		*v = nil
	}
	for i := 0; i < n && c.err == nil; i++ {
		if c.Loading() {
			*v = append(*v, *new(T))
		}
		visit(&(*v)[i])
	}
}

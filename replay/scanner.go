// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/binary"
	"fmt"
	"math"

	"tandem/machine/event"
)

// scanner reads fields off the front of b. The first error sticks; fields read
// after it are zero.
type scanner struct {
	b   []byte
	err error
}

func (s *scanner) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
}

// take returns the next n bytes; none are nil, so that an entry has one form.
func (s *scanner) take(n uint64, limit int) []byte {
	if n > uint64(limit) {
		s.fail("%d bytes, the limit is %d", n, limit)
	} else if n > uint64(len(s.b)) {
		s.fail("%d bytes wanted, %d are left", n, len(s.b))
	}
	if s.err != nil || n == 0 {
		return nil
	}
	out := s.b[:n:n]
	s.b = s.b[n:]
	return out
}

func (s *scanner) bytes(limit int) []byte { return s.take(s.uvarint(), limit) }

func (s *scanner) byte() byte {
	if b := s.take(1, 1); b != nil {
		return b[0]
	}
	return 0
}

func (s *scanner) device() event.DeviceID { return event.DeviceID(s.byte()) }

func (s *scanner) uint64() uint64 {
	if b := s.take(8, 8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// uvarint refuses the longer forms of a number: they end with a zero byte.
func (s *scanner) uvarint() uint64 {
	if s.err != nil {
		return 0
	}
	v, n := binary.Uvarint(s.b)
	switch {
	case n == 0:
		s.fail("a number is cut short")
	case n < 0:
		s.fail("a number exceeds 64 bits")
	case n > 1 && s.b[n-1] == 0:
		s.fail("a number is not in its shortest form")
	default:
		s.b = s.b[n:]
		return v
	}
	return 0
}

func (s *scanner) zigzag() uint64 {
	v := s.uvarint()
	return v>>1 ^ -(v & 1)
}

func (s *scanner) uint16() uint16 {
	v := s.uvarint()
	if v > math.MaxUint16 {
		s.fail("%d exceeds 16 bits", v)
		return 0
	}
	return uint16(v)
}

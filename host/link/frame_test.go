// SPDX-License-Identifier: Apache-2.0

package link

import (
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"

	"tandem/world"
)

// Whatever arrives, the reader returns packets that were there or an error, and
// the way in which the bytes are cut makes no difference.
func FuzzReadPacket(f *testing.F) {
	packet := func(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
	f.Add([]byte(nil))
	f.Add([]byte{0, 0})
	f.Add(packet(nil))
	f.Add(append(packet([]byte("a")), packet([]byte("bc"))...))
	f.Add(packet(make([]byte, firstRead)))
	f.Add(packet(make([]byte, 5*firstRead+1)))
	f.Add([]byte{0xff, 0xff, 0xff, 0xfe, 1})
	f.Add([]byte{0x01, 0x80, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.Contains(b, []byte{0xff, 0xff, 0xff, 0xff}) {
			t.Skip() // noPacket, of which nothing is returned
		}
		read := func(r io.Reader) (again []byte, end string) {
			for packets := new(packetReader); ; {
				p, err := packets.next(r)
				if err == iotest.ErrTimeout {
					continue
				}
				if err != nil {
					return again, err.Error()
				}
				again = append(again, packet(p)...)
			}
		}
		whole, end := read(bytes.NewReader(b))
		if !bytes.HasPrefix(b, whole) {
			t.Fatal("packets that were not there")
		}
		if end == io.EOF.Error() && len(whole) != len(b) {
			t.Fatalf("a clean end, with %d bytes left", len(b)-len(whole))
		}
		cut, cutEnd := read(iotest.HalfReader(bytes.NewReader(b)))
		if !bytes.Equal(whole, cut) || end != cutEnd {
			t.Fatalf("cut: %d bytes, %s; whole: %d bytes, %s", len(cut), cutEnd, len(whole), end)
		}
		cut, cutEnd = read(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(b))))
		if !bytes.Equal(whole, cut) || end != cutEnd {
			t.Fatalf("nothing for a while: %d bytes, %s; whole: %d bytes, %s", len(cut), cutEnd, len(whole), end)
		}
	})
}

// What is no packet is passed over.
func TestNoPacket(t *testing.T) {
	none := binary.BigEndian.AppendUint32(nil, noPacket)
	stream := slices.Concat(none, none, []byte{0, 0, 0, 1, 'a'}, none)
	r, packets := bytes.NewReader(stream), new(packetReader)
	if p, err := packets.next(r); err != nil || string(p) != "a" {
		t.Errorf("%q, %v", p, err)
	}
	if p, err := packets.next(r); err != io.EOF {
		t.Errorf("at the end: %q, %v", p, err)
	}
}

// A length alone makes the reader allocate little.
func TestReadPacketAllocates(t *testing.T) {
	head := binary.BigEndian.AppendUint32(nil, world.MaxPacket)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := new(packetReader).next(bytes.NewReader(append(head, 1, 2, 3))); err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 2*firstRead {
		t.Errorf("%d bytes were allocated", n)
	}
}

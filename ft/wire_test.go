// SPDX-License-Identifier: Apache-2.0

package ft

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"tandem/machine/event"
)

// toyCodec is an encoding of entries, for these tests only: Seq, Step, flag, word.
var toyCodec = Codec{
	Append: func(dst []byte, entries []event.Entry) ([]byte, error) {
		for _, e := range entries {
			var live uint64
			if e.GoLive {
				live = 1
			}
			dst = appendUvarints(dst, uint64(e.Seq), uint64(e.Step), live, uint64(e.Input.(event.OutputMark).Last))
		}
		return dst, nil
	},
	Read: func(b []byte) (out []event.Entry, err error) {
		for len(b) > 0 {
			var v [4]uint64
			for i := range v {
				n := 0
				if v[i], n = binary.Uvarint(b); n <= 0 {
					return nil, errors.New("toy entry is cut off")
				}
				b = b[n:]
			}
			out = append(out, event.Entry{Seq: event.Seq(v[0]), Step: event.Step(v[1]), GoLive: v[2] == 1,
				Input: event.OutputMark{Last: event.OutputID(v[3])}})
		}
		return out, nil
	},
}

var wireCases = []struct {
	m   Message
	hex string
}{
	{Hello{Version: 4, Role: RoleBackup, Machine: 300, VM: VM{0xaa, 15: 0xbb}, Arbiter: "f1", Epoch: 2, Session: 3, Timeout: 4, Buffer: 5, Seq: 6, Step: 7},
		"01 04 02 ac02 aa0000000000000000000000000000bb 02 6631 02 03 04 05 06 07"},
	{Ready{Reads: 9}, "0209"},
	{Begin{Seq: 300, Step: 5}, "06 ac02 05"},
	{Entries{Stamp: 128}, "03 8001"},
	{Entries{Stamp: 1, Entries: []event.Entry{{Seq: 9, Step: 8, GoLive: true, Input: event.OutputMark{Last: 7}}}}, "03 01 09 08 01 07"},
	{Ack{Received: 5, Progress: Progress{Executed: 4, Step: 3, Disk: 2}, Echo: 1}, "04 05 04 03 02 01"},
	{Bye{Why: Diverged, Seq: 5, Text: "why"}, "05 03 05 776879"},
}

// TestWire lays each message beside its bytes, in both directions.
func TestWire(t *testing.T) {
	for _, c := range wireCases {
		want, err := hex.DecodeString(strings.ReplaceAll(c.hex, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		got, err := AppendMessage([]byte("x"), c.m, toyCodec)
		if err != nil || !bytes.Equal(got[1:], want) {
			t.Errorf("%#v: %x, %v; want %x", c.m, got[1:], err, want)
		}
		m, err := DecodeMessage(want, toyCodec)
		if err != nil || !reflect.DeepEqual(m, c.m) {
			t.Errorf("%x: %#v, %v", want, m, err)
		}
		for n := range want {
			if m, err := DecodeMessage(want[:n], toyCodec); err == nil && reflect.DeepEqual(m, c.m) {
				t.Errorf("%x is read as the whole of %#v", want[:n], c.m)
			}
		}
	}
}

// TestWireRefuses shows bytes that are no message.
func TestWireRefuses(t *testing.T) {
	for _, h := range []string{"", "00", "07", "06", "0601", "02", "020000", "02ff02", "01", "010402", "03", "0401", "04050403020100",
		"03ffffffffffffffffff01", "03ffffffffffffffffffff01", "030109", "05"} {
		b, _ := hex.DecodeString(h)
		if m, err := DecodeMessage(b, toyCodec); !errors.Is(err, ErrMessage) {
			t.Errorf("%s is read as %#v, %v", h, m, err)
		}
	}
	long := append([]byte{5, 1, 1}, make([]byte, maxText+1)...)
	if _, err := DecodeMessage(long, toyCodec); !errors.Is(err, ErrMessage) {
		t.Error("a text longer than allowed is read")
	}
	if b, _ := AppendMessage(nil, Bye{Why: Failed, Text: strings.Repeat("x", 5000)}, toyCodec); len(b) != maxText+3 {
		t.Errorf("a long text takes %d bytes", len(b))
	}
}

// TestHelloOfOtherVersions shows that a peer whose version we don't speak is still
// understood to be one, so that it can be refused by name.
func TestHelloOfOtherVersions(t *testing.T) {
	m, err := DecodeMessage([]byte{1, 9, 0xff, 0xff, 0xff}, toyCodec)
	if err != nil || m.(Hello).Version != 9 {
		t.Errorf("%#v, %v", m, err)
	}
}

// FuzzMessage shows that no bytes make the decoder panic, and that what it reads
// has an encoding that reads the same.
func FuzzMessage(f *testing.F) {
	for _, c := range wireCases {
		b, _ := AppendMessage(nil, c.m, toyCodec)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMessage(b, toyCodec)
		if err != nil {
			return
		}
		again, err := AppendMessage(nil, m, toyCodec)
		if err != nil {
			t.Fatalf("%#v: %v", m, err)
		}
		if h, ok := m.(Hello); ok && h.Version != ProtocolVersion {
			return
		}
		if n, err := DecodeMessage(again, toyCodec); err != nil || !reflect.DeepEqual(m, n) {
			t.Fatalf("%#v became %#v, %v", m, n, err)
		}
	})
}

// TestHeartbeatBytes holds the encoding of a heartbeat to its description; the MAC
// was computed with another implementation of HMAC-SHA256.
func TestHeartbeatBytes(t *testing.T) {
	key := Key{1, 2, 3}
	h := Heartbeat{VM: 0x1122334455667788, Epoch: 2, Counter: 3, Role: RoleBackup, Probe: true}
	got := AppendHeartbeat(nil, h, &key)
	want := "0403" + "1122334455667788" + "0000000000000002" + "0000000000000003" +
		"a117987dcf189233fecb2a4a2928b00f"
	if hex.EncodeToString(got) != want || len(got) != HeartbeatSize {
		t.Errorf("%x, want %s", got, want)
	}
	if back, err := DecodeHeartbeat(got, &key); err != nil || back != h {
		t.Errorf("%+v, %v", back, err)
	}
}

// TestHeartbeatRefuses shows that a heartbeat with any bit changed, of another
// length or under another key is none.
func TestHeartbeatRefuses(t *testing.T) {
	key := Key{1, 2, 3}
	b := AppendHeartbeat(nil, Heartbeat{VM: 1, Epoch: 2, Counter: 3, Role: RolePrimary}, &key)
	for i := range len(b) * 8 {
		c := bytes.Clone(b)
		c[i/8] ^= 1 << (i % 8)
		if h, err := DecodeHeartbeat(c, &key); !errors.Is(err, ErrHeartbeat) {
			t.Errorf("with bit %d changed it is read as %+v, %v", i, h, err)
		}
	}
	for _, c := range [][]byte{nil, b[:len(b)-1], append(bytes.Clone(b), 0)} {
		if _, err := DecodeHeartbeat(c, &key); !errors.Is(err, ErrHeartbeat) {
			t.Errorf("%d bytes are read: %v", len(c), err)
		}
	}
	if _, err := DecodeHeartbeat(b, &Key{9}); !errors.Is(err, ErrHeartbeat) {
		t.Errorf("read under another key: %v", err)
	}
	odd := append([]byte{ProtocolVersion, 4}, b[2:HeartbeatSize-heartbeatMAC]...)
	if _, err := DecodeHeartbeat(append(odd, key.mac(odd)...), &key); !errors.Is(err, ErrHeartbeat) {
		t.Errorf("read with an unknown flag: %v", err)
	}
}

// FuzzHeartbeat shows that no datagram makes the decoder panic, and that what it takes
// for authentic is what the key's owner encodes.
func FuzzHeartbeat(f *testing.F) {
	key := &Key{7}
	f.Add(AppendHeartbeat(nil, Heartbeat{VM: 1, Epoch: 2, Counter: 3, Role: RoleBackup, Probe: true}, key))
	f.Add(AppendHeartbeat(nil, Heartbeat{VM: 1, Epoch: 2, Counter: 3, Role: RolePrimary}, key))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := DecodeHeartbeat(b, key); err == nil && string(AppendHeartbeat(nil, h, key)) != string(b) {
			t.Fatalf("%x was taken for %+v", b, h)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// Names with and without epoch and try are read as they are written; what only
// looks like one is refused.
func TestName(t *testing.T) {
	for s, want := range map[string]Name{
		"":         {},
		"disk":     {Export: "disk"},
		"disk@7":   {Export: "disk", Epoch: 7},
		"disk@7.3": {Export: "disk", Epoch: 7, Try: 3},
		"disk@0.3": {Export: "disk", Try: 3},
		"a@b@12":   {Export: "a@b", Epoch: 12},
		"@5":       {Epoch: 5},

		"disk@reader": {Export: "disk", Reader: true},
	} {
		if n, ok := ParseName(s); !ok || n != want || n.String() != s {
			t.Errorf("%q: %+v %v, written %q", s, n, ok, n)
		}
	}
	for _, s := range []string{"disk@", "disk@x", "disk@-1", "disk@+1", "disk@1.", "disk@1.x", "disk@1.2.3", "disk@18446744073709551616"} {
		if n, ok := ParseName(s); ok {
			t.Errorf("%q is read as %+v", s, n)
		}
	}
}

// Headers are the bytes of the specification, and are read back.
func TestHeaders(t *testing.T) {
	req := Request{Flags: 1, Command: CmdWrite, Cookie: 0x1122334455667788, Offset: 0x10, Length: 0x200}
	b := req.Append(nil)
	want := "\x25\x60\x95\x13\x00\x01\x00\x01\x11\x22\x33\x44\x55\x66\x77\x88\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x02\x00"
	if got, ok := ParseRequest(b); string(b) != want || got != req || !ok || len(b) != RequestSize {
		t.Errorf("request %x, read as %+v", b, got)
	}
	rep := Reply{Error: EIO, Cookie: 9}
	b = rep.Append(nil)
	want = "\x67\x44\x66\x98\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x09"
	if got, ok := ParseReply(b); string(b) != want || got != rep || !ok || len(b) != ReplySize {
		t.Errorf("reply %x, read as %+v", b, got)
	}
	if b := AppendHello(nil); string(b) != "NBDMAGICIHAVEOPT\x00\x03" || len(b) != HelloSize {
		t.Errorf("hello %q", b)
	}
	if len(AppendOption(nil, OptGo, nil)) != OptionSize || len(AppendOptReply(nil, OptGo, RepAck, nil)) != OptReplySize {
		t.Error("the headers of options have another size")
	}
}

// The data of OptGo is read back, and no other bytes are accepted as such.
func FuzzParseGo(f *testing.F) {
	f.Add(AppendGo(nil, "disk@3", InfoBlockSize, InfoName))
	f.Add(AppendGo(nil, ""))
	f.Add(AppendGo(nil, strings.Repeat("n", MaxName+1)))
	f.Add([]byte("\xff\xff\xff\xff\x00\x00"))
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		name, infos, ok := ParseGo(b)
		if ok && !bytes.Equal(AppendGo(nil, name, infos...), b) {
			t.Errorf("%x is read as %q %v", b, name, infos)
		}
		if ok && len(name) > MaxName {
			t.Errorf("a name of %d bytes is accepted", len(name))
		}
	})
	name, infos, ok := ParseGo(AppendGo(nil, "disk@3", InfoBlockSize, InfoName))
	if !ok || name != "disk@3" || !slices.Equal(infos, []uint16{InfoBlockSize, InfoName}) {
		f.Errorf("read back %q %v %v", name, infos, ok)
	}
}

// SPDX-License-Identifier: Apache-2.0

package ft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"tandem/machine/event"
)

// MaxMessage is the largest encoded message, in bytes: an entry of 16 MiB, and
// what goes with it.
const MaxMessage = 17 << 20

// maxText is the longest Bye.Text that is sent, in bytes.
const maxText = 1024

// maxArbiter is the longest identity of an arbiter, in bytes.
const maxArbiter = 128

// ErrMessage is wrapped by the errors of bytes that are not the encoding of a message.
var ErrMessage = errors.New("invalid message")

// Codec is the encoding of log entries, of which ft knows nothing: that of
// replay.AppendBatch and replay.ReadBatch. Read must not panic nor allocate more
// than in proportion to its argument.
type Codec struct {
	Append func(dst []byte, entries []event.Entry) ([]byte, error)
	Read   func(b []byte) ([]event.Entry, error)
}

// The kinds of messages. The kind and version of a Hello keep their places in all
// versions, so that peers can refuse each other.
const (
	wireHello = iota + 1
	wireReady
	wireEntries
	wireAck
	wireBye
	wireBegin
)

// AppendMessage appends the encoding of m to dst. The channel carries it behind
// its length. uvarint is LEB128 of at most 64 bits; all numbers are uvarints but
// where a size is given.
//
//	1 Hello    kind, version, role, machine, VM 16 bytes, arbiter's length and bytes,
//	           epoch, session, timeout in ns, buffer in bytes, seq, step
//	2 Ready    kind, slots of the disks that the backup reads itself
//	3 Entries  kind, stamp in ns, then a batch of the codec up to the end, or nothing
//	4 Ack      kind, received, executed, step, disk, echo in ns
//	5 Bye      kind, reason, seq, then the text up to the end: at most 1024 bytes
//	6 Begin    kind, seq, step
//
// kind, role and reason are one byte each.
func AppendMessage(dst []byte, m Message, codec Codec) ([]byte, error) {
	switch m := m.(type) {
	case Hello:
		dst = appendUvarints(append(dst, wireHello), m.Version)
		dst = appendUvarints(append(dst, byte(m.Role)), m.Machine)
		dst = append(dst, m.VM[:]...)
		dst = append(appendUvarints(dst, uint64(len(m.Arbiter))), m.Arbiter...)
		return appendUvarints(dst, uint64(m.Epoch), m.Session, uint64(m.Timeout), m.Buffer,
			uint64(m.Seq), uint64(m.Step)), nil
	case Ready:
		return appendUvarints(append(dst, wireReady), uint64(m.Reads)), nil
	case Begin:
		return appendUvarints(append(dst, wireBegin), uint64(m.Seq), uint64(m.Step)), nil
	case Entries:
		dst = appendUvarints(append(dst, wireEntries), uint64(m.Stamp))
		if len(m.Entries) == 0 {
			return dst, nil
		}
		return codec.Append(dst, m.Entries)
	case Ack:
		return appendUvarints(append(dst, wireAck), uint64(m.Received), uint64(m.Executed),
			uint64(m.Step), uint64(m.Disk), uint64(m.Echo)), nil
	case Bye:
		dst = appendUvarints(append(dst, wireBye, byte(m.Why)), uint64(m.Seq))
		return append(dst, m.Text[:min(len(m.Text), maxText)]...), nil
	}
	return dst, fmt.Errorf("%w: a %T has no encoding", ErrMessage, m)
}

func appendUvarints(dst []byte, vs ...uint64) []byte {
	for _, v := range vs {
		dst = binary.AppendUvarint(dst, v)
	}
	return dst
}

// DecodeMessage returns the message in b. Entries may hold parts of b.
func DecodeMessage(b []byte, codec Codec) (Message, error) {
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("%w: %d bytes", ErrMessage, len(b))
	}
	r := reader{b: b}
	var m Message
	switch kind := r.byte(); kind {
	case wireHello:
		m = r.hello()
	case wireReady:
		m = r.ready()
	case wireBegin:
		m = Begin{Seq: event.Seq(r.uvarint()), Step: event.Step(r.uvarint())}
	case wireEntries:
		return r.entries(codec)
	case wireAck:
		m = Ack{
			Received: event.Seq(r.uvarint()),
			Progress: Progress{event.Seq(r.uvarint()), event.Step(r.uvarint()), event.OutputID(r.uvarint())},
			Echo:     r.time(),
		}
	case wireBye:
		m = Bye{Why: Reason(r.byte()), Seq: event.Seq(r.uvarint()), Text: string(r.take(min(len(r.b), maxText)))}
	default:
		r.fail("kind %d is unknown", kind)
	}
	if len(r.b) > 0 {
		r.fail("%d bytes too many", len(r.b))
	}
	if r.err != nil {
		return nil, r.err
	}
	return m, nil
}

// reader takes fields from the head of b until one is missing.
type reader struct {
	b   []byte
	err error
}

func (r *reader) hello() Message {
	h := Hello{Version: r.uvarint()}
	if r.err == nil && h.Version != ProtocolVersion {
		r.b = nil // written in a language that we don't know
		return h
	}
	h.Role, h.Machine = Role(r.byte()), r.uvarint()
	copy(h.VM[:], r.take(len(h.VM)))
	h.Arbiter = r.text(maxArbiter)
	h.Epoch, h.Session, h.Timeout, h.Buffer = event.Epoch(r.uvarint()), r.uvarint(), r.time(), r.uvarint()
	h.Seq, h.Step = event.Seq(r.uvarint()), event.Step(r.uvarint())
	return h
}

func (r *reader) ready() Message {
	slots := r.uvarint()
	if slots > 0xff {
		r.fail("slots %#x", slots)
	}
	return Ready{Reads: Slots(slots)}
}

func (r *reader) entries(codec Codec) (Message, error) {
	m := Entries{Stamp: r.time()}
	if r.err != nil || len(r.b) == 0 {
		return m, r.err
	}
	var err error
	if m.Entries, err = codec.Read(r.b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	return m, nil
}

func (r *reader) fail(text string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMessage, fmt.Sprintf(text, args...))
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.fail("it ends early")
		return nil
	}
	head := r.b[:n]
	r.b = r.b[n:]
	return head
}

// text is a length and bytes.
func (r *reader) text(most uint64) string {
	n := r.uvarint()
	if n > most {
		r.fail("a text of %d bytes", n)
		return ""
	}
	return string(r.take(int(n)))
}

func (r *reader) byte() byte {
	if b := r.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("a number is cut off or above 64 bits")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) time() Time {
	v := r.uvarint()
	if v > uint64(Never) {
		r.fail("time %d", v)
	}
	return Time(v)
}

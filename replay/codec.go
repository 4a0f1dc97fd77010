// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"tandem/machine/event"
)

// Version is the version of the encoding, of batches and of recordings.
const Version = 1

// The limits of an entry, in bytes except MaxFrames. Encoder and Decoder hold to both.
const (
	MaxEntry   = 16 << 20 // encoded; the other limits keep below it
	MaxFrames  = 1024     // in a Frames entry
	MaxFrame   = 66 << 10
	MaxBurst   = 15 << 20 // the frames of an entry together
	MaxDisk    = 8 << 20
	MaxConsole = 64 << 10
	MaxEntropy = 64 << 10
)

// ErrInvalid is wrapped by the errors of entries that have no encoding, and of
// bytes that are not the encoding of entries.
var ErrInvalid = errors.New("invalid log entry")

// The head of an entry.
const (
	headKind   = 0x0f
	headByKind = 0x70
	headGoLive = 0x80

	headSameRate = 0x10 // Clock
	headStatus   = 4    // DiskDone: shift of the status
	headFromDisk = 0x40 // DiskDone
)

// context is what an entry is encoded against. Both sides advance it alike.
type context struct {
	next  event.Seq      // of the entry to come
	step  event.Step     // of the entry before
	clock event.Clock    // the clock before
	at    event.Step     // its step
	mark  event.OutputID // Last of the OutputMark before
}

// newContext stands at the head of a batch; its clock reads zero for ever.
func newContext(first event.Seq, step event.Step) context {
	return context{next: first, step: step, at: step, clock: event.Clock{Limit: step}}
}

// reading is what the clock before reads at step s. It wraps, alike on both
// sides, for clocks that no machine would take.
func (c *context) reading(s event.Step) event.Ticks {
	hi, lo := bits.Mul64(uint64(s-c.at), c.clock.Rate)
	return c.clock.Base + event.Ticks(hi<<(64-event.RateShift)|lo>>event.RateShift)
}

func (c *context) window() uint64 { return uint64(c.clock.Limit - c.at) }

func (c *context) advance(e event.Entry) {
	c.next = e.Seq + 1
	c.step = e.Step
	switch in := e.Input.(type) {
	case event.Clock:
		c.clock, c.at = in, e.Step
	case event.OutputMark:
		c.mark = in.Last
	}
}

// Encoder writes entries as bytes. Its zero value must be told by Begin where it
// starts; after that it may go on without end, as on a channel that keeps order,
// or begin anew for each batch.
type Encoder struct{ context }

// Begin appends the head of a batch to dst. first is the number of the entry to
// come and step its step or an earlier one.
func (c *Encoder) Begin(dst []byte, first event.Seq, step event.Step) []byte {
	c.context = newContext(first, step)
	dst = binary.AppendUvarint(dst, uint64(first))
	return binary.AppendUvarint(dst, uint64(step))
}

// Append appends an entry to dst. It fails, and changes nothing, if the entry
// does not follow the one before or is beyond the limits.
func (c *Encoder) Append(dst []byte, e event.Entry) ([]byte, error) {
	if e.Seq != c.next || e.Seq == 0 || e.Step < c.step {
		return dst, fmt.Errorf("%w: %s can't follow entry %d at step %d", ErrInvalid, Text(e), c.next-1, c.step)
	}
	if err := check(e); err != nil {
		return dst, err
	}
	dst = append(dst, c.head(e))
	dst = binary.AppendUvarint(dst, uint64(e.Step-c.step))
	dst = c.body(dst, e)
	c.advance(e)
	return dst, nil
}

func (c *Encoder) head(e event.Entry) byte {
	head := byte(e.Input.Kind())
	if e.GoLive {
		head |= headGoLive
	}
	switch in := e.Input.(type) {
	case event.Clock:
		if in.Rate == c.clock.Rate && uint64(in.Limit-e.Step) == c.window() {
			head |= headSameRate
		}
	case event.DiskDone:
		head |= byte(in.Status) << headStatus
		if in.FromDisk {
			head |= headFromDisk
		}
	}
	return head
}

func (c *Encoder) body(dst []byte, e event.Entry) []byte {
	switch in := e.Input.(type) {
	case event.Clock:
		dst = appendZigzag(dst, uint64(in.Base-c.reading(e.Step)))
		if window := uint64(in.Limit - e.Step); in.Rate != c.clock.Rate || window != c.window() {
			dst = appendZigzag(dst, in.Rate-c.clock.Rate)
			dst = appendZigzag(dst, window-c.window())
		}
	case event.Frames:
		dst = append(dst, byte(in.Device))
		dst = binary.AppendUvarint(dst, uint64(len(in.Frames)))
		for i := range in.Frames {
			dst = appendFrame(dst, &in.Frames[i])
		}
	case event.DiskDone:
		dst = append(dst, byte(in.Device))
		dst = binary.AppendUvarint(dst, in.ID)
		if !in.FromDisk {
			dst = appendBytes(dst, in.Data)
		}
	case event.ConsoleIn:
		dst = append(dst, byte(in.Device))
		dst = appendBytes(dst, in.Data)
	case event.Entropy:
		dst = append(dst, byte(in.Device))
		dst = binary.AppendUvarint(dst, in.ID)
		dst = appendBytes(dst, in.Data)
	case event.OutputMark:
		dst = appendZigzag(dst, uint64(in.Last-c.mark))
	case event.Released:
		dst = appendZigzag(dst, uint64(c.mark-in.Last))
	case event.Control:
		dst = append(dst, byte(in.Op))
		dst = binary.AppendUvarint(dst, in.Arg)
	case event.Hash:
		dst = binary.LittleEndian.AppendUint64(dst, in.State)
		dst = binary.LittleEndian.AppendUint64(dst, in.Memory)
	case event.Medium:
		dst = append(dst, byte(in.Device))
		dst = binary.AppendUvarint(dst, in.Capacity)
		dst = appendBytes(dst, []byte(in.Source))
		dst = appendBytes(dst, []byte(in.Mirror))
	}
	return dst
}

func appendFrame(dst []byte, f *event.Frame) []byte {
	size := uint64(len(f.Data)) << 1
	if f.Offload == (event.Offload{}) {
		dst = binary.AppendUvarint(dst, size)
		return append(dst, f.Data...)
	}
	dst = binary.AppendUvarint(dst, size|1)
	o := &f.Offload
	dst = append(dst, o.Flags, o.GSOType)
	for _, v := range [...]uint16{o.HdrLen, o.GSOSize, o.CsumStart, o.CsumOffset} {
		dst = binary.AppendUvarint(dst, uint64(v))
	}
	return append(dst, f.Data...)
}

func appendBytes(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func appendZigzag(dst []byte, difference uint64) []byte {
	return binary.AppendUvarint(dst, difference<<1^uint64(int64(difference)>>63))
}

// Decoder reads what an Encoder wrote. Its bytes are hostile: it never panics,
// and allocates only in proportion to them.
type Decoder struct{ context }

// Begin reads the head of a batch and returns what follows it.
func (c *Decoder) Begin(b []byte) (rest []byte, err error) {
	s := scanner{b: b}
	first, step := s.uvarint(), s.uvarint()
	if first == 0 {
		s.fail("a batch begins with entry 0")
	}
	if s.err != nil {
		return b, s.err
	}
	c.context = newContext(event.Seq(first), event.Step(step))
	return s.b, nil
}

// Read returns the first entry of b and what follows it. The payloads of the
// entry are parts of b. After an error nothing has changed.
func (c *Decoder) Read(b []byte) (e event.Entry, rest []byte, err error) {
	limited := b[:min(len(b), MaxEntry)]
	s := scanner{b: limited}
	head := s.byte()
	delta := event.Step(s.uvarint())
	e = event.Entry{Seq: c.next, Step: c.step + delta, GoLive: head&headGoLive != 0}
	if e.Step < c.step || e.Seq == 0 {
		s.fail("the count of steps or entries overflows")
	}
	e.Input = c.input(&s, head, e.Step)
	if s.err == nil {
		s.err = check(e)
	}
	if s.err != nil {
		return event.Entry{}, b, fmt.Errorf("entry %d: %w", c.next, s.err)
	}
	c.advance(e)
	return e, b[len(limited)-len(s.b):], nil
}

func (c *Decoder) input(s *scanner, head byte, step event.Step) event.Input {
	kind, byKind := event.Kind(head&headKind), head&headByKind
	if byKind != 0 && kind != event.KindClock && kind != event.KindDiskDone {
		s.fail("head %#02x has unknown flags", head)
		return nil
	}
	switch kind {
	case event.KindClock:
		return c.readClock(s, byKind, step)
	case event.KindFrames:
		return readFrames(s)
	case event.KindDiskDone:
		return readDiskDone(s, byKind)
	case event.KindConsoleIn:
		return event.ConsoleIn{Device: s.device(), Data: s.bytes(MaxConsole)}
	case event.KindEntropy:
		return event.Entropy{Device: s.device(), ID: s.uvarint(), Data: s.bytes(MaxEntropy)}
	case event.KindOutputMark:
		return event.OutputMark{Last: c.mark + event.OutputID(s.zigzag())}
	case event.KindReleased:
		return event.Released{Last: c.mark - event.OutputID(s.zigzag())}
	case event.KindControl:
		return event.Control{Op: event.ControlOp(s.byte()), Arg: s.uvarint()}
	case event.KindHash:
		return event.Hash{State: s.uint64(), Memory: s.uint64()}
	case event.KindMedium:
		return event.Medium{Device: s.device(), Capacity: s.uvarint(), Source: string(s.bytes(event.MaxSource)), Mirror: string(s.bytes(event.MaxSource))}
	}
	s.fail("unknown kind %d", kind)
	return nil
}

func (c *Decoder) readClock(s *scanner, byKind byte, step event.Step) event.Input {
	in := event.Clock{Base: c.reading(step) + event.Ticks(s.zigzag()), Rate: c.clock.Rate}
	window := c.window()
	switch byKind {
	case headSameRate:
	case 0:
		rate, wider := s.zigzag(), s.zigzag()
		if rate == 0 && wider == 0 {
			s.fail("a clock repeats the rate and window before it")
		}
		in.Rate += rate
		window += wider
	default:
		s.fail("a clock has unknown flags %#02x", byKind)
	}
	in.Limit = step + event.Step(window)
	return in
}

func readFrames(s *scanner) event.Input {
	in := event.Frames{Device: s.device()}
	count := s.uvarint()
	if count > MaxFrames || count > uint64(len(s.b)) { // a frame takes a byte at least
		s.fail("%d frames in an entry", count)
	}
	if s.err != nil || count == 0 {
		return in
	}
	in.Frames = make([]event.Frame, 0, count)
	for i := uint64(0); i < count && s.err == nil; i++ {
		in.Frames = append(in.Frames, readFrame(s))
	}
	return in
}

func readFrame(s *scanner) (f event.Frame) {
	size := s.uvarint()
	if size&1 != 0 {
		f.Offload = event.Offload{
			Flags: s.byte(), GSOType: s.byte(),
			HdrLen: s.uint16(), GSOSize: s.uint16(), CsumStart: s.uint16(), CsumOffset: s.uint16(),
		}
		if f.Offload == (event.Offload{}) {
			s.fail("a frame has an empty offload")
		}
	}
	f.Data = s.take(size>>1, MaxFrame)
	return f
}

func readDiskDone(s *scanner, byKind byte) event.Input {
	in := event.DiskDone{
		Status:   event.DiskStatus(byKind &^ headFromDisk >> headStatus),
		FromDisk: byKind&headFromDisk != 0,
		Device:   s.device(),
		ID:       s.uvarint(),
	}
	if !in.FromDisk {
		in.Data = s.bytes(MaxDisk)
	}
	return in
}

// AppendBatch appends entries to dst as one batch that stands for itself.
func AppendBatch(dst []byte, entries []event.Entry) ([]byte, error) {
	if len(entries) == 0 {
		return dst, fmt.Errorf("%w: a batch without entries", ErrInvalid)
	}
	var c Encoder
	out := c.Begin(dst, entries[0].Seq, entries[0].Step)
	var err error
	for _, e := range entries {
		if out, err = c.Append(out, e); err != nil {
			return dst, err
		}
	}
	return out, nil
}

// ReadBatch returns the entries of a batch, in full or not at all. Their payloads
// are parts of b.
func ReadBatch(b []byte) ([]event.Entry, error) {
	var c Decoder
	b, err := c.Begin(b)
	if err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: a batch without entries", ErrInvalid)
	}
	var out []event.Entry
	for len(b) > 0 {
		var e event.Entry
		if e, b, err = c.Read(b); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// check holds an entry to the limits, on both sides.
func check(e event.Entry) error {
	switch in := e.Input.(type) {
	case event.Clock, event.OutputMark, event.Released, event.Hash:
		return nil
	case event.Frames:
		return checkFrames(in)
	case event.DiskDone:
		if in.Status > event.DiskUnsupported {
			return fmt.Errorf("%w: unknown disk status %d", ErrInvalid, in.Status)
		}
		if in.FromDisk && len(in.Data) > 0 {
			return fmt.Errorf("%w: a disk completion from disk carries data", ErrInvalid)
		}
		return checkPayload(in.Device, len(in.Data), MaxDisk)
	case event.ConsoleIn:
		return checkPayload(in.Device, len(in.Data), MaxConsole)
	case event.Entropy:
		return checkPayload(in.Device, len(in.Data), MaxEntropy)
	case event.Medium:
		return checkPayload(in.Device, max(len(in.Source), len(in.Mirror)), event.MaxSource)
	case event.Control:
		if (in.Op < event.PowerOff || in.Op > event.Dismiss) && (in.Op < event.Link || in.Op > event.Balloon) {
			return fmt.Errorf("%w: unknown control operation %d", ErrInvalid, in.Op)
		}
		return nil
	}
	return fmt.Errorf("%w: unknown input %T", ErrInvalid, e.Input)
}

func checkPayload(d event.DeviceID, n, limit int) error {
	if d > 7 && d != event.UART {
		return fmt.Errorf("%w: unknown device %d", ErrInvalid, d)
	}
	if n > limit {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrInvalid, n, limit)
	}
	return nil
}

func checkFrames(in event.Frames) error {
	if len(in.Frames) > MaxFrames {
		return fmt.Errorf("%w: %d frames, the limit is %d", ErrInvalid, len(in.Frames), MaxFrames)
	}
	total := 0
	for i := range in.Frames {
		f := &in.Frames[i]
		total += len(f.Data)
		if err := checkPayload(in.Device, len(f.Data), MaxFrame); err != nil {
			return fmt.Errorf("frame %d: %w", i, err)
		}
		if o := f.Offload; o.Flags > 3 || !knownGSO(o.GSOType) {
			return fmt.Errorf("%w: frame %d has offload flags %#x, GSO type %#x", ErrInvalid, i, o.Flags, o.GSOType)
		}
	}
	return checkPayload(in.Device, total, MaxBurst)
}

// knownGSO reports whether a GSO type is one that event.Offload names.
func knownGSO(t uint8) bool {
	switch t {
	case 0, 1, 4, 0x81, 0x84:
		return true
	}
	return false
}

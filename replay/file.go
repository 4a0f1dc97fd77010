// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"tandem/machine/event"
)

// MaxDescription is the longest machine description in a recording, in bytes: it
// may hold the kernel that the machine boots.
const MaxDescription = 256 << 20

const (
	fileMagic   = "TANDEMLG"
	prefixSize  = 16
	headerSize  = 16
	batchTarget = 64 << 10               // a Writer's batch is written when it is this long
	maxBatch    = batchTarget + MaxEntry // what one entry may make of it

	tagDescription = "DESC"
	tagBatch       = "BTCH"
	tagDone        = "DONE"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// The ways in which a recording can't be read; a *FileError wraps one of them, or
// the error of the io.Reader.
var (
	ErrNotRecording = errors.New("not a tandem recording")
	ErrVersion      = errors.New("recording of another version")
	ErrDamaged      = errors.New("recording is damaged")
	ErrTruncated    = errors.New("recording is truncated")
)

// FileError says where a recording ends to be good.
type FileError struct {
	Offset int64      // of the part that is bad, in bytes
	Seq    event.Seq  // of the last good entry, 0 if there is none
	Step   event.Step // of that entry
	Err    error
}

func (e *FileError) Error() string {
	if e.Seq == 0 {
		return fmt.Sprintf("%v (at byte %d, before the first entry)", e.Err, e.Offset)
	}
	return fmt.Sprintf("%v (at byte %d; good up to entry %d, step %d)", e.Err, e.Offset, e.Seq, e.Step)
}

func (e *FileError) Unwrap() error { return e.Err }

// Writer writes a recording. Entries are kept until a batch is full, or Flush;
// after an error of the io.Writer all calls return it.
type Writer struct {
	w    io.Writer
	c    Encoder
	buf  []byte // a record: headerSize bytes, then the batch so far; empty without one
	last event.Entry
	err  error
}

// NewWriter writes the head of a recording. description is for whoever replays
// it: what machine to build.
func NewWriter(w io.Writer, description []byte) (*Writer, error) {
	if len(description) > MaxDescription {
		return nil, fmt.Errorf("write recording: the machine description has %d bytes, the limit is %d",
			len(description), MaxDescription)
	}
	head := append([]byte(fileMagic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(head[8:], Version)
	head = binary.LittleEndian.AppendUint32(head, checksum(head))
	out := &Writer{w: w}
	out.write(head)
	out.writeRecord(tagDescription, append(make([]byte, headerSize), description...))
	return out, out.err
}

// Append adds an entry. The first may have any number; the others follow it. An
// entry that can't be encoded is refused and the Writer goes on.
func (w *Writer) Append(e event.Entry) error {
	if w.err != nil {
		return w.err
	}
	if w.last.Seq != 0 && (e.Seq != w.last.Seq+1 || e.Step < w.last.Step) {
		return fmt.Errorf("write recording: %w: %s after entry %d at step %d", ErrOrder, Text(e), w.last.Seq, w.last.Step)
	}
	buf := w.buf
	if len(buf) == 0 {
		buf = w.c.Begin(append(buf, make([]byte, headerSize)...), e.Seq, e.Step)
	}
	buf, err := w.c.Append(buf, e)
	if err != nil {
		return fmt.Errorf("write recording: %w", err)
	}
	w.buf = buf
	w.last = event.Entry{Seq: e.Seq, Step: e.Step}
	if len(w.buf) >= batchTarget {
		return w.Flush()
	}
	return nil
}

// Flush writes the entries kept.
func (w *Writer) Flush() error {
	if len(w.buf) > 0 {
		w.writeRecord(tagBatch, w.buf)
		w.buf = w.buf[:0]
	}
	return w.err
}

// Close writes the entries kept and the end of the recording, without which it
// counts as truncated. It does not close the io.Writer.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	w.Flush()
	body := binary.LittleEndian.AppendUint64(make([]byte, headerSize), uint64(w.last.Seq))
	w.writeRecord(tagDone, binary.LittleEndian.AppendUint64(body, uint64(w.last.Step)))
	if w.err != nil {
		return w.err
	}
	w.err = errors.New("write recording: it is closed")
	return nil
}

// writeRecord fills the header, which b has room for, and writes b.
func (w *Writer) writeRecord(tag string, b []byte) {
	copy(b, tag)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-headerSize))
	binary.LittleEndian.PutUint32(b[8:], checksum(b[headerSize:]))
	binary.LittleEndian.PutUint32(b[12:], checksum(b[:12]))
	w.write(b)
}

func (w *Writer) write(b []byte) {
	if w.err != nil {
		return
	}
	if _, err := w.w.Write(b); err != nil {
		w.err = fmt.Errorf("write recording after entry %d: %w", w.last.Seq, err)
	}
}

// Reader reads a recording. Its errors are *FileError, and final.
type Reader struct {
	r           io.Reader
	description []byte
	c           Decoder
	batch       []byte // left of the batch
	offset      int64  // of the next byte of r
	record      int64  // offset of the record being read
	last        event.Entry
	err         error
}

// NewReader reads the head of a recording.
func NewReader(r io.Reader) (*Reader, error) {
	f := &Reader{r: r}
	if err := f.readPrefix(); err != nil {
		return nil, f.fail(err)
	}
	tag, body, err := f.readRecord()
	if err == nil && tag != tagDescription {
		err = fmt.Errorf("%w: it begins with record %q", ErrDamaged, tag)
	}
	if err != nil {
		return nil, f.fail(err)
	}
	f.description = body
	return f, nil
}

// Description returns the machine description given to NewWriter.
func (r *Reader) Description() []byte { return r.description }

// Next returns the next entry, or io.EOF after the last of a complete recording.
// The entry may be kept.
func (r *Reader) Next() (event.Entry, error) {
	for r.err == nil && len(r.batch) == 0 {
		if err := r.nextRecord(); err != nil {
			r.fail(err)
		}
	}
	if r.err != nil {
		return event.Entry{}, r.err
	}
	e, rest, err := r.c.Read(r.batch)
	if err != nil {
		return event.Entry{}, r.fail(fmt.Errorf("%w: %w", ErrDamaged, err))
	}
	r.batch = rest
	r.last = event.Entry{Seq: e.Seq, Step: e.Step}
	return e, nil
}

// fail makes an error final. Only the end of a whole recording is not wrapped.
func (r *Reader) fail(err error) error {
	if err != io.EOF {
		err = &FileError{Offset: r.record, Seq: r.last.Seq, Step: r.last.Step, Err: err}
	}
	r.err = err
	return err
}

func (r *Reader) readPrefix() error {
	b, err := r.read(prefixSize)
	if n := min(len(b), len(fileMagic)); string(b[:n]) != fileMagic[:n] {
		return fmt.Errorf("%w: it begins with %q, not %q", ErrNotRecording, b[:n], fileMagic)
	}
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(b[12:]) != checksum(b[:12]) {
		return fmt.Errorf("%w: the checksum of its prefix differs", ErrDamaged)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != Version {
		return fmt.Errorf("%w: the file has log version %d, this tandem reads version %d; replay it with the tandem "+
			"that recorded it, or record again", ErrVersion, v, Version)
	}
	return nil
}

// nextRecord reads a batch, or the end.
func (r *Reader) nextRecord() error {
	tag, body, err := r.readRecord()
	if err != nil {
		return err
	}
	switch tag {
	case tagBatch:
		return r.beginBatch(body)
	case tagDone:
		return r.checkDone(body)
	}
	return fmt.Errorf("%w: unknown record %q", ErrDamaged, tag)
}

func (r *Reader) beginBatch(body []byte) error {
	rest, err := r.c.Begin(body)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if len(rest) == 0 {
		return fmt.Errorf("%w: a batch without entries", ErrDamaged)
	}
	if r.last.Seq != 0 && (r.c.next != r.last.Seq+1 || r.c.step < r.last.Step) {
		return fmt.Errorf("%w: a batch begins with entry %d at step %d", ErrDamaged, r.c.next, r.c.step)
	}
	r.batch = rest
	return nil
}

func (r *Reader) checkDone(body []byte) error {
	if len(body) != 16 ||
		binary.LittleEndian.Uint64(body) != uint64(r.last.Seq) ||
		binary.LittleEndian.Uint64(body[8:]) != uint64(r.last.Step) {
		return fmt.Errorf("%w: its end does not fit its last entry", ErrDamaged)
	}
	r.record = r.offset
	b, err := r.read(1)
	if len(b) > 0 {
		return fmt.Errorf("%w: more bytes follow its end", ErrDamaged)
	}
	if !errors.Is(err, ErrTruncated) {
		return err
	}
	return io.EOF
}

// readRecord returns a record whose checksums are right.
func (r *Reader) readRecord() (tag string, body []byte, err error) {
	r.record = r.offset
	head, err := r.read(headerSize)
	if err != nil {
		return "", nil, err
	}
	if binary.LittleEndian.Uint32(head[12:]) != checksum(head[:12]) {
		return "", nil, fmt.Errorf("%w: the checksum of a record's head differs", ErrDamaged)
	}
	size := binary.LittleEndian.Uint32(head[4:])
	if size > maxBatch {
		return "", nil, fmt.Errorf("%w: a record of %d bytes, the limit is %d", ErrDamaged, size, maxBatch)
	}
	if body, err = r.read(int(size)); err != nil {
		return "", nil, err
	}
	if binary.LittleEndian.Uint32(head[8:]) != checksum(body) {
		return "", nil, fmt.Errorf("%w: the checksum of a record differs", ErrDamaged)
	}
	return string(head[:4]), body, nil
}

// read returns the next n bytes, or those that are left and an error. It grows as
// bytes arrive: a forged size allocates nothing by itself.
func (r *Reader) read(n int) ([]byte, error) {
	var out []byte
	for len(out) < n {
		have := len(out)
		out = append(out, make([]byte, min(n-have, 64<<10))...)
		got, err := io.ReadFull(r.r, out[have:])
		r.offset += int64(got)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return out[:have+got], fmt.Errorf("%w: its writer did not end it, or the copy is not whole", ErrTruncated)
		}
		if err != nil {
			return out[:have+got], fmt.Errorf("read recording: %w", err)
		}
	}
	return out, nil
}

// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"tandem/machine/event"
)

// recording writes samples in three batches.
func recording(t testing.TB) []byte {
	var buf bytes.Buffer
	w, err := NewWriter(&buf, []byte("two harts, 64 MiB"))
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range samples() {
		if err := w.Append(e); err != nil {
			t.Fatal(err)
		}
		if i == 4 || i == 9 {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// readAll returns the entries before the first error, and nil at the end of a
// complete recording.
func readAll(r io.Reader) ([]event.Entry, error) {
	f, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	var out []event.Entry
	for {
		e, err := f.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			if _, again := f.Next(); again != err {
				return out, errors.New("the error did not stay")
			}
			return out, err
		}
		out = append(out, e)
	}
}

// A recording gives back its description and entries, however slowly it is read.
func TestRecordingRoundTrip(t *testing.T) {
	b := recording(t)
	got, err := readAll(iotest.OneByteReader(bytes.NewReader(b)))
	if err != nil || !reflect.DeepEqual(got, samples()) {
		t.Fatalf("got %v, error %v", got, err)
	}
	f, err := NewReader(bytes.NewReader(b))
	if err != nil || string(f.Description()) != "two harts, 64 MiB" {
		t.Fatalf("description %q, error %v", f.Description(), err)
	}
}

// A recording of no entries is complete too, and one may begin at any entry.
func TestRecordingEdges(t *testing.T) {
	for _, entries := range [][]event.Entry{nil, samples()[7:8]} {
		var buf bytes.Buffer
		w, err := NewWriter(&buf, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := w.Append(e); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := w.Append(event.Entry{Seq: 9, Step: 1000, Input: event.Hash{}}); err == nil {
			t.Error("a closed recording takes an entry")
		}
		if got, err := readAll(&buf); err != nil || !reflect.DeepEqual(got, entries) {
			t.Errorf("got %v, error %v", got, err)
		}
	}
}

// Batches are written as they fill, and entries out of order are refused.
func TestWriterBatches(t *testing.T) {
	var buf bytes.Buffer
	w, err := NewWriter(&buf, nil)
	if err != nil {
		t.Fatal(err)
	}
	head := buf.Len()
	data := bytes.Repeat([]byte("d"), 40<<10)
	for seq := event.Seq(1); seq <= 10; seq++ {
		if err := w.Append(event.Entry{Seq: seq, Step: 5, Input: event.ConsoleIn{Data: data}}); err != nil {
			t.Fatal(err)
		}
		if written := buf.Len() > head; written != (seq > 1) {
			t.Fatalf("after entry %d: %d bytes", seq, buf.Len())
		}
	}
	for _, e := range []event.Entry{{Seq: 12, Step: 5, Input: event.Hash{}}, {Seq: 11, Step: 4, Input: event.Hash{}}} {
		if err := w.Append(e); !errors.Is(err, ErrOrder) {
			t.Errorf("%s: error %v", Text(e), err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(&buf); err != nil || len(got) != 10 {
		t.Fatalf("%d entries, error %v", len(got), err)
	}
}

// Each flipped bit of a recording is found: no entry read differs from what was
// written, and the error says where.
func TestFlippedBits(t *testing.T) {
	b, want := recording(t), samples()
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		got, err := readAll(bytes.NewReader(b))
		b[i/8] ^= 1 << (i % 8)
		var at *FileError
		if !errors.As(err, &at) || !errors.Is(err, ErrDamaged) && !(i < 64 && errors.Is(err, ErrNotRecording)) {
			t.Fatalf("bit %d: error %v", i, err)
		}
		if at.Offset > int64(i/8) || int(at.Seq) != len(got) {
			t.Fatalf("bit %d: error %v after %d entries", i, err, len(got))
		}
		if len(got) > 0 && (!reflect.DeepEqual(got, want[:len(got)]) || at.Step != want[len(got)-1].Step) {
			t.Fatalf("bit %d: wrong entries, error %v", i, err)
		}
	}
}

// A recording cut at any byte is reported as truncated, with what is good of it.
func TestTruncated(t *testing.T) {
	b, want := recording(t), samples()
	most := 0
	for n := range b {
		got, err := readAll(bytes.NewReader(b[:n]))
		var at *FileError
		if !errors.As(err, &at) || !errors.Is(err, ErrTruncated) {
			t.Fatalf("%d bytes: error %v", n, err)
		}
		if at.Offset > int64(n) || int(at.Seq) != len(got) {
			t.Fatalf("%d bytes: error %v after %d entries", n, err, len(got))
		}
		if len(got) > 0 && !reflect.DeepEqual(got, want[:len(got)]) {
			t.Fatalf("%d bytes: wrong entries", n)
		}
		most = max(most, len(got))
	}
	if most != len(want) {
		t.Fatalf("only %d of %d entries are ever read", most, len(want))
	}
}

// A recording of another version is refused with both versions and the remedy.
func TestOtherVersion(t *testing.T) {
	b := recording(t)
	binary.LittleEndian.PutUint32(b[8:], Version+1)
	binary.LittleEndian.PutUint32(b[12:], checksum(b[:12]))
	_, err := readAll(bytes.NewReader(b))
	if !errors.Is(err, ErrVersion) {
		t.Fatal(err)
	}
	for _, want := range []string{"has log version 2", "reads version 1", "record again"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
}

// What is no recording is refused as such; so are records whose checksums are
// right and whose content is not.
func TestForged(t *testing.T) {
	whole := recording(t)
	head := whole[:prefixSize+headerSize+len("two harts, 64 MiB")]
	record := func(tag string, body []byte) []byte {
		var buf bytes.Buffer
		(&Writer{w: &buf}).writeRecord(tag, append(make([]byte, headerSize), body...))
		return buf.Bytes()
	}
	batch := func(first event.Seq, step event.Step) []byte {
		b, err := AppendBatch(nil, []event.Entry{{Seq: first, Step: step, Input: event.Hash{}}})
		if err != nil {
			t.Fatal(err)
		}
		return record(tagBatch, b)
	}
	huge := record(tagBatch, nil)
	binary.LittleEndian.PutUint32(huge[4:], maxBatch+1)
	binary.LittleEndian.PutUint32(huge[12:], checksum(huge[:12]))
	done := record(tagDone, make([]byte, 16))
	for _, tt := range []struct {
		name string
		b    []byte
		want error
	}{
		{"text", []byte("#!/bin/sh\nexit\n"), ErrNotRecording},
		{"no description", append(bytes.Clone(head[:prefixSize]), done...), ErrDamaged},
		{"unknown record", append(bytes.Clone(head), record("WHAT", nil)...), ErrDamaged},
		{"huge record", append(bytes.Clone(head), huge...), ErrDamaged},
		{"empty batch", append(bytes.Clone(head), record(tagBatch, []byte{1, 1})...), ErrDamaged},
		{"batch without head", append(bytes.Clone(head), record(tagBatch, nil)...), ErrDamaged},
		{"bad entry", append(bytes.Clone(head), record(tagBatch, []byte{1, 1, 0})...), ErrDamaged},
		{"batch lost", bytes.Join([][]byte{head, batch(1, 1), batch(3, 1)}, nil), ErrDamaged},
		{"batch twice", bytes.Join([][]byte{head, batch(1, 1), batch(1, 1)}, nil), ErrDamaged},
		{"steps go back", bytes.Join([][]byte{head, batch(1, 2), batch(2, 1)}, nil), ErrDamaged},
		{"last batch lost", bytes.Join([][]byte{head, batch(1, 1), done}, nil), ErrDamaged},
		{"more after the end", append(bytes.Clone(whole), 0), ErrDamaged},
	} {
		if _, err := readAll(bytes.NewReader(tt.b)); !errors.Is(err, tt.want) {
			t.Errorf("%s: error %v", tt.name, err)
		}
	}
}

// Errors of the reader and writer below come through, and stay.
func TestRecordingIOErrors(t *testing.T) {
	disk := errors.New("disk on fire")
	b := recording(t)
	for n := range b {
		_, err := readAll(io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(disk)))
		if !errors.Is(err, disk) {
			t.Fatalf("after %d bytes: error %v", n, err)
		}
	}
	w, err := NewWriter(&failing{left: 2, err: disk}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Append(samples()[0]); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{w.Flush(), w.Append(samples()[1]), w.Close()} {
		if !errors.Is(err, disk) {
			t.Errorf("error %v", err)
		}
	}
	if _, err := NewWriter(io.Discard, make([]byte, MaxDescription+1)); err == nil {
		t.Error("a description beyond the limit is taken")
	}
}

// failing is a writer that takes left writes.
type failing struct {
	left int
	err  error
}

func (f *failing) Write(b []byte) (int, error) {
	if f.left--; f.left < 0 {
		return 0, f.err
	}
	return len(b), nil
}

// FuzzReader shows that no file makes the Reader panic or go on without end.
func FuzzReader(f *testing.F) {
	b := recording(f)
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		if entries, _ := readAll(bytes.NewReader(b)); len(entries) > len(b) {
			t.Fatal("more entries than bytes")
		}
	})
}

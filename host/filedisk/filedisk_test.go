// SPDX-License-Identifier: Apache-2.0

package filedisk

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tandem/machine/event"
)

const size = 1 << 20

// loop is the polled loop of a replica, reduced to its disk.
type loop struct {
	*Disk
	t     *testing.T
	woken chan struct{}
	id    uint64
}

func newFile(t *testing.T, n int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
	return path
}

func newLoop(t *testing.T, path string, readOnly bool) *loop {
	t.Helper()
	l := &loop{t: t, woken: make(chan struct{}, 1)}
	d, err := Open(path, readOnly, func() {
		select {
		case l.woken <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	l.Disk = d
	t.Cleanup(func() { d.Close() })
	return l
}

func (l *loop) submit(op event.DiskOp, off, n uint64, data []byte) {
	l.id++
	l.Submit(event.DiskRequest{Device: 3, ID: l.id, Op: op, Offset: off, Length: n, Data: data})
}

func (l *loop) next() event.DiskDone {
	for {
		if d, ok := l.Poll(); ok {
			return d
		}
		<-l.woken
	}
}

func (l *loop) do(op event.DiskOp, off, n uint64, data []byte) event.DiskDone {
	l.submit(op, off, n, data)
	d := l.next()
	if d.ID != l.id || d.Device != 3 {
		l.t.Fatalf("done %d of device %d, want %d of 3", d.ID, d.Device, l.id)
	}
	return d
}

func fill(c byte, n int) []byte { return bytes.Repeat([]byte{c}, n) }

// What is written is read back, from the disk and from the file, and discarded
// and zeroed ranges read as zeros, also where they aren't aligned.
func TestOperations(t *testing.T) {
	path := newFile(t, size)
	l := newLoop(t, path, false)
	want := fill('x', size)
	for _, step := range []struct {
		op     event.DiskOp
		off, n uint64
		data   []byte
	}{
		{event.DiskWrite, 0, size, fill('x', size)},
		{event.DiskWrite, 512, 512, fill('y', 512)},
		{event.DiskDiscard, 4096, 65536, nil},
		{event.DiskWriteZeroes, 100_000, 12_345, nil},
		{event.DiskDiscard, size - 512, 512, nil},
		{event.DiskWriteZeroes, 0, 0, nil},
		{event.DiskFlush, 0, 0, nil},
	} {
		if d := l.do(step.op, step.off, step.n, step.data); d.Status != event.DiskOK {
			t.Fatalf("%v: status %d", step.op, d.Status)
		}
		if step.op != event.DiskFlush {
			copy(want[step.off:step.off+step.n], make([]byte, step.n))
			copy(want[step.off:], step.data)
		}
	}
	if d := l.do(event.DiskRead, 0, size, nil); d.Status != event.DiskOK || !bytes.Equal(d.Data, want) {
		t.Errorf("read: status %d, or the contents differ", d.Status)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, want) {
		t.Errorf("file: %v, or the contents differ", err)
	}
}

// The space of a discarded range goes back to the file system.
func TestHole(t *testing.T) {
	path := newFile(t, size)
	l := newLoop(t, path, false)
	l.do(event.DiskWrite, 0, size, fill('x', size))
	l.do(event.DiskFlush, 0, 0, nil)
	var before, after unix.Stat_t
	if err := unix.Stat(path, &before); err != nil {
		t.Fatal(err)
	}
	f := l.file.f
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096); err != nil {
		t.Skipf("the file system of %s makes no holes: %v", path, err)
	}
	l.do(event.DiskDiscard, 0, size, nil)
	if err := unix.Stat(path, &after); err != nil || after.Blocks >= before.Blocks {
		t.Errorf("%d blocks before, %d after (%v)", before.Blocks, after.Blocks, err)
	}
}

// The way without help from the file system clears exactly its range.
func TestWriteZeros(t *testing.T) {
	f, err := OpenFile(newFile(t, 4<<20), false)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const off, n = 1000, 3 << 20
	want := fill('x', 4<<20)
	if err := f.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.writeZeros(off, n); err != nil {
		t.Fatal(err)
	}
	copy(want[off:off+n], make([]byte, n))
	got := make([]byte, 4<<20)
	if err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read: %v, or the contents differ", err)
	}
}

// Overlapping writes end in the order in which they were submitted, however
// many workers there are.
func TestOrder(t *testing.T) {
	l := newLoop(t, newFile(t, size), false)
	const n = 64 << 10
	for round := range 20 {
		for i := range 16 {
			l.submit(event.DiskWrite, uint64(i%3)*512, n, fill(byte(16*round+i), n))
		}
		for range 16 {
			if d := l.next(); d.Status != event.DiskOK {
				t.Fatalf("status %d", d.Status)
			}
		}
		got := l.do(event.DiskRead, 1024, n-1024, nil).Data
		if want := fill(byte(16*round+15), n-1024); !bytes.Equal(got, want) {
			t.Fatalf("round %d: an earlier write won", round)
		}
	}
}

// Ranges past the end, changes of a read-only disk and unknown operations fail
// by status; none takes memory for what it announces.
func TestRefused(t *testing.T) {
	path := newFile(t, size)
	l := newLoop(t, path, false)
	for _, r := range []struct{ off, n uint64 }{
		{size, 1}, {0, size + 1}, {size - 1, 2}, {math.MaxUint64, 1}, {1, math.MaxUint64}, {0, math.MaxUint64}, {1 << 63, 1 << 63},
	} {
		for op := event.DiskRead; op <= event.DiskWriteZeroes; op++ {
			if op == event.DiskFlush || op == event.DiskWrite && r.n > size+1 {
				continue
			}
			var data []byte
			if op == event.DiskWrite {
				data = make([]byte, r.n)
			}
			if d := l.do(op, r.off, r.n, data); d.Status != event.DiskIOError {
				t.Errorf("operation %d at %d of %d bytes: status %d", op, r.off, r.n, d.Status)
			}
		}
	}
	if d := l.do(99, 0, 0, nil); d.Status != event.DiskUnsupported {
		t.Errorf("unknown operation: status %d", d.Status)
	}
	l.Close()
	l = newLoop(t, path, true)
	for _, op := range []event.DiskOp{event.DiskWrite, event.DiskDiscard, event.DiskWriteZeroes} {
		if d := l.do(op, 0, 512, make([]byte, 512)); d.Status != event.DiskIOError {
			t.Errorf("operation %d of a read-only disk: status %d", op, d.Status)
		}
	}
	if d := l.do(event.DiskFlush, 0, 0, nil); d.Status != event.DiskOK || !l.ReadOnly() {
		t.Errorf("flush of a read-only disk: status %d", d.Status)
	}
}

// Two VMs can't open one disk, unless both only read; after Close the next may.
func TestLock(t *testing.T) {
	path := newFile(t, size)
	first := newLoop(t, path, false)
	for _, readOnly := range []bool{false, true} {
		if _, err := Open(path, readOnly, nil); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("opened twice: %v", err)
		}
	}
	first.Close()
	newLoop(t, path, true)
	newLoop(t, path, true)
	if _, err := Open(path, false, nil); err == nil {
		t.Error("a writer opens what others read")
	}
}

// What can't be a disk is refused with what was wrong.
func TestNoDisk(t *testing.T) {
	for _, c := range []struct{ path, part string }{
		{filepath.Join(t.TempDir(), "absent"), "truncate -s"},
		{t.TempDir(), "regular file or a block device"},
		{"/dev/null", "regular file or a block device"},
		{newFile(t, 0), "sectors"},
		{newFile(t, 1000), "sectors"},
	} {
		if _, err := Open(c.path, false, nil); err == nil || !strings.Contains(err.Error(), c.part) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("%s: %v; want an error with %q", c.path, err, c.part)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package ram

import (
	"bytes"
	"math"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// with runs a test on memory of a size.
func with(t *testing.T, size uint64, f func(*RAM)) {
	r, err := New(size)
	if err != nil {
		t.Fatal(err)
	}
	f(r)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error("closed twice:", err)
	}
}

// Memory is zero, takes what is written, and released pages are zero again while
// their neighbours stay.
func TestRelease(t *testing.T) {
	page := uint64(os.Getpagesize())
	with(t, 16*page, func(r *RAM) {
		b := r.Bytes()
		if uint64(len(b)) != 16*page || len(bytes.TrimLeft(b, "\x00")) != 0 {
			t.Fatal("not 16 pages of zeros")
		}
		for i := range b {
			b[i] = 0xa5
		}
		if err := r.Release(4*page, 8*page); err != nil {
			t.Fatal(err)
		}
		for i, v := range b {
			want := byte(0xa5)
			if p := uint64(i) / page; p >= 4 && p < 12 {
				want = 0
			}
			if v != want {
				t.Fatalf("byte %#x is %#x", i, v)
			}
		}
	})
}

// Released memory really leaves the process.
func TestResident(t *testing.T) {
	const size = 8 << 20
	with(t, size, func(r *RAM) {
		resident := func() (pages int) {
			vec := make([]byte, size/os.Getpagesize())
			if _, _, errno := unix.Syscall(unix.SYS_MINCORE, address(r.b), size, address(vec)); errno != 0 {
				t.Fatal(errno)
			}
			for _, v := range vec {
				pages += int(v & 1)
			}
			return pages
		}
		if address(r.b)%hugePage != 0 {
			t.Errorf("at %#x", address(r.b))
		}
		if n := resident(); n != 0 {
			t.Errorf("%d pages at first", n)
		}
		for i := range r.b {
			r.b[i] = 1
		}
		if n := resident(); n != size/os.Getpagesize() {
			t.Errorf("%d pages after writing", n)
		}
		if err := r.Release(0, size); err != nil {
			t.Fatal(err)
		}
		if n := resident(); n != 0 {
			t.Errorf("%d pages after release", n)
		}
	})
}

// Ranges outside the memory, or within pages, are refused.
func TestReleaseRange(t *testing.T) {
	page := uint64(os.Getpagesize())
	with(t, 4*page, func(r *RAM) {
		for _, c := range [][2]uint64{{0, 5 * page}, {5 * page, 0}, {1, page}, {0, 1}, {page, math.MaxUint64 - page + 1}, {4 * page, page}} {
			if r.Release(c[0], c[1]) == nil {
				t.Errorf("%#x bytes at %#x were released", c[1], c[0])
			}
		}
	})
}

// Sizes that can't be are refused, and a size that the host can't map has a remedy.
func TestSize(t *testing.T) {
	for _, size := range []uint64{0, 1, 4097, math.MaxUint64 &^ 0xffff, 1 << 62} {
		r, err := New(size)
		if err == nil {
			r.Close()
			t.Fatalf("%d bytes were mapped", size)
		}
		if size == 1<<62 && !strings.Contains(err.Error(), "--memory") {
			t.Error(err)
		}
	}
}

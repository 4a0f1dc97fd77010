// SPDX-License-Identifier: Apache-2.0

package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// content is a disk with text, noise and holes.
func content(size int) []byte {
	b := make([]byte, size)
	noise := rand.NewChaCha8([32]byte{1})
	for at := 0; at < size; at += 192 << 10 {
		end := min(at+64<<10, size)
		copy(b[at:end], bytes.Repeat([]byte("sphinx of black quartz, judge my vow\n"), 2000))
		noise.Read(b[min(end, size):min(end+3000, size)])
	}
	return b
}

// qemuImg converts a raw disk, or skips the test.
func qemuImg(t testing.TB, raw []byte, options ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/raw", raw, 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "disk.qcow2")
	cmd := exec.Command("qemu-img", append([]string{"convert", "-f", "raw", "-O", "qcow2"}, append(options, dir+"/raw", out)...)...)
	if b, err := cmd.CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
		t.Skip("qemu-img is not installed")
	} else if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return out
}

func open(t testing.TB, name string) *Disk {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What qemu-img writes in each of its ways reads back as it was, whole and in
// pieces that cross clusters; what was never written is a hole.
func TestReadsQEMU(t *testing.T) {
	want := content(3<<20 + 512)
	for _, options := range [][]string{
		nil, {"-o", "compat=0.10"}, {"-c"}, {"-c", "-o", "compression_type=zstd"}, {"-o", "cluster_size=512"},
		{"-o", "cluster_size=2M"}, {"-c", "-o", "cluster_size=4k"}, {"-o", "lazy_refcounts=on"},
	} {
		d := open(t, qemuImg(t, want, options...))
		got := make([]byte, d.Size())
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: differs: %v", options, err)
		}
		for _, at := range []int64{1, 511, 65530, 192<<10 - 1, d.Size() - 600} {
			p := make([]byte, 500)
			if _, err := d.ReadAt(p, at); err != nil || !bytes.Equal(p, want[at:at+500]) {
				t.Errorf("%v: differs at %d: %v", options, at, err)
			}
		}
		if n, err := d.ReadAt(make([]byte, 100), d.Size()-10); n != 10 || err != io.EOF {
			t.Errorf("%v: at the end: %d, %v", options, n, err)
		}
		if hole, err := d.Hole(128 << 10); d.bits == 16 && (!hole || err != nil) {
			t.Errorf("%v: no hole at 128 KiB: %v", options, err)
		}
	}
}

// What can't be read is refused with what to do about it.
func TestRefusals(t *testing.T) {
	good, err := os.ReadFile(qemuImg(t, content(1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		at   int
		with uint64
		size int
		want string
	}{
		{"version", atVersion, 4, 4, "version 4 is not known: make a plain copy: qemu-img convert"},
		{"backing file", atBacking, 512, 8, "differs from another file"},
		{"clusters", atClusterBits, 40, 4, "clusters of 2^40"},
		{"size", atSize, 1 << 60, 8, "a disk of"},
		{"no size", atSize, 0, 8, "a disk of 0"},
		{"encrypted", atCrypt, 2, 4, "encrypted"},
		{"small L1", atL1Size, 0, 4, "0 entries"},
		{"far L1", atL1, 1 << 50, 8, "outside"},
		{"corrupt", atFeatures, featureCorrupt, 8, "qemu-img check"},
		{"external", atFeatures, featureExternal, 8, "another file"},
		{"extended L2", atFeatures, featureExtendedL2, 8, "features 0x10"},
		{"unknown", atFeatures, 1 << 40, 8, "features"},
	} {
		b := bytes.Clone(good)
		if c.size == 4 {
			binary.BigEndian.PutUint32(b[c.at:], uint32(c.with))
		} else {
			binary.BigEndian.PutUint64(b[c.at:], c.with)
		}
		if _, err := Open(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
	if _, err := Open(bytes.NewReader(good[:40]), 40); !errors.Is(err, ErrFormat) {
		t.Errorf("cut: %v", err)
	}
}

// tiny is a file of our own: clusters of 512 bytes, and a given first and second table.
func tiny(l1, l2 uint64) []byte {
	b := make([]byte, 4*512)
	copy(b, Magic)
	be := binary.BigEndian
	be.PutUint32(b[atVersion:], 2)
	be.PutUint32(b[atClusterBits:], 9)
	be.PutUint64(b[atSize:], 64*512)
	be.PutUint32(b[atL1Size:], 1)
	be.PutUint64(b[atL1:], 512)
	be.PutUint64(b[512:], l1)
	be.PutUint64(b[1024:], l2)
	copy(b[1536:], "data")
	return b
}

// Tables and clusters that lie outside the file or askew are errors.
func TestHostileTables(t *testing.T) {
	for _, c := range []struct {
		l1, l2 uint64
		want   error
	}{
		{1024, 1536, nil}, {0, 0, nil}, {1024, 1, nil}, {1024, 0, nil},
		{1 << 40, 0, ErrFormat}, {1024 + 512*3, 0, ErrFormat}, {1024, 1 << 40, ErrFormat},
		{1024, flagCompressed | 1<<40, ErrFormat}, {1024, flagCompressed | 1<<61 | 1536, ErrFormat}, {1024, flagCompressed | 1536, ErrFormat},
	} {
		b := tiny(c.l1, c.l2)
		d, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.ReadAt(make([]byte, 600), 0); !errors.Is(err, c.want) || err != nil && c.want == nil {
			t.Errorf("%#x %#x: %v, want %v", c.l1, c.l2, err, c.want)
		}
	}
}

// Whatever a file says: no panic, and no read of more than was asked for.
func FuzzRead(f *testing.F) {
	f.Add(tiny(1024, 1536))
	f.Add(tiny(1024, flagCompressed|1536))
	f.Add(tiny(1024, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		p := make([]byte, 5000)
		for _, at := range []int64{0, 511, 1 << 20, d.Size() / 2, d.Size() - 1, d.Size()} {
			if n, err := d.ReadAt(p, at); n < 0 || n > len(p) || n < len(p) && err == nil {
				t.Errorf("read %d, %v", n, err)
			}
			d.Hole(at)
		}
		if m := len(d.table) + len(d.plain); m > 4<<20 {
			t.Error(fmt.Sprint("holds ", m))
		}
	})
}

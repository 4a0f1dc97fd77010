// SPDX-License-Identifier: Apache-2.0

package ext4

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func reader(t testing.TB, name string) *Reader {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	r, err := OpenReader(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What mke2fs wrote, in each of its formats, reads back: small and large files,
// holes, folders of many names, links of all kinds.
func TestReadsMke2fs(t *testing.T) {
	src := t.TempDir()
	big := bytes.Repeat([]byte("0123456789abcdef"), 20<<10)
	sparse := make([]byte, 3<<20)
	copy(sparse[2<<20:], "island")
	must(t, os.MkdirAll(src+"/boot/many", 0o755))
	must(t, os.WriteFile(src+"/boot/big", big, 0o644))
	must(t, os.WriteFile(src+"/boot/sparse", sparse, 0o644))
	must(t, os.Symlink("boot/big", src+"/big"))
	must(t, os.Symlink("/"+strings.Repeat("./", 60)+"boot/big", src+"/long"))
	must(t, os.Symlink("../../../boot", src+"/up"))
	must(t, os.Symlink("loop", src+"/loop"))
	for i := range 600 {
		must(t, os.WriteFile(fmt.Sprintf("%s/boot/many/a-rather-long-name-%d", src, i), []byte(fmt.Sprint(i)), 0o644))
	}
	for _, kind := range [][]string{{"-t", "ext4"}, {"-t", "ext2"}, {"-t", "ext3", "-b", "1024"}, {"-t", "ext4", "-O", "^64bit,^metadata_csum", "-b", "2048"}} {
		disk := filepath.Join(t.TempDir(), "disk")
		tool(t, "mke2fs", append(append([]string{"-q", "-L", "root", "-d", src}, kind...), disk, "32M")...)
		r := reader(t, disk)
		if r.Label != "root" || r.Unreplayed() {
			t.Errorf("%v: label %q", kind, r.Label)
		}
		for _, c := range []struct {
			name string
			want []byte
		}{{"/boot/big", big}, {"big", big}, {"/long", big}, {"/up/./big", big}, {"/boot/sparse", sparse}, {"/boot/many/a-rather-long-name-599", []byte("599")}} {
			if got, err := r.ReadFile(c.name, 4<<20); err != nil || !bytes.Equal(got, c.want) {
				t.Errorf("%v: %s: %d bytes, %v", kind, c.name, len(got), err)
			}
		}
		if list, err := r.ReadDir("/boot/many"); err != nil || len(list) != 600 || list[0] != (DirEntry{"a-rather-long-name-0", Regular}) {
			t.Errorf("%v: %d names, %v", kind, len(list), err)
		}
		for name, want := range map[string]error{"/none": ErrNotExist, "/boot/big/x": ErrNotDir, "/loop": ErrName, "/boot": ErrName} {
			if _, err := r.ReadFile(name, 4<<20); !errors.Is(err, want) {
				t.Errorf("%v: %s: %v, want %v", kind, name, err, want)
			}
		}
		if _, err := r.ReadFile("/boot/big", 100); !errors.Is(err, ErrName) {
			t.Errorf("%v: over the limit: %v", kind, err)
		}
	}
}

// Our own file systems read back too.
func TestReadsOurs(t *testing.T) {
	fs, name := create(t, 64<<20)
	fill(t, fs)
	must(t, fs.Close())
	r := reader(t, name)
	if b, err := r.ReadFile("/bin/su", 100); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	if list, err := r.ReadDir("/usr/share/doc"); err != nil || len(list) != 700 {
		t.Errorf("%d names, %v", len(list), err)
	}
}

// Whatever a disk says: no panic, an end, and no more than the limit.
func FuzzReader(f *testing.F) {
	fs, name := create(f, 32<<20)
	must(f, fs.Create("/boot/kernel", attr(0o644, 0, 0), 9000, bytes.NewReader(make([]byte, 9000))))
	must(f, fs.Symlink("/k", "boot/kernel", attr(0, 0, 0)))
	must(f, fs.Close())
	disk, err := os.ReadFile(name)
	must(f, err)
	f.Add(uint32(1024+0x60), uint32(0x40)) // a place, and what is written there
	f.Add(uint32(4096+8), uint32(7))
	f.Fuzz(func(t *testing.T, at, with uint32) {
		b := bytes.NewReader(disk)
		r, err := OpenReader(patched{b, int64(at) % int64(len(disk)), with}, int64(len(disk)))
		if err != nil {
			return
		}
		if got, err := r.ReadFile("/k", 1<<20); err == nil && len(got) > 1<<20 {
			t.Errorf("%d bytes", len(got))
		}
		r.ReadDir("/")
		r.ReadDir("/lost+found")
	})
}

// patched is a disk with one word changed.
type patched struct {
	*bytes.Reader
	at   int64
	with uint32
}

func (p patched) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.Reader.ReadAt(b, off)
	for i := range int64(4) {
		if j := p.at + i - off; j >= 0 && j < int64(n) {
			b[j] = byte(p.with >> (8 * i))
		}
	}
	return n, err
}

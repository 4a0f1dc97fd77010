// SPDX-License-Identifier: Apache-2.0

package ext4

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var made = time.Unix(1700000000, 0)

func create(t testing.TB, size int64) (*FS, string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	fs, err := New(f, Options{Size: size, UUID: [16]byte{1, 2, 3, 4, 5, 6, 0x47, 8, 0x89}, Label: "root", Time: made})
	if err != nil {
		t.Fatal(err)
	}
	return fs, name
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func attr(mode uint16, uid, gid uint32) Attr { return Attr{mode, uid, gid, made} }

// tool runs one of e2fsprogs, or skips the test where it is not installed.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	bin, err := exec.LookPath(name)
	if err != nil {
		if bin = "/usr/sbin/" + name; exec.Command(bin, "-V").Run() != nil {
			t.Skipf("%s is not installed", name)
		}
	}
	out, err := exec.Command(bin, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func fill(t *testing.T, fs *FS) {
	t.Helper()
	must(t, fs.Symlink("/bin", "usr/bin", attr(0o777, 0, 0)))
	must(t, fs.Mkdir("/usr/bin", attr(0o755, 0, 0)))
	must(t, fs.Mkdir("/tmp", attr(0o1777, 0, 0)))
	must(t, fs.Create("/bin/su", attr(0o4755, 0, 0), 5, strings.NewReader("hello")))
	must(t, fs.Link("/usr/bin/su2", "/bin/su"))
	must(t, fs.Create("/var/lib/redis/big", attr(0o640, 70000, 101), 10<<20, bytes.NewReader(bytes.Repeat([]byte("0123456789abcdef"), 10<<16))))
	must(t, fs.Symlink("/long", strings.Repeat("x/", 100), attr(0, 0, 0)))
	must(t, fs.Mknod("/dev/console", Char, 5, 1, attr(0o600, 0, 5)))
	must(t, fs.Mknod("/dev/far", Block, 259, 70000, attr(0o660, 0, 6)))
	must(t, fs.Mknod("/run/pipe", FIFO, 0, 0, attr(0o600, 0, 0)))
	for i := range 700 {
		must(t, fs.Create(fmt.Sprintf("/usr/share/doc/package-number-%d/copyright", i), attr(0o644, 0, 0), 1, strings.NewReader("c")))
	}
	must(t, fs.Create("/bin/su3", attr(0o755, 0, 0), 9000, bytes.NewReader(bytes.Repeat([]byte("z"), 9000))))
	must(t, fs.Create("/bin/su3", attr(0o755, 0, 0), 3, strings.NewReader("new"))) // replaces
}

// fsck accepts what we make at sizes that put the last group, its tables and
// the copies of the superblock in every kind of place.
func TestFsckAccepts(t *testing.T) {
	const group = blocksPerGroup * blockSize
	for _, size := range []int64{32 << 20, 33<<20 + 12345, 1 << 30, group + (1 << 20), 16*group + (1 << 20), 17 * group, 4<<30 + 4096} {
		fs, name := create(t, size)
		fill(t, fs)
		must(t, fs.Close())
		tool(t, "e2fsck", "-fn", name)
	}
}

// debugfs reads back owners, modes, targets, numbers and content as they were given.
func TestReadBack(t *testing.T) {
	fs, name := create(t, 1<<30)
	fill(t, fs)
	must(t, fs.Close())
	for _, c := range []struct{ cmd, want string }{
		{"stat /usr/bin/su", "Mode:  04755"},
		{"stat /usr/bin/su", "Links: 2"},
		{"stat /var/lib/redis/big", "User: 70000   Group:   101"},
		{"stat /var/lib/redis/big", "mtime: 0x6553f100:00000000"},
		{"stat /tmp", "Mode:  01777"},
		{"stat /bin", `Fast link dest: "usr/bin"`},
		{"stat /dev/console", "Device major/minor number: 05:01"},
		{"stat /dev/far", "Device major/minor number: 259:70000"},
		{"stat /run/pipe", "Type: FIFO"},
		{"cat /usr/bin/su3", "new"},
		{"cat /usr/bin/su2", "hello"},
		{"cat /long", strings.Repeat("x/", 100)},
		{"ls -l /usr/share/doc/package-number-699", "copyright"},
	} {
		if out := tool(t, "debugfs", "-R", c.cmd, name); !strings.Contains(out, c.want) {
			t.Errorf("%s: %q is missing from\n%s", c.cmd, c.want, out)
		}
	}
	dump := filepath.Join(t.TempDir(), "big")
	tool(t, "debugfs", "-R", "dump /var/lib/redis/big "+dump, name)
	got, err := os.ReadFile(dump)
	if err != nil || !bytes.Equal(got, bytes.Repeat([]byte("0123456789abcdef"), 10<<16)) {
		t.Errorf("big file differs: %d bytes, %v", len(got), err)
	}
}

// The disk has room for more files and takes them: another program writes into
// it and fsck agrees with the result.
func TestWritableAfterwards(t *testing.T) {
	fs, name := create(t, 256<<20)
	fill(t, fs)
	_, free := fs.Usage()
	must(t, fs.Close())
	if free < 200<<20 {
		t.Errorf("only %d bytes free", free)
	}
	src := filepath.Join(t.TempDir(), "src")
	must(t, os.WriteFile(src, bytes.Repeat([]byte("w"), 3<<20), 0o600))
	tool(t, "debugfs", "-w", "-R", "write "+src+" /written", name)
	tool(t, "debugfs", "-w", "-R", "mkdir /made", name)
	tool(t, "e2fsck", "-fn", name)
	if out := tool(t, "dumpe2fs", "-h", name); !strings.Contains(out, "has_journal") || !strings.Contains(out, "Total journal size:       16M") {
		t.Errorf("journal is not as expected:\n%s", out)
	}
}

// A file whose blocks lie in many pieces gets an extent tree that fsck accepts.
func TestFragmentedFile(t *testing.T) {
	fs, name := create(t, 64<<20)
	for i := range 4000 {
		must(t, fs.Create(fmt.Sprintf("/d/%d", i), attr(0o644, 0, 0), blockSize, bytes.NewReader(make([]byte, blockSize))))
	}
	for i := 0; i < 4000; i += 2 { // an empty file takes the place: a hole of one block
		must(t, fs.Create(fmt.Sprintf("/d/%d", i), attr(0o644, 0, 0), 0, strings.NewReader("")))
	}
	want := bytes.Repeat([]byte("fragment"), 1000*blockSize/8)
	must(t, fs.Create("/frag", attr(0o644, 0, 0), int64(len(want)), bytes.NewReader(want)))
	if n := fs.root.children["frag"]; len(n.data) <= treeLeaf {
		t.Fatalf("file has %d extents; the test wants more than %d", len(n.data), treeLeaf)
	}
	got, err := fs.ReadFile("/frag")
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	must(t, fs.Close())
	tool(t, "e2fsck", "-fn", name)
	dump := filepath.Join(t.TempDir(), "frag")
	tool(t, "debugfs", "-R", "dump /frag "+dump, name)
	if got, _ := os.ReadFile(dump); !bytes.Equal(got, want) {
		t.Error("content read through the extent tree differs")
	}
}

// Names that climb, links that loop and files in the way of directories are
// refused and leave a valid file system.
func TestHostileNames(t *testing.T) {
	fs, name := create(t, 64<<20)
	must(t, fs.Symlink("/loop", "/loop", attr(0, 0, 0)))
	must(t, fs.Symlink("/up", "../../../..", attr(0, 0, 0)))
	must(t, fs.Symlink("/dangling", "/nowhere", attr(0, 0, 0)))
	must(t, fs.Create("/file", attr(0o644, 0, 0), 0, strings.NewReader("")))
	empty := func(n string) error { return fs.Create(n, attr(0o644, 0, 0), 0, strings.NewReader("")) }
	for _, c := range []struct {
		name string
		err  error
	}{
		{"/../x", ErrName}, {"/a/../../x", ErrName}, {"/" + strings.Repeat("n", 256), ErrName},
		{"/a\x00b", ErrName}, {"/loop/x", ErrName}, {"/dangling/x", ErrExist}, {"/file/x", ErrNotDir},
		{"/", ErrExist}, {"/lost+found", ErrExist},
	} {
		if err := empty(c.name); !errors.Is(err, c.err) {
			t.Errorf("create %q: %v, want %v", c.name, err, c.err)
		}
	}
	must(t, empty("/up/inside"))
	if k, _, err := fs.Stat("/inside"); err != nil || k != Regular {
		t.Errorf("a link above the root must end at the root: %v", err)
	}
	if err := fs.Create("/short", attr(0o644, 0, 0), 10, strings.NewReader("abc")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short content: %v", err)
	}
	must(t, fs.Close())
	tool(t, "e2fsck", "-fn", name)
}

// What was removed is gone, with all below it; other names of a file stay, and
// the blocks serve again.
func TestRemove(t *testing.T) {
	fs, name := create(t, 64<<20)
	fill(t, fs)
	_, before := fs.Usage()
	for _, n := range []string{"/usr/share/doc", "/bin/su", "/long", "/none", "/none/x", "/var"} {
		must(t, fs.Remove(n))
	}
	if _, after := fs.Usage(); after < before+10<<20 {
		t.Errorf("%d bytes free before, %d after", before, after)
	}
	if b, err := fs.ReadFile("/usr/bin/su2"); err != nil || string(b) != "hello" {
		t.Errorf("the other name: %q, %v", b, err)
	}
	if names, err := fs.Names("/usr/share"); err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
	if err := fs.Remove("/"); !errors.Is(err, ErrName) {
		t.Errorf("the root: %v", err)
	}
	must(t, fs.Mkdir("/var", attr(0o700, 0, 0)))
	must(t, fs.Close())
	tool(t, "e2fsck", "-fn", name)
}

// A full disk says so, and what was cut off leaves no trace.
func TestDiskFull(t *testing.T) {
	fs, name := create(t, 32<<20)
	err := fs.Create("/huge", attr(0o644, 0, 0), 64<<20, io.LimitReader(zeros{}, 64<<20))
	if !errors.Is(err, ErrNoSpace) {
		t.Fatalf("error %v", err)
	}
	must(t, fs.Create("/small", attr(0o644, 0, 0), 1, strings.NewReader("s")))
	must(t, fs.Close())
	tool(t, "e2fsck", "-fn", name)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// The same calls give the same bytes.
func TestReproducible(t *testing.T) {
	var sums [2][32]byte
	for i := range sums {
		fs, name := create(t, 64<<20)
		fill(t, fs)
		must(t, fs.Close())
		b, err := os.ReadFile(name)
		must(t, err)
		sums[i] = sha256.Sum256(b)
	}
	if sums[0] != sums[1] {
		t.Error("two disks differ")
	}
}

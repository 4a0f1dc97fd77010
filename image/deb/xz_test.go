// SPDX-License-Identifier: Apache-2.0

package deb

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"
)

// packXZ writes an .xz file by the library's writer.
func packXZ(t testing.TB, text []byte, c xz.WriterConfig) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := c.NewWriter(&b)
	if err == nil {
		_, err = w.Write(text)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func decompress(name string, b []byte) ([]byte, error) {
	r, err := Decompress(name, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// someText can be packed in part only.
func someText(n int) []byte {
	b := bytes.Repeat([]byte("how vexingly quick daft zebras jump\n"), n/36+1)[:n]
	rand.NewChaCha8([32]byte{1}).Read(b[n/2 : n/2+n/8])
	return b
}

// Files of one block and of many, of several streams, and with each kind of check
// unpack to what was packed.
func TestXZ(t *testing.T) {
	text := someText(300_000)
	for _, c := range []xz.WriterConfig{{}, {BlockSize: 70_000}, {NoCheckSum: true}, {CheckSum: xz.CRC32, BlockSize: 30_000, DictCap: 1 << 20}, {CheckSum: xz.SHA256}} {
		one := packXZ(t, text, c)
		several := slices.Concat(one, make([]byte, 8), packXZ(t, nil, c), one)
		if got, err := decompress("a.xz", one); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%+v: %d bytes, %v", c, len(got), err)
		}
		if got, err := decompress("a.xz", several); err != nil || !bytes.Equal(got, append(text[:len(text):len(text)], text...)) {
			t.Errorf("%+v, streams: %d bytes, %v", c, len(got), err)
		}
	}
}

// What xz itself writes, with the sizes in its headers when it uses threads, unpacks.
func TestXZProgram(t *testing.T) {
	text := someText(300_000)
	for _, options := range []string{"-9e", "-T2 --block-size=65536", "--check=none", "--check=sha256 -0"} {
		cmd := exec.Command("xz", append(strings.Fields(options), "-c")...)
		cmd.Stdin = bytes.NewReader(text)
		b, err := cmd.Output()
		if errors.Is(err, exec.ErrNotFound) {
			t.Skip("xz is not installed")
		} else if err != nil {
			t.Fatal(err)
		}
		if got, err := decompress("a.xz", b); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%s: %d bytes, %v", options, len(got), err)
		}
	}
}

// asking plants a size of the dictionary in the header of a block.
func asking(b []byte, at int, code byte) []byte {
	b = bytes.Clone(b)
	end := at + int(b[at])*4
	i := at + bytes.Index(b[at:end], []byte{filterLZMA2, 1})
	b[i+2] = code
	copy(b[end:], summed(bytes.Clone(b[at:end]))[end-at:])
	return b
}

// A stream that asks for more memory than a kernel's does is refused before any is
// given: in its first block, in a later one, or as a window of zstd.
func TestHostileMemory(t *testing.T) {
	one := packXZ(t, []byte("text"), xz.WriterConfig{})
	block := len(xzMagic) + 6
	// The second block of a file is behind a whole first one.
	two := packXZ(t, []byte("texttext"), xz.WriterConfig{BlockSize: 4})
	second := block + bytes.Index(two[block+4:], two[block:block+4]) + 4
	for name, c := range map[string]struct {
		ending string
		b      []byte
		ok     bool
	}{
		"128 MiB":        {".xz", asking(one, block, 30), true},
		"192 MiB":        {".xz", asking(one, block, 31), false},
		"4 GiB":          {".xz", asking(one, block, 40), false},
		"no size at all": {".xz", asking(one, block, 41), false},
		"second block":   {".xz", asking(two, second, 40), false},
		"128 MiB window": {".zst", []byte("\x28\xb5\x2f\xfd\x00\x88\x21\x00\x00text"), true},
		"1 GiB window":   {".zst", []byte("\x28\xb5\x2f\xfd\x00\xa0\x21\x00\x00text"), false},
		"one segment":    {".zst", []byte("\x28\xb5\x2f\xfd\xe0\x00\x00\x00\x00\x01\x00\x00\x00\x21\x00\x00text"), false},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := decompress(name+c.ending, c.b)
		runtime.ReadMemStats(&after)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; !c.ok && used > 32<<20 {
			t.Errorf("%s: took %d MiB", name, used>>20)
		}
	}
}

// A file that is cut, or has a wrong bit, is an error or unpacks to what it was.
func TestDamagedXZ(t *testing.T) {
	text := someText(2000)
	b := packXZ(t, text, xz.WriterConfig{BlockSize: 700, DictCap: 1 << 16})
	for i := range b {
		if _, err := decompress(".xz", b[:i]); err == nil {
			t.Errorf("cut at %d: no error", i)
		}
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			if got, err := decompress(".xz", c); err == nil && !bytes.Equal(got, text) {
				t.Errorf("bit %d of byte %d: unpacks to something else", bit, i)
			}
		}
	}
	if _, err := decompress(".xz", append(bytes.Clone(b), "more"...)); !errors.Is(err, ErrFormat) {
		t.Errorf("more behind it: %v", err)
	}
}

// Whatever a file says: no panic, and nothing that the library's own reader refuses.
func FuzzXZ(f *testing.F) {
	one := packXZ(f, someText(500), xz.WriterConfig{BlockSize: 200, DictCap: 1 << 16})
	f.Add(one)
	f.Add(append(one, make([]byte, 4)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decompress(".xz", b)
		if err != nil {
			return
		}
		r, err := xz.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if want, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes; the library has %d, %v", len(got), len(want), err)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bytes"
	"strings"
	"testing"
)

// What is kept reads the same from another place, also after it was put away; what is
// small or kept already stays where it is.
func TestShelf(t *testing.T) {
	s, err := NewShelf()
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for i, n := range []int{shelfMin, 5_000_001, 3 << 20} {
		b := bytes.Repeat([]byte{byte(i), 1, 2}, n/3+1)[:n]
		kept := s.Keep(b)
		if &kept[0] == &b[0] {
			t.Errorf("%d bytes are not in the file", n)
		}
		if again := s.Keep(kept); &again[0] != &kept[0] {
			t.Errorf("%d bytes are kept twice", n)
		}
		all = append(all, b, kept)
	}
	s.PutAway()
	for i := 0; i < len(all); i += 2 {
		if !bytes.Equal(all[i], all[i+1]) {
			t.Errorf("%d bytes came back as others", len(all[i]))
		}
	}
	small := make([]byte, shelfMin-1)
	if kept := s.Keep(small); &kept[0] != &small[0] {
		t.Error("little is not worth a mapping")
	}
	if s.Keep(nil) != nil {
		t.Error("nothing became something")
	}
}

// Without room the bytes stay where they are.
func TestShelfFull(t *testing.T) {
	s, err := NewShelf()
	if err != nil {
		t.Fatal(err)
	}
	s.file.Close()
	b := make([]byte, shelfMin)
	if kept := s.Keep(b); &kept[0] != &b[0] {
		t.Error("bytes in a file that can't be written")
	}
}

// Of a program's mappings only those that are read alone, and of which no page is its
// own, can be dropped.
func TestClean(t *testing.T) {
	const smaps = `00400000-017e9000 r-xp 00000000 fe:01 1 /usr/bin/tandem
Size: 20388 kB
Anonymous:             0 kB
017e9000-02dbd000 r--p 013e9000 fe:01 1 /usr/bin/tandem
Anonymous:             4 kB
02dbd000-02e8e000 rw-p 029bd000 fe:01 1 /usr/bin/tandem
Anonymous:             0 kB
03000000-03001000 r--p 029bd000 fe:01 1 /usr/bin/tandem
Anonymous:             0 kB
7ff046000000-7ff04a000000 r--s 00000000 00:01 7 /memfd:tandem-code
Anonymous:             0 kB
`
	got := clean(strings.NewReader(smaps), "/usr/bin/tandem")
	if len(got) != 2 || got[0] != (span{0x400000, 0x17e9000}) || got[1] != (span{0x3000000, 0x3001000}) {
		t.Errorf("%x", got)
	}
}

// The program runs on without its pages, which come back.
func TestDropProgram(t *testing.T) {
	if len(program()) == 0 {
		t.Fatal("no mapping of this program")
	}
	for range 10 {
		ReturnMemory()
	}
}

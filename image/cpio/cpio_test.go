// SPDX-License-Identifier: Apache-2.0

package cpio

import (
	"bytes"
	"strconv"
	"testing"
)

// Each header stands at a multiple of 4, says how long name and data are, and
// the trailer comes last.
func TestWrite(t *testing.T) {
	files := []File{
		{Name: "dev", Mode: Dir | 0o755},
		{Name: "dev/console", Mode: Device | 0o600, Major: 5, Minor: 1},
		{Name: "init", Mode: Regular | 0o755, Data: []byte("12345")},
		{Name: "x", Mode: Regular | 0o644, Data: []byte("1234")},
	}
	var b bytes.Buffer
	if err := Write(&b, files); err != nil {
		t.Fatal(err)
	}
	in := b.Bytes()
	for _, want := range append(files, File{Name: "TRAILER!!!"}) {
		var f [13]int // the fields after the magic number, 8 digits each
		for i := range f {
			n, err := strconv.ParseUint(string(in[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			f[i] = int(n)
		}
		mode, size, major, minor, name := f[1], f[6], f[9], f[10], f[11]
		data := (110 + name + 3) &^ 3
		if string(in[:6]) != "070701" || string(in[110:110+name]) != want.Name+"\x00" || !bytes.Equal(in[data:data+size], want.Data) ||
			mode != int(want.Mode) || major != int(want.Major) || minor != int(want.Minor) {
			t.Errorf("%s: mode %o, size %d, device %d:%d, %q", want.Name, mode, size, major, minor, in[:data])
		}
		in = in[(data+size+3)&^3:]
	}
	if len(in) != 0 {
		t.Errorf("%d bytes after the trailer", len(in))
	}
}

// SPDX-License-Identifier: Apache-2.0

package deb

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"
)

// FuzzPackage shows that whatever a package says, reading it ends with its entries or an
// error: no name climbs, and nothing unpacks beyond its limit. Streams of xz are left out:
// see Decompress.
func FuzzPackage(f *testing.F) {
	control := gz(tarball(f, tar.Header{Name: "./control", Typeflag: tar.TypeReg, Uname: "Package: a\n"}))
	data := tarball(f, tar.Header{Name: "./usr/bin/a", Typeflag: tar.TypeReg, Uname: "a"}, tar.Header{Name: "b", Linkname: "usr/bin/a", Typeflag: tar.TypeLink})
	f.Add([]byte("!<arch>\n" + arMember("debian-binary", []byte("2.0\n")) + arMember("control.tar.gz", control) + arMember("data.tar", data)))
	f.Add([]byte("!<arch>\n" + arMember("debian-binary/", []byte("2.0\n")) + arMember("control.tar.zst", []byte("(\xb5/\xfd"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.Contains(b, []byte(".xz")) {
			return
		}
		r, size := bytes.NewReader(b), int64(len(b))
		if files, err := Control(r, size); err == nil && files["control"] == nil {
			t.Error("no control file, and no error")
		}
		d, err := Data(r, size)
		if err != nil {
			return
		}
		defer d.Close()
		Entries(d, func(e Entry, body io.Reader) error {
			for _, name := range []string{e.Name, e.Linkname} {
				if e.Typeflag == tar.TypeSymlink && name == e.Linkname {
					continue // leads where it likes, in the guest
				}
				if strings.HasPrefix(name, "/") || strings.HasPrefix(name, "../") || strings.Contains(name, "/../") || name == ".." {
					t.Errorf("an entry named %q", name)
				}
			}
			_, err := io.Copy(io.Discard, io.LimitReader(body, 1<<20))
			return err
		})
	})
}

// FuzzControl shows that an index of packages is read or refused, that versions are
// ordered, and that relations mean the same when they are written again.
func FuzzControl(f *testing.F) {
	f.Add("Package: a\nVersion: 1:2.0-1\nArchitecture: riscv64\nDepends: b (>= 1), c | d\n\nPackage: b\nVersion: 1~rc1\nArchitecture: all\nProvides: c (= 2)\n", "1.0", "1.0~", "x")
	f.Add("Package: a\nDescription: long\n and longer\n .\n end\n", "", ":", "a:b-c")
	f.Fuzz(func(t *testing.T, text, a, b, c string) {
		x, err := NewIndex(text, "riscv64")
		if err == nil {
			x.Essential()
			if list, err := x.Solve([]string{"a"}); err == nil && len(list) == 0 {
				t.Error("a needs nothing, not even itself")
			}
		}
		if Compare(a, b) != -Compare(b, a) || Compare(a, a) != 0 {
			t.Errorf("%q and %q have no order", a, b)
		}
		if Compare(a, b) < 0 && Compare(b, c) < 0 && Compare(a, c) >= 0 {
			t.Errorf("%q < %q < %q", a, b, c)
		}
		for s := range Stanzas(text) {
			groups, err := ParseRelations(s.Get("Depends"))
			if err != nil {
				continue
			}
			for _, g := range groups {
				for _, r := range g {
					if again, err := ParseRelations(r.String()); err != nil || len(again) != 1 || again[0][0].String() != r.String() {
						t.Errorf("%q becomes %v, %v", r, again, err)
					}
				}
			}
		}
	})
}

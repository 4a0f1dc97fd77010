// SPDX-License-Identifier: Apache-2.0

package deb

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// Versions order as Policy 5.6.12 and dpkg say.
func TestCompare(t *testing.T) {
	for _, line := range strings.Split(`1 < 2
1.0 < 1.0-1
1.2~rc1 < 1.2
1.2~~ < 1.2~
1.2 < 1.2a
1.2a < 1.2+b
1.09 = 1.9
1.10 > 1.9
0:1 = 1
1:0 > 9
2.38-1 < 2.38-1+deb13u1
1.0-1 < 1.0-1.1
1-2-3 > 1-1-9
6.12.107-1 > 6.12.9-1
1.0 = 1.0-0
a1 > ~1
18446744073709551617 > 18446744073709551616`, "\n") {
		var a, op, b string
		fmt.Sscan(line, &a, &op, &b)
		want := map[string]int{"<": -1, "=": 0, ">": 1}[op]
		if got := Compare(a, b); got != want {
			t.Errorf("%s: got %d", line, got)
		}
		if got := Compare(b, a); got != -want {
			t.Errorf("%s, turned round: got %d", line, got)
		}
	}
}

// Relations keep alternatives, qualifiers and constraints; nonsense is an error.
func TestParseRelations(t *testing.T) {
	got, err := ParseRelations("libc6 (>= 2.38), awk | mawk:any (<<2), a (< 3)")
	if err != nil || fmt.Sprintf("%+v", got) != "[[libc6 (>= 2.38)] [awk mawk (<< 2)] [a (<= 3)]]" {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"a (2)", "a (>= )", "a (>= 1", "(>= 1)", "a b", "a | ", "a (=> 1)", "a (>= 1) x"} {
		if r, err := ParseRelations(bad); err == nil {
			t.Errorf("%q parsed as %+v", bad, r)
		}
	}
}

// Fields of several lines stay whole and comments and case do no harm.
func TestStanza(t *testing.T) {
	var names []string
	for s := range Stanzas("Package: a\nDescription: one\n two\n .\n three\nConffiles:\n /etc/a 1\n\n\nPackage: b\n") {
		names = append(names, s.Get("package"))
		if d := s.Get("Description"); d != "" && d != "one\ntwo\n.\nthree" {
			t.Errorf("description %q", d)
		}
	}
	if fmt.Sprint(names) != "[a b]" {
		t.Errorf("stanzas %v", names)
	}
}

// index makes a Packages file: one package per line, "name version fields".
func index(t *testing.T, lines string) *Index {
	t.Helper()
	var b strings.Builder
	for _, line := range strings.Split(strings.TrimSpace(lines), "\n") {
		name, rest, _ := strings.Cut(line, " ")
		version, fields, _ := strings.Cut(rest, " ")
		fmt.Fprintf(&b, "Package: %s\nVersion: %s\nArchitecture: riscv64\nFilename: pool/%s.deb\nSize: 1\nSHA256: %064d\n", name, version, name, 0)
		for _, f := range strings.Split(fields, "; ") {
			if f != "" {
				fmt.Fprintln(&b, f)
			}
		}
		b.WriteString("\n")
	}
	x, err := NewIndex(b.String(), "riscv64")
	if err != nil {
		t.Fatal(err)
	}
	return x
}

const archive = `
app 1 Depends: libc (>= 2), awk, mta | app-mail; Pre-Depends: helper
libc 2.5
libc 2.4
helper 1 Depends: libc
gawk 5 Provides: awk; Priority: optional
mawk 1 Provides: awk; Priority: required
app-mail 1
old 1 Depends: libc (<< 2)
virtual-user 1 Depends: api (>= 3)
api-two 1 Provides: api (= 2)
api-four 1 Provides: api (= 4)
api-any 1 Provides: api
enemy 1 Conflicts: mawk; Depends: awk
rival 1 Provides: mail; Conflicts: mail
rival-two 1 Provides: mail; Conflicts: mail
loop-a 1 Depends: loop-b
loop-b 1 Depends: loop-a
broken 1 Depends: no-such-thing | neither
breaker 1 Breaks: libc (<< 3)
`

// Solve follows dependencies, alternatives, virtual packages, constraints,
// conflicts and loops.
func TestSolve(t *testing.T) {
	x := index(t, archive)
	for _, c := range []struct{ ask, want string }{
		{"app", "app app-mail helper libc mawk"},
		{"app gawk", "app app-mail gawk helper libc"},
		{"awk", "mawk"},
		{"virtual-user", "api-four virtual-user"},
		{"enemy", "enemy gawk"},
		{"rival", "rival"},
		{"loop-a", "loop-a loop-b"},
		{"old", "error: package old depends on libc (<< 2), which the archive does not have"},
		{"broken", "error: package broken depends on no-such-thing | neither, which the archive does not have"},
		{"nothing", "error: package nothing is not in the archive: check its name"},
		{"rival rival-two", "error: package rival-two can't be had together with rival: they conflict; leave one out"},
		{"mawk enemy", "error: package enemy can't be had together with mawk: they conflict; leave one out"},
		{"libc breaker", "error: package breaker can't be had together with libc: they conflict; leave one out"},
	} {
		got := ""
		if list, err := x.Solve(strings.Fields(c.ask)); err != nil {
			got = "error: " + err.Error()
		} else {
			for _, p := range list {
				got += " " + p.Name
			}
			got = strings.TrimSpace(got)
		}
		if got != c.want {
			t.Errorf("solve %s:\n got %s\nwant %s", c.ask, got, c.want)
		}
	}
	if v := x.Package("libc").Version; v != "2.5" {
		t.Errorf("of two versions %s was taken", v)
	}
}

func tarball(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		body := h.PAXRecords["test.body"]
		h.PAXRecords = nil
		h.Size = int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, body)
	}
	w.Close()
	return b.Bytes()
}

// Entries that climb, are absolute or of an odd type end the reading.
func TestHostileTar(t *testing.T) {
	for _, h := range []tar.Header{
		{Name: "../etc/passwd", Typeflag: tar.TypeReg},
		{Name: "./a/../../b", Typeflag: tar.TypeReg},
		{Name: "/etc/passwd", Typeflag: tar.TypeReg},
		{Name: "./a", Typeflag: tar.TypeLink, Linkname: "../../etc/shadow"},
		{Name: "./a", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"},
		{Name: "./a", Typeflag: tar.TypeCont},
	} {
		err := Entries(bytes.NewReader(tarball(t, h)), func(Entry, io.Reader) error { return nil })
		if !errors.Is(err, ErrFormat) {
			t.Errorf("%s -> %s: %v", h.Name, h.Linkname, err)
		}
	}
	ok := tarball(t, tar.Header{Name: "./usr//bin/./x", Typeflag: tar.TypeSymlink, Linkname: "../../y"})
	if err := Entries(bytes.NewReader(ok), func(e Entry, _ io.Reader) error {
		if e.Name != "usr/bin/x" {
			t.Errorf("name %q", e.Name)
		}
		return nil
	}); err != nil {
		t.Errorf("a symbolic link's target is the guest's affair: %v", err)
	}
}

// A sparse file, whose holes would cost the memory that they do not cost in the
// archive, is refused.
func TestSparseTar(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	records := map[string]string{"GNU-sparse.map": "0,0", "GNU-sparse.numblocks": "1", "GNU-sparse.size": "1099511627776"}
	if err := w.WriteHeader(&tar.Header{Name: "control", Typeflag: tar.TypeReg, PAXRecords: records}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	sparse := bytes.ReplaceAll(b.Bytes(), []byte("GNU-sparse"), []byte("GNU.sparse")) // which the writer won't write
	if h, err := tar.NewReader(bytes.NewReader(sparse)).Next(); err != nil || h.Size != 1<<40 {
		t.Fatalf("%+v, %v", h, err)
	}
	if err := Entries(bytes.NewReader(sparse), func(Entry, io.Reader) error { return nil }); !errors.Is(err, ErrFormat) {
		t.Errorf("error %v", err)
	}
}

func arMember(name string, body []byte) string {
	s := fmt.Sprintf("%-16s%-12d%-6d%-6d%-8o%-10d`\n%s", name, 0, 0, 0, 0o100644, len(body), body)
	if len(body)%2 == 1 {
		s += "\n"
	}
	return s
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

// A package gives its control files and its data; one that is cut off, lies
// about sizes or has another version is refused.
func TestPackage(t *testing.T) {
	control := tarball(t, tar.Header{Name: "./control", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"test.body": "Package: a\n"}})
	whole := "!<arch>\n" + arMember("debian-binary", []byte("2.0\n")) + arMember("control.tar.gz", gz(control)) + arMember("data.tar", control)
	r := strings.NewReader(whole)
	files, err := Control(r, r.Size())
	if err != nil || string(files["control"]) != "Package: a\n" {
		t.Errorf("control %q, %v", files, err)
	}
	d, err := Data(r, r.Size())
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(d); err != nil || !bytes.Equal(b, control) {
		t.Errorf("data %d bytes, %v", len(b), err)
	}
	for name, bad := range map[string]string{
		"empty":    "",
		"cut off":  whole[:len(whole)-2000],
		"no magic": "x" + whole,
		"version":  strings.Replace(whole, "2.0\n", "3.0\n", 1),
		"lie":      strings.Replace(whole, "4         `", "99999999  `", 1),
		"negative": strings.Replace(whole, "4         `", "-4        `", 1),
	} {
		r := strings.NewReader(bad)
		_, err1 := Control(r, r.Size())
		_, err2 := Data(r, r.Size())
		if !errors.Is(err1, ErrFormat) && !errors.Is(err2, ErrFormat) {
			t.Errorf("%s: %v, %v", name, err1, err2)
		}
	}
}

// An archive that unpacks to more than allowed is an error, not a short file.
func TestUnpackLimit(t *testing.T) {
	l := &limited{strings.NewReader(strings.Repeat("x", 100)), 99, "data.tar"}
	if _, err := io.ReadAll(l); !errors.Is(err, ErrFormat) {
		t.Errorf("error %v", err)
	}
}

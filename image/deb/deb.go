// SPDX-License-Identifier: Apache-2.0

// Package deb reads Debian's formats: binary packages, control stanzas,
// versions and relations, and solves what a list of packages needs.
//
// A .deb is an ar archive of three members: "debian-binary" with the version
// of the format, a control archive and a data archive, both compressed tars
// (deb(5)). All of it is untrusted here: names that climb, sizes that lie and
// archives that expand without end are errors.
package deb

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Limits of one package.
const (
	MaxControl = 32 << 20 // bytes of its control archive
	MaxData    = 4 << 30  // bytes of its data archive, unpacked
	maxEntries = 1 << 20
	maxWindow  = 128 << 20 // bytes a stream may ask its decoder to keep: those of a kernel do
)

// ErrFormat is wrapped by every error that means "this is not a sane package".
var ErrFormat = errors.New("not a valid package")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// member finds the first member of an ar archive whose name begins with prefix.
func member(r io.ReaderAt, size int64, prefix string) (string, *io.SectionReader, error) {
	magic := make([]byte, 8)
	if _, err := r.ReadAt(magic, 0); err != nil || string(magic) != "!<arch>\n" {
		return "", nil, malformed("no ar header")
	}
	for at := int64(8); at+60 <= size; {
		h := make([]byte, 60)
		if _, err := r.ReadAt(h, at); err != nil {
			return "", nil, malformed("cut off at byte %d", at)
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(h[48:58])), 10, 64)
		if err != nil || string(h[58:]) != "`\n" || n < 0 || n > size-at-60 {
			return "", nil, malformed("ar member at byte %d", at)
		}
		name := strings.TrimSuffix(strings.TrimSpace(string(h[:16])), "/")
		if strings.HasPrefix(name, prefix) {
			return name, io.NewSectionReader(r, at+60, n), nil
		}
		at += 60 + n + n&1
	}
	return "", nil, malformed("no member %s", prefix)
}

// Decompress returns the content of a stream by the ending of its name: .xz,
// .zst, .gz, or none for tar itself.
func Decompress(name string, r io.Reader) (io.ReadCloser, error) {
	r = bufio.NewReaderSize(r, 256<<10)
	switch {
	case strings.HasSuffix(name, ".xz"):
		d, err := newUnxz(r)
		return io.NopCloser(d), err
	case strings.HasSuffix(name, ".zst"):
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case strings.HasSuffix(name, ".gz"):
		return gzip.NewReader(r)
	case strings.HasSuffix(name, ".bz2"), strings.HasSuffix(name, ".lzma"):
		return nil, malformed("%s: this old compression is not supported", name)
	}
	return io.NopCloser(r), nil
}

// Data opens the data archive of a package as a tar stream of at most MaxData
// bytes.
func Data(r io.ReaderAt, size int64) (io.ReadCloser, error) {
	return open(r, size, "data.tar", MaxData)
}

func open(r io.ReaderAt, size int64, prefix string, limit int64) (io.ReadCloser, error) {
	if _, version, err := member(r, size, "debian-binary"); err != nil {
		return nil, err
	} else if b, err := io.ReadAll(io.LimitReader(version, 16)); err != nil || !bytes.HasPrefix(b, []byte("2.")) {
		return nil, malformed("format version %q, want 2", b)
	}
	name, m, err := member(r, size, prefix)
	if err != nil {
		return nil, err
	}
	d, err := Decompress(name, m)
	if err != nil {
		return nil, malformed("%s: %v", name, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{&limited{d, limit, name}, d}, nil
}

// limited fails, rather than ends, when there is more than it allows.
type limited struct {
	r    io.Reader
	left int64
	what string
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, malformed("%s unpacks to more than its limit", l.what)
	}
	return n, err
}

// Control returns the files of a package's control archive by name.
func Control(r io.ReaderAt, size int64) (map[string][]byte, error) {
	d, err := open(r, size, "control.tar", MaxControl)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	files := map[string][]byte{}
	err = Entries(d, func(e Entry, r io.Reader) error {
		if e.Typeflag != tar.TypeReg || strings.Contains(e.Name, "/") {
			return nil
		}
		b, err := io.ReadAll(r)
		files[e.Name] = b
		return err
	})
	if err == nil && files["control"] == nil {
		err = malformed("no control file")
	}
	return files, err
}

// Entry is a tar header that was checked: Name and, for a hard link, Linkname
// are relative and clean, "" being the root.
type Entry struct{ *tar.Header }

// Entries calls fn for each entry of a tar stream.
func Entries(r io.Reader, fn func(Entry, io.Reader) error) error {
	t := tar.NewReader(r)
	for range maxEntries {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return malformed("tar: %v", err)
		}
		if h.Name, err = clean(h.Name); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeLink:
			if h.Linkname, err = clean(h.Linkname); err != nil {
				return err
			}
		case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		default:
			return malformed("tar: %q has type %q", h.Name, h.Typeflag)
		}
		for key := range h.PAXRecords {
			if strings.HasPrefix(key, "GNU.sparse.") { // its size is not what it takes here
				return malformed("tar: %q is sparse", h.Name)
			}
		}
		if h.Uid < 0 || h.Gid < 0 || h.Devmajor < 0 || h.Devminor < 0 || h.Size < 0 {
			return malformed("tar: %q has a negative number", h.Name)
		}
		if err := fn(Entry{h}, t); err != nil {
			return err
		}
	}
	return malformed("tar: more than %d entries", maxEntries)
}

func clean(name string) (string, error) {
	if strings.HasPrefix(name, "/") || strings.IndexByte(name, 0) >= 0 || len(name) > 4096 {
		return "", malformed("tar: name %q", name)
	}
	var parts []string
	for _, p := range strings.Split(name, "/") {
		switch p {
		case "", ".":
		case "..":
			return "", malformed("tar: name %q climbs out of the package", name)
		default:
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, "/"), nil
}

// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"tandem/image/ext4"
)

// sparse is a disk that keeps what is written to it.
type sparse map[int64][]byte

const sparsePiece = 4096

func (s sparse) WriteAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		at, in := off/sparsePiece, off%sparsePiece
		if s[at] == nil {
			s[at] = make([]byte, sparsePiece)
		}
		c := copy(s[at][in:], b[n:])
		n, off = n+c, off+int64(c)
	}
	return n, nil
}

func (s sparse) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		at, in := off/sparsePiece, off%sparsePiece
		piece := s[at]
		if piece == nil {
			piece = make([]byte, sparsePiece)
		}
		c := copy(b[n:], piece[in:])
		n, off = n+c, off+int64(c)
	}
	return n, nil
}

// FuzzLayer shows that whatever a container's layer says, applying it ends, and leaves a
// file system that our reader takes.
func FuzzLayer(f *testing.F) {
	layer := func(headers ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			h.Size = int64(len(h.Uname))
			w.WriteHeader(&h)
			w.Write([]byte(h.Uname))
		}
		w.Close()
		return b.Bytes()
	}
	f.Add(layer(tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "etc/a", Typeflag: tar.TypeReg, Uname: "a"},
		tar.Header{Name: "b", Linkname: "etc/a", Typeflag: tar.TypeLink}, tar.Header{Name: "c", Linkname: "../etc", Typeflag: tar.TypeSymlink}))
	f.Add(layer(tar.Header{Name: "etc/.wh.a", Typeflag: tar.TypeReg}, tar.Header{Name: "etc/.wh..wh..opq", Typeflag: tar.TypeReg},
		tar.Header{Name: "c/d", Typeflag: tar.TypeReg, Uname: "d"}, tar.Header{Name: "./", Typeflag: tar.TypeDir}))
	f.Add(layer(tar.Header{Name: "../x", Typeflag: tar.TypeReg}))
	f.Fuzz(func(t *testing.T, b []byte) {
		const size = ext4.MinSize
		disk := sparse{}
		fs, err := ext4.New(disk, ext4.Options{Size: size, Time: time.Unix(0, 0)})
		if err != nil {
			t.Fatal(err)
		}
		r := &rootfs{fs: fs, time: time.Unix(0, 0)}
		if r.changeset(context.Background(), bytes.NewReader(b)) != nil {
			return
		}
		if err := fs.Close(); errors.Is(err, ext4.ErrNoSpace) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		again, err := ext4.OpenReader(disk, size)
		if err == nil {
			_, err = again.ReadDir("/")
		}
		if err != nil {
			t.Error("what was written can't be read:", err)
		}
	})
}

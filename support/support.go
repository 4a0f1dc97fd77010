// SPDX-License-Identifier: Apache-2.0

// Package support packs what an engineer needs to see of a host into one archive, and
// keeps out of it what must not leave that host.
//
// Nothing gets into a Bundle but through Add, and Add redacts: what is a secret by its
// form or by its name becomes [secret-3f2a9c01]. The number is a hash under a key that
// is kept nowhere: equal secrets of one bundle look equal, and no guess can be tried
// against it.
//
// Of a text that is too long the end stays, since that is where a log says what
// happened last; what is cut, and what could not be had, is written in the bundle's
// index.
package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"tandem/host"
)

// Bounds of a bundle, in bytes before compression.
const (
	MaxFile  = 1 << 20
	MaxTotal = 16 << 20

	// margin is read before what is kept of a long file: a key that begins there is
	// seen whole, and so known for one.
	margin = 64 << 10
)

// File is one that is in a bundle.
type File struct {
	Name  string `json:"name"`
	Bytes int    `json:"bytes"`
	Cut   int64  `json:"cut_bytes,omitempty"` // left out at its front
}

// Missing is what could not be had, and why.
type Missing struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Index says what is in a bundle.
type Index struct {
	Made    time.Time `json:"made"`
	Files   []File    `json:"files"`
	Missing []Missing `json:"missing"`
}

// Bundle is an archive that is being written.
type Bundle struct {
	folder string
	index  Index
	left   int
	key    [32]byte // of the numbers that stand for secrets
	zip    *gzip.Writer
	tar    *tar.Writer
	err    error // of w
}

// New begins a bundle in w; all its files are in one folder.
func New(w io.Writer, folder string, now time.Time) *Bundle {
	b := &Bundle{folder: folder, index: Index{Made: now.UTC(), Files: []File{}, Missing: []Missing{}}, left: MaxTotal, zip: gzip.NewWriter(w)}
	b.tar = tar.NewWriter(b.zip)
	rand.Read(b.key[:])
	return b
}

// Add adds a text, redacted and as far as it fits.
func (b *Bundle) Add(name string, text []byte) { b.add(name, text, 0) }

// AddJSON adds what v is.
func (b *Bundle) AddJSON(name string, v any) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		b.Lack(name, err)
		return
	}
	b.Add(name, append(text, '\n'))
}

// AddFile adds a file of the host, which may be one that somebody with fewer rights
// wrote: no link is followed.
func (b *Bundle) AddFile(name, path string) {
	f, err := host.OpenPlain(path)
	if err != nil {
		b.Lack(name, err)
		return
	}
	defer f.Close()
	text, before, err := end(f)
	if err != nil {
		b.Lack(name, err)
		return
	}
	b.add(name, text, before)
}

// end reads the end of a file, and tells how many bytes there are before it.
func end(f *os.File) (text []byte, before int64, err error) {
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if before = max(0, st.Size()-MaxFile-margin); before > 0 { // not of /proc, whose files have no size
		if _, err = f.Seek(before, io.SeekStart); err != nil {
			return nil, 0, err
		}
	}
	text, err = io.ReadAll(io.LimitReader(f, MaxFile+margin))
	return text, before, err
}

var errFull = errors.New("left out: the bundle is full")

func (b *Bundle) add(name string, text []byte, before int64) {
	whole := len(text)
	text = bytes.ToValidUTF8(text, []byte("?"))
	if before > 0 { // a secret may have been cut there
		text = afterLine(text)
	}
	text = b.redact(text)
	cut := before
	if n := len(text) - MaxFile; n > 0 {
		text = afterLine(text[n:])
	}
	if before > 0 || whole > MaxFile {
		cut += int64(max(0, whole-len(text)))
	}
	if len(text) > b.left {
		b.Lack(name, errFull)
		return
	}
	b.left -= len(text)
	b.write(name, text)
	b.index.Files = append(b.index.Files, File{name, len(text), cut})
}

// afterLine is what follows the first end of a line.
func afterLine(text []byte) []byte {
	_, rest, _ := bytes.Cut(text, []byte("\n"))
	return rest
}

// Lack notes what could not be had.
func (b *Bundle) Lack(name string, err error) {
	b.index.Missing = append(b.index.Missing, Missing{name, string(b.redact([]byte(err.Error())))})
}

// Close writes the index and ends the archive.
func (b *Bundle) Close() (Index, error) {
	text, err := json.MarshalIndent(b.index, "", "  ")
	if err == nil {
		b.write("index.json", append(text, '\n'))
	}
	return b.index, errors.Join(err, b.err, b.tar.Close(), b.zip.Close())
}

func (b *Bundle) write(name string, text []byte) {
	if b.err != nil {
		return
	}
	b.err = b.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(b.folder, name), Mode: 0o600, Size: int64(len(text)), ModTime: b.index.Made})
	if b.err == nil {
		_, b.err = b.tar.Write(text)
	}
}

// stand is what is written in a secret's place.
func (b *Bundle) stand(secret []byte) string {
	h := hmac.New(sha256.New, b.key[:])
	h.Write(secret)
	return fmt.Sprintf("[secret-%s]", hex.EncodeToString(h.Sum(nil)[:4]))
}

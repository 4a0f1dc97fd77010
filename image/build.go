// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/klauspost/compress/zstd"

	"tandem/image/deb"
)

const downloads = 4 // at a time

// source is a package in the cache, ready to be installed.
type source struct {
	control  map[string][]byte
	unpacked string // its data as .tar.zst
	size     int64  // of that file
}

// fetch brings all packages into the cache and unpacks those that are new: xz
// takes ten times as long to read as zstd, and a second build should not wait.
func (b *builder) fetch(ctx context.Context) error {
	all := append([]*deb.Package{b.kernel}, b.packages...)
	total := int64(0)
	for _, p := range all {
		total += p.Size
	}
	b.sources = map[*deb.Package]source{}
	t := b.opt.Progress.Start(fmt.Sprintf("%d packages", len(all)), total)
	defer t.Done()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex // guards err and b.sources
		err   error
		queue = make(chan *deb.Package)
	)
	for range downloads {
		wg.Go(func() {
			for p := range queue {
				s, e := b.prepare(ctx, p, t)
				mu.Lock()
				if b.sources[p] = s; e != nil && err == nil {
					err = e // the first: what follows is only that we stopped
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	for _, p := range all {
		queue <- p
	}
	close(queue)
	wg.Wait()
	return err
}

func (b *builder) prepare(ctx context.Context, p *deb.Package, t Task) (source, error) {
	file, err := b.archive.deb(ctx, p, t)
	if err != nil {
		return source{}, err
	}
	s, err := b.unpack(p, file)
	if err != nil {
		return s, fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
	}
	return s, nil
}

// unpack reads a package's control files and keeps its data in a form that is
// quick to read. Of the kernel's 140 MB it keeps what a guest needs.
func (b *builder) unpack(p *deb.Package, file string) (s source, err error) {
	f, err := os.Open(file)
	if err != nil {
		return s, err
	}
	defer f.Close()
	if s.control, err = deb.Control(f, p.Size); err != nil {
		return s, err
	}
	convert, kind := copyData, "data1"
	if p == b.kernel {
		convert, kind = keepBoot, bootKind()
	}
	s.unpacked = filepath.Join(b.archive.cache, "unpacked", p.SHA256+"."+kind+".tar.zst")
	st, err := os.Stat(s.unpacked)
	if errors.Is(err, os.ErrNotExist) {
		if err = pack(s.unpacked, f, p.Size, convert); err == nil {
			st, err = os.Stat(s.unpacked)
		}
	}
	if err != nil {
		return s, err
	}
	s.size = st.Size()
	return s, nil
}

// bootKind names what is kept of a kernel package, which changes with the modules wanted.
func bootKind() string { return fmt.Sprintf("boot3-%.4x", sha256.Sum256(fmt.Append(nil, wanted))) }

func pack(name string, f *os.File, size int64, convert func(io.Writer, io.Reader) error) error {
	data, err := deb.Data(f, size)
	if err != nil {
		return err
	}
	defer data.Close()
	return writeTo(name, func(w io.Writer) error {
		z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
		if err != nil {
			return err
		}
		return errors.Join(convert(z, data), z.Close())
	})
}

func copyData(w io.Writer, data io.Reader) error {
	_, err := io.Copy(w, data)
	return err
}

func keepBoot(w io.Writer, data io.Reader) error {
	boot, err := readKernel(data)
	if err != nil {
		return err
	}
	return boot.write(w)
}

// read opens the unpacked data of a package for fn, and reads it to its end,
// where its checksum is.
func (s source) read(t Task, fn func(io.Reader) error) error {
	f, err := os.Open(s.unpacked)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := deb.Decompress(s.unpacked, io.TeeReader(f, taskWriter{t}))
	if err != nil {
		return err
	}
	defer r.Close()
	if err = fn(r); err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if err != nil {
		return fmt.Errorf("%w (if this stays, delete %s)", err, s.unpacked)
	}
	return nil
}

func (b *builder) boot() (boot *bootFiles, err error) {
	err = b.sources[b.kernel].read(quiet{}, func(r io.Reader) error {
		boot, err = readBoot(r)
		return err
	})
	return boot, err
}

func (b *builder) install(r *rootfs, p *deb.Package, t Task) error {
	s := b.sources[p]
	return s.read(t, func(data io.Reader) error { return r.install(p, s.control, data) })
}

func (b *builder) unpackedSize() int64 {
	n := int64(0)
	for _, p := range b.packages {
		n += b.sources[p].size
	}
	return n
}

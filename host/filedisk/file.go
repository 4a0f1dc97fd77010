// SPDX-License-Identifier: Apache-2.0

package filedisk

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// SectorSize divides the size of every disk (Virtio 1.2 §5.2).
const SectorSize = 512

// File is an open disk: a regular file or a block device, locked against other
// processes. Its methods may be called by several goroutines at once and refuse
// ranges that reach past the end.
type File struct {
	f        *os.File
	size     atomic.Uint64
	device   bool
	readOnly bool

	mu      sync.Mutex
	syncErr error // the first failure of Sync, which stays
}

// OpenFile opens and locks the disk at path. Readers share the lock, a writer
// has it alone.
func OpenFile(path string, readOnly bool) (*File, error) {
	f, err := openFile(path, readOnly)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", path, err)
	}
	return f, nil
}

func openFile(path string, readOnly bool) (*File, error) {
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w; create one with 'truncate -s 10G FILE'", err)
	}
	if err != nil {
		return nil, err
	}
	device := st.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice
	if !device && !st.Mode().IsRegular() {
		return nil, errors.New("it is a folder, a pipe or the like; a disk is a regular file or a block device")
	}
	f, err := os.OpenFile(path, openFlags(device, readOnly), 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("%w: the device is mounted or in use by the host; unmount it", err)
	case errors.Is(err, os.ErrPermission), errors.Is(err, unix.EROFS):
		return nil, fmt.Errorf("%w; make it writable for this user, or attach it read-only", err)
	case err != nil:
		return nil, err
	}
	d := &File{f: f, device: device, readOnly: readOnly}
	if err := d.prepare(); err != nil {
		f.Close()
		return nil, err
	}
	return d, nil
}

// openFlags asks for a device with O_EXCL, which the kernel refuses while a
// file system on it is mounted.
func openFlags(device, readOnly bool) int {
	switch {
	case readOnly:
		return os.O_RDONLY
	case device:
		return os.O_RDWR | unix.O_EXCL
	}
	return os.O_RDWR
}

func (f *File) prepare() error {
	how := unix.LOCK_EX
	if f.readOnly {
		how = unix.LOCK_SH
	}
	if err := unix.Flock(int(f.f.Fd()), how|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("it is in use by another VM or store; stop that one first, or give each VM a disk of its own")
	} else if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	// The end of a block device is its size; stat says 0.
	end, err := f.f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("find its size: %w", err)
	}
	if end == 0 || end%SectorSize != 0 {
		return fmt.Errorf("its size is %d bytes, which is not a whole number of sectors of %d bytes; extend it with 'truncate -s %%%d FILE'", end, SectorSize, SectorSize)
	}
	f.size.Store(uint64(end))
	return nil
}

// Size is the number of bytes.
func (f *File) Size() uint64 { return f.size.Load() }

// Grow makes the file at least so many bytes large; what is new reads as zeros. A block
// device can't be told to: it is taken to be as large as it has become. The disk never
// becomes smaller.
func (f *File) Grow(size uint64) error {
	if size <= f.Size() {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	end, err := f.f.Seek(0, io.SeekEnd) // nothing else uses the place
	switch {
	case err != nil:
		return err
	case uint64(end) >= size: // somebody has done it
	case f.readOnly:
		return fmt.Errorf("the disk is read-only: %w", unix.EPERM)
	case f.device:
		return fmt.Errorf("the device has %d bytes: make it larger first: %w", end, unix.ENOTSUP)
	case size > math.MaxInt64 || size%SectorSize != 0:
		return fmt.Errorf("%d bytes are no size of a disk: %w", size, unix.EINVAL)
	default:
		if err := retry(func() error { return unix.Ftruncate(int(f.f.Fd()), int64(size)) }); err != nil {
			return err
		}
		if err := f.f.Sync(); err != nil {
			return err
		}
	}
	f.size.Store(max(size, f.Size()))
	return nil
}

// ReadOnly reports whether changes are refused.
func (f *File) ReadOnly() bool { return f.readOnly }

// Device reports whether it is a block device.
func (f *File) Device() bool { return f.device }

// Close releases the lock.
func (f *File) Close() error { return f.f.Close() }

// ReadAt fills b from byte off on.
func (f *File) ReadAt(b []byte, off uint64) error {
	if err := f.check(off, uint64(len(b)), false); err != nil {
		return err
	}
	_, err := f.f.ReadAt(b, int64(off))
	if err == io.EOF {
		return fmt.Errorf("the file was cut shorter while in use: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// WriteAt stores b from byte off on; every reader of the file sees it.
func (f *File) WriteAt(b []byte, off uint64) error {
	if err := f.check(off, uint64(len(b)), true); err != nil {
		return err
	}
	_, err := f.f.WriteAt(b, int64(off))
	return err
}

// Sync makes what was written durable. After one failure all later calls fail:
// the kernel forgets pages that it couldn't write, so a repeat would succeed
// although they are lost.
func (f *File) Sync() error {
	if f.readOnly {
		return nil
	}
	err := retry(func() error { return unix.Fdatasync(int(f.f.Fd())) })
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.syncErr == nil {
		f.syncErr = err
	}
	return f.syncErr
}

// zeroModes are the ways in which the kernel may clear a range, best first.
var zeroModes = [2][]uint32{
	{unix.FALLOC_FL_ZERO_RANGE},
	{unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE},
}

// Zero makes a range read as zeros. Its space is given back if hole is set and
// the file system can do so.
func (f *File) Zero(off, n uint64, hole bool) error {
	if err := f.check(off, n, true); err != nil || n == 0 {
		return err
	}
	modes := zeroModes[0]
	if hole {
		modes = zeroModes[1]
	}
	for _, mode := range modes {
		err := retry(func() error {
			return unix.Fallocate(int(f.f.Fd()), mode|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n))
		})
		if !unsupported(err) {
			return err
		}
	}
	return f.writeZeros(off, n)
}

// unsupported: EINVAL is what a device says of a range that isn't aligned to its blocks.
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL)
}

var zeros [1 << 20]byte

func (f *File) writeZeros(off, n uint64) error {
	for n > 0 {
		part := min(n, uint64(len(zeros)))
		if _, err := f.f.WriteAt(zeros[:part], int64(off)); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

func (f *File) check(off, n uint64, change bool) error {
	switch {
	case change && f.readOnly:
		return fmt.Errorf("the disk is read-only: %w", unix.EPERM)
	}
	if size := f.Size(); off > size || n > size-off || off > math.MaxInt64 {
		return fmt.Errorf("bytes %d to %d of a disk of %d: %w", off, off+n, size, unix.EINVAL)
	}
	return nil
}

// Replace makes b the contents of a small file in one step and durably: a crash leaves
// the old contents or the new.
func Replace(path string, b []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(b)
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// retry repeats a system call that a signal cut short; Go's scheduler sends them.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

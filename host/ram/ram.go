// SPDX-License-Identifier: Apache-2.0

// Package ram is guest memory outside Go's heap: the collector neither scans nor
// counts it, untouched pages cost nothing, and it returns to the host at Close.
//
// It is anonymous memory, which hosts give in huge pages on advice even where
// shared memory has none (/sys/kernel/mm/transparent_hugepage). It is zero at
// first. It is not part of core dumps: it holds the guest's secrets.
package ram

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// RAM is the memory of one machine.
type RAM struct {
	b      []byte
	mapped []byte // b, and what aligns it
}

// hugePage is the size of a huge page on most hosts. Elsewhere memory that begins
// at a multiple of it is as right.
const hugePage = 2 << 20

// New maps size bytes of zeros, a positive multiple of the host's page size.
func New(size uint64) (*RAM, error) {
	page := uint64(os.Getpagesize())
	if size == 0 || size%page != 0 || size > math.MaxInt-hugePage {
		return nil, fmt.Errorf("guest memory of %d bytes: it must be a multiple of %d, and not 0", size, page)
	}
	// Mapping reserves nothing, so what can't ever work must be refused here.
	if total, _ := host(); total > 0 && size > total {
		return nil, short(size, unix.ENOMEM)
	}
	mapped, err := unix.Mmap(-1, 0, int(size+hugePage), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, short(size, err)
	}
	skip := -address(mapped) % hugePage
	r := &RAM{mapped[skip:][:size:size], mapped}
	// Advice: hosts without huge pages are as right, only slower.
	unix.Madvise(r.b, unix.MADV_HUGEPAGE)
	unix.Madvise(r.b, unix.MADV_DONTDUMP)
	return r, nil
}

// short says what to do when there is no memory.
func short(size uint64, err error) error {
	remedy := "give the VM less memory (--memory)"
	if errors.Is(err, unix.ENOMEM) {
		total, free := host()
		remedy += fmt.Sprintf(", or the host more: it has %d MiB with swap, %d MiB of them free; "+
			"ulimit -v and vm.overcommit_memory may limit this process further", total>>20, free>>20)
	}
	return fmt.Errorf("map %d MiB of guest memory: %w; %s", size>>20, err, remedy)
}

// host returns the bytes of memory and swap that the host has, and those in no
// use at all; 0 if it doesn't say.
func host() (total, free uint64) {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0, 0
	}
	unit := uint64(info.Unit)
	return (uint64(info.Totalram) + uint64(info.Totalswap)) * unit, (uint64(info.Freeram) + uint64(info.Freeswap)) * unit
}

// Bytes is the memory. It must not be used after Close.
func (r *RAM) Bytes() []byte { return r.b }

// Release makes n bytes at off zero and gives their memory back to the host; both
// are multiples of the page size.
func (r *RAM) Release(off, n uint64) error {
	page := uint64(os.Getpagesize())
	size := uint64(len(r.b))
	if off%page != 0 || n%page != 0 || off > size || n > size-off {
		return fmt.Errorf("release %d bytes at %#x of %d: not pages of guest memory", n, off, size)
	}
	if n == 0 {
		return nil
	}
	if err := unix.Madvise(r.b[off:off+n], unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("release %d bytes of guest memory: %w", n, err)
	}
	return nil
}

// Close gives all memory back.
func (r *RAM) Close() error {
	if r.b == nil {
		return nil
	}
	err := unix.Munmap(r.mapped)
	r.b, r.mapped = nil, nil
	if err != nil {
		return fmt.Errorf("unmap guest memory: %w", err)
	}
	return nil
}

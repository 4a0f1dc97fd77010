// SPDX-License-Identifier: Apache-2.0

// Package codemem is memory for translated code: one piece of memory with two
// views, one that can be written and one that can be executed. No address is
// ever both.
package codemem

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Memory is a code cache's memory.
type Memory struct {
	// RW is the writable view.
	RW []byte
	rx []byte

	unmap func(rx []byte) error
}

// memfd is the system call; tests replace it.
var memfd = unix.MemfdCreate

// New maps size bytes. It fails where the host forbids executable memory.
func New(size int) (*Memory, error) {
	fd, err := memfd("tandem-code", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if err == unix.EINVAL { // a kernel before 6.3 does not know MFD_EXEC, and needs none
		fd, err = memfd("tandem-code", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("memory for translated code: %w: allow it (vm.memfd_noexec=0), or run with --engine interpreter", err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, fmt.Errorf("memory for translated code: %w", err)
	}
	m := &Memory{unmap: unix.Munmap}
	if m.RW, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("memory for translated code: %w", err)
	}
	if m.rx, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_SHARED); err != nil {
		unix.Munmap(m.RW)
		return nil, fmt.Errorf("memory for translated code: %w: allow executable memory, or run with --engine interpreter", err)
	}
	return m, nil
}

// NewAnonymous maps size bytes for perf to look into: it takes code for translated
// only in memory that the kernel calls anonymous, as it calls the shared mapping
// of /dev/zero that this is. New is better otherwise: hosts whose policy is to
// forbid that memory becomes executable refuse this.
func NewAnonymous(size int) (*Memory, error) {
	m := &Memory{unmap: unmapAgain}
	var err error
	if m.RW, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS); err != nil {
		return nil, fmt.Errorf("memory for translated code: %w", err)
	}
	if m.rx, err = again(m.RW); err == nil {
		err = unix.Mprotect(m.rx, unix.PROT_READ|unix.PROT_EXEC)
	}
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("memory for translated code: %w: allow executable memory, or run without --perf", err)
	}
	return m, nil
}

// RX is the address of the executable view of the same bytes.
func (m *Memory) RX() uintptr { return address(m.rx) }

// Close unmaps both views.
func (m *Memory) Close() error {
	err := m.unmap(m.rx)
	if e := unix.Munmap(m.RW); err == nil {
		err = e
	}
	m.RW, m.rx = nil, nil
	return err
}

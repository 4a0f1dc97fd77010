// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// A Shelf holds what is seldom read, such as a kernel that only a reset loads again,
// in a file without a name: it costs the host's memory nothing while nobody reads it.
// It lives as long as the process.
type Shelf struct {
	file *os.File

	mu   sync.Mutex
	size int64
	kept [][]byte
}

// shelfMin is what is worth a mapping of its own.
const shelfMin = 1 << 20

// NewShelf makes the file in $TMPDIR or, as /tmp is often memory itself, in /var/tmp.
func NewShelf() (*Shelf, error) {
	dir := os.Getenv("TMPDIR")
	if dir == "" {
		dir = "/var/tmp"
	}
	f, err := os.CreateTemp(dir, "tandem-*")
	if err != nil {
		return nil, err
	}
	return &Shelf{file: f}, os.Remove(f.Name())
}

// Keep returns the same bytes, to be read only: in the file if they are many, not there
// already, and there is room.
func (s *Shelf) Keep(b []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(b) < shelfMin || slices.ContainsFunc(s.kept, func(k []byte) bool { return &k[0] == &b[0] }) {
		return b
	}
	if _, err := s.file.WriteAt(b, s.size); err != nil {
		return b
	}
	kept, err := unix.Mmap(int(s.file.Fd()), s.size, len(b), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return b
	}
	page := int64(os.Getpagesize())
	s.size += (int64(len(b)) + page - 1) / page * page
	s.kept = append(s.kept, kept)
	return kept
}

// PutAway gives the host the memory that reading has brought in.
func (s *Shelf) PutAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.kept {
		unix.Madvise(b, unix.MADV_DONTNEED) // advice
	}
}

// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Rights to files, as landlock has them (Documentation/userspace-api/landlock.rst).
// Nothing may be executed.
const (
	readFile = unix.LANDLOCK_ACCESS_FS_READ_FILE
	readDir  = unix.LANDLOCK_ACCESS_FS_READ_DIR
	change   = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	makes    = unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE

	read  = readFile | readDir
	write = read | change | makes
	// ofFiles are those that a rule for a single file may have.
	ofFiles = readFile | change
)

// handled are the rights that a kernel knows, by its version of landlock: all that is
// handled is refused unless a rule grants it. Networks are not: a replica may have to
// dial anybody.
func handled(abi int) uint64 {
	const first = 1<<13 - 1 // EXECUTE to MAKE_SYM
	h := uint64(first)
	for _, more := range []struct {
		abi   int
		right uint64
	}{
		{2, unix.LANDLOCK_ACCESS_FS_REFER}, {3, unix.LANDLOCK_ACCESS_FS_TRUNCATE}, {5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV},
	} {
		if abi >= more.abi {
			h |= more.right
		}
	}
	return h
}

var errNoLandlock = errors.New("this kernel has none, so files are guarded by their owners and modes alone: " +
	"boot a kernel of 5.13 or later with landlock in its lsm= list")

func checkLandlock() error {
	if landlockVersion() < 1 {
		return errNoLandlock
	}
	return checkThreads()
}

// restrictFiles leaves a process the files that it needs.
func restrictFiles(n Needs) error {
	rights := handled(landlockVersion())
	rules, err := landlockRules(rights)
	if err != nil {
		return fmt.Errorf("make the rules: %w", err)
	}
	defer unix.Close(rules)
	for _, path := range n.reads() {
		if err := grant(rules, path, read&rights); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, path := range n.Write {
		if err := grant(rules, path, write&rights); err != nil {
			return err
		}
	}
	return landlockRestrict(rules)
}

// grant adds a rule for a file or a folder and what is below.
func grant(rules int, path string, rights uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= ofFiles
	}
	if err := landlockAdd(rules, fd, rights); err != nil {
		return &fs.PathError{Op: "make a rule for", Path: path, Err: err}
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// OpenPlain opens a file for reading that a process with fewer rights than ours may have
// put there: it follows no link, waits for no pipe, and takes regular files only.
func OpenPlain(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s is no regular file: remove it", path)
	}
	return f, nil
}

// ReadPlain reads such a file, limit bytes of it at most.
func ReadPlain(path string, limit int64) ([]byte, error) {
	f, err := OpenPlain(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

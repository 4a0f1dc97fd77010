// SPDX-License-Identifier: Apache-2.0

//go:build unix

package image

import (
	"os"
	"syscall"
)

// tryLock takes a file for this process until it is closed or the process ends.
func tryLock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == syscall.EWOULDBLOCK || err == syscall.EINTR {
		return false, nil
	}
	return err == nil, err
}

// diskUse is the number of bytes that a file takes, without its holes.
func diskUse(st os.FileInfo) int64 {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512
	}
	return st.Size()
}

// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"io/fs"
	"runtime"

	"golang.org/x/sys/unix"
)

// dropCapabilities takes all rights of root, those that an exec would bring back too.
//
// One may be kept: root may read and write files of other users by CAP_DAC_OVERRIDE
// alone. A claim that fails for lack of it, at a failover, is worse than a process that
// has it, and that landlock bounds. So it is kept where a file is out of reach without,
// and that is told.
func dropCapabilities(n Needs) error {
	var now [2]unix.CapUserData
	if err := capget(&now); err != nil {
		return err
	}
	if now[0].Permitted|now[1].Permitted == 0 {
		return nil
	}
	const override = 1 << unix.CAP_DAC_OVERRIDE
	var keep error
	if now[0].Effective&override != 0 {
		keep = outOfReach(n, now)
	}
	if now[0].Effective&(1<<unix.CAP_SETPCAP) != 0 {
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if err := allPrctl(unix.PR_CAPBSET_DROP, c); err != nil && !errors.Is(err, unix.EINVAL) { // a kernel that has fewer
				return err
			}
		}
	}
	var none [2]unix.CapUserData
	if keep != nil {
		none[0].Permitted, none[0].Effective = override&now[0].Permitted, override&now[0].Effective
	}
	if err := allCapset(&none); err != nil {
		return err
	}
	if keep != nil {
		return &KeptError{keep}
	}
	return nil
}

// KeptError says why a process keeps the right to read and write others' files.
type KeptError struct{ err error }

func (e *KeptError) Error() string {
	return e.err.Error() + " without CAP_DAC_OVERRIDE, which is kept for it: make it this user's own"
}

func (e *KeptError) Unwrap() error { return e.err }

// outOfReach finds a file that a process can't use without its capabilities. They are
// this thread's own, so no other one notices.
func outOfReach(n Needs, now [2]unix.CapUserData) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	less := now
	less[0].Effective, less[1].Effective = 0, 0
	if err := capset(&less); err != nil {
		return err
	}
	defer capset(&now) // to what it was: permitted still
	for _, list := range []struct {
		paths []string
		mode  uint32
	}{{n.Read, unix.R_OK}, {n.Write, unix.R_OK | unix.W_OK}, {n.Sockets, unix.W_OK}} {
		for _, path := range list.paths {
			if err := unix.Faccessat(unix.AT_FDCWD, path, list.mode, unix.AT_EACCESS); errors.Is(err, unix.EACCES) {
				return &fs.PathError{Op: "use", Path: path, Err: err}
			}
		}
	}
	return nil
}

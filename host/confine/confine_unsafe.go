// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel reads what these pointers lead to before the call returns, and both ways
// to call it keep alive, in place, what is converted in their arguments.

// onAllThreads makes a system call on each thread of this process. Threads that are
// made later inherit what it did.
func onAllThreads(trap, a, b, c uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall(trap, a, b, c)
	if errno != 0 {
		return errno
	}
	return nil
}

func allPrctl(option, value uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, option, value, 0, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("prctl %d, %d: %w", option, value, errno)
	}
	return nil
}

func capHeader() *unix.CapUserHeader {
	return &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // of the calling thread
}

func capget(to *[2]unix.CapUserData) error { return unix.Capget(capHeader(), &to[0]) }

func capset(to *[2]unix.CapUserData) error { return unix.Capset(capHeader(), &to[0]) }

func allCapset(to *[2]unix.CapUserData) error {
	return onAllThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(capHeader())), uintptr(unsafe.Pointer(to)), 0)
}

// landlockVersion is the kernel's version of landlock, 0 for none.
func landlockVersion() int {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
}

func landlockRules(rights uint64) (int, error) {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: rights}
	// The size of the first field alone, which each version has.
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Handled_access_fs), 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

func landlockAdd(rules, fd int, rights uint64) error {
	attr := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(rules), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func landlockRestrict(rules int) error {
	return onAllThreads(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(rules), 0, 0)
}

func seccompHas(action uint32) error {
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	if errno != 0 {
		return errno
	}
	return nil
}

// seccompInstall gives all threads the filter at once.
func seccompInstall(filter []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_LOG, uintptr(unsafe.Pointer(&prog)))
	switch {
	case errno != 0:
		return errno
	case thread != 0:
		return fmt.Errorf("thread %d has another filter", thread)
	}
	return nil
}

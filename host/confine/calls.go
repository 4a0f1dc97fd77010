// SPDX-License-Identifier: Apache-2.0

//go:build amd64 || arm64 || riscv64

package confine

import (
	"slices"

	"golang.org/x/sys/unix"
)

// freeCalls may be made with any arguments. They are what a replica, the libraries below
// it and Go's runtime make: by their sources, and by strace of pairs and failovers.
var freeCalls = slices.Concat(
	[]uintptr{ // what is open: bytes in and out
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64,
		unix.SYS_PREADV, unix.SYS_PWRITEV, unix.SYS_LSEEK, unix.SYS_CLOSE, unix.SYS_FCNTL, unix.SYS_DUP, unix.SYS_DUP3,
		unix.SYS_SPLICE, unix.SYS_SENDFILE, unix.SYS_COPY_FILE_RANGE, unix.SYS_PIPE2,
	},
	[]uintptr{ // waiting
		unix.SYS_FUTEX, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_CREATE1, unix.SYS_EVENTFD2,
		unix.SYS_PPOLL, unix.SYS_PSELECT6, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_SCHED_YIELD,
		unix.SYS_TIMERFD_CREATE, unix.SYS_TIMERFD_SETTIME, unix.SYS_TIMERFD_GETTIME,
		unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE, unix.SYS_SETITIMER,
		unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY,
	},
	[]uintptr{ // sockets: what they may be, their making says
		unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_ACCEPT4, unix.SYS_SHUTDOWN,
		unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SENDMMSG, unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_RECVMMSG,
		unix.SYS_SETSOCKOPT, unix.SYS_GETSOCKOPT, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME,
	},
	[]uintptr{ // files: which, landlock and their modes say
		unix.SYS_OPENAT, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_FSTAT, unix.SYS_STATX, unix.SYS_STATFS, unix.SYS_FSTATFS,
		unix.SYS_READLINKAT, unix.SYS_GETDENTS64, unix.SYS_GETCWD, unix.SYS_RENAMEAT2, unix.SYS_LINKAT, unix.SYS_UNLINKAT,
		unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC_FILE_RANGE, unix.SYS_FLOCK,
		unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_UTIMENSAT, unix.SYS_FADVISE64,
	},
	[]uintptr{ // memory; guests' code too
		unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_BRK, unix.SYS_MEMFD_CREATE,
	},
	[]uintptr{ // of the process itself
		unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_RESTART_SYSCALL, unix.SYS_SET_ROBUST_LIST,
		unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
		unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
		unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETCPU, unix.SYS_GETRUSAGE, unix.SYS_GETRANDOM, unix.SYS_UNAME, unix.SYS_SYSINFO,
	},
	archCalls,
)

const (
	namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
		unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	sockType = 0xf // of a socket's type, without its flags
	all      = 1<<32 - 1
)

// ruledCalls may be made with some arguments only; all of a call stand together.
func ruledCalls(n Needs, self uint32) []rule {
	is := func(arg int, value uint32) check { return check{arg, all, value} }
	has := func(arg int, mask, value uint32) check { return check{arg, mask, value} }
	rules := []rule{
		// A thread, and no process.
		{unix.SYS_CLONE, []check{has(0, unix.CLONE_THREAD|namespaces, unix.CLONE_THREAD)}},
		// Memory is never both writable and executable, and what was the one never
		// becomes the other.
		{unix.SYS_MMAP, []check{has(2, unix.PROT_WRITE, 0)}},
		{unix.SYS_MMAP, []check{has(2, unix.PROT_EXEC, 0)}},
		{unix.SYS_MPROTECT, []check{has(2, unix.PROT_EXEC, 0)}},
		// Signals to itself: the runtime's, and the command test-failover.
		{unix.SYS_TGKILL, []check{is(0, self)}},
		{unix.SYS_KILL, []check{is(0, self)}},
		// The runtime names its memory.
		{unix.SYS_PRCTL, []check{is(0, unix.PR_SET_VMA)}},
		// A terminal's modes; a tap's carrier.
		{unix.SYS_IOCTL, []check{is(1, unix.TCGETS)}},
		{unix.SYS_IOCTL, []check{is(1, unix.TCSETS)}},
		{unix.SYS_IOCTL, []check{is(1, unix.TIOCGWINSZ)}},
	}
	if n.Links {
		rules = append(rules, rule{unix.SYS_IOCTL, []check{is(1, unix.TUNSETCARRIER)}})
	}
	if n.Perf { // one memory twice, of which one view becomes executable
		rules = append(rules, rule{unix.SYS_MREMAP, nil})
		rules = append(rules, rule{unix.SYS_MPROTECT, []check{has(2, unix.PROT_WRITE, 0)}})
	}
	rules = append(rules, rule{unix.SYS_SOCKET, []check{is(0, unix.AF_UNIX), has(1, sockType, unix.SOCK_STREAM)}})
	for _, s := range []struct{ kind, protocol uint32 }{
		{unix.SOCK_STREAM, 0}, {unix.SOCK_STREAM, unix.IPPROTO_TCP}, {unix.SOCK_STREAM, unix.IPPROTO_MPTCP}, {unix.SOCK_DGRAM, 0},
	} {
		for _, family := range []uint32{unix.AF_INET, unix.AF_INET6} {
			rules = append(rules, rule{unix.SYS_SOCKET, []check{is(0, family), has(1, sockType, s.kind), is(2, s.protocol)}})
		}
	}
	if n.Links {
		rules = append(rules, rule{unix.SYS_SOCKET, []check{is(0, unix.AF_NETLINK), is(2, unix.NETLINK_ROUTE)}})
	}
	slices.SortStableFunc(rules, func(a, b rule) int { return int(a.call) - int(b.call) })
	return rules
}

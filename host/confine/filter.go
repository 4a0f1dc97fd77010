// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// rule allows a system call whose arguments pass all checks. A call with several rules
// is allowed by any of them.
type rule struct {
	call   uintptr
	checks []check
}

// check compares the low half of an argument: arg & mask == value. The kernel takes
// each of those that we check as an int, or looks at no higher bit.
type check struct {
	arg         int
	mask, value uint32
}

// Of struct seccomp_data {int nr; u32 arch; u64 ip; u64 args[6]}.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArgs = 16
)

// Instructions of the kernel's packet filter (linux/bpf_common.h).
const (
	load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	and    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	result = unix.BPF_RET | unix.BPF_K

	refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	allow  = unix.SECCOMP_RET_ALLOW
	kill   = unix.SECCOMP_RET_KILL_PROCESS
)

// compile makes the filter: what has another CPU's numbers is none of ours; then one
// call after the other. Kernels since 5.11 keep a table of the calls without checks, so
// their place costs nothing.
func compile(arch uint32, free []uintptr, rules []rule) []unix.SockFilter {
	out := []unix.SockFilter{
		{Code: load, K: offsetArch}, {Code: equal, K: arch, Jt: 1}, {Code: result, K: kill},
		{Code: load, K: offsetCall},
	}
	for _, c := range free {
		out = append(out, unix.SockFilter{Code: equal, K: uint32(c), Jf: 1}, unix.SockFilter{Code: result, K: allow})
	}
	for len(rules) > 0 {
		same := 1
		for same < len(rules) && rules[same].call == rules[0].call {
			same++
		}
		var body []unix.SockFilter
		for _, r := range rules[:same] {
			body = append(body, r.compile()...)
		}
		body = append(body, unix.SockFilter{Code: result, K: refuse})
		out = append(out, unix.SockFilter{Code: equal, K: uint32(rules[0].call), Jf: offset(len(body))})
		out = append(out, body...)
		rules = rules[same:]
	}
	return append(out, unix.SockFilter{Code: result, K: refuse})
}

// compile makes the part of a rule: it allows, or goes on behind its end.
func (r rule) compile() (out []unix.SockFilter) {
	left := 3*len(r.checks) + 1
	for _, c := range r.checks {
		left -= 3
		out = append(out, unix.SockFilter{Code: load, K: uint32(offsetArgs + 8*c.arg)},
			unix.SockFilter{Code: and, K: c.mask}, unix.SockFilter{Code: equal, K: c.value, Jf: offset(left)})
	}
	return append(out, unix.SockFilter{Code: result, K: allow})
}

// offset is the distance of a jump, which has eight bits.
func offset(n int) uint8 {
	if n > 255 {
		panic("confine: a call has too many rules for a jump") // of a table of ours
	}
	return uint8(n)
}

func checkSeccomp() error {
	if err := checkThreads(); err != nil { // C makes threads by calls that the filter does not know
		return err
	}
	if auditArch == 0 {
		return fmt.Errorf("there is no table of system calls for this CPU yet")
	}
	if err := seccompHas(unix.SECCOMP_RET_ERRNO); err != nil {
		return fmt.Errorf("this kernel filters no system calls (%w): boot one with CONFIG_SECCOMP_FILTER", err)
	}
	return nil
}

// filterCalls leaves a process the system calls of a replica.
func filterCalls(n Needs) error {
	return seccompInstall(compile(auditArch, freeCalls, ruledCalls(n, uint32(os.Getpid()))))
}

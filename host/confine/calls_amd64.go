// SPDX-License-Identifier: Apache-2.0

package confine

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// archCalls are those that only older CPUs' tables have, or that have another name.
var archCalls = []uintptr{unix.SYS_NEWFSTATAT, unix.SYS_RENAMEAT, unix.SYS_POLL, unix.SYS_ARCH_PRCTL}

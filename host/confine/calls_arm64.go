// SPDX-License-Identifier: Apache-2.0

package confine

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// archCalls are those that only older CPUs' tables have, or that have another name.
var archCalls = []uintptr{unix.SYS_FSTATAT, unix.SYS_RENAMEAT}

// SPDX-License-Identifier: Apache-2.0

// Package oracle holds no code, only tests: it compares what our harts do with
// what machines that are not ours do with the same program.
//
// User-level instructions are compared with QEMU's user emulation. One program,
// testdata/user.S, runs on both: it loads all registers, executes a few random
// instructions, and stores all registers, some ten thousand times. The tools are
// those of Debian's packages qemu-user, gcc-riscv64-linux-gnu and
// binutils-riscv64-linux-gnu.
package oracle

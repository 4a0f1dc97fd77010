// SPDX-License-Identifier: Apache-2.0

package mem

import "unsafe"

// Ptr is the address of the first byte of RAM. Its methods read and write at
// an offset without a bounds check; the caller's offset comes from RAM.Offset
// or from a TLB entry that was made from one. Sound: the bytes are outside
// Go's heap or kept alive by RAM.bytes, hold no Go pointers, never move, and
// every offset is inside them. All hosts are little-endian (amd64, arm64,
// riscv64) and take misaligned accesses.
type Ptr struct{ p unsafe.Pointer }

func pointer(b []byte) Ptr { return Ptr{unsafe.Pointer(unsafe.SliceData(b))} }

func (p Ptr) Load8(off uint64) uint8   { return *(*uint8)(unsafe.Add(p.p, off)) }
func (p Ptr) Load16(off uint64) uint16 { return *(*uint16)(unsafe.Add(p.p, off)) }
func (p Ptr) Load32(off uint64) uint32 { return *(*uint32)(unsafe.Add(p.p, off)) }
func (p Ptr) Load64(off uint64) uint64 { return *(*uint64)(unsafe.Add(p.p, off)) }

func (p Ptr) Store8(off uint64, v uint8)   { *(*uint8)(unsafe.Add(p.p, off)) = v }
func (p Ptr) Store16(off uint64, v uint16) { *(*uint16)(unsafe.Add(p.p, off)) = v }
func (p Ptr) Store32(off uint64, v uint32) { *(*uint32)(unsafe.Add(p.p, off)) = v }
func (p Ptr) Store64(off uint64, v uint64) { *(*uint64)(unsafe.Add(p.p, off)) = v }

// Address is the base as a number, for translated code.
func (p Ptr) Address() uint64 { return uint64(uintptr(p.p)) }

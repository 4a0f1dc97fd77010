// SPDX-License-Identifier: Apache-2.0

// Package part reads partition tables: GPT (UEFI 2.10, 5.3) with the copy at the
// disk's end, and the four primary entries of an MBR. A disk may be hostile: at
// most 1024 partitions are read, and none reaches outside the disk.
package part

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
)

// Partition is a range of a disk.
type Partition struct {
	Number       int // as in /dev/vda1
	Start, Size  int64
	ID           string // PARTUUID, as Linux writes it
	Type         string // GUID of GPT, or the MBR's byte in hex
	Name         string // of GPT
	BIOSBootable bool   // the MBR's flag, or GPT's legacy attribute
}

// ESP is the type of the partition that firmware boots from.
const ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"

// ErrNone says that a disk has no table.
var ErrNone = errors.New("no partition table")

const (
	sector     = 512
	maxEntries = 1024
	maxEntry   = 4096 // bytes
)

var le = binary.LittleEndian

// Read returns the partitions of a disk of some bytes, by number.
func Read(disk io.ReaderAt, size int64) ([]Partition, error) {
	mbr := make([]byte, sector)
	if _, err := disk.ReadAt(mbr, 0); err != nil {
		return nil, ErrNone // smaller than a sector
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return nil, ErrNone
	}
	list := readMBR(mbr, size)
	if !slices.ContainsFunc(list, func(p Partition) bool { return p.Type == "ee" }) {
		if len(list) == 0 {
			return nil, ErrNone // a boot sector of a file system
		}
		return list, nil
	}
	list, err := readGPT(disk, size, 1)
	if err != nil {
		var e error
		if list, e = readGPT(disk, size, size/sector-1); e != nil {
			return nil, err
		}
	}
	return list, nil
}

func readMBR(b []byte, size int64) (list []Partition) {
	for i := range 4 {
		e := b[446+16*i:][:16]
		p := Partition{Number: i + 1, Start: int64(le.Uint32(e[8:])) * sector, Size: int64(le.Uint32(e[12:])) * sector,
			Type: fmt.Sprintf("%02x", e[4]), ID: fmt.Sprintf("%08x-%02x", le.Uint32(b[440:]), i+1), BIOSBootable: e[0] == 0x80}
		if e[4] == 0 || e[0]&0x7f != 0 || p.Size == 0 || p.Start == 0 {
			continue
		}
		// The protective entry of GPT may say more than there is.
		if e[4] == 0xee || p.Start < size && p.Size <= size-p.Start {
			list = append(list, p)
		}
	}
	return list
}

// readGPT reads the table whose header is at a sector.
func readGPT(disk io.ReaderAt, size, at int64) ([]Partition, error) {
	h := make([]byte, sector)
	if _, err := disk.ReadAt(h, at*sector); err != nil {
		return nil, fmt.Errorf("GPT: %w", err)
	}
	n := le.Uint32(h[12:])
	if string(h[:8]) != "EFI PART" || n < 92 || n > sector {
		return nil, errors.New("GPT: no header")
	}
	sum := le.Uint32(h[16:])
	clear(h[16:20])
	if crc32.ChecksumIEEE(h[:n]) != sum {
		return nil, errors.New("GPT: the header's checksum is wrong")
	}
	entries, each := le.Uint32(h[80:]), le.Uint32(h[84:])
	if entries > maxEntries || each < 128 || each > maxEntry {
		return nil, fmt.Errorf("GPT: %d entries of %d bytes", entries, each)
	}
	start := le.Uint64(h[72:])
	if start > uint64(size)/sector {
		return nil, errors.New("GPT: the entries lie outside the disk")
	}
	b := make([]byte, entries*each)
	if _, err := disk.ReadAt(b, int64(start)*sector); err != nil {
		return nil, fmt.Errorf("GPT: entries: %w", err)
	}
	if crc32.ChecksumIEEE(b) != le.Uint32(h[88:]) {
		return nil, errors.New("GPT: the entries' checksum is wrong")
	}
	var list []Partition
	for i := range int(entries) {
		if p, ok := entry(b[i*int(each):][:128], size); ok {
			p.Number = i + 1
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b Partition) int { return cmp.Compare(a.Number, b.Number) })
	return list, nil
}

func entry(e []byte, size int64) (p Partition, ok bool) {
	first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
	sectors := uint64(size) / sector
	if guid(e[:16]) == "00000000-0000-0000-0000-000000000000" || first == 0 || first > last || last >= sectors {
		return p, false
	}
	var name []uint16
	for at := 56; at < 128 && le.Uint16(e[at:]) != 0; at += 2 {
		name = append(name, le.Uint16(e[at:]))
	}
	return Partition{Start: int64(first) * sector, Size: int64(last-first+1) * sector, ID: guid(e[16:32]), Type: guid(e[:16]),
		Name: strings.ToValidUTF8(string(utf16.Decode(name)), "?"), BIOSBootable: e[48]&4 != 0}, true
}

// guid writes 16 bytes as people do: three numbers, then bytes (UEFI appendix A).
func guid(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

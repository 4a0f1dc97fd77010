// SPDX-License-Identifier: Apache-2.0

// Package iso writes a few small files as an ISO 9660 file system (ECMA-119) with
// Rock Ridge names: the disk on which cloud-init looks for its data.
//
//	sectors 0–15  nothing
//	16  primary volume descriptor     17  terminator
//	18  path table, little endian     19  big endian
//	20  the root folder               21… the files
//
// The same files give the same bytes.
package iso

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	sector    = 2048
	primary   = 16
	pathLE    = 18
	pathBE    = 19
	root      = 20
	firstFile = 21

	minSectors = 32 // some readers look for eight descriptors before they look at any
)

// File is one file of the root folder.
type File struct {
	Name string
	Data []byte
}

// Write writes a file system with a label of at most 32 bytes.
func Write(w io.Writer, label string, made time.Time, files []File) error {
	made = made.UTC()
	folder := append(record("\x00", root, sector, true, made, true), record("\x01", root, sector, true, made, false)...)
	at := uint32(firstFile)
	var body bytes.Buffer
	for _, f := range files {
		if f.Name == "" || len(f.Name) > 100 || strings.ContainsAny(f.Name, "/\x00") {
			return fmt.Errorf("iso: file name %q", f.Name)
		}
		folder = append(folder, record(f.Name, at, uint32(len(f.Data)), false, made, false)...)
		body.Write(f.Data)
		body.Write(make([]byte, -len(f.Data)&(sector-1)))
		at = firstFile + uint32(body.Len()/sector)
	}
	if len(folder) > sector || len(label) > 32 {
		return fmt.Errorf("iso: %d files, label %q: too many or too long", len(files), label)
	}
	if at < minSectors {
		body.Write(make([]byte, (minSectors-at)*sector))
		at = minSectors
	}
	for _, s := range [][]byte{make([]byte, primary*sector), volume(label, at, made), append([]byte{255}, "CD001\x01"...),
		path(binary.LittleEndian), path(binary.BigEndian), folder} {
		if _, err := w.Write(append(s, make([]byte, -len(s)&(sector-1))...)); err != nil {
			return err
		}
	}
	_, err := body.WriteTo(w)
	return err
}

// both appends a number in both byte orders, as the standard likes it.
func both(b []byte, v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, v), v)
}

// record is one entry of the folder (9.1), with Rock Ridge's behind it.
func record(name string, at, size uint32, dir bool, made time.Time, self bool) []byte {
	id, flags, mode := name, byte(0), uint32(0o100444)
	if dir {
		flags, mode = 2, 0o40555
	} else {
		id = identifier(name)
	}
	b := both(both([]byte{0, 0}, at), size)
	b = append(b, byte(made.Year()-1900), byte(made.Month()), byte(made.Day()), byte(made.Hour()), byte(made.Minute()), byte(made.Second()), 0)
	b = append(b, flags, 0, 0, 1, 0, 0, 1, byte(len(id)))
	b = append(b, id...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	if self { // this file system has extensions, and these are they
		b = append(b, "SP\x07\x01\xbe\xef\x00"...)
		b = append(b, "ER\x12\x01\x0a\x00\x00\x01RRIP_1991A"...)
	}
	b = both(both(both(both(append(b, "PX\x24\x01"...), mode), 1), 0), 0)
	if !dir {
		b = append(append(b, 'N', 'M', byte(5+len(name)), 1, 0), name...)
	}
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	b[0] = byte(len(b))
	return b
}

// identifier is the name for who doesn't know Rock Ridge.
func identifier(name string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '_'
	}, strings.ToUpper(name))
	if !strings.Contains(clean, ".") {
		clean += "."
	}
	return clean[:min(len(clean), 30)] + ";1"
}

// path is the path table (9.4): the root alone.
func path(order binary.AppendByteOrder) []byte {
	return append(order.AppendUint16(order.AppendUint32([]byte{1, 0}, root), 1), 0, 0)
}

// volume is the primary volume descriptor (8.4).
func volume(label string, sectors uint32, made time.Time) []byte {
	b := append([]byte{1}, "CD001\x01\x00"...)
	text := func(s string, n int) { b = append(append(b, s...), strings.Repeat(" ", n-len(s))...) }
	text("LINUX", 32)
	text(label, 32)
	b = both(append(b, make([]byte, 8)...), sectors)
	b = append(b, make([]byte, 32)...)
	b = append(b, 1, 0, 0, 1, 1, 0, 0, 1, 0, 8, 8, 0) // one volume of one, sectors of 2048
	b = both(b, 10)                                   // bytes of the path table
	b = binary.LittleEndian.AppendUint32(b, pathLE)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, pathBE)
	b = binary.BigEndian.AppendUint32(b, 0)
	r := record("\x00", root, sector, true, made, false)[:34]
	r[0] = 34
	b = append(b, r...)
	for _, n := range []int{128, 128, 128, 128, 37, 37, 37} { // who made it, of what
		text("", n)
	}
	when := made.Format("20060102150405") + "00\x00"
	never := strings.Repeat("0", 16) + "\x00"
	b = append(b, when+when+never+never+"\x01"...)
	return b
}

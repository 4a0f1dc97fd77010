// SPDX-License-Identifier: Apache-2.0

// Package cpio writes archives in the "newc" format, which Linux unpacks into
// its first root file system (Documentation/driver-api/early-userspace/buffer-format.rst).
package cpio

import (
	"fmt"
	"io"
	"strings"
)

// File is one entry. Mode holds the type too.
type File struct {
	Name         string
	Mode         uint32
	Major, Minor uint32 // of a device
	Data         []byte
}

// Types of files in a Mode (stat.h).
const (
	Device  = 0o020000 // of characters
	Dir     = 0o040000
	Regular = 0o100000
)

// Write writes an archive of files that all belong to root.
func Write(w io.Writer, files []File) error {
	for i, f := range append(files[:len(files):len(files)], File{Name: "TRAILER!!!"}) {
		header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			i+1, f.Mode, 0, 0, 1, 0, len(f.Data), 0, 0, f.Major, f.Minor, len(f.Name)+1, 0)
		if _, err := io.WriteString(w, pad4(header+f.Name+"\x00")); err != nil {
			return err
		}
		if _, err := w.Write(f.Data); err != nil {
			return err
		}
		if _, err := io.WriteString(w, strings.Repeat("\x00", -len(f.Data)&3)); err != nil {
			return err
		}
	}
	return nil
}

func pad4(s string) string { return s + strings.Repeat("\x00", -len(s)&3) }

// SPDX-License-Identifier: Apache-2.0

package image

import (
	_ "embed"
	"fmt"
	"io"
	"strings"
)

//go:embed files/init
var initScript []byte

// cpioFile is one entry of an initrd; mode holds the type too.
type cpioFile struct {
	name         string
	mode         uint32
	major, minor uint32
	data         []byte
}

// writeInitrd writes the first root file system: busybox, the modules, and a
// script that loads them and mounts the disk.
//
// It is not compressed. The file goes straight into the guest's memory, and a
// guest of 100 million instructions a second would take longer to unpack it
// than any host needs to read it.
func writeInitrd(w io.Writer, busybox []byte, modules []module) error {
	var order strings.Builder
	files := []cpioFile{
		{name: "bin", mode: 0o040755},
		{name: "dev", mode: 0o040755},
		{name: "proc", mode: 0o040755},
		{name: "root", mode: 0o040755},
		{name: "modules", mode: 0o040755},
		{name: "dev/console", mode: 0o020600, major: 5, minor: 1}, // the kernel opens it before devtmpfs
		{name: "bin/busybox", mode: 0o100755, data: busybox},
		{name: "init", mode: 0o100755, data: initScript},
	}
	for _, m := range modules {
		fmt.Fprintln(&order, m.name)
		files = append(files, cpioFile{name: "modules/" + m.name + ".ko", mode: 0o100644, data: m.elf})
	}
	files = append(files, cpioFile{name: "modules/order", mode: 0o100644, data: []byte(order.String())})
	return writeCpio(w, files)
}

// writeCpio writes the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst).
func writeCpio(w io.Writer, files []cpioFile) error {
	for i, f := range append(files, cpioFile{name: "TRAILER!!!"}) {
		header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			i+1, f.mode, 0, 0, 1, 0, len(f.data), 0, 0, f.major, f.minor, len(f.name)+1, 0)
		for _, part := range []string{
			pad4(header + f.name + "\x00"), string(f.data), strings.Repeat("\x00", -len(f.data)&3),
		} {
			if _, err := io.WriteString(w, part); err != nil {
				return err
			}
		}
	}
	return nil
}

func pad4(s string) string { return s + strings.Repeat("\x00", -len(s)&3) }

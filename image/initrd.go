// SPDX-License-Identifier: Apache-2.0

package image

import (
	_ "embed"
	"fmt"
	"io"
	"strings"

	"tandem/image/cpio"
)

//go:embed files/init
var initScript []byte

// writeInitrd writes the first root file system: busybox, the modules, and a
// script that loads them and mounts the disk.
//
// It is not compressed. The file goes straight into the guest's memory, and a
// guest of 100 million instructions a second would take longer to unpack it
// than any host needs to read it.
func writeInitrd(w io.Writer, busybox []byte, modules []module) error {
	var order strings.Builder
	files := []cpio.File{
		{Name: "bin", Mode: cpio.Dir | 0o755},
		{Name: "dev", Mode: cpio.Dir | 0o755},
		{Name: "proc", Mode: cpio.Dir | 0o755},
		{Name: "root", Mode: cpio.Dir | 0o755},
		{Name: "modules", Mode: cpio.Dir | 0o755},
		{Name: "dev/console", Mode: cpio.Device | 0o600, Major: 5, Minor: 1}, // the kernel opens it before devtmpfs
		{Name: "bin/busybox", Mode: cpio.Regular | 0o755, Data: busybox},
		{Name: "init", Mode: cpio.Regular | 0o755, Data: initScript},
	}
	for _, m := range modules {
		fmt.Fprintln(&order, m.name)
		files = append(files, cpio.File{Name: "modules/" + m.name + ".ko", Mode: cpio.Regular | 0o644, Data: m.elf})
	}
	files = append(files, cpio.File{Name: "modules/order", Mode: cpio.Regular | 0o644, Data: []byte(order.String())})
	return cpio.Write(w, files)
}

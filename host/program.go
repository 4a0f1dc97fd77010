// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// span is a range of addresses.
type span struct{ from, to uintptr }

// program is where this program's file is mapped and nothing was written, found once:
// a confined process can't look.
var program = sync.OnceValue(func() []span {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return nil
	}
	defer f.Close()
	own, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	return clean(f, own)
})

// clean returns the read-only mappings of a file in the form of proc_pid_smaps(5), but
// for those with pages of their own, such as relocated ones, that the file can't give back.
func clean(smaps io.Reader, path string) (list []span) {
	var last span
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		line := lines.Text()
		var s span
		var perms string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &s.from, &s.to, &perms); n == 3 {
			last = span{}
			if strings.HasSuffix(line, " "+path) && perms[0] == 'r' && perms[1] == '-' {
				last = s
			}
		}
		if strings.Join(strings.Fields(line), " ") == "Anonymous: 0 kB" && last != (span{}) {
			list = append(list, last)
		}
	}
	return list
}

// dropProgram unmaps the pages of the program's file. What still runs comes back from
// the host's page cache as it is used; what only a start needs does not.
func dropProgram() {
	for _, s := range program() {
		unix.Syscall(unix.SYS_MADVISE, s.from, s.to-s.from, unix.MADV_DONTNEED) // advice
	}
}

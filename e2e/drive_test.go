// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"os"
	"strings"
	"testing"
	"time"
)

// givenBack prints how many pages of 4 KiB the guest has given back.
const givenBack = "awk '/balloon_inflate/ { print \"given=\" $2 }' /proc/vmstat"

// A disk is put into a protected Debian guest, which writes to it; the copy that goes on
// after a failover has it, reads what was written and writes on. Moved to another export
// it reads the same there, and is written there alone. Taken out, it is gone
// from the guest and its data are on the export. Put in while the VM is off, it is there
// when that starts. The guest is asked to give back half of its memory, and does; so it
// does when it is started again.
func TestDrive(t *testing.T) {
	img := guest(t)
	l, _ := newCluster(t, img, "n1", "n2", "n3")
	data, other := l.path("data.raw"), l.path("other.raw")
	for _, file := range []string{data, other} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, 64<<20); err != nil {
			t.Fatal(err)
		}
	}
	const disk, elsewhere, full = "nbd://10.99.0.1:10810/data", "nbd://10.99.0.1:10810/other", "sectors=131072" // of 512 bytes
	l.start(labWorld, "store", "--listen", "10.99.0.1:10810", "--export", "data="+data, "--export", "other="+other, "--state", l.dir)
	l.ask("n2", "create", "web", "--image", img, "--memory", "256M", "--engine", "jit", "--ft", "--start",
		"--disk", "nbd://10.99.0.1:10809/web", "--drives", "1", "--timeout", "1s")
	protected := func() {
		t.Helper()
		l.until("protected", 2*time.Minute, func() bool { return l.vm("n2", "web").Protected })
	}
	protected()
	console := l.console("n3", "web")
	size := func(want string) {
		t.Helper()
		console.ask("echo sectors=$(cat /sys/block/vdb/size)", want)
	}
	size("sectors=0")
	for _, c := range []struct{ host, disk, want string }{
		{"n1", "nbd://10.99.0.1:10810/none", "tandem store"}, {"n2", "/data.raw", "nbd:// address"}, {"n3", "nbd://10.99.0.1:10809/web", "already"},
	} {
		if _, diag, code := l.try(c.host, "disk", "attach", "web", c.disk); code != 1 || !strings.Contains(diag, c.want) {
			t.Errorf("attach %s: exit %d: %s", c.disk, code, diag)
		}
	}
	l.ask("n3", "disk", "attach", "web", disk)
	size(full)
	if _, diag, code := l.try("n1", "disk", "attach", "web", "nbd://10.99.0.1:10810/other"); code != 1 || !strings.Contains(diag, "no empty drive") {
		t.Errorf("a second disk for one drive: exit %d: %s", code, diag)
	}
	l.ask("n2", "memory", "web", "128M")
	console.ask(givenBack, "given=32768")
	console.ask("printf before >/dev/vdb && sync && echo written=$?", "written=0")

	l.ask("n1", "ft", "test-failover", "web", "--yes")
	protected()
	console = l.console("n2", "web")
	size(full)
	console.ask("echo 3 >/proc/sys/vm/drop_caches; echo read=$(head -c 6 /dev/vdb)", "read=before")
	console.ask("printf after. >/dev/vdb && sync && echo written=$?", "written=0")

	if _, diag, code := l.try("n1", "disk", "move", "web", "1", disk); code != 1 || !strings.Contains(diag, "already") {
		t.Errorf("moved to where it is: exit %d: %s", code, diag)
	}
	l.ask("n1", "disk", "move", "web", "1", elsewhere)
	console.ask("printf moved. >/dev/vdb && sync && echo written=$?", "written=0")
	l.ask("n3", "ft", "test-failover", "web", "--yes")
	console = l.console("n2", "web")
	console.ask("echo 3 >/proc/sys/vm/drop_caches; echo read=$(head -c 6 /dev/vdb)", "read=moved.")
	l.ask("n1", "disk", "detach", "web", "1")
	size("sectors=0")
	for file, want := range map[string]string{data: "after.", other: "moved."} {
		if b, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(b), want) {
			t.Errorf("%s holds %q, %v", file, b[:min(len(b), 6)], err)
		}
	}

	l.ask("n1", "stop", "web")
	l.until("off", time.Minute, func() bool { return l.vm("n1", "web").Status == "not protected: not running" })
	l.ask("n1", "disk", "attach", "web", disk, "--drive", "1")
	l.ask("n1", "start", "web")
	protected()
	console = l.console("n2", "web")
	size(full)
	console.ask(givenBack, "given=32768")
}

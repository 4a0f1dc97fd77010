// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/cluster"
)

// The disk of a protected Debian guest grows, and the guest sees it. Then it is asked to
// shut down: it ends its database and powers off, both copies end with it in the epoch
// that they were in, and what was written is there when it is started again, with the
// larger disk. Who waits too short a time is told how to pull the plug.
func TestShutdown(t *testing.T) {
	img := guest(t)
	l, _ := newCluster(t, img, "n1", "n2", "n3")
	l.ask("n2", "create", "web", "--image", img, "--memory", "256M", "--engine", "jit", "--ft", "--start",
		"--disk", "nbd://10.99.0.1:10809/web", "--network", "switch:10.99.0.1:7077", "--timeout", "1s")
	l.until("protected", 2*time.Minute, func() bool { return l.vm("n2", "web").Protected })
	c := l.database()
	if s, err := c.ask("SET before shutdown"); err != nil || s != "+OK" {
		l.fatalf("SET: %q, %v", s, err)
	}
	if _, diag, code := l.try("n3", "disk", "resize", "web", "0", "512M"); code != 1 || !strings.Contains(diag, "can't become smaller") {
		t.Errorf("a smaller disk: exit %d: %s", code, diag)
	}
	const larger = "sectors=4194304" // of 512 bytes
	console := l.console("n3", "web")
	l.ask("n3", "disk", "resize", "web", "0", "2G")
	console.ask("echo sectors=$(cat /sys/block/vda/size)", larger)
	before := l.vm("n2", "web")
	out := l.ask("n3", "shutdown", "web")
	t.Log(strings.TrimSpace(out))
	if !strings.Contains(out, "web has powered off") {
		t.Errorf("shutdown says %q", out)
	}
	l.until("both copies gone", 30*time.Second, func() bool {
		v := l.vm("n1", "web")
		return v.Backup != nil && v.Backup.State == cluster.PoweredOff.String() && strings.Contains(v.Detail, "the guest powered off")
	})
	if v := l.vm("n1", "web"); v.Epoch != before.Epoch {
		l.fatalf("epoch %d after %d: a copy went live as the guest powered off", v.Epoch, before.Epoch)
	}
	if out := l.ask("n1", "events", "web"); !strings.Contains(out, "the power button was pressed") || strings.Contains(out, "the plug was pulled") {
		t.Errorf("events:\n%s", out)
	}
	consoles, _ := filepath.Glob(l.path("*", "state", "console", "web.log"))
	down := false
	for _, path := range consoles {
		b, _ := os.ReadFile(path)
		down = down || strings.Contains(string(b), "reboot: Power down")
	}
	if !down {
		l.fatalf("no console tells that the kernel powered down")
	}

	l.ask("n1", "start", "web")
	c = l.database()
	if s, err := c.ask("GET before"); err != nil || s != "$8" {
		t.Errorf("GET: %q, %v", s, err)
	}
	console = l.console("n2", "web")
	console.ask("echo sectors=$(cat /sys/block/vda/size)", larger)
	if _, diag, code := l.try("n1", "shutdown", "web", "--timeout", "1ms"); code != 1 || !strings.Contains(diag, "tandem stop web") {
		t.Errorf("an impatient shutdown: exit %d: %s", code, diag)
	}
	l.until("off", time.Minute, func() bool { return strings.Contains(l.vm("n1", "web").Detail, "the guest powered off") })
	if _, diag, code := l.try("n1", "shutdown", "web"); code != 1 || !strings.Contains(diag, "does not run") {
		t.Errorf("shutdown of a VM that is off: exit %d: %s", code, diag)
	}
}

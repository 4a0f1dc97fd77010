// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tandem/host/control"
)

// pair is a protected VM whose guest computes without end, on two of three hosts.
type pair struct {
	*lab
	w               *writer
	primary, backup string
}

func newPair(t *testing.T) *pair {
	img := guest(t)
	l, _ := newCluster(t, img, "n1", "n2", "n3")
	l.ask("n1", "create", "web", "--image", img, "--memory", "256M", "--engine", "jit", "--ft", "--start",
		"--disk", "nbd://10.99.0.1:10809/web", "--network", "switch:10.99.0.1:7077")
	l.until("protected", 3*time.Minute, func() bool { return l.vm("n2", "web").Protected })
	c := l.database()
	at := l.console("n1", "web")
	at.ask("(while :; do :; done) & echo busy=$((40+2))", "busy=42")
	at.cmd.Process.Signal(syscall.SIGTERM)
	v := l.vm("n2", "web")
	l.until("protected", 3*time.Minute, func() bool { v = l.vm("n2", "web"); return v.Protected })
	return &pair{l, startWriter(c), v.Primary.Node, v.Backup.Node}
}

func (p *pair) status(host string) (st control.Status) {
	st, _ = control.NewClient(p.path(host, "run", "vms", "web", "control.sock")).Status()
	return st
}

// ticks is the CPU time that a process has used.
func ticks(pid int) time.Duration {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// limitPeriod is the time in which a limited process has its share: short, so that it is
// slow and not stopped again and again.
const limitPeriod = 10 * time.Millisecond

// cage is a control group that bounds the CPU time of a process.
type cage struct {
	t   *testing.T
	dir string
	v2  bool
}

func newCage(t *testing.T, pid int) *cage {
	t.Helper()
	c := &cage{t: t, dir: "/sys/fs/cgroup/cpu/tandem-e2e"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		c.dir, c.v2 = "/sys/fs/cgroup/tandem-e2e", true
	}
	if err := os.Mkdir(c.dir, 0o755); err != nil && !os.IsExist(err) {
		t.Skipf("no control group can be made: %v", err)
	}
	t.Cleanup(func() { os.Remove(c.dir) })
	c.write("cgroup.procs", fmt.Sprint(pid))
	return c
}

func (c *cage) write(file, value string) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, file), []byte(value), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// limit bounds the process to a part of a CPU; 0 is no bound.
func (c *cage) limit(cpu float64) {
	period, quota := limitPeriod.Microseconds(), "-1"
	if c.v2 {
		quota = "max"
	}
	if cpu > 0 {
		quota = fmt.Sprint(max(1000, int64(cpu*float64(period))))
	}
	if c.v2 {
		c.write("cpu.max", fmt.Sprintf("%s %d", quota, period))
		return
	}
	c.write("cpu.cfs_period_us", fmt.Sprint(period))
	c.write("cpu.cfs_quota_us", quota)
}

// phase is what was seen in a while.
type phase struct {
	lags          spread
	least, last   float64 // CPU share
	waits         uint64
	waited        float64
	stall         time.Duration // of the client
	steps, backup float64       // million a second
	cpu           float64       // of the primary
}

func (p *pair) watch(d time.Duration) (f phase) {
	p.t.Helper()
	first, firstBackup, began, used := p.status(p.primary), p.status(p.backup), time.Now(), ticks(p.pid(p.primary, "web"))
	f.least = 1
	p.w.gap()
	var st control.Status
	for time.Since(began) < d {
		time.Sleep(20 * time.Millisecond)
		if st = p.status(p.primary); st.State != "Protected" {
			p.fatalf("the primary is %s", st.State)
		}
		if err := p.w.failed(); err != nil {
			p.fatalf("%v", err)
		}
		f.lags = append(f.lags, time.Duration(st.LagSeconds*float64(time.Second)))
		f.least = min(f.least, st.CPUShare)
	}
	took := time.Since(began).Seconds()
	f.last, f.waits, f.waited, f.stall = st.CPUShare, st.Waits-first.Waits, st.WaitTime-first.WaitTime, p.w.gap()
	f.steps = float64(st.Step-first.Step) / took / 1e6
	f.backup = float64(p.status(p.backup).Step-firstBackup.Step) / took / 1e6
	f.cpu = (ticks(p.pid(p.primary, "web")) - used).Seconds() / took
	return f
}

func (f phase) String() string {
	return fmt.Sprintf("lag %v; CPU share least %.2f, at the end %.2f; %d waits, %.2f s; the client waited %v at most; %.0f million steps a second, the backup %.0f; CPU %.2f",
		f.lags, f.least, f.last, f.waits, f.waited, f.stall.Round(time.Millisecond), f.steps, f.backup, f.cpu)
}

// unbounded is what neither a lag nor a wait comes near to on the busiest of hosts, while
// a backup without flow control is behind by more after some seconds.
const unbounded = 5 * time.Second

// A backup that is slowed to 80, 50 and 20 % of the primary's speed slows the primary: the
// lag stays bounded, the client is answered all the time, and when the backup is fast
// again the primary gets its share back.
func TestSlowBackup(t *testing.T) {
	p := newPair(t)
	c := newCage(t, p.pid(p.backup, "web"))
	c.limit(0)
	free := p.watch(10 * time.Second)
	t.Logf("no limit: %v", free)
	for _, percent := range []int{80, 50, 20} {
		c.limit(free.cpu * float64(percent) / 100)
		p.watch(5 * time.Second) // the loop finds its share
		f := p.watch(15 * time.Second)
		t.Logf("%d %%: %v", percent, f)
		if most := slices.Max(f.lags); most > unbounded || f.stall > unbounded {
			t.Errorf("%d %%: a lag of %v, the client waited %v", percent, most, f.stall)
		}
	}
	c.limit(0)
	began := time.Now()
	p.until("the share is back", time.Minute, func() bool { return p.status(p.primary).CPUShare > 0.95 })
	t.Logf("no limit again: the share is back after %v; %v", time.Since(began).Round(100*time.Millisecond), p.watch(10*time.Second))
	if _, err := p.w.end(); err != nil {
		p.fatalf("%v", err)
	}
}

// While all cores are busy and either copy's process is stopped for up to 200 ms again
// and again nobody is suspected in vain: TANDEM_MINUTES says for how long.
func TestSuspicion(t *testing.T) {
	minutes := 0.5
	if s := os.Getenv("TANDEM_MINUTES"); s != "" {
		fmt.Sscan(s, &minutes)
	}
	p := newPair(t)
	for range 2 {
		cmd := exec.Command("nice", "-n", "10", "sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
	}
	epoch, stops, longest := p.status(p.primary).Epoch, 0, time.Duration(0)
	pids := []int{p.pid(p.primary, "web"), p.pid(p.backup, "web")}
	p.w.gap()
	for end := time.Now().Add(time.Duration(minutes * float64(time.Minute))); time.Now().Before(end); stops++ {
		pid, began := pids[rand.N(2)], time.Now()
		syscall.Kill(pid, syscall.SIGSTOP)
		time.Sleep(rand.N(200 * time.Millisecond))
		syscall.Kill(pid, syscall.SIGCONT)
		longest = max(longest, time.Since(began))
		time.Sleep(rand.N(400 * time.Millisecond))
		if a, b := p.status(p.primary), p.status(p.backup); a.State != "Protected" || b.State != "Replaying" || a.Epoch != epoch {
			p.fatalf("after %d stops, the longest %v: the primary is %s in epoch %d (it was %d), the backup %s", stops+1, longest, a.State, a.Epoch, epoch, b.State)
		}
	}
	t.Logf("%d stops of up to 200 ms (%v with the wait for a CPU) in %.1f minutes: no failover, the client waited %v at most", stops, longest.Round(time.Millisecond), minutes, p.w.gap().Round(time.Millisecond))
	acked, err := p.w.end()
	if err != nil {
		p.fatalf("%v", err)
	}
	t.Logf("%d writes, none lost, one connection", acked)
}

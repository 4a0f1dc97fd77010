// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/bench/stage"
	"tandem/host/child"
	"tandem/image"
)

// load is what a guest is busy with while its primaries are killed.
type load interface {
	// failed returns why the load has ended, if it has.
	failed() error
	// done returns how many pieces of work were acknowledged, to each worker.
	done() []int
	// wait returns the longest wait of a worker between two of them since it was last
	// called, the present one included.
	wait() time.Duration
	// end stops the load and checks all that was acknowledged.
	end(ctx context.Context, sh *stage.Shell) error
}

// siege kills the primary of a pair again and again, and has a new backup made.
type siege struct {
	t    *testing.T
	s    *stage.Stage
	load load
	seed uint64
	rand *rand.Rand

	now, next *stage.Copy // primary and backup
	epoch     uint64      // of now, when it was last protected
	primaries int         // killed
	backups   int         // killed while they were made
	needless  []string    // copies that ended without being killed, and why
	live      spread      // from a kill to the backup's being live
	dead      spread      // longest wait of a worker, around a kill
	cloned    spread      // and while a new backup was made
	again     spread      // until the pair was protected again
}

const siegeVM = "db"

// besiege boots a guest with a backup. TANDEM_SEED is that of the moments; the load's
// and the hosts' timing is not bound to it.
func besiege(t *testing.T, r stage.Recipe, ports ...int) *siege {
	g, err := r.Make(t.Context(), binary(t), image.NewProgress(os.Stderr))
	if err != nil {
		t.Fatal(err)
	}
	s, err := stage.New(t.Context(), stage.Options{Tandem: binary(t), Guest: g, Memory: "384M", VMs: []string{siegeVM}, Ports: ports})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	si := &siege{t: t, s: s, seed: rand.Uint64()}
	if v := os.Getenv("TANDEM_SEED"); v != "" {
		fmt.Sscan(v, &si.seed)
	}
	si.rand = rand.New(rand.NewPCG(si.seed, 0))
	t.Logf("TANDEM_SEED=%d", si.seed)
	if si.now, err = s.Primary(siegeVM); err == nil {
		si.next, err = s.Backup(si.now)
	}
	if err != nil {
		t.Fatal(err)
	}
	si.protect()
	return si
}

// fatalf ends the test with what the processes wrote; TANDEM_KEEP names a folder for all
// of it.
func (si *siege) fatalf(format string, args ...any) {
	si.t.Helper()
	if dir := os.Getenv("TANDEM_KEEP"); dir != "" {
		os.MkdirAll(dir, 0o755)
		exec.Command("cp", "--sparse=always", "-r", si.s.Dir, filepath.Join(dir, fmt.Sprintf("siege-%d", si.seed))).Run()
	}
	si.t.Fatalf("seed %d: %s%s", si.seed, fmt.Sprintf(format, args...), si.s.Diagnostics())
}

// await waits for a condition while the load goes on.
func (si *siege) await(what string, ok func() bool) {
	si.t.Helper()
	err := child.Until(si.t.Context(), 2*time.Minute, what, func() bool {
		if si.load != nil && si.load.failed() != nil {
			si.fatalf("%s: the load has ended: %v", what, si.load.failed())
		}
		return ok()
	})
	if err != nil {
		si.fatalf("%v", err)
	}
}

// protect waits until the pair is protected. Copies should end only when they are
// killed; if one does by itself that is told, and another one takes its place.
func (si *siege) protect() {
	si.t.Helper()
	si.await("protected", func() bool {
		switch {
		case si.now.Ended() && si.next.Ended():
			si.fatalf("both copies have ended")
		case si.now.Ended():
			si.uncalled(si.now)
			si.now = si.next
			si.backup()
		case si.next.Ended():
			si.uncalled(si.next)
			si.backup()
		}
		st, err := si.now.Status()
		si.epoch = st.Epoch
		return err == nil && st.Role == "primary" && st.State == "Protected"
	})
}

func (si *siege) uncalled(c *stage.Copy) {
	why := c.Name + " ended by itself"
	if list := c.Events(); len(list) > 0 {
		why += ": " + list[len(list)-1].Text
	}
	si.needless = append(si.needless, why)
	si.t.Log(why)
}

// backup starts a new backup for the primary.
func (si *siege) backup() {
	si.t.Helper()
	var err error
	if si.next, err = si.s.Backup(si.now); err != nil {
		si.fatalf("%v", err)
	}
}

// round kills the primary at a moment of its own, and makes a new backup. Of four new
// backups one is killed while it is made.
func (si *siege) round(n int) {
	time.Sleep(time.Duration(si.rand.Int64N(int64(2 * time.Second))))
	si.protect() // still
	si.load.wait()
	killed := time.Now()
	si.now.Kill()
	si.primaries++
	si.now = si.next
	si.await("the backup goes live", func() bool {
		st, err := si.now.Status()
		return err == nil && st.Role == "primary" && st.Epoch > si.epoch
	})
	live := si.liveAt().Sub(killed)
	si.live = append(si.live, live)
	done := si.load.done()
	si.await("all of the load goes on", func() bool {
		for i, d := range si.load.done() {
			if d < done[i]+2 { // one may have been on its way
				return false
			}
		}
		return true
	})
	wait := si.load.wait()
	si.dead = append(si.dead, wait)
	si.backup()
	if si.rand.IntN(4) == 0 {
		time.Sleep(time.Duration(si.rand.Int64N(int64(500 * time.Millisecond))))
		si.next.Kill()
		si.backups++
		si.backup()
	}
	si.protect()
	again := time.Since(killed)
	clone := si.load.wait()
	si.cloned, si.again = append(si.cloned, clone), append(si.again, again)
	si.t.Logf("round %d: epoch %d live after %v; the load waited %v, then %v while it was cloned; protected after %v; %d done", n, si.epoch, live.Round(time.Millisecond),
		wait.Round(time.Millisecond), clone.Round(time.Millisecond), again.Round(10*time.Millisecond), sum(si.load.done()))
}

// liveAt is when the primary went live, by its own word.
func (si *siege) liveAt() (at time.Time) {
	for _, e := range si.now.Events() {
		if e.Kind == "live" {
			at = e.Time
		}
	}
	return at
}

// run is the siege, and what must hold after it.
func (si *siege) run(rounds int) {
	defer si.report()
	for n := range rounds {
		si.round(n)
	}
	time.Sleep(time.Second)
	sh, err := si.s.Shell(si.t.Context(), siegeVM)
	if err != nil {
		si.fatalf("%v", err)
	}
	defer sh.Close()
	if err := si.load.end(si.t.Context(), sh); err != nil {
		si.fatalf("%v", err)
	}
	if out, _ := sh.Run(si.t.Context(), `busybox dmesg | grep -iE 'EXT4-fs (error|warning)|I/O error|BUG:|Oops|panic'`); out != "" {
		si.fatalf("the guest's kernel complains:\n%s", out)
	}
	if len(si.needless) > 0 {
		si.t.Errorf("seed %d: %d copies ended without being killed: %s", si.seed, len(si.needless), strings.Join(si.needless, "; "))
	}
	si.checkDisk(sh)
}

// checkDisk powers the guest off and has e2fsck look at the disk that both copies wrote.
func (si *siege) checkDisk(sh *stage.Shell) {
	sh.Run(si.t.Context(), "poweroff")
	si.load = nil
	si.await("the guest's poweroff ends both copies", func() bool { return si.now.Ended() && si.next.Ended() })
	for _, bin := range []string{"e2fsck", "/usr/sbin/e2fsck"} {
		if _, err := exec.LookPath(bin); err == nil {
			if out, err := exec.Command(bin, "-fn", filepath.Join(si.s.Dir, siegeVM+".raw")).CombinedOutput(); err != nil {
				si.fatalf("e2fsck: %v:\n%s", err, out)
			}
			return
		}
	}
	si.t.Log("e2fsck is not installed: the disk was not checked")
}

func (si *siege) report() {
	si.t.Logf("%d primaries and %d unfinished backups killed, %d ended by themselves", si.primaries, si.backups, len(si.needless))
	si.t.Logf("from the kill to live: %v", si.live)
	si.t.Logf("longest wait of a worker around a kill: %v", si.dead)
	si.t.Logf("longest wait of a worker while a backup was made: %v", si.cloned)
	si.t.Logf("from the kill to protected again: %v", si.again)
}

func rounds(usual int) int {
	if s := os.Getenv("TANDEM_CHAOS"); s != "" {
		fmt.Sscan(s, &usual)
	}
	return usual
}

// meter counts what each worker of a load has done, and the waits between.
type meter struct {
	mu      sync.Mutex
	workers []worker
	widest  time.Duration
	err     error
}

type worker struct {
	done int
	last time.Time
}

// start is called before a worker works.
func (m *meter) start(workers int) { m.workers = make([]worker, workers) }

func (m *meter) add(i int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w, now := &m.workers[i], time.Now()
	if w.done > 0 {
		m.widest = max(m.widest, now.Sub(w.last))
	}
	w.done, w.last = w.done+1, now
}

func (m *meter) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
}

func (m *meter) failed() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *meter) done() (all []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		all = append(all, w.done)
	}
	return all
}

func (m *meter) wait() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	longest := m.widest
	for _, w := range m.workers {
		if w.done > 0 {
			longest = max(longest, time.Since(w.last))
		}
	}
	m.widest = 0
	return longest
}

// sum is what all workers have done.
func sum(done []int) (n int) {
	for _, d := range done {
		n += d
	}
	return n
}

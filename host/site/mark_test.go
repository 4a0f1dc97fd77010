// SPDX-License-Identifier: Apache-2.0

package site

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tandem/host/claim"
	"tandem/machine/event"
	"tandem/world"
)

// host is a process on a host with a disk of its own.
func host(t *testing.T, dir, vm, owner, disk string) *Site {
	t.Helper()
	a, err := claim.Open(dir, vm)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{VM: vm, Owner: owner, Arbiter: a, Wake: func() {},
		Slots: []Slot{{Disk: disk, Mode: event.ReplicatedDisk, Size: 1 << 20}}})
	t.Cleanup(func() { s.close() })
	return s
}

// close ends the process: its lock on the disk is gone.
func (s *Site) close() {
	for i, d := range s.own {
		if d != nil {
			d.Close()
			s.own[i] = nil
		}
	}
}

func (s *Site) record(t *testing.T) world.Record {
	t.Helper()
	rec, err := s.cfg.Arbiter.Read()
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func (s *Site) mustClaim(t *testing.T, epoch event.Epoch, want bool) {
	t.Helper()
	if won, _, err := s.ClaimNow(epoch); err != nil || won != want {
		t.Fatalf("claim of epoch %d: won %v, %v", epoch, won, err)
	}
}

func (s *Site) mustFollow(t *testing.T) {
	t.Helper()
	if _, err := s.follow(0); err != nil {
		t.Fatal(err)
	}
}

// Whoever was the last to win has the newest disk; the others are refused, with where
// the newest is.
func TestStaleDisk(t *testing.T) {
	dir, arbiter := t.TempDir(), t.TempDir()
	disk := func(n string) string { return filepath.Join(dir, n) }

	a := host(t, arbiter, "web", "a1@one", disk("a"))
	if err := a.CheckDisks(a.record(t)); err != nil {
		t.Fatalf("a new disk for a new VM: %v", err)
	}
	a.mustClaim(t, 1, true)
	b := host(t, arbiter, "web", "b1@two", disk("b"))
	b.mustFollow(t)
	if st, err := os.Stat(disk("b")); err != nil || st.Size() != 1<<20 {
		t.Fatalf("the backup's disk was not made: %v", err)
	}
	// Both are lost: a's disk has all, b's may lag.
	a.close()
	b.close()
	a2, b2 := host(t, arbiter, "web", "a2@one", disk("a")), host(t, arbiter, "web", "b2@two", disk("b"))
	if err := a2.CheckDisks(a2.record(t)); err != nil {
		t.Errorf("the primary's disk: %v", err)
	}
	if err := b2.CheckDisks(b2.record(t)); !errors.Is(err, ErrStale) || !strings.Contains(err.Error(), "a1@one") || !strings.Contains(err.Error(), "--force") {
		t.Errorf("the backup's disk: %v", err)
	}
	// The current disk is not made a backup's by mistake.
	if _, err := a2.follow(0); err == nil || !strings.Contains(err.Error(), "newest") {
		t.Errorf("the newest disk follows: %v", err)
	}
	a2.mustClaim(t, 2, true)
	b2.mustFollow(t)
	// The primary is lost, the backup wins; the primary, too late, loses.
	b2.mustClaim(t, 3, true)
	a2.mustClaim(t, 3, false)
	a2.close()
	b2.close()
	a3, b3 := host(t, arbiter, "web", "a3@one", disk("a")), host(t, arbiter, "web", "b3@two", disk("b"))
	if err := a3.CheckDisks(a3.record(t)); !errors.Is(err, ErrStale) || !strings.Contains(err.Error(), "b2@two") {
		t.Errorf("the loser's disk: %v", err)
	}
	if err := b3.CheckDisks(b3.record(t)); err != nil {
		t.Errorf("the winner's disk: %v", err)
	}
	// One that died between its mark and its claim has the newest disk still.
	if err := b3.markClaim(4); err != nil {
		t.Fatal(err)
	}
	b3.close()
	b4 := host(t, arbiter, "web", "b4@two", disk("b"))
	if err := b4.CheckDisks(b4.record(t)); err != nil {
		t.Errorf("a mark without a claim: %v", err)
	}
	b4.close()
	other := host(t, t.TempDir(), "mail", "m@two", disk("b"))
	if err := other.CheckDisks(other.record(t)); err == nil || !strings.Contains(err.Error(), "web") {
		t.Errorf("another VM's disk: %v", err)
	}
	other.close()
	if err := os.WriteFile(disk("b")+markSuffix, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b4.CheckDisks(b4.record(t)); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged mark: %v", err)
	}
}

// An NBD export is nobody's own, and a file that is nobody's own is no disk of a pair.
func TestDiskModes(t *testing.T) {
	for _, c := range []struct {
		slot Slot
		want string
	}{
		{Slot{Disk: "nbd://h/x", Mode: event.ReplicatedDisk}, "file of each host"},
		{Slot{Disk: "/absent/disk", Mode: event.ReplicatedDisk}, "truncate"},
		{Slot{Disk: "/absent/disk"}, "mode=replicated"},
	} {
		s := New(Config{VM: "web", Slots: []Slot{c.slot}, Wake: func() {}})
		if _, err := s.OpenNow(1); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v; want %q", c.slot, err, c.want)
		}
	}
}

// FuzzMark shows that a mark is refused, or is the same when it is written and read again.
func FuzzMark(f *testing.F) {
	f.Add([]byte(markForm + "vm web\ncurrent 12 a@b\ncurrent 11 c\n"))
	f.Add([]byte(markForm + "vm web\ncopy\n"))
	path := filepath.Join(f.TempDir(), "disk"+markSuffix)
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := loadMark(path)
		if err != nil {
			return
		}
		text := func(m mark) string { return fmt.Sprint(m.vm, m.copy, m.current) }
		if err := m.save(path); err != nil {
			t.Fatal(err)
		}
		if again, err := loadMark(path); err != nil || text(again) != text(m) {
			t.Errorf("%q becomes %s, %v", b, text(again), err)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tandem/machine/event"
	"tandem/world"
	"tandem/world/worldtest"
)

func open(t *testing.T, dir, vm string) *Folder {
	t.Helper()
	f, err := Open(dir, vm)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func claim(t *testing.T, f *Folder, e event.Epoch, owner string) bool {
	t.Helper()
	won, _, err := f.Claim(e, owner, 0)
	if err != nil {
		t.Fatal(err)
	}
	return won
}

// A folder is an atomic test-and-set like every other arbiter.
func TestArbiter(t *testing.T) {
	worldtest.Arbiter(t, func(t *testing.T) (a, b world.Arbiter) {
		dir := t.TempDir()
		return open(t, dir, "vm"), open(t, dir, "vm")
	})
}

// Records outlive the process, and VMs of one folder don't see each other's,
// even where one name begins with the other.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	claim(t, open(t, dir, "vm"), 1, "a")
	claim(t, open(t, dir, "vm"), 2, "b")
	want := world.Record{Epoch: 2, Owner: "b"}
	if r, err := open(t, dir, "vm").Read(); err != nil || r != want {
		t.Errorf("after a restart: %v, %v", r, err)
	}
	for _, other := range []string{"v", "vm2", "vm.epoch-000000003"} {
		if r, err := open(t, dir, other).Read(); err != nil || r != (world.Record{}) {
			t.Errorf("VM %s sees %v, %v", other, r, err)
		}
	}
	if a, b := open(t, dir, "vm"), open(t, dir, "v"); a.ID() != b.ID() || a.ID() == open(t, t.TempDir(), "vm").ID() {
		t.Error("the identity doesn't tell folders apart")
	}
}

// Old records are pruned, the newest never, and no temporary file stays behind.
func TestPrune(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir, "vm")
	stale := ".vm.epoch-000000001.ABC.tmp"
	if err := os.WriteFile(filepath.Join(dir, stale), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for e := event.Epoch(1); e <= 40; e++ {
		if !claim(t, f, e, "a") {
			t.Fatalf("epoch %d lost", e)
		}
	}
	names := list(t, dir)
	if len(names) != keep+1 || !slices.Contains(names, "vm.epoch-000000040") || slices.Contains(names, stale) {
		t.Errorf("the folder holds %v", names)
	}
}

// One who slept since before the epoch it wants was pruned makes its file, but
// sees the newer ones and has lost.
func TestSleeper(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir, "vm")
	for e := event.Epoch(1); e <= 40; e++ {
		claim(t, f, e, "a")
	}
	old := world.Record{Epoch: 2, Owner: "sleeper"}
	if err := f.link(old); err != nil {
		t.Fatalf("the sleeper's link failed (%v): the test shows nothing", err)
	}
	won, cur, err := f.Claim(2, "sleeper", 0)
	if won || err != nil || cur.Epoch != 40 {
		t.Errorf("sleeper: won %v, record %v, error %v", won, cur, err)
	}
}

// A link that succeeded although its answer was an error is found by reading back.
func TestLostAnswer(t *testing.T) {
	f := open(t, t.TempDir(), "vm")
	if err := f.link(world.Record{Epoch: 1, Owner: "a", DiskGeneration: 5}); err != nil {
		t.Fatal(err)
	}
	won, cur, err := f.Claim(1, "a", 5)
	if !won || err != nil || cur.DiskGeneration != 5 {
		t.Errorf("own record: won %v, record %v, error %v", won, cur, err)
	}
	if claim(t, f, 1, "b") {
		t.Error("another's record counts as b's")
	}
}

// A folder that can't be reached, or another one in its place, is an error that
// leaves the question open: neither a win nor a loss.
func TestUnreachable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shared")
	if _, err := Open(dir, "vm"); err == nil || !strings.Contains(err.Error(), "must exist") {
		t.Errorf("a missing folder opens: %v", err)
	}
	mkdir(t, dir)
	f := open(t, dir, "vm")
	claim(t, f, 1, "a")
	away := dir + ".away"
	rename(t, dir, away)
	expectError(t, f, "no such file")
	mkdir(t, dir) // the mount point without its file system
	expectError(t, f, "mounted")
	open(t, dir, "vm")
	expectError(t, f, "mounted")
	rename(t, dir, dir+".other")
	rename(t, away, dir)
	if !claim(t, f, 2, "a") {
		t.Error("the folder is back but the claim is lost")
	}
}

func expectError(t *testing.T, f *Folder, part string) {
	t.Helper()
	if won, _, err := f.Claim(2, "a", 0); won || err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("claim: won %v, error %v; want an error with %q", won, err, part)
	}
	if r, err := f.Read(); err == nil {
		t.Errorf("read: %v without an error", r)
	}
}

// Damaged records are errors that say so; nothing is won by them.
func TestDamaged(t *testing.T) {
	good := string(encode(world.Record{Epoch: 1, Owner: "a", DiskGeneration: 2}))
	for _, bad := range []string{
		"", good[:len(good)-1], good + "x", strings.Replace(good, "epoch 1", "epoch 2", 1),
		strings.Replace(good, "disk 2", "disk -2", 1), strings.Replace(good, "owner a", "owner ", 1),
		strings.Repeat("a", 1<<16),
	} {
		dir := t.TempDir()
		f := open(t, dir, "vm")
		if err := os.WriteFile(filepath.Join(dir, "vm.epoch-000000001"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, e := range []event.Epoch{1, 2} {
			if won, _, err := f.Claim(e, "a", 2); won || err == nil || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("record %.40q: won %v, error %v", bad, won, err)
			}
		}
	}
}

// Names that would leave the folder or confuse its files are refused.
func TestNames(t *testing.T) {
	for _, vm := range []string{"", ".", "../x", "a/b", ".hidden", "a b", "a\n", strings.Repeat("a", 300)} {
		if _, err := Open(t.TempDir(), vm); err == nil {
			t.Errorf("VM %q opens", vm)
		}
	}
	f := open(t, t.TempDir(), "vm")
	for _, owner := range []string{"a b", "a\n", "ä", strings.Repeat("a", 200)} {
		if won, _, err := f.Claim(1, owner, 0); won || err == nil {
			t.Errorf("owner %q claims", owner)
		}
	}
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		names = append(names, e.Name())
	}
	return names
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// No bytes in a record's file make its reader panic; what it takes for a record is
// what a claim of that epoch writes.
func FuzzRecord(f *testing.F) {
	f.Add(encode(world.Record{Epoch: 3, Owner: "a", DiskGeneration: 1}), uint64(3))
	f.Add([]byte("3 a"), uint64(3))
	f.Fuzz(func(t *testing.T, b []byte, epoch uint64) {
		if r, err := decode(b, event.Epoch(epoch)); err == nil && (r.Epoch != event.Epoch(epoch) || string(encode(r)) != string(b)) {
			t.Fatalf("%q was taken for %+v", b, r)
		}
	})
}

// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"testing"

	"tandem/machine/event"
)

// A completed request marks the blocks that it changed, of those that were compared
// already; none once the clone's step has come.
func TestResyncMarks(t *testing.T) {
	for _, c := range []struct {
		q      event.DiskRequest
		frozen bool
		want   []uint64
	}{
		{event.DiskRequest{Op: event.DiskWrite, Offset: diskBlock - 1, Length: 2}, false, []uint64{0, 1}},
		{event.DiskRequest{Op: event.DiskDiscard, Offset: diskBlock, Length: 1 << 62}, false, []uint64{1, 2}},
		{event.DiskRequest{Op: event.DiskWriteZeroes, Offset: 3 * diskBlock, Length: 1}, false, nil}, // not compared yet
		{event.DiskRequest{Op: event.DiskWrite, Offset: 1 << 63, Length: 512}, false, nil},
		{event.DiskRequest{Op: event.DiskRead, Length: diskBlock}, false, nil},
		{event.DiskRequest{Op: event.DiskFlush}, false, nil},
		{event.DiskRequest{Op: event.DiskWrite, Length: 512}, true, nil},
	} {
		x := &resync{size: 5*diskBlock + 512, blocks: 6, next: 3, marked: newBitmap(6), frozen: c.frozen}
		x.changed(c.q)
		got := []uint64{}
		for b := range x.blocks {
			if x.marked.has(b) {
				got = append(got, b)
			}
		}
		if len(got) != len(c.want) || len(got) > 0 && (got[0] != c.want[0] || got[len(got)-1] != c.want[len(c.want)-1]) {
			t.Errorf("%+v marks %v, want %v", c.q, got, c.want)
		}
	}
}

// Marks are found from any place on, round and round.
func TestBitmap(t *testing.T) {
	m := newBitmap(3 * 64)
	if _, ok := m.next(70); ok {
		t.Error("an empty set has a member")
	}
	m.set(3)
	m.set(190)
	m.set(190)
	for from, want := range map[uint64]uint64{0: 3, 3: 3, 4: 190, 190: 190, 191: 3} {
		if got, ok := m.next(from); !ok || got != want {
			t.Errorf("from %d: %d %v, want %d", from, got, ok, want)
		}
	}
	if m.clear(3); m.n != 1 || m.has(3) || !m.has(190) {
		t.Errorf("%+v", m)
	}
}

// Parts that a peer may not send are errors, whatever they hold.
func FuzzParseResync(f *testing.F) {
	f.Add([]byte{packetDisk, 1, 7, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		op, slot, block, rest, err := parseResync(b)
		if err != nil {
			return
		}
		if again := append(resyncHead(op, slot, block)[1:], rest...); string(again) != string(b) {
			t.Errorf("%x is read as %d %d %d %x", b, op, slot, block, rest)
		}
	})
}

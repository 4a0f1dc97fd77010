// SPDX-License-Identifier: Apache-2.0

package virtio_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/state"
	"tandem/machine/virtio"
	"tandem/machine/virtio/internal/virtiotest"
)

// echo is a backend that copies the readable part of a chain to the writable
// one at the kick, or holds chains if told to.
type echo struct {
	*virtio.Transport
	hold   bool
	held   []virtio.Chain
	resets int
	kicks  int
	config [8]byte
}

const echoFeature = 1 << 3

func (e *echo) DeviceID() uint32                 { return 42 }
func (e *echo) Features() uint64                 { return echoFeature }
func (e *echo) Config() []byte                   { return e.config[:] }
func (e *echo) StoreConfig(off uint64, p []byte) { copy(e.config[min(off, 8):], p) }
func (e *echo) Reset()                           { e.resets++ }
func (e *echo) State(c *state.Coder)             { c.Fixed(e.config[:]) }
func (e *echo) Kick(queue int) {
	e.kicks++
	e.Queue(queue).Drain(e.take)
	e.Queue(queue).Flush()
}

func (e *echo) take(c virtio.Chain) (more bool) {
	if e.hold {
		e.held = append(e.held, c.Keep())
		return true
	}
	p := make([]byte, min(c.Readable.Len(), c.Writable.Len(), 1<<16))
	if e.Queue(0).Gather(c, 0, p) && e.Queue(0).Scatter(c, 0, p) {
		e.Queue(0).Push(c, uint32(len(p)))
	}
	return true
}

func newEcho(t testing.TB) (*virtiotest.Guest, *echo) {
	e := &echo{}
	g := virtiotest.New(t, func(mem bus.Memory, line bus.Line, _ bus.Emit) bus.Device {
		e.Transport = virtio.New(e, mem, line, 256)
		return e.Transport
	})
	return g, e
}

const ringFeatures = virtio.RingEventIdx | virtio.RingIndirectDesc

// The registers of a slot read as §4.2.2 says, in 32 bits only.
func TestRegisters(t *testing.T) {
	g, _ := newEcho(t)
	for _, r := range []struct {
		name string
		off  uint64
		want uint32
	}{
		{"MagicValue", virtio.RegMagicValue, 0x74726976},
		{"Version", virtio.RegVersion, 2},
		{"DeviceID", virtio.RegDeviceID, 42},
		{"QueueNumMax", virtio.RegQueueNumMax, 256},
		{"QueueReady", virtio.RegQueueReady, 0},
		{"Status", virtio.RegStatus, 0},
		{"SHMLenLow", virtio.RegSHMLenLow, 0xffffffff},
		{"SHMLenHigh", virtio.RegSHMLenHigh, 0xffffffff},
		{"SHMBaseLow", virtio.RegSHMBaseLow, 0xffffffff},
		{"SHMBaseHigh", virtio.RegSHMBaseHigh, 0xffffffff},
	} {
		if got := g.Load(r.off); got != r.want {
			t.Errorf("%s is %#x, want %#x", r.name, got, r.want)
		}
	}
	g.Store(virtio.RegQueueSel, 1)
	if got := g.Load(virtio.RegQueueNumMax); got != 0 {
		t.Errorf("a queue that isn't there has %d descriptors", got)
	}
	for _, size := range []int{1, 2, 8} {
		if _, ok := g.Dev.Load(0, size); ok {
			t.Errorf("a register can be read in %d bytes", size)
		}
		if g.Dev.Store(virtio.RegStatus, size, 1) {
			t.Errorf("a register can be written in %d bytes", size)
		}
	}
	if got, want := g.Offered(), uint64(echoFeature|ringFeatures|virtio.Version1); got != want {
		t.Errorf("features offered are %#x, want %#x", got, want)
	}
}

// An empty slot has the magic number and device 0.
func TestEmpty(t *testing.T) {
	var e virtio.Empty
	magic, ok := e.Load(virtio.RegMagicValue, 4)
	id, ok2 := e.Load(virtio.RegDeviceID, 4)
	if magic != 0x74726976 || id != 0 || !ok || !ok2 || !e.Store(virtio.RegStatus, 4, 1) {
		t.Errorf("an empty slot reads as magic %#x, device %d", magic, id)
	}
}

// FEATURES_OK sticks only to a modern driver that wants what is offered.
func TestNegotiate(t *testing.T) {
	g, e := newEcho(t)
	for _, c := range []struct {
		features uint64
		ok       bool
	}{
		{virtio.Version1, true},
		{virtio.Version1 | echoFeature | ringFeatures, true},
		{echoFeature, false},
		{virtio.Version1 | 1<<5, false},
		{virtio.Version1 | 1<<40, false},
	} {
		if got := g.Negotiate(c.features); got != c.ok {
			t.Errorf("features %#x: FEATURES_OK %v, want %v", c.features, got, c.ok)
		}
		if got := e.Has(virtio.Version1); got != c.ok {
			t.Errorf("features %#x: Has says %v", c.features, got)
		}
		g.Store(virtio.RegStatus, virtio.StatusDriverOK)
		if e.Running() != c.ok {
			t.Errorf("features %#x: running is %v, want %v", c.features, e.Running(), c.ok)
		}
	}
	g.Negotiate(virtio.Version1)
	g.Store(virtio.RegDriverFeaturesSel, 0)
	g.Store(virtio.RegDriverFeatures, echoFeature)
	if e.Has(echoFeature) {
		t.Error("features can change after FEATURES_OK")
	}
}

// A queue of an illegal size or alignment doesn't become ready, and one that is
// ready can't be moved.
func TestQueueSetup(t *testing.T) {
	g, _ := newEcho(t)
	set := func(num, desc, driver, device uint32) bool {
		g.Negotiate(virtio.Version1)
		g.Store(virtio.RegQueueNum, num)
		g.Store(virtio.RegQueueDescLow, desc)
		g.Store(virtio.RegQueueDriverLow, driver)
		g.Store(virtio.RegQueueDeviceLow, device)
		g.Store(virtio.RegQueueReady, 1)
		return g.Load(virtio.RegQueueReady) == 1
	}
	for _, c := range []struct {
		num, desc, driver, device uint32
		ok                        bool
	}{
		{256, 16, 2, 4, true}, {1, 0, 0, 0, true},
		{0, 16, 2, 4, false}, {3, 16, 2, 4, false}, {512, 16, 2, 4, false}, {0x10100, 16, 2, 4, false},
		{8, 8, 2, 4, false}, {8, 16, 1, 4, false}, {8, 16, 2, 2, false},
	} {
		if got := set(c.num, c.desc, c.driver, c.device); got != c.ok {
			t.Errorf("%+v: ready is %v", c, got)
		}
	}
	set(8, 0, 0, 0)
	before := g.Hash()
	g.Store(virtio.RegQueueNum, 16)
	g.Store(virtio.RegQueueDescHigh, 1)
	if g.Hash() != before {
		t.Error("a ready queue changed")
	}
}

// Chained, split and indirect buffers arrive whole, and the used ring says so.
func TestChains(t *testing.T) {
	g, _ := newEcho(t)
	g.Start(ringFeatures, 16)
	r := g.Rings[0]
	for _, indirect := range []bool{false, true} {
		r.Indirect = indirect
		a, b := g.Space(4), g.Space(8)
		head := r.Add(g.Data([]byte("one")), g.Data(nil), g.Data([]byte(", two")), a, b)
		r.Kick()
		used := r.Collect()
		if len(used) != 1 || used[0] != (virtiotest.Used{Head: head, Written: 8}) {
			t.Fatalf("indirect %v: used %v, want head %d and 8 bytes", indirect, used, head)
		}
		if got := string(g.Bytes(a)) + string(g.Bytes(b)[:4]); got != "one, two" {
			t.Errorf("indirect %v: got %q", indirect, got)
		}
		if g.Interrupt() != virtio.InterruptUsed || g.Line {
			t.Error("no interrupt, or it can't be acknowledged")
		}
	}
}

// Direct descriptors may lead to one indirect table at their end (§2.7.5.3.2).
func TestDirectThenIndirect(t *testing.T) {
	g, _ := newEcho(t)
	g.Start(ringFeatures, 16)
	r := g.Rings[0]
	out := g.Space(2)
	table := g.Alloc(32)
	r.Describe(table, 0, g.Data([]byte("b")), true, 1)
	r.Describe(table, 1, out, false, 0)
	r.Describe(r.Desc, 0, g.Data([]byte("a")), true, 5)
	r.WriteDesc(r.Desc, 5, table, 32, 4|2, 0) // descWrite must be ignored
	r.MakeAvailable(0)
	r.Notify()
	if got := string(g.Bytes(out)); got != "ab" {
		t.Errorf("got %q, want ab", got)
	}
}

// Each way to break a ring sets NEEDS_RESET with a configuration interrupt,
// stops the device, and is healed by a reset.
func TestCorruptRings(t *testing.T) {
	type R = virtiotest.Ring
	for _, c := range []struct {
		name     string
		features uint64
		corrupt  func(g *virtiotest.Guest, r *R)
	}{
		{"head out of range", 0, func(g *virtiotest.Guest, r *R) { r.MakeAvailable(16) }},
		{"available index jumps", 0, func(g *virtiotest.Guest, r *R) { g.Write16(r.Avail+2, 17) }},
		{"available index goes back", 0, func(g *virtiotest.Guest, r *R) { g.Write16(r.Avail+2, 0xffff) }},
		{"next out of range", 0, func(g *virtiotest.Guest, r *R) {
			r.WriteDesc(r.Desc, 0, virtiotest.Base, 1, 1, 16)
			r.MakeAvailable(0)
		}},
		{"loop", 0, func(g *virtiotest.Guest, r *R) {
			r.WriteDesc(r.Desc, 0, virtiotest.Base, 1, 1, 1)
			r.WriteDesc(r.Desc, 1, virtiotest.Base, 1, 1, 0)
			r.MakeAvailable(0)
		}},
		{"readable after writable", 0, func(g *virtiotest.Guest, r *R) { r.Add(g.Space(1), g.Data([]byte{1})) }},
		{"buffer outside RAM", 0, func(g *virtiotest.Guest, r *R) {
			r.Add(virtiotest.Buf{Addr: 0x1000, Len: 4}, g.Space(4))
		}},
		{"buffer at the end of the address space", 0, func(g *virtiotest.Guest, r *R) {
			r.Add(virtiotest.Buf{Addr: ^uint64(0) - 1, Len: 4}, g.Space(4))
		}},
		{"written buffer outside RAM", 0, func(g *virtiotest.Guest, r *R) {
			r.Add(g.Data([]byte("1234")), virtiotest.Buf{Addr: virtiotest.Base + 1<<20 - 2, Len: 4, Write: true})
		}},
		{"indirect, not agreed on", 0, func(g *virtiotest.Guest, r *R) { r.Indirect = true; r.Add(g.Data([]byte{1})) }},
		{"indirect with next", ringFeatures, func(g *virtiotest.Guest, r *R) {
			r.WriteDesc(r.Desc, 0, g.Alloc(16), 16, 4|1, 1)
			r.MakeAvailable(0)
		}},
		{"indirect of half a descriptor", ringFeatures, func(g *virtiotest.Guest, r *R) {
			r.WriteDesc(r.Desc, 0, g.Alloc(32), 24, 4, 0)
			r.MakeAvailable(0)
		}},
		{"indirect of nothing", ringFeatures, func(g *virtiotest.Guest, r *R) {
			r.WriteDesc(r.Desc, 0, g.Alloc(32), 0, 4, 0)
			r.MakeAvailable(0)
		}},
		{"indirect in indirect", ringFeatures, func(g *virtiotest.Guest, r *R) {
			table := g.Alloc(16)
			r.WriteDesc(table, 0, g.Alloc(16), 16, 4, 0)
			r.WriteDesc(r.Desc, 0, table, 16, 4, 0)
			r.MakeAvailable(0)
		}},
		{"loop in an indirect table", ringFeatures, func(g *virtiotest.Guest, r *R) {
			table := g.Alloc(16)
			r.WriteDesc(table, 0, virtiotest.Base, 1, 1, 0)
			r.WriteDesc(r.Desc, 0, table, 16, 4, 0)
			r.MakeAvailable(0)
		}},
		{"indirect next beyond the table", ringFeatures, func(g *virtiotest.Guest, r *R) {
			table := g.Alloc(64)
			r.WriteDesc(table, 0, virtiotest.Base, 1, 1, 1)
			r.WriteDesc(r.Desc, 0, table, 16, 4, 0)
			r.MakeAvailable(0)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, e := newEcho(t)
			g.Start(c.features, 16)
			r := g.Rings[0]
			c.corrupt(g, r)
			r.Notify()
			if !g.NeedsReset() || g.Interrupt() != virtio.InterruptConfig {
				t.Fatal("the device goes on")
			}
			g.Write16(r.Avail+2, 0)
			before := g.Hash()
			r.Notify()
			if g.Hash() != before {
				t.Error("a failed device reacts to a kick")
			}
			g.Start(c.features, 16)
			g.Rings[0].Add(g.Data([]byte{1}), g.Space(1))
			g.Rings[0].Notify()
			if g.NeedsReset() || len(g.Rings[0].Collect()) != 1 || e.resets == 0 {
				t.Error("a reset does not heal the device")
			}
		})
	}
}

// Rings that lie outside RAM or over each other fail the device or end; nothing
// runs forever.
func TestMisplacedRings(t *testing.T) {
	for _, at := range []uint32{0x1000, virtiotest.Base, virtiotest.Base + 1<<20 - 16} {
		g, _ := newEcho(t)
		g.Negotiate(virtio.Version1 | ringFeatures)
		g.Store(virtio.RegQueueNum, 256)
		for _, reg := range []uint64{virtio.RegQueueDescLow, virtio.RegQueueDriverLow, virtio.RegQueueDeviceLow} {
			g.Store(reg, at)
		}
		g.Store(virtio.RegQueueReady, 1)
		g.Store(virtio.RegStatus, virtio.StatusDriverOK)
		for i := range 1000 {
			g.Write16(uint64(at)+2, uint16(i))
			g.Store(virtio.RegQueueNotify, 0)
		}
		if at == 0x1000 && !g.NeedsReset() {
			t.Error("rings outside RAM don't matter")
		}
	}
}

// What a device writes can't lengthen the kick that it handles: buffers laid
// over the available index are seen at the next one.
func TestKickEnds(t *testing.T) {
	g, _ := newEcho(t)
	g.Start(0, 16)
	r := g.Rings[0]
	r.Add(g.Data([]byte{2, 0}), virtiotest.Buf{Addr: r.Avail + 2, Len: 2, Write: true})
	for want := 1; want <= 2; want++ {
		r.Notify()
		if r.Collect(); int(r.NextUsed) != want {
			t.Fatalf("%d chains used, want %d", r.NextUsed, want)
		}
	}
}

// A kick reaches a device only through a ready queue of a running driver (§2.1.2).
func TestKickTooEarly(t *testing.T) {
	g, e := newEcho(t)
	g.Start(0, 16)
	g.Store(virtio.RegQueueNotify, 0)
	g.Store(virtio.RegQueueNotify, 1)
	g.Store(virtio.RegQueueReady, 0)
	g.Store(virtio.RegQueueNotify, 0)
	g.Negotiate(virtio.Version1)
	g.Store(virtio.RegQueueNum, 16)
	g.Store(virtio.RegQueueReady, 1)
	g.Store(virtio.RegQueueNotify, 0)
	if e.kicks != 1 {
		t.Errorf("%d kicks, want the first only", e.kicks)
	}
}

// Over more than 65536 chains the device sees every kick that avail_event asks
// for, and interrupts exactly at used_event, through the wrap of the indices.
func TestEventIdxWraps(t *testing.T) {
	g, e := newEcho(t)
	g.Start(ringFeatures, 16)
	r := g.Rings[0]
	in, out := g.Data([]byte("x")), g.Space(1)
	for i := range 70_000 {
		batch := uint16(i%7 + 1)
		for range batch {
			r.Add(in, out)
		}
		r.WantAt(r.NextUsed + batch - 1) // the last of the batch
		if !r.Kick() {
			t.Fatalf("round %d: avail_event does not ask for a kick", i)
		}
		if g.Interrupt() != virtio.InterruptUsed {
			t.Fatalf("round %d: no interrupt at used_event", i)
		}
		if n := len(r.Collect()); n != int(batch) {
			t.Fatalf("round %d: %d chains used of %d", i, n, batch)
		}
		r.WantAt(r.NextUsed + 1) // one later than what comes now
		r.Add(in, out)
		r.Kick()
		if g.Interrupt() != 0 {
			t.Fatalf("round %d: interrupt before used_event", i)
		}
		r.Collect()
		r.WantAt(r.NextUsed - 1) // long past
		r.Add(in, out)
		r.Kick()
		if g.Interrupt() != 0 {
			t.Fatalf("round %d: interrupt for a used_event of the past", i)
		}
		r.Collect()
	}
	if !e.Running() {
		t.Error("the device failed")
	}
}

// A chain made available while the device has not asked for a kick is still
// found by the next one.
func TestNoKickNeeded(t *testing.T) {
	g, e := newEcho(t)
	e.hold = true
	g.Start(ringFeatures, 16)
	r := g.Rings[0]
	r.Add(g.Space(1))
	r.Kick()
	g.Write16(r.UsedRing+4+8*16, 5) // as if the device had asked for later ones
	for range 3 {
		r.Add(g.Space(1))
		if r.Kick() {
			t.Fatal("the test's driver ignores avail_event")
		}
	}
	r.Notify()
	if len(e.held) != 4 {
		t.Errorf("the device took %d chains of 4", len(e.held))
	}
}

// Without EVENT_IDX the flag of the available ring decides on interrupts.
func TestNoInterruptFlag(t *testing.T) {
	g, _ := newEcho(t)
	g.Start(0, 16)
	r := g.Rings[0]
	for flag := range uint16(2) {
		g.Write16(r.Avail, flag)
		r.Add(g.Space(1))
		r.Notify()
		if got := g.Interrupt() == 0; got != (flag == 1) {
			t.Errorf("flag %d: suppressed is %v", flag, got)
		}
	}
	if len(r.Collect()) != 2 {
		t.Error("suppression lost a chain")
	}
}

// Chains from before a reset, or from before the queue was stopped, are never
// written again, even when a queue stands in the same place.
func TestStaleChains(t *testing.T) {
	for _, c := range []struct {
		name string
		stop func(g *virtiotest.Guest)
	}{
		{"reset", func(g *virtiotest.Guest) { g.Store(virtio.RegStatus, 0) }},
		{"reset and restart", func(g *virtiotest.Guest) { g.Start(ringFeatures, 16) }},
		{"queue stopped", func(g *virtiotest.Guest) { g.Store(virtio.RegQueueReady, 0) }},
		{"queue restarted", func(g *virtiotest.Guest) {
			g.Store(virtio.RegQueueReady, 0)
			g.Store(virtio.RegQueueReady, 1)
		}},
	} {
		g, e := newEcho(t)
		e.hold = true
		g.Start(ringFeatures, 16)
		g.Rings[0].Add(g.Space(4))
		g.Rings[0].Kick()
		c.stop(g)
		before := g.Hash()
		if e.Queue(0).Scatter(e.held[0], 0, []byte("late")) {
			t.Errorf("%s: a stale chain can be written", c.name)
		}
		e.Queue(0).Push(e.held[0], 4)
		e.Queue(0).Flush()
		if g.Hash() != before {
			t.Errorf("%s: a stale chain left a trace", c.name)
		}
	}
}

// The driver is told of a change of the configuration, and can see by the
// generation that a read of several fields was torn.
func TestConfig(t *testing.T) {
	g, e := newEcho(t)
	g.Dev.Store(virtio.RegConfig+2, 2, 0xabcd)
	if got := g.Config(0, 8); got != 0xabcd0000 {
		t.Errorf("config is %#x", got)
	}
	if got := g.Config(6, 4); got != 0 {
		t.Errorf("beyond its end config is %#x", got)
	}
	g.Dev.Store(virtio.RegConfig+0xef8, 8, 1)
	gen := g.Load(virtio.RegConfigGeneration)
	e.ConfigChanged()
	if g.Load(virtio.RegConfigGeneration) == gen || g.Interrupt() != 0 {
		t.Error("without a driver: the generation stands still, or there is an interrupt")
	}
	g.Start(0, 16)
	e.ConfigChanged()
	if g.Interrupt() != virtio.InterruptConfig {
		t.Error("no interrupt for the change")
	}
}

// A saved transport goes on where it was, with its line; a state that can't be
// is refused.
func TestState(t *testing.T) {
	g, _ := newEcho(t)
	g.Start(ringFeatures, 16)
	g.Rings[0].Add(g.Data([]byte("x")), g.Space(1))
	g.Rings[0].Kick()
	snap := g.Snapshot()
	f, _ := newEcho(t)
	load := func(b []byte) error {
		c := state.Loader(bytes.NewReader(b))
		f.Dev.State(c)
		return c.Err()
	}
	if err := load(snap); err != nil || !f.Line {
		t.Fatalf("load: %v, line %v", err, f.Line)
	}
	if !bytes.Equal(f.Snapshot(), snap) {
		t.Error("what was loaded saves differently")
	}
	const features, num = 12, 32
	bad := bytes.Clone(snap)
	bad[features] |= 1 << 6
	if load(bad) == nil {
		t.Error("a feature that isn't offered was loaded")
	}
	bad = bytes.Clone(snap)
	binary.LittleEndian.PutUint16(bad[num:], 0)
	if load(bad) == nil {
		t.Error("a ready queue of size 0 was loaded")
	}
	f.Store(virtio.RegQueueNotify, 0) // must not divide by zero
	for n := range snap {
		if load(snap[:n]) == nil {
			t.Fatalf("a state cut to %d bytes was loaded", n)
		}
	}
}

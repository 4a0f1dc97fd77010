// SPDX-License-Identifier: Apache-2.0

package vopr

import (
	"encoding/binary"
	"hash/fnv"

	"tandem/machine/event"
	"tandem/sim"
	"tandem/world"
)

// checker holds what leaves a VM to what one machine could have said.
type checker struct {
	c *cluster
	v *vm

	newest      event.Epoch // that sent a frame
	by          *sim.Process
	incarnation event.Epoch // that booted last
	boot        uint64
	boots       map[uint64]bool
	answers     []uint64              // of this boot, by number: hash
	times       []uint64              // the same: guest's clock
	streams     map[[2]uint64]message // by client and request, of this boot
	newestOf    map[uint64]uint64     // by client: request answered last, of this boot
	requests    map[[2]uint64]uint64  // by incarnation and ID: hash
	began       world.Time            // the machine's clock, at 0
}

func newChecker(c *cluster, v *vm) *checker {
	return &checker{c: c, v: v, boots: map[uint64]bool{}, requests: map[[2]uint64]uint64{}}
}

func hash(b []byte) uint64 {
	h := fnv.New64a()
	h.Write(b)
	return h.Sum64()
}

// sent sees a frame as it leaves a process.
func (c *cluster) sent(v *sim.VM, p *sim.Process, epoch event.Epoch, b []byte) {
	for _, m := range c.vms {
		if m.VM == v {
			m.check.frame(p, epoch, b)
		}
	}
}

func (ch *checker) frame(p *sim.Process, epoch event.Epoch, b []byte) {
	w, mark := ch.c.w, ch.c.res.Marks.Add
	switch {
	case epoch < ch.newest:
		w.Breach("%s sends a frame in epoch %d, after %s did in epoch %d", p.Name, epoch, ch.by.Name, ch.newest)
	case epoch == ch.newest && p != ch.by:
		w.Breach("%s and %s send frames in epoch %d", p.Name, ch.by.Name, epoch)
	}
	over := epoch > ch.newest && ch.newest != 0
	ch.newest, ch.by = epoch, p
	if b[12] == 0x80 || b[12] == 8 { // it is announced where the VM is
		return
	}
	m, ok := parse(b)
	if !ok || m[wKind] != isTell|uint64(ch.v.id)<<8 {
		w.Breach("%s sends a frame that its guest can't have made: %x", p.Name, b)
		return
	}
	if m[wBoot] != ch.boot && !ch.newBoot(p, m) {
		return
	}
	n, sum := m[wOutput], hash(b)
	switch at := uint64(len(ch.answers)); {
	case n > at:
		w.Breach("%s sends answer %d, but %d never left", p.Name, n, at)
	case n < at && ch.answers[n] != sum:
		w.Breach("%s sends another answer %d than was sent before: %v", p.Name, n, m)
	case n < at:
		mark("an answer leaves twice")
	default:
		if over {
			mark("an answer leaves a new epoch first")
		}
		ch.answers, ch.times = append(ch.answers, sum), append(ch.times, m[wTime])
		ch.clock(p, m)
		ch.stream(p, m)
	}
}

// newBoot begins to check another boot of the guest, if there may be one.
func (ch *checker) newBoot(p *sim.Process, m message) bool {
	if ch.boots[m[wBoot]] {
		ch.c.w.Breach("%s answers as the guest of boot %x, which was over", p.Name, m[wBoot])
		return false
	}
	ch.boots[m[wBoot]] = true
	if len(ch.boots) > ch.v.boots {
		ch.c.w.Breach("%s has booted: %d boots, %d were asked for", p.Name, len(ch.boots), ch.v.boots)
	}
	ch.boot, ch.answers, ch.times = m[wBoot], nil, nil
	ch.streams, ch.newestOf = map[[2]uint64]message{}, map[uint64]uint64{}
	return true
}

// clock holds the guest's clock to the world's.
func (ch *checker) clock(p *sim.Process, m message) {
	if n := len(ch.times); n > 1 && ch.times[n-1] < ch.times[n-2] {
		ch.c.w.Breach("%s: the guest's clock goes back from %d to %d", p.Name, ch.times[n-2], ch.times[n-1])
	}
	guest, passed := world.Time(m[wTime])*100, ch.c.w.Now()-ch.began
	if ahead := guest - passed - passed/2000 - ch.c.jumped; ahead > ms {
		ch.c.w.Breach("%s: the guest's clock is %d ms ahead of the world's", p.Name, ahead/ms)
	}
}

// stream holds the bytes of a client's stream to what was sent of them before.
func (ch *checker) stream(p *sim.Process, m message) {
	client, n := m[wClient], m[wN]
	last := ch.streams[[2]uint64{client, ch.newestOf[client]}]
	was, repeat := ch.streams[[2]uint64{client, n}]
	switch {
	case repeat:
		ch.c.res.Marks.Add("a client's bytes are sent again")
		for _, i := range []int{wOp, wKey, wValue, wResult, wSeq, wLen, wBytes, wBytes + 1, wBytes + 2, wBytes + 3} {
			if m[i] != was[i] {
				ch.c.w.Breach("%s sends client %d other bytes for request %d: %v, not %v", p.Name, client, n, m, was)
				return
			}
		}
	case last[wKind] != 0 && (n <= last[wN] || m[wSeq] != last[wSeq]+last[wLen]):
		ch.c.w.Breach("%s sends client %d bytes from %d for request %d, after %d bytes from %d for request %d",
			p.Name, client, m[wSeq], n, last[wLen], last[wSeq], last[wN])
	default:
		ch.newestOf[client] = n
	}
	ch.streams[[2]uint64{client, n}] = m
}

// wrote sees a write as it is submitted to the disk.
func (ch *checker) wrote(p *sim.Process, epoch event.Epoch, q event.DiskRequest) {
	key := [2]uint64{uint64(ch.incarnation), q.ID}
	b := binary.LittleEndian.AppendUint64([]byte{byte(q.Op)}, q.Offset)
	sum := hash(append(binary.LittleEndian.AppendUint64(b, q.Length), q.Data...))
	was, again := ch.requests[key]
	switch {
	case again && was != sum:
		ch.c.w.Breach("%s writes something else as request %d than was written before", p.Name, q.ID)
	case again:
		ch.c.res.Marks.Add("a write is issued again")
	}
	ch.requests[key] = sum
}

// SPDX-License-Identifier: Apache-2.0

package vopr

import (
	"encoding/binary"

	"github.com/anishathalye/porcupine"

	"tandem/sim"
	"tandem/vswitch"
	"tandem/world"
)

// Words of the service's frames; see machinetest/testdata/service.c.
const (
	wKind = iota
	wClient
	wN
	wOp
	wKey
	wValue
	wResult
	wOutput
	wTime
	wBoot
	wSeq
	wLen
	wBytes
	wHash = 16
	wSum  = 17
	words = 18

	header = 14
	isAsk  = 1 // and the VM, times 256
	isTell = 2
	keys   = 8
)

type message [words]uint64

func checksum(w []uint64) uint64 {
	h := uint64(0xcbf29ce484222325)
	for _, x := range w {
		h = (h^x)*0x5851f42d4c957f2d + h>>31
	}
	return h
}

// parse returns the message in a frame, if it is whole.
func parse(b []byte) (m message, ok bool) {
	if len(b) < header+8*words || b[12] != 0x88 {
		return m, false
	}
	for i := range m {
		m[i] = binary.LittleEndian.Uint64(b[header+8*i:])
	}
	return m, m[wSum] == checksum(m[:wSum])
}

// client asks one thing after the other, each until it is answered.
type client struct {
	c        *cluster
	v        *vm
	id       int
	send     func([]byte)
	n        uint64
	op       operation
	asked    world.Time
	waiting  bool
	answered int
	past     []porcupine.Operation
}

// operation is what a client asks: a read of a key, or a store that gives the value before.
type operation struct {
	store      bool
	key, value uint64
}

func (c *cluster) newClient(v *vm, id int) *client {
	l := &client{c: c, v: v, id: id}
	l.send = c.sw.Station(vswitch.MAC{2, 0xc, byte(v.id), 0, 0, byte(id)}, v.LAN, l.receive)
	v.clients = append(v.clients, l)
	return l
}

// next asks something new after a while.
func (l *client) next() {
	l.c.w.After(l.c.upTo(l.c.plan.think), func() {
		l.n++
		l.op = operation{!l.c.one(3), uint64(l.c.chance().IntN(l.c.plan.keys)), l.n<<8 | uint64(l.id)}
		l.asked, l.waiting = l.c.w.Now(), true
		l.ask(l.n, 20*ms)
	})
}

// ask sends the request, and again later and later.
func (l *client) ask(n uint64, wait world.Time) {
	if n != l.n || !l.waiting {
		return
	}
	m := message{wKind: isAsk | uint64(l.v.id)<<8, wClient: uint64(l.id), wN: n, wKey: l.op.key, wValue: l.op.value}
	if l.op.store {
		m[wOp] = 1
	}
	m[wSum] = checksum(m[:wSum])
	b := append([]byte(nil), l.v.MAC[:]...)
	b = append(b, 2, 0xc, byte(l.v.id), 0, 0, byte(l.id), 0x88, 0xb5)
	for _, x := range m {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	l.send(b)
	l.c.w.After(wait, func() { l.ask(n, min(2*wait, 300*ms)) })
}

func (l *client) receive(b []byte) {
	m, ok := parse(b)
	if !ok || m[wKind] != isTell|uint64(l.v.id)<<8 || m[wClient] != uint64(l.id) || m[wN] != l.n || !l.waiting {
		return
	}
	if m[wKey] != l.op.key || m[wOp] == 1 != l.op.store || m[wValue] != l.op.value {
		l.c.w.Breach("client %d asked %+v and was told of %v", l.id, l.op, m)
	}
	l.past = append(l.past, porcupine.Operation{ClientId: l.id, Input: l.op, Output: m[wResult], Call: int64(l.asked), Return: int64(l.c.w.Now())})
	l.waiting = false
	l.answered++
	l.c.res.Answers++
	l.next()
}

// store is the service as porcupine knows it: a value for each key.
var store = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		parts := make([][]porcupine.Operation, keys)
		for _, o := range all {
			k := o.Input.(operation).key
			parts[k] = append(parts[k], o)
		}
		return parts
	},
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		op := input.(operation)
		if output != nil && output != state {
			return false, state
		}
		if op.store {
			return true, op.value
		}
		return true, state
	},
}

// history holds all that the clients saw to the model.
func (ch *checker) history(c *cluster) {
	var all []porcupine.Operation
	for _, l := range ch.v.clients {
		all = append(all, l.past...)
		if l.waiting { // it may have happened
			all = append(all, porcupine.Operation{ClientId: l.id, Input: l.op, Output: nil, Call: int64(l.asked), Return: int64(c.w.Now() + sim.Second)})
		}
	}
	if !porcupine.CheckOperations(store, all) {
		c.w.Breach("what the clients of %s saw is not linearizable: an acknowledged store was lost, or undone", ch.v.Name)
	}
}

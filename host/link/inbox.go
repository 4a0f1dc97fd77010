// SPDX-License-Identifier: Apache-2.0

package link

import (
	"sync"
	"sync/atomic"

	"tandem/world"
)

const (
	maxDatagrams = 64      // waiting; more are dropped
	itemCost     = 64      // counted beside the bytes of a packet
	connectCost  = 4 << 10 // so that connections that come and go are bounded too
)

// inbox is the queue between the goroutines that read sockets and Recv. Whoever
// puts a packet that has no room waits, and so TCP makes the peer wait.
type inbox struct {
	wake  func()
	limit int
	count atomic.Int64 // of items: Recv is polled often and mostly in vain

	mu        sync.Mutex
	room      sync.Cond
	items     []item
	first     int // in items
	bytes     int
	datagrams int
	closed    bool
}

type item struct {
	ev   world.ChannelEvent
	conn *conn // nil for heartbeats
}

func (it item) cost() int {
	switch it.ev.Kind {
	case world.Connected:
		return connectCost
	case world.Packet:
		return len(it.ev.Data) + itemCost
	}
	return 0
}

func (in *inbox) init(limit int, wake func()) {
	in.limit, in.wake = limit, wake
	in.room.L = &in.mu
}

// put appends an event of a connection once there is room. It returns false if the
// link was closed, or the connection hung up.
func (in *inbox) put(it item) bool {
	cost := it.cost()
	in.mu.Lock()
	for cost > 0 && in.bytes > 0 && in.bytes+cost > in.limit && !in.closed && !it.conn.hung.Load() {
		in.room.Wait()
	}
	ok := !in.closed && !it.conn.hung.Load()
	if ok {
		in.bytes += cost
		in.append(it)
	}
	in.mu.Unlock()
	if ok {
		in.wake()
	}
	return ok
}

// offer appends what came by UDP, or drops it.
func (in *inbox) offer(ev world.ChannelEvent) {
	in.mu.Lock()
	ok := !in.closed && in.datagrams < maxDatagrams
	if ok {
		in.datagrams++
		in.append(item{ev: ev})
	}
	in.mu.Unlock()
	if ok {
		in.wake()
	}
}

func (in *inbox) append(it item) {
	in.items = append(in.items, it)
	in.count.Add(1)
}

func (in *inbox) get() (item, bool) {
	if in.count.Load() == 0 {
		return item{}, false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.first == len(in.items) {
		return item{}, false
	}
	it := in.items[in.first]
	in.items[in.first] = item{}
	if in.first++; in.first == len(in.items) {
		in.items, in.first = in.items[:0], 0
	} else if in.first >= 1024 && in.first*2 >= len(in.items) {
		in.items, in.first = append(in.items[:0], in.items[in.first:]...), 0
	}
	in.count.Add(-1)
	if in.bytes -= it.cost(); it.conn == nil {
		in.datagrams--
	}
	in.room.Broadcast()
	return it, true
}

// refresh lets those who wait for room look again.
func (in *inbox) refresh() {
	in.mu.Lock()
	in.room.Broadcast()
	in.mu.Unlock()
}

func (in *inbox) close() {
	in.mu.Lock()
	in.closed = true
	in.items, in.first, in.bytes = nil, 0, 0
	in.count.Store(0)
	in.room.Broadcast()
	in.mu.Unlock()
}

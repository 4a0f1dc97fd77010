// SPDX-License-Identifier: Apache-2.0

package link

import (
	"time"

	"golang.org/x/sys/unix"

	"tandem/world"
)

// A peer that says nothing may be dead, or its host, or the way there. Or its process
// waits for a CPU, or was stopped for a moment, while its host's kernel still takes what
// we send and acknowledges it. A dead process would have been answered for by a reset.
// So while nothing is heard frames without a packet are sent, and TCP is asked when it last had an
// acknowledgement: one that is younger than the last word is a Breath.
//
// Such a frame is a question to the kernel only. It is no sign of life: it comes from
// here, and not from the loop that must be alive.
const (
	breathEvery = 40 * time.Millisecond
	quiet       = 2 * breathEvery // heard of before that is no silence
)

// heard notes that something came from the peer, on either socket.
func (l *Link) heard() { l.last.Store(int64(time.Since(l.born))) }

func (l *Link) silence() time.Duration {
	return time.Since(l.born) - time.Duration(l.last.Load())
}

// breathe listens for the peer's kernel until the connection ends.
func (c *conn) breathe() {
	t := time.NewTicker(breathEvery)
	defer t.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-t.C:
		}
		silence := c.link.silence()
		if silence < quiet || c.hung.Load() {
			continue
		}
		// TCP counts in milliseconds and ticks.
		if since, ok := c.socket.acknowledged(); ok && since < silence-breathEvery/2 && since < quiet {
			c.link.inbox.put(item{conn: c, ev: world.ChannelEvent{Kind: world.Breath}})
		}
		c.out.nudge()
	}
}

// acknowledged is how long ago the peer's kernel acknowledged anything.
func (s *socket) acknowledged() (since time.Duration, ok bool) {
	err := s.raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if ok = err == nil; ok {
			since = time.Duration(info.Last_ack_recv) * time.Millisecond
		}
	})
	return since, ok && err == nil
}

// nudge sends a frame without a packet, if nothing else waits to leave.
func (s *sender) nudge() {
	if s.failed.Load() || s.backlog() > 0 {
		return
	}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return
	}
	s.queue = append(s.queue, nil)
	s.mu.Unlock()
	s.waiting.Add(headSize)
	s.rouse()
}

// SPDX-License-Identifier: Apache-2.0

package ft

import "tandem/machine/event"

// Output is an external output that the machine has emitted, to be released in
// its turn.
type Output struct {
	ID   event.OutputID
	Mark event.Seq // of its OutputMark
	Size int       // bytes that wait with it
	Exit bool      // the VM has ended with it
}

// held is the queue of outputs that may not leave yet, in the order of their IDs
// and of their marks.
type held struct {
	queue []Output
	bytes int
	last  event.OutputID // that was ever held
	mark  event.Seq      // its mark

	released event.OutputID
	since    Time // an output was released that was not noted
	count    int  // outputs released that were not noted
}

func (h *held) push(o Output) {
	h.queue = append(h.queue, o)
	h.bytes += o.Size
	h.last, h.mark = o.ID, o.Mark
}

// pop releases what is marked at or before an entry. It reports whether the VM
// has ended with the last of it.
func (h *held) pop(now Time, limit event.Seq) (exit bool) {
	n := 0
	for n < len(h.queue) && h.queue[n].Mark <= limit {
		exit = exit || h.queue[n].Exit
		h.bytes -= h.queue[n].Size
		n++
	}
	if n == 0 {
		return false
	}
	if h.count == 0 {
		h.since = now
	}
	h.released = h.queue[n-1].ID
	h.count += n
	h.queue = h.queue[n:]
	return exit
}

// note marks what is released as told to the backup.
func (h *held) note() event.Released {
	h.count = 0
	return event.Released{Last: h.released}
}

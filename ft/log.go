// SPDX-License-Identifier: Apache-2.0

package ft

import (
	"fmt"

	"tandem/machine/event"
)

// entryOverhead is what an entry takes besides its payload, in bytes.
const entryOverhead = 96

// Size is the memory that an entry takes, in bytes. Both sides bound their
// buffers by it.
func Size(e event.Entry) int {
	n := entryOverhead
	switch in := e.Input.(type) {
	case event.Frames:
		for i := range in.Frames {
			n += len(in.Frames[i].Data) + 40
		}
	case event.DiskDone:
		n += len(in.Data)
	case event.ConsoleIn:
		n += len(in.Data)
	case event.Entropy:
		n += len(in.Data)
	}
	return n
}

// window is the part of the log that the backup has not executed yet (paper
// §3.2). Entries keep their payload until they are acknowledged.
//
//	executed ≤ acked ≤ sent ≤ last
type window struct {
	records               []record // of the entries executed+1 … last
	executed, acked, sent event.Seq
	last                  event.Seq
	group                 struct{ acked, sent, last event.Seq } // the last go-live entries up to these
	bytes, ahead          int                                   // Size of records; of those up to sent
}

type record struct {
	entry event.Entry
	size  int
	at    Time // when it was written
}

// newWindow begins a log after entry last, which the backup's snapshot contains.
func newWindow(last event.Seq) window {
	w := window{executed: last, acked: last, sent: last, last: last}
	w.group.acked, w.group.sent, w.group.last = last, last, last
	return w
}

func (w *window) push(now Time, e event.Entry) {
	r := record{entry: e, size: Size(e), at: now}
	w.records = append(w.records, r)
	w.bytes += r.size
	w.last = e.Seq
	if e.GoLive {
		w.group.last = e.Seq
	}
}

func (w *window) record(seq event.Seq) *record { return &w.records[seq-w.executed-1] }

// next takes the entries of the next message: no more than batch bytes, if it is
// more than one, and no more than a backup can take that keeps room bytes.
func (w *window) next(batch, room int) []event.Entry {
	var out []event.Entry
	for size := 0; w.sent < w.last; {
		r := w.record(w.sent + 1)
		if len(out) > 0 && size+r.size > batch || w.ahead > 0 && w.ahead+r.size > room {
			break
		}
		out = append(out, r.entry)
		size += r.size
		w.ahead += r.size
		w.sent++
		if r.entry.GoLive {
			w.group.sent = w.sent
		}
	}
	return out
}

// waiting returns the bytes that wait to be sent, and since when.
func (w *window) waiting() (bytes int, since Time) {
	if w.sent == w.last {
		return 0, Never
	}
	return w.bytes - w.ahead, w.record(w.sent + 1).at
}

// ack notes what the backup has received and executed, and reports whether either
// is news.
func (w *window) ack(received, executed event.Seq) (progress bool, err error) {
	if received > w.sent || executed > max(received, w.acked) {
		return false, fmt.Errorf("the backup acknowledges entries up to %d and has executed %d, of %d that were sent",
			received, executed, w.sent)
	}
	for w.acked < received {
		progress = true
		w.acked++
		r := w.record(w.acked)
		if r.entry.GoLive {
			w.group.acked = w.acked
		}
		r.entry.Input = nil
	}
	for w.executed < executed {
		progress = true
		w.bytes -= w.records[0].size
		w.ahead -= w.records[0].size
		w.records = w.records[1:]
		w.executed++
	}
	return progress, nil
}

// resume goes back to the last entry that arrived before the channel broke.
func (w *window) resume(received event.Seq) error {
	if received < w.acked || received > w.sent {
		return fmt.Errorf("the backup has entries up to %d; %d were acknowledged and %d sent", received, w.acked, w.sent)
	}
	w.sent, w.group.sent = w.acked, w.group.acked
	w.ahead = 0
	for seq := w.executed + 1; seq <= received; seq++ {
		r := w.record(seq)
		w.ahead += r.size
		if w.sent < seq {
			w.sent = seq
			if r.entry.GoLive {
				w.group.sent = seq
			}
		}
	}
	return nil
}

// lag is the execution lag: from the first entry that was not executed to the
// last one that can be. A busy primary writes one every 2 ms at least.
func (w *window) lag() Time {
	if w.executed >= w.group.last {
		return 0
	}
	return w.record(w.group.last).at - w.records[0].at
}

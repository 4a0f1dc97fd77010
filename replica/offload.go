// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"tandem/machine/event"
	"tandem/replay"
	"tandem/vswitch"
)

// Bounds of what a network can bring in one turn.
const (
	maxFramesPerEntry = 64        // and read from a network at once
	maxFrameBytes     = 256 << 10 // read at once: about what a driver's buffers take
	maxSegments       = 1400      // of a frame: 64 KiB at Linux' smallest segment, 48 bytes
	maxFitted         = 4096      // frames
)

// fit prepares received frames for a driver that did not agree to offloads: it
// gets whole frames with their checksums. Frames that the log can't carry, and
// more segments than any driver has room for, are dropped, as networks do.
func (r *Replica) fit(slot event.DeviceID, frames []event.Frame) []event.Frame {
	o := r.m.Offloads(slot)
	var out []event.Frame
	for _, f := range frames {
		if !loggable(f) || len(out) >= maxFitted {
			continue
		}
		big := f.Offload.GSOType&^0x80 != 0
		tso := f.Offload.GSOType == 1 && o.TSO4 || f.Offload.GSOType == 4 && o.TSO6
		if (!big || tso) && (o.CSum || f.Offload.Flags&1 == 0) {
			out = append(out, f)
			continue
		}
		if big && len(f.Data) > maxSegments*int(f.Offload.GSOSize) {
			continue
		}
		vswitch.Segment(f, func(b []byte) { out = append(out, event.Frame{Data: b}) })
	}
	return out
}

// loggable reports whether an entry can carry a frame.
func loggable(f event.Frame) bool {
	switch f.Offload.GSOType {
	case 0, 1, 4, 0x81, 0x84:
		return f.Offload.Flags <= 3 && len(f.Data) <= replay.MaxFrame
	}
	return false
}

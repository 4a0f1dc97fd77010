// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"tandem/machine/event"
	"tandem/vswitch"
)

// fit prepares received frames for a driver that did not agree to offloads: it
// gets whole frames with their checksums.
func (r *Replica) fit(slot event.DeviceID, frames []event.Frame) []event.Frame {
	o := r.m.Offloads(slot)
	out := frames[:0:0]
	for _, f := range frames {
		big := f.Offload.GSOType&^0x80 != 0
		tso := f.Offload.GSOType == 1 && o.TSO4 || f.Offload.GSOType == 4 && o.TSO6
		if (!big || tso) && (o.CSum || f.Offload.Flags&1 == 0) {
			out = append(out, f)
			continue
		}
		vswitch.Segment(f, func(b []byte) { out = append(out, event.Frame{Data: b}) })
	}
	return out
}

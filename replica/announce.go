// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"slices"

	"tandem/ft"
	"tandem/machine/event"
	"tandem/vswitch"
)

// maxAddresses is how many of a guest's IPv4 addresses are remembered.
const maxAddresses = 16

// announceGaps are the times between the announcements of a VM that went live:
// the first may be lost, and switches that were busy then are reached later.
var announceGaps = []ft.Time{50 * ft.Millisecond, 200 * ft.Millisecond, ft.Second, 4 * ft.Second}

// announceAgain is when it is tried again, if this copy may not speak for the VM.
const announceAgain = 20 * ft.Millisecond

// announcer tells the network where a VM's MAC addresses are now (paper §2.3): by
// RARP, and by gratuitous ARP for the addresses that the guest was seen to use.
type announcer struct {
	known []address // of the guest, learned from what it sent
	left  []ft.Time // gaps before the announcements still to come
	next  ft.Time
}

type address struct {
	device event.DeviceID
	ip     [4]byte
}

// learn looks at a frame that the guest sent.
func (a *announcer) learn(f event.FrameOut) {
	ip, ok := vswitch.SourceIPv4(f.Frame.Data)
	if k := (address{f.Device, ip}); ok && len(a.known) < maxAddresses && !slices.Contains(a.known, k) {
		a.known = append(a.known, k)
	}
}

// beginAnnouncing announces at once, and again after each gap.
func (r *Replica) beginAnnouncing() {
	r.announcer.left, r.announcer.next = announceGaps, r.now
	r.announce()
}

// announce sends what is due, unless another copy may be the VM by now: a primary that
// was stopped and wakes must not draw the VM's frames to itself.
func (r *Replica) announce() {
	a := &r.announcer
	if a.next == ft.Never || r.now < a.next {
		return
	}
	if !r.p.MayEmit(r.now) {
		a.next = r.now + announceAgain
		return
	}
	for slot, n := range r.devices.Networks {
		if n == nil {
			continue
		}
		mac := vswitch.MAC(r.m.Config().Devices[slot].MAC)
		n.Send(event.Frame{Data: vswitch.Announce(mac)})
		for _, k := range a.known {
			if int(k.device) == slot {
				n.Send(event.Frame{Data: vswitch.GratuitousARP(mac, k.ip)})
			}
		}
	}
	a.next = ft.Never
	if len(a.left) > 0 {
		a.next, a.left = r.now+a.left[0], a.left[1:]
	}
}

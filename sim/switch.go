// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"tandem/machine/event"
	"tandem/vswitch"
)

// Switch joins the LANs of VMs and stations of others by the real forwarding of
// package vswitch. It outlives all hosts.
type Switch struct {
	// Sent, if set, sees each frame as it leaves a process of a VM for the wire.
	Sent func(v *VM, p *Process, epoch event.Epoch, b []byte)

	w     *World
	sw    *vswitch.Switch
	ports map[vswitch.PortID]func([]byte)
}

// Switch returns a switch without ports.
func (w *World) Switch() *Switch {
	return &Switch{Sent: func(*VM, *Process, event.Epoch, []byte) {}, w: w, sw: vswitch.New(), ports: map[vswitch.PortID]func([]byte){}}
}

// Plug puts a VM's LAN onto the switch, before the VM starts.
func (s *Switch) Plug(v *VM) { v.LAN.sw = s }

// Station adds somebody else, whose cable has a LAN's faults; what he gets goes to
// receive. The function returned sends his frames.
func (s *Switch) Station(mac vswitch.MAC, cable *LAN, receive func([]byte)) (send func([]byte)) {
	id, _, err := s.sw.Open(s.now(), vswitch.Attachment{Role: vswitch.Uplink, MAC: mac})
	if err != nil {
		panic(err)
	}
	s.ports[id] = func(b []byte) { cable.travel(b, receive) }
	return func(b []byte) { cable.travel(b, func(b []byte) { s.forward(id, b) }) }
}

func (s *Switch) now() vswitch.Time { return vswitch.Time(s.w.now) }

// open is the hello of a VM's primary.
func (s *Switch) open(p *Port) {
	id, closed, err := s.sw.Open(s.now(), vswitch.Attachment{VM: p.l.v.Name, Epoch: p.site.epoch, Role: vswitch.Primary, MAC: p.l.v.MAC})
	if err != nil {
		s.w.Breach("%s finds no port: %v", p.site.p.Name, err)
	}
	for _, old := range closed {
		delete(s.ports, old)
	}
	p.id = id
	s.ports[id] = func(b []byte) { p.l.travel(b, func(b []byte) { p.deliver(event.Frame{Data: b}) }) }
}

func (s *Switch) sent(p *Port, b []byte) { s.Sent(p.l.v, p.site.p, p.site.epoch, b) }

func (s *Switch) forward(from vswitch.PortID, b []byte) {
	for _, id := range s.sw.Forward(s.now(), from, b, nil) {
		if to := s.ports[id]; to != nil {
			to(b)
		}
	}
}

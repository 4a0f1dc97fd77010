// SPDX-License-Identifier: Apache-2.0

// Package vswitch is a learning Ethernet switch as a function of frames.
//
// A frame and its port go in, the ports that must have it come out; time is a
// count given with each call. What a physical switch does for the paper's
// prototype (§3.4: the MAC address moves to the backup as it goes live) this
// one does with epochs: a port belongs to a VM and an epoch, and a newer epoch
// of the VM fences the older ones (design §5.4).
//
//	Open(Primary, 1) ──► forwards ── epoch 2 of the VM opens ──► closed
//	Open(Backup, 1)  ──► silent ─── Activate(2) ──► forwards, and epoch 1 is closed
//
// The invariant: a VM's epoch never goes back, and only ports of its newest
// epoch send or receive. The caller delivers frames and holds whatever lock it
// needs; a Switch does not lock.
package vswitch

import (
	"errors"
	"fmt"

	"tandem/machine/event"
)

// MAC is an Ethernet address.
type MAC [6]byte

// Broadcast is the address of every station.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// group reports a multicast or broadcast address (IEEE 802.3 §3.2.3).
func (m MAC) group() bool { return m[0]&1 != 0 }

// reserved reports an address that a bridge never forwards (IEEE 802.1D table 7-10).
func (m MAC) reserved() bool {
	return m[0] == 0x01 && m[1] == 0x80 && m[2] == 0xc2 && m[3] == 0 && m[4] == 0 && m[5] < 0x10
}

// Time is a count of nanoseconds from any start; it must not go back.
type Time int64

// Bounds, so that no guest and no peer can make a switch grow without end.
const (
	MaxPorts     = 1024
	MaxVMs       = 65536 // remembered epochs; those without a port give way
	MaxAddresses = 64    // learned per port: a flood of addresses costs only its sender
	MaxVMID      = 255   // bytes

	// AddressAge is how long an address is kept without a frame from it: 300 s,
	// the recommended ageing time of IEEE 802.1D table 7-5.
	AddressAge Time = 300e9
)

// Role is what a port may do.
type Role uint8

const (
	Uplink  Role = iota + 1 // the network's own services; it has no VM and no epoch
	Primary                 // sends and receives
	Backup                  // silent until it activates its epoch
)

func (r Role) String() string {
	switch r {
	case Uplink:
		return "uplink"
	case Primary:
		return "primary"
	case Backup:
		return "backup"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// Attachment says whose port it is.
type Attachment struct {
	VM    string      // of an uplink: empty
	Epoch event.Epoch // of a backup: the epoch of the log that it follows, or the one it may claim
	Role  Role
	MAC   MAC // of the network device; while the port forwards no other may use it
}

// PortID names a port for as long as the switch lives; it is never used again.
type PortID uint32

// Errors that Open and Activate wrap.
var (
	// ErrStale says that a newer epoch of the VM has been seen. It is final.
	ErrStale = errors.New("a newer epoch of this VM is attached, so this copy has been replaced and must stop")
	ErrFull  = errors.New("no port is free: detach a VM or start a second switch")
)

// Switch is the forwarding state. Use New.
type Switch struct {
	last  PortID
	ports []*port // in the order they were opened
	byID  map[PortID]*port
	table map[MAC]place
	vms   map[string]*vm
	order []string // the keys of vms, for giving way in turn
	hand  int
}

type port struct {
	Attachment
	id      PortID
	learned []MAC // addresses whose place in the table is this port
	hand    int   // the next to give way
	Counters
}

// Counters of a port, from the switch's side.
type Counters struct {
	Forwarded uint64 // frames taken from the port and passed on
	Dropped   uint64 // frames taken from the port and not passed on
}

type vm struct {
	epoch event.Epoch // the newest that was ever active
	ports int
}

// New returns a switch without ports.
func New() *Switch {
	return &Switch{byID: map[PortID]*port{}, table: map[MAC]place{}, vms: map[string]*vm{}}
}

// Open attaches a port. A primary of a newer epoch fences the ports of older
// ones, and a primary that comes again (same VM, epoch and MAC) replaces its
// old port; closed lists them. Frames already forwarded must have arrived
// before the caller tells the new port that it is open.
func (s *Switch) Open(now Time, a Attachment) (id PortID, closed []PortID, err error) {
	if err := s.admit(a); err != nil {
		return 0, nil, err
	}
	if a.Role != Uplink {
		s.remember(a.VM).ports++
	}
	s.last++
	p := &port{Attachment: a, id: s.last}
	s.ports = append(s.ports, p)
	s.byID[p.id] = p
	if a.Role != Backup {
		closed = s.activate(now, p)
	}
	return p.id, closed, nil
}

// admit says why an attachment can't be opened, if it can't.
func (s *Switch) admit(a Attachment) error {
	if a.MAC.group() {
		return fmt.Errorf("MAC %v is a group address: the first byte must be even", a.MAC)
	}
	if a.Role == Uplink {
		return nil
	}
	if a.Role != Primary && a.Role != Backup {
		return fmt.Errorf("%v is unknown: use primary or backup", a.Role)
	}
	if len(a.VM) == 0 || len(a.VM) > MaxVMID {
		return fmt.Errorf("the VM id is %d bytes long: give 1 to %d", len(a.VM), MaxVMID)
	}
	if a.Epoch == 0 {
		return errors.New("epoch 0 is not an epoch: they count from 1")
	}
	if v := s.vms[a.VM]; v != nil && a.Epoch < v.epoch {
		return fmt.Errorf("VM %q epoch %d: %w (epoch %d)", a.VM, a.Epoch, ErrStale, v.epoch)
	}
	if len(s.ports) >= MaxPorts && !s.replaces(a) {
		return ErrFull
	}
	for _, p := range s.ports {
		if p.MAC == a.MAC && p.VM != a.VM && a.MAC != (MAC{}) {
			return fmt.Errorf("MAC %v is in use by %v: give each network device its own", a.MAC, p.owner())
		}
	}
	return nil
}

func (p *port) owner() string {
	if p.Role == Uplink {
		return "the network's gateway"
	}
	return fmt.Sprintf("VM %q", p.VM)
}

// replaces reports whether opening a primary frees at least one port.
func (s *Switch) replaces(a Attachment) bool {
	for _, p := range s.ports {
		if a.Role == Primary && p.endsFor(a) {
			return true
		}
	}
	return false
}

// endsFor reports whether p must close because the port a became active: it is
// of an older epoch of that VM, or an earlier connection of the same device.
func (p *port) endsFor(a Attachment) bool {
	return p.Role == Primary && p.VM == a.VM && (p.Epoch < a.Epoch || p.MAC == a.MAC)
}

// remember returns the record of a VM; when there are too many, one without ports gives way.
func (s *Switch) remember(name string) *vm {
	v := s.vms[name]
	if v != nil {
		return v
	}
	v = &vm{}
	s.vms[name] = v
	if len(s.order) < MaxVMs {
		s.order = append(s.order, name)
		return v
	}
	// MaxPorts < MaxVMs, so the search ends.
	for s.vms[s.order[s.hand]].ports > 0 {
		s.hand = (s.hand + 1) % MaxVMs
	}
	delete(s.vms, s.order[s.hand])
	s.order[s.hand] = name
	s.hand = (s.hand + 1) % MaxVMs
	return v
}

// Activate makes a port the active one of its VM in an epoch, as a replica does
// after it has won the claim. Ports of older epochs are fenced: closed lists
// them, and the caller answers only after their last frames have arrived.
// A repeat is harmless.
func (s *Switch) Activate(now Time, id PortID, epoch event.Epoch) (closed []PortID, err error) {
	p := s.byID[id]
	if p == nil || p.Role == Uplink {
		return nil, fmt.Errorf("port %d can't be activated: it is closed or an uplink", id)
	}
	if v := s.vms[p.VM]; epoch < v.epoch || epoch == 0 {
		return nil, fmt.Errorf("VM %q epoch %d: %w (epoch %d)", p.VM, epoch, ErrStale, v.epoch)
	}
	p.Role, p.Epoch = Primary, epoch
	return s.activate(now, p), nil
}

// activate fences for p and gives it the addresses of the ports it replaces.
func (s *Switch) activate(now Time, p *port) (closed []PortID) {
	if p.Role == Primary {
		s.vms[p.VM].epoch = p.Epoch
		for _, old := range append([]*port(nil), s.ports...) {
			if old != p && old.endsFor(p.Attachment) {
				closed = append(closed, old.id)
				s.moveAll(now, old, p)
				s.Close(old.id)
			}
		}
	}
	if p.MAC != (MAC{}) {
		s.place(now, p, p.MAC)
	}
	return closed
}

// Close detaches a port. The VM's epoch is remembered.
func (s *Switch) Close(id PortID) {
	p := s.byID[id]
	if p == nil {
		return
	}
	for len(p.learned) > 0 {
		s.remove(p.learned[0])
	}
	delete(s.byID, id)
	for i, q := range s.ports {
		if q == p {
			s.ports = append(s.ports[:i], s.ports[i+1:]...)
			break
		}
	}
	if p.Role != Uplink {
		s.vms[p.VM].ports--
	}
}

// Forward takes one frame from a port and appends to out the ports that must
// have it. A silent or closed port forwards nothing.
func (s *Switch) Forward(now Time, from PortID, frame []byte, out []PortID) []PortID {
	p := s.byID[from]
	if p == nil {
		return out
	}
	n := len(out)
	if p.Role != Backup && len(frame) >= headerLen && s.learn(now, p, frame) {
		out = s.route(now, p, MAC(frame[0:6]), out)
	}
	if len(out) > n {
		p.Forwarded++
	} else {
		p.Dropped++
	}
	return out
}

func (s *Switch) route(now Time, p *port, dst MAC, out []PortID) []PortID {
	if dst.reserved() {
		return out
	}
	if !dst.group() {
		if to := s.lookup(now, dst); to == p {
			return out
		} else if to != nil {
			return append(out, to.id)
		}
	}
	for _, q := range s.ports {
		if q != p && q.Role != Backup {
			out = append(out, q.id)
		}
	}
	return out
}

// Info describes a port.
type Info struct {
	ID PortID
	Attachment
	Addresses []MAC
	Counters
}

// Ports lists the open ports in the order they were opened.
func (s *Switch) Ports() []Info {
	var out []Info
	for _, p := range s.ports {
		out = append(out, Info{p.id, p.Attachment, append([]MAC(nil), p.learned...), p.Counters})
	}
	return out
}

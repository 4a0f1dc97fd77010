// SPDX-License-Identifier: Apache-2.0

// Package world names what a replica needs from outside: a clock, a channel to
// its peer, disks, a network, a terminal, entropy and an arbiter. There are two
// worlds: package host is the real one, package sim a seeded one in which whole
// clusters run on one goroutine.
//
// A replica is polled. No method waits: what takes time is begun by one call and
// its outcome is fetched by another, and the world calls the wake function that
// it was given when there may be something to fetch. So a replica is a single
// loop of turns, the same in both worlds.
package world

import "tandem/machine/event"

// Time is a count of nanoseconds that never runs backward on one host.
type Time int64

// Clock tells the time.
type Clock interface {
	Now() Time
	// Wall is Unix time in nanoseconds.
	Wall() uint64
}

// Entropy fills b with random bytes.
type Entropy interface{ Fill(b []byte) }

// Channel is the logging channel between the two replicas of a VM, with the
// datagrams of its heartbeats: authenticated on both sides, and encrypted.
// Packets arrive whole and in order until the channel ends; datagrams may be
// lost.
type Channel interface {
	// Send queues a packet of at most MaxPacket bytes; it keeps b. What is queued
	// leaves at Flush.
	Send(b []byte)
	Flush()
	// Backlog is the number of bytes queued and not yet taken by the network.
	Backlog() int
	// Recv returns the next event, ok false if there is none now.
	Recv() (ev ChannelEvent, ok bool)
	// Hurry says whether something waits for the next event, so that Recv should look
	// for it itself: being told may take another thread.
	Hurry(on bool)
	// Beat sends a heartbeat datagram; the payload is authenticated by the caller.
	Beat(b []byte)
	// Key is a secret that both ends of the present connection derived from it.
	Key() [32]byte
	// Redial asks for a new connection after the end of one: the side that dials
	// dials again, the other listens.
	Redial()
	// Welcome makes this side the one that listens: it belongs to a primary now, which
	// any new backup may dial. It reports false if nobody can: it has no address.
	Welcome() bool
	// Hangup sends what is queued as far as it can without waiting, and ends the connection.
	Hangup()
}

// MaxPacket bounds a packet of the channel, in bytes.
const MaxPacket = 24 << 20

// ChannelEvent is one thing that came from the channel.
type ChannelEvent struct {
	Kind ChannelKind
	Data []byte // of a Packet or a Datagram
	Err  error  // why a connection ended, for diagnostics
}

// ChannelKind is the kind of a ChannelEvent.
type ChannelKind uint8

const (
	Connected    ChannelKind = iota + 1 // a connection is there; Key is its key
	Packet                              // a packet arrived
	Datagram                            // a heartbeat arrived, not yet authenticated
	Disconnected                        // the connection ended; all that came through it was returned before
	Unreachable                         // the peer's host says that its UDP port does not exist
	Breath                              // the peer says nothing, but its host takes what is sent, and its process has not ended
	Refused                             // no connection is possible: a certificate is wrong, say; it is not tried again before Redial
)

// Disk is a virtual disk. Overlapping requests are run in the order submitted
// (paper §3.4).
type Disk interface {
	// Submit begins a request. It keeps req.Data until the request is done.
	Submit(req event.DiskRequest)
	// Poll returns a request that is done.
	Poll() (done event.DiskDone, ok bool)
	// Fenced reports that a newer epoch has shut this one out: no request will
	// ever be done again.
	Fenced() bool
	Size() uint64
	Close() error
}

// Network is the port that a network device is plugged into.
type Network interface {
	// Send queues a frame, which leaves at Flush. A network may drop it.
	Send(f event.Frame)
	Flush()
	Recv() (f event.Frame, ok bool)
	// Mark names the last frame that Recv has returned, or one after it: marks only
	// grow. Logged says that the frames up to a mark need not be kept any longer for
	// whoever goes live next: its log has them.
	Mark() uint64
	Logged(mark uint64)
	// Up reports whether the cable is plugged in at the other end.
	Up() bool
	// Fenced reports that a newer epoch has shut this one out.
	Fenced() bool
	Close() error
}

// Terminal is a console's other end.
type Terminal interface {
	// Write prints b, whose first byte is number offset of all that the guest
	// printed. Bytes that were printed before are not printed again.
	Write(offset uint64, b []byte)
	// Read returns what was typed, nothing if nothing was.
	Read() []byte
}

// Pending is the outcome of something begun: nil until it is there.
type Pending[T any] interface {
	// Poll returns the outcome; ok is false until there is one.
	Poll() (v T, err error, ok bool)
}

// Site is where a replica's outputs go: disks and networks of the VM, opened for
// an epoch.
type Site interface {
	// Open opens disks and networks for an epoch, which fences all older epochs:
	// they are ended and drained before the outcome is there (design §5, rule 4).
	Open(epoch event.Epoch) Pending[Devices]
	// Follow opens what a backup uses while another copy is live: shared disks to read
	// (§4.2). Nobody is fenced by it. Slots that it has no use for stay nil.
	Follow() Pending[Devices]
	// Insert opens a disk that an operator gives to a copy that is live in an epoch.
	Insert(source string, epoch event.Epoch) Pending[Disk]
	// Note says what lies in a drive, for Open; nothing if source is empty. If mirror is
	// not, Open returns both disks as one of package mirror. The outcome is whether this
	// host reaches them.
	Note(slot event.DeviceID, source, mirror string) Pending[bool]
	// Medium names the shared disk in a slot, as Insert and Note want it.
	Medium(slot event.DeviceID) string
	// Claim asks the arbiter for an epoch (§2.3).
	Claim(epoch event.Epoch) Pending[bool]
}

// Devices are the other ends of a machine's virtio devices, by slot; nil where a
// slot has none.
type Devices struct {
	Disks    [8]Disk
	Networks [8]Network
}

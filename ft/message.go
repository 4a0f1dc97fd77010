// SPDX-License-Identifier: Apache-2.0

package ft

import (
	"fmt"

	"tandem/machine/event"
)

// ProtocolVersion is the version of messages and heartbeats, and of the rules
// by which they are answered.
const ProtocolVersion = 4

// Message is what the sides of a pair say to each other on the logging channel:
// one of Hello, Begin, Ready, Entries, Ack and Bye. The channel is authenticated,
// reliable and ordered until it breaks.
type Message interface{ message() }

// Hello opens a channel in both directions; nothing may come before it.
type Hello struct {
	Version uint64
	Role    Role
	Machine uint64
	VM      VM
	Arbiter string      // identity of the one that this side asks
	Epoch   event.Epoch // that the backup may claim once it is activated
	// Session numbers the attempts of a primary at making a backup. A backup that
	// says 0 has met no primary yet; a process that was restarted can't take its
	// place again.
	Session uint64
	Timeout Time
	Buffer  uint64 // bytes of entries that the sender can keep
	// Seq and Step are the primary's place at Begin, if that was, and the last entry
	// that the backup has received.
	Seq  event.Seq
	Step event.Step
}

// Begin says where the log begins: at the step of the snapshot that the backup loads,
// which contains entry Seq. No entry comes before it.
type Begin struct {
	Seq  event.Seq
	Step event.Step
}

// Ready says that the backup has loaded its snapshot, and which disks it reads
// itself (paper §4.2).
type Ready struct {
	Reads Slots
}

// Slots is a set of virtio slots, a bit each.
type Slots uint8

// Has reports whether a device is in the set.
func (s Slots) Has(d event.DeviceID) bool { return d < 8 && s&(1<<d) != 0 }

// With returns the set with a device in it.
func (s Slots) With(d event.DeviceID) Slots { return s | 1<<d }

// Entries is a part of the log. Without entries it only asks for an echo.
type Entries struct {
	Stamp   Time // the primary's, when it was sent
	Entries []event.Entry
}

// Ack acknowledges entries.
type Ack struct {
	Received event.Seq // in the backup's buffer, or executed
	Progress
	Echo Time // newest Stamp received
}

// Progress is how far a backup has come.
type Progress struct {
	Executed event.Seq  // last entry applied
	Step     event.Step // that the machine has reached
	// Disk says that what the machine has asked of disks by outputs up to here is done
	// here too, as far as this copy does it itself (paper §4.1, §4.2).
	Disk event.OutputID
}

// Bye ends a pair: its sender has left it, will never be part of it again, and
// releases nothing unless it wins the claim.
type Bye struct {
	Why  Reason
	Seq  event.Seq // of Diverged
	Text string    // for the operator
}

// Reason is why a side left.
type Reason uint8

const (
	Refused   Reason = iota + 1 // the Hello does not fit
	Dismissed                   // the primary no longer wants this backup, or has won the epoch
	Diverged                    // the backup differs from the log at entry Seq
	Failed                      // something this side depends on has failed
	Ended                       // PowerOff or Exit
	Occupied                    // the primary waits for another backup: come again
)

func (r Reason) String() string {
	names := [...]string{"", "refused", "dismissed", "diverged", "failed", "ended", "occupied"}
	if int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

func (Hello) message()   {}
func (Begin) message()   {}
func (Ready) message()   {}
func (Entries) message() {}
func (Ack) message()     {}
func (Bye) message()     {}

// A RefusedError says why two processes can't be a pair.
type RefusedError struct {
	What         string
	Ours, Theirs any
	Remedy       string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s differs: here %v, there %v; %s", e.What, e.Ours, e.Theirs, e.Remedy)
}

// check holds the peer's Hello against our own.
func (h Hello) check(peer Hello) error {
	const upgrade = "install the same release of tandem on both hosts"
	for _, c := range []struct {
		what         string
		ours, theirs any
		remedy       string
	}{
		{"protocol version", h.Version, peer.Version, upgrade},
		{"machine version", h.Machine, peer.Machine, upgrade},
		{"VM", fmt.Sprintf("%x", h.VM), fmt.Sprintf("%x", peer.VM), "connect the backup to its own primary"},
		{"arbiter", h.Arbiter, peer.Arbiter, "give both copies the same folder on shared storage as --arbiter, and see that its file system is mounted on both hosts"},
		{"epoch", h.Epoch, peer.Epoch, "start a new backup for the present epoch"},
		{"detection timeout", h.Timeout, peer.Timeout, "give both hosts the same timeout"},
		{"peer's role", 3 - h.Role, peer.Role, "connect a primary to a backup"},
	} {
		if c.ours != c.theirs {
			return &RefusedError{c.what, c.ours, c.theirs, c.remedy}
		}
	}
	return nil
}

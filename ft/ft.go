// SPDX-License-Identifier: Apache-2.0

// Package ft is the protocol that makes two copies of a VM one fault-tolerant
// VM: it decides when an output may leave, when the other copy is dead, and who
// goes on alone (paper §2.2, §2.3).
//
// A Primary and a Backup are state machines. Calls tell them what happened, and
// when (now is a count of nanoseconds that grows on one host; no two hosts'
// counts are ever compared); Actions returns what is to be done about it. They
// start no goroutine and read no clock.
//
//	machine ─ Append, Hold ─► Primary ─ Entries ─► Backup ─ Apply ─► machine
//	 world ◄─────── Release ─┘   ▲                   │ ▲
//	                             └────── Ack ────────┘ └── Executed
//
// # States
//
//	Primary
//	         Attach                Activate acknowledged           PowerOff, Exit
//	 Solo ───────────► Syncing ────────────────────────► Protected ────────────► Off
//	  ▲ ▲ ▲              │ │ Activate sent                   │ │
//	  │ │ └ backup lost ─┘ └───────────┐  backup lost        │ │
//	  │ │   before that                ▼  after that         │ │
//	  │ └──────────── won ───────── Claiming ◄───────────────┘ │
//	  │                                └───── lost ─────► Halted
//	  └────────────── Dismiss acknowledged ────────────────────┘
//
//	Backup
//	            Activate received
//	 Receiving ───────────────────► Replaying ─────────► Off (PowerOff or Exit executed)
//	     │ primary lost, refused        │ primary lost
//	     ▼                              ▼
//	  Halted ◄──── lost ── Claiming ◄── Draining  ──────► Off
//	  (Dismiss received too)   │
//	                           └── won ─► Fencing ─► Live ─ Primary() ─► Solo
//
// # Why there are never two primaries
//
// The arbiter keeps one record per VM and opens epoch e for one owner only: the
// paper's test-and-set. A side is a primary of epoch e if it won e. What must
// hold besides, from the moment at which a backup could win:
//
//  1. Only the owner of e−1 sends Activate(e), and to one backup only; to another
//     not before 10. So two sides at most ever claim e: this primary and one backup.
//  2. A backup claims e only with Activate(e) in its log, in a complete group.
//     The channel keeps order, so it then holds every entry before Activate(e).
//  3. A primary holds its outputs from before it has Activate(e) recorded. All
//     that left earlier was emitted before Activate(e), and by 2 any backup that
//     claims has replayed it.
//  4. An output that is held leaves when its entry is acknowledged in a complete
//     group (paper §2.2, Output Rule) and the newest echo is younger than Lease.
//     The backup received the echoed stamp after the primary had made it, and
//     claims no sooner than Timeout after it last heard of the primary, counted
//     in time in which it ran, or after its end of the channel broke, by which stamps
//     come. Lease < Timeout: it has not claimed yet. A write that must wait still,
//     until the backup has read what it changes (§4.2), is held to the same lease as
//     it leaves (MayEmit). That the peer's host still answers (Breath) renews no lease,
//     and makes a side wait longer than Timeout, never less.
//  5. Otherwise an output leaves only when the primary has won e.
//  6. A backup that knows the process of its primary to be dead need not wait:
//     the dead release nothing. The proof is the channel's end and then "port
//     unreachable" from the primary's UDP port. (A firewall that answers
//     REJECT in place of a live host breaks it; DROP does not.)
//  7. A side that has decided to claim sends no more acknowledgements, entries
//     or heartbeats, and releases nothing until it won. It never goes back.
//  8. A primary that never sent Activate(e) needs no claim (2): if the channel
//     breaks while syncing it stays the Solo owner of e−1.
//  9. A primary that is handing over (Switch) releases nothing by
//     acknowledgement any more, so the backup need not wait for a timeout.
//  10. A backup that receives Dismiss(e) halts there and then, before its last
//     acknowledgement leaves, and a copy that has halted never claims. One that
//     has decided to claim receives and acknowledges nothing (7). So a primary
//     that has this acknowledgement knows that no backup will claim e. It goes on
//     as the owner of e−1 without asking the arbiter, lets go what it held, and
//     may send Activate(e) to the next backup. Until then it is bound by 4, and
//     without it claims e as ever.
//
// Wherever the channel breaks, then: before Activate(e) is sent, the backup can't
// claim and the primary doesn't need to; after, both can, and whoever loses
// halts. A primary that is stopped and wakes, with whatever acknowledgements are
// queued in its sockets, finds their echoes older than Lease and emits nothing;
// then it claims, loses and halts.
//
// golive.pml is a model of these rules for spin: make model shows that they suffice for
// the log of a few entries, in all interleavings, and that none can be left out.
//
// What this can't close: between the test of the lease and the system call that
// emits, a process may be stopped for more than Timeout − Lease. The fences of
// disk and switch end that case (design §5, rule 4); a bare tap has none.
//
// # What is lost with one failure: nothing
//
// Every output that left is in the log of the side that goes on (3, 4, 5). It
// discards a last group that is not complete, executes the rest, wins the claim,
// fences, and emits again what it doesn't know to have left (Released): outputs
// may be repeated, and TCP and disks absorb that (§2.2). PowerOff and Exit wait
// like outputs; a backup that has executed one ends and never claims (§3.3).
//
// What came in is not lost either, if who brought it keeps it up to the entry that
// Logged names: such an entry is in the log of a complete group that the backup has, so
// whoever goes on has executed it. It needs no lease, for it lets nothing leave. Where
// no backup could claim, all that is recorded counts: nobody else would want it. A
// primary whose backup is lost names nothing until it has won.
//
// # Moving a copy (paper §3.3)
//
// Nothing is moved but by a clone: the backup moves when it is dismissed (Detach)
// and another attached elsewhere; the primary when its backup, made at the new
// place, and it change roles (HandOver). The one that made way has halted, and its
// host may get a new backup. So the paper's request of a moving backup, that the
// primary let its outstanding I/O finish, has no place here: the clone contains the
// requests, and the log the completions. A primary that hands over does wait for its
// own I/O (package replica), so that nothing is issued twice without need.
//
// A change of roles ends in one of three ways, whatever breaks meanwhile. The backup
// has Switch(e): it claims at once, and unless it dies before, wins. It has not, or
// dies: this side notices as always, claims e, and goes on where it stopped. Both
// claim: the arbiter decides, and neither has released anything since Switch (9). A
// backup that dies after it has won leaves no copy, as the death of any VM without a
// backup does.
//
// # A copy that differs
//
// A backup that can't execute the log is not that VM. The primary is told, claims
// and goes on. If there is no primary any more, to be known by a claim that the
// backup wins, the VM boots from its disk, as after a power cut (Policy): what
// clients were told to be on the disk is there, what was in memory only is lost.
//
// # Driving it
//
// A replica owns the machine, the sockets and the clock. One goroutine does
//
//	for {
//		wait for a message, packet, answer, machine, or side.Deadline()
//		now := clock()
//		drain the sockets: Connected, Receive, Heartbeat, Unreachable, Disconnected
//		run the machine a little:
//			primary, if Status().Wait is empty: Append its entries, Hold its outputs
//			backup: execute what Apply gave, then Executed
//		side.Tick(now), if the deadline has come
//		for each side.Actions(): carry it out, in order
//	}
//
// with Actions taken after each call whose outcome can't wait (Receive of an Ack
// releases outputs). now is read after the wait, never before: it is what tells a
// stopped process that it was stopped.
//
// Differences from the paper: the lease (its primary trusts any acknowledgement);
// epochs, so that the test-and-set needs no reset; a reset channel may be made
// anew while neither side has decided to claim.
package ft

import (
	"fmt"

	"tandem/machine/event"
)

// Time is a count of nanoseconds that never runs backward on one host.
type Time int64

// The units of Time.
const (
	Microsecond Time = 1000
	Millisecond      = 1000 * Microsecond
	Second           = 1000 * Millisecond

	// Never is later than every time.
	Never Time = 1<<63 - 1
)

// VM names a virtual machine in the whole cluster.
type VM [16]byte

// State is what one side of a pair is doing.
type State uint8

// The states; the diagram is in the package comment.
const (
	Solo      State = iota + 1 // the only copy; outputs leave at once
	Syncing                    // a backup is being made
	Protected                  // a backup could go on
	Claiming                   // the peer is lost and the arbiter was asked
	Receiving                  // a backup that could not go on yet
	Replaying                  // a backup that could
	Draining                   // the primary is lost, its log is being executed
	Fencing                    // won; storage and switch are shutting out older epochs
	Live                       // the backup has become the primary: see Backup.Primary
	Off                        // the VM has ended by itself
	Halted                     // this copy has ended; another may go on
)

var stateNames = [...]string{"", "Solo", "Syncing", "Protected", "Claiming", "Receiving", "Replaying",
	"Draining", "Fencing", "Live", "Off", "Halted"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// Role is a side of a pair.
type Role uint8

const (
	RolePrimary Role = iota + 1
	RoleBackup
)

func (r Role) String() string {
	switch r {
	case RolePrimary:
		return "primary"
	case RoleBackup:
		return "backup"
	}
	return fmt.Sprintf("Role(%d)", uint8(r))
}

// Policy is what becomes of a VM whose backup differs from it after the primary
// has died, so that nobody can say which was right.
type Policy uint8

const (
	RestartOnDivergence  Policy = iota // boot from disk
	ContinueOnDivergence               // go on with what there is
)

// Action is something that the replica is to do; Actions returns them in order.
// It is one of Send, Beat, Hangup, Dial, Record, Release, Apply, Claim, Fence,
// GoLive and Changed.
type Action interface{ action() }

// Send sends a message on the channel. The channel keeps order.
type Send struct{ Message Message }

// Beat sends a heartbeat to the peer's UDP port. "Port unreachable" in answer to
// it is reported by Unreachable.
type Beat struct{ Heartbeat Heartbeat }

// Hangup sends what is queued on the channel, if that can be done without
// waiting, and closes it. Disconnected need not be called for it.
type Hangup struct{}

// Dial asks for a new channel to the same process after a reset. Connected says
// that there is one. Which side dials is agreed between the replicas.
type Dial struct{}

// Record asks the primary's replica to record inputs at the step that its machine
// has reached, each as a group of its own (so never inside of an open group), and
// to Append them.
type Record struct{ Inputs []event.Input }

// Release lets all outputs up to and including Last leave, now: they must be
// handed to the world before the next event is waited for.
type Release struct{ Last event.OutputID }

// Apply hands the backup's replica complete groups of entries to be executed.
type Apply struct{ Entries []event.Entry }

// Claim asks the arbiter for an epoch. The answer goes to Claimed.
type Claim struct{ Epoch event.Epoch }

// Fence shuts all epochs before Epoch out of storage and switch, and waits until
// what they had begun has ended. The answer goes to Fenced.
type Fence struct{ Epoch event.Epoch }

// GoLive makes the backup the VM (design §5, rule 4): it re-issues pending disk
// I/O in order, announces the MAC, takes its Primary and Holds the outputs after
// Released, and then runs.
type GoLive struct {
	Epoch    event.Epoch
	Seq      event.Seq      // of the last entry executed; the log goes on from here
	Released event.OutputID // outputs up to here are known to have left
	Diverged bool           // this state is not the one that the log tells of
	Restart  bool           // so not this state: boot from disk, at step 0
}

// Changed says that the state has changed and why; nothing need be done to make
// it so. After Off and Halted the replica ends its process.
type Changed struct {
	From, To State
	Epoch    event.Epoch // the newest that this side knows itself or its peer to own
	Why      string
}

func (Send) action()    {}
func (Beat) action()    {}
func (Hangup) action()  {}
func (Dial) action()    {}
func (Record) action()  {}
func (Release) action() {}
func (Apply) action()   {}
func (Claim) action()   {}
func (Fence) action()   {}
func (GoLive) action()  {}
func (Changed) action() {}

// Outcome is the arbiter's answer to a claim.
type Outcome uint8

const (
	Unknown Outcome = iota // it could not be reached, or the answer was lost
	Won                    // the epoch is owned by this process
	Lost                   // another owns it, or a newer one
)

func (o Outcome) String() string { return [...]string{"unknown", "won", "lost"}[o%3] }

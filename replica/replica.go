// SPDX-License-Identifier: Apache-2.0

// Package replica is one copy of one VM: it joins a machine, its recorder or
// replayer, the protocol of package ft and a clone in progress, against a world.
//
//	       frames, disks, console            frames, disks, console
//	             ▲ │                               ▲ (only when live)
//	    Release  │ ▼ Record                        │
//	┌────────────┴───────────┐   channel   ┌───────┴────────────────┐
//	│ primary: Recorder ─ ft ├────────────►│ ft ─ Replayer : backup │
//	└───────────┬────────────┘◄────────────┤           │            │
//	         machine            acks       └────────machine─────────┘
//
// A replica is a single loop of turns. A turn drains what arrived, lets the
// protocol decide, runs the machine for a slice of steps and hands on what the
// slice gave rise to. Turn never waits; it says when it wants to be called again.
package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"tandem/ft"
	"tandem/machine"
	"tandem/machine/event"
	"tandem/migrate"
	"tandem/replay"
	"tandem/world"
)

// Config is how a replica runs.
type Config struct {
	FT ft.Config
	// Slice is the number of steps that the machine executes in one go, at first: where
	// time passes meanwhile, it follows how fast the machine is.
	Slice event.Step
	// HashEvery is the time between two hash entries of a machine that runs.
	HashEvery ft.Time
	// Console is the one that the terminal belongs to; what others print is dropped.
	Console event.DeviceID
	// Reads are the disks that a backup reads itself, so that the log need not carry what
	// they hold (paper §4.2): as far as both copies say so.
	Reads ft.Slots
	// StopOnDiskError keeps an error of a disk from the guest: its machine stops until
	// Resume or ReportDiskErrors.
	StopOnDiskError bool
	// Sink, if set, is given each entry of the log: a recording.
	Sink func(event.Entry) error
	// CloneRate bounds the bytes that a clone sends in a second; 0: what the network
	// takes. CloneShare is the part of the time that it takes from a busy guest in its
	// first round, in thousandths, from 1 to 1000.
	CloneRate, CloneShare int
	// Report is told what happens.
	Report func(Event)
}

// DefaultConfig returns the values of the product but for the identities in FT.
func DefaultConfig() Config {
	return Config{FT: ft.Defaults(), Slice: 10_000, HashEvery: 100 * ft.Millisecond, Console: event.UART, CloneShare: 500}
}

// World is what a replica runs against. Channel is nil for a VM without a backup.
type World struct {
	Clock    world.Clock
	Entropy  world.Entropy
	Channel  world.Channel
	Site     world.Site
	Terminal world.Terminal
	// RAM supplies zeroed guest memory, for a backup.
	RAM func(size uint64) ([]byte, error)
	// Engine, if set, chooses what executes a backup's machine.
	Engine func(*machine.Machine) error
}

// Event is something that people want to know.
type Event struct {
	At   ft.Time
	Kind EventKind
	Text string
	From ft.State // of StateChanged
	To   ft.State

	Epoch event.Epoch
	Seq   event.Seq
	Step  event.Step
}

// EventKind is the kind of an Event.
type EventKind string

const (
	StateChanged EventKind = "state"
	CloneBegan   EventKind = "clone-began"
	CloneRound   EventKind = "clone-round"
	CloneFrozen  EventKind = "clone-frozen"
	CloneSent    EventKind = "clone-sent"
	WentLive     EventKind = "live"
	Restarted    EventKind = "restarted"
	Drain        EventKind = "drain"
	Trouble      EventKind = "trouble"
	Diverged     EventKind = "diverged" // this copy differs from its log
	Operated     EventKind = "operation"
	GuestExit    EventKind = "exit"
	DiskFailed   EventKind = "disk-error"
	ResyncBegan  EventKind = "resync-began"
	ResyncRound  EventKind = "resync"
	ResyncEnded  EventKind = "resync-ended"
)

// Replica is one copy of a VM.
type Replica struct {
	cfg Config
	w   World
	now ft.Time

	m     *machine.Machine
	rec   *replay.Recorder // of a primary
	rep   *replay.Replayer // of a backup
	p     *ft.Primary
	b     *ft.Backup
	pace  pace
	slice slice

	devices    world.Devices
	held       []heldOutput // external outputs emitted and not known to have left, and what waits behind them
	entropy    []event.EntropyRequest
	announcer  announcer
	typed      []byte     // read from the terminal, and not yet given to the guest
	idle       bool       // the machine waits for an input or its timer
	moreFrames bool       // a network may hold more than one turn took
	received   []received // frames not known to be in the backup's log, in order
	blocked    uint8      // slots whose networks may hold frames, which the drivers had no room for
	sinkErr    error

	source *migrate.Source // clone being sent
	clone  clone           // how that goes
	target *migrate.Target // clone arriving
	ram    []byte          // of the clone that arrived

	spoiled bool // the backup's machine has diverged

	// Disk requests.
	gate      gate      // of a primary
	follower  follower  // of a backup
	failures  failures  // that the guest is not told of
	resyncing resyncing // of a primary: its backup's disks
	resynced  resynced  // of a backup: its own
	grows     uint64    // DiskGrow requests
	inserting drive     // of a primary
	moving    moving    // of a primary: a disk
	noting    []world.Pending[bool]
	idBase    uint64 // of requests, for a VM that was booted again: see boot

	claim, fence pendingQuestion
	redial       ft.Time // of a backup to which nobody has spoken: when to try again, or 0
	acting       bool    // act is under way
	key          ft.Key
	heard        ft.Time // a packet came
	nextHash     ft.Time
	hashStep     event.Step
	wait         wait    // of the machine for the backup
	resumeAt     ft.Time // the CPU share is used up until then
	limit        int     // of the CPU share, set by the operator
	op           Operation
	exit         *event.Exit
	done         error // why the replica ended; nil while it runs
	stats        Stats
}

// heldOutput is an output that waits for its release.
type heldOutput struct {
	event.Output
	since ft.Time
}

// Stats counts what went by, for metrics.
type Stats struct {
	LogBytes  uint64 // sent on the channel for the log, with its messages
	Entries   uint64
	Outputs   uint64
	Released  uint64  // external outputs
	Delay     ft.Time // that these were held, in sum
	Failovers uint64

	ReadWaits   uint64 // writes that waited for a read of the backup
	DiskRetries uint64 // requests of a backup that failed at first
	ResyncBytes uint64 // of blocks sent to bring the newest backup's disks up to date
	ResyncLeft  uint64 // bytes of a disk that are to be compared or sent

	Waits    uint64             // times that the machine of a primary had to wait for the backup
	WaitTime ft.Time            // in sum
	Waited   map[string]ft.Time // by reason

	Clones     uint64  // sent whole
	ClonePause ft.Time // longest time that the machine stood still for the newest clone: for its state, or as too much was saved
	CloneTime  ft.Time // that it took
	CloneBytes uint64  // of its parts
	CloneRound int     // that it is in
	CloneLeft  int     // pages to be sent, those written since they were sent among them
}

// ErrEnded is returned by Err once the VM has ended by itself.
var ErrEnded = errors.New("the VM has ended")

// ErrHalted is wrapped by Err once this copy has ended and another may go on.
var ErrHalted = errors.New("this copy has halted")

// NewPrimary returns the replica of a machine that starts, or was restored, as
// the owner of an epoch whose devices are open.
func NewPrimary(cfg Config, w World, m *machine.Machine, owned event.Epoch, devices world.Devices) (*Replica, error) {
	r := &Replica{cfg: cfg, w: w, m: m, slice: slice{cfg.Slice}, devices: devices, announcer: announcer{next: ft.Never}, limit: ft.FullShare}
	r.now = r.clock()
	p, err := ft.NewPrimary(r.now, cfg.FT, owned, 0, m.Step(), m.LastOutput())
	if err != nil {
		return nil, err
	}
	r.p = p
	r.rec = replay.NewRecorder(m, 0, m.LastOutput(), r.append)
	r.pace.start(m, r.now)
	r.reissue()
	return r, nil
}

// NewBackup returns a replica that waits for its primary to connect and to send
// its machine.
func NewBackup(cfg Config, w World) (*Replica, error) {
	if err := cfg.FT.Validate(); err != nil {
		return nil, err
	}
	r := &Replica{cfg: cfg, w: w, slice: slice{cfg.Slice}, announcer: announcer{next: ft.Never}, limit: ft.FullShare}
	r.now = r.clock()
	r.follower.opening = w.Site.Follow()
	return r, nil
}

func (r *Replica) clock() ft.Time { return ft.Time(r.w.Clock.Now()) }

// Err returns why the replica has ended: ErrEnded, an error that wraps
// ErrHalted, or nil while it runs.
func (r *Replica) Err() error { return r.done }

// ExitCode is the guest's, once it has left by ErrEnded.
func (r *Replica) ExitCode() int {
	if r.exit == nil {
		return 0
	}
	return r.exit.Code
}

// Machine returns the copy's machine, nil while a backup has none.
func (r *Replica) Machine() *machine.Machine { return r.m }

// Status returns the protocol's view.
func (r *Replica) Status() ft.Status {
	switch {
	case r.p != nil:
		return r.p.Status()
	case r.b != nil:
		return r.b.Status()
	}
	return ft.Status{State: ft.Receiving}
}

// Role returns what this copy is now.
func (r *Replica) Role() ft.Role {
	if r.p != nil {
		return ft.RolePrimary
	}
	return ft.RoleBackup
}

// Stats returns the counts so far.
func (r *Replica) Stats() Stats { return r.stats }

// Turn does what there is to do now and returns when it wants to be called again
// at the latest, at once if that is not in the future.
func (r *Replica) Turn() (at world.Time, ended bool) {
	var next ft.Time
	r.now = r.clock()
	more := r.drainChannel()
	r.pollQuestions()
	r.flush() // what that gave rise to, acknowledgements and released outputs, does not wait for a slice
	switch {
	case r.done != nil:
	case r.p != nil:
		next = r.turnPrimary()
	case r.b != nil:
		next = r.turnBackup()
	default:
		next = r.awaitPrimary()
	}
	r.act()
	r.flush()
	if more {
		next = r.now
	}
	return world.Time(next), r.done != nil
}

// redialEvery is how often a backup dials whose connection ends before anything was
// said: it reached a copy that is no primary, or is none any more.
const redialEvery = 100 * ft.Millisecond

// awaitPrimary looks for a primary that has not spoken yet.
func (r *Replica) awaitPrimary() (next ft.Time) {
	if r.redial == 0 {
		return ft.Never
	}
	if r.now < r.redial {
		return r.redial
	}
	r.redial = 0
	r.w.Channel.Hangup() // a connection on which nothing was said
	r.w.Channel.Redial()
	return ft.Never
}

func (r *Replica) flush() {
	r.tellLogged()
	for _, n := range r.devices.Networks {
		if n != nil {
			n.Flush()
		}
	}
	if r.w.Channel != nil {
		r.w.Channel.Flush()
	}
}

func (r *Replica) report(e Event) {
	e.At = r.now
	if r.m != nil {
		e.Step = r.m.Step()
	}
	if r.cfg.Report != nil {
		r.cfg.Report(e)
	}
}

// act carries out what the protocol decided, until it has nothing more to say. What
// an action gives rise to comes after those that were decided with it.
func (r *Replica) act() {
	if r.acting {
		return
	}
	r.acting = true
	defer func() { r.acting = false }()
	for r.done == nil {
		var list []ft.Action
		switch {
		case r.p != nil:
			list = r.p.Actions()
		case r.b != nil:
			list = r.b.Actions()
		}
		if len(list) == 0 {
			return
		}
		for _, a := range list {
			r.do(a)
		}
	}
}

func (r *Replica) do(a ft.Action) {
	switch a := a.(type) {
	case ft.Send:
		r.sendMessage(a.Message)
	case ft.Beat:
		r.w.Channel.Beat(ft.AppendHeartbeat(nil, a.Heartbeat, &r.key))
	case ft.Hangup:
		r.w.Channel.Hangup()
	case ft.Dial:
		r.w.Channel.Redial()
	case ft.Record:
		for _, in := range a.Inputs {
			r.record(in)
		}
	case ft.Release:
		r.release(a.Last)
	case ft.Apply:
		if err := r.rep.Feed(a.Entries...); err != nil {
			r.diverged(err)
		}
	case ft.Claim:
		r.claim = pendingQuestion{epoch: a.Epoch, claim: r.w.Site.Claim(a.Epoch)}
	case ft.Fence:
		r.fence = pendingQuestion{epoch: a.Epoch, open: r.w.Site.Open(a.Epoch)}
	case ft.GoLive:
		r.goLive(a)
	case ft.Changed:
		r.changed(a)
	}
}

func (r *Replica) changed(c ft.Changed) {
	r.report(Event{Kind: StateChanged, From: c.From, To: c.To, Epoch: c.Epoch, Text: c.Why})
	r.conclude(c)
	switch c.To {
	case ft.Off:
		r.done = ErrEnded
	case ft.Halted:
		r.done = fmt.Errorf("%w: %s", ErrHalted, c.Why)
	case ft.Solo:
		r.endClone()
		r.forgetReads()
	case ft.Draining:
		st := r.b.Status()
		r.report(Event{Kind: Drain, Seq: st.Acked, Text: fmt.Sprintf("%d entries to execute", st.Acked-st.Backup.Executed)})
	}
}

// fail ends this copy: something that it depends on has failed.
func (r *Replica) fail(err error) {
	r.report(Event{Kind: Trouble, Text: err.Error()})
	switch {
	case r.p != nil:
		r.p.Fail(r.now, err.Error())
	case r.b != nil:
		r.b.Fail(r.now, err.Error())
	default:
		r.done = fmt.Errorf("%w: %w", ErrHalted, err)
	}
}

// pendingQuestion is a claim or a fence that the world is busy with.
type pendingQuestion struct {
	epoch event.Epoch
	claim world.Pending[bool]
	open  world.Pending[world.Devices]
}

func (r *Replica) pollQuestions() {
	r.pollFollowed()
	r.pollInserting()
	r.pollMoving()
	r.pollNoting()
	if q := r.claim; q.claim != nil {
		if won, err, ok := q.claim.Poll(); ok {
			r.claim = pendingQuestion{}
			r.claimed(q.epoch, won, err)
		}
	}
	if q := r.fence; q.open != nil {
		if devices, err, ok := q.open.Poll(); ok {
			r.fence = pendingQuestion{}
			if err == nil {
				r.replaceDevices(devices)
			} else {
				r.report(Event{Kind: Trouble, Text: "fencing older epochs: " + err.Error()})
			}
			r.b.Fenced(r.now, q.epoch, err)
		}
	}
}

// replaceDevices takes the devices of a new epoch in place of those that a backup had.
func (r *Replica) replaceDevices(devices world.Devices) {
	for i, d := range r.devices.Disks {
		if d != nil && d != devices.Disks[i] {
			d.Close()
		}
	}
	r.devices = devices
}

func (r *Replica) claimed(epoch event.Epoch, won bool, err error) {
	outcome := ft.Lost
	switch {
	case err != nil:
		outcome = ft.Unknown
		r.report(Event{Kind: Trouble, Text: "the arbiter can't be reached: " + err.Error()})
	case won:
		outcome = ft.Won
	}
	if r.p != nil {
		r.p.Claimed(r.now, epoch, outcome)
	} else {
		r.b.Claimed(r.now, epoch, outcome)
	}
}

// session is a number that this VM has not used before.
func (r *Replica) session() uint64 {
	var b [8]byte
	r.w.Entropy.Fill(b[:])
	return binary.LittleEndian.Uint64(b[:]) | 1
}

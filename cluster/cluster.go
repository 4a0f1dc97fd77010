// SPDX-License-Identifier: Apache-2.0

// Package cluster is the paper's cluster service (§3.1) as a function: it looks
// at what is wanted and at what is, and says what to do next.
//
//	Desired ──┐
//	          ├─ Plan ─► Actions ─► the owners of the epochs ─► hosts ─┐
//	Observed ─┘      └─► Status: why a VM is not protected             │
//	    ▲                                                              │
//	    └──────────────────────────────────────────────────────────────┘
//
// Plan reads no clock and keeps nothing between calls. An action under way is
// part of the next observation (a copy that is Starting, Cloning or Syncing, an
// Instance that is Doing something), so planning again asks for nothing twice,
// and any number of planners may run.
//
// # Who decides what
//
// Plan never decides which copy goes on after a failure: the copies do, by the
// arbiter (package ft). It sees the outcome as a new epoch with a new owner. Its
// tools, cheapest first:
//
//	StartPrimary    there is no copy
//	CloneBackup     FT VMotion: a backup beside the running primary
//	MigrateBackup   the backup moves; the old one serves until the new one can
//	SwapRoles       the backup becomes the primary
//	MigratePrimary  of a VM without backup: clone to the new host, then SwapRoles
//	ColdRestart     all copies are lost: start from disk, in a new epoch
//
// An action names the epoch and the revision that it was planned for. Its
// executor (By) does it only if the VM is still in that epoch, By owns it (or,
// for starts, wins the next one) and no newer revision has been seen; otherwise
// the action is stale and dropped. So a plan made from an old observation is
// useless but never harmful.
//
// # What never happens
//
//  1. Two copies of a VM are never put on one host, nor in one failure domain if
//     the VM says Require. The default, Prefer, would rather have a backup in
//     the same domain than none: an operator with a single rack expects to be
//     protected from the loss of a host. Status.SharedDomain then says so, and
//     the backup moves when another domain has room.
//  2. A copy is never put where its memory or CPUs don't fit, where a required
//     label is missing, where a primary of its anti-affinity group is (backups
//     only avoid that), or, for a backup, where the primary's machine version
//     can't run.
//  3. A silent host is not a dead host (design §5.7). ColdRestart is planned only
//     with Evidence: all copies are proven dead, or the VM has an arbiter and
//     fences, so that its executor can claim and shut out whatever still runs.
//     Without proof it also waits RestartAfter ticks, and while most hosts are
//     silent it does not happen: then more likely we are the ones cut off, and
//     running pairs don't need us.
//  4. A primary's word about its backup counts, not the cluster's about the
//     backup's host: a pair outlives the loss of etcd.
//  5. An evacuation never costs a protected VM its protection for want of a
//     host, unless it is forced.
//
// # Only as far as needed
//
// Nothing moves for the sake of balance. A copy moves because its host is
// evacuated or overfull, lacks a label, because it shares a failure domain or an
// anti-affinity group, or because an operator says where it shall be (VM.Move, which
// holds for that one host); every such move ends the complaint that caused it, so
// none is undone by the next. A host that joins or returns attracts what is
// placed from then on, nothing else. A VM's preferred host is for its start.
// A host takes part in at most ClonesPerHost clones at once, and what failed is
// tried again after a growing wait, on another host if there is one.
package cluster

import (
	"fmt"

	"tandem/machine/event"
)

// Tick counts time from any start; a second is a good tick.
type Tick int64

// Revision counts changes of the desired state.
type Revision int64

// Version is the version of package machine that a copy runs.
type Version uint32

// Bounds of what Plan accepts, so that sums can't overflow.
const (
	MaxBytes = 1 << 44 // memory of a host or VM
	MaxCPUs  = 1 << 16
	MaxItems = 1 << 16 // hosts, and VMs
)

// Policy is what holds for the whole cluster.
type Policy struct {
	Overhead      int64 // bytes that a copy needs beside the guest's memory
	CPUFactor     int   // CPUs of copies per CPU of a host
	ClonesPerHost int   // clones that a host takes part in at once, as source or target
	Backoff       Tick  // wait after a failure; doubles with each one that follows
	MaxBackoff    Tick
	RestartAfter  Tick // silence of a host before its VMs are restarted without proof
	Settle        Tick // a host up for less is chosen last, and no repair moves to it
}

// DefaultPolicy is a policy for ticks of a second.
func DefaultPolicy() Policy {
	return Policy{Overhead: 128 << 20, CPUFactor: 4, ClonesPerHost: 2, Backoff: 5, MaxBackoff: 300, RestartAfter: 30, Settle: 60}
}

// Desired is what operators asked for.
type Desired struct {
	Policy Policy
	VMs    []VM
}

// Size is what a copy of a VM needs; primary and backup need the same.
type Size struct {
	CPUs   int
	Memory int64 // bytes of guest memory
}

// Spread says whether copies must be in different failure domains.
type Spread uint8

const (
	Prefer  Spread = iota // different if a host fits there
	Require               // or there is no backup
)

// VM is a virtual machine as it should be.
type VM struct {
	Name     string
	Revision Revision // of this record
	Size     Size
	Power    bool     // it should run
	Asked    Revision // the one in which Power was last asked for: a guest that powered off after it stays off
	Deleted  bool     // it should end, and its record and disks with it
	FT       bool
	Spread   Spread
	Groups   []string // anti-affinity: no two primaries of a group on one host
	Labels   []string // that a host must have
	Host     string   // preferred for the primary's start
	Move     Role     // a copy that an operator wants on To; whoever asked forgets that once it is there
	To       string
}

// Role is which copy of a VM.
type Role uint8

const (
	NoRole Role = iota
	PrimaryRole
	BackupRole
)

// Observed is what is known at Now.
type Observed struct {
	Now   Tick
	Hosts []Host
	VMs   []Instance
}

// HostState is how a host is heard.
type HostState uint8

const (
	Up      HostState = iota + 1
	Suspect           // silent for a moment: nothing is placed there, nothing given up
	Down              // its lease lapsed: it is silent, which proves nothing
)

// Evacuation says whether copies shall leave a host.
type Evacuation uint8

const (
	Stay     Evacuation = iota
	Evacuate            // if their VMs stay as protected as they are
	Force               // in any case
)

// Host is a machine that runs `tandem node`.
type Host struct {
	Name       string
	Domain     string // failure domain; empty: the host is its own
	Labels     []string
	CPUs       int
	Memory     int64     // bytes offered to copies
	Free       int64     // bytes that a new copy can have, by its own report
	Versions   []Version // that it can run
	State      HostState
	Since      Tick // of State
	Dead       bool // Down, and proven: it was powered off by a fence, or an operator vouches for it
	Evacuation Evacuation
	Cordoned   bool // takes no more copies
}

// CopyState is what a copy is doing.
type CopyState uint8

const (
	NoCopy     CopyState = iota
	Starting             // a primary, not yet running
	Running              // a primary
	Cloning              // a backup whose memory is being copied
	Syncing              // a backup that has it and catches up
	Protected            // a backup that could go on
	Lost                 // silent; of a backup, its primary says so and goes on alone
	Dead                 // known to have ended: its host's node reports its process gone
	PoweredOff           // ended on purpose, by the operator or by the guest
)

// Copy is one copy of a VM.
type Copy struct {
	Host  string
	State CopyState
}

// Instance is a VM as it is.
type Instance struct {
	VM       string
	Epoch    event.Epoch
	Owner    string   // the host that owns the epoch
	Revision Revision // the newest that the owner has acted upon
	Size     Size     // of the running copies
	Version  Version  // of the running primary
	Primary  Copy
	Backup   Copy
	Next     Copy // being made: the new backup of MigrateBackup, the new primary of ColdRestart
	Doing    Kind // under way at the owner without showing in a copy: SwapRoles, StopBackup, PowerOff, Delete; cleared when its node restarts
	Progress int  // of the copy being made, per mille

	Arbiter    bool     // a claim can be made
	Endangered bool     // but none once the host of either copy is lost
	Fence      bool     // all its disks and networks can shut out an older epoch
	Disks      []string // hosts that have its current disk; none: any host reaches it

	// Failures of actions since one succeeded, and a backup lost soon after its
	// start, so that a VM that can't be protected isn't cloned for ever.
	Failures int
	FailedAt Tick
	FailedOn string // the host that is blamed
}

// valid reports the first thing in the input that can't be.
func valid(d Desired, o Observed) error {
	if len(o.Hosts) > MaxItems || len(d.VMs) > MaxItems || len(o.VMs) > MaxItems {
		return fmt.Errorf("cluster: %d hosts and %d VMs are too many: the limit is %d", len(o.Hosts), max(len(d.VMs), len(o.VMs)), MaxItems)
	}
	if err := d.Policy.valid(); err != nil {
		return fmt.Errorf("cluster: policy: %w", err)
	}
	for i := range o.Hosts {
		if err := o.Hosts[i].valid(); err != nil {
			return fmt.Errorf("cluster: host %q: %w", o.Hosts[i].Name, err)
		}
	}
	for i := range d.VMs {
		if err := d.VMs[i].valid(); err != nil {
			return fmt.Errorf("cluster: VM %q: %w", d.VMs[i].Name, err)
		}
	}
	for i := range o.VMs {
		if err := o.VMs[i].valid(); err != nil {
			return fmt.Errorf("cluster: observed VM %q: %w", o.VMs[i].VM, err)
		}
	}
	return nil
}

func (p Policy) valid() error {
	switch {
	case p.Overhead < 0 || p.Overhead > MaxBytes:
		return fmt.Errorf("overhead of %d bytes: use 0 to %d", p.Overhead, int64(MaxBytes))
	case p.CPUFactor < 1 || p.CPUFactor > MaxCPUs:
		return fmt.Errorf("CPU factor %d: use 1 or more", p.CPUFactor)
	case p.ClonesPerHost < 1:
		return fmt.Errorf("%d clones per host: use 1 or more, or nothing is ever protected", p.ClonesPerHost)
	case p.Backoff < 0 || p.MaxBackoff < p.Backoff || p.RestartAfter < 0 || p.Settle < 0:
		return fmt.Errorf("backoff %d to %d, restart after %d, settle %d: use ticks of 0 or more, the longer backoff second", p.Backoff, p.MaxBackoff, p.RestartAfter, p.Settle)
	}
	return nil
}

func (s Size) valid() error {
	if s.CPUs < 0 || s.CPUs > MaxCPUs || s.Memory < 0 || s.Memory > MaxBytes {
		return fmt.Errorf("%d CPUs and %d bytes of memory: use 0 to %d and 0 to %d", s.CPUs, s.Memory, MaxCPUs, int64(MaxBytes))
	}
	return nil
}

func (h *Host) valid() error {
	switch {
	case h.Name == "":
		return fmt.Errorf("it has no name")
	case h.State < Up || h.State > Down:
		return fmt.Errorf("state %s", h.State)
	case h.Dead && h.State != Down:
		return fmt.Errorf("it is %s and proven dead; only a host that is down can be", h.State)
	case h.Evacuation > Force:
		return fmt.Errorf("evacuation %d is unknown", h.Evacuation)
	case h.Free < 0 || h.Free > MaxBytes:
		return fmt.Errorf("%d bytes free: use 0 to %d", h.Free, int64(MaxBytes))
	}
	return Size{h.CPUs, h.Memory}.valid()
}

func (v *VM) valid() error {
	switch {
	case v.Name == "":
		return fmt.Errorf("it has no name")
	case v.Move > BackupRole:
		return fmt.Errorf("a move of role %d is unknown", v.Move)
	case v.Spread > Require:
		return fmt.Errorf("spread %d is unknown", v.Spread)
	}
	return v.Size.valid()
}

// The states that each copy of an Instance may be in.
var (
	primaryStates = []CopyState{NoCopy, Starting, Running, Lost, Dead, PoweredOff}
	backupStates  = []CopyState{NoCopy, Cloning, Syncing, Protected, Lost, Dead, PoweredOff}
	nextStates    = []CopyState{NoCopy, Starting, Cloning, Syncing, Lost, Dead}
)

func (in *Instance) valid() error {
	if in.VM == "" {
		return fmt.Errorf("it has no name")
	}
	if in.Failures < 0 {
		return fmt.Errorf("%d failures", in.Failures)
	}
	for _, c := range []struct {
		Copy
		role    string
		allowed []CopyState
	}{{in.Primary, "primary", primaryStates}, {in.Backup, "backup", backupStates}, {in.Next, "next copy", nextStates}} {
		ok := false
		for _, s := range c.allowed {
			ok = ok || s == c.State
		}
		if !ok {
			return fmt.Errorf("a %s can't be %s", c.role, c.State)
		}
		if c.State != NoCopy && c.Host == "" {
			return fmt.Errorf("the %s is %s on no host", c.role, c.State)
		}
	}
	return in.Size.valid()
}

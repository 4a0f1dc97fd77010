// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"strings"
)

// Word is a VM's protection in the words of the CLI (design §9).
type Word uint8

const (
	IsProtected Word = iota
	IsStarting       // a copy is being made
	NeedsBackup
	NoArbiter
	Disabled
	NotRunning
)

var wordNames = [...]string{
	"protected", "not protected: starting", "not protected: needs backup",
	"not protected: no arbiter", "not protected: disabled", "not protected: not running",
}

func (w Word) String() string { return name(wordNames[:], uint8(w)) }

// Hold is why Plan does nothing for a VM that isn't as it should be.
type Hold uint8

const (
	NoHold     Hold = iota
	InProgress      // an action is under way
	Deciding        // a copy is lost: the other one finds out by the arbiter whether it goes on
	Silent          // the primary's host is suspect
	BackingOff      // a failure: tried again at Until
	NoSlot          // hosts that fit make as many clones as they may
	NoHost          // Fit says why
	NoProof         // a silent copy may still run, and the VM lacks an arbiter or a fence
	Patience        // a silent host may return: restarted at Until
	Isolated        // most hosts are silent: no restart without proof
	NoClaim         // a clone would need an arbiter
	GuestOff        // the guest powered off by itself
	Unknown         // the VM runs and nobody asked for it: nothing is done to it
)

// holdNames are the sentences for operators, with the remedy where there is one.
var holdNames = [...]string{
	"",
	"in progress",
	"a copy was lost, the other one is claiming",
	"its host is silent for the moment",
	"failed, will be tried again",
	"waiting for other clones to finish",
	"no host fits",
	"a silent copy may still run: confirm that its host is dead, or give the VM an arbiter and a fence",
	"its host is silent, waiting for it before a restart",
	"most hosts are silent: confirm which are dead",
	"it has no arbiter: give one, then it can be cloned",
	"the guest powered off: start it again",
	"it runs, and there is no record that it should: create the record again, or stop it on its host",
}

func (h Hold) String() string { return name(holdNames[:], uint8(h)) }

// Constraint is what makes a host unfit for a copy. A host is counted for the
// first that it fails, in this order.
type Constraint uint8

const (
	fits Constraint = iota
	HostDown
	HostSuspect
	HostEvacuating
	HostCordoned
	HasCopy
	WrongVersion
	NoLabel
	NoDisk
	SameDomain
	SameGroup
	NoMemory
	NoCPU
	NotSettled
	Cloned
	constraints
)

// constraintNames follow a number of hosts.
var constraintNames = [constraints]string{
	HostDown:       "down",
	HostSuspect:    "suspect",
	HostEvacuating: "being evacuated",
	HostCordoned:   "cordoned",
	HasCopy:        "with a copy of it already",
	WrongVersion:   "without its machine version",
	NoLabel:        "without a required label",
	NoDisk:         "without its current disk",
	SameDomain:     "in the failure domain of the other copy",
	SameGroup:      "with a primary of its anti-affinity group",
	NoMemory:       "with too little memory",
	NoCPU:          "with too few CPUs",
	NotSettled:     "up for too short a time",
	Cloned:         "with as many clones as they may make",
}

func (c Constraint) String() string { return constraintNames[min(c, constraints-1)] }

// Fit counts the hosts that each constraint removed.
type Fit [constraints]int

// String lists them: "2 down, 5 with too little memory".
func (f Fit) String() string {
	var parts []string
	for c, n := range f {
		if n > 0 && c != int(fits) {
			parts = append(parts, fmt.Sprintf("%d %s", n, Constraint(c)))
		}
	}
	if len(parts) == 0 {
		return "there are no hosts"
	}
	return strings.Join(parts, ", ")
}

// Status is one VM for people and for the dashboard.
type Status struct {
	VM           string
	Word         Word
	Hold         Hold
	Until        Tick   // of BackingOff and Patience
	Host         string // that Silent, NoProof and Patience speak of
	Fit          Fit    // of NoHost and NoSlot
	SharedDomain bool   // both copies are in one failure domain
}

// String leaves out Until: what a tick is in hours and minutes is for others to say.
func (s Status) String() string {
	text := s.Word.String()
	if s.Hold != NoHold {
		text += "; " + s.Hold.String()
	}
	switch s.Hold {
	case NoHost, NoSlot:
		text += ": " + s.Fit.String()
	}
	if s.Host != "" {
		text += " (host " + s.Host + ")"
	}
	if s.SharedDomain {
		text += "; both copies are in one failure domain"
	}
	return text
}

// word is a VM's protection as observed. Only an arbiter makes a backup worth
// the name: without one nobody could go live, and one that is lost with the
// primary's host is none.
func (p *planner) word(v *vm) Word {
	in := v.in
	up := p.heard(in.Primary)
	switch {
	case in.Next.State == Starting && p.heard(in.Next):
		return IsStarting
	case !up && !p.heard(in.Backup):
		return NotRunning
	case v.want == nil || !v.want.FT:
		return Disabled
	case in.Primary.State == Starting:
		return IsStarting
	case !in.Arbiter:
		return NoArbiter
	case up && in.Backup.State == Protected && in.Endangered:
		return NoArbiter
	case up && in.Backup.State == Protected:
		return IsProtected
	case up && (in.Backup.State.making() || in.Next.State.making()):
		return IsStarting
	}
	return NeedsBackup
}

// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"

	"tandem/machine/event"
)

// Kind is what an Action does; the package comment says when.
type Kind uint8

const (
	StartPrimary   Kind = iota + 1 // on To, claiming the epoch after Epoch
	CloneBackup                    // from the primary to To
	StopBackup                     // on From
	MigrateBackup                  // from From to To
	MigratePrimary                 // first step: clone to To; SwapRoles follows when that is Protected
	SwapRoles                      // the primary on From becomes the backup, the backup on To the primary
	ColdRestart                    // on To, claiming the epoch after Epoch, by Evidence
	PowerOff                       // both copies
	Delete                         // the record and the disks, by Evidence
)

// Evidence is why a copy that can't be heard may be replaced (design §5.7).
type Evidence uint8

const (
	NoEvidence    Evidence = iota
	ProvenDead             // every copy is known to have ended
	ClaimAndFence          // nothing is known: the executor must win the claim and all fences before anything else
)

// Cause is what an action was planned for; it goes into the VM's events.
type Cause uint8

const (
	Asked         Cause = iota + 1 // by the operator, or by the VM's configuration
	CopyLost                       // a copy must be replaced
	HostEvacuated                  // the operator wants the host empty
	LabelMissing                   // the host lacks a required label
	DomainShared                   // both copies were in one failure domain
	GroupShared                    // two primaries of an anti-affinity group were on one host
	HostOverfull                   // the host has less memory or CPUs than its copies need
	HostShared                     // both copies are on one host, which protects from nothing
)

// Action is one thing to do for one VM.
type Action struct {
	Kind     Kind
	VM       string
	Epoch    event.Epoch // in another one the action is stale
	Revision Revision    // of the desired state; stale if the executor has seen a newer one
	By       string      // the executor: the epoch's owner, or the host that starts the VM
	From, To string
	Version  Version // that StartPrimary and ColdRestart boot
	Evidence Evidence
	Cause    Cause
}

var (
	kindNames     = [...]string{"nothing", "start primary", "clone backup", "stop backup", "migrate backup", "migrate primary", "swap roles", "cold restart", "power off", "delete"}
	evidenceNames = [...]string{"none", "proven dead", "claim and fence"}
	causeNames    = [...]string{"none", "asked for", "copy lost", "host is evacuated", "label missing", "failure domain shared", "anti-affinity group shared", "host overfull", "host shared"}
	hostNames     = [...]string{"unknown", "up", "suspect", "down"}
	copyNames     = [...]string{"none", "starting", "running", "cloning", "syncing", "protected", "lost", "dead", "powered off"}
)

// name looks an enumeration's value up in its table.
func name(table []string, i uint8) string {
	if int(i) < len(table) {
		return table[i]
	}
	return fmt.Sprintf("unknown %d", i)
}

func (k Kind) String() string      { return name(kindNames[:], uint8(k)) }
func (e Evidence) String() string  { return name(evidenceNames[:], uint8(e)) }
func (c Cause) String() string     { return name(causeNames[:], uint8(c)) }
func (s HostState) String() string { return name(hostNames[:], uint8(s)) }
func (s CopyState) String() string { return name(copyNames[:], uint8(s)) }

// String is an action as the VM's events show it.
func (a Action) String() string {
	s := fmt.Sprintf("%s %s epoch %d revision %d by %s", a.Kind, a.VM, a.Epoch, a.Revision, a.By)
	if a.From != "" {
		s += " from " + a.From
	}
	if a.To != "" {
		s += " to " + a.To
	}
	if a.Evidence != NoEvidence {
		s += " (" + a.Evidence.String() + ")"
	}
	return s + ": " + a.Cause.String()
}

// SPDX-License-Identifier: Apache-2.0

package world

import "tandem/machine/event"

// Record says who holds a VM: the newest epoch, the replica that claimed it and
// the generation of the disk that was current then. There is one per VM; it is
// changed only by Claim and lives as long as the VM. The zero Record means that
// no epoch was ever claimed.
type Record struct {
	Epoch          event.Epoch
	Owner          string // the token of one replica process, never used by another
	DiskGeneration uint64
}

// Arbiter is the atomic test-and-set that decides which side of a pair goes
// live (paper §2.3). It must fail independently of both hosts.
type Arbiter interface {
	// Read returns the newest record.
	Read() (Record, error)

	// Claim opens epoch for owner, if the newest record is that of the epoch
	// before it. It reports won only if the newest record now is that of epoch
	// and belongs to owner, so a claim whose answer was lost may be repeated;
	// cur is that newest record, the winner's if another won.
	//
	// An error means that the outcome is not known: the claim may have been
	// entered. The caller neither goes live nor halts; it asks again until the
	// arbiter answers.
	Claim(epoch event.Epoch, owner string, gen uint64) (won bool, cur Record, err error)
}

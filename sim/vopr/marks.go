// SPDX-License-Identifier: Apache-2.0

package vopr

import (
	"tandem/ft"
	"tandem/replica"
)

// Marks count how often something rare has happened.
type Marks struct{ list []Mark }

// Mark is one of them.
type Mark struct {
	What  string
	Count int
}

// Add counts.
func (m *Marks) Add(what string) { m.add(what, 1) }

func (m *Marks) add(what string, n int) {
	for i := range m.list {
		if m.list[i].What == what {
			m.list[i].Count += n
			return
		}
	}
	m.list = append(m.list, Mark{what, n})
}

// Merge adds the counts of another run.
func (m *Marks) Merge(o Marks) {
	for _, x := range o.list {
		m.add(x.What, x.Count)
	}
}

// Count returns how often something has happened.
func (m *Marks) Count(what string) int {
	for _, x := range m.list {
		if x.What == what {
			return x.Count
		}
	}
	return 0
}

// Sometimes are the marks that enough runs must reach: a path that is never taken is
// not tested.
var Sometimes = []string{
	// what fails
	"a packet is late", "a stream is spoilt", "a heartbeat comes twice", "a heartbeat is spoilt",
	"a frame is lost", "a frame is late", "a frame comes twice", "a frame is spoilt",
	"a disk stalls", "a disk operation fails", "a write is torn", "a write that was not flushed is lost",
	"a fence fails", "the arbiter forgets to answer",
	// what the protocol does then
	"a backup was activated", "a backup went live", "a primary won the claim", "a primary lost the claim",
	"a backup lost the claim", "a backup halted before it could go on", "a clone was broken off",
	"the roles changed", "a backup was dismissed", "the VM ended", "a fenced copy ended",
	"a process is proven dead", "a host fell silent", "a channel was without a connection too long", "a second backup has to wait", "a primary is occupied",
	// what the world sees
	"an answer leaves twice", "an answer leaves a new epoch first", "a client's bytes are sent again",
	"a write is issued again", "a VM boots from its disk",
}

// state notes what a change of state means.
func (m *Marks) state(role ft.Role, e replica.Event) {
	for _, r := range transitions {
		if (r.role == 0 || r.role == role) && (r.from == 0 || r.from == e.From) && r.to == e.To && contains(e.Text, r.why) {
			m.Add(r.mark)
		}
	}
}

var transitions = []struct {
	role     ft.Role
	from, to ft.State
	why      string
	mark     string
}{
	{0, 0, ft.Replaying, "", "a backup was activated"},
	{0, 0, ft.Live, "", "a backup went live"},
	{ft.RolePrimary, ft.Claiming, ft.Solo, "", "a primary won the claim"},
	{ft.RolePrimary, ft.Claiming, ft.Halted, "lost", "a primary lost the claim"},
	{ft.RoleBackup, ft.Claiming, ft.Halted, "lost", "a backup lost the claim"},
	{ft.RoleBackup, ft.Receiving, ft.Halted, "", "a backup halted before it could go on"},
	{ft.RolePrimary, ft.Syncing, ft.Solo, "", "a clone was broken off"},
	{0, 0, ft.Halted, "the roles are changed", "the roles changed"},
	{0, 0, ft.Solo, "dismissed", "a backup was dismissed"},
	{0, 0, ft.Off, "", "the VM ended"},
	{0, 0, ft.Halted, "is fenced", "a fenced copy ended"},
	{0, 0, ft.Draining, "process is gone", "a process is proven dead"},
	{0, 0, ft.Draining, "silent for", "a host fell silent"},
	{0, 0, ft.Claiming, "without a channel", "a channel was without a connection too long"},
}

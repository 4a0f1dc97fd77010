// SPDX-License-Identifier: Apache-2.0

package cluster

import "sort"

// site is a host during one Plan: what is left of it after all copies that are
// there, on their way, or planned so far.
type site struct {
	*Host
	barred  Constraint // why nothing may be placed on it
	domain  int
	memory  int64 // bytes left to place
	cpus    int64 // CPUs left to place
	over    int64 // bytes that its copies, less those on their way out, need beyond its memory
	clones  int
	settled bool
	version Version // to boot VMs with
	common  bool    // which as many hosts can run as any other
}

// set is a set of host indices.
type set []uint64

func (s set) has(i int) bool { return i >= 0 && s[i>>6]>>(i&63)&1 != 0 }
func (s set) add(i int)      { s[i>>6] |= 1 << (i & 63) }

// group is where VMs of an anti-affinity group are, or will be.
type group struct {
	primaries, copies set
}

// ask is a copy that needs a host.
type ask struct {
	v       *vm
	size    Size
	version Version // of a backup's primary
	beside  int     // the host of the VM's other copy, or none
	from    int     // the host that it is cloned from, or none
	only    int     // the one host that will do, or none
	repair  Cause   // DomainShared, GroupShared, HostOverfull: worth a move only if it ends that
}

// Preferences, weightiest first; the host with the greatest sum is taken, and
// among equals the one with the most memory left. More memory means fewer
// neighbours, so a host's failure costs fewer VMs.
const (
	scoreSettled uint8 = 1 << iota
	scoreCommon        // boots the version for which there are most hosts
	scoreNoCrowd       // no copy of its anti-affinity group
	scoreHost          // the operator's preferred host
	scoreUnblamed
	scoreDomain
	scoreUnblamedOften // after some failures even a shared domain is better
	scoreAll           = scoreUnblamedOften<<1 - 1
)

// oftenFailed is the number of failures after which a blamed host comes last.
const oftenFailed = 3

// place finds the best host. Roomier hosts come first, so the first with every
// preference is the one, and of others the first with the greatest score.
func (p *planner) place(a *ask) (best int, fit Fit) {
	best = none
	var bestScore uint8
	better := false // a host in another domain would fit, were it not busy cloning
	for _, i := range p.order {
		if a.only != none && i != a.only {
			continue
		}
		c := p.check(a, i)
		fit[c]++
		if c != fits && c != Cloned {
			continue
		}
		s := p.score(a, i)
		switch {
		case c == Cloned:
			better = better || s&scoreDomain != 0
		case s == scoreAll:
			return i, fit
		case best == none || s > bestScore:
			best, bestScore = i, s
		}
	}
	// A move of the backup later would cost more than a wait now.
	if best != none && better && bestScore&scoreDomain == 0 && a.v.in.Failures < oftenFailed {
		best = none
	}
	return best, fit
}

// rank sorts the hosts by room once their copies are booked.
func (p *planner) rank() {
	p.order, p.rankOf = make([]int, len(p.sites)), make([]int, len(p.sites))
	for i := range p.order {
		p.order[i] = i
	}
	sort.Slice(p.order, func(x, y int) bool { return p.roomier(p.order[x], p.order[y]) })
	for n, i := range p.order {
		p.rankOf[i] = n
	}
}

// sink restores the order after host i has lost room.
func (p *planner) sink(i int) {
	for n := p.rankOf[i]; n+1 < len(p.order) && p.roomier(p.order[n+1], i); n++ {
		next := p.order[n+1]
		p.order[n], p.order[n+1] = next, i
		p.rankOf[next], p.rankOf[i] = n, n+1
	}
}

// roomier orders hosts by what is left, and equal ones by name.
func (p *planner) roomier(i, j int) bool {
	a, b := &p.sites[i], &p.sites[j]
	if a.memory != b.memory {
		return a.memory > b.memory
	}
	return a.cpus > b.cpus || a.cpus == b.cpus && i < j
}

// check returns the first constraint that a host fails.
func (p *planner) check(a *ask, i int) Constraint {
	s, v := &p.sites[i], a.v
	switch {
	case s.barred != fits:
		return s.barred
	case i == a.beside || v.occupies(i):
		return HasCopy
	case !s.runs(a.version):
		return WrongVersion
	case v.labels != nil && !v.labels.has(i):
		return NoLabel
	case a.beside == none && v.disks != nil && !v.disks.has(i):
		return NoDisk
	case a.beside != none && s.domain == p.sites[a.beside].domain && (v.want.Spread == Require || a.repair == DomainShared):
		return SameDomain
	case (a.beside == none || a.repair == GroupShared) && v.meets(i, false):
		return SameGroup
	case s.memory < a.size.Memory+p.policy.Overhead:
		return NoMemory
	case s.cpus < int64(a.size.CPUs):
		return NoCPU
	case a.repair != 0 && !s.settled:
		return NotSettled
	case a.from != none && s.clones >= p.policy.ClonesPerHost:
		return Cloned
	}
	return fits
}

func (p *planner) score(a *ask, i int) (score uint8) {
	s, v := &p.sites[i], a.v
	blamed := i == v.blamed || v.in.Backup.State == Lost && i == v.backup || v.in.Primary.State == Lost && i == v.primary
	if s.settled {
		score |= scoreSettled
	}
	if a.beside != none || s.common {
		score |= scoreCommon
	}
	if !v.meets(i, true) {
		score |= scoreNoCrowd
	}
	if a.beside != none || v.host == none || i == v.host {
		score |= scoreHost
	}
	if !blamed {
		score |= scoreUnblamed
	}
	if a.beside == none || s.domain != p.sites[a.beside].domain {
		score |= scoreDomain
	}
	if !blamed || v.in.Failures < oftenFailed {
		score |= scoreUnblamedOften
	}
	return score
}

// runs reports whether a host can run a version; 0 is any.
func (s *site) runs(version Version) bool {
	if version == 0 {
		return len(s.Versions) > 0
	}
	for _, w := range s.Versions {
		if w == version {
			return true
		}
	}
	return false
}

// take books a planned copy.
func (p *planner) take(a *ask, i int) {
	p.reserve(i, a.size)
	p.sink(i)
	p.busy(i, a.from)
	for _, g := range a.v.groups {
		g.copies.add(i)
		if a.beside == none || a.repair == GroupShared {
			g.primaries.add(i)
		}
	}
}

func (p *planner) reserve(i int, size Size) {
	s := &p.sites[i]
	s.memory -= size.Memory + p.policy.Overhead
	s.cpus -= int64(size.CPUs)
}

// busy books one clone at both ends.
func (p *planner) busy(to, from int) {
	if from != none && to != none {
		p.sites[from].clones++
		p.sites[to].clones++
	}
}

// meets reports whether a host has a primary (or any copy) of a group of v.
func (v *vm) meets(i int, any bool) bool {
	for _, g := range v.groups {
		if any && g.copies.has(i) || !any && g.primaries.has(i) {
			return true
		}
	}
	return false
}

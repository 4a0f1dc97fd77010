// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"sort"
	"strings"
)

// none is the index of no host.
const none = -1

// planner is the state of one Plan.
type planner struct {
	policy   Policy
	now      Tick
	sites    []site // in the order of their names
	index    map[string]int
	order    []int // the sites by room, and where each is in it
	rankOf   []int
	vms      []vm // in the order of their names
	isolated bool // most hosts are silent
	actions  []Action
	status   []Status
}

// vm is a VM during one Plan.
type vm struct {
	want                  *VM       // nil: nobody asked for it
	in                    *Instance // never nil
	primary, backup, next int       // hosts, or none
	blamed, host          int       // that failed last, that is preferred; or none
	target                int       // where an operator wants a copy, or none
	held                  [3]bool   // whether that copy is heard, so that its host is taken
	groups                []*group
	labels, disks         set // hosts that qualify; nil: all
	conflict              bool
	status                *Status
	todo                  Kind
	cause                 Cause
	evidence              Evidence
}

// size is what a clone of the running copy needs, or the first copy.
func (v *vm) size() Size {
	if v.in.Size != (Size{}) || v.want == nil {
		return v.in.Size
	}
	return v.want.Size
}

func (v *vm) occupies(i int) bool {
	return v.held[0] && i == v.primary || v.held[1] && i == v.backup || v.held[2] && i == v.next
}

// moving reports a copy that an operator wants elsewhere and that is not there yet.
func (v *vm) moving() bool {
	return v.target != none && v.primary != v.target && (v.want.Move == PrimaryRole || v.backup != v.target)
}

// level is the order in which needs are served: what is lost first, then
// protection, then what is new, then moves.
type level int

const (
	ending level = iota
	restarting
	protecting
	starting
	evacuating
	repairing
	levels
)

// Decision is what Plan returns.
type Decision struct {
	Actions []Action     // at most one per VM
	VMs     []Status     // of all desired and observed VMs, by name
	Hosts   []HostStatus // by name
}

// HostStatus is one host for people; an evacuation is done when it has no copies.
type HostStatus struct {
	Host               string
	Primaries, Backups int
	Memory             int64 // bytes left to place, after this Decision
}

// Plan says what to do next. Equal input, in any order, gives equal output. It
// changes nothing and keeps nothing of its arguments.
func Plan(d Desired, o Observed) (Decision, error) {
	if err := valid(d, o); err != nil {
		return Decision{}, err
	}
	p := &planner{policy: d.Policy, now: o.Now}
	if err := p.addHosts(o.Hosts); err != nil {
		return Decision{}, err
	}
	if err := p.addVMs(d.VMs, o.VMs); err != nil {
		return Decision{}, err
	}
	hosts := p.account()
	p.rank()
	var todo [levels][]*vm
	for i := range p.vms {
		v := &p.vms[i]
		v.status.Word = p.word(v)
		if l, ok := p.decide(v); ok {
			todo[l] = append(todo[l], v)
		}
	}
	for _, vms := range todo {
		for _, v := range vms {
			p.act(v)
		}
	}
	for i := range hosts {
		hosts[i].Memory = p.sites[i].memory
	}
	return Decision{p.actions, p.status, hosts}, nil
}

func (p *planner) addHosts(hosts []Host) error {
	p.sites, p.index = make([]site, len(hosts)), make(map[string]int, len(hosts))
	for i := range hosts {
		p.sites[i].Host = &hosts[i]
	}
	sort.Slice(p.sites, func(i, j int) bool { return p.sites[i].Name < p.sites[j].Name })
	domains, versions, silent := map[string]int{}, map[Version]int{}, 0
	for i := range p.sites {
		s := &p.sites[i]
		if _, twice := p.index[s.Name]; twice {
			return fmt.Errorf("cluster: two hosts are named %q", s.Name)
		}
		p.index[s.Name] = i
		s.domain = -1 - i // a domain of its own
		if s.Domain != "" {
			n, ok := domains[s.Domain]
			if !ok {
				n = len(domains)
				domains[s.Domain] = n
			}
			s.domain = n
		}
		s.memory, s.cpus, s.over = s.Memory, int64(s.CPUs)*int64(p.policy.CPUFactor), -s.Memory
		s.settled = p.now-s.Since >= p.policy.Settle
		s.barred = s.bar()
		if s.State == Down && !s.Dead {
			silent++
		}
		if s.barred == fits {
			for _, v := range s.Versions {
				versions[v]++
			}
		}
	}
	p.isolated = silent*2 > len(hosts)
	p.chooseVersions(versions)
	return nil
}

// bar returns why nothing may be placed on a host at all.
func (s *site) bar() Constraint {
	switch {
	case s.State == Down:
		return HostDown
	case s.State == Suspect:
		return HostSuspect
	case s.Evacuation != Stay:
		return HostEvacuating
	case s.Cordoned:
		return HostCordoned
	}
	return fits
}

// chooseVersions picks what each host boots VMs with: the machine version that
// most hosts run, so that a backup will find a host, and of equal ones the newest.
func (p *planner) chooseVersions(runs map[Version]int) {
	most := 0
	for i := range p.sites {
		s := &p.sites[i]
		for _, v := range s.Versions {
			if n, m := runs[v], runs[s.version]; s.version == 0 || n > m || n == m && v > s.version {
				s.version = v
			}
		}
		most = max(most, runs[s.version])
	}
	for i := range p.sites {
		s := &p.sites[i]
		s.common = runs[s.version] == most
	}
}

// addVMs merges the two lists by name.
func (p *planner) addVMs(want []VM, in []Instance) error {
	w, o := make([]*VM, len(want)), make([]*Instance, len(in))
	for i := range want {
		w[i] = &want[i]
	}
	for i := range in {
		o[i] = &in[i]
	}
	sort.Slice(w, func(i, j int) bool { return w[i].Name < w[j].Name })
	sort.Slice(o, func(i, j int) bool { return o[i].VM < o[j].VM })
	for i := 1; i < len(w); i++ {
		if w[i].Name == w[i-1].Name {
			return fmt.Errorf("cluster: two VMs are named %q", w[i].Name)
		}
	}
	for i := 1; i < len(o); i++ {
		if o[i].VM == o[i-1].VM {
			return fmt.Errorf("cluster: VM %q was observed twice", o[i].VM)
		}
	}
	never := &Instance{}
	p.vms = make([]vm, 0, len(w)+len(o))
	for len(w)+len(o) > 0 {
		c := -1
		if len(w) == 0 {
			c = 1
		} else if len(o) > 0 {
			c = strings.Compare(w[0].Name, o[0].VM)
		}
		v := vm{in: never}
		if c <= 0 {
			v.want, w = w[0], w[1:]
		}
		if c >= 0 {
			v.in, o = o[0], o[1:]
		}
		p.vms = append(p.vms, v)
	}
	p.status = make([]Status, len(p.vms))
	for i := range p.vms {
		v := &p.vms[i]
		v.status = &p.status[i]
		v.status.VM = v.in.VM
		if v.want != nil {
			v.status.VM = v.want.Name
		}
	}
	p.resolve()
	return nil
}

// resolve turns names of hosts, labels and groups into indices and sets.
func (p *planner) resolve() {
	empty := func() set { return make(set, (len(p.sites)+63)/64) }
	labelled, grouped := map[string]set{}, map[string]*group{}
	for i := range p.sites {
		for _, l := range p.sites[i].Labels {
			if labelled[l] == nil {
				labelled[l] = empty()
			}
			labelled[l].add(i)
		}
	}
	for i := range p.vms {
		v := &p.vms[i]
		v.primary, v.backup, v.next = p.at(v.in.Primary), p.at(v.in.Backup), p.at(v.in.Next)
		v.held = [3]bool{p.heard(v.in.Primary), p.heard(v.in.Backup), p.heard(v.in.Next)}
		v.blamed, v.host, v.target = none, none, none
		if i, ok := p.index[v.in.FailedOn]; ok && v.in.Failures > 0 {
			v.blamed = i
		}
		if len(v.in.Disks) > 0 {
			v.disks = empty()
			for _, name := range v.in.Disks {
				if h, ok := p.index[name]; ok {
					v.disks.add(h)
				}
			}
		}
		if v.want == nil {
			continue
		}
		if i, ok := p.index[v.want.Host]; ok {
			v.host = i
		}
		if i, ok := p.index[v.want.To]; ok && v.want.Move != NoRole {
			v.target = i
		}
		for _, g := range v.want.Groups {
			if grouped[g] == nil {
				grouped[g] = &group{empty(), empty()}
			}
			v.groups = append(v.groups, grouped[g])
		}
		for _, l := range v.want.Labels {
			if labelled[l] == nil {
				labelled[l] = empty()
			}
			v.labels = v.labels.and(labelled[l])
		}
	}
}

// and returns the intersection; an empty receiver stands for all.
func (s set) and(t set) set {
	out := append(set{}, t...)
	for i := range s {
		out[i] &= s[i]
	}
	return out
}

// at is the host of a copy, if there is a copy and the host is known.
func (p *planner) at(c Copy) int {
	if i, ok := p.index[c.Host]; ok && c.State != NoCopy {
		return i
	}
	return none
}

// present reports whether a copy has not ended on purpose.
func (c Copy) present() bool { return c.State != NoCopy && c.State != PoweredOff }

// making reports a clone under way.
func (s CopyState) making() bool { return s == Cloning || s == Syncing }

// heard reports a copy that is there and not lost with its host. A suspect host
// still counts.
func (p *planner) heard(c Copy) bool {
	if !c.present() || c.State == Lost || c.State == Dead {
		return false
	}
	i := p.at(c)
	return i != none && p.sites[i].State != Down
}

// ended reports proof that a copy does not run.
func (p *planner) ended(c Copy) bool {
	if !c.present() || c.State == Dead {
		return true
	}
	i := p.at(c)
	return i != none && p.sites[i].Dead
}

// account books what is there and on its way, then holds it against the hosts'
// own reports; it also finds VMs whose primary meets another of its group.
func (p *planner) account() []HostStatus {
	hosts := make([]HostStatus, len(p.sites))
	for i := range p.vms {
		v := &p.vms[i]
		in := v.in
		for _, c := range [...]struct {
			Copy
			host int
		}{{in.Primary, v.primary}, {in.Backup, v.backup}, {in.Next, v.next}} {
			if c.present() && c.State != Dead && c.host != none {
				p.reserve(c.host, v.size())
				p.sites[c.host].over += v.size().Memory + p.policy.Overhead
				for _, g := range v.groups {
					g.copies.add(c.host)
				}
			}
		}
		if v.primary != none && in.Primary.present() && in.Primary.State != Dead {
			hosts[v.primary].Primaries++
		}
		if v.backup != none && in.Backup.present() && in.Backup.State != Dead {
			hosts[v.backup].Backups++
		}
		p.accountClones(v)
		// The first VM by name stays; the others are the ones to move.
		home := v.primary
		if in.Doing == SwapRoles {
			home = v.backup
		}
		if home != none && p.heard(in.Primary) {
			v.conflict = v.meets(home, false)
			for _, g := range v.groups {
				g.primaries.add(home)
			}
		}
	}
	for i := range p.sites {
		s := &p.sites[i]
		hosts[i].Host = s.Name
		s.memory = min(s.memory, s.Free)
	}
	return hosts
}

func (p *planner) accountClones(v *vm) {
	in := v.in
	switch {
	case in.Next.State.making():
		p.busy(v.next, v.primary)
		if v.backup != none {
			p.sites[v.backup].over -= v.size().Memory + p.policy.Overhead
		}
	case in.Backup.State.making(), in.Doing == SwapRoles:
		// A swap may end with a new backup to make.
		p.busy(v.backup, v.primary)
	}
}

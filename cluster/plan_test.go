// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const gib = 1 << 30

// hosts makes hosts "RACK-NUMBER" of 64 GiB and 8 CPUs.
func hosts(racks ...string) []Host {
	var list []Host
	for _, r := range racks {
		list = append(list, Host{Name: fmt.Sprintf("%s-%d", r, len(list)+1), Domain: r, CPUs: 8, Memory: 64 * gib, Free: 64 * gib,
			Versions: []Version{1}, State: Up, Since: -1000})
	}
	return list
}

func wanted(name string) VM {
	return VM{Name: name, Revision: 7, Asked: 5, Power: true, FT: true, Size: Size{2, 4 * gib}}
}

// running is a VM with a primary, and a backup if backup isn't empty.
func running(name, primary, backup string) Instance {
	in := Instance{VM: name, Epoch: 3, Owner: primary, Revision: 7, Size: Size{2, 4 * gib}, Version: 1,
		Primary: Copy{primary, Running}, Arbiter: true, Fence: true}
	if backup != "" {
		in.Backup = Copy{backup, Protected}
	}
	return in
}

// scene is a situation with one VM or a few; change makes it what a test needs.
type scene struct {
	Desired
	Observed
}

func newScene(hs []Host, in ...Instance) *scene {
	s := &scene{Desired{Policy: DefaultPolicy()}, Observed{Now: 100, Hosts: hs, VMs: in}}
	for _, i := range in {
		s.Desired.VMs = append(s.Desired.VMs, wanted(i.VM))
	}
	return s
}

func (s *scene) host(name string) *Host {
	for i := range s.Hosts {
		if s.Hosts[i].Name == name {
			return &s.Hosts[i]
		}
	}
	panic("no host " + name)
}

func (s *scene) plan(t testing.TB) Decision {
	t.Helper()
	d, err := Plan(s.Desired, s.Observed)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// move has an operator want a copy on a host.
func move(role Role, to string) func(*scene) {
	return func(s *scene) { s.Desired.VMs[0].Move, s.Desired.VMs[0].To = role, to }
}

// Each situation leads to the action, or to the status, that an operator expects.
func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name   string
		hosts  []Host
		vm     Instance
		change func(s *scene)
		want   string // actions, or the status if there are none
	}{
		{"no copy", hosts("a", "b"), Instance{VM: "db"}, nil,
			"start primary db epoch 0 revision 7 by a-1 to a-1: asked for"},
		{"preferred host", hosts("a", "b"), Instance{VM: "db"}, func(s *scene) { s.Desired.VMs[0].Host = "b-2" },
			"start primary db epoch 0 revision 7 by b-2 to b-2: asked for"},
		{"most memory", hosts("a", "b"), Instance{VM: "db"}, func(s *scene) { s.host("a-1").Free = 60 * gib },
			"start primary db epoch 0 revision 7 by b-2 to b-2: asked for"},
		{"unprotected", hosts("a", "a", "b"), running("db", "a-1", ""), nil,
			"clone backup db epoch 3 revision 7 by a-1 from a-1 to b-3: copy lost"},
		{"protected", hosts("a", "b"), running("db", "a-1", "b-2"), nil, "protected"},
		{"one rack, prefer", hosts("a", "a"), running("db", "a-1", ""), nil,
			"clone backup db epoch 3 revision 7 by a-1 from a-1 to a-2: copy lost"},
		{"one rack, require", hosts("a", "a"), running("db", "a-1", ""), func(s *scene) { s.Desired.VMs[0].Spread = Require },
			"not protected: needs backup; no host fits: 1 with a copy of it already, 1 in the failure domain of the other copy"},
		{"no racks at all", hosts("", ""), running("db", "-1", ""), func(s *scene) { s.Desired.VMs[0].Spread = Require },
			"clone backup db epoch 3 revision 7 by -1 from -1 to -2: copy lost"},
		{"shared domain is repaired", hosts("a", "a", "b"), running("db", "a-1", "a-2"), nil,
			"migrate backup db epoch 3 revision 7 by a-1 from a-2 to b-3: failure domain shared"},
		{"but not to a host just up", hosts("a", "a", "b"), running("db", "a-1", "a-2"), func(s *scene) { s.host("b-3").Since = 90 },
			"protected; no host fits: 2 with a copy of it already, 1 up for too short a time; both copies are in one failure domain"},
		{"waits for a clone slot in another domain", hosts("a", "a", "b"), running("db", "a-1", ""), func(s *scene) {
			s.Policy.ClonesPerHost = 1
			y := running("y", "a-2", "b-3")
			y.Backup.State = Cloning
			s.Observed.VMs = append(s.Observed.VMs, y)
			s.Desired.VMs = append(s.Desired.VMs, wanted("y"))
		}, "not protected: needs backup; waiting for other clones to finish: 1 with a copy of it already, 2 with as many clones as they may make"},
		{"ft disabled", hosts("a", "b"), running("db", "a-1", ""), func(s *scene) { s.Desired.VMs[0].FT = false }, "not protected: disabled"},
		{"ft disabled with a backup", hosts("a", "b"), running("db", "a-1", "b-2"), func(s *scene) { s.Desired.VMs[0].FT = false },
			"stop backup db epoch 3 revision 7 by a-1 from b-2: asked for"},
		{"no arbiter", hosts("a", "b"), running("db", "a-1", ""), func(s *scene) { s.Observed.VMs[0].Arbiter = false },
			"not protected: no arbiter; it has no arbiter: give one, then it can be cloned"},
		{"an arbiter that a host takes with it", hosts("a", "b"), running("db", "a-1", "b-2"), func(s *scene) { s.Observed.VMs[0].Endangered = true },
			"not protected: no arbiter"},
		{"no backup either", hosts("a"), running("db", "a-1", ""), func(s *scene) { s.Observed.VMs[0].Endangered = true },
			"not protected: needs backup; no host fits: 1 with a copy of it already"},
		{"cloning", hosts("a", "b"), running("db", "a-1", "b-2"), func(s *scene) { s.Observed.VMs[0].Backup.State = Cloning },
			"not protected: starting; in progress"},
		{"starting", hosts("a", "b"), running("db", "a-1", ""), func(s *scene) { s.Observed.VMs[0].Primary.State = Starting },
			"not protected: starting; in progress"},
		{"machine version", hosts("a", "b"), running("db", "a-1", ""), func(s *scene) { s.host("b-2").Versions = []Version{2} },
			"not protected: needs backup; no host fits: 1 with a copy of it already, 1 without its machine version"},
		{"label", hosts("a", "b", "c"), running("db", "a-1", ""), func(s *scene) {
			s.Desired.VMs[0].Labels = []string{"disk=ssd", "zone=1"}
			s.host("a-1").Labels = []string{"zone=1", "disk=ssd"}
			s.host("b-2").Labels = []string{"disk=ssd"}
		}, "not protected: needs backup; no host fits: 1 with a copy of it already, 2 without a required label"},
		{"memory counts the overhead", hosts("a", "b"), running("db", "a-1", ""), func(s *scene) { s.host("b-2").Free = 4 * gib },
			"not protected: needs backup; no host fits: 1 with a copy of it already, 1 with too little memory"},
		{"CPUs", hosts("a", "b"), running("db", "a-1", ""), func(s *scene) { s.host("b-2").CPUs = 0 },
			"not protected: needs backup; no host fits: 1 with a copy of it already, 1 with too few CPUs"},
		{"cordoned, suspect, down", hosts("a", "b", "c", "d"), running("db", "a-1", ""), func(s *scene) {
			s.host("b-2").Cordoned, s.host("c-3").State, s.host("d-4").State = true, Suspect, Down
		}, "not protected: needs backup; no host fits: 1 down, 1 suspect, 1 cordoned, 1 with a copy of it already"},
		{"backing off", hosts("a", "b"), running("db", "a-1", ""), func(s *scene) {
			s.Observed.VMs[0].Failures, s.Observed.VMs[0].FailedAt = 3, 90
		}, "not protected: needs backup; failed, will be tried again"},
		{"another host after a failure", hosts("a", "b", "c"), running("db", "a-1", ""), func(s *scene) {
			s.Observed.VMs[0].Failures, s.Observed.VMs[0].FailedAt, s.Observed.VMs[0].FailedOn = 1, 90, "b-2"
		}, "clone backup db epoch 3 revision 7 by a-1 from a-1 to c-3: copy lost"},
		{"one rack after three failures", hosts("a", "a", "b"), running("db", "a-1", ""), func(s *scene) {
			s.Observed.VMs[0].Failures, s.Observed.VMs[0].FailedAt, s.Observed.VMs[0].FailedOn = 3, 50, "b-3"
		}, "clone backup db epoch 3 revision 7 by a-1 from a-1 to a-2: copy lost"},
		{"backup lost with its host", hosts("a", "b", "c"), running("db", "a-1", "b-2"), func(s *scene) {
			s.Observed.VMs[0].Backup.State, s.host("b-2").State = Lost, Down
		}, "clone backup db epoch 3 revision 7 by a-1 from a-1 to c-3: copy lost"},
		{"the primary hears a backup that we don't", hosts("a", "b", "c"), running("db", "a-1", "b-2"), func(s *scene) {
			s.host("b-2").State = Down
		}, "protected"},
		{"the backup decides", hosts("a", "b", "c"), running("db", "a-1", "b-2"), func(s *scene) { s.host("a-1").State = Down },
			"not protected: needs backup; a copy was lost, the other one is claiming"},
		{"the primary's host is suspect", hosts("a", "b", "c"), running("db", "a-1", ""), func(s *scene) { s.host("a-1").State = Suspect },
			"not protected: needs backup; its host is silent for the moment (host a-1)"},
		{"both lost, nothing known", hosts("a", "b", "c", "d"), running("db", "a-1", "b-2"), func(s *scene) {
			s.host("a-1").State, s.host("b-2").State, s.Observed.VMs[0].Fence = Down, Down, false
		}, "not protected: not running; a silent copy may still run: confirm that its host is dead, or give the VM an arbiter and a fence (host a-1)"},
		{"both lost, one proven", hosts("a", "b", "c", "d"), running("db", "a-1", "b-2"), func(s *scene) {
			s.host("a-1").State, s.host("b-2").State, s.Observed.VMs[0].Fence = Down, Down, false
			s.host("a-1").Dead = true
		}, "not protected: not running; a silent copy may still run: confirm that its host is dead, or give the VM an arbiter and a fence (host b-2)"},
		{"both lost, both proven", hosts("a", "b", "c", "d"), running("db", "a-1", "b-2"), func(s *scene) {
			s.host("a-1").State, s.host("b-2").State, s.Observed.VMs[0].Fence = Down, Down, false
			s.host("a-1").Dead, s.Observed.VMs[0].Backup.State = true, Dead
		}, "cold restart db epoch 3 revision 7 by c-3 from a-1 to c-3 (proven dead): copy lost"},
		{"both lost, fenced", hosts("a", "b", "c", "d"), running("db", "a-1", "b-2"), func(s *scene) {
			s.host("a-1").State, s.host("b-2").State = Down, Down
		}, "cold restart db epoch 3 revision 7 by c-3 from a-1 to c-3 (claim and fence): copy lost"},
		{"both lost, just now", hosts("a", "b", "c", "d"), running("db", "a-1", "b-2"), func(s *scene) {
			s.host("a-1").State, s.host("b-2").State, s.host("b-2").Since = Down, Down, 90
		}, "not protected: not running; its host is silent, waiting for it before a restart (host a-1)"},
		{"both lost, and most others", hosts("a", "b", "c"), running("db", "a-1", "b-2"), func(s *scene) {
			s.host("a-1").State, s.host("b-2").State = Down, Down
		}, "not protected: not running; most hosts are silent: confirm which are dead (host a-1)"},
		{"lost while doing something", hosts("a", "b"), running("db", "a-1", ""), func(s *scene) {
			s.Observed.VMs[0].Primary.State, s.Observed.VMs[0].Doing, s.host("b-2").Free = Dead, StopBackup, 63*gib
		}, "cold restart db epoch 3 revision 7 by a-1 from a-1 to a-1 (proven dead): copy lost"},
		{"the current disk", hosts("a", "b", "c", "d"), running("db", "a-1", ""), func(s *scene) {
			s.host("a-1").State, s.host("a-1").Dead, s.Observed.VMs[0].Disks = Down, true, []string{"a-1", "d-4"}
		}, "cold restart db epoch 3 revision 7 by d-4 from a-1 to d-4 (proven dead): copy lost"},
		{"restart under way", hosts("a", "b", "c"), running("db", "a-1", ""), func(s *scene) {
			s.host("a-1").State, s.Observed.VMs[0].Next = Down, Copy{"b-2", Starting}
		}, "not protected: starting; in progress"},
		{"host forgotten", hosts("a", "b"), running("db", "zz", ""), func(s *scene) { s.Observed.VMs[0].Fence = false },
			"not protected: not running; a silent copy may still run: confirm that its host is dead, or give the VM an arbiter and a fence (host zz)"},
		{"evacuate a backup", hosts("a", "b", "c"), running("db", "a-1", "b-2"), func(s *scene) { s.host("b-2").Evacuation = Evacuate },
			"migrate backup db epoch 3 revision 7 by a-1 from b-2 to c-3: host is evacuated"},
		{"evacuate a primary", hosts("a", "b", "c"), running("db", "a-1", "b-2"), func(s *scene) { s.host("a-1").Evacuation = Evacuate },
			"swap roles db epoch 3 revision 7 by a-1 from a-1 to b-2: host is evacuated"},
		{"evacuate without a place", hosts("a", "b"), running("db", "a-1", "b-2"), func(s *scene) { s.host("a-1").Evacuation = Evacuate },
			"protected; no host fits: 1 being evacuated, 1 with a copy of it already"},
		{"evacuate without a place, forced", hosts("a", "b"), running("db", "a-1", "b-2"), func(s *scene) { s.host("a-1").Evacuation = Force },
			"swap roles db epoch 3 revision 7 by a-1 from a-1 to b-2: host is evacuated"},
		{"and a backup, forced", hosts("a", "b"), running("db", "a-1", "b-2"), func(s *scene) { s.host("b-2").Evacuation = Force },
			"stop backup db epoch 3 revision 7 by a-1 from b-2: host is evacuated"},
		{"evacuate an unprotected VM", hosts("a", "b"), running("db", "a-1", ""), func(s *scene) {
			s.host("a-1").Evacuation, s.Desired.VMs[0].FT = Evacuate, false
		}, "migrate primary db epoch 3 revision 7 by a-1 from a-1 to b-2: host is evacuated"},
		{"its second step", hosts("a", "b"), running("db", "a-1", "b-2"), func(s *scene) {
			s.host("a-1").Evacuation, s.Desired.VMs[0].FT = Evacuate, false
		}, "swap roles db epoch 3 revision 7 by a-1 from a-1 to b-2: host is evacuated"},
		{"a label gone", hosts("a", "b", "c"), running("db", "a-1", "b-2"), func(s *scene) {
			s.Desired.VMs[0].Labels = []string{"ssd"}
			s.host("a-1").Labels, s.host("c-3").Labels = []string{"ssd"}, []string{"ssd"}
		}, "migrate backup db epoch 3 revision 7 by a-1 from b-2 to c-3: label missing"},
		{"overfull", hosts("a", "b", "c"), running("db", "a-1", "b-2"), func(s *scene) { s.host("b-2").Memory = 4 * gib },
			"migrate backup db epoch 3 revision 7 by a-1 from b-2 to c-3: host overfull"},
		{"overfull, being moved", hosts("a", "b", "c"), running("db", "a-1", "b-2"), func(s *scene) {
			s.host("b-2").Memory, s.Observed.VMs[0].Next = 4*gib, Copy{"c-3", Cloning}
		}, "protected; in progress"},
		{"asked to move the primary to the backup", hosts("a", "b"), running("db", "a-1", "b-2"), move(PrimaryRole, "b-2"),
			"swap roles db epoch 3 revision 7 by a-1 from a-1 to b-2: asked for"},
		{"asked to move the primary elsewhere", hosts("a", "b", "c"), running("db", "a-1", "b-2"), func(s *scene) {
			move(PrimaryRole, "c-3")(s)
			s.host("c-3").Free = 20 * gib
		}, "migrate backup db epoch 3 revision 7 by a-1 from b-2 to c-3: asked for"},
		{"its second step", hosts("a", "b", "c"), running("db", "a-1", ""), func(s *scene) {
			move(PrimaryRole, "c-3")(s)
			s.host("c-3").Free = 20 * gib
		}, "clone backup db epoch 3 revision 7 by a-1 from a-1 to c-3: copy lost"},
		{"asked to move an unprotected VM", hosts("a", "b", "c"), running("db", "a-1", ""), func(s *scene) {
			move(PrimaryRole, "c-3")(s)
			s.Desired.VMs[0].FT = false
		}, "migrate primary db epoch 3 revision 7 by a-1 from a-1 to c-3: asked for"},
		{"while it is cloned", hosts("a", "b", "c"), running("db", "a-1", "c-3"), func(s *scene) {
			move(PrimaryRole, "c-3")(s)
			s.Desired.VMs[0].FT, s.Observed.VMs[0].Backup.State = false, Cloning
		}, "not protected: disabled; in progress"},
		{"asked to move to a full host", hosts("a", "b", "c"), running("db", "a-1", "b-2"), func(s *scene) {
			move(BackupRole, "c-3")(s)
			s.host("c-3").Free = gib
		}, "protected; no host fits: 1 with too little memory"},
		{"asked to move the backup", hosts("a", "b", "c", "d"), running("db", "a-1", "b-2"), move(BackupRole, "d-4"),
			"migrate backup db epoch 3 revision 7 by a-1 from b-2 to d-4: asked for"},
		{"the backup is there", hosts("a", "b"), running("db", "a-1", "b-2"), move(BackupRole, "b-2"), "protected"},
		{"the primary is there", hosts("a", "b"), running("db", "a-1", "b-2"), move(PrimaryRole, "a-1"), "protected"},
		{"both on one host", hosts("a", "b"), running("db", "a-1", "a-1"), nil,
			"stop backup db epoch 3 revision 7 by a-1 from a-1: host shared"},
		{"guest powered off", hosts("a", "b"), running("db", "a-1", ""), func(s *scene) { s.Observed.VMs[0].Primary.State = PoweredOff },
			"not protected: not running; the guest powered off: start it again"},
		{"guest powered off, its backup dead", hosts("a", "b"), running("db", "a-1", "b-2"), func(s *scene) {
			s.Observed.VMs[0].Primary.State, s.Observed.VMs[0].Backup.State = PoweredOff, Dead
		}, "not protected: not running; the guest powered off: start it again"},
		{"guest powered off, its backup silent", hosts("a", "b"), running("db", "a-1", "b-2"), func(s *scene) {
			s.Observed.VMs[0].Primary.State, s.Observed.VMs[0].Backup.State, s.host("b-2").State = PoweredOff, Lost, Down
			s.Observed.VMs[0].Fence = false
		}, "not protected: not running; a silent copy may still run: confirm that its host is dead, or give the VM an arbiter and a fence (host b-2)"},
		{"started again", hosts("a", "b"), running("db", "a-1", ""), func(s *scene) {
			s.Observed.VMs[0].Primary.State, s.Observed.VMs[0].Revision = PoweredOff, 4
		}, "start primary db epoch 3 revision 7 by a-1 to a-1: asked for"},
		{"stop", hosts("a", "b"), running("db", "a-1", "b-2"), func(s *scene) { s.Desired.VMs[0].Power = false },
			"power off db epoch 3 revision 7 by a-1: asked for"},
		{"stopped", hosts("a", "b"), Instance{VM: "db", Epoch: 3}, func(s *scene) { s.Desired.VMs[0].Power = false },
			"not protected: not running"},
		{"delete while running", hosts("a", "b"), running("db", "a-1", "b-2"), func(s *scene) { s.Desired.VMs[0].Deleted = true },
			"power off db epoch 3 revision 7 by a-1: asked for"},
		{"delete", hosts("a", "b"), Instance{VM: "db", Epoch: 3, Owner: "b-2"}, func(s *scene) { s.Desired.VMs[0].Deleted = true },
			"delete db epoch 3 revision 7 by b-2 (proven dead): asked for"},
		{"delete what may still run", hosts("a", "b"), running("db", "a-1", ""), func(s *scene) {
			s.Desired.VMs[0].Deleted, s.Observed.VMs[0].Fence, s.host("a-1").State = true, false, Down
		}, "not protected: not running; a silent copy may still run: confirm that its host is dead, or give the VM an arbiter and a fence (host a-1)"},
		{"nobody asked for it", hosts("a", "b"), running("db", "a-1", ""), func(s *scene) { s.Desired.VMs = nil },
			"not protected: disabled; it runs, and there is no record that it should: create the record again, or stop it on its host"},
		{"a new owner not yet seen", hosts("a", "b"), running("db", "a-1", "b-2"), func(s *scene) { s.Observed.VMs[0].Owner = "b-2" },
			"protected; a copy was lost, the other one is claiming (host b-2)"},
		{"no hosts", nil, Instance{VM: "db"}, nil, "not protected: not running; no host fits: there are no hosts"},
	} {
		s := newScene(c.hosts, c.vm)
		if c.change != nil {
			c.change(s)
		}
		d := s.plan(t)
		got := d.VMs[0].String()
		for _, a := range d.Actions {
			if a.VM == "db" {
				got = a.String()
			}
		}
		if got != c.want {
			t.Errorf("%s:\n\tgot  %s\n\twant %s", c.name, got, c.want)
		}
	}
}

// Anti-affinity holds for the primaries of a group, and only one of two that
// met after a failover moves, by the cheapest way.
func TestGroups(t *testing.T) {
	s := newScene(hosts("a", "b", "c"), running("x", "a-1", "b-2"), running("y", "a-1", "c-3"))
	for i := range s.Desired.VMs {
		s.Desired.VMs[i].Groups = []string{"web"}
	}
	if d := s.plan(t); len(d.Actions) != 1 || d.Actions[0].Kind != SwapRoles || d.Actions[0].VM != "y" {
		t.Errorf("after a failover: %v", d.Actions)
	}
	s.Observed.VMs[1].Doing = SwapRoles
	if d := s.plan(t); len(d.Actions) != 0 {
		t.Errorf("while one moves: %v", d.Actions)
	}
	s.Observed.VMs[1] = Instance{VM: "y"}
	s.host("b-2").Cordoned, s.host("c-3").State = true, Down
	if d := s.plan(t); len(d.Actions) != 0 || d.VMs[1].Fit[SameGroup] != 1 {
		t.Errorf("a start beside the group: %v, %v", d.Actions, d.VMs[1])
	}
}

// New VMs are booted with the machine version that most hosts run, so that
// their backups have a choice.
func TestVersion(t *testing.T) {
	s := newScene(hosts("a", "b", "c"), Instance{VM: "db"})
	s.host("a-1").Versions, s.host("b-2").Versions = []Version{2}, []Version{2, 1}
	s.host("b-2").Free = 60 * gib
	if d := s.plan(t); len(d.Actions) != 1 || d.Actions[0].Version != 2 {
		t.Errorf("as many hosts run 1 as 2, 2 is newer: %v", d.Actions)
	}
	s.host("c-3").Versions = []Version{1, 3}
	s.host("a-1").Versions = []Version{1, 2}
	if d := s.plan(t); len(d.Actions) != 1 || d.Actions[0].Version != 1 {
		t.Errorf("all hosts run 1: %v", d.Actions)
	}
}

// A host that joins changes nothing, and the order of the input neither.
func TestStable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	s := newScene(hosts("a", "a", "b", "b", "c", "c"))
	for i := range 30 {
		p := i % 6
		b := (p + 2) % 6
		s.Observed.VMs = append(s.Observed.VMs, running(fmt.Sprint("vm", i), s.Hosts[p].Name, s.Hosts[b].Name))
		s.Desired.VMs = append(s.Desired.VMs, wanted(fmt.Sprint("vm", i)))
	}
	if d := s.plan(t); len(d.Actions) != 0 {
		t.Fatalf("a healthy cluster: %v", d.Actions)
	}
	s.Hosts = append(s.Hosts, Host{Name: "new", Domain: "d", CPUs: 64, Memory: 512 * gib, Free: 512 * gib, Versions: []Version{1}, State: Up})
	if d := s.plan(t); len(d.Actions) != 0 {
		t.Fatalf("a host joined: %v", d.Actions)
	}
	s.host("a-1").Evacuation = Evacuate
	first := s.plan(t)
	if len(first.Actions) == 0 {
		t.Fatal("nothing leaves an evacuated host")
	}
	for range 5 {
		s.Hosts, s.Observed.VMs, s.Desired.VMs = slices.Clone(s.Hosts), slices.Clone(s.Observed.VMs), slices.Clone(s.Desired.VMs)
		r.Shuffle(len(s.Hosts), reflect.Swapper(s.Hosts))
		r.Shuffle(len(s.Observed.VMs), reflect.Swapper(s.Observed.VMs))
		r.Shuffle(len(s.Desired.VMs), reflect.Swapper(s.Desired.VMs))
		if d := s.plan(t); !reflect.DeepEqual(d, first) {
			t.Fatalf("another order: %v, was %v", d.Actions, first.Actions)
		}
	}
}

// Input that can't be is refused with its name, not planned for.
func TestInvalid(t *testing.T) {
	for _, c := range []struct {
		change func(s *scene)
		want   string
	}{
		{func(s *scene) { s.Hosts = append(s.Hosts, s.Hosts[0]) }, `two hosts are named "a-1"`},
		{func(s *scene) { s.Desired.VMs = append(s.Desired.VMs, wanted("db")) }, `two VMs are named "db"`},
		{func(s *scene) { s.Observed.VMs = append(s.Observed.VMs, Instance{VM: "db"}) }, `VM "db" was observed twice`},
		{func(s *scene) { s.Hosts[0].Name = "" }, "no name"},
		{func(s *scene) { s.Hosts[0].Memory = -1 }, "bytes of memory"},
		{func(s *scene) { s.Hosts[0].Free = -1 }, "bytes free"},
		{func(s *scene) { s.Hosts[0].CPUs = -1 }, "CPUs"},
		{func(s *scene) { s.Hosts[0].State = 9 }, "state unknown"},
		{func(s *scene) { s.Hosts[0].Dead = true }, "proven dead"},
		{func(s *scene) { s.Desired.VMs[0].Size.Memory = 1 << 62 }, "bytes of memory"},
		{func(s *scene) { s.Desired.VMs[0].Spread = 7 }, "spread"},
		{func(s *scene) { s.Observed.VMs[0].Backup.State = Running }, "a backup can't be running"},
		{func(s *scene) { s.Observed.VMs[0].Backup.Host = "" }, "on no host"},
		{func(s *scene) { s.Observed.VMs[0].Failures = -1 }, "failures"},
		{func(s *scene) { s.Policy.ClonesPerHost = 0 }, "clones per host"},
		{func(s *scene) { s.Policy = Policy{} }, "CPU factor"},
		{func(s *scene) { s.Policy.MaxBackoff = 1 }, "backoff"},
	} {
		s := newScene(hosts("a", "b"), running("db", "a-1", "b-2"))
		c.change(s)
		if _, err := Plan(s.Desired, s.Observed); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

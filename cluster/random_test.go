// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// Whatever fails, copies never meet on a host or in a required domain, nothing
// is overfull, no VM is restarted that runs, and no action is stale. When the
// faults end all that can be protected is, in different racks, and then nothing
// moves any more.
func TestRandom(t *testing.T) {
	seen := map[string]int{}
	seeds := 20
	for seed := range uint64(seeds) {
		w := newWorld(seed)
		for range 400 {
			w.tick()
		}
		d := w.settle(450) // the longest backoff, and some clones
		for range 50 {
			if d = w.tick(); len(d.Actions) > 0 {
				w.fail("at rest, and %v", d.Actions)
			}
		}
		for i, s := range d.VMs {
			ok := s.Word == IsProtected && !s.SharedDomain || s.Word == Disabled && !w.Desired.VMs[i].FT
			if !ok && !w.tight {
				w.fail("%s is %v", s.VM, s)
			}
		}
		if w.err != nil {
			t.Fatalf("seed %d: %v", seed, w.err)
		}
		for _, k := range marks {
			seen[k] += w.seen[k]
		}
	}
	for _, k := range marks {
		if seen[k] == 0 {
			t.Errorf("%s never happened", k)
		}
	}
}

// marks are what TestRandom must have met.
var marks = []string{"crash", "cut", "rack", "return", "failover", "failure", "stale", "refused", "fenced",
	"start primary", "clone backup", "stop backup", "migrate backup", "migrate primary", "swap roles", "cold restart", "power off"}

// The loss of a rack costs no VM more than its redundancy, which is back, in
// other racks, before the rack returns; its return moves nothing.
func TestRackLoss(t *testing.T) {
	for seed := range uint64(8) {
		w := newWorld(seed | 1)
		w.tight = false
		for i := range w.Hosts {
			w.Hosts[i].Memory = 64 * gib
		}
		w.settle(100)
		for i := range w.hosts {
			if w.Hosts[i].Domain == "rack0" {
				w.down(i, false)
				w.hosts[i].back = w.Now + 150
			}
		}
		var d Decision
		for range 149 {
			d = w.tick()
		}
		for i, s := range d.VMs {
			// VMs without FT and without a fence wait for the rack.
			if w.Desired.VMs[i].FT && (s.Word != IsProtected || s.SharedDomain) {
				w.fail("%s is %v", s.VM, s)
			}
		}
		protected := slices.Clone(w.Observed.VMs)
		for range 150 {
			d = w.tick()
		}
		for i, v := range w.Observed.VMs {
			if was := protected[i]; w.Desired.VMs[i].FT && (v.Primary != was.Primary || v.Backup != was.Backup) {
				w.fail("%s moved as the rack returned: %v %v, was %v %v", v.VM, v.Primary, v.Backup, was.Primary, was.Backup)
			}
		}
		if w.err != nil {
			t.Fatalf("seed %d: %v", seed|1, w.err)
		}
	}
}

// Hosts are evacuated one after the other without a moment in which a VM is not
// protected, if backups can move and swapped primaries stay.
func TestEvacuate(t *testing.T) {
	w := newWorld(3)
	w.settle(100)
	for i := range w.Hosts {
		w.Hosts[i].Evacuation = Evacuate
		empty := false
		for range 200 {
			d := w.tick()
			for n, s := range d.VMs {
				if w.Desired.VMs[n].FT && s.Word != IsProtected {
					w.fail("%s is %v", s.VM, s)
				}
			}
			h := d.Hosts[i]
			empty = h.Primaries+h.Backups == 0
		}
		if !empty {
			t.Errorf("%s was not evacuated", w.Hosts[i].Name)
		}
		w.Hosts[i].Evacuation = Stay
	}
	if w.err != nil {
		t.Error(w.err)
	}
}

// Records that contradict each other, or name hosts that nobody knows, cause no
// panic and no action on an unknown host.
func TestGarbage(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	names := []string{"a-1", "a-2", "b-3", "c-4", "gone"}
	pick := func() string { return names[r.IntN(len(names))] }
	valid, kinds := 0, [Delete + 1]int{}
	for range 8000 {
		s := newScene(hosts("a", "a", "b", "c"))
		for i := range s.Hosts {
			h := &s.Hosts[i]
			h.State, h.Evacuation, h.Cordoned = HostState(1+r.IntN(4)*r.IntN(2)%3), Evacuation(r.IntN(3)), r.IntN(4) == 0
			h.Dead = h.State == Down && r.IntN(2) == 0
			h.Versions = h.Versions[:min(1, r.IntN(4))]
		}
		for i := range 4 {
			v := wanted(fmt.Sprint("vm", i))
			v.FT, v.Power, v.Deleted, v.Host = r.IntN(2) == 0, r.IntN(3) > 0, r.IntN(5) == 0, pick()
			v.Groups, v.Labels = []string{"g"}[:r.IntN(2)], []string{"l"}[:r.IntN(5)/4]
			in := Instance{VM: fmt.Sprint("vm", i+r.IntN(5)/4), Version: Version(r.IntN(2)), Owner: pick(), Doing: Kind(r.IntN(12)), Arbiter: r.IntN(2) == 0, Fence: r.IntN(2) == 0,
				Primary:  Copy{pick(), primaryStates[r.IntN(len(primaryStates))]},
				Backup:   Copy{pick(), backupStates[r.IntN(len(backupStates))]},
				Next:     Copy{pick(), nextStates[r.IntN(len(nextStates))]},
				Failures: r.IntN(9) * r.IntN(9), FailedAt: Tick(r.IntN(200)), FailedOn: pick(), Disks: []string{pick()}[:r.IntN(2)]}
			if r.IntN(2) == 0 {
				in.Owner, in.Doing = in.Primary.Host, 0
			}
			s.Desired.VMs, s.Observed.VMs = append(s.Desired.VMs, v), append(s.Observed.VMs, in)
		}
		d, err := Plan(s.Desired, s.Observed)
		if err != nil {
			continue
		}
		valid++
		for _, a := range d.Actions {
			kinds[a.Kind]++
			if a.To == "gone" || a.To == a.From && a.To != "" && a.Kind != ColdRestart {
				t.Fatal(a)
			}
		}
		for _, v := range d.VMs {
			_ = v.String()
		}
	}
	for k, n := range kinds {
		if n == 0 && k > 0 {
			t.Errorf("of %d valid inputs none led to %s", valid, Kind(k))
		}
	}
}

// big is a cluster of 40 racks; all VMs are protected.
func big(hostCount, vmCount int) *scene {
	s := &scene{Desired{Policy: DefaultPolicy()}, Observed{Now: 1000}}
	for i := range hostCount {
		s.Hosts = append(s.Hosts, Host{Name: fmt.Sprintf("host%04d", i), Domain: fmt.Sprint("rack", i%40), CPUs: 64, Memory: 512 * gib,
			Free: 512 * gib, Versions: []Version{1, 2}, State: Up, Labels: []string{"ssd", fmt.Sprint("zone", i%3)}})
	}
	for i := range vmCount {
		v := wanted(fmt.Sprintf("vm%05d", i))
		if i%2 == 0 {
			v.Labels = []string{"ssd"}
		}
		if i%3 == 0 {
			v.Groups = []string{fmt.Sprint("group", i/30)}
		}
		s.Desired.VMs = append(s.Desired.VMs, v)
		s.Observed.VMs = append(s.Observed.VMs, running(v.Name, s.Hosts[i%hostCount].Name, s.Hosts[(i+1+i/hostCount)%hostCount].Name))
	}
	return s
}

// The cost of a Plan for 1,000 hosts and 10,000 VMs: at rest, with a rack lost,
// and with every VM in need of a place.
func BenchmarkPlan(b *testing.B) {
	for _, c := range []struct {
		name   string
		change func(s *scene)
	}{
		{"rest", func(s *scene) {}},
		{"rack", func(s *scene) {
			for i := range s.Hosts {
				if s.Hosts[i].Domain == "rack0" {
					s.Hosts[i].State = Down
				}
			}
			for i := range s.Observed.VMs {
				if v := &s.Observed.VMs[i]; s.host(v.Backup.Host).State == Down {
					v.Backup.State = Lost
				}
			}
		}},
		{"clone", func(s *scene) {
			s.Policy.ClonesPerHost = 1000
			for i := range s.Observed.VMs {
				s.Observed.VMs[i].Backup = Copy{}
			}
		}},
		{"start", func(s *scene) { s.Observed.VMs = nil }},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := big(1000, 10000)
			c.change(s)
			var d Decision
			for b.Loop() {
				d = s.plan(b)
			}
			b.ReportMetric(float64(len(d.Actions)), "actions")
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package vswitch

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"tandem/machine/event"
)

// Each scenario is a list of lines "operation -> result". Addresses are written
// by their last byte: *, a broadcast, and 1, 2, 3 … stations.
//
//	open VM EPOCH ROLE MAC        -> PORT [closes PORT…] | error
//	activate PORT EPOCH           -> ok [closes PORT…] | error
//	frame PORT SRC DST            -> the ports that get it, or none
//	garp PORT SRC MAC             -> likewise: an announcement of MAC by SRC
//	close PORT, wait SECONDS      -> ok
var scenarios = []struct{ why, lines string }{
	{"a switch floods what it doesn't know and learns from sources", `
		open a 1 primary 1 -> 1
		open b 1 primary 2 -> 2
		open c 1 primary 3 -> 3
		frame 1 1 * -> 2 3
		frame 1 1 9 -> 2 3
		frame 2 9 1 -> 1
		frame 1 1 9 -> 2
		frame 2 2 9 -> none`},
	{"an address that was not heard of for 300 s is flooded again; a port's own is kept", `
		open a 1 primary 1 -> 1
		open b 1 primary 2 -> 2
		open c 1 primary 3 -> 3
		frame 2 9 * -> 1 3
		wait 300 -> ok
		frame 1 1 9 -> 2
		wait 1 -> ok
		frame 1 1 9 -> 2 3
		frame 1 1 2 -> 2`},
	{"a backup is silent: it neither sends nor receives, and sees no flood", `
		open a 1 primary 1 -> 1
		open a 1 backup 1 -> 2
		open b 1 primary 2 -> 3
		frame 2 1 * -> none
		frame 3 2 * -> 1
		frame 3 2 1 -> 1`},
	{"activation fences the older epoch and moves the addresses behind it at once", `
		open a 1 primary 1 -> 1
		open a 2 backup 1 -> 2
		open b 1 primary 2 -> 3
		open c 1 primary 3 -> 4
		frame 1 7 * -> 3 4
		activate 2 2 -> ok closes 1
		frame 1 1 * -> none
		frame 3 2 1 -> 2
		frame 3 2 7 -> 2
		frame 3 2 * -> 2 4
		activate 2 2 -> ok`},
	{"a replica that comes back with an old epoch is refused, even when nobody of the VM is attached", `
		open a 2 primary 1 -> 1
		open a 1 primary 1 -> error
		open a 1 backup 1 -> error
		close 1 -> ok
		open a 1 primary 1 -> error
		open a 2 primary 1 -> 2`},
	{"opening a newer epoch as primary fences too, and only the same VM", `
		open a 1 primary 1 -> 1
		open b 1 primary 2 -> 2
		open a 3 primary 1 -> 3 closes 1
		frame 1 1 * -> none
		frame 2 2 * -> 3
		activate 3 2 -> error`},
	{"a primary that lost its backup opens its next epoch on the same port", `
		open a 1 primary 1 -> 1
		open a 1 backup 1 -> 2
		open b 1 primary 2 -> 3
		activate 1 2 -> ok
		activate 2 1 -> error
		frame 1 1 * -> 3`},
	{"two devices of a VM are fenced by epoch, not by each other", `
		open a 1 primary 1 -> 1
		open a 1 primary 2 -> 2
		open a 1 backup 1 -> 3
		open a 1 backup 2 -> 4
		activate 3 2 -> ok closes 1 2
		activate 4 2 -> ok
		frame 3 1 2 -> 4`},
	{"a primary that connects again replaces its dead connection", `
		open a 1 primary 1 -> 1
		open a 1 primary 1 -> 2 closes 1
		frame 1 1 * -> none`},
	{"an announcement moves an address, also one that is not the frame's source", `
		open a 1 primary 1 -> 1
		open b 1 primary 2 -> 2
		open c 1 primary 3 -> 3
		frame 1 8 * -> 2 3
		frame 3 3 8 -> 1
		garp 2 2 8 -> 1 3
		frame 3 3 8 -> 2
		garp 1 8 8 -> 2 3
		frame 3 3 8 -> 1`},
	{"nobody can take the address of another open port", `
		open a 1 primary 1 -> 1
		open b 1 primary 2 -> 2
		open c 1 primary 3 -> 3
		frame 2 1 * -> none
		garp 2 2 1 -> none
		frame 3 3 1 -> 1
		open d 1 primary 1 -> error
		open d 1 backup 1 -> error`},
	{"what has no place in a table is dropped: a group or empty source, reserved groups", `
		open a 1 primary 1 -> 1
		open b 1 primary 2 -> 2
		frame 1 * 2 -> none
		frame 1 0 2 -> none
		frame 1 1 stp -> none
		frame 1 1 1 -> none`},
	{"mistakes are refused", `
		open a 0 primary 1 -> error
		open - 1 primary 1 -> error
		open a 1 primary * -> error
		activate 5 1 -> error`},
}

func mac(name string) MAC {
	switch name {
	case "*":
		return Broadcast
	case "0":
		return MAC{}
	case "stp":
		return MAC{0x01, 0x80, 0xc2}
	}
	return MAC{0x52, 0x54, 0, 0, 0, name[0] - '0'}
}

func frame(src, dst string) []byte {
	d, s := mac(dst), mac(src)
	return append(append(append(d[:], s[:]...), 0x08, 0), make([]byte, 46)...)
}

func ports(ids []PortID) string {
	if len(ids) == 0 {
		return "none"
	}
	return strings.Trim(fmt.Sprint(ids), "[]")
}

func closes(head string, ids []PortID, err error) string {
	if err != nil {
		return "error"
	}
	if len(ids) > 0 {
		head += " closes " + ports(ids)
	}
	return head
}

// run performs one operation of a scenario.
func run(s *Switch, now *Time, op []string) string {
	var id PortID
	var n int
	if op[0] != "open" {
		fmt.Sscan(op[1], &n)
		id = PortID(n)
	}
	switch op[0] {
	case "open":
		a := Attachment{VM: strings.Trim(op[1], "-"), Role: Primary, MAC: mac(op[4])}
		fmt.Sscan(op[2], &a.Epoch)
		if op[3] == "backup" {
			a.Role = Backup
		}
		id, closed, err := s.Open(*now, a)
		return closes(fmt.Sprint(id), closed, err)
	case "activate":
		var e event.Epoch
		fmt.Sscan(op[2], &e)
		closed, err := s.Activate(*now, id, e)
		return closes("ok", closed, err)
	case "frame":
		return ports(s.Forward(*now, id, frame(op[2], op[3]), nil))
	case "garp":
		f := GratuitousARP(mac(op[3]), [4]byte{10, 0, 0, 1})
		src := mac(op[2])
		copy(f[6:], src[:])
		return ports(s.Forward(*now, id, f, nil))
	case "close":
		s.Close(id)
	case "wait":
		*now += Time(n) * 1e9
	default:
		return "unknown operation " + op[0]
	}
	return "ok"
}

// The scenarios above show how ports, addresses and epochs behave together.
func TestScenarios(t *testing.T) {
	for _, sc := range scenarios {
		s, now := New(), Time(0)
		for line := range strings.Lines(strings.TrimSpace(sc.lines)) {
			op, want, _ := strings.Cut(strings.TrimSpace(line), " -> ")
			if got := run(s, &now, strings.Fields(op)); got != want {
				t.Errorf("%s:\n%s -> %s, want %s", sc.why, op, got, want)
			}
			checkTable(t, s)
		}
	}
}

// checkTable holds the two directions of the table against each other.
func checkTable(t *testing.T, s *Switch) {
	t.Helper()
	n := 0
	for _, p := range s.ports {
		n += len(p.learned)
		if len(p.learned) > MaxAddresses {
			t.Fatalf("port %d has %d addresses", p.id, len(p.learned))
		}
		for i, m := range p.learned {
			if w := s.table[m]; w.port != p || w.slot != i {
				t.Fatalf("port %d slot %d: the table has %v elsewhere", p.id, i, m)
			}
		}
	}
	if n != len(s.table) {
		t.Fatalf("the table has %d addresses, the ports %d", len(s.table), n)
	}
}

// A guest that sends from ever new addresses loses its own older ones, never its
// device's address and never another port's.
func TestAddressFlood(t *testing.T) {
	s := New()
	a, _, _ := s.Open(0, Attachment{VM: "a", Epoch: 1, Role: Primary, MAC: mac("1")})
	b, _, _ := s.Open(0, Attachment{VM: "b", Epoch: 1, Role: Primary, MAC: mac("2")})
	s.Forward(0, b, frame("9", "*"), nil)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 10_000 {
		f := frame("1", "*")
		f[9], f[10], f[11] = byte(r.Uint32()), byte(r.Uint32()), byte(1+r.IntN(255))
		s.Forward(Time(i), a, f, nil)
	}
	checkTable(t, s)
	if s.lookup(0, mac("1")).id != a || s.lookup(0, mac("9")).id != b {
		t.Error("the flood displaced an address that it must not")
	}
	if n := len(s.byID[a].learned); n != MaxAddresses {
		t.Errorf("port learned %d addresses, want %d", n, MaxAddresses)
	}
}

// Random operations keep the table whole, and no port of an older epoch is ever
// open beside a newer one of its VM.
func TestRandomOperations(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	s := New()
	fenced := 0
	for i := range 20_000 {
		id := PortID(r.IntN(int(s.last) + 2))
		if s.last > 8 {
			id = s.last - PortID(r.IntN(8))
		}
		now := Time(i) * 1e9
		switch r.IntN(6) {
		case 0:
			vm := r.IntN(3)
			a := Attachment{VM: string(rune('a' + vm)), Epoch: event.Epoch(1 + i/1000 + r.IntN(3)), Role: Role(2 + r.IntN(2))}
			a.MAC = mac(string(rune('1' + vm)))
			_, closed, _ := s.Open(now, a)
			fenced += len(closed)
		case 1:
			closed, _ := s.Activate(now, id, event.Epoch(1+i/1000+r.IntN(3)))
			fenced += len(closed)
		case 2:
			s.Close(id)
		default:
			s.Forward(now, id, frame(string(rune('0'+r.IntN(10))), string(rune('0'+r.IntN(10)))), nil)
		}
		checkTable(t, s)
		for _, p := range s.ports {
			if p.Role == Primary && p.Epoch != s.vms[p.VM].epoch {
				t.Fatalf("port %d of epoch %d is open, VM %s is at %d", p.id, p.Epoch, p.VM, s.vms[p.VM].epoch)
			}
		}
	}
	if fenced < 100 {
		t.Errorf("only %d ports were fenced: the test reached too little", fenced)
	}
}

// The bounds hold: ports are refused when all are taken, and remembered VMs
// without ports give way while those with ports keep their epoch.
func TestBounds(t *testing.T) {
	s := New()
	keep, _, _ := s.Open(0, Attachment{VM: "keep", Epoch: 7, Role: Primary})
	for i := range MaxVMs + 10 {
		id, _, err := s.Open(0, Attachment{VM: fmt.Sprint(i), Epoch: 1, Role: Primary})
		if err != nil {
			t.Fatal(err)
		}
		s.Close(id)
	}
	if len(s.vms) != MaxVMs || len(s.order) != MaxVMs {
		t.Errorf("%d VMs are remembered, want %d", len(s.vms), MaxVMs)
	}
	if _, _, err := s.Open(0, Attachment{VM: "keep", Epoch: 6, Role: Primary}); !errors.Is(err, ErrStale) {
		t.Errorf("the epoch of port %d was forgotten: %v", keep, err)
	}
	for i := range MaxPorts - 1 {
		if _, _, err := s.Open(0, Attachment{VM: fmt.Sprint(i), Epoch: 1, Role: Primary}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Open(0, Attachment{VM: "x", Epoch: 1, Role: Primary}); !errors.Is(err, ErrFull) {
		t.Errorf("port %d: %v, want ErrFull", MaxPorts+1, err)
	}
	if _, _, err := s.Open(0, Attachment{VM: "keep", Epoch: 8, Role: Primary}); err != nil {
		t.Errorf("a full switch refused to replace a port: %v", err)
	}
}

// An announcement names its address, and nothing else passes for one.
func TestAnnounced(t *testing.T) {
	m := mac("5")
	notGratuitous := GratuitousARP(m, [4]byte{10, 0, 0, 1})
	notGratuitous[headerLen+27]++
	for _, c := range []struct {
		name  string
		frame []byte
		ok    bool
	}{
		{"RARP", Announce(m), true},
		{"gratuitous ARP", GratuitousARP(m, [4]byte{10, 0, 0, 1}), true},
		{"ARP request", notGratuitous, false},
		{"short", Announce(m)[:headerLen+arpLen-1], false},
		{"IPv4", frame("5", "*"), false},
		{"group", Announce(Broadcast), false},
	} {
		if got, ok := announced(c.frame); ok != c.ok || ok && got != m {
			t.Errorf("%s: %v %v, want %v", c.name, got, ok, c.ok)
		}
	}
}

func BenchmarkForward(b *testing.B) {
	s := New()
	from, _, _ := s.Open(0, Attachment{VM: "a", Epoch: 1, Role: Primary, MAC: mac("1")})
	s.Open(0, Attachment{VM: "b", Epoch: 1, Role: Primary, MAC: mac("2")})
	f := frame("1", "2")
	var out []PortID
	for b.Loop() {
		out = s.Forward(1, from, f, out[:0])
	}
}

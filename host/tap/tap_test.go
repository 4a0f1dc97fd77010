// SPDX-License-Identifier: Apache-2.0

package tap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tandem/machine/event"
	"tandem/vswitch"
	"tandem/world"
)

var _ world.Network = (*Tap)(nil)

const inside = "TANDEM_TAP_TEST"

// The tests that make devices run in network and mount namespaces of their own, in
// a second process, which leaves nothing behind.
func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" {
		os.Exit(m.Run())
	}
	err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("sysfs", "/sys", "sysfs", 0, "") // of this network namespace
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mount:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// isolated runs a test in the namespaces.
func isolated(t *testing.T, test func(t *testing.T)) {
	if os.Getenv(inside) != "" {
		test(t)
		return
	}
	if os.Getuid() != 0 {
		t.Skip("making devices needs root")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, unix.EPERM):
		t.Skip("no right to make namespaces")
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("%s", out)
	}
}

// nobody gives up the rights of root, in all threads, until the test's end.
func nobody(t *testing.T) {
	t.Helper()
	must(t, unix.Setresuid(-1, 65534, -1))
	t.Cleanup(func() { unix.Setresuid(-1, 0, -1) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func bridge(t *testing.T, name string, mtu int) netlink.Link {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu}}))
	l, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetUp(l))
	return l
}

// plugged is a tap with a channel that its wakes go to.
type plugged struct {
	*Tap
	woken chan struct{}
}

func open(t *testing.T, spec string, mac vswitch.MAC) *plugged {
	t.Helper()
	cfg, err := Parse(spec)
	must(t, err)
	cfg.MAC = mac
	tap, err := Open(cfg)
	must(t, err)
	p := &plugged{Tap: tap, woken: make(chan struct{}, 1)}
	t.Cleanup(p.close)
	return p
}

func (p *plugged) close() {
	if p.Tap != nil {
		p.Tap.Close()
		p.Tap = nil
	}
}

func (p *plugged) start(t *testing.T) *plugged {
	t.Helper()
	must(t, p.Start(func() {
		select {
		case p.woken <- struct{}{}:
		default:
		}
	}))
	return p
}

// recv waits for the first frame that is wanted; others belong to the host's IPv6.
func (p *plugged) recv(t *testing.T, want func(event.Frame) bool) event.Frame {
	t.Helper()
	for end := time.After(5 * time.Second); ; {
		for f, ok := p.Recv(); ok; f, ok = p.Recv() {
			if want(f) {
				return f
			}
		}
		select {
		case <-p.woken:
		case <-end:
			t.Fatal("the frame did not arrive")
		}
	}
}

const testType = 0x88b5 // IEEE 802, local experimental

func frame(to, from vswitch.MAC, payload string) event.Frame {
	b := append(append([]byte(nil), to[:]...), from[:]...)
	return event.Frame{Data: append(binary.BigEndian.AppendUint16(b, testType), fmt.Sprintf("%-46s", payload)...)}
}

func ours(f event.Frame) bool { return binary.BigEndian.Uint16(f.Data[12:]) == testType }

func (p *plugged) send(f ...event.Frame) {
	for _, f := range f {
		p.Send(f)
	}
	p.Flush()
}

var macA, macB, macC = vswitch.MAC{2, 0, 0, 0, 0, 0xa}, vswitch.MAC{2, 0, 0, 0, 0, 0xb}, vswitch.MAC{2, 0, 0, 0, 0, 0xc}

// place is the device behind which a bridge has learned that a MAC address is.
func place(t *testing.T, m vswitch.MAC) string {
	t.Helper()
	list, err := netlink.NeighList(0, unix.AF_BRIDGE)
	must(t, err)
	for _, n := range list {
		if bytes.Equal(n.HardwareAddr, m[:]) {
			l, err := netlink.LinkByIndex(n.LinkIndex)
			must(t, err)
			return l.Attrs().Name
		}
	}
	return ""
}

// A guest's address moves from one port of a bridge to another as the backup goes
// live and announces it: the next frame for it goes there. Before, the backup's tap
// hears nothing, sends nothing, and is ready all the same.
func TestFailover(t *testing.T) {
	isolated(t, func(t *testing.T) {
		bridge(t, "br0", 1500)
		client := open(t, "c,bridge=br0", macC).start(t)
		old := open(t, "p,bridge=br0", macA).start(t)
		next := open(t, "b,bridge=br0", macA)

		old.send(frame(macC, macA, "from the primary"))
		client.recv(t, ours)
		if at := place(t, macA); at != "p" {
			t.Fatalf("the bridge has the guest at %q", at)
		}
		if s := readSys("b", "carrier"); s != "0" {
			t.Errorf("a backup's tap has carrier %q", s)
		}
		next.send(frame(macC, macA, "from the backup"))
		client.send(frame(vswitch.Broadcast, macC, "to all"))
		old.recv(t, ours)

		old.close() // its host died
		next.start(t)
		next.send(event.Frame{Data: vswitch.Announce(macA)}, frame(macC, macA, "from the new primary"))
		f := client.recv(t, ours)
		if !bytes.Contains(f.Data, []byte("from the new primary")) {
			t.Errorf("a backup's tap has sent %q", f.Data[14:])
		}
		if at := place(t, macA); at != "b" {
			t.Errorf("after the announcement the bridge has the guest at %q", at)
		}
		client.send(frame(macA, macC, "to the guest"))
		if f := next.recv(t, ours); !bytes.Contains(f.Data, []byte("to the guest")) {
			t.Errorf("the backup's tap had kept %q", f.Data[14:])
		}
	})
}

// The first frames of a tap that was just plugged in reach the bridge's other
// ports: Start waits until the bridge forwards.
func TestForwardingAtOnce(t *testing.T) {
	isolated(t, func(t *testing.T) {
		bridge(t, "br0", 1500)
		client := open(t, "c,bridge=br0", macC).start(t)
		for i := range 5 {
			p := open(t, fmt.Sprintf("p%d,bridge=br0", i), macA)
			began := time.Now()
			p.start(t)
			t.Logf("plugged in after %v", time.Since(began))
			p.send(frame(vswitch.Broadcast, macA, "hello"))
			client.recv(t, ours)
			p.close()
		}
	})
}

// Partial checksums and large segments pass as they are both ways: the host's TCP
// sends more than an MTU in one frame, and takes such a frame.
func TestOffloads(t *testing.T) {
	isolated(t, func(t *testing.T) {
		p := open(t, "p", macA).start(t)
		host, err := netlink.LinkByName("p")
		must(t, err)
		addr, _ := netlink.ParseAddr("10.9.0.1/24")
		must(t, netlink.AddrAdd(host, addr))
		must(t, netlink.NeighAdd(&netlink.Neigh{LinkIndex: host.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.IPv4(10, 9, 0, 2), HardwareAddr: macA[:]}))
		l, err := net.Listen("tcp4", "10.9.0.1:7")
		must(t, err)
		defer l.Close()

		// A guest by hand: it opens a connection, sends one segment of 30,000 bytes
		// and hears the answer.
		g := &tcpGuest{p: p, mac: host.Attrs().HardwareAddr}
		g.send(t, 0x02, nil) // SYN
		f := p.recv(t, isTCP)
		g.next(f)
		g.send(t, 0x10, nil) // ACK
		conn, err := l.Accept()
		must(t, err)
		defer conn.Close()
		sent := bytes.Repeat([]byte("0123456789"), 3000)
		g.send(t, 0x18, sent)
		got := make([]byte, len(sent))
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = io.ReadFull(conn, got)
		must(t, err)
		if !bytes.Equal(got, sent) {
			t.Error("the host read something else")
		}
		_, err = conn.Write(sent)
		must(t, err)
		f = p.recv(t, func(f event.Frame) bool { return isTCP(f) && len(f.Data) > 1514 })
		if f.Offload.GSOType != vswitch.GSOTCPv4 || f.Offload.Flags&vswitch.NeedsChecksum == 0 {
			t.Errorf("a frame of %d bytes has offload %+v", len(f.Data), f.Offload)
		}
		if p.Dropped() != 0 {
			t.Errorf("%d frames were dropped", p.Dropped())
		}
	})
}

func isTCP(f event.Frame) bool { return len(f.Data) >= 54 && f.Data[12] == 8 && f.Data[23] == 6 }

// tcpGuest has one connection, from 10.9.0.2:1000 to 10.9.0.1:7.
type tcpGuest struct {
	p        *plugged
	mac      net.HardwareAddr // of the host's end
	seq, ack uint32
}

// next takes a SYN with its acknowledgement.
func (g *tcpGuest) next(f event.Frame) {
	g.seq, g.ack = 1, binary.BigEndian.Uint32(f.Data[38:])+1
}

// send leaves the checksum, and the cutting of what is long, to the kernel.
func (g *tcpGuest) send(t *testing.T, flags byte, payload []byte) {
	t.Helper()
	be := binary.BigEndian
	b := make([]byte, 54, 54+len(payload))
	copy(b, g.mac)
	copy(b[6:], macA[:])
	b[12], b[14], b[22], b[23] = 8, 0x45, 64, 6
	be.PutUint16(b[16:], uint16(40+len(payload)))
	copy(b[26:], []byte{10, 9, 0, 2, 10, 9, 0, 1})
	be.PutUint16(b[24:], ^sum16(b[14:34]))
	be.PutUint16(b[34:], 1000)
	be.PutUint16(b[36:], 7)
	be.PutUint32(b[38:], g.seq)
	be.PutUint32(b[42:], g.ack)
	b[46], b[47] = 0x50, flags
	be.PutUint16(b[48:], 65535)
	pseudo := append(append([]byte(nil), b[26:34]...), 0, 6, byte((20+len(payload))>>8), byte(20+len(payload)))
	be.PutUint16(b[50:], sum16(pseudo))
	f := event.Frame{Data: append(b, payload...), Offload: event.Offload{Flags: vswitch.NeedsChecksum, HdrLen: 54, CsumStart: 34, CsumOffset: 16}}
	if len(payload) > 1460 {
		f.Offload.GSOType, f.Offload.GSOSize = vswitch.GSOTCPv4, 1460
	}
	g.p.send(f)
}

func sum16(b []byte) uint16 {
	s := uint32(0)
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// The link follows what the operator does to the device, and the loop is told; a
// device that is deleted is a link that is down.
func TestLink(t *testing.T) {
	isolated(t, func(t *testing.T) {
		p := open(t, "p", macA).start(t)
		l, err := netlink.LinkByName("p")
		must(t, err)
		until := func(up bool) {
			t.Helper()
			for end := time.After(5 * time.Second); p.Up() != up; {
				select {
				case <-p.woken:
					p.Recv()
				case <-end:
					t.Fatalf("the link is not %v", up)
				}
			}
		}
		until(true)
		must(t, netlink.LinkSetDown(l))
		until(false)
		must(t, netlink.LinkSetUp(l))
		until(true)
		must(t, netlink.LinkDel(l))
		until(false)
		p.send(frame(vswitch.Broadcast, macA, "nobody"))
	})
}

// A device takes its bridge's MTU or the one that is asked for, leaves the bridge's
// alone, and has an address that the bridge does not take for its own.
func TestMTU(t *testing.T) {
	isolated(t, func(t *testing.T) {
		br := bridge(t, "br0", 9000)
		card := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "card", MTU: 9000, HardwareAddr: net.HardwareAddr(macC[:])}, PeerName: "wire"}
		must(t, netlink.LinkAdd(card))
		must(t, netlink.LinkSetMaster(card, br))
		for _, c := range []struct {
			spec string
			want int
		}{{"a,bridge=br0", 9000}, {"b,mtu=1400", 1400}, {"c", 1500}} {
			p := open(t, c.spec, macA)
			l, err := netlink.LinkByName(p.cfg.Name)
			must(t, err)
			if got := l.Attrs().MTU; got != c.want || DeviceMTU(p.cfg) != c.want {
				t.Errorf("%s: MTU %d, the guest is told %d", c.spec, got, DeviceMTU(p.cfg))
			}
		}
		br, err := netlink.LinkByName("br0")
		must(t, err)
		if br.Attrs().MTU != 9000 || !bytes.Equal(br.Attrs().HardwareAddr, macC[:]) {
			t.Errorf("the bridge changed to MTU %d, address %v", br.Attrs().MTU, br.Attrs().HardwareAddr)
		}
	})
}

// What can't work is told with a remedy.
func TestErrors(t *testing.T) {
	isolated(t, func(t *testing.T) {
		bridge(t, "br0", 1500)
		must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "off"}}))
		stp := bridge(t, "stp", 1500)
		must(t, os.WriteFile("/sys/class/net/stp/bridge/stp_state", []byte("1"), 0))
		_ = stp
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}))
		open(t, "taken", macA)
		for _, c := range []struct{ spec, want string }{
			{"p,bridge=none", "ip link add none type bridge"},
			{"p,bridge=off", "ip link set off up"},
			{"p,bridge=v0", "no bridge but of type veth"},
			{"p,bridge=stp", "stp_state 0"},
			{"taken", "another process has it"},
			{"v0", "choose another name"},
			{"br0", "choose another name"},
		} {
			cfg, err := Parse(c.spec)
			must(t, err)
			if tap, err := Open(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("tap:%s: %v %v", c.spec, tap, err)
			}
		}
		nobody(t)
		if _, err := Open(Config{Name: "p"}); err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("without rights: %v", err)
		}
	})
}

// Who may only use a device that root has made and joined needs no more rights.
func TestUnprivileged(t *testing.T) {
	isolated(t, func(t *testing.T) {
		br := bridge(t, "br0", 1500)
		made := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "p", MasterIndex: br.Attrs().Index}, Mode: netlink.TUNTAP_MODE_TAP, Owner: 65534, Flags: netlink.TUNTAP_DEFAULTS}
		must(t, netlink.LinkAdd(made))
		l, err := netlink.LinkByName("p")
		must(t, err)
		must(t, netlink.LinkSetMaster(l, br))
		must(t, netlink.LinkSetUp(l))
		node := t.TempDir() + "/tun" // as udev makes it, for all
		must(t, unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))))
		must(t, os.Chmod(node, 0o666))
		must(t, unix.Mount(node, clonePath, "", unix.MS_BIND, ""))
		nobody(t)
		open(t, "p,bridge=br0", macA).start(t)
	})
}

// Names of devices and options are checked before anything is opened.
func TestParse(t *testing.T) {
	c, err := Parse("tap0,bridge=br0,mtu=9000")
	if want := (Config{Name: "tap0", Bridge: "br0", MTU: 9000}); err != nil || c != want {
		t.Errorf("%+v, %v", c, err)
	}
	for _, s := range []string{"", ",bridge=br0", "a/b", "tap%d", "sixteen-letters-", "t,bridge=", "t,bridge", "t,mtu=67", "t,mtu=x", "t,speed=1", "t,", "..", "a b"} {
		if c, err := Parse(s); err == nil {
			t.Errorf("%q is taken for %+v", s, c)
		}
	}
}

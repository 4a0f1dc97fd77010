// SPDX-License-Identifier: Apache-2.0

// Package tap is a network device's port on the host's own network: a tap of
// Linux, which may be a port of a bridge (design §7).
//
//	host's network ── bridge ── tap ── file descriptor ── replica
//
// Frames cross the file descriptor behind virtio's net header, so partial
// checksums and TCP segments of up to 64 KiB pass in both directions as they
// are: one system call stands for some forty frames of the wire. What a guest's
// driver can't take the replica finishes and cuts itself.
//
// A tap begins silent. It has no carrier: the bridge sends nothing to it, and
// nothing is read or written. So a backup can hold its tap ready, and learns at
// its start, not at a failover, what is wrong with it. Start plugs it in.
//
// Nobody fences a tap: the host that it belongs to may be out of reach. That an
// old primary is silent is the Output Rule's doing, with its lease (design §5,
// rule 3).
package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"tandem/machine/event"
	"tandem/vswitch"
)

// Config says which device.
type Config struct {
	Name   string
	Bridge string // to be a port of; empty for none, or for what it is already
	MTU    int    // of the device, in bytes; 0 for the bridge's, or what it has
	// MAC is the guest's. The host's end of a new device gets one like it.
	MAC vswitch.MAC
}

// Parse reads NAME[,bridge=BRIDGE][,mtu=BYTES].
func Parse(s string) (c Config, err error) {
	name, rest, more := strings.Cut(s, ",")
	c.Name = name
	for more {
		var option string
		option, rest, more = strings.Cut(rest, ",")
		key, value, _ := strings.Cut(option, "=")
		switch {
		case key == "bridge" && validName(value):
			c.Bridge = value
		case key == "mtu":
			if c.MTU, err = strconv.Atoi(value); err != nil || c.MTU < minMTU || c.MTU > maxMTU {
				return c, fmt.Errorf("tap:%s: mtu %s: give %d to %d", s, value, minMTU, maxMTU)
			}
		default:
			return c, fmt.Errorf("tap:%s: %q is unknown: use tap:NAME[,bridge=BRIDGE][,mtu=BYTES]", s, option)
		}
	}
	if !validName(c.Name) {
		return c, fmt.Errorf("tap:%s: give the device a name of 1 to %d characters without / and white space", s, unix.IFNAMSIZ-1)
	}
	return c, nil
}

// IPv4 needs 68 bytes (RFC 791); virtio's field has 16 bits.
const (
	minMTU = 68
	maxMTU = 65535
)

// validName is the kernel's own rule, and no % which it would put a number in for.
func validName(s string) bool {
	return s != "" && len(s) < unix.IFNAMSIZ && s != "." && s != ".." && !strings.ContainsAny(s, "/:% \t\n\v\f\r")
}

const (
	clonePath = "/dev/net/tun"

	headerLen  = 10 // struct virtio_net_hdr without num_buffers
	maxPending = 1024

	// What may be left to be done to frames that the kernel gives us. Those with
	// ECN it cuts itself, as our device never offers them.
	offloads = tunCSum | tunTSO4 | tunTSO6
	tunCSum  = 0x01
	tunTSO4  = 0x02
	tunTSO6  = 0x04
)

// Tap is an open device; it implements world.Network. Its methods are for one
// goroutine.
type Tap struct {
	cfg   Config
	index int
	file  *os.File
	raw   syscall.RawConn
	wake  func()

	up      atomic.Bool // the operator has not set it down
	ready   atomic.Bool // there may be something to read
	rearm   chan struct{}
	done    chan struct{} // the waiter has ended; nil until Start
	watched chan struct{} // closed at the end, for the watcher

	buf     []byte
	pending []event.Frame // sent since the last Flush
	dropped uint64
}

// Open makes the device or takes one that was made for us, and joins it to its
// bridge. It stays silent until Start.
func Open(cfg Config) (*Tap, error) {
	file, err := attach(cfg)
	if err != nil {
		return nil, err
	}
	t := &Tap{cfg: cfg, file: file, rearm: make(chan struct{}, 1), watched: make(chan struct{}),
		buf: make([]byte, headerLen+vswitch.MaxFrame)}
	t.raw, err = file.SyscallConn()
	if err == nil {
		err = t.setCarrier(false)
	}
	if err == nil {
		err = t.join()
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return t, nil
}

// attach opens the device; if there is none of that name the kernel makes one,
// which lives as long as the file is open.
func attach(cfg Config) (*os.File, error) {
	fd, err := unix.Open(clonePath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explain(cfg, "open "+clonePath, err)
	}
	if err := configure(fd, cfg); err != nil {
		unix.Close(fd)
		return nil, err
	}
	// Not blocking, so served by Go's poller; which can't wait for a file that is
	// not attached yet.
	return os.NewFile(uintptr(fd), "tap:"+cfg.Name), nil
}

func configure(fd int, cfg Config) error {
	req, err := unix.NewIfreq(cfg.Name)
	if err != nil {
		return fmt.Errorf("tap:%s: %w", cfg.Name, err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	for _, step := range []struct {
		what string
		err  func() error
	}{
		{"attach", func() error { return unix.IoctlIfreq(fd, unix.TUNSETIFF, req) }},
		{"header size", func() error { return unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, headerLen) }},
		{"byte order", func() error { return unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1) }},
		{"offloads", func() error { return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads) }},
	} {
		if err := step.err(); err != nil {
			return explain(cfg, step.what, err)
		}
	}
	return nil
}

// explain turns the kernel's answer into what an operator can do about it.
func explain(cfg Config, what string, err error) error {
	remedy := "see that this kernel has tap devices (CONFIG_TUN)"
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		remedy = "load it with `modprobe tun`; in a container, let it have the device " + clonePath
	case errors.Is(err, unix.EACCES) && what == "open "+clonePath:
		remedy = "let every user open it, as udev does: `chmod 666 " + clonePath + "`; the kernel asks for CAP_NET_ADMIN behind that door"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		remedy = fmt.Sprintf("run as root or with CAP_NET_ADMIN, or let root make the device once: `ip tuntap add dev %s mode tap user $USER`", cfg.Name) + enslave(cfg)
	case errors.Is(err, unix.EBUSY):
		remedy = "another process has it: give each copy of each VM a tap of its own"
	case errors.Is(err, unix.EINVAL) && what == "attach":
		remedy = "a device of that name exists and is no tap with one queue: choose another name"
	}
	return fmt.Errorf("tap:%s: %s: %w: %s", cfg.Name, what, err, remedy)
}

func enslave(cfg Config) string {
	if cfg.Bridge == "" {
		return fmt.Sprintf(" and `ip link set %s up`", cfg.Name)
	}
	return fmt.Sprintf(" and `ip link set %s master %s up`", cfg.Name, cfg.Bridge)
}

// Start plugs the device in. wake is called from another goroutine as frames
// arrive or the link changes; it must not block.
func (t *Tap) Start(wake func()) error {
	t.wake = wake
	if err := t.watch(); err != nil {
		return err
	}
	if err := t.setCarrier(true); err != nil {
		return err
	}
	t.awaitForwarding()
	t.done = make(chan struct{})
	go t.wait()
	return nil
}

// setCarrier says whether a cable is plugged in. Linux before 5.0 can't be told;
// there a silent tap is a port at which nobody listens.
func (t *Tap) setCarrier(on bool) error {
	value := 0
	if on {
		value = 1
	}
	var err error
	if e := t.raw.Control(func(fd uintptr) { err = unix.IoctlSetPointerInt(int(fd), unix.TUNSETCARRIER, value) }); e != nil {
		err = e
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTTY) {
		return fmt.Errorf("tap:%s: carrier: %w", t.cfg.Name, err)
	}
	return nil
}

// wait sleeps until there is something to read and tells the loop, which reads
// until there is nothing left: so a frame costs no switch of threads of its own.
func (t *Tap) wait() {
	defer close(t.done)
	for {
		if t.raw.Read(readable) != nil {
			return
		}
		t.ready.Store(true)
		t.wake()
		if _, ok := <-t.rearm; !ok {
			return
		}
	}
}

// readable asks the kernel, for an edge that Go's poller saw is forgotten as the
// next wait begins.
func readable(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return n > 0 || err != nil && err != unix.EINTR
}

// Recv implements world.Network. Without a frame it costs an atomic load.
func (t *Tap) Recv() (f event.Frame, ok bool) {
	for t.ready.Load() {
		n, err := t.read()
		switch {
		case err == nil:
			if f, ok = parse(t.buf[:n]); ok {
				return f, true
			}
			t.dropped++
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			t.ready.Store(false)
			t.rearm <- struct{}{}
		default: // the device was deleted: the watcher sees that too
			t.ready.Store(false)
			t.up.Store(false)
		}
	}
	return f, false
}

func (t *Tap) read() (n int, err error) {
	if e := t.raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), t.buf) }); e != nil {
		return 0, e
	}
	return n, err
}

// parse copies a frame out of the buffer.
func parse(b []byte) (f event.Frame, ok bool) {
	if len(b) < headerLen {
		return f, false
	}
	le := binary.LittleEndian
	f.Offload = event.Offload{
		Flags: b[0], GSOType: b[1], HdrLen: le.Uint16(b[2:]),
		GSOSize: le.Uint16(b[4:]), CsumStart: le.Uint16(b[6:]), CsumOffset: le.Uint16(b[8:]),
	}
	if !vswitch.Check(event.Frame{Offload: f.Offload, Data: b[headerLen:]}) {
		return f, false
	}
	f.Data = append([]byte(nil), b[headerLen:]...)
	return f, true
}

// Send implements world.Network.
func (t *Tap) Send(f event.Frame) {
	if len(t.pending) == maxPending {
		t.dropped++
		return
	}
	t.pending = append(t.pending, f)
}

// Flush implements world.Network. The kernel takes frames at once or not at all.
func (t *Tap) Flush() {
	if len(t.pending) == 0 {
		return
	}
	for _, f := range t.pending {
		if t.done == nil || !vswitch.Check(f) || t.write(f) != nil {
			t.dropped++
		}
	}
	clear(t.pending)
	t.pending = t.pending[:0]
}

func (t *Tap) write(f event.Frame) (err error) {
	var head [headerLen]byte
	o, le := f.Offload, binary.LittleEndian
	head[0], head[1] = o.Flags, o.GSOType
	le.PutUint16(head[2:], o.HdrLen)
	le.PutUint16(head[4:], o.GSOSize)
	le.PutUint16(head[6:], o.CsumStart)
	le.PutUint16(head[8:], o.CsumOffset)
	e := t.raw.Control(func(fd uintptr) {
		for {
			if _, err = unix.Writev(int(fd), [][]byte{head[:], f.Data}); err != unix.EINTR {
				return
			}
		}
	})
	return errors.Join(err, e)
}

// Mark and Logged implement world.Network: a bridge keeps nothing for anybody.
func (t *Tap) Mark() uint64  { return 0 }
func (t *Tap) Logged(uint64) {}

// Fenced implements world.Network: nobody can shut a tap.
func (t *Tap) Fenced() bool { return false }

// Up implements world.Network: the operator has not set the device down, and it
// exists.
func (t *Tap) Up() bool { return t.up.Load() }

// Dropped counts frames that the kernel did not take, or gave malformed.
func (t *Tap) Dropped() uint64 { return t.dropped }

// Close unplugs the device; the kernel removes it if it made it for us.
func (t *Tap) Close() error {
	t.Flush()
	close(t.watched)
	err := t.file.Close()
	if t.done != nil {
		close(t.rearm)
		<-t.done
	}
	return err
}

// SPDX-License-Identifier: Apache-2.0

// Package netswitch is the network that outlives both copies of a VM: the
// server of `tandem switch`, the port with which a replica attaches to it, and
// the `user` network, which is the same thing inside one process.
//
// What to forward is decided by package vswitch. The network's own end, the
// gateway, is a userspace TCP/IP stack with DHCP, DNS, NAT to the host's network
// and TCP port forwards (design §7). A forwarded connection ends in the switch
// on both sides, so a client sees nothing of a failover: the stack repeats what
// the old primary lost within tens of milliseconds.
//
//	client ──TCP──► forward ─┐                        ┌─ port ─ primary, epoch 1
//	host's network ◄── NAT ──┤ gateway ── vswitch ────┤
//	                   DHCP, DNS ─┘                   └─ port ─ backup, silent
//
// A primary that dies takes with it what it had received and not logged, and what is
// sent while nobody goes on is lost. TCP would send both again, after a silence that
// has doubled with each try. So the switch keeps frames for a protected VM until they
// are known to be logged, and gives them to the port of the next epoch first.
//
//	frame ─► kept ─► port, epoch 1 ──── Logged n ───► the first n are forgotten
//	frame ─► kept      (gone)
//	         kept ─► port, epoch 2
//
// What was logged and not known to be is delivered again, as networks do.
//
// # Wire protocol, version 1
//
// A port is one stream connection (Unix socket or TCP). Both directions carry
// messages; integers are little-endian, as in virtio. Every message is
//
//	0  u32  length of what follows: 1 to 65,650
//	4  u8   type
//	5  …    body by type
//
// The replica sends a hello (type 1) first and the switch replies with an answer:
//
//	0   4    "TNSW"
//	4   u16  protocol version, 1
//	6   u8   role: 2 primary, 3 backup
//	7   u8   flags: 1, the port takes frames with a partial checksum or to be segmented;
//	         2, it says Logged, and wants what was kept
//	8   u64  epoch
//	16  6    MAC address of the network device
//	22  u8   length of the VM id, 1 to 255
//	23  …    VM id
//
// An answer (type 2) is to a hello, or to an activate. As an answer to either it
// says that older epochs are fenced: what they sent before has arrived, and
// nothing that they send from now on will.
//
//	0  u64  the epoch asked for
//	8  u8   status: 0 done; 1 refused; 2 refused for good, as the epoch is stale
//	9  …    for a status other than 0, the reason, up to 512 bytes of UTF-8
//
// A frame (type 3) is virtio's net header without num_buffers, and the frame
// without FCS:
//
//	0   u8   flags       event.Offload.Flags
//	1   u8   gso_type
//	2   u16  hdr_len
//	4   u16  gso_size
//	6   u16  csum_start
//	8   u16  csum_offset
//	10  …    14 to 65,553 bytes
//
// Activate (type 4, u64 epoch) is what a replica sends after it has won the
// claim. Closed (type 5, a reason as in the answer) is the last message of a
// port that a newer one replaced. Logged (type 6, u64) is sent by a replica and counts
// the frames of this connection, from its first, that the log of the VM's backup has.
// The switch keeps the others for the VM's next port. Neither side waits for the other with frames:
// what does not fit in a queue is dropped, as a switch does.
package netswitch

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"tandem/machine/event"
	"tandem/vswitch"
)

const (
	protocolVersion = 1
	magic           = "TNSW"

	lengthSize = 4
	offloadLen = 10
	maxMessage = 65650
	maxReason  = 512
)

type messageType uint8

const (
	messageHello messageType = iota + 1
	messageAnswer
	messageFrame
	messageActivate
	messageClosed
	messageLogged
)

type status uint8

const (
	statusDone status = iota
	statusRefused
	statusStale
)

const (
	flagOffloads = 1
	flagKeep     = 2
)

// Hello says who attaches to a switch.
type Hello struct {
	VM    string
	Epoch event.Epoch  // of a backup: of the log that it follows, or the one it may claim
	Role  vswitch.Role // Primary or Backup
	MAC   vswitch.MAC
	// Offloads says that frames with a partial checksum, and TCP segments of up
	// to 64 KiB, may be sent to this port. Otherwise the switch completes them.
	Offloads bool
	// Keep says that this port tells which frames are logged.
	Keep bool
}

type answer struct {
	epoch  event.Epoch
	status status
	reason string
}

var le = binary.LittleEndian

// begin appends a message's length and type; end fills in the length.
func begin(b []byte, t messageType) []byte { return append(b, 0, 0, 0, 0, byte(t)) }

func end(b []byte, start int) []byte {
	le.PutUint32(b[start:], uint32(len(b)-start-lengthSize))
	return b
}

func appendHello(b []byte, h Hello) []byte {
	start := len(b)
	b = append(begin(b, messageHello), magic...)
	b = le.AppendUint16(b, protocolVersion)
	flags := byte(0)
	if h.Offloads {
		flags |= flagOffloads
	}
	if h.Keep {
		flags |= flagKeep
	}
	b = append(b, byte(h.Role), flags)
	b = le.AppendUint64(b, uint64(h.Epoch))
	b = append(b, h.MAC[:]...)
	b = append(b, byte(len(h.VM)))
	return end(append(b, h.VM...), start)
}

func parseHello(b []byte) (h Hello, err error) {
	if len(b) < 23 || string(b[:4]) != magic {
		return h, errors.New("this is not a tandem replica: connect `tandem switch` ports only")
	}
	if v := le.Uint16(b[4:]); v != protocolVersion {
		return h, fmt.Errorf("the replica speaks switch protocol %d and this switch %d: use the same tandem release for both", v, protocolVersion)
	}
	if len(b) != 23+int(b[22]) {
		return h, errors.New("the hello's length does not fit its VM id")
	}
	h.Role = vswitch.Role(b[6])
	h.Offloads, h.Keep = b[7]&flagOffloads != 0, b[7]&flagKeep != 0
	h.Epoch = event.Epoch(le.Uint64(b[8:]))
	h.MAC = vswitch.MAC(b[16:22])
	h.VM = string(b[23:])
	return h, nil
}

func appendAnswer(b []byte, a answer) []byte {
	start := len(b)
	b = le.AppendUint64(begin(b, messageAnswer), uint64(a.epoch))
	b = append(b, byte(a.status))
	return end(append(b, a.reason[:min(len(a.reason), maxReason)]...), start)
}

func parseAnswer(b []byte) (a answer, err error) {
	if len(b) < 9 || len(b) > 9+maxReason {
		return a, fmt.Errorf("an answer of %d bytes is malformed", len(b))
	}
	return answer{event.Epoch(le.Uint64(b)), status(b[8]), string(b[9:])}, nil
}

func appendFrame(b []byte, f event.Frame) []byte {
	start, o := len(b), f.Offload
	b = append(begin(b, messageFrame), o.Flags, o.GSOType)
	b = le.AppendUint16(b, o.HdrLen)
	b = le.AppendUint16(b, o.GSOSize)
	b = le.AppendUint16(b, o.CsumStart)
	b = le.AppendUint16(b, o.CsumOffset)
	return end(append(b, f.Data...), start)
}

// parseFrame returns a frame that shares b. A malformed one is not ok.
func parseFrame(b []byte) (f event.Frame, ok bool) {
	if len(b) < offloadLen {
		return f, false
	}
	f.Offload = event.Offload{
		Flags: b[0], GSOType: b[1], HdrLen: le.Uint16(b[2:]),
		GSOSize: le.Uint16(b[4:]), CsumStart: le.Uint16(b[6:]), CsumOffset: le.Uint16(b[8:]),
	}
	f.Data = b[offloadLen:]
	return f, vswitch.Check(f)
}

func appendActivate(b []byte, e event.Epoch) []byte {
	start := len(b)
	return end(le.AppendUint64(begin(b, messageActivate), uint64(e)), start)
}

func parseActivate(b []byte) (event.Epoch, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("an activate of %d bytes is malformed", len(b))
	}
	return event.Epoch(le.Uint64(b)), nil
}

func appendLogged(b []byte, n uint64) []byte {
	start := len(b)
	return end(le.AppendUint64(begin(b, messageLogged), n), start)
}

func parseLogged(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("a logged of %d bytes is malformed", len(b))
	}
	return le.Uint64(b), nil
}

func appendClosed(b []byte, reason string) []byte {
	start := len(b)
	return end(append(begin(b, messageClosed), reason[:min(len(reason), maxReason)]...), start)
}

// messages reads a stream message by message, without copying.
type messages struct {
	r    *bufio.Reader
	used int // bytes of the last message, still in the buffer
}

// readBuffer holds at least one message; a batch of small ones is one read.
const readBuffer = 256 << 10

func newMessages(r io.Reader) *messages {
	return &messages{r: bufio.NewReaderSize(r, readBuffer)}
}

// next returns a message; its body is valid until the call after.
func (m *messages) next() (t messageType, body []byte, err error) {
	m.r.Discard(m.used)
	m.used = 0
	head, err := m.r.Peek(lengthSize + 1)
	if err != nil {
		return 0, nil, err
	}
	n := int(le.Uint32(head))
	if n < 1 || n > maxMessage {
		return 0, nil, fmt.Errorf("a message of %d bytes: the stream is not the switch protocol", n)
	}
	b, err := m.r.Peek(lengthSize + n)
	if err != nil {
		return 0, nil, err
	}
	m.used = lengthSize + n
	return messageType(b[lengthSize]), b[lengthSize+1:], nil
}

// more reports whether another message has begun to arrive: if not, a batch has ended.
func (m *messages) more() bool { return m.r.Buffered() > m.used }

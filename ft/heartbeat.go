// SPDX-License-Identifier: Apache-2.0

package ft

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"tandem/machine/event"
)

// HeartbeatSize is the length of an encoded heartbeat in bytes.
const HeartbeatSize = 42

const (
	heartbeatMAC = 16
	flagBackup   = 1 << 0
	flagProbe    = 1 << 1
)

// Key authenticates heartbeats. It is exported from the TLS session of the
// channel (RFC 8446 §7.5) under a label of its own.
type Key [32]byte

// Heartbeat is a sign of life in a UDP packet, big-endian:
//
//	0   1  ProtocolVersion
//	1   1  flags: 1 from the backup, 2 probe; the others are 0
//	2   8  VM, hashed: the first 8 bytes of SHA-256(VM)
//	10  8  epoch that the pair has open, or will open
//	18  8  counter: grows with each heartbeat of a sender, so that a recorded one is no life
//	26 16  HMAC-SHA256 of all before it, truncated (RFC 2104 §5)
//
// The flag of the role keeps a heartbeat from being sent back to its sender.
type Heartbeat struct {
	VM      uint64
	Epoch   event.Epoch
	Counter uint64
	Role    Role
	Probe   bool // to be answered at once
}

// Hash is the VM's name in heartbeats.
func (v VM) Hash() uint64 {
	sum := sha256.Sum256(v[:])
	return binary.BigEndian.Uint64(sum[:])
}

// AppendHeartbeat appends the encoding of h to dst.
func AppendHeartbeat(dst []byte, h Heartbeat, key *Key) []byte {
	start := len(dst)
	var flags byte
	if h.Role == RoleBackup {
		flags |= flagBackup
	}
	if h.Probe {
		flags |= flagProbe
	}
	dst = append(dst, ProtocolVersion, flags)
	dst = binary.BigEndian.AppendUint64(dst, h.VM)
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.Epoch))
	dst = binary.BigEndian.AppendUint64(dst, h.Counter)
	return append(dst, key.mac(dst[start:])...)
}

// ErrHeartbeat is wrapped by the errors of packets that are no authentic heartbeats.
var ErrHeartbeat = errors.New("no heartbeat")

// DecodeHeartbeat returns the heartbeat in a packet, if it is authentic.
func DecodeHeartbeat(b []byte, key *Key) (Heartbeat, error) {
	if len(b) != HeartbeatSize {
		return Heartbeat{}, fmt.Errorf("%w: %d bytes", ErrHeartbeat, len(b))
	}
	body, mac := b[:HeartbeatSize-heartbeatMAC], b[HeartbeatSize-heartbeatMAC:]
	if !hmac.Equal(mac, key.mac(body)) {
		return Heartbeat{}, fmt.Errorf("%w: not authentic", ErrHeartbeat)
	}
	if body[0] != ProtocolVersion || body[1]&^(flagBackup|flagProbe) != 0 {
		return Heartbeat{}, fmt.Errorf("%w: version %d, flags %#x", ErrHeartbeat, body[0], body[1])
	}
	h := Heartbeat{
		VM:      binary.BigEndian.Uint64(body[2:]),
		Epoch:   event.Epoch(binary.BigEndian.Uint64(body[10:])),
		Counter: binary.BigEndian.Uint64(body[18:]),
		Role:    RolePrimary,
		Probe:   body[1]&flagProbe != 0,
	}
	if body[1]&flagBackup != 0 {
		h.Role = RoleBackup
	}
	return h, nil
}

func (k *Key) mac(b []byte) []byte {
	m := hmac.New(sha256.New, k[:])
	m.Write(b)
	return m.Sum(nil)[:heartbeatMAC]
}

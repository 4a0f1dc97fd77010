// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"encoding/binary"

	"tandem/machine/event"
	"tandem/machine/mem"
)

// hostInterface is Spike's tohost and fromhost (HTIF): a program without any
// firmware stores a command to a doubleword of its own memory.
type hostInterface struct{ rung bool }

// maxHostWrite bounds one write system call.
const maxHostWrite = 64 << 10

// watchHost makes stores to tohost break a turn.
func (m *Machine) watchHost() {
	if m.cfg.Boot.ToHost == 0 {
		return
	}
	if off, ok := m.ram.Offset(m.cfg.Boot.ToHost, 8); ok {
		m.sys.OnHost = func(at, n uint64) {
			// The low half decides: a program of 32 bits stores the halves one by one.
			// What a device or a reset writes between two steps is no command.
			if at < off+4 && at+n > off && m.running != nil {
				m.host.rung, m.sys.Break = true, true
			}
		}
		m.ram.AddNote(mem.PFN(off>>mem.PageShift), mem.Host)
		m.sys.DropWrites()
	}
}

// serveHost carries out a command that was stored to tohost: device in bits
// 63:56, command in bits 55:48, payload below.
func (m *Machine) serveHost() {
	if !m.host.rung {
		return
	}
	m.host.rung = false
	v := m.word(m.cfg.Boot.ToHost)
	if v == 0 {
		return
	}
	m.setWord(m.cfg.Boot.ToHost, 0)
	switch device, payload := v>>56, v<<16>>16; {
	case device == 0 && v&1 != 0:
		m.emitExit(event.Exit{Code: int(payload >> 1)})
	case device == 0:
		m.hostCall(payload)
		m.setWord(m.cfg.Boot.FromHost, 1)
	case device == 1 && v<<8>>56 == 1: // putchar; nobody types, so getchar (0) has no answer
		m.uart.Print([]byte{byte(v)})
		m.setWord(m.cfg.Boot.FromHost, device<<56|v<<8>>56<<48)
	}
}

// hostCall does the system call whose number and arguments are at pa; the
// result replaces the number. 64 is write(fd, buffer, length).
func (m *Machine) hostCall(pa uint64) {
	result := ^uint64(37) // -ENOSYS
	if m.word(pa) == 64 {
		b := make([]byte, min(m.word(pa+24), maxHostWrite))
		result = ^uint64(13) // -EFAULT
		if m.ram.Read(m.word(pa+16), b) {
			m.uart.Print(b)
			result = uint64(len(b))
		}
	}
	m.setWord(pa, result)
}

func (m *Machine) word(pa uint64) uint64 {
	var b [8]byte
	m.ram.Read(pa, b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func (m *Machine) setWord(pa, v uint64) {
	m.ram.Write(pa, binary.LittleEndian.AppendUint64(nil, v))
}

// Memory copies RAM at a physical address, for signatures and diagnostics.
func (m *Machine) Memory(pa uint64, b []byte) bool { return m.ram.Read(pa, b) }

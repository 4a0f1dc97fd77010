// SPDX-License-Identifier: Apache-2.0

package net

import (
	"encoding/binary"
	"slices"

	"tandem/machine/event"
)

// Flags and segmentation types of the header (§5.1.6).
const (
	flagNeedsCSum = 1
	flagDataValid = 2

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoTCPv6 = 4
)

// decode reads struct virtio_net_hdr; num_buffers says nothing from the driver.
func decode(h []byte) event.Offload {
	le := binary.LittleEndian
	return event.Offload{
		Flags:      h[0],
		GSOType:    h[1],
		HdrLen:     le.Uint16(h[2:]),
		GSOSize:    le.Uint16(h[4:]),
		CsumStart:  le.Uint16(h[6:]),
		CsumOffset: le.Uint16(h[8:]),
	}
}

// encode writes struct virtio_net_hdr for a frame that lies in some buffers.
func encode(o event.Offload, buffers uint16) []byte {
	le := binary.LittleEndian
	h := make([]byte, headerSize)
	h[0], h[1] = o.Flags, o.GSOType
	le.PutUint16(h[2:], o.HdrLen)
	le.PutUint16(h[4:], o.GSOSize)
	le.PutUint16(h[6:], o.CsumStart)
	le.PutUint16(h[8:], o.CsumOffset)
	le.PutUint16(h[10:], buffers)
	return h
}

// allow reports whether the offload asked for with a frame was agreed on and
// makes sense: the checksum lies within the frame, segments have a size.
func (o Offloads) allow(f event.Frame) bool {
	switch f.Offload.GSOType {
	case gsoNone:
	case gsoTCPv4, gsoTCPv6:
		agreed := f.Offload.GSOType == gsoTCPv4 && o.TSO4 || f.Offload.GSOType == gsoTCPv6 && o.TSO6
		if !agreed || f.Offload.GSOSize == 0 || f.Offload.Flags&flagNeedsCSum == 0 {
			return false
		}
	default:
		return false
	}
	if f.Offload.Flags&^(flagNeedsCSum|flagDataValid) != 0 || f.Offload.Flags != 0 && !o.CSum {
		return false
	}
	return f.Offload.Flags&flagNeedsCSum == 0 || csumFits(f)
}

func csumFits(f event.Frame) bool {
	return int(f.Offload.CsumStart)+int(f.Offload.CsumOffset)+2 <= len(f.Data)
}

// checksum finishes a partial checksum for a driver that wants whole ones: the
// field holds the sum of the pseudo header already (§5.1.6.4.1).
func checksum(f *event.Frame) bool {
	if !csumFits(*f) {
		return false
	}
	f.Data = slices.Clone(f.Data) // the log still holds the original
	start := int(f.Offload.CsumStart)
	sum := uint64(0)
	for i, c := range f.Data[start:] {
		sum += uint64(c) << (8 * (1 - i&1))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	v := ^uint16(sum)
	if v == 0 {
		v = 0xffff // the same number, and UDP's 0 means none (RFC 768)
	}
	binary.BigEndian.PutUint16(f.Data[start+int(f.Offload.CsumOffset):], v)
	return true
}

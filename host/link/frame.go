// SPDX-License-Identifier: Apache-2.0

package link

import (
	"encoding/binary"
	"fmt"
	"io"

	"tandem/world"
)

const (
	headSize = 4
	// firstRead bounds what a length alone makes us allocate: a packet's buffer
	// grows as its bytes arrive.
	firstRead = 64 << 10
	// noPacket in place of a length: there is none, see breath.go.
	noPacket = 1<<32 - 1
)

// packetReader takes packets, each behind its length, from a stream that may have
// only a part of one now. After an error that passes it goes on where it was.
type packetReader struct {
	head  [headSize]byte
	heads int    // bytes of head
	body  []byte // nil until head is whole
	have  int    // bytes of body
}

func (p *packetReader) next(r io.Reader) ([]byte, error) {
	for p.heads < headSize {
		n, err := r.Read(p.head[p.heads:])
		if p.heads += n; err != nil && p.heads < headSize {
			return nil, p.cut(err)
		}
		if p.heads == headSize && binary.BigEndian.Uint32(p.head[:]) == noPacket {
			p.heads = 0
		}
	}
	size := int(binary.BigEndian.Uint32(p.head[:]))
	if size > world.MaxPacket {
		return nil, fmt.Errorf("a packet of %d bytes; at most %d are allowed", size, world.MaxPacket)
	}
	if p.body == nil {
		p.body = make([]byte, min(size, firstRead))
	}
	for p.have < size {
		if p.have == len(p.body) {
			grown := make([]byte, min(size, 4*p.have))
			copy(grown, p.body)
			p.body = grown
		}
		n, err := r.Read(p.body[p.have:])
		if p.have += n; err != nil && p.have < size {
			return nil, p.cut(err)
		}
	}
	b := p.body
	*p = packetReader{}
	return b, nil
}

// cut tells an end within a packet from one between two.
func (p *packetReader) cut(err error) error {
	if err == io.EOF && p.heads > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

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

// readPacket reads a packet behind its length.
func readPacket(r io.Reader) ([]byte, error) {
	var head [headSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	for binary.BigEndian.Uint32(head[:]) == noPacket {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, err
		}
	}
	size := int(binary.BigEndian.Uint32(head[:]))
	if size > world.MaxPacket {
		return nil, fmt.Errorf("a packet of %d bytes; at most %d are allowed", size, world.MaxPacket)
	}
	b := make([]byte, min(size, firstRead))
	for have := 0; ; {
		n, err := io.ReadFull(r, b[have:])
		have += n
		switch {
		case err == io.EOF && have < size:
			return nil, io.ErrUnexpectedEOF
		case err != nil && err != io.EOF:
			return nil, err
		case have == size:
			return b, nil
		}
		grown := make([]byte, min(size, 4*have))
		copy(grown, b)
		b = grown
	}
}

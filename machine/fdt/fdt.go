// SPDX-License-Identifier: Apache-2.0

// Package fdt builds flattened device trees: the description of the board that
// a kernel gets in a1.
//
//	header │ memory reservations │ structure: nodes and properties │ strings
//
// Format: Devicetree Specification 0.4, chapter 5, version 17. All numbers are
// big-endian; nodes and properties keep the order in which they were added, so
// the same tree is always the same bytes.
package fdt

import (
	"bytes"
	"encoding/binary"
)

// Node is one node with its properties and children.
type Node struct {
	name     string
	props    []property
	children []*Node
}

type property struct {
	name  string
	value []byte
}

// New returns the root of an empty tree.
func New() *Node { return &Node{} }

// Add appends a child; name includes the unit address, as in "cpu@0".
func (n *Node) Add(name string) *Node {
	c := &Node{name: name}
	n.children = append(n.children, c)
	return c
}

// Bytes sets a property to raw bytes. Setting a property again replaces its value.
func (n *Node) Bytes(name string, value []byte) {
	value = bytes.Clone(value)
	for i := range n.props {
		if n.props[i].name == name {
			n.props[i].value = value
			return
		}
	}
	n.props = append(n.props, property{name, value})
}

// Empty sets a property that is true by being there.
func (n *Node) Empty(name string) { n.Bytes(name, nil) }

// U32 sets a property to a list of cells.
func (n *Node) U32(name string, cells ...uint32) {
	var b []byte
	for _, v := range cells {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	n.Bytes(name, b)
}

// U64 sets a property to a list of two-cell numbers, for example a reg.
func (n *Node) U64(name string, values ...uint64) {
	var b []byte
	for _, v := range values {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	n.Bytes(name, b)
}

// String sets a property to a string or a list of strings.
func (n *Node) String(name string, values ...string) {
	var b []byte
	for _, v := range values {
		b = append(append(b, v...), 0)
	}
	n.Bytes(name, b)
}

// Header and structure tokens (§5.2, §5.4).
const (
	magic             = 0xd00dfeed
	version           = 17
	compatibleVersion = 16
	headerSize        = 40
	reservationsEnd   = 16 // a pair of zeros: we reserve nothing

	beginNode = 1
	endNode   = 2
	prop      = 3
	end       = 9
)

// Marshal flattens the tree of which n is the root.
func (n *Node) Marshal() []byte {
	var m marshaler
	m.node(n)
	m.word(end)
	const structure = headerSize + reservationsEnd
	strings := structure + len(m.structure)
	out := make([]byte, 0, strings+len(m.strings))
	for _, v := range []uint32{
		magic,
		uint32(strings + len(m.strings)), // total size
		structure,
		uint32(strings),
		headerSize, // memory reservations
		version,
		compatibleVersion,
		0, // boot CPU
		uint32(len(m.strings)),
		uint32(len(m.structure)),
	} {
		out = binary.BigEndian.AppendUint32(out, v)
	}
	out = append(out, make([]byte, reservationsEnd)...)
	return append(append(out, m.structure...), m.strings...)
}

type marshaler struct {
	structure []byte
	strings   []byte // names of properties, each once
}

func (m *marshaler) node(n *Node) {
	m.word(beginNode)
	m.bytes(append([]byte(n.name), 0))
	for _, p := range n.props {
		m.word(prop)
		m.word(uint32(len(p.value)))
		m.word(m.name(p.name))
		m.bytes(p.value)
	}
	for _, c := range n.children {
		m.node(c)
	}
	m.word(endNode)
}

func (m *marshaler) word(v uint32) { m.structure = binary.BigEndian.AppendUint32(m.structure, v) }

// bytes appends b, padded to a word.
func (m *marshaler) bytes(b []byte) {
	m.structure = append(m.structure, b...)
	m.structure = append(m.structure, make([]byte, -len(b)&3)...)
}

// name returns the offset of a property's name. Any place that ends as the
// name does will serve, so "reg" may be the tail of another name.
func (m *marshaler) name(s string) uint32 {
	b := append([]byte(s), 0)
	if i := bytes.Index(m.strings, b); i >= 0 {
		return uint32(i)
	}
	m.strings = append(m.strings, b...)
	return uint32(len(m.strings) - len(b))
}

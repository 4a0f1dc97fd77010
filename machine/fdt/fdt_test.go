// SPDX-License-Identifier: Apache-2.0

package fdt

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite testdata")

func sample() VirtConfig {
	return VirtConfig{
		Harts:       2,
		RAM:         5 << 30,
		ISA:         "rv64imafdc_zicsr_zifencei",
		Extensions:  []string{"i", "m", "a", "f", "d", "c", "zicsr", "zifencei"},
		MMU:         "sv57",
		Bootargs:    "console=ttyS0 root=/dev/vda",
		InitrdStart: 0x8800_0000,
		InitrdEnd:   0x8900_1234,
		RNGSeed:     []byte{0xde, 0xad, 0xbe, 0xef, 0, 1, 2, 3},
		KASLRSeed:   0x1122_3344_5566_7788,
	}
}

// Shows that dtc, the reference compiler, reads the board's tree as what it
// should say. After a change: go test -update, and read the diff.
func TestVirtGolden(t *testing.T) {
	got := run(t, Virt(sample()).Marshal(), "dtc", "-q", "-I", "dtb", "-O", "dts")
	const golden = "testdata/virt.dts"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("tree differs from %s:\n%s", golden, got)
	}
}

// Shows that a tree that dtc writes again flattened holds the same nodes as ours,
// and that fdtdump finds nothing to complain of.
func TestDTCRoundTrip(t *testing.T) {
	ours := Virt(sample()).Marshal()
	theirs := run(t, ours, "dtc", "-q", "-I", "dtb", "-O", "dtb")
	if a, b := dump(unflatten(t, ours)), dump(unflatten(t, theirs)); a != b {
		t.Errorf("dtc writes another tree: %s\nours: %s", b, a)
	}
	file := t.TempDir() + "/virt.dtb"
	if err := os.WriteFile(file, ours, 0o644); err != nil {
		t.Fatal(err)
	}
	if dump := run(t, nil, "fdtdump", file); !bytes.Contains(dump, []byte(`serial0 = "/soc/serial@10000000"`)) {
		t.Errorf("fdtdump: %s", dump)
	}
}

func run(t *testing.T, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed (Debian: device-tree-compiler)", name)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, stderr.Bytes())
	}
	return out
}

// Shows that all kinds of values, names that are tails of others, and empty
// trees come back from the bytes as they went in.
func TestMarshal(t *testing.T) {
	if got := dump(unflatten(t, New().Marshal())); got != "{}" {
		t.Errorf("empty tree: %s", got)
	}
	root := New()
	root.U32("assigned-reg", 1, 0xffff_ffff)
	root.U64("reg", 0x1_0000_0002)
	root.String("compatible", "a", "", "bcd")
	root.Empty("ranges")
	for n := range 9 {
		c := root.Add(strings.Repeat("n", n+1))
		c.Bytes("reg", []byte("12345678")[:n%9])
		c.Add("leaf").Bytes("v", bytes.Repeat([]byte{7}, n))
	}
	root.U32("assigned-reg", 3)
	got := unflatten(t, root.Marshal())
	if dump(got) != dump(root) {
		t.Errorf("got %s\nwant %s", dump(got), dump(root))
	}
	if p := got.props[0]; p.name != "assigned-reg" || !bytes.Equal(p.value, []byte{0, 0, 0, 3}) {
		t.Errorf("a property set again is %+v", p)
	}
	if n := bytes.Count(root.Marshal(), []byte("reg\x00")); n != 1 {
		t.Errorf("the name reg is stored %d times", n)
	}
}

// Shows that what wasn't configured is left out, and that optional values do
// not disturb the rest.
func TestVirtOptions(t *testing.T) {
	cfg := sample()
	cfg.Bootargs, cfg.InitrdEnd, cfg.RNGSeed, cfg.KASLRSeed = "", cfg.InitrdStart, nil, 0
	blob := Virt(cfg).Marshal()
	for _, name := range []string{"bootargs", "linux,initrd-start", "linux,initrd-end", "rng-seed", "kaslr-seed"} {
		if bytes.Contains(blob, []byte(name)) {
			t.Errorf("%s is there", name)
		}
		if !bytes.Contains(Virt(sample()).Marshal(), []byte(name)) {
			t.Errorf("%s is missing", name)
		}
	}
	if !bytes.Equal(Virt(sample()).Marshal(), Virt(sample()).Marshal()) {
		t.Error("one configuration, two trees")
	}
}

// dump writes a tree on one line.
func dump(n *Node) string {
	s := n.name + "{"
	for _, p := range n.props {
		s += fmt.Sprintf("%s=%x ", p.name, p.value)
	}
	for _, c := range n.children {
		s += dump(c)
	}
	return s + "}"
}

// unflatten reads a blob by the letter of the specification.
func unflatten(t *testing.T, b []byte) *Node {
	t.Helper()
	word := func(at int) int { return int(binary.BigEndian.Uint32(b[at:])) }
	if word(0) != magic || word(4) != len(b) || word(20) != 17 || word(24) != 16 {
		t.Fatalf("bad header % x", b[:headerSize])
	}
	at, strings := word(8), b[word(12):word(12)+word(32)]
	if at%4 != 0 || word(16)%8 != 0 || !bytes.Equal(b[word(16):word(16)+16], make([]byte, 16)) {
		t.Fatal("bad layout")
	}
	stop := at + word(36)
	cstring := func(b []byte) string { return string(b[:bytes.IndexByte(b, 0)]) }
	align := func(n int) int { return (n + 3) &^ 3 }
	var node func() *Node
	node = func() *Node {
		n := &Node{name: cstring(b[at:])}
		at += align(len(n.name) + 1)
		for {
			token := word(at)
			at += 4
			switch token {
			case beginNode:
				n.children = append(n.children, node())
			case prop:
				size, name := word(at), word(at+4)
				p := property{name: cstring(strings[name:])}
				if size > 0 {
					p.value = b[at+8 : at+8+size]
				}
				n.props = append(n.props, p)
				at += 8 + align(size)
			case endNode:
				return n
			default:
				t.Fatalf("token %d at %#x", token, at-4)
			}
		}
	}
	at += 4
	root := node()
	if word(at) != end || at+4 != stop {
		t.Fatalf("structure ends at %#x, want %#x", at+4, stop)
	}
	return root
}

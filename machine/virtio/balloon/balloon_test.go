// SPDX-License-Identifier: Apache-2.0

package balloon_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"tandem/machine/bus"
	"tandem/machine/virtio"
	"tandem/machine/virtio/balloon"
	"tandem/machine/virtio/internal/virtiotest"
)

const (
	inflate, deflate = 0, 1
	features         = virtio.RingEventIdx | virtio.RingIndirectDesc | balloon.FeatureDeflateOnOOM
	first            = virtiotest.Base/balloon.PageSize + 200 // a page that no ring is in
)

// fixture is a guest whose released pages are noted.
type fixture struct {
	*virtiotest.Guest
	dev      *balloon.Device
	released []uint32
}

func (f *fixture) maker() virtiotest.Maker {
	return func(mem bus.Memory, line bus.Line, _ bus.Emit) bus.Device {
		f.dev = balloon.New(mem, line, balloon.Config{Wanted: 3, Release: func(pa uint64) bool {
			f.released = append(f.released, uint32(pa/balloon.PageSize))
			return mem.Write(pa, make([]byte, balloon.PageSize))
		}})
		return f.dev
	}
}

func boot(t testing.TB) *fixture {
	f := &fixture{}
	f.Guest = virtiotest.New(t, f.maker())
	f.Start(features, 16, 16)
	return f
}

func (f *fixture) send(queue int, pages ...uint32) {
	var b []byte
	for _, p := range pages {
		b = binary.LittleEndian.AppendUint32(b, p)
	}
	f.Rings[queue].Add(f.Data(b))
	f.Rings[queue].Kick()
}

// The driver reads what is wanted and hears when that changes; it says what it has given,
// and nothing else of the configuration is its to write.
func TestConfig(t *testing.T) {
	f := boot(t)
	if f.Config(0, 4) != 3 || f.Config(4, 4) != 0 || f.Interrupt() != 0 {
		t.Errorf("at first %d pages are wanted, %d given", f.Config(0, 4), f.Config(4, 4))
	}
	f.dev.Want(77)
	if f.Config(0, 4) != 77 || f.Interrupt() != virtio.InterruptConfig {
		t.Errorf("%d pages are wanted, and the driver is not told", f.Config(0, 4))
	}
	f.Dev.Store(virtio.RegConfig, 4, 9)
	f.Dev.Store(virtio.RegConfig+4, 4, 50)
	if n, driven := f.dev.Given(); n != 50 || !driven || f.Config(0, 4) != 77 {
		t.Errorf("given %d, driven %v, wanted %d", n, driven, f.Config(0, 4))
	}
	n := &fixture{}
	n.Guest = f.Fork(n.maker())
	if f.Hash() != n.Hash() {
		t.Error("original and copy differ")
	}
	f.Store(virtio.RegStatus, 0)
	if n, driven := f.dev.Given(); n != 0 || driven || f.Config(0, 4) != 77 {
		t.Errorf("after a reset: given %d, driven %v, wanted %d", n, driven, f.Config(0, 4))
	}
}

// Pages that are given back are zero; those that are taken again are as they are.
func TestInflate(t *testing.T) {
	f := boot(t)
	at := func(page uint32) uint64 { return uint64(page) * balloon.PageSize }
	for _, p := range []uint32{first, first + 1, first + 5} {
		f.RAM.Write(at(p)+100, []byte("secret"))
	}
	f.send(inflate, first, first+5)
	f.send(deflate, first+1)
	if !slices.Equal(f.released, []uint32{first, first + 5}) {
		t.Errorf("released %d", f.released)
	}
	b := make([]byte, 6)
	for page, want := range map[uint32]string{first: "\x00\x00\x00\x00\x00\x00", first + 1: "secret", first + 5: "\x00\x00\x00\x00\x00\x00"} {
		if f.RAM.Read(at(page)+100, b); string(b) != want {
			t.Errorf("page %d holds %q", page, b)
		}
	}
	if len(f.Rings[inflate].Collect()) != 1 || len(f.Rings[deflate].Collect()) != 1 || f.Interrupt() != virtio.InterruptUsed {
		t.Error("the driver does not get its buffers back")
	}
}

// Pages that are none, and buffers that no driver has, stop the device.
func TestOddBuffers(t *testing.T) {
	for what, pages := range map[string][]uint32{"no RAM": {first, 0}, "beyond RAM": {1<<32 - 1}, "too many": make([]uint32, 257)} {
		f := boot(t)
		if what == "too many" {
			for i := range pages {
				pages[i] = first
			}
		}
		f.send(inflate, pages...)
		if !f.NeedsReset() {
			t.Errorf("%s: the device goes on", what)
		}
	}
	f := boot(t)
	f.Rings[inflate].Add(f.Data([]byte{1, 2, 3}))
	f.Rings[inflate].Kick()
	if !f.NeedsReset() {
		t.Error("three bytes: the device goes on")
	}
}

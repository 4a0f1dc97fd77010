// SPDX-License-Identifier: Apache-2.0

package tap

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forwardTimeout is how long a bridge may take to see that a cable was plugged
// in, before the replica goes on without waiting for it.
const forwardTimeout = 100 * time.Millisecond

const addrGenNone = 1 // IN6_ADDR_GEN_MODE_NONE

// join sets the device up as far as it isn't already, so that who may open a
// device that root made for him needs no more rights than that.
func (t *Tap) join() error {
	link, err := netlink.LinkByName(t.cfg.Name)
	if err != nil {
		return fmt.Errorf("tap:%s: look it up: %w", t.cfg.Name, err)
	}
	a := link.Attrs()
	t.index = a.Index
	bridge, err := findBridge(t.cfg, a.MasterIndex)
	if err != nil {
		return err
	}
	mtu := t.cfg.MTU
	if mtu == 0 && bridge != nil {
		mtu = bridge.Attrs().MTU // a port with another one would change the bridge's
	}
	mac := hostMAC(t.cfg)
	made := a.Flags&net.FlagUp == 0 && a.MasterIndex == 0 // by us just now, or by root for us to finish
	steps := []struct {
		what string
		need bool
		do   func() error
	}{
		{"address", made && !slices.Equal(a.HardwareAddr, mac), func() error { return netlink.LinkSetHardwareAddr(link, mac) }},
		{"MTU", mtu != 0 && mtu != a.MTU, func() error { return netlink.LinkSetMTU(link, mtu) }},
		{"join the bridge", bridge != nil && a.MasterIndex == 0, func() error { return netlink.LinkSetMaster(link, bridge) }},
		{"set it up", a.Flags&net.FlagUp == 0, func() error { return netlink.LinkSetUp(link) }},
	}
	if made && bridge != nil { // the guest's port: the host has no IPv6 to say there. Best effort.
		netlink.LinkSetIP6AddrGenMode(link, addrGenNone)
	}
	for _, s := range steps {
		if !s.need {
			continue
		}
		if err := s.do(); err != nil {
			return explainStep(t.cfg, s.what, err)
		}
	}
	return nil
}

func explainStep(cfg Config, what string, err error) error {
	remedy := "see that no other program manages this device"
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		remedy = "run as root or with CAP_NET_ADMIN, or let root do it once:" + strings.TrimPrefix(enslave(cfg), " and")
	case what == "MTU":
		remedy = "choose another mtu"
	}
	return fmt.Errorf("tap:%s: %s: %w: %s", cfg.Name, what, err, remedy)
}

// hostMAC is the address of the host's end: the guest's but for the first byte,
// which is so high that no bridge takes it for its own.
func hostMAC(cfg Config) net.HardwareAddr {
	m := cfg.MAC
	m[0] = 0xfe
	return m[:]
}

// findBridge returns the bridge that is asked for, nil if none is, and says why the
// device can't be its port.
func findBridge(cfg Config, master int) (netlink.Link, error) {
	if cfg.Bridge == "" {
		return nil, nil
	}
	link, err := netlink.LinkByName(cfg.Bridge)
	if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
		return nil, fmt.Errorf("tap:%s: there is no bridge %s: make it with `ip link add %s type bridge`, `ip link set %s up`, and join the host's card with `ip link set CARD master %s`",
			cfg.Name, cfg.Bridge, cfg.Bridge, cfg.Bridge, cfg.Bridge)
	}
	if err != nil {
		return nil, fmt.Errorf("tap:%s: look up bridge %s: %w", cfg.Name, cfg.Bridge, err)
	}
	a := link.Attrs()
	switch {
	case link.Type() != "bridge":
		return nil, fmt.Errorf("tap:%s: %s is no bridge but of type %s: name a bridge, or leave bridge= out and join the tap by the tools of that network", cfg.Name, cfg.Bridge, kindOf(link))
	case master != 0 && master != a.Index:
		return nil, fmt.Errorf("tap:%s: it is a port of another device: free it with `ip link set %s nomaster`, or leave bridge= out", cfg.Name, cfg.Name)
	case a.Flags&net.FlagUp == 0:
		return nil, fmt.Errorf("tap:%s: bridge %s is down: `ip link set %s up`", cfg.Name, cfg.Bridge, cfg.Bridge)
	case readSys(cfg.Bridge, "bridge/stp_state") == "1":
		return nil, fmt.Errorf("tap:%s: bridge %s runs the spanning tree protocol, which keeps a new port silent for some 30 s after a failover: turn it off with `ip link set %s type bridge stp_state 0`", cfg.Name, cfg.Bridge, cfg.Bridge)
	}
	return link, nil
}

func kindOf(l netlink.Link) string {
	if l.Type() == "device" {
		return "network card"
	}
	return l.Type()
}

// readSys reads a fact about a device that netlink's library does not tell.
func readSys(device, name string) string {
	b, _ := os.ReadFile("/sys/class/net/" + device + "/" + name)
	return strings.TrimSpace(string(b))
}

// DeviceMTU tells what a guest on this device may send, in bytes: what cfg asks
// for, else what the bridge or the device has; 0 if that is not known yet.
func DeviceMTU(cfg Config) int {
	if cfg.MTU != 0 {
		return cfg.MTU
	}
	name := cfg.Bridge
	if name == "" {
		name = cfg.Name
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return 0
	}
	return link.Attrs().MTU
}

// brForwarding is BR_STATE_FORWARDING.
const brForwarding = "3"

// awaitForwarding waits until a bridge takes frames from the device: it learns of
// the carrier later, up to a second if there was other such news, and would drop the
// first announcements. Linux since 6.8 tells it at once if somebody asks for the link.
func (t *Tap) awaitForwarding() {
	netlink.LinkByIndex(t.index)
	for end := time.Now().Add(forwardTimeout); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
		if s := readSys(t.cfg.Name, "brport/state"); s == "" || s == brForwarding {
			return
		}
	}
}

// watch keeps up what the operator does to the device.
func (t *Tap) watch() error {
	updates := make(chan netlink.LinkUpdate, 16)
	stop := make(chan struct{})
	err := netlink.LinkSubscribe(updates, stop)
	if err == nil { // what changed before is no news
		var link netlink.Link
		if link, err = netlink.LinkByName(t.cfg.Name); err == nil {
			t.up.Store(link.Attrs().Flags&net.FlagUp != 0)
		}
	}
	if err != nil {
		close(stop)
		return fmt.Errorf("tap:%s: watch the link: %w", t.cfg.Name, err)
	}
	go func() {
		defer func() {
			for range updates { // until who fills it has ended too
			}
		}()
		defer close(stop)
		for {
			select {
			case <-t.watched:
				return
			case u, ok := <-updates:
				if !ok {
					return
				}
				t.changed(u)
			}
		}
	}()
	return nil
}

func (t *Tap) changed(u netlink.LinkUpdate) {
	if int(u.Index) != t.index || u.Family == unix.AF_BRIDGE { // a port's news, not the device's
		return
	}
	up := u.Header.Type != unix.RTM_DELLINK && u.Flags&unix.IFF_UP != 0
	if t.up.Swap(up) != up {
		t.wake()
	}
}

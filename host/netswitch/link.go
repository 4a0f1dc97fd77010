// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"tandem/machine/event"
)

// link is an Ethernet card of the userspace stack: packets become frames of the
// switch. It leaves checksums and segmentation of TCP to whoever receives, as
// virtio does.
type link struct {
	mtu        uint32
	mac        tcpip.LinkAddress
	emit       func(event.Frame)
	dispatcher atomic.Pointer[stack.NetworkDispatcher]
}

var (
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

// maxGSO leaves room for headers below the 65,535 bytes of an IPv4 packet.
const maxGSO = 60 << 10

// deliver gives a packet to the stack, which copies it.
func (l *link) deliver(protocol tcpip.NetworkProtocolNumber, packet []byte) {
	d := l.dispatcher.Load()
	if d == nil {
		return
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
	(*d).DeliverNetworkPacket(protocol, p)
	p.DecRef()
}

// WritePackets sends what the stack has to send.
func (l *link) WritePackets(packets stack.PacketBufferList) (int, tcpip.Error) {
	for _, p := range packets.AsSlice() {
		data := make([]byte, 0, p.Size())
		for _, s := range p.AsSlices() {
			data = append(data, s...)
		}
		l.emit(event.Frame{Offload: offload(p), Data: data})
	}
	return packets.Len(), nil
}

// offload says what the stack has left to be done to a packet.
func offload(p *stack.PacketBuffer) (o event.Offload) {
	g := p.GSOOptions
	if g.Type == stack.GSONone || !g.NeedsCsum {
		return o
	}
	o.Flags = 1
	o.HdrLen = uint16(p.HeaderSize())
	o.CsumStart = header.EthernetMinimumSize + g.L3HdrLen
	o.CsumOffset = g.CsumOffset
	if g.Type == stack.GSOTCPv4 && p.Data().Size() > int(g.MSS) {
		o.GSOType, o.GSOSize = 1, g.MSS
	}
	return o
}

func (l *link) AddHeader(p *stack.PacketBuffer) {
	header.Ethernet(p.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: l.mac,
		DstAddr: p.EgressRoute.RemoteLinkAddress,
		Type:    p.NetworkProtocolNumber,
	})
}

func (l *link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
	} else {
		l.dispatcher.Store(&d)
	}
}

// The rest says what kind of card it is.

func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload
}
func (l *link) SupportedGSO() stack.SupportedGSO        { return stack.HostGSOSupported }
func (l *link) GSOMaxSize() uint32                      { return maxGSO }
func (l *link) MTU() uint32                             { return l.mtu }
func (l *link) MaxHeaderLength() uint16                 { return header.EthernetMinimumSize }
func (l *link) LinkAddress() tcpip.LinkAddress          { return l.mac }
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *link) IsAttached() bool                        { return l.dispatcher.Load() != nil }
func (l *link) ParseHeader(*stack.PacketBuffer) bool    { return true }

// The card never changes, and has nothing to stop.

func (l *link) SetMTU(uint32)                    {}
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}
func (l *link) SetOnCloseAction(func())          {}
func (l *link) Wait()                            {}
func (l *link) Close()                           {}

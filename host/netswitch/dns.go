// SPDX-License-Identifier: Apache-2.0

package netswitch

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

const (
	dnsPort     = 53
	dnsTimeout  = 3 * time.Second // for one resolver
	dnsIdle     = 10 * time.Second
	maxDNS      = 256 // questions and TCP connections at a time
	resolvConf  = "/etc/resolv.conf"
	maxUDPReply = 65535
)

// serveDNS starts the name server of the gateway. Names of the network it answers
// itself; other questions go to the host's resolvers as they are, and the answers
// come back as they are, so that every record type works.
func (g *gateway) serveDNS() error {
	at := tcpip.FullAddress{NIC: nic, Addr: address(g.cfg.Gateway), Port: dnsPort}
	u, err := gonet.DialUDP(g.stack, &at, nil, ipv4.ProtocolNumber)
	if err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	l, err := gonet.ListenTCP(g.stack, at, ipv4.ProtocolNumber)
	if err != nil {
		u.Close()
		return fmt.Errorf("DNS: %w", err)
	}
	slots := make(chan struct{}, maxDNS)
	g.spawn(func() { g.serveDNSOverUDP(u, slots) })
	g.spawn(func() { g.serveDNSOverTCP(l, slots) })
	return nil
}

// spawn runs f on a goroutine that close waits for.
func (g *gateway) spawn(f func()) {
	if g.enter() {
		go func() {
			defer g.wg.Done()
			f()
		}()
	}
}

func (g *gateway) serveDNSOverUDP(c *gonet.UDPConn, slots chan struct{}) {
	defer context.AfterFunc(g.ctx, func() { c.Close() })()
	b := make([]byte, 65535)
	for g.ctx.Err() == nil {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			sleep(g.ctx, time.Millisecond) // an ICMP error of an earlier reply
			continue
		}
		if !take(slots) {
			continue // the client asks again
		}
		question := append([]byte(nil), b[:n]...)
		g.spawn(func() {
			defer give(slots)
			if reply := g.resolve("udp", question); reply != nil {
				c.WriteTo(reply, from)
			}
		})
	}
}

func (g *gateway) serveDNSOverTCP(l *gonet.TCPListener, slots chan struct{}) {
	defer context.AfterFunc(g.ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		if g.ctx.Err() != nil || err != nil {
			if err == nil {
				c.Close()
			}
			return
		}
		if !take(slots) {
			c.Close()
			continue
		}
		g.spawn(func() {
			defer give(slots)
			defer c.Close()
			defer context.AfterFunc(g.ctx, func() { c.Close() })()
			g.serveDNSConn(c)
		})
	}
}

// serveDNSConn answers one question after the other (RFC 7766).
func (g *gateway) serveDNSConn(c net.Conn) {
	for {
		c.SetDeadline(time.Now().Add(dnsIdle))
		question, err := readDNS(c)
		if err != nil {
			return
		}
		reply := g.resolve("tcp", question)
		if reply == nil {
			return
		}
		c.SetDeadline(time.Now().Add(dnsIdle))
		if writeDNS(c, reply) != nil {
			return
		}
	}
}

func readDNS(r io.Reader) ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(n[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeDNS(w io.Writer, m []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	return err
}

// resolve answers a question; nil means that it isn't one.
func (g *gateway) resolve(network string, question []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(question)
	if err != nil || h.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	if reply, ok := g.resolveOwn(h, q); ok {
		return reply
	}
	for _, r := range g.resolvers() {
		if reply, err := g.ask(network, r, question); err == nil {
			return reply
		}
	}
	return dnsReply(h, q, dnsmessage.RCodeServerFailure, netip.Addr{})
}

// resolveOwn answers for the names of the network, and for its zone.
func (g *gateway) resolveOwn(h dnsmessage.Header, q dnsmessage.Question) ([]byte, bool) {
	name := strings.ToLower(q.Name.String())
	ip, ok := g.cfg.name(name)
	switch {
	case ok && q.Type != dnsmessage.TypeA:
		return dnsReply(h, q, dnsmessage.RCodeSuccess, netip.Addr{}), true
	case ok:
		return dnsReply(h, q, dnsmessage.RCodeSuccess, ip), true
	case strings.HasSuffix("."+name, "."+Zone+"."):
		return dnsReply(h, q, dnsmessage.RCodeNameError, netip.Addr{}), true
	}
	return nil, false
}

// dnsReply builds a reply with one address or none.
func dnsReply(h dnsmessage.Header, q dnsmessage.Question, code dnsmessage.RCode, ip netip.Addr) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: h.ID, Response: true, OpCode: h.OpCode,
		RecursionDesired: h.RecursionDesired, RecursionAvailable: true, RCode: code})
	b.EnableCompression()
	b.StartQuestions()
	b.Question(q)
	if ip.IsValid() {
		b.StartAnswers()
		b.AResource(dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}, dnsmessage.AResource{A: ip.As4()})
	}
	m, err := b.Finish()
	if err != nil {
		return nil
	}
	return m
}

// resolvers lists the DNS servers to ask.
func (g *gateway) resolvers() []string {
	list := g.cfg.Resolvers
	if len(list) == 0 {
		list = hostResolvers(resolvConf)
	}
	var out []string
	for _, r := range list {
		if _, _, err := net.SplitHostPort(r); err != nil {
			r = net.JoinHostPort(r, "53")
		}
		out = append(out, r)
	}
	return out
}

func hostResolvers(file string) (list []string) {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if w := strings.Fields(lines.Text()); len(w) >= 2 && w[0] == "nameserver" {
			list = append(list, w[1])
		}
	}
	return list
}

// ask puts a question to one resolver.
func (g *gateway) ask(network, resolver string, question []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(g.ctx, dnsTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, network, resolver)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if network == "tcp" {
		if err := writeDNS(c, question); err != nil {
			return nil, err
		}
		return readDNS(c)
	}
	if _, err := c.Write(question); err != nil {
		return nil, err
	}
	b := make([]byte, maxUDPReply)
	n, err := c.Read(b)
	if err != nil {
		return nil, err
	}
	if n < 2 || [2]byte(b) != [2]byte(question) {
		return nil, errors.New("a reply to another question")
	}
	return b[:n], nil
}

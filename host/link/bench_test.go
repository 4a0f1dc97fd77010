// SPDX-License-Identifier: Apache-2.0

package link

import (
	"fmt"
	"io"
	"net"
	"testing"

	"tandem/world"
)

// BenchmarkPingPong is the round trip of a packet through Send, Flush, wake and
// Recv on both sides.
func BenchmarkPingPong(b *testing.B) {
	for _, size := range []int{100, 4 << 10, 32 << 10, 256 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			listener, dialer := pair(b, "127.0.0.1:0")
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					ev := dialer.next()
					if ev.Kind != world.Packet {
						return
					}
					dialer.Send(ev.Data)
					dialer.Flush()
				}
			}()
			p := make([]byte, size)
			b.ReportAllocs()
			for b.Loop() {
				listener.Send(p)
				listener.Flush()
				listener.want(world.Packet)
			}
			listener.Close()
			<-done
		})
	}
}

// BenchmarkBarePingPong is what plain TCP and goroutines cost on this machine.
func BenchmarkBarePingPong(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	p := make([]byte, 100)
	for b.Loop() {
		c.Write(p)
		if _, err := io.ReadFull(c, p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFlush is what Send and Flush cost the caller, for a packet of 100 bytes.
func BenchmarkFlush(b *testing.B) {
	listener, dialer := pair(b, "127.0.0.1:0")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for dialer.next().Kind == world.Packet {
		}
	}()
	p := make([]byte, 100)
	for b.Loop() {
		listener.Send(p)
		listener.Flush()
	}
	listener.Close()
	<-done
}

// BenchmarkStream is the throughput of large packets, as of a clone.
func BenchmarkStream(b *testing.B) {
	listener, dialer := pair(b, "127.0.0.1:0")
	p := make([]byte, 1<<20)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		listener.Send(p)
		listener.Flush()
		dialer.want(world.Packet)
	}
}

// BenchmarkRecvEmpty is what a look into an empty inbox costs a replica's turn.
func BenchmarkRecvEmpty(b *testing.B) {
	listener, _ := pair(b, "127.0.0.1:0")
	for b.Loop() {
		if _, ok := listener.Recv(); ok {
			b.Fatal("something came")
		}
	}
}

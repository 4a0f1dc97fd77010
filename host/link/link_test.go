// SPDX-License-Identifier: Apache-2.0

package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/host/certs"
	"tandem/world"
)

// patience is how long a test waits for what must come. Nothing depends on how
// long it takes.
const patience = 20 * time.Second

// end is a link with its wake, and the diagnostics it gave.
type end struct {
	*Link
	t    testing.TB
	wake chan struct{}
	log  *diagnostics
}

type diagnostics struct {
	slog.Handler
	mu    sync.Mutex
	text  strings.Builder
	grown chan struct{}
}

func newDiagnostics() *diagnostics { return &diagnostics{grown: make(chan struct{}, 1)} }

func (d *diagnostics) Enabled(context.Context, slog.Level) bool { return true }

func (d *diagnostics) Handle(_ context.Context, r slog.Record) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.text.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&d.text, " %s=%v", a.Key, a.Value)
		return true
	})
	d.text.WriteByte('\n')
	select {
	case d.grown <- struct{}{}:
	default:
	}
	return nil
}

// await waits until the diagnostics contain all of want.
func (d *diagnostics) await(t testing.TB, want ...string) {
	t.Helper()
	late := time.After(patience)
	for {
		d.mu.Lock()
		text := d.text.String()
		d.mu.Unlock()
		missing := ""
		for _, w := range want {
			if !strings.Contains(text, w) {
				missing = w
			}
		}
		if missing == "" {
			return
		}
		select {
		case <-d.grown:
		case <-late:
			t.Fatalf("no diagnostics with %q:\n%s", missing, text)
		}
	}
}

func newCA(t testing.TB) *certs.CA {
	t.Helper()
	ca, err := certs.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func config(t testing.TB, ca *certs.CA) Config {
	t.Helper()
	pair, err := ca.Pair("replica")
	if err != nil {
		t.Fatal(err)
	}
	return Config{Certificate: pair, Peers: ca.Pool()}
}

func open(t testing.TB, f func(string, Config, func()) (*Link, error), addr string, cfg Config) *end {
	t.Helper()
	e := &end{t: t, wake: make(chan struct{}, 1), log: newDiagnostics()}
	cfg.Log = slog.New(e.log)
	l, err := f(addr, cfg, func() {
		select {
		case e.wake <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	e.Link = l
	t.Cleanup(func() { l.Close() })
	return e
}

// pair returns a listener and a dialer that are connected.
func pair(t testing.TB, addr string) (listener, dialer *end) {
	t.Helper()
	ca := newCA(t)
	listener = open(t, Listen, addr, config(t, ca))
	dialer = open(t, Dial, listener.Addr().String(), config(t, ca))
	listener.want(world.Connected)
	dialer.want(world.Connected)
	return listener, dialer
}

// Recv leaves out what a quiet moment brings.
func (e *end) Recv() (world.ChannelEvent, bool) {
	for {
		if ev, ok := e.Link.Recv(); !ok || ev.Kind != world.Breath {
			return ev, ok
		}
	}
}

// While a peer says nothing its kernel is heard, again and again, from either side; and
// what is sent for that is no packet.
func TestBreath(t *testing.T) {
	listener, dialer := pair(t, "127.0.0.1:0")
	for _, e := range []*end{listener, dialer} {
		for late := time.After(patience); ; {
			ev, ok := e.Link.Recv()
			if ok && ev.Kind == world.Breath {
				break
			}
			if ok {
				t.Fatalf("event %d, %v", ev.Kind, ev.Err)
			}
			select {
			case <-e.wake:
			case <-late:
				t.Fatal("no breath is heard")
			}
		}
	}
	listener.say("")
	dialer.hear("")
	dialer.say("a")
	listener.hear("a")
}

// next waits for the next event.
func (e *end) next() world.ChannelEvent {
	e.t.Helper()
	late := time.After(patience)
	for {
		if ev, ok := e.Recv(); ok {
			return ev
		}
		select {
		case <-e.wake:
		case <-late:
			e.t.Fatal("nothing comes")
		}
	}
}

// want waits for an event of a kind. Only datagrams may come before it.
func (e *end) want(kind world.ChannelKind) world.ChannelEvent {
	e.t.Helper()
	for {
		ev := e.next()
		if ev.Kind == kind {
			return ev
		}
		if ev.Kind != world.Datagram && ev.Kind != world.Unreachable {
			e.t.Fatalf("event %d, %v; want %d", ev.Kind, ev.Err, kind)
		}
	}
}

func (e *end) say(s string) {
	e.Send([]byte(s))
	e.Flush()
}

func (e *end) hear(s string) {
	e.t.Helper()
	if got := string(e.want(world.Packet).Data); got != s {
		e.t.Fatalf("heard %.40q, want %.40q", got, s)
	}
}

// Packets of all sizes arrive whole and in order in both directions at once.
func TestOrder(t *testing.T) { testOrder(t, false) }

// So they do when the caller looks at the connection himself, against the goroutine
// that reads it; and he hears of its end.
func TestHurry(t *testing.T) {
	listener, dialer := testOrder(t, true)
	dialer.say("last")
	dialer.Close()
	for late := time.Now().Add(patience); ; runtime.Gosched() {
		switch ev, ok := listener.Recv(); {
		case ok && ev.Kind == world.Packet && string(ev.Data) == "last":
		case ok && ev.Kind == world.Disconnected:
			return
		case ok && ev.Kind != world.Datagram:
			t.Fatalf("event %d with %q, %v", ev.Kind, ev.Data, ev.Err)
		case time.Now().After(late):
			t.Fatal("the end is not heard")
		}
	}
}

func testOrder(t *testing.T, hurry bool) (listener, dialer *end) {
	listener, dialer = pair(t, "127.0.0.1:0")
	const count = 600
	size := func(i int) int {
		switch {
		case i%151 == 150:
			return 3 << 20
		case i%13 == 12:
			return 70_000
		}
		return i % 200 // 0 too
	}
	packet := func(seed, i int) []byte {
		b := make([]byte, size(i))
		rand.NewChaCha8([32]byte{byte(seed), byte(i), byte(i >> 8)}).Read(b)
		return b
	}
	run := func(e *end, mine, theirs int) error {
		sent, got := 0, 0
		for got < count || sent < count {
			for sent < count && e.Backlog() < 4<<20 {
				e.Send(packet(mine, sent))
				if sent++; sent%3 == 0 || sent == count {
					e.Flush()
				}
			}
			e.Hurry(hurry && got%5 > 0)
			ev, ok := e.Recv()
			if !ok && hurry {
				runtime.Gosched()
				continue
			} else if !ok {
				select {
				case <-e.wake:
				case <-time.After(time.Millisecond): // a backlog that shrank wakes nobody
				}
				continue
			}
			if ev.Kind != world.Packet || !bytes.Equal(ev.Data, packet(theirs, got)) {
				return fmt.Errorf("event %d of kind %d with %d bytes, error %v", got, ev.Kind, len(ev.Data), ev.Err)
			}
			got++
		}
		return nil
	}
	result := make(chan error)
	go func() { result <- run(listener, 1, 2) }()
	if err := run(dialer, 2, 1); err != nil {
		t.Error("dialer:", err)
	}
	if err := <-result; err != nil {
		t.Error("listener:", err)
	}
	return listener, dialer
}

// The greatest packet passes; the keys of both ends are the same, and those of
// another connection are others.
func TestGreatestAndKey(t *testing.T) {
	listener, dialer := pair(t, "127.0.0.1:0")
	big := strings.Repeat("tandem! ", world.MaxPacket/8)
	listener.say(big)
	dialer.hear(big)
	if listener.Key() != dialer.Key() || listener.Key() == [32]byte{} {
		t.Error("keys differ, or are zero")
	}
	old := dialer.Key()
	dialer.Hangup()
	listener.want(world.Disconnected)
	if listener.Key() != old {
		t.Error("the key went with the connection; heartbeats go on")
	}
	dialer.Redial()
	dialer.want(world.Connected)
	listener.want(world.Connected)
	if listener.Key() != dialer.Key() || listener.Key() == old {
		t.Error("keys of the second connection differ, or are the first's")
	}
}

// What was sent before a Hangup arrives, however much it is, then the end with its
// reason; the side that hung up hears no more of it. Redial makes a new connection.
func TestHangupRedial(t *testing.T) {
	listener, dialer := pair(t, "127.0.0.1:0")
	for i := range 20 {
		hanger, other := dialer, listener
		if i%2 == 1 {
			hanger, other = listener, dialer
		}
		other.say("unread")
		last := strings.Repeat("x", 100_000*i)
		hanger.say(last)
		hanger.Send([]byte("unflushed"))
		hanger.Hangup()
		if hanger.Backlog() != 0 {
			t.Error("a backlog without a connection")
		}
		other.hear(last)
		other.hear("unflushed")
		if ev := other.want(world.Disconnected); ev.Err == nil || !strings.Contains(ev.Err.Error(), "the peer ended it") {
			t.Errorf("round %d: the end's reason is %v", i, ev.Err)
		}
		hanger.say("to nobody")
		dialer.Redial()
		listener.Redial() // does nothing
		dialer.want(world.Connected)
		listener.want(world.Connected)
		dialer.say("again")
		listener.hear("again")
	}
}

// Packets meant for a connection that ended don't get into the next one, though
// that is there already.
func TestNoStalePackets(t *testing.T) {
	listener, dialer := pair(t, "127.0.0.1:0")
	dialer.say("one")
	dialer.Hangup()
	dialer.Redial()
	dialer.want(world.Connected)
	dialer.say("two")
	<-listener.wake
	listener.inbox.await(t, 4) // one, end, connected, two
	listener.say("an answer to one")
	listener.hear("one")
	listener.say("another")
	listener.want(world.Disconnected)
	listener.say("to nobody")
	listener.want(world.Connected)
	listener.hear("two")
	listener.say("an answer to two")
	dialer.hear("an answer to two")
}

// await waits until n items are in the inbox.
func (in *inbox) await(t testing.TB, n int) {
	t.Helper()
	for late := time.Now().Add(patience); int(in.count.Load()) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("%d items in the inbox, want %d", in.count.Load(), n)
		}
	}
}

// A peer whose certificate isn't of our CA, or has none, is refused, with reasons
// on both sides, and the connection that runs isn't disturbed.
func TestCertificates(t *testing.T) {
	ca, stranger := newCA(t), newCA(t)
	listener := open(t, Listen, "127.0.0.1:0", config(t, ca))
	dialer := open(t, Dial, listener.Addr().String(), config(t, ca))
	listener.want(world.Connected)
	dialer.want(world.Connected)

	wrong := config(t, stranger)
	wrong.Peers = ca.Pool()
	mallory := open(t, Dial, listener.Addr().String(), wrong)
	mallory.log.await(t, "the peer refuses our certificate", "issued by this VM's CA")
	listener.log.await(t, "a connection to the channel was refused", "not issued by this VM's CA")

	suspicious := config(t, ca)
	suspicious.Peers = stranger.Pool()
	alice := open(t, Dial, listener.Addr().String(), suspicious)
	alice.log.await(t, "the peer's certificate (CN=replica,O=tandem) is refused", "not issued by this VM's CA")

	naked, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}})
	if err == nil {
		_, err = naked.Read(make([]byte, 1))
		naked.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without a certificate: %v", err)
	}
	dialer.say("still here")
	listener.hear("still here")
}

// A second replica is told that there is one already, and gets its place when the
// first is gone.
func TestBusy(t *testing.T) {
	ca := newCA(t)
	listener := open(t, Listen, "127.0.0.1:0", config(t, ca))
	first := open(t, Dial, listener.Addr().String(), config(t, ca))
	listener.want(world.Connected)
	first.want(world.Connected)
	second := open(t, Dial, listener.Addr().String(), config(t, ca))
	second.log.await(t, "has a live connection to another one")
	first.say("hello")
	listener.hear("hello")
	listener.Hangup()
	first.want(world.Disconnected)
	second.want(world.Connected)
	listener.want(world.Connected)
	second.say("mine")
	listener.hear("mine")
}

// A dialer with an address of its own sends heartbeats from its port, and tells who
// dials there to come again. After Welcome it lets them in, and dials no more.
func TestWelcome(t *testing.T) {
	ca := newCA(t)
	listener := open(t, Listen, "127.0.0.1:0", config(t, ca))
	cfg := config(t, ca)
	cfg.Address = "127.0.0.1:0"
	backup := open(t, Dial, listener.Addr().String(), cfg)
	listener.want(world.Connected)
	backup.want(world.Connected)
	if from := listener.beat.conn.RemoteAddr().String(); from != backup.Addr().String() {
		t.Errorf("heartbeats come from %s, the address is %s", from, backup.Addr())
	}
	next := open(t, Dial, backup.Addr().String(), config(t, ca))
	next.log.await(t, "is no primary")
	backup.say("hello")
	listener.hear("hello")
	listener.Close()
	backup.want(world.Disconnected)
	backup.Redial() // it would find nobody
	if !backup.Welcome() || !listener.Welcome() {
		t.Error("they have an address, but nobody is let in")
	}
	backup.want(world.Connected)
	next.want(world.Connected)
	next.say("mine")
	backup.hear("mine")
	backup.Redial() // the listener's side now
	if next.Welcome() {
		t.Error("somebody could be let in without an address")
	}
	taken := config(t, ca)
	taken.Address = backup.Addr().String()
	if l, err := Dial("127.0.0.1:1", taken, func() {}); err == nil || !strings.Contains(err.Error(), "own address") {
		t.Error("an address that is taken:", l, err)
	}
}

// A process that dials again while its old connection looks alive takes its place:
// what came through the old one is delivered first.
func TestSupersede(t *testing.T) {
	listener, dialer := pair(t, "127.0.0.1:0")
	dialer.say("old")
	listener.inbox.await(t, 1)
	// The dialer forgets its connection without a word to the listener, as if a
	// firewall between them had reset its side.
	lost := dialer.current
	dialer.current = nil
	dialer.leave(lost)
	dialer.Redial()
	dialer.want(world.Connected)
	listener.hear("old")
	listener.want(world.Disconnected)
	listener.want(world.Connected)
	dialer.say("new")
	listener.hear("new")
	listener.say("welcome")
	dialer.hear("welcome")
}

// Strangers that connect and say nothing, or nonsense, neither disturb the running
// connection nor keep the peer from making a new one.
func TestStrangers(t *testing.T) {
	listener, dialer := pair(t, "127.0.0.1:0")
	for i := range 3 * maxHandshakes {
		c, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i%2 == 0 {
			c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
		}
	}
	listener.log.await(t, "a connection to the channel was refused")
	dialer.say("a")
	listener.hear("a")
	dialer.Hangup()
	listener.want(world.Disconnected)
	dialer.Redial()
	dialer.want(world.Connected)
	listener.want(world.Connected)
}

// A peer with a good certificate that breaks the rules of the greeting or of
// packets loses its connection, with the reason.
func TestHostilePeer(t *testing.T) {
	ca := newCA(t)
	listener := open(t, Listen, "127.0.0.1:0", config(t, ca))
	dial := func() *tls.Conn {
		l := &Link{cfg: config(t, ca)}
		c, err := tls.Dial("tcp", listener.Addr().String(), l.tlsConfig())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	hello := func(b []byte) string {
		c := dial()
		c.Write(b)
		answer := make([]byte, answerSize)
		c.SetReadDeadline(time.Now().Add(patience))
		n, _ := c.Read(answer)
		return string(answer[:n])
	}
	var good bytes.Buffer
	greeting{port: 9}.send(&good)
	for name, b := range map[string][]byte{
		"magic":   append([]byte("nope"), good.Bytes()[4:]...),
		"version": append([]byte("tndm\xff"), good.Bytes()[5:]...),
		"port":    append(good.Bytes()[:21:21], 0, 0),
	} {
		if a := hello(b); a != "" {
			t.Errorf("%s: answered %q", name, a)
		}
	}
	c := dial()
	c.Write(good.Bytes())
	var v verdict
	if err := v.receive(c); err != nil || v != comeIn {
		t.Fatal(v, err)
	}
	listener.want(world.Connected)
	c.Write(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 1, 'x'}, world.MaxPacket+1))
	listener.hear("x")
	if ev := listener.want(world.Disconnected); !strings.Contains(ev.Err.Error(), "at most") {
		t.Error(ev.Err)
	}
}

// Heartbeats pass in both directions; once the peer is closed they come back as
// Unreachable, whichever side was closed, and with a wildcard address too.
func TestUnreachable(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", ":0", "[::1]:0"} {
		for _, closed := range []string{"dialer", "listener"} {
			t.Run(addr+" "+closed, func(t *testing.T) {
				if c, err := net.ListenPacket("udp", addr); err != nil {
					t.Skip(err)
				} else {
					c.Close()
				}
				gone, stays := pair(t, addr)
				if closed == "dialer" {
					gone, stays = stays, gone
				}
				exchange(gone, stays)
				gone.Close()
				stays.want(world.Disconnected)
				stays.until(world.Unreachable)
			})
		}
	}
}

// exchange lets both ends hear a heartbeat of the other. Datagrams may be lost.
func exchange(a, b *end) {
	a.t.Helper()
	for _, e := range [][2]*end{{a, b}, {b, a}} {
		from, to := e[0], e[1]
		late := time.Now().Add(patience)
		for {
			from.Beat([]byte("beat"))
			if ev, ok := to.poll(20 * time.Millisecond); ok {
				if ev.Kind != world.Datagram || string(ev.Data) != "beat" {
					a.t.Fatalf("event %d, %q", ev.Kind, ev.Data)
				}
				break
			}
			if time.Now().After(late) {
				a.t.Fatal("no heartbeat arrives")
			}
		}
	}
}

// until sends heartbeats until an event of a kind comes of it.
func (e *end) until(kind world.ChannelKind) {
	e.t.Helper()
	for late := time.Now().Add(patience); time.Now().Before(late); {
		e.Beat([]byte("probe"))
		if ev, ok := e.poll(20 * time.Millisecond); ok && ev.Kind == kind {
			return
		} else if ok && ev.Kind != world.Datagram {
			e.t.Fatalf("event %d, %v; want %d", ev.Kind, ev.Err, kind)
		}
	}
	e.t.Fatal("it doesn't come")
}

func (e *end) poll(d time.Duration) (world.ChannelEvent, bool) {
	for late := time.After(d); ; {
		if ev, ok := e.Recv(); ok {
			return ev, true
		}
		select {
		case <-e.wake:
		case <-late:
			return world.ChannelEvent{}, false
		}
	}
}

// Between two connections, and over many, nobody looks dead, and heartbeats pass
// before and after.
func TestNeverUnreachable(t *testing.T) {
	listener, dialer := pair(t, "127.0.0.1:0")
	check := func(e *end, kind world.ChannelKind) {
		for {
			ev := e.next()
			if ev.Kind == world.Unreachable {
				t.Fatal("unreachable")
			}
			if ev.Kind == kind {
				return
			}
		}
	}
	for range 30 {
		listener.Hangup()
		listener.Beat(nil)
		dialer.Beat([]byte("1"))
		check(dialer, world.Disconnected)
		listener.Beat(nil)
		dialer.Beat([]byte("2"))
		dialer.Redial()
		check(listener, world.Connected)
		listener.Beat(nil)
		check(dialer, world.Connected)
		dialer.Beat([]byte("3"))
		check(listener, world.Datagram)
	}
	if n := len(listener.beats); n != 1 {
		t.Errorf("the listener has %d sockets for heartbeats", n)
	}
}

// A receiver that doesn't fetch makes the sender wait: little is taken in beyond
// the limit. It loses nothing of it, and a Hangup gets it out of there.
func TestBackpressure(t *testing.T) {
	ca := newCA(t)
	slow := config(t, ca)
	slow.ReceiveLimit = 1 << 20
	listener := open(t, Listen, "127.0.0.1:0", slow)
	dialer := open(t, Dial, listener.Addr().String(), config(t, ca))
	listener.want(world.Connected)
	dialer.want(world.Connected)
	const count, size = 64, 1 << 20 // far more than the kernel's buffers
	for i := range count {
		dialer.Send(bytes.Repeat([]byte{byte(i)}, size))
	}
	dialer.Flush()
	listener.inbox.await(t, 1)
	steady := func() {
		t.Helper()
		for last, late := -1, time.Now().Add(patience); dialer.Backlog() != last; time.Sleep(100 * time.Millisecond) {
			last = dialer.Backlog()
			if time.Now().After(late) {
				t.Fatal("the backlog never stands still")
			}
		}
		if dialer.Backlog() == 0 {
			t.Fatal("all was taken")
		}
		listener.inbox.mu.Lock()
		defer listener.inbox.mu.Unlock()
		if n := listener.inbox.bytes; n > slow.ReceiveLimit+size {
			t.Errorf("%d bytes wait in the inbox", n)
		}
	}
	steady()
	for i := range count / 2 {
		if b := listener.want(world.Packet).Data; len(b) != size || b[0] != byte(i) || b[size-1] != byte(i) {
			t.Fatalf("packet %d is wrong", i)
		}
	}
	listener.Hangup()
	dialer.want(world.Disconnected)
	if dialer.Backlog() != 0 {
		t.Error("a backlog without a connection")
	}
}

// Datagrams don't pile up.
func TestDatagramFlood(t *testing.T) {
	listener, dialer := pair(t, "127.0.0.1:0")
	for i := 0; int(listener.inbox.count.Load()) < maxDatagrams && i < 1_000_000; i++ {
		dialer.Beat([]byte("beat"))
	}
	for range 1000 {
		dialer.Beat([]byte("beat"))
	}
	dialer.say("after")
	n := 0
	for ev := listener.next(); ev.Kind != world.Packet; ev = listener.next() {
		n++
	}
	// What arrives while they are being fetched is as welcome.
	if n < maxDatagrams {
		t.Errorf("%d datagrams", n)
	}
	listener.inbox.mu.Lock()
	defer listener.inbox.mu.Unlock()
	if listener.inbox.datagrams > maxDatagrams {
		t.Errorf("%d wait", listener.inbox.datagrams)
	}
}

// A peer that is killed shows at once: all that it had sent arrives, then the end,
// and heartbeats find nobody.
func TestKill(t *testing.T) {
	if addr := os.Getenv("LINK_TEST_PEER"); addr != "" {
		victim(t, addr)
		return
	}
	dir := t.TempDir()
	ca := newCA(t)
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	if err := ca.SavePair(dir, "victim"); err != nil {
		t.Fatal(err)
	}
	listener := open(t, Listen, "127.0.0.1:0", config(t, ca))
	child := exec.Command(os.Args[0], "-test.run=^TestKill$")
	child.Env = append(os.Environ(), "LINK_TEST_PEER="+listener.Addr().String(), "LINK_TEST_CERTS="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 5) // "sent\n"
	if _, err := out.Read(line); err != nil || string(line) != "sent\n" {
		t.Errorf("the victim says %q, %v", line, err)
	}
	child.Process.Kill()
	child.Wait()
	listener.want(world.Connected)
	for i := range victimPackets {
		listener.hear(fmt.Sprint("packet ", i))
	}
	listener.want(world.Disconnected)
	listener.until(world.Unreachable)
}

const victimPackets = 5000

// victim sends and waits to be killed.
func victim(t *testing.T, addr string) {
	pair, pool, err := certs.Load(os.Getenv("LINK_TEST_CERTS"), "victim")
	if err != nil {
		t.Fatal(err)
	}
	dialer := open(t, Dial, addr, Config{Certificate: pair, Peers: pool})
	dialer.want(world.Connected)
	for i := range victimPackets {
		dialer.say(fmt.Sprint("packet ", i))
	}
	for dialer.Backlog() > 0 {
		time.Sleep(time.Millisecond)
	}
	os.Stdout.WriteString("sent\n")
	select {}
}

// A dialer that finds nobody, or what is no replica, says so once and goes on
// trying; Close ends it.
func TestDialerPersists(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ca := newCA(t)
	dialer := open(t, Dial, addr, config(t, ca))
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Write([]byte("220 mail.example.com ESMTP\r\n"))
	dialer.log.await(t, "doesn't speak TLS")
	c.Close()
	ln.Close()
	dialer.log.await(t, "connection refused")
	listener := open(t, Listen, addr, config(t, ca))
	dialer.want(world.Connected)
	listener.want(world.Connected)
}

// Close waits for everything in any state, and later calls do nothing.
func TestClose(t *testing.T) {
	ca := newCA(t)
	cfg := config(t, ca)
	for i := range 30 {
		listener := open(t, Listen, "127.0.0.1:0", cfg)
		dialer := open(t, Dial, listener.Addr().String(), cfg)
		if i%3 == 0 {
			dialer.want(world.Connected)
			dialer.Send(make([]byte, 8<<20))
			dialer.Flush()
		}
		time.Sleep(time.Duration(i) * 100 * time.Microsecond) // any moment of the handshake
		listener.Close()
		dialer.Close()
		dialer.say("to nobody")
		dialer.Beat(nil)
		dialer.Redial()
		dialer.Hangup()
		if _, ok := dialer.Recv(); ok {
			t.Error("an event of a closed link")
		}
	}
}

// Wrong configurations are refused with reasons.
func TestConfig(t *testing.T) {
	good := config(t, newCA(t))
	for _, c := range []struct {
		addr string
		cfg  Config
		want string
	}{
		{"127.0.0.1:0", Config{Peers: good.Peers}, "certificate with its key"},
		{"127.0.0.1:0", Config{Certificate: good.Certificate}, "the VM's CA"},
		{"127.0.0.1", good, "port"},
	} {
		for _, f := range []func(string, Config, func()) (*Link, error){Listen, Dial} {
			if l, err := f(c.addr, c.cfg, func() {}); err == nil {
				l.Close()
				t.Errorf("%q works", c.addr)
			} else if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %q", err, c.want)
			}
		}
	}
	listener := open(t, Listen, "127.0.0.1:0", good)
	if _, err := Listen(listener.Addr().String(), good, func() {}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
}

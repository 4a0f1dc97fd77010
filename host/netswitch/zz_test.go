package netswitch
import ("testing";"time";"runtime";"tandem/machine/event";"tandem/vswitch";"io";"os";"gvisor.dev/gvisor/pkg/tcpip/stack";"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
"gvisor.dev/gvisor/pkg/tcpip";"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet";"gvisor.dev/gvisor/pkg/tcpip/network/ipv4")
func TestZZ(t *testing.T){
 for _, silent := range []time.Duration{5*time.Millisecond,50*time.Millisecond,300*time.Millisecond,2*time.Second} {
  for range 3 {
  t.Run("", func(t *testing.T){
	s := unixSwitch(t, forwardConfig())
	g := newGuest(t, guestMAC, true)
	old := dialPort(t, s.addr, primary(1), g.wake)
	next := dialPort(t, s.addr, backup(1), g.wake)
	g.plug(old); g.lease(); g.echo(7)
	client := dialHost(t, s.Addrs()[0])
	for range 20 {exchange(t, client, []byte("before"))}
	g.plug(nil)
	client.Write([]byte("during"))
	time.Sleep(silent)
	t0:=time.Now()
	if err := next.Activate(2); err != nil { t.Fatal(err) }
	t1:=time.Since(t0)
	g.plug(next)
	g.send(event.Frame{Data: vswitch.Announce(guestMAC)})
	io.ReadFull(client, make([]byte,6))
	println(silent.String(), "activate", t1.String(), "after", time.Since(t0).String())
  })}
 }
 time.Sleep(100*time.Millisecond)
 b := make([]byte, 1<<20); n := runtime.Stack(b,true); println(runtime.NumGoroutine()); if runtime.NumGoroutine()>4 {println(string(b[:min(n,6000)]))}
}
func TestZThroughput(t *testing.T){
 for _, off := range []bool{true,false} { for _, down := range []bool{true,false} { func() {
	s := unixSwitch(t, forwardConfig())
	g := newGuest(t, guestMAC, off)
	h:=primary(1); h.Offloads=off
	g.plug(dialPort(t, s.addr, h, g.wake)); g.lease()
	l, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{NIC: nic, Port: 7}, ipv4.ProtocolNumber)
	if err != nil { t.Fatal(err) }
	n := 300<<20
	done := make(chan int,1)
	go func(){ c,_:=l.Accept(); if down { io.CopyN(io.Discard,c,int64(n)) } else { c.Write(make([]byte,n)) }; done<-1}()
	c := dialHost(t, s.Addrs()[0])
	t0:=time.Now()
	if down { c.Write(make([]byte,n)) } else { io.CopyN(io.Discard,c,int64(n)) }
	<-done
	st:=s.gateway.stack.Stats().TCP; sg:=g.stack.Stats().TCP
	println("offload", off, "down", down, "MB/s", int(float64(n)/time.Since(t0).Seconds()/1e6), "gw rexmt", st.Retransmits.Value(), st.Timeouts.Value(), "guest", sg.Retransmits.Value(), sg.Timeouts.Value(), "drops", st.SegmentsSent.Value())
	l.Close()
 }()}}
}
func TestYBoth(t *testing.T){
	off := os.Getenv("PLAIN")==""
	s := unixSwitch(t, forwardConfig())
	g := newGuest(t, guestMAC, off)
	h:=primary(1); h.Offloads=off
	g.plug(dialPort(t, s.addr, h, g.wake)); g.lease(); g.echo(7)
	n := 200<<20
	c := dialHost(t, s.Addrs()[0])
	done := make(chan int,1)
	t0:=time.Now()
	go c.Write(make([]byte,n))
	go func(){ io.CopyN(io.Discard,c,int64(n)); done<-1}()
	select { case <-done: println("ok", int(float64(n)/time.Since(t0).Seconds()/1e6)); return; case <-time.After(12*time.Second): }
	for name, st := range map[string]*stack.Stack{"gw":s.gateway.stack,"guest":g.stack} { for _, e := range st.RegisteredEndpoints() { if ep, ok := e.(*tcp.Endpoint); ok && ep.EndpointState()==tcp.StateEstablished {
		x := ep.Stats().(*tcp.Stats)
		println(name, "qdrop", x.ReceiveErrors.SegmentQueueDropped.Value(), "ooo", x.SegmentsReceived.Value(), "wantzero", x.ReceiveErrors.WantZeroRcvWindow.Value(), "zerostate", x.ReceiveErrors.ZeroRcvWindowState.Value(), "outofwnd?", x.ReceiveErrors.ClosedReceiver.Value(), "sendto0", x.SendErrors.SegmentSendToNetworkFailed.Value())
		probe := ""; _ = probe
	}}}
	println("STALL"); os.Exit(1)
}

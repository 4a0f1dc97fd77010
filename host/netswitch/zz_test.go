package netswitch
import ("testing";"time";"runtime";"tandem/machine/event";"tandem/vswitch";"net";"io")
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
 for _, off := range []bool{true,false} {
	s := unixSwitch(t, forwardConfig())
	g := newGuest(t, guestMAC, off)
	h:=primary(1); h.Offloads=off; h.VM=map[bool]string{true:"a",false:"b"}[off]
	g.plug(dialPort(t, s.addr, h, g.wake)); g.lease()
	l, _ := net.Listen("tcp","127.0.0.1:0")
	go func(){ for { c,err:=l.Accept(); if err!=nil{return}; go io.Copy(io.Discard,c)}}()
	g.echo(7)
	c := dialHost(t, s.Addrs()[0])
	n := 200<<20
	go func(){ for range 4 { time.Sleep(4*time.Second); st:=s.gateway.stack.Stats().TCP; sg:=g.stack.Stats().TCP
	println("gw: sent",st.SegmentsSent.Value(),"rexmt", st.Retransmits.Value(),"to", st.Timeouts.Value(),"fast", st.FastRetransmit.Value(),"rcvd",st.ValidSegmentsReceived.Value(),"inv",st.InvalidSegmentsReceived.Value(), "csum",st.ChecksumErrors.Value())
	println("guest: sent",sg.SegmentsSent.Value(),"rexmt", sg.Retransmits.Value(),"to", sg.Timeouts.Value(),"fast", sg.FastRetransmit.Value(),"rcvd",sg.ValidSegmentsReceived.Value(),"inv",sg.InvalidSegmentsReceived.Value(), "csum",sg.ChecksumErrors.Value())
	p:=g.net.(*Port); println("port dropped", p.Dropped(), p.in.dropped.Load()); for _, i := range s.Ports() { println(i.ID, i.Forwarded, i.Dropped) }
	for _, q := range s.ports { println("server drop", q.out.dropped.Load())}
	}}()
	t0:=time.Now()
	go c.Write(make([]byte,n))
	io.CopyN(io.Discard,c,int64(n))
	st:=s.gateway.stack.Stats().TCP; sg:=g.stack.Stats().TCP; println(off, "echo MB/s", int(float64(n)/time.Since(t0).Seconds()/1e6), "rexmt", st.Retransmits.Value(), st.Timeouts.Value(), st.SlowStartRetransmits.Value(), st.FastRetransmit.Value(), "guest", sg.Retransmits.Value(), sg.Timeouts.Value(),sg.FastRetransmit.Value())
	t0=time.Now()
	for range 2000 { c.Write([]byte{1}); io.ReadFull(c, make([]byte,1)) }
	println("rtt", (time.Since(t0)/2000).String())
	l.Close()
 }
}

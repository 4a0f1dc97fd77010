// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"tandem/host/control"
	"tandem/host/etcd"
)

// The stream tells what changed, so that nobody need ask again and again: info, node, vm
// and gone carry how things are now, event what happened to a VM, and tick the newest
// samples. Samples are taken on the host of a VM's primary; the daemon whose stream is
// read fetches them from there.

const (
	keptMessages = 2000
	sampleEvery  = time.Second
	keptSamples  = 300
	gatherTime   = 2 * time.Second // for another host's samples
)

// VMEvent is what happened to a VM, on the stream.
type VMEvent struct {
	VM string `json:"vm"`
	etcd.Event
}

// Gone names what is no more, on the stream: a VM or a node.
type Gone struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// Sample is how a VM's primary did for about a second.
type Sample struct {
	Time    time.Time `json:"time"`
	VM      string    `json:"vm"`
	Node    string    `json:"node"`
	Epoch   uint64    `json:"epoch"`
	State   string    `json:"state"`
	Lag     float64   `json:"execution_lag_seconds"`
	LogRate float64   `json:"log_bytes_per_second"`
	Delay   float64   `json:"output_delay_seconds"` // mean, of outputs released meanwhile
	Outputs float64   `json:"outputs_per_second"`
	Share   float64   `json:"cpu_share"`
}

// Tick is what the stream says about every second.
type Tick struct {
	Samples []Sample `json:"samples"`
}

// series are the newest samples of a copy here.
type series struct {
	list []Sample
	last control.Status
	at   time.Time
}

// add takes a sample, from the second status on.
func (s *series) add(node, vm string, st control.Status, now time.Time) {
	d := now.Sub(s.at).Seconds()
	if !s.at.IsZero() && d > 0 && d < 10 && st.Outputs >= s.last.Outputs && st.LogSentBytes >= s.last.LogSentBytes {
		x := Sample{Time: now.UTC(), VM: vm, Node: node, Epoch: st.Epoch, State: st.State, Lag: st.LagSeconds, Share: st.CPUShare,
			LogRate: float64(st.LogSentBytes-s.last.LogSentBytes) / d}
		if outputs := float64(st.Outputs - s.last.Outputs); outputs > 0 {
			x.Outputs, x.Delay = outputs/d, max(0, st.OutputDelay-s.last.OutputDelay)/outputs
		}
		s.list = append(s.list, x)
		s.list = s.list[max(0, len(s.list)-keptSamples):]
	}
	s.last, s.at = st, now
}

// sample notes how the primaries here do.
func (n *Node) sample(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for vm, p := range n.procs {
		if !p.alive || p.status.Role != rolePrimary {
			continue
		}
		s := n.series[vm]
		if s == nil {
			s = &series{}
			n.series[vm] = s
		}
		if now.Sub(s.at) >= sampleEvery {
			s.add(n.set.Name, vm, p.status, now)
		}
	}
	for vm, s := range n.series { // of a copy that has ended, too, until they are old
		if now.Sub(s.at) > keptSamples*sampleEvery {
			delete(n.series, vm)
		}
	}
}

// samplesHere are those of a VM, or of all, that are newer than a time.
func (n *Node) samplesHere(vm string, since time.Time) (list []Sample) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, s := range n.series {
		if vm != "" && vm != name {
			continue
		}
		for _, x := range s.list {
			if x.Time.After(since) {
				list = append(list, x)
			}
		}
	}
	return list
}

func (n *Node) getSamplesHere(r *http.Request) (any, error) {
	since, err := parseSince(r)
	return n.samplesHere(r.URL.Query().Get("vm"), since), err
}

func parseSince(r *http.Request) (t time.Time, err error) {
	if text := r.URL.Query().Get("since"); text != "" {
		if t, err = time.Parse(time.RFC3339Nano, text); err != nil {
			return t, refuse("since=%s: give a time like 2006-01-02T15:04:05Z", text)
		}
	}
	return t, nil
}

// getSamples answers with what all hosts know of a VM, the oldest first.
func (n *Node) getSamples(r *http.Request) (any, error) {
	since, err := parseSince(r)
	if err != nil {
		return nil, err
	}
	_, s, err := n.look(r.Context())
	if err != nil {
		return nil, err
	}
	vm := r.PathValue("name")
	if _, ok := s.VM(vm); !ok {
		return nil, missing("VM", vm)
	}
	clients := map[string]*http.Client{}
	defer closeAll(clients)
	return n.gather(r.Context(), s, clients, vm, since), nil
}

func closeAll(clients map[string]*http.Client) {
	for _, c := range clients {
		c.CloseIdleConnections()
	}
	clear(clients)
}

// gather asks all hosts that are heard. One that does not answer is left out.
func (n *Node) gather(ctx context.Context, s *etcd.Snapshot, clients map[string]*http.Client, vm string, since time.Time) []Sample {
	list := n.samplesHere(vm, since)
	query := url.Values{"vm": {vm}, "since": {since.UTC().Format(time.RFC3339Nano)}}.Encode()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, peer := range s.Nodes {
		if _, up := s.Alive[peer.Name]; !up || peer.Join == "" || peer.Name == n.set.Name {
			continue
		}
		by := clients[peer.Join]
		if by == nil {
			by = n.peerClient(peer, gatherTime)
			clients[peer.Join] = by
		}
		wg.Go(func() {
			var theirs []Sample
			if n.askPeer(ctx, by, peer, "GET", "samples?"+query, &theirs) != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			list = append(list, theirs...)
		})
	}
	wg.Wait()
	slices.SortFunc(list, func(a, b Sample) int { return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.VM, b.VM)) })
	return append([]Sample{}, list...)
}

// feed tells the stream's readers the newest samples, while there are any.
func (n *Node) feed(ctx context.Context) {
	clients := map[string]*http.Client{}
	defer closeAll(clients)
	t := time.NewTicker(sampleEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		n.mu.Lock()
		s := n.snap
		n.mu.Unlock()
		if s == nil || n.hub.Readers() == 0 {
			closeAll(clients)
			continue
		}
		newest := map[string]Sample{}
		for _, x := range n.gather(ctx, s, clients, "", time.Now().Add(-3*sampleEvery)) {
			if x.Epoch >= newest[x.VM].Epoch {
				newest[x.VM] = x
			}
		}
		tick := Tick{Samples: []Sample{}}
		for _, x := range newest {
			tick.Samples = append(tick.Samples, x)
		}
		slices.SortFunc(tick.Samples, func(a, b Sample) int { return strings.Compare(a.VM, b.VM) })
		n.hub.Tick(tick)
	}
}

// publish tells what has changed since the look before.
func (n *Node) publish(s *etcd.Snapshot, now time.Time) {
	n.publishInfo()
	d, o, err := n.plan(s, now, nil)
	if err != nil {
		return
	}
	there := map[string]bool{"info/": true}
	tell := func(kind, name string, v any) {
		there[kind+"/"+name] = true
		n.publishChange(kind, name, v)
	}
	for _, i := range n.nodeInfos(s, d) {
		tell("node", i.Name, i)
	}
	for _, i := range n.vmInfos(s, d, o) {
		tell("vm", i.Name, i)
	}
	for key := range n.told {
		if !there[key] {
			delete(n.told, key)
			kind, name, _ := strings.Cut(key, "/")
			n.hub.Publish("gone", Gone{kind, name})
		}
	}
}

// publishChange tells how something is, if that is new.
func (n *Node) publishChange(kind, name string, v any) {
	b, err := json.Marshal(v)
	if key := kind + "/" + name; err == nil && n.told[key] != string(b) {
		n.told[key] = string(b)
		n.hub.Publish(kind, json.RawMessage(b))
	}
}

func (n *Node) publishInfo() { n.publishChange("info", "", n.daemonInfo()) }

func (n *Node) publishEvent(vm string, e etcd.Event) { n.hub.Publish("event", VMEvent{vm, e}) }

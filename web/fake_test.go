// SPDX-License-Identifier: Apache-2.0

package web

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"tandem/api"
)

// fake is a cluster of three hosts that is told as a node would tell it, and that notes
// what it is asked to do.
type fake struct {
	srv    *httptest.Server
	hub    *api.Hub
	tokens map[api.Role]string
	began  time.Time

	mu     sync.Mutex
	known  map[string]api.Token
	asked  []string
	typed  string
	nodes  []map[string]any
	vms    []map[string]any
	events map[string][]map[string]any
}

type object = map[string]any

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{hub: api.NewHub(100), tokens: map[api.Role]string{}, known: map[string]api.Token{}, began: time.Now()}
	for r := api.View; r <= api.Admin; r++ {
		text, k := api.NewToken("alice-"+r.String(), r, time.Now(), time.Hour)
		f.tokens[r], f.known[k.ID] = text, k
	}
	f.state()
	s := api.New(f.routes(), Handler(), func(id string) (api.Token, bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		k, ok := f.known[id]
		return k, ok
	}, nil)
	f.srv = httptest.NewUnstartedServer(s.Remote())
	f.srv.EnableHTTP2 = true
	f.srv.StartTLS()
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
				f.hub.Tick(object{"samples": []object{f.sample(time.Now(), 3)}})
			}
		}
	})
	t.Cleanup(func() { close(stop); done.Wait(); f.srv.CloseClientConnections(); f.srv.Close() })
	return f
}

func (f *fake) state() {
	spec := object{"cpus": 2, "memory": 1 << 30, "image": "/srv/images/web", "disks": []string{"nbd://10.0.0.9:10809/web"}, "disk_sizes": []int64{4 << 30}, "network": "switch:10.0.0.9:7077"}
	vm := func(name string, power, ft, protected bool, status, detail string, epoch int, primary, backup any) object {
		return object{"name": name, "revision": 3, "power": power, "asked": 1, "ft": ft, "made": "2026-03-01T10:00:00Z", "spec": spec,
			"protected": protected, "status": status, "detail": detail, "epoch": epoch, "primary": primary, "backup": backup}
	}
	copyOf := func(node, state string) object { return object{"node": node, "state": state} }
	f.vms = []object{
		vm("web", true, true, true, "protected", "", 3, copyOf("host2", "running"), copyOf("host3", "protected")),
		vm("db", true, true, false, "not protected: starting", "", 1, copyOf("host1", "running"), copyOf("host2", "cloning")),
		vm("mail", true, true, false, "not protected: needs backup", "no host fits: 2 with too little memory, 1 being evacuated", 5, copyOf("host3", "running"), nil),
		vm("batch", true, false, false, "not protected: disabled", "", 1, copyOf("host1", "running"), nil),
		vm("<b>old</b>", false, true, false, "not protected: not running", "", 2, nil, nil),
	}
	node := func(name, address, state, etcd string, left int64, primaries, backups int) object {
		return object{"name": name, "address": address, "joined": "2026-01-01T00:00:00Z", "state": state, "cpus": 16, "memory": int64(64 << 30), "memory_left": left,
			"primaries": primaries, "backups": backups, "etcd": etcd, "domain": "rack-" + name[len(name)-1:]}
	}
	f.nodes = []object{node("host1", "10.0.0.1", "up", "voter", 20<<30, 2, 0), node("host2", "10.0.0.2", "up", "voter", 41<<30, 1, 1), node("host3", "10.0.0.3", "up", "voter", 55<<30, 1, 1),
		{"name": "w1", "address": "10.0.0.4", "witness": true, "joined": "2026-01-01T00:00:00Z", "state": "witness", "cpus": 0, "memory": 0, "memory_left": 0, "primaries": 0, "backups": 0, "etcd": "spare"}}
	f.nodes[0]["self"] = true
	at := func(before time.Duration) string { return f.began.Add(-before).UTC().Format(time.RFC3339Nano) }
	event := func(before time.Duration, node, kind string, epoch int, text string) object {
		return object{"time": at(before), "node": node, "kind": kind, "epoch": epoch, "text": text}
	}
	const min, ms = time.Minute, time.Millisecond
	f.events = map[string][]object{"web": {
		event(50*min, "host1", "asked", 0, "created; FT true, started true"),
		event(49*min, "host1", "state", 1, "Solo → Syncing: a backup is there"),
		event(48*min, "host1", "state", 1, "Syncing → Protected: the backup follows"),
		event(30*min, "host2", "state", 1, "Replaying → Draining: primary lost: its process is gone"),
		event(30*min-2*ms, "host2", "state", 1, "Draining → Claiming: the log is executed"),
		event(30*min-6*ms, "host2", "state", 2, "Claiming → Fencing: the claim is won"),
		event(30*min-18*ms, "host2", "live", 2, "the copy on host2 is the VM now, from step 1973984697"),
		event(29*min, "host2", "state", 2, "Syncing → Protected: the backup follows"),
		event(14*min, "host2", "state", 2, "Protected → Claiming: backup lost: silent for 300ms"),
		event(14*min-20*ms, "host2", "state", 3, "Claiming → Solo: the claim is won"),
		event(13*min, "host2", "state", 3, "Syncing → Protected: the backup follows"),
	}}
}

// sample draws numbers like those of a database under load.
func (f *fake) sample(at time.Time, epoch int) object {
	x := at.Sub(f.began).Seconds()
	wave := math.Sin(x/9) + 0.4*math.Sin(x/2.3)
	return object{"time": at.UTC().Format(time.RFC3339Nano), "vm": "web", "node": "host2", "epoch": epoch, "state": "Protected",
		"execution_lag_seconds": 0.004 + 0.002*math.Abs(wave), "log_bytes_per_second": 140e3 + 60e3*wave, "output_delay_seconds": 0.0009 + 0.0002*wave,
		"outputs_per_second": 300, "cpu_share": math.Min(1, 0.97+0.05*wave)}
}

func (f *fake) note(r *http.Request) (any, error) {
	b, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, fmt.Sprintf("%s %s %s", r.Method, r.URL.Path, b))
	var q struct{ Power, FT *bool }
	if json.Unmarshal(b, &q); r.PathValue("name") == "web" && q.FT != nil {
		f.vms[0]["ft"], f.vms[0]["protected"], f.vms[0]["backup"], f.vms[0]["status"] = false, false, nil, "not protected: disabled"
		f.hub.Publish("vm", f.vms[0])
	}
	return struct{}{}, nil
}

func (f *fake) routes() []api.Route {
	list := func(v func() any) func(*http.Request) (any, error) {
		return func(*http.Request) (any, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			b, err := json.Marshal(v())
			return json.RawMessage(b), err
		}
	}
	return []api.Route{
		{Pattern: "GET /v1/info", Role: api.View, Do: list(func() any {
			return object{"name": "host1", "cluster": "c", "etcd_voters": 3, "etcd_voters_heard": 3}
		})},
		{Pattern: "GET /v1/nodes", Role: api.View, Do: list(func() any { return f.nodes })},
		{Pattern: "GET /v1/vms", Role: api.View, Do: list(func() any { return f.vms })},
		{Pattern: "GET /v1/stream", Role: api.View, Serve: f.hub.Serve},
		{Pattern: "GET /v1/vms/{name}/events", Role: api.View, Do: func(r *http.Request) (any, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if l := f.events[r.PathValue("name")]; l != nil {
				return l, nil
			}
			return []object{}, nil
		}},
		{Pattern: "GET /v1/vms/{name}/samples", Role: api.View, Do: func(r *http.Request) (any, error) {
			samples := []object{}
			for i := 299; i >= 0 && r.PathValue("name") == "web"; i-- {
				switch epoch := 3; {
				case i > 150 && i < 154: // nobody runs
				case i >= 154:
					epoch = 2
					fallthrough
				default:
					samples = append(samples, f.sample(f.began.Add(-time.Duration(i)*time.Second), epoch))
				}
			}
			return samples, nil
		}},
		{Pattern: "GET /v1/vms/{name}/console", Role: api.Operate, Serve: f.console},
		{Pattern: "PATCH /v1/vms/{name}", Role: api.Operate, Do: f.note},
		{Pattern: "PATCH /v1/nodes/{name}", Role: api.Operate, Do: f.note},
		{Pattern: "POST /v1/vms/{name}/{command}", Role: api.Operate, Do: f.note},
	}
}

// console greets, and is typed at.
func (f *fake) console(w http.ResponseWriter, r *http.Request) {
	s, err := api.Socket(w, r)
	if err != nil {
		return
	}
	defer s.Close()
	fmt.Fprint(s, "Debian GNU/Linux 13 web ttyS0\r\n\r\nweb login: root\r\n\x1b[1;32mroot@web\x1b[0m:\x1b[1;34m~\x1b[0m# uname -srm\r\nLinux 6.12.107+deb13-riscv64 riscv64\r\n"+
		"\x1b[1;32mroot@web\x1b[0m:\x1b[1;34m~\x1b[0m# ")
	b := make([]byte, 256)
	for {
		n, err := s.Read(b)
		if err != nil {
			return
		}
		s.Write(b[:n])
		f.mu.Lock()
		f.typed += string(b[:n])
		f.mu.Unlock()
	}
}

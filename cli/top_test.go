// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"testing"
	"time"

	"tandem/host/etcd"
	"tandem/node"
)

// What the stream says is on the screen: those VMs first that need somebody, numbers
// while they are fresh, and nothing that steers the terminal, or is wider than it.
func TestTop(t *testing.T) {
	v := &view{samples: map[string][]node.Sample{}}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, m := range [][2]string{
		{"info", `{"name": "host1", "etcd_voters": 3, "etcd_voters_heard": 2}`},
		{"node", `{"name": "host2", "state": "down"}`},
		{"node", `{"name": "host1", "state": "up", "memory_left": 20971520000, "primaries": 1}`},
		{"vm", `{"name": "aged", "power": false, "ft": true, "status": "not protected: not running"}`},
		{"vm", `{"name": "web", "power": true, "ft": true, "protected": true, "status": "protected", "epoch": 2, "primary": {"node": "host1", "state": "running"}}`},
		{"vm", `{"name": "mail", "power": true, "ft": true, "status": "not protected: starting"}`},
		{"vm", `{"name": "mail", "power": true, "ft": true, "status": "not protected: needs backup"}`},
		{"vm", `{"name": "old", "status": "not protected: not running"}`},
		{"gone", `{"kind": "vm", "name": "old"}`},
		{"event", `{"vm": "web", "time": "2026-01-02T03:04:00Z", "node": "host1", "kind": "live", "text": "evil\u001b[2J\u009bx and long"}`},
		{"tick", `{"samples": [{"vm": "web", "time": "2026-01-02T03:04:03Z", "execution_lag_seconds": 0.1, "cpu_share": 0.5}]}`},
		{"tick", `{"samples": [{"vm": "web", "time": "2026-01-02T03:04:04Z", "execution_lag_seconds": 0.0123, "log_bytes_per_second": 140000, "output_delay_seconds": 0.00089, "cpu_share": 0.5}]}`},
	} {
		if err := v.take(m[0], []byte(m[1])); err != nil {
			t.Fatal(err)
		}
	}
	lines := func(width, height int, at time.Time) string {
		var b strings.Builder
		for _, r := range v.screen(at, width, height) {
			b.WriteString(r.text + "\n")
		}
		return b.String()
	}
	all := lines(200, 50, now)
	at := -1
	for _, want := range []string{"1 of 2 hosts up  1 of 2 VMs protected  etcd 2/3", "mail             not protected: needs backup", "web              protected",
		"12.3ms  1.12 Mbit/s", "890µs   50%  █▁", "aged", "host1            up", "host2            down", "evil"} {
		i := strings.Index(all, want)
		if i <= at {
			t.Errorf("%q is not in its place in\n%s", want, all)
		}
		at = i
	}
	if strings.ContainsAny(all, "\x1b\u009b") || strings.Contains(all, "old") {
		t.Errorf("%q", all)
	}
	if late := lines(200, 50, now.Add(time.Minute)); strings.Contains(late, "12.3ms") {
		t.Errorf("old numbers:\n%s", late)
	}
	for _, l := range strings.Split(lines(40, 6, now), "\n") {
		if n := len([]rune(l)); n > 40 {
			t.Errorf("%d columns: %q", n, l)
		}
	}
	if n := strings.Count(lines(40, 6, now), "\n"); n != 6 {
		t.Errorf("%d lines", n)
	}
	v.events = make([]node.VMEvent, 100)
	v.take("event", []byte(`{"vm": "web", "time": "2026-01-02T03:04:06Z"}`))
	if len(v.events) != topEvents || v.events[topEvents-1].Event != (etcd.Event{Time: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)}) {
		t.Errorf("%d events are kept", len(v.events))
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// The median is the middle one, or between the middle two, and leaves its
// argument as it was.
func TestMedian(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 4}, 4}, {[]float64{4, 1, 9, 2}, 3}} {
		first := c.v[0]
		if got := median(c.v); got != c.want || c.v[0] != first {
			t.Errorf("median of %v is %v, want %v", c.v, got, c.want)
		}
	}
}

// example is three rounds in which QEMU got through only one program.
func example() *report {
	r := &report{Rounds: 3, Host: host{"a CPU", 2}, Engines: []string{native, "tandem", "qemu"}, Versions: map[string]string{"qemu": "QEMU 7.2"}}
	for _, name := range []string{bootRow, "calls", "pipe"} {
		r.Rows = append(r.Rows, &row{Name: name, Times: map[string][]float64{}})
	}
	for round := range 3 {
		for engine, seconds := range map[string][]float64{native: {9, .5, .25}, "tandem": {2, 1, 4}, "qemu": {4, 8}} {
			got := newReading(nil)
			for i, s := range seconds {
				got.times[r.Rows[i].Name] = time.Duration((s + float64(round-1)/100) * float64(time.Second))
			}
			r.add(engine, got)
		}
	}
	return r
}

// The table has medians, ratios and their geometric means; what was not
// measured is a dash and counts in no mean.
func TestTable(t *testing.T) {
	var b bytes.Buffer
	if err := example().print(&b, "markdown"); err != nil {
		t.Fatal(err)
	}
	const want = `| seconds | native | tandem | qemu | qemu/tandem | tandem/native |
|---|---:|---:|---:|---:|---:|
| boot | - | 2.000 | 4.000 | 2.00 | - |
| calls | 0.500 | 1.000 | 8.000 | 8.00 | 2.00 |
| pipe | 0.250 | 4.000 | - | - | 16.00 |
| geometric mean |  |  |  | 4.00 | 5.66 |

medians of 3 rounds; a CPU, 2 CPUs; QEMU 7.2
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

// The JSON form has every single time and the means.
func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := example().print(&b, "json"); err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(b.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if times := r.Rows[1].Times["tandem"]; len(times) != 3 || times[0] != .99 || r.Rows[1].Ratio["qemu/tandem"] != 8 || r.Rounds != 3 {
		t.Errorf("%+v", *r.Rows[1])
	}
}

// Flags that make no sense are refused with what would.
func TestFlags(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--rounds 0", "at least 1"},
		{"--only calls,cals", "no such row"},
		{"--format xml", "markdown"},
		{"calls", "--only"},
		{"--engines bochs", "no such engine"},
		{"--engines tandem --tandem ./none", "make build"},
		{"--engines qemu --qemu ./none", "apt-get install qemu-system-misc"},
		{"--engines tandem-replay --tandem ./none", "engine tandem-record"}, // which a replay needs
	} {
		o, err := parse(strings.Fields(c.args))
		if err == nil {
			_, err = choose(&o)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.args, err, c.want)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package machine_test

import (
	"bufio"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"tandem/host/codemem"
	"tandem/machine"
	"tandem/machine/event"
	"tandem/machine/machinetest"
	"tandem/replay"
)

// Logs that were recorded on other hosts, and here, replay here with the same hash
// at every entry, on each engine. TANDEM_LOGS names the folder that hosts share;
// each adds its own logs to it.
func TestAcrossHosts(t *testing.T) {
	dir := os.Getenv("TANDEM_LOGS")
	if dir == "" {
		dir = t.TempDir()
	}
	cfg := machinetest.Config(t, 2, "-DROUNDS=12")
	engines := map[string]func(*machine.Machine){"interpreter": func(*machine.Machine) {}}
	if codemem.Supported() {
		atOnce(t)
		engines["jit"] = func(m *machine.Machine) { translated(t, m, largeCache) }
	}
	for name, engine := range engines {
		m := power(t, cfg)
		engine(m)
		o := newOutside(7)
		o.typing = []byte("abrcd")
		writeLog(t, filepath.Join(dir, runtime.GOARCH+"-"+name+".log"), func(sink func(event.Entry)) { o.record(t, m, 3_000_000, sink) })
		if code, ended := m.Exited(); !ended || code != 0 {
			t.Fatalf("exit code %d, %v after\n%s\n%s", code, ended, o.console, m.Describe())
		}
	}
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, path := range logs {
		log := readLog(t, path)
		for name, engine := range engines {
			m := power(t, cfg)
			engine(m)
			follow(t, m, log, rand.New(rand.NewPCG(1, 8)), 100_000, stay)
			if code, ended := m.Exited(); !ended || code != 0 || name == "jit" && m.Translated().Steps == 0 {
				t.Errorf("%s, %s: exit code %d, %v, %+v", path, name, code, ended, m.Translated())
			}
			t.Logf("%s, %s: %d entries, %d steps", filepath.Base(path), name, len(log), m.Step())
		}
	}
}

func writeLog(t *testing.T, path string, record func(sink func(event.Entry))) {
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := replay.NewWriter(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	record(func(e event.Entry) {
		if err := w.Append(e); err != nil {
			t.Fatal(err)
		}
	})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func readLog(t *testing.T, path string) (log []event.Entry) {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := replay.NewReader(bufio.NewReader(f))
	if err != nil {
		t.Fatal(err)
	}
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return log
		}
		if err != nil {
			t.Fatal(err)
		}
		log = append(log, e)
	}
}

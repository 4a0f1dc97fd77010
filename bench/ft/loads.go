// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tandem/bench/stage"
)

// load is work for a guest, and what the paper says of its like.
type load struct {
	name   string
	modes  []string
	warm   string // a script before it, so that its programs are in memory
	script string // says begin, and end with the pieces of work that were done; empty: nothing is
	ratio  string // FT / non-FT speed, the paper's
	log    string // Mbit/s, the paper's
}

// loads are the rows, but those of a database have one for each mode with a backup.
var loads = []load{
	{"idle", []string{readsLog}, "", "", "", "0.5–1.5"},
	{"compile", []string{alone, readsLog}, "gcc -O2 -c -o /var/tmp/out.o /root/src/text.c", compile, "0.95", "3.0"},
	{"pgbench", modes, bin + "/pgbench -n -T 5 -c 4 -d postgres", pgbench, "0.94–0.99", "12–18"},
}

// onBackup is what the paper says of a database whose backup reads the disk itself: 1 %
// and 4 % less speed than with the data in the log.
var onBackup = load{ratio: "0.93–0.95", log: "3–8"}

func names() (list []string) {
	for _, l := range loads {
		list = append(list, l.name)
	}
	return list
}

// A pass compiles the smaller ones of the benchmark programs, which takes some 20 s: only
// whole passes count. The guest's clock says when to begin no other.
const compile = `now() { cut -d. -f1 /proc/uptime; }
echo begin
n=0 end=$(($(now) + SECONDS_))
while [ $(now) -lt $end ]; do
	for f in kernel matmul memory nbody text; do gcc -O2 -c -o /var/tmp/out.o /root/src/$f.c || exit 1; done
	n=$((n + 1))
done
echo end $n`

// Clients are in the guest too: no network has a part in it.
const pgbench = `echo begin
` + bin + `/pgbench -n -T SECONDS_ -c 4 -d postgres >/run/pgbench.out 2>&1 || { cat /run/pgbench.out; exit 1; }
echo end $(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' /run/pgbench.out)`

const (
	bin           = "/usr/lib/postgresql/*/bin"
	untilPostgres = "until " + bin + "/pg_isready -q; do sleep 0.2; done"
	// scale makes a database of 300 MB.
	scale = 20
)

// run lets a guest do the work and returns how much it was and how long it took.
func (l *load) run(ctx context.Context, sh *stage.Shell, seconds int) (work float64, took time.Duration, err error) {
	if l.script == "" {
		start := time.Now()
		err := sleep(ctx, time.Duration(seconds)*time.Second)
		return 0, time.Since(start), err
	}
	var start time.Time
	err = sh.Lines(ctx, strings.ReplaceAll(l.script, "SECONDS_", fmt.Sprint(seconds)), func(line string) {
		switch n, ok := strings.CutPrefix(line, "end "); {
		case line == "begin":
			start = time.Now()
		case ok:
			took = time.Since(start)
			fmt.Sscan(n, &work)
		}
	})
	if err == nil && (work == 0 || start.IsZero()) {
		err = errors.New("no work was done: give it more --seconds")
	}
	return work, took, err
}

// guest has a compiler and something to compile, and PostgreSQL with pgbench's tables.
// autovacuum would come at some time or other in each run.
func guest(programs string) (r stage.Recipe, err error) {
	var prepare strings.Builder
	sources, _ := filepath.Glob(filepath.Join(programs, "*.[ch]"))
	if len(sources) == 0 {
		return r, fmt.Errorf("no C files in %s: run it in tandem's source, or name the folder with --programs", programs)
	}
	prepare.WriteString("set -e; mkdir -p /root/src\n")
	for _, path := range sources {
		b, err := os.ReadFile(path)
		if err != nil {
			return r, err
		}
		fmt.Fprintf(&prepare, "cat >/root/src/%s <<'END_OF_SOURCE'\n%s\nEND_OF_SOURCE\n", filepath.Base(path), b)
	}
	prepare.WriteString(untilPostgres + `
start-stop-daemon -S -c postgres -x /usr/bin/psql -- -v ON_ERROR_STOP=1 -c "CREATE ROLE root SUPERUSER LOGIN" -c "ALTER SYSTEM SET autovacuum = off"
` + bin + `/pgbench -i -I dtGvp -s ` + fmt.Sprint(scale) + ` -d postgres
` + bin + `/psql -d postgres -c CHECKPOINT
`)
	return stage.Recipe{Name: "bench-ft", Packages: []string{"postgresql", "gcc", "libc6-dev"}, Size: 4 << 30, Prepare: prepare.String()}, nil
}

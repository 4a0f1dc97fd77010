// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem/bench/stage"
)

// postgresGuest has a password, so that clients come in from outside, a role for root's
// shell, and the tables.
var postgresGuest = stage.Recipe{Name: "postgres", Packages: []string{"postgresql"}, Size: 2 << 30, Prepare: untilPostgres + `
start-stop-daemon -S -c postgres -x /usr/bin/psql -- -v ON_ERROR_STOP=1 -c "
	ALTER ROLE postgres PASSWORD 'tandem';
	CREATE ROLE root SUPERUSER LOGIN;
	CREATE TABLE ledger (teller int, n bigint, pad text);
	CREATE INDEX ON ledger (teller, n);
	CREATE INDEX ON ledger (pad);
	CREATE TABLE total (teller int PRIMARY KEY, rows bigint, sum bigint)"`}

const (
	postgresPort  = 5432
	untilPostgres = "until pg_isready -q; do sleep 0.2; done"
)

// bank is a load of PostgreSQL: clients that commit rows with growing numbers, each on
// one connection, and know which of them were acknowledged.
type bank struct {
	meter
	tellers []*teller
	stop    chan struct{}
	group   sync.WaitGroup
}

// teller is one client. It has committed rows 0 to next-1: nothing that it asks for may
// fail, so there is none of which it doesn't know.
type teller struct {
	id    int
	conn  *pgx.Conn
	dials int
	next  int64
}

// answer is how long a statement may take, failover included.
const answer = time.Minute

func openBank(ctx context.Context, addr string, tellers int) (*bank, error) {
	b := &bank{stop: make(chan struct{})}
	for i := range tellers {
		w := &teller{id: i}
		if err := w.open(ctx, addr); err != nil {
			return nil, err
		}
		b.tellers = append(b.tellers, w)
	}
	b.start(tellers)
	for _, w := range b.tellers {
		b.group.Go(func() { b.work(ctx, w) })
	}
	return b, nil
}

func (w *teller) open(ctx context.Context, addr string) error {
	cfg, err := pgx.ParseConfig("postgres://postgres:tandem@" + addr + "/postgres?sslmode=disable")
	if err != nil {
		return err
	}
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		w.dials++
		return dial(ctx, network, addr)
	}
	if w.conn, err = pgx.ConnectConfig(ctx, cfg); err != nil {
		return err
	}
	_, err = w.conn.Exec(ctx, "INSERT INTO total VALUES ($1, 0, 0)", w.id)
	return err
}

func (b *bank) work(ctx context.Context, w *teller) {
	for {
		select {
		case <-b.stop:
			return
		default:
		}
		if err := w.commit(ctx); err != nil {
			b.fail(fmt.Errorf("client %d, row %d: %w", w.id, w.next, err))
			return
		}
		w.next++
		b.add(w.id)
	}
}

// commit is one transaction: a row, and the sums over all rows.
func (w *teller) commit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	return pgx.BeginFunc(ctx, w.conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO ledger VALUES ($1, $2, md5($2::bigint::text))", w.id, w.next)
		if err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, "UPDATE total SET rows = rows + 1, sum = sum + $2 WHERE teller = $1", w.id, w.next)
		if err == nil && tag.RowsAffected() != 1 {
			err = fmt.Errorf("%d rows updated, want 1", tag.RowsAffected())
		}
		return err
	})
}

// end checks that each acknowledged row is there once and no other is, by the table and
// by its index, and has PostgreSQL look for damage.
func (b *bank) end(ctx context.Context, sh *stage.Shell) error {
	close(b.stop)
	b.group.Wait()
	err := b.failed()
	for _, w := range b.tellers {
		for _, by := range []string{"index", "seq"} {
			if err == nil {
				err = w.check(ctx, by)
			}
		}
		w.conn.Close(ctx)
	}
	if err != nil {
		return err
	}
	out, err := sh.Run(ctx, "/usr/lib/postgresql/*/bin/pg_amcheck --all --install-missing --heapallindexed --parent-check --rootdescend")
	if err != nil {
		return fmt.Errorf("pg_amcheck: %w: %s", err, out)
	}
	return nil
}

// check reads all rows of a client, on its one connection.
func (w *teller) check(ctx context.Context, by string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if w.dials != 1 {
		return fmt.Errorf("client %d has connected %d times", w.id, w.dials)
	}
	if _, err := w.conn.Exec(ctx, fmt.Sprintf("SET enable_seqscan = %v; SET enable_indexscan = %[2]v; SET enable_indexonlyscan = %[2]v; SET enable_bitmapscan = %[2]v",
		by == "seq", by == "index")); err != nil {
		return err
	}
	rows, err := w.conn.Query(ctx, "SELECT n, pad = md5(n::text) FROM ledger WHERE teller = $1 ORDER BY n", w.id)
	if err != nil {
		return err
	}
	var n, want, sum int64
	var whole bool
	_, err = pgx.ForEachRow(rows, []any{&n, &whole}, func() error {
		if n != want || !whole {
			return fmt.Errorf("client %d: by %s, row %d is where %d of %d should be; whole: %v", w.id, by, n, want, w.next, whole)
		}
		want, sum = want+1, sum+n
		return nil
	})
	if err == nil && want != w.next {
		err = fmt.Errorf("client %d: by %s, %d rows, but %d were acknowledged", w.id, by, want, w.next)
	}
	if err != nil {
		return err
	}
	var total, of int64
	if err := w.conn.QueryRow(ctx, "SELECT rows, sum FROM total WHERE teller = $1", w.id).Scan(&total, &of); err != nil {
		return err
	}
	if total != want || of != sum {
		return fmt.Errorf("client %d: the sums say %d rows, %d; the rows are %d, %d", w.id, total, of, want, sum)
	}
	return nil
}

// The primary of a pair with PostgreSQL is killed again and again, at random moments of
// a load, and a new backup is made each time: every acknowledged commit is in the table,
// once, on the same TCP connections all along, and pg_amcheck and e2fsck find nothing.
func TestChaosPostgres(t *testing.T) {
	const tellers = 2
	s := besiege(t, postgresGuest, postgresPort)
	sh, err := s.s.Shell(t.Context(), siegeVM) // so the guest is up
	if err != nil {
		s.fatalf("%v", err)
	}
	defer sh.Close()
	if _, err := sh.Run(t.Context(), untilPostgres); err != nil {
		s.fatalf("%v", err)
	}
	b, err := openBank(t.Context(), s.s.Addr(siegeVM, postgresPort), tellers)
	if err != nil {
		s.fatalf("%v", err)
	}
	s.load = b
	s.run(rounds(2))
	t.Logf("%d acknowledged commits of %d clients, all there, once, on %d connections", sum(b.done()), tellers, tellers)
}

var fioGuest = stage.Recipe{Name: "fio", Packages: []string{"fio"}, Size: 1 << 30, Prepare: `
cat >/root/verify.fio <<.
[global]
directory=/var/tmp
rw=randwrite
verify=crc32c
verify_fatal=1
verify_backlog=64
do_verify=1
randrepeat=0
[direct]
direct=1
ioengine=libaio
iodepth=16
bsrange=4k-64k
size=12M
[buffered]
ioengine=psync
bsrange=512-16k
blockalign=512
fsync=16
size=3M
.
`}

// fioLoad is fio, which writes files with checksums and reads them back, pass after
// pass, in a shell of its own.
type fioLoad struct {
	meter
	sh    *stage.Shell
	ended chan struct{}
}

const fioPasses = `while [ ! -e /run/enough ]; do fio --terse-version=3 --minimal /root/verify.fio >/run/fio.out 2>&1 || { cat /run/fio.out; exit 1; }; echo pass; done`

func startFio(ctx context.Context, sh *stage.Shell) *fioLoad {
	f := &fioLoad{sh: sh, ended: make(chan struct{})}
	f.start(1)
	go func() {
		defer close(f.ended)
		var said []string
		err := sh.Lines(ctx, fioPasses, func(line string) {
			if line == "pass" {
				f.add(0)
			} else {
				said = append(said, line)
			}
		})
		if err != nil {
			f.fail(fmt.Errorf("fio: %w\n%s", err, strings.Join(said, "\n")))
		}
	}()
	return f
}

// end lets the pass under way verify what it wrote.
func (f *fioLoad) end(ctx context.Context, sh *stage.Shell) error {
	if _, err := sh.Run(ctx, "touch /run/enough"); err != nil {
		return err
	}
	select {
	case <-f.ended:
		return f.failed()
	case <-time.After(2 * time.Minute):
		return errors.New("fio does not end")
	}
}

// fio writes with checksums and verifies through kills of the primary, in one ssh session:
// no block reads as anything but what was written last.
func TestChaosFio(t *testing.T) {
	if os.Getenv("TANDEM_CHAOS") == "" {
		t.Skip("make chaos-fio")
	}
	s := besiege(t, fioGuest)
	sh, err := s.s.Shell(t.Context(), siegeVM)
	if err != nil {
		s.fatalf("%v", err)
	}
	defer sh.Close()
	f := startFio(t.Context(), sh)
	s.load = f
	s.run(rounds(2))
	t.Logf("%d passes of fio, no mismatch, in one ssh session", sum(f.done()))
}

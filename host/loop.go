// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"fmt"
	"math"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tandem/world"
)

// Never, as the time of the next turn, waits for a wake alone.
const Never world.Time = math.MaxInt64

// Wake returns a function that wakes a loop, and the channel that Run waits on.
// The function never blocks; wakes that come while one is pending are one.
func Wake() (wake func(), woken <-chan struct{}) {
	c := make(chan struct{}, 1)
	return func() {
		select {
		case c <- struct{}{}:
		default:
		}
	}, c
}

// yieldEvery is how long turns follow each other at once before other goroutines may
// have their processor. To yield is dear: a thread wakes up for it, and the turns often
// go on there.
const yieldEvery = world.Time(time.Millisecond)

// Run takes turns until one says that it is done, or until ctx is, whose error it
// returns. A turn says when the next one is due at the latest; a time that isn't
// later than now is at once. A wake brings it forward. There may be turns more
// than that.
//
// The goroutines that serve a turn's sockets need a processor beside the one on
// which turns run: with GOMAXPROCS=1 a busy replica would hear its peer 10 ms late.
func Run(ctx context.Context, clock world.Clock, woken <-chan struct{}, turn func() (next world.Time, done bool)) error {
	a, err := newAlarm()
	if err != nil {
		return err
	}
	defer a.close()
	var yielded world.Time
	for ctx.Err() == nil {
		next, done := turn()
		if done {
			return nil
		}
		now := clock.Now()
		wait := next - now
		if wait <= 0 {
			if now-yielded >= yieldEvery {
				runtime.Gosched()
				yielded = now
			}
			continue
		}
		if next != Never {
			a.set(time.Duration(wait))
		}
		select {
		case <-woken:
		case <-a.c:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// alarm is a timer that is exact to some 0.1 ms. Go's timers are late by up to 1 ms
// when nothing else runs, because epoll_wait counts in milliseconds: too coarse for
// the timers of a guest. The kernel's timerfd is not.
type alarm struct {
	c    chan struct{}
	fd   int
	file *os.File
	done chan struct{}
}

func newAlarm() (*alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	a := &alarm{
		c: make(chan struct{}, 1), fd: fd,
		file: os.NewFile(uintptr(fd), "timerfd"), // not blocking: served by Go's poller
		done: make(chan struct{}),
	}
	raw, err := a.file.SyscallConn()
	if err != nil {
		a.file.Close()
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	go a.run(raw)
	return a, nil
}

// run hands on each ring until the file is closed.
func (a *alarm) run(raw syscall.RawConn) {
	defer close(a.done)
	var count [8]byte
	for {
		err := raw.Read(func(fd uintptr) bool {
			_, err := unix.Read(int(fd), count[:])
			return err != unix.EAGAIN && err != unix.EINTR
		})
		if err != nil {
			return
		}
		select {
		case a.c <- struct{}{}:
		default:
		}
	}
}

// set makes the alarm ring after d, and no earlier wish of it.
func (a *alarm) set(d time.Duration) {
	unix.TimerfdSettime(a.fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil)
}

func (a *alarm) close() {
	a.file.Close()
	<-a.done
}

// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Progress hears how a build goes. It is called from several goroutines.
type Progress interface {
	// Note is one line that people should see.
	Note(text string)
	// Start begins a task of total bytes.
	Start(name string, total int64) Task
}

// Task is one bar. What was added may be taken back with a negative number.
type Task interface {
	Add(bytes int64)
	Done()
}

// NewProgress shows bars if w is a terminal, otherwise a line when a task ends.
func NewProgress(w io.Writer) Progress {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &bars{w: w}
	}
	return &lines{w: w}
}

type bars struct{ w io.Writer }

func (b *bars) Note(text string) { fmt.Fprintln(b.w, text) }

func (b *bars) Start(name string, total int64) Task {
	p := progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(b.w),
		progressbar.OptionSetDescription(name),
		progressbar.OptionShowBytes(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionFullWidth(),
	)
	p.RenderBlank()
	return &bar{b: p, total: total, w: b.w}
}

type bar struct {
	mu         sync.Mutex
	b          *progressbar.ProgressBar
	sum, total int64
	w          io.Writer
}

func (t *bar) Add(n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum += n
	t.b.Set64(max(t.sum, 0)) // the bar can't fail: its writer is a terminal
}

func (t *bar) Done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sum >= t.total {
		t.b.Finish()
	} else {
		t.b.Exit() // leaves it as far as it came
	}
	fmt.Fprintln(t.w)
}

type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) Note(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(l.w, text)
}

func (l *lines) Start(name string, total int64) Task {
	return &line{l, fmt.Sprintf("%s: %s", name, Bytes(total)), time.Now()}
}

type line struct {
	l     *lines
	text  string
	start time.Time
}

func (t *line) Add(int64) {}

func (t *line) Done() {
	t.l.Note(fmt.Sprintf("%s in %.1f s", t.text, time.Since(t.start).Seconds()))
}

// quiet is the Progress of a caller that gave none.
type quiet struct{}

func (quiet) Note(string)              {}
func (quiet) Start(string, int64) Task { return quiet{} }
func (quiet) Add(int64)                {}
func (quiet) Done()                    {}

// Bytes prints bytes for people, in powers of 1024.
func Bytes(n int64) string {
	for _, u := range []struct {
		shift uint
		name  string
	}{{30, "GiB"}, {20, "MiB"}, {10, "KiB"}} {
		if n >= 1<<u.shift {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(int64(1)<<u.shift), u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

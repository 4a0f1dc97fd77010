// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A build from the real archive, as the user's options and cache have it, gives
// a disk that fsck accepts. It runs only when TANDEM_IMAGE_OUT names the folder
// to build in.
func TestRealMirror(t *testing.T) {
	out := os.Getenv("TANDEM_IMAGE_OUT")
	if out == "" {
		t.Skip("TANDEM_IMAGE_OUT is not set")
	}
	i, err := Build(context.Background(), Options{Dir: out, Packages: []string{"redis-server"}, Progress: NewProgress(os.Stderr)})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(i)
	fsck(t, i.Disk)
}

func fsck(t *testing.T, disk string) {
	t.Helper()
	for _, name := range []string{"e2fsck", "/usr/sbin/e2fsck"} {
		if bin, err := exec.LookPath(name); err == nil {
			if out, err := exec.Command(bin, "-fn", disk).CombinedOutput(); err != nil {
				t.Errorf("e2fsck: %v\n%s", err, out)
			}
			return
		}
	}
	t.Log("e2fsck is not installed: the disk was not checked")
}

// Both ways of showing progress print what happened, also when bytes are taken
// back.
func TestProgress(t *testing.T) {
	var text, bars_ bytes.Buffer
	for _, p := range []Progress{NewProgress(&text), &bars{w: &bars_}} {
		p.Note("hello")
		task := p.Start("12 packages", 3<<20)
		task.Add(4 << 20)
		task.Add(-(2 << 20))
		task.Add(1 << 20)
		task.Done()
	}
	if s := text.String(); !strings.HasPrefix(s, "hello\n12 packages: 3.0 MiB in ") || strings.ContainsAny(s, "\r\x1b") {
		t.Errorf("lines: %q", s)
	}
	if s := bars_.String(); !strings.Contains(s, "hello\n") || !strings.Contains(s, "12 packages") || !strings.HasSuffix(s, "\n") {
		t.Errorf("bars: %q", s)
	}
}

// A second build waits while the first holds the cache, and can be given up.
func TestLock(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "new")
	unlock, err := lock(context.Background(), cache, quiet{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := lock(ctx, cache, quiet{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second holder: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if unlock, err = lock(context.Background(), cache, quiet{}); err != nil {
		t.Fatal(err)
	}
	unlock()
}

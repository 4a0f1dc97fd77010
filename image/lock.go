// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// lock makes builds that share a cache take turns: two downloads of one file
// would write into one .part.
func lock(ctx context.Context, dir string, progress Progress) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cache: %w: name another directory with --cache", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cache: %w: name another directory with --cache", err)
	}
	for said := false; ; said = true {
		ok, err := tryLock(f)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("cache %s can't be locked: %w: name another directory with --cache", dir, err)
		}
		if ok {
			return f.Close, nil
		}
		if !said {
			progress.Note("another build uses the cache; waiting for it")
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// digest is what a file must be: the SHA256 in hex, and the size in bytes.
type digest struct {
	sha256 string
	size   int64
}

// fetcher brings files from the mirror into the cache. A file in the cache
// bears its final name only after its hash was checked, and is checked again
// each time it is used.
type fetcher struct {
	client  *http.Client
	mirror  string // without a slash at its end
	offline bool
	retry   time.Duration // before a second try; then longer
}

// tries is how often a mirror is asked that gives nothing. One that breaks off and brings
// a file further each time is asked until the file is whole.
const tries = 4

// errNetwork marks failures of the way to the mirror, not of what it said.
var errNetwork = errors.New("the mirror did not answer")

// ChangedError says that a file is not what the signed index says it is.
type ChangedError struct {
	Name           string // package and version, or the index
	File           string // where it lies, or the URL it came from
	Found, Want    string // SHA256
	FoundSize, Len int64
	Remedy         string
}

func (e *ChangedError) Error() string {
	if e.Found == "" {
		return fmt.Sprintf("%s has changed: expected %d bytes, found %d in %s; %s", e.Name, e.Len, e.FoundSize, e.File, e.Remedy)
	}
	return fmt.Sprintf("%s has changed: expected SHA256 %s, found %s in %s; %s", e.Name, e.Want, e.Found, e.File, e.Remedy)
}

// small fetches a file without a known hash, of at most limit bytes.
func (f *fetcher) small(ctx context.Context, path string, limit int64) ([]byte, error) {
	var err error
	for i := range tries {
		if err = f.pause(ctx, i); err != nil {
			return nil, err
		}
		var b []byte
		if b, err = f.smallOnce(ctx, path, limit); err == nil || !errors.Is(err, errNetwork) {
			return b, err
		}
	}
	return nil, err
}

func (f *fetcher) smallOnce(ctx context.Context, path string, limit int64) ([]byte, error) {
	r, err := f.request(ctx, path, 0)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return nil, f.status(path, r)
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %v", errNetwork, f.url(path), err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes: is this a Debian mirror? Name another with --mirror", f.url(path), limit)
	}
	return b, nil
}

// fetch makes sure that file holds what d says, from the cache or from path on
// the mirror. name is what an error calls it. It tells t of every byte, so that
// the sum is d.size in the end.
func (f *fetcher) fetch(ctx context.Context, name, path, file string, d digest, t Task) error {
	switch err := check(name, file, d); {
	case err == nil:
		t.Add(d.size)
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if f.offline {
		return fmt.Errorf("%s is not in the cache and --offline forbids to fetch it", name)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	var err error
	for i, had := 0, partSize(file); i < tries; i++ {
		if err = f.pause(ctx, i); err != nil {
			return err
		}
		if err = f.download(ctx, name, path, file, d, t); err == nil {
			return os.Rename(file+".part", file)
		}
		if !errors.Is(err, errNetwork) {
			return err
		}
		if has := partSize(file); has > had {
			i, had = 0, has
		}
	}
	return fmt.Errorf("%s: %w: check the network or name another mirror with --mirror; what was fetched is kept", name, err)
}

// partSize is how much there is of a file that is not whole yet.
func partSize(file string) int64 {
	st, err := os.Stat(file + ".part")
	if err != nil {
		return 0
	}
	return st.Size()
}

// download completes file.part and checks it. A part that an earlier run left
// may be of another version: when it turns out wrong it is fetched anew, once.
func (f *fetcher) download(ctx context.Context, name, path, file string, d digest, t Task) error {
	part, err := os.OpenFile(file+".part", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer part.Close()
	for {
		resumed, err := f.into(ctx, part, name, path, d, t)
		if err != nil {
			return err
		}
		found, size, err := hashFile(part)
		if err != nil {
			return err
		}
		if found == d.sha256 && size == d.size {
			return nil
		}
		t.Add(-size)
		if err := part.Truncate(0); err != nil {
			return err
		}
		if !resumed {
			return &ChangedError{Name: name, File: f.url(path), Found: found, Want: d.sha256,
				Remedy: "try again later or name another mirror with --mirror"}
		}
	}
}

// into appends to part what is missing of it, or as much as the mirror has.
func (f *fetcher) into(ctx context.Context, part *os.File, name, path string, d digest, t Task) (resumed bool, err error) {
	have, err := part.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	if have > d.size {
		have = 0
	}
	if have == d.size {
		t.Add(have)
		return true, nil
	}
	r, err := f.request(ctx, path, have)
	if err != nil {
		return false, err
	}
	defer r.Body.Close()
	switch {
	case r.StatusCode == http.StatusPartialContent && have > 0 &&
		strings.HasPrefix(r.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(have, 10)+"-"):
		resumed = true
	case r.StatusCode == http.StatusOK:
		have = 0
	default:
		return false, f.status(path, r)
	}
	if err := part.Truncate(have); err != nil {
		return false, err
	}
	if _, err := part.Seek(have, io.SeekStart); err != nil {
		return false, err
	}
	t.Add(have)
	n, err := io.Copy(io.MultiWriter(part, taskWriter{t}), io.LimitReader(r.Body, d.size-have+1))
	if have += n; have > d.size {
		t.Add(-have)
		part.Truncate(0)
		return false, &ChangedError{Name: name, File: f.url(path), FoundSize: have, Len: d.size,
			Remedy: "the mirror sends more than its index says: try again later or name another with --mirror"}
	}
	if err != nil {
		t.Add(-have)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		return false, fmt.Errorf("%w: %s: %v", errNetwork, f.url(path), err)
	}
	return resumed, nil
}

func (f *fetcher) url(path string) string { return f.mirror + "/" + path }

func (f *fetcher) request(ctx context.Context, path string, from int64) (*http.Response, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url(path), nil)
	if err != nil {
		return nil, fmt.Errorf("mirror %s: %w", f.mirror, err)
	}
	// Compression on the way would make sizes and ranges mean something else.
	q.Header.Set("Accept-Encoding", "identity")
	q.Header.Set("User-Agent", "tandem")
	if from > 0 {
		q.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	r, err := f.client.Do(q)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %v", errNetwork, err)
	}
	return r, nil
}

// statusError is an answer that is not the file.
type statusError struct {
	url  string
	code int
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: %d %s: name another mirror with --mirror", e.url, e.code, http.StatusText(e.code))
}

func (f *fetcher) status(path string, r *http.Response) error {
	e := &statusError{f.url(path), r.StatusCode}
	if r.StatusCode >= 500 || r.StatusCode == http.StatusTooManyRequests {
		return fmt.Errorf("%w: %w", errNetwork, e)
	}
	return e
}

func (f *fetcher) pause(ctx context.Context, try int) error {
	if try == 0 {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(f.retry << try):
		return nil
	}
}

// check hashes a file of the cache; one that is missing is os.ErrNotExist.
func check(name, file string, d digest) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	found, _, err := hashFile(f)
	if err != nil {
		return err
	}
	if found != d.sha256 {
		return &ChangedError{Name: name, File: file, Found: found, Want: d.sha256,
			Remedy: "delete that file and build again"}
	}
	return nil
}

func hashFile(f *os.File) (string, int64, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", 0, err
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), n, err
}

type taskWriter struct{ t Task }

func (w taskWriter) Write(p []byte) (int, error) {
	w.t.Add(int64(len(p)))
	return len(p), nil
}

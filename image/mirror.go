// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tandem/image/deb"
)

// MirrorVar names the environment variable that gives a mirror.
const MirrorVar = "TANDEM_MIRROR"

// ErrNoMirror says that no mirror was given and how to give one.
var ErrNoMirror = errors.New("no Debian mirror is known: give one with --mirror URL or " + MirrorVar + "=URL, e.g. the URI of a Debian host's /etc/apt/sources.list")

// mirror chooses the archive to use: the one given, the environment's, or that
// of the host's apt configuration below root ("/etc/apt").
func mirror(given, env, root string) (string, error) {
	for _, m := range []struct{ from, uri string }{{"--mirror", given}, {MirrorVar, env}} {
		if m.uri == "" {
			continue
		}
		u := webURI(m.uri)
		if u == "" {
			return "", fmt.Errorf("%s %q is not a http or https URL", m.from, m.uri)
		}
		return u, nil
	}
	for _, file := range sourceFiles(root) {
		text, err := readLimited(file, 1<<20)
		if err != nil {
			continue // unreadable for this user, or gone: others may serve
		}
		if u := firstSource(file, string(text)); u != "" {
			return u, nil
		}
	}
	return "", ErrNoMirror
}

// Reach asks the mirror that a build would use for a suite, and returns its URI.
func Reach(ctx context.Context, given, suite string) (string, error) {
	uri, err := mirror(given, os.Getenv(MirrorVar), "/etc/apt")
	if err != nil {
		return "", err
	}
	f := fetcher{client: http.DefaultClient, mirror: uri}
	if _, err := f.smallOnce(ctx, "dists/"+suite+"/InRelease", maxRelease); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %s", errNetwork, uri)
		}
		return "", err
	}
	return uri, nil
}

// sourceFiles lists what apt reads, in its order (sources.list(5)).
func sourceFiles(root string) []string {
	files := []string{filepath.Join(root, "sources.list")}
	parts, _ := filepath.Glob(filepath.Join(root, "sources.list.d", "*"))
	slices.Sort(parts)
	return append(files, parts...)
}

func firstSource(file, text string) string {
	switch filepath.Ext(file) {
	case ".sources":
		return firstDeb822(text)
	case ".list":
		return firstOneLine(text)
	}
	return ""
}

// firstOneLine reads "deb [options] URI suite component...".
func firstOneLine(text string) string {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, isDeb := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !isDeb {
			continue
		}
		if rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "[") {
			_, rest, _ = strings.Cut(rest, "]")
		}
		f := strings.Fields(rest)
		if len(f) >= 3 && isDebian(f[1:2], f[2:]) && webURI(f[0]) != "" {
			return webURI(f[0])
		}
	}
	return ""
}

func firstDeb822(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") { // may stand in the middle of a field
			kept.WriteString(line)
		}
	}
	for s := range deb.Stanzas(kept.String()) {
		if strings.EqualFold(s.Get("Enabled"), "no") || !slices.Contains(strings.Fields(s.Get("Types")), "deb") {
			continue
		}
		if !isDebian(strings.Fields(s.Get("Suites")), strings.Fields(s.Get("Components"))) {
			continue
		}
		for _, u := range strings.Fields(s.Get("URIs")) {
			if webURI(u) != "" {
				return webURI(u)
			}
		}
	}
	return ""
}

// debianSuites are names of Debian's own suites. Others put their packages in
// archives of the same shape; their suites have other names.
var debianSuites = []string{
	"stable", "oldstable", "oldoldstable", "testing", "unstable", "sid",
	"buster", "bullseye", "bookworm", "trixie", "forky", "duke",
}

func isDebian(suites, components []string) bool {
	return slices.Contains(components, "main") && slices.ContainsFunc(suites, func(s string) bool {
		return slices.Contains(debianSuites, s)
	})
}

// webURI returns a usable http or https URI without a slash at its end, or "".
func webURI(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return ""
	}
	return strings.TrimRight(s, "/")
}

func readLimited(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return b, err
}

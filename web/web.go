// SPDX-License-Identifier: Apache-2.0

// Package web is the dashboard: pages and scripts that any node serves beside the HTTP
// API, and that use nothing else. They are in the binary as they are in static, without a
// build step, and ask no other host.
//
//	main.js      what is shown: log in, overview, a VM; keys
//	store.js     the API, and what is known: the stream keeps it true
//	overview.js  vm.js  actions.js       pages, and what can be done
//	plot.js  history.js                  live numbers; failovers on a line of time
//	console.js  screen.js                a VM's console; the terminal that it prints on
//	dom.js                               elements and numbers for people
//
// Text of guests and of the API becomes text nodes only. The policy below forbids the
// rest: scripts and styles in pages, other hosts, frames, and making markup of strings.
package web

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

//go:embed static
var files embed.FS

// policy is the Content-Security-Policy of all pages.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// kinds are the types of our files, whatever the host's tables say.
var kinds = map[string]string{".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

// page is one file.
type page struct {
	kind, tag string
	body      []byte
}

// Handler serves the dashboard. Its pages hold no secrets: who has not logged in sees
// them, too.
func Handler() http.Handler {
	pages := map[string]page{}
	fs.WalkDir(files, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(name)
		sum := sha256.Sum256(b)
		pages[strings.TrimPrefix(name, "static")] = page{kinds[path.Ext(name)], `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`, b}
		return err
	})
	pages["/"] = pages["/index.html"]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		head := w.Header()
		head.Set("Content-Security-Policy", policy)
		head.Set("X-Content-Type-Options", "nosniff")
		head.Set("Referrer-Policy", "no-referrer")
		head.Set("Cross-Origin-Opener-Policy", "same-origin")
		head.Set("Cross-Origin-Resource-Policy", "same-origin")
		p, ok := pages[r.URL.Path]
		switch {
		case !ok:
			http.NotFound(w, r)
			return
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			head.Set("Allow", "GET, HEAD")
			http.Error(w, "this is a page", http.StatusMethodNotAllowed)
			return
		}
		head.Set("Cache-Control", "no-cache") // asked for by its tag each time: a new daemon may have a new one
		head.Set("ETag", p.tag)
		if r.Header.Get("If-None-Match") == p.tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		head.Set("Content-Type", p.kind)
		w.Write(p.body)
	})
}

// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/node"
)

// What a daemon answers is in the bundle, without the secrets that are planted there. An
// answer that can't be had is named, and does not keep the others out.
func TestBundleAsks(t *testing.T) {
	dir := t.TempDir()
	ln, err := net.Listen("unix", filepath.Join(dir, node.Socket))
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]string{
		"/v1/info":               `{"name":"a","cluster":"c","etcd_voters":1,"etcd_voters_heard":1}`,
		"/v1/nodes":              `[{"name":"a","labels":["token=x1y2z3"]}]`,
		"/v1/metrics":            "tandem_protected{vm=\"web\"} 1\n",
		"/v1/vms":                `[{"name":"web","spec":{"cpus":1,"append":"console=ttyS0 rescue=x1y2z3"}},{"name":"../../x","spec":{}}]`,
		"/v1/vms/web/events":     `[{"kind":"asked","text":"password: x1y2z3"}]`,
		"/v1/tokens":             `[{"hash":"x1y2z3"}]`,
		"/v1/vms/../../x/events": `[]`,
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := answers[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
			text = `{"error":"not now, tandem-api.x1y2z3"}`
		}
		fmt.Fprint(w, text)
	})}
	go srv.Serve(ln)
	defer srv.Close()
	var out bytes.Buffer
	g := bundler{doctor: doctor{state: dir, run: dir, port: 47370, offline: true, now: time.Now()}, etc: dir}
	told, err := g.gather(t.Context(), &out, "b")
	if err != nil || told.Bytes != int64(out.Len()) {
		t.Fatal(told, err)
	}
	files := unpackBundle(t, out.Bytes())
	for name, text := range files {
		if strings.Contains(text, "x1y2z3") {
			t.Errorf("%s: %s", name, text)
		}
		if !filepath.IsLocal(name) || !strings.HasPrefix(name, "b/") {
			t.Errorf("file %s", name)
		}
	}
	for name, want := range map[string]string{"api/info.json": `"cluster": "c"`, "api/metrics.txt": "tandem_protected", "api/nodes.json": "labels",
		"api/vms.json": "console=ttyS0", "api/vms/web/events.json": "asked"} {
		if !strings.Contains(files["b/"+name], want) {
			t.Errorf("%s: %q", name, files["b/"+name])
		}
	}
	lacks := fmt.Sprint(told.Missing)
	if !strings.Contains(lacks, "api/vms/web/samples.json not now") || files["b/api/tokens.json"] != "" {
		t.Errorf("missing: %s", lacks)
	}
}

func unpackBundle(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
	}
}

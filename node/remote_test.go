// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"tandem/api"
	"tandem/host/certs"
	"tandem/host/control"
	"tandem/host/etcd"
)

// document is what the tests read of api/openapi.yaml.
type document struct {
	Paths map[string]map[string]struct {
		Role    string `yaml:"x-role"`
		Summary string
	}
	Components struct {
		Schemas map[string]struct {
			Required   []string
			Properties map[string]any
		}
	}
}

func readDocument(t *testing.T) (d document) {
	t.Helper()
	var raw struct {
		Paths      map[string]map[string]yaml.Node
		Components yaml.Node
	}
	if err := yaml.Unmarshal(api.Document, &raw); err != nil {
		t.Fatal(err)
	}
	for _, item := range raw.Paths {
		delete(item, "parameters")
	}
	b, err := yaml.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// The OpenAPI document and the routes are equal, both ways, roles included.
func TestDocument(t *testing.T) {
	n, err := New(Options{State: t.TempDir(), Run: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	told, served := map[string]string{}, map[string]string{}
	for path, methods := range readDocument(t).Paths {
		for method, op := range methods {
			told[strings.ToUpper(method)+" "+path] = op.Role
			if op.Summary == "" {
				t.Errorf("%s %s has no summary", method, path)
			}
		}
	}
	for _, r := range api.New(n.routes(), http.NotFoundHandler(), nil, nil).Routes() {
		served[r.Pattern] = r.Role.String()
	}
	for _, p := range slices.Sorted(maps.Keys(served)) {
		if told[p] != served[p] {
			t.Errorf("%s is of role %s; the document says %q", p, served[p], told[p])
		}
	}
	for p := range told {
		if served[p] == "" {
			t.Errorf("the document tells of %s, which is not served", p)
		}
	}
}

// fields are the JSON names of a type's fields, and whether each is always there.
func fields(t reflect.Type, into map[string]bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, opts, _ := strings.Cut(tag, ",")
		switch {
		case f.Anonymous && tag == "":
			fields(f.Type, into)
		case name != "-" && f.IsExported():
			into[name] = !strings.Contains(opts, "omit")
		}
	}
}

// The schemas of the document have the fields of our types, both ways, and require those
// that an answer always has.
func TestSchemas(t *testing.T) {
	doc := readDocument(t)
	asked := []string{"CreateRequest", "InitRequest", "JoinRequest", "MoveRequest", "NodeChange", "TokenRequest", "VMChange"}
	for name, v := range map[string]any{
		"Info": Info{}, "Node": NodeInfo{}, "VM": VMInfo{}, "Copy": CopyInfo{}, "Spec": etcd.Spec{}, "Move": etcd.Move{}, "Event": etcd.Event{},
		"VMEvent": VMEvent{}, "Gone": Gone{}, "Tick": Tick{}, "Sample": Sample{}, "Token": api.Token{}, "MadeToken": MadeToken{}, "Grant": api.Grant{},
		"CreateRequest": CreateRequest{}, "InitRequest": InitRequest{}, "JoinRequest": JoinRequest{}, "MoveRequest": MoveRequest{},
		"NodeChange": NodeChange{}, "TokenRequest": TokenRequest{}, "VMChange": VMChange{},
	} {
		schema := doc.Components.Schemas[name]
		ours := map[string]bool{}
		fields(reflect.TypeOf(v), ours)
		theirs := slices.Sorted(maps.Keys(schema.Properties))
		if want := slices.Sorted(maps.Keys(ours)); !slices.Equal(theirs, want) {
			t.Errorf("%s: the document has %v, we have %v", name, theirs, want)
		}
		for f, always := range ours {
			if !slices.Contains(asked, name) && always != slices.Contains(schema.Required, f) {
				t.Errorf("%s.%s: always there: %v; the document says otherwise", name, f, always)
			}
		}
	}
}

// A sample is what was counted since the status before it; a counter that began anew gives
// none.
func TestSeries(t *testing.T) {
	s, now := series{}, time.Unix(1000, 0)
	for _, st := range []control.Status{
		{LogSentBytes: 1000, OutputDelay: 1, Outputs: 10},
		{LogSentBytes: 3000, OutputDelay: 1.5, Outputs: 20, LagSeconds: 0.25, CPUShare: 1, Epoch: 2, State: "Protected"},
		{LogSentBytes: 3000, OutputDelay: 1.5, Outputs: 20},
		{LogSentBytes: 10},
	} {
		s.add("a", "web", st, now)
		now = now.Add(2 * time.Second)
	}
	want := []Sample{
		{Time: time.Unix(1002, 0).UTC(), VM: "web", Node: "a", Epoch: 2, State: "Protected", Lag: 0.25, LogRate: 1000, Delay: 0.05, Outputs: 5, Share: 1},
		{Time: time.Unix(1004, 0).UTC(), VM: "web", Node: "a"},
	}
	if !slices.Equal(s.list, want) {
		t.Errorf("%+v", s.list)
	}
	for i := range uint64(2 * keptSamples) {
		s.add("a", "web", control.Status{Outputs: i}, now.Add(time.Duration(i)*time.Second))
	}
	if len(s.list) != keptSamples {
		t.Errorf("%d samples are kept", len(s.list))
	}
}

// remote is a client of a daemon's API over TLS.
type remote struct {
	t    *testing.T
	url  string
	http *http.Client
}

func (r remote) ask(method, path, token, body string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := r.http.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == 200 {
		return 200, ""
	}
	return resp.StatusCode, api.Problem(resp).Error()
}

// A daemon serves its API over TLS once it is in a cluster: tokens that its socket's user
// made have their roles until they are revoked, hosts of the cluster may do everything,
// strangers nothing. Nothing of a token but its hash is in etcd.
func TestRemote(t *testing.T) {
	t.Setenv("TANDEM_TEST_NOSYNC", "1")
	dir, err := os.MkdirTemp("", "tdm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	port := ports(t, 4)
	addr := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port + 3}).String()
	var diagnostics strings.Builder
	n, err := New(Options{State: filepath.Join(dir, "s"), Run: filepath.Join(dir, "r"), API: addr, Memory: 1 << 30, Version: 1, Log: slog.New(slog.NewTextHandler(&diagnostics, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	c := NewClient(filepath.Join(dir, "r"))
	eventually(t, "the daemon answers", func() bool { _, err := c.Info(ctx); return err == nil })
	conf := &tls.Config{InsecureSkipVerify: true}
	if conn, err := tls.Dial("tcp", addr, conf); err == nil {
		conn.Close()
		t.Error("a host of no cluster shakes hands")
	}
	if _, err := c.Init(ctx, InitRequest{Name: "a", Address: "127.0.0.1", Port: port}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "etcd is followed", func() bool { _, err := c.VMs(ctx); return err == nil })
	pair, pool, err := certs.Load(filepath.Join(dir, "s", pkiDir), hostPair)
	if err != nil {
		t.Fatal(err)
	}
	client := func(pairs ...tls.Certificate) remote {
		return remote{t, "https://" + addr, &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: pairs}}}}
	}
	host, anybody := client(pair), client()
	if code, text := host.ask("POST", "/v1/cluster/token", "", ""); code != 200 {
		t.Errorf("a host of the cluster: %d %s", code, text)
	}
	if code, text := anybody.ask("GET", "/v1/vms", "", ""); code != 401 || !strings.Contains(text, "role view") {
		t.Errorf("anybody: %d %s", code, text)
	}
	theirs, err := certs.NewCA("theirs")
	if err != nil {
		t.Fatal(err)
	}
	if stranger, err := theirs.Pair("a"); err != nil {
		t.Fatal(err)
	} else {
		c := client()
		c.http.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stranger, nil }
		if _, err := c.http.Get("https://" + addr + "/v1/vms"); err == nil {
			t.Error("a certificate of another CA is taken")
		}
	}

	made := map[string]MadeToken{}
	for r := api.View; r <= api.Admin; r++ {
		k, err := c.CreateToken(ctx, TokenRequest{Role: r, Seconds: 3600})
		if err != nil {
			t.Fatal(err)
		}
		made[r.String()] = k
	}
	for _, x := range []struct {
		method, path, body string
		need               api.Role
	}{
		{"GET", "/v1/vms", "", api.View}, {"PATCH", "/v1/nodes/a", `{"cordoned": true}`, api.Operate},
		{"PATCH", "/v1/nodes/a", `{"dead": false}`, api.Admin}, {"GET", "/v1/tokens", "", api.Admin}, {"POST", "/v1/cluster/token", "", api.Admin},
	} {
		for r := api.View; r <= api.Admin; r++ {
			want := 200
			if r < x.need {
				want = 403
			}
			if code, text := anybody.ask(x.method, x.path, made[r.String()].Text, x.body); code != want || want == 403 && !strings.Contains(text, "this needs the role ") {
				t.Errorf("%s %s %s by %s: %d %s", x.method, x.path, x.body, r, code, text)
			}
		}
	}
	heard := map[string]bool{}
	stream, enough := context.WithTimeout(ctx, 30*time.Second)
	defer enough()
	c.Stream(stream, func(kind string, data []byte) error {
		heard[kind] = true
		if kind == "reset" {
			q := CreateRequest{Name: "vm", Spec: etcd.Spec{Kernel: "/Image", CPUs: 1, Memory: 1 << 28}}
			if err := c.Create(ctx, q); err != nil {
				t.Error(err)
			}
		}
		if kind == "vm" && !heard["gone"] {
			if err := c.Delete(ctx, "vm"); err != nil {
				t.Error(err)
			}
		}
		if heard["event"] && heard["vm"] && heard["gone"] && heard["tick"] {
			enough()
		}
		return nil
	})
	for _, kind := range []string{"reset", "event", "vm", "gone", "tick"} {
		if !heard[kind] {
			t.Errorf("the stream does not tell of a VM that comes and goes by %s", kind)
		}
	}
	for _, q := range []TokenRequest{{}, {Role: api.View, Name: "a b"}, {Role: api.View, Seconds: -1}, {Role: api.View, Seconds: 1 << 60}} {
		if _, err := c.CreateToken(ctx, q); err == nil {
			t.Errorf("%+v is taken", q)
		}
	}
	list, err := c.Tokens(ctx)
	if err != nil || len(list) != 3 || list[0].Role != api.View || list[0].Hash != "" {
		t.Errorf("tokens %+v, %v", list, err)
	}
	if err := c.RevokeToken(ctx, made["view"].ID); err != nil {
		t.Error(err)
	}
	if err := c.RevokeToken(ctx, made["view"].ID); err == nil || !strings.Contains(err.Error(), "no token") {
		t.Errorf("revoked twice: %v", err)
	}
	if code, _ := anybody.ask("GET", "/v1/vms", made["view"].Text, ""); code != 401 {
		t.Errorf("a revoked token: %d", code)
	}
	_, s, err := n.look(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, secret, _ := strings.Cut(made["admin"].Text, made["admin"].ID)
	for _, k := range s.Tokens {
		if strings.Contains(k.Hash+k.Name, secret) || len(k.Hash) != 64 {
			t.Errorf("etcd has %+v", k)
		}
	}
	stop()
	if err := errors.Join(<-done); err != nil {
		t.Error(err)
	}
	done <- nil
	for who, k := range made {
		if strings.Contains(diagnostics.String(), k.Text[len(k.Text)-20:]) {
			t.Errorf("the secret of %s is in the diagnostics", who)
		}
	}
	if !strings.Contains(diagnostics.String(), "token operate") {
		t.Error("the diagnostics don't say who asked for changes")
	}
}

// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// fixture serves one route of each role over TLS, and knows tokens.
type fixture struct {
	mu     sync.Mutex
	tokens map[string]Token
	notes  []string
	hub    *Hub
	srv    *Server
	tls    *httptest.Server
}

func newFixture(t *testing.T, keep int) *fixture {
	t.Helper()
	f := &fixture{tokens: map[string]Token{}, hub: NewHub(keep)}
	ok := func(r *http.Request) (any, error) { return map[string]string{"who": Who(r).String()}, nil }
	echo := func(w http.ResponseWriter, r *http.Request) {
		s, err := Socket(w, r)
		if err != nil {
			return
		}
		defer s.Close()
		io.Copy(s, s)
	}
	f.srv = New([]Route{
		{Pattern: "GET /v1/look", Role: View, Do: ok},
		{Pattern: "POST /v1/change", Role: Operate, Do: func(r *http.Request) (any, error) {
			q, err := Read[struct{ X int }](r)
			return q, err
		}},
		{Pattern: "POST /v1/make", Role: Admin, Do: ok},
		{Pattern: "GET /v1/stream", Role: View, Serve: f.hub.Serve},
		{Pattern: "GET /v1/echo", Role: Operate, Serve: echo},
	}, http.NotFoundHandler(), func(id string) (Token, bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		k, ok := f.tokens[id]
		return k, ok
	}, func(g Grant, r *http.Request) { f.notes = append(f.notes, g.String()+" "+r.URL.Path) })
	f.tls = httptest.NewTLSServer(f.srv.Remote())
	t.Cleanup(f.tls.Close)
	return f
}

func (f *fixture) token(role Role, life time.Duration) (string, string) {
	text, k := NewToken(role.String(), role, time.Now(), life)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens[k.ID] = k
	return text, k.ID
}

func (f *fixture) revoke(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.tokens, id)
}

// ask makes a request with headers given in pairs.
func (f *fixture) ask(t *testing.T, method, path, body string, header ...string) (*http.Response, problem) {
	t.Helper()
	req, err := http.NewRequest(method, f.tls.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := f.tls.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var p problem
	json.NewDecoder(resp.Body).Decode(&p)
	return resp, p
}

// Each role may do what it may and no more; a refusal names the role that is needed, and
// what is wrong with a token is not told.
func TestRoles(t *testing.T) {
	f := newFixture(t, 10)
	tokens := map[string]string{"nobody": ""}
	for r := View; r <= Admin; r++ {
		tokens[r.String()], _ = f.token(r, 0)
	}
	tokens["expired"], _ = f.token(Admin, -time.Second)
	expired := f.tokens[strings.Split(tokens["expired"], ".")[1]]
	expired.Expires = time.Now().Add(-time.Second)
	f.tokens[expired.ID] = expired
	revoked, id := f.token(Admin, 0)
	f.revoke(id)
	tokens["revoked"] = revoked
	tokens["guessed"] = tokens["admin"][:len(tokens["admin"])-1] + "?"
	tokens["garbage"] = "x"
	tokens["join"] = "tandem1.abc"
	paths := []struct{ method, path, need string }{{"GET", "/v1/look", "view"}, {"POST", "/v1/change", "operate"}, {"POST", "/v1/make", "admin"}, {"GET", "/v1/session", "view"}}
	may := map[string]int{"view": 1, "operate": 2, "admin": 3}
	for who, text := range tokens {
		for _, p := range paths {
			var header []string
			if text != "" {
				header = []string{"Authorization", "Bearer " + text}
			}
			resp, e := f.ask(t, p.method, p.path, "", header...)
			want := 200
			switch {
			case may[who] == 0:
				want = 401
			case may[who] < may[p.need]:
				want = 403
			}
			if resp.StatusCode != want {
				t.Errorf("%s %s: %d, want %d", who, p.path, resp.StatusCode, want)
			}
			if want == 200 || who != "nobody" && want == 401 {
				continue
			}
			if e.Role == nil || e.Role.String() != p.need || !strings.Contains(e.Error, p.need) {
				t.Errorf("%s %s: %+v does not name %s", who, p.path, e, p.need)
			}
		}
	}
	if resp, _ := f.ask(t, "GET", "/v1/openapi.yaml", ""); resp.StatusCode != 200 {
		t.Errorf("the document: %d", resp.StatusCode)
	}
	if resp, e := f.ask(t, "GET", "/v1/nothing", ""); resp.StatusCode != 404 || e.Error == "" {
		t.Errorf("no route: %d %+v", resp.StatusCode, e)
	}
	if len(f.notes) == 0 || strings.Contains(strings.Join(f.notes, " "), tokens["admin"][20:]) {
		t.Errorf("notes of changes: %q", f.notes)
	}
}

// A browser logs in once; its cookie is of no use to scripts and other sites, and ends
// with the token.
func TestSession(t *testing.T) {
	f := newFixture(t, 10)
	text, id := f.token(Operate, time.Hour)
	if resp, _ := f.ask(t, "POST", "/v1/session", `{"token": "tandem-api.a.b"}`); resp.StatusCode != 401 || len(resp.Cookies()) != 0 {
		t.Errorf("a wrong token logs in: %d", resp.StatusCode)
	}
	resp, _ := f.ask(t, "POST", "/v1/session", `{"token": " `+text+`\n"}`)
	if resp.StatusCode != 200 || len(resp.Cookies()) != 1 {
		t.Fatalf("log in: %d, %v", resp.StatusCode, resp.Cookies())
	}
	c := resp.Cookies()[0]
	if !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.MaxAge < 3500 || c.MaxAge > 3600 || !strings.HasPrefix(c.Name, "__Host-") {
		t.Errorf("the cookie: %v", c)
	}
	has := []string{"Cookie", c.Name + "=" + c.Value}
	if resp, _ := f.ask(t, "POST", "/v1/change", "", has...); resp.StatusCode != 200 {
		t.Errorf("a change: %d", resp.StatusCode)
	}
	for _, foreign := range [][]string{{"Origin", "https://evil.example"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "null"}} {
		if resp, e := f.ask(t, "POST", "/v1/change", "", append(foreign, has...)...); resp.StatusCode != 403 || !strings.Contains(e.Error, "another site") {
			t.Errorf("%v: %d %+v", foreign, resp.StatusCode, e)
		}
	}
	if resp, _ := f.ask(t, "POST", "/v1/change", "", append([]string{"Origin", f.tls.URL}, has...)...); resp.StatusCode != 200 {
		t.Errorf("our own page: %d", resp.StatusCode)
	}
	if resp, _ := f.ask(t, "DELETE", "/v1/session", "", has...); len(resp.Cookies()) != 1 || resp.Cookies()[0].MaxAge >= 0 {
		t.Error("the cookie stays after a logout")
	}
	f.revoke(id)
	if resp, _ := f.ask(t, "GET", "/v1/look", "", has...); resp.StatusCode != 401 || resp.Cookies()[0].MaxAge >= 0 {
		t.Errorf("a revoked token's cookie: %d %v", resp.StatusCode, resp.Cookies())
	}
	if resp, _ := f.ask(t, "POST", "/v1/session", `{"token": "`+text+`"}`, has...); resp.StatusCode != 401 {
		t.Errorf("log in by a revoked token: %d", resp.StatusCode)
	}
}

// The socket's user may do everything, but a page that leads a browser there may not: not
// by a request of another site, and not by a name of its own for a forwarded port.
func TestSocketUser(t *testing.T) {
	f := newFixture(t, 10)
	for _, c := range []struct {
		host, origin string
		want         int
	}{
		{"node", "", 200}, {"localhost:8080", "", 200}, {"127.0.0.1:8080", "", 200}, {"[::1]:8080", "", 200}, {"tandem", "", 200},
		{"localhost:8080", "http://localhost:8080", 200}, {"localhost:8080", "https://evil.example", 403},
		{"evil.example:8080", "http://evil.example:8080", 403}, {"evil.example", "", 403},
	} {
		r := httptest.NewRequest("POST", "/v1/make", nil)
		r.Host = c.host
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		w := httptest.NewRecorder()
		f.srv.Local().ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%+v: %d %s", c, w.Code, w.Body)
		}
	}
}

// Rubbish in a request is refused with a reason, and a body has bounds.
func TestRead(t *testing.T) {
	f := newFixture(t, 10)
	text, _ := f.token(Operate, 0)
	for body, want := range map[string]int{`{"X": 1}`: 200, ``: 200, `{"Y": 1}`: 400, `{"X": "a"}`: 400, `[`: 400, strings.Repeat(" ", MaxRequest+1): 400} {
		if resp, e := f.ask(t, "POST", "/v1/change", body, "Authorization", "Bearer "+text); resp.StatusCode != want || (want != 200 && e.Error == "") {
			t.Errorf("%.20q: %d %+v", body, resp.StatusCode, e)
		}
	}
}

// lines reads a stream's events as "kind data", with the newest id.
type lines struct {
	resp *http.Response
	in   *bufio.Scanner
	id   string
	late *time.Timer // ends it, if nothing comes
}

func (f *fixture) stream(t *testing.T, token, id string) *lines {
	t.Helper()
	req, _ := http.NewRequest("GET", f.tls.URL+"/v1/stream", nil)
	req.Header.Set("Authorization", "Bearer "+token)
	if id != "" {
		req.Header.Set("Last-Event-ID", id)
	}
	resp, err := f.tls.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return &lines{resp: resp, in: bufio.NewScanner(resp.Body), late: time.AfterFunc(20*time.Second, func() { resp.Body.Close() })}
}

func (l *lines) next() string {
	kind := ""
	for l.in.Scan() {
		name, value, _ := strings.Cut(l.in.Text(), ": ")
		switch name {
		case "id":
			l.id = value
		case "event":
			kind = value
		case "data":
			return kind + " " + value
		}
	}
	return "end"
}

// A reader that comes again gets what it has missed, in order, once; what has been dropped,
// an id of another daemon and no id are a reset. Ticks have no number. The stream ends
// with the token.
func TestStream(t *testing.T) {
	f := newFixture(t, 10)
	token, tid := f.token(View, 0)
	a := f.stream(t, token, "")
	if got := a.next(); got != "reset {}" {
		t.Fatal(got)
	}
	for i := range 3 {
		f.hub.Publish("n", i)
	}
	for i := range 3 {
		if got := a.next(); got != fmt.Sprint("n ", i) {
			t.Fatal(got)
		}
	}
	f.hub.Tick(7)
	if got, id := a.next(), a.id; got != "tick 7" || !strings.HasSuffix(id, "-3") {
		t.Fatal(got, id)
	}
	f.hub.Publish("n", 3)
	f.hub.Publish("n", 4)
	again := f.stream(t, token, a.id)
	for _, want := range []string{"n 3", "n 4"} {
		got := again.next()
		if got == "tick 7" {
			got = again.next()
		}
		if got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	for i := range 20 {
		f.hub.Publish("n", 5+i)
	}
	for _, id := range []string{a.id, "other-3", a.id + "9", "x", f.hub.boot + "-18446744073709551615"} {
		if got := f.stream(t, token, id).next(); got != "reset {}" {
			t.Errorf("after %s: %s", id, got)
		}
	}
	last := f.stream(t, token, again.id)
	for got := last.next(); got != "reset {}"; got = last.next() {
		if got == "end" {
			t.Fatal("no reset for what was dropped")
		}
	}
	f.hub.Publish("n", "end")
	got := last.next()
	if got == "tick 7" {
		got = last.next()
	}
	if got != `n "end"` {
		t.Errorf("after a reset: %s", got)
	}
	f.revoke(tid)
	for got := last.next(); got != "end"; got = last.next() {
	}
	if !last.late.Stop() {
		t.Error("the stream outlives its token")
	}
}

// However slow a reader is, the hub keeps no more than its ring, and the reader gets a
// reset; there are no more readers than may be.
func TestSlowReader(t *testing.T) {
	h := NewHub(8)
	place := h.resume("")
	h.take(&place)
	for i := range 100 {
		h.Publish("n", i)
	}
	if len(h.ring) > 8 {
		t.Errorf("%d messages are kept", len(h.ring))
	}
	text, _ := h.take(&place)
	if !bytes.HasPrefix(text, []byte("id: "+h.boot+"-100\nevent: reset\n")) || bytes.Contains(text, []byte("event: n")) {
		t.Errorf("%s", text)
	}
	if text, _ = h.take(&place); len(text) != 0 {
		t.Errorf("%s", text)
	}
	h.readers = maxReaders
	w := httptest.NewRecorder()
	h.Serve(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("one more reader: %d", w.Code)
	}
}

// A reader that takes nothing is cut off.
func TestStuckReader(t *testing.T) {
	f := newFixture(t, 10)
	f.hub.stuck = 50 * time.Millisecond
	token, _ := f.token(View, 0)
	l := f.stream(t, token, "")
	if got := l.next(); got != "reset {}" {
		t.Fatal(got)
	}
	large := strings.Repeat("x", 4<<20) // more than the kernel's buffers take
	for end := time.Now().Add(20 * time.Second); f.hub.Readers() > 0; time.Sleep(5 * time.Millisecond) {
		f.hub.Publish("n", large)
		if time.Now().After(end) {
			t.Fatal("it is still written to")
		}
	}
}

// A WebSocket carries bytes both ways, for our own page only.
func TestSocket(t *testing.T) {
	f := newFixture(t, 10)
	text, _ := f.token(Operate, 0)
	d := websocket.Dialer{TLSClientConfig: f.tls.Client().Transport.(*http.Transport).TLSClientConfig.Clone()}
	d.TLSClientConfig.NextProtos = nil
	url := "wss" + strings.TrimPrefix(f.tls.URL, "https") + "/v1/echo"
	head := http.Header{"Cookie": {cookieName + "=" + text}, "Origin": {"https://evil.example"}}
	if _, resp, err := d.Dial(url, head); err == nil || resp.StatusCode != 403 {
		t.Errorf("another site's page: %v", err)
	}
	head.Set("Origin", f.tls.URL)
	c, _, err := d.Dial(url, head)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, kind := range []int{websocket.TextMessage, websocket.BinaryMessage} {
		c.WriteMessage(kind, []byte("hello"))
		if _, b, err := c.ReadMessage(); err != nil || string(b) != "hello" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	c.WriteMessage(websocket.BinaryMessage, make([]byte, maxTyped+1))
	for err == nil {
		_, _, err = c.ReadMessage()
	}
}

// SPDX-License-Identifier: Apache-2.0

package web

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tandem/api"
)

// Pages are served with a policy that forbids scripts in them and other hosts, and are
// not sent again unless they have changed.
func TestPages(t *testing.T) {
	srv := httptest.NewServer(Handler())
	defer srv.Close()
	get := func(method, path, tag string) (*http.Response, string) {
		req, _ := http.NewRequest(method, srv.URL+path, nil)
		if tag != "" {
			req.Header.Set("If-None-Match", tag)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp, string(b)
	}
	for path, kind := range map[string]string{"/": "text/html", "/style.css": "text/css", "/main.js": "text/javascript", "/icon.svg": "image/svg+xml"} {
		resp, body := get("GET", path, "")
		if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), kind) || body == "" {
			t.Errorf("%s: %d %s", path, resp.StatusCode, resp.Header)
		}
		if p := resp.Header.Get("Content-Security-Policy"); !strings.Contains(p, "default-src 'none'") || strings.Contains(p, "unsafe") {
			t.Errorf("%s: policy %q", path, p)
		}
		if again, _ := get("GET", path, resp.Header.Get("ETag")); again.StatusCode != http.StatusNotModified {
			t.Errorf("%s again: %d", path, again.StatusCode)
		}
	}
	for _, bad := range []string{"/static/main.js", "/../web.go", "/nothing", "/static"} {
		if resp, _ := get("GET", bad, ""); resp.StatusCode != 404 {
			t.Errorf("%s: %d", bad, resp.StatusCode)
		}
	}
	if resp, _ := get("POST", "/", ""); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", resp.StatusCode)
	}
}

// Our files name no other host, make no markup of strings and have a licence.
func TestFiles(t *testing.T) {
	other := regexp.MustCompile(`https?://[a-z0-9.]+`)
	fs.WalkDir(files, "static", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, url := range other.FindAllString(string(b), -1) {
			if url != "http://www.w3.org" { // a name, not an address
				t.Errorf("%s names %s", name, url)
			}
		}
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "new Function"} {
			if strings.Contains(string(b), bad) {
				t.Errorf("%s has %s", name, bad)
			}
		}
		if !strings.Contains(string(b), "SPDX-License-Identifier: Apache-2.0") {
			t.Errorf("%s has no licence", name)
		}
		return nil
	})
}

// In a browser the dashboard does what people do there, and its terminal what programs
// on a Linux console ask of one.
func TestBrowser(t *testing.T) {
	b := newBrowser(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *browser)
	}{{"dashboard", dashboard}, {"screen", screen}} {
		t.Run(part.name, func(t *testing.T) {
			b.t = t
			part.run(t, b)
			b.ask("Page.navigate", object{"url": "about:blank"}, nil) // or it would hold its connections
		})
	}
}

// dashboard is what people do in a browser: a wrong token and a right one, the cluster, a VM with its
// copies, numbers and failovers, something that hurts and is asked for twice, the console,
// news that come by themselves, keys, and the way out. No policy is violated and nothing
// of a name becomes markup.
func dashboard(t *testing.T, b *browser) {
	f := newFake(t)
	b.size(1180, 900, "light")
	b.ask("Page.navigate", object{"url": f.srv.URL + "/"}, nil)
	logIn := func(token string) {
		b.until("document.readyState == 'complete' && !!document.querySelector('#token')")
		b.eval(fmt.Sprintf("document.querySelector('#token').value = %q", token))
		b.click("#login")
	}
	logIn("tandem-api.wrong.token")
	b.until("/not known/.test(document.querySelector('[role=alert]').textContent)")
	b.shot("login")
	logIn(f.tokens[api.Operate])

	b.until("document.querySelectorAll('.vm').length == 5 && document.querySelectorAll('.host').length == 4")
	b.until("/live/.test(document.querySelector('.link').textContent)")
	b.until("document.querySelector('[data-vm=web] .pill').textContent == '● protected' && /ms/.test(document.querySelector('[data-vm=web] .figure dd').textContent)")
	b.until("document.querySelector('[data-vm=web] .spark path').getAttribute('d').split('L').length > 30")
	b.until("document.querySelector('.sums').innerText.replace(/\\s+/g, ' ').includes('1 of 3')")
	b.until("[...document.querySelectorAll('.vm h3')].some(e => e.textContent == '<b>old</b>') && !document.querySelector('main b b')")
	if cookie := b.eval("document.cookie"); cookie != "" {
		t.Errorf("scripts can read %v", cookie)
	}
	b.shot("overview-light")
	b.key("/")
	for _, c := range "host1" {
		b.key(string(c))
	}
	b.until("document.activeElement.id == 'filter' && document.querySelectorAll('.vm').length == 2")
	b.eval("document.activeElement.value = ''; document.activeElement.dispatchEvent(new Event('input')); document.activeElement.blur()")

	b.eval("location.hash = '#/vm/web'")
	b.until("/host2/.test(document.querySelector('.copy.primary').textContent) && /host3.*protected/.test(document.querySelector('.copy.backup').textContent)")
	b.until("document.querySelectorAll('.plot .line').length >= 8 && document.querySelectorAll('.plot line.mark').length >= 4")
	b.until("/went live in epoch 2 in 18\\.0 ms/.test(document.querySelector('.incidents').textContent) && document.querySelectorAll('rect.reign').length == 3")
	b.click("#do-console")
	b.until("/riscv64 riscv64/.test(document.querySelector('.terminal').textContent) && document.activeElement.id == 'typed'")
	for _, k := range []string{"l", "s", "Enter"} {
		b.key(k)
	}
	b.until("/# ls/.test(document.querySelector('.terminal').textContent)")
	b.shot("vm-light")
	b.size(1180, 900, "dark")
	b.shot("vm-dark")
	b.size(400, 860, "dark")
	b.until("document.documentElement.scrollWidth <= 400")
	b.shot("vm-400")
	b.size(1180, 900, "light")
	b.click("#console-close")

	b.click("#do-ft")
	b.until("document.activeElement.id == 'ask-no'")
	b.shot("ask")
	b.click("#ask-no")
	b.until("!document.querySelector('dialog')")
	if f.did() != nil {
		t.Errorf("done without a yes: %q", f.did())
	}
	b.click("#do-ft")
	b.click("#ask-yes")
	b.until("document.querySelector('.head .pill').textContent.includes('disabled') && document.querySelector('#do-ft').textContent == 'Enable FT'")
	b.click("#do-move")
	b.eval("document.querySelector('#ask-to').value = 'host3'")
	b.click("#ask-yes")
	b.until("/on its way|is to move to host3/.test(document.querySelector('#toasts').textContent)")
	b.click("#do-shutdown")
	b.click("#ask-yes")
	b.until("/power button of web is pressed/.test(document.querySelector('#toasts').textContent)")
	b.key("g")
	b.click("#evacuate-host1")
	b.click("#ask-yes")
	b.until("/host1 is being evacuated/.test(document.querySelector('#toasts').textContent)")
	want := []string{`PATCH /v1/vms/web {"ft":false}`, `POST /v1/vms/web/move {"role":"primary","to":"host3"}`, `POST /v1/vms/web/shutdown `, `PATCH /v1/nodes/host1 {"evacuation":"evacuate"}`}
	if !slices.Equal(f.did(), want) {
		t.Errorf("asked for %q", f.did())
	}
	f.mu.Lock()
	if f.typed != "ls\r" {
		t.Errorf("typed %q", f.typed)
	}
	f.mu.Unlock()
	f.hub.Publish("gone", object{"kind": "vm", "name": "batch"})
	b.until("document.querySelectorAll('.vm').length == 4")
	b.size(1180, 900, "dark")
	b.shot("overview-dark")
	b.size(400, 860, "light")
	b.until("document.documentElement.scrollWidth <= 400")
	b.shot("overview-400")
	b.click("#logout")
	logIn(f.tokens[api.View])
	b.until("document.querySelectorAll('.vm').length >= 4 && document.querySelector('#evacuate-host1').disabled")

	f.mu.Lock()
	clear(f.known)
	f.mu.Unlock()
	f.hub.Publish("event", object{"vm": "web"}) // whoever reads is looked at soon; a request finds out at once
	b.eval("fetch('/v1/vms')")
	b.until("!!document.querySelector('#token')")
	for _, line := range b.said() {
		if !strings.Contains(line, "401") && !strings.HasPrefix(line, "verbose") { // Chromium tells of each answer, and gives advice
			t.Errorf("the page's console: %s", line)
		}
	}
}

// screen sends what programs do, and looks at the lines that are seen then, with what the
// terminal answers.
func screen(t *testing.T, b *browser) {
	srv := httptest.NewServer(Handler())
	defer srv.Close()
	b.ask("Page.navigate", object{"url": srv.URL + "/"}, nil)
	b.until("document.readyState == 'complete'")
	lines := func(from, to int) string {
		var s string
		for i := from; i <= to; i++ {
			s += fmt.Sprintf("%d\r\n", i)
		}
		return s
	}
	for _, c := range []struct{ in, want string }{
		{"hello\r\nworld", "hello|world"},
		{"abc\bX\r\n\tY", "abX|        Y"},
		{"abcdef\x1b[3D\x1b[K", "abc"},
		{"abcdef\r\x1b[2P", "cdef"},
		{"abcdef\r\x1b[2@", "  abcdef"},
		{"abc\x1b[1;31mred\x1b[0m \x1b[38;5;1mx\x1b[38;2;1;2;3my", "abcred xy"},
		{"one\r\ntwo\r\nthree\x1b[2;1H\x1b[L", "one||two|three"},
		{"one\r\ntwo\r\nthree\x1b[1;1H\x1b[M", "two|three"},
		{"one\r\ntwo\x1b[2J\x1b[HX", "X"},
		{"a\x1b7bcd\x1b8X", "aXcd"},
		{"shell\x1b[?1049h\x1b[Heditor\x1b[?1049l!", "shell!"},
		{"\x1b]0;C:\\x\x07a\x1b]0;title\x1b\\b", "ab"},
		{"\x1b(Ba\x1b[?2004hb\x1b[>cc", "abc"},
		{"x\x1b[6n\x1b[c", "x>\x1b[1;2R\x1b[?1;2c"},
		{strings.Repeat("w", 81), strings.Repeat("w", 80) + "|w"},
		{strings.Repeat("w", 80) + "\r\nx", strings.Repeat("w", 80) + "|x"},
		{"\x1b[2;4r\x1b[4;1Ha\nb\n\x1b[r", "|a| b"},
		{"\xc3\xa9\xe2\x82\xac\xff\x00.", "é€\ufffd."},
		{"\x1b[999;999Hq\x1b[99999999999999999999C\x1b[;;;;;m", strings.Repeat("|", 23) + strings.Repeat(" ", 79) + "q"},
		{lines(1, 30), "1|2|3|4|5|6|7|8|9|10|11|12|13|14|15|16|17|18|19|20|21|22|23|24|25|26|27|28|29|30"},
	} {
		got := b.eval(fmt.Sprintf(`import("/screen.js").then(({Screen}) => {
			const e = document.createElement("div"), said = [];
			const s = new Screen(e, (t) => said.push(t));
			s.write(Uint8Array.from(%s, (c) => c.charCodeAt(0)));
			s.draw();
			return [...e.children].flatMap((p) => [...p.children]).map((l) => l.textContent.replace(/\u200b/, "").trimEnd()).join("|").replace(/\|+$/, "") + (said.length ? ">" + said.join("") : "");
		})`, latin(c.in)))
		if got != c.want {
			t.Errorf("%q:\n got %q\nwant %q", c.in, got, c.want)
		}
	}
}

// latin is a string of JavaScript whose characters are the bytes of s.
func latin(s string) string {
	out := make([]rune, len(s))
	for i := range len(s) {
		out[i] = rune(s[i])
	}
	b, _ := json.Marshal(string(out))
	return string(b)
}

// did is what was asked for.
func (f *fake) did() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// SPDX-License-Identifier: Apache-2.0

package web

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// browser is one page of a Chromium without a window, asked over its DevTools protocol.
type browser struct {
	t       *testing.T
	conn    *websocket.Conn
	session string

	mu      sync.Mutex
	next    int
	waiting map[int]chan reply
	log     []string // what the console of the page says: violations of the policy too
}

type reply struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// patience bounds each wait; what is waited for comes at once on an idle machine.
const patience = 30 * time.Second

func newBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed: make tools")
	}
	dir := t.TempDir()
	cmd := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--disable-extensions", "--mute-audio", "--ignore-certificate-errors", "--lang=en",
		"--user-data-dir="+filepath.Join(dir, "user"), "--remote-debugging-port=0", "--remote-debugging-address=127.0.0.1", "about:blank")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	url := make(chan string, 1)
	var read sync.WaitGroup
	read.Go(func() {
		for in := bufio.NewScanner(out); in.Scan(); {
			if u, ok := strings.CutPrefix(in.Text(), "DevTools listening on "); ok {
				url <- u
			}
		}
	})
	t.Cleanup(func() { cmd.Process.Kill(); read.Wait(); cmd.Wait() })
	b := &browser{t: t, waiting: map[int]chan reply{}}
	select {
	case u := <-url:
		if b.conn, _, err = websocket.DefaultDialer.Dial(u, nil); err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("chromium does not say where it listens")
	}
	t.Cleanup(func() { b.conn.Close() })
	go b.read()
	var target struct{ TargetID, SessionID string }
	b.ask("Target.createTarget", object{"url": "about:blank"}, &target)
	b.ask("Target.attachToTarget", object{"targetId": target.TargetID, "flatten": true}, &target)
	b.session = target.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.ask(domain+".enable", nil, nil)
	}
	return b
}

func (b *browser) read() {
	for {
		var m struct {
			ID     int
			Method string
			Params struct {
				Entry            struct{ Text, Level, URL string }
				ExceptionDetails struct{ Exception struct{ Description string } }
			}
			reply
		}
		if b.conn.ReadJSON(&m) != nil {
			return
		}
		b.mu.Lock()
		switch {
		case m.Method == "Log.entryAdded":
			b.log = append(b.log, m.Params.Entry.Level+": "+m.Params.Entry.Text+" "+m.Params.Entry.URL)
		case m.Method == "Runtime.exceptionThrown":
			b.log = append(b.log, "exception: "+m.Params.ExceptionDetails.Exception.Description)
		case b.waiting[m.ID] != nil:
			b.waiting[m.ID] <- m.reply
			delete(b.waiting, m.ID)
		}
		b.mu.Unlock()
	}
}

func (b *browser) try(method string, params, result any) error {
	b.mu.Lock()
	b.next++
	got := make(chan reply, 1)
	b.waiting[b.next] = got
	q := object{"id": b.next, "method": method}
	if params != nil {
		q["params"] = params
	}
	if b.session != "" {
		q["sessionId"] = b.session
	}
	err := b.conn.WriteJSON(q)
	b.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case r := <-got:
		if r.Error != nil {
			return errors.New(r.Error.Message)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(r.Result, result)
	case <-time.After(patience):
		return fmt.Errorf("chromium does not answer %s", method)
	}
}

func (b *browser) ask(method string, params, result any) {
	b.t.Helper()
	if err := b.try(method, params, result); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
}

// eval evaluates an expression in the page.
func (b *browser) eval(expression string) any {
	b.t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails *struct{ Exception struct{ Description string } }
	}
	b.ask("Runtime.evaluate", object{"expression": expression, "returnByValue": true, "awaitPromise": true}, &r)
	if r.ExceptionDetails != nil {
		return r.ExceptionDetails.Exception.Description
	}
	return r.Result.Value
}

// until waits until an expression is true.
func (b *browser) until(expression string) {
	b.t.Helper()
	for end := time.Now().Add(patience); b.eval(expression) != true; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("never: %s\nit says %v\nthe page: %v\nits console: %q", expression, b.eval(expression), b.eval("document.body.innerText"), b.said())
		}
	}
}

// said is what the page's console says.
func (b *browser) said() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.log)
}

func (b *browser) click(selector string) {
	b.t.Helper()
	b.until(fmt.Sprintf("!!document.querySelector(%q) && !document.querySelector(%q).disabled", selector, selector))
	b.eval(fmt.Sprintf("document.querySelector(%q).click()", selector))
}

// key presses a key, which makes text if it is a character.
func (b *browser) key(key string) {
	b.t.Helper()
	down := object{"type": "keyDown", "key": key, "windowsVirtualKeyCode": 0}
	if len(key) == 1 {
		down["text"] = key
	}
	if key == "Enter" {
		down["text"], down["windowsVirtualKeyCode"] = "\r", 13
	}
	b.ask("Input.dispatchKeyEvent", down, nil)
	b.ask("Input.dispatchKeyEvent", object{"type": "keyUp", "key": key}, nil)
}

// size sets the page's width and its scheme of colours.
func (b *browser) size(width, height int, scheme string) {
	b.ask("Emulation.setDeviceMetricsOverride", object{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}, nil)
	b.ask("Emulation.setEmulatedMedia", object{"features": []object{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// shot keeps a picture of the whole page in $TANDEM_SHOTS, for people who look.
func (b *browser) shot(name string) {
	b.t.Helper()
	dir := os.Getenv("TANDEM_SHOTS")
	if dir == "" {
		return
	}
	var r struct{ Data string }
	b.ask("Page.captureScreenshot", object{"captureBeyondViewport": true, "format": "png", "optimizeForSpeed": true}, &r)
	png, err := base64.StdEncoding.DecodeString(r.Data)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)
	}
	if err != nil {
		b.t.Error(err)
	}
}

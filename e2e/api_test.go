// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"tandem/api"
	"tandem/node"
)

// apiClient asks a host's API over TLS, as a client in the world does.
type apiClient struct {
	l     *lab
	at    string // HOST:PORT
	token string
	http  *http.Transport
}

func (l *lab) api(at, token string) *apiClient {
	l.t.Helper()
	pem, err := os.ReadFile(l.path("n1", "state", "pki", "ca.pem"))
	if err != nil {
		l.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true,
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) { return l.dial(addr) }}
	l.t.Cleanup(t.CloseIdleConnections)
	return &apiClient{l, at, token, t}
}

func (c *apiClient) do(method, path string, header ...string) (*http.Response, error) {
	req, err := http.NewRequest(method, "https://"+c.at+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return c.http.RoundTrip(req)
}

// ask returns the status code, and reads the answer into out.
func (c *apiClient) ask(method, path string, out any) (int, error) {
	resp, err := c.do(method, path)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, api.Problem(resp)
	}
	if out != nil {
		err = json.NewDecoder(resp.Body).Decode(out)
	}
	return resp.StatusCode, err
}

// follow reads the stream, from an id on, until stop says so of an event; it returns the
// id of the last one.
func (c *apiClient) follow(id string, limit time.Duration, stop func(kind string, data []byte) bool) string {
	c.l.t.Helper()
	resp, err := c.do("GET", "/v1/stream", "Last-Event-ID", id)
	if err != nil || resp.StatusCode != http.StatusOK {
		c.l.fatalf("the stream: %v %v", resp, err)
	}
	defer resp.Body.Close()
	defer time.AfterFunc(limit, func() { resp.Body.Close() }).Stop()
	kind, lines := "", bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			id = value
		case "event":
			kind = value
		case "data":
			if stop(kind, []byte(value)) {
				return id
			}
		}
	}
	c.l.fatalf("the stream of %s did not say it within %v", c.at, limit)
	return ""
}

// A cluster is worked over TLS with tokens, by whichever node. One that may look can't
// kill a primary; one that may operate can. A stream that was left before the failover
// tells of it when it is read again; samples of both hosts are there, a WebSocket joins
// the console, and ends with its token.
func TestAPI(t *testing.T) {
	img := guest(t)
	hosts := []string{"n1", "n2", "n3"}
	l, _ := newCluster(t, img, hosts...)
	l.ask("n2", "create", "web", "--image", img, "--memory", "256M", "--engine", "jit", "--ft", "--host", "n1", "--start",
		"--disk", "nbd://10.99.0.1:10809/web", "--network", "switch:10.99.0.1:7077", "--timeout", "1s")
	var made struct{ ID, Token string }
	json.Unmarshal([]byte(l.ask("n1", "cluster", "token", "create", "--role", "operate", "--expires", "1h", "--format", "json")), &made)
	look := strings.TrimSpace(l.ask("n1", "cluster", "token", "create", "--role", "view"))
	viewer, operator := l.api("10.99.0.13:7380", look), l.api("10.99.0.12:7380", made.Token)
	var v node.VMInfo
	l.until("protected, by the API", 2*time.Minute, func() bool {
		v = node.VMInfo{}
		_, err := viewer.ask("GET", "/v1/vms/web", &v)
		return err == nil && v.Protected
	})
	l.database().c.Close() // it has booted
	id := viewer.follow("", time.Minute, func(kind string, data []byte) bool {
		var tick node.Tick
		json.Unmarshal(data, &tick)
		return kind == "tick" && len(tick.Samples) == 1 && tick.Samples[0].LogRate > 0 && tick.Samples[0].Node == v.Primary.Node
	})
	if code, err := viewer.ask("POST", "/v1/vms/web/test-failover", nil); code != http.StatusForbidden || !strings.Contains(fmt.Sprint(err), "role operate") {
		t.Errorf("a viewer kills the primary: %d, %v", code, err)
	}
	if _, err := l.api("10.99.0.12:7380", "").ask("GET", "/v1/vms", nil); err == nil || !strings.Contains(err.Error(), "role view") {
		t.Errorf("nobody looks: %v", err)
	}
	if code, err := operator.ask("POST", "/v1/vms/web/test-failover", nil); code != http.StatusOK {
		l.fatalf("an operator tests a failover: %d, %v", code, err)
	}
	l.until("protected again", 2*time.Minute, func() bool { i := l.vm("n2", "web"); return i.Epoch > v.Epoch && i.Protected })
	lived := false
	viewer.follow(id, time.Minute, func(kind string, data []byte) bool {
		var e node.VMEvent
		var i node.VMInfo
		switch kind {
		case "reset":
			t.Error("the stream has forgotten where it was")
		case "event":
			json.Unmarshal(data, &e)
			lived = lived || e.Kind == "live" && e.Epoch == v.Epoch+1
		case "vm":
			json.Unmarshal(data, &i)
		}
		return lived && i.Epoch == v.Epoch+1 && i.Protected
	})
	var samples []node.Sample
	l.until("samples of both hosts", 20*time.Second, func() bool {
		viewer.ask("GET", "/v1/vms/web/samples", &samples)
		seen := map[string]bool{}
		for _, s := range samples {
			seen[s.Node] = true
		}
		return seen[v.Primary.Node] && seen[v.Backup.Node]
	})

	d := websocket.Dialer{NetDial: func(_, addr string) (net.Conn, error) { return l.dial(addr) }, TLSClientConfig: &tls.Config{RootCAs: operator.http.TLSClientConfig.RootCAs}}
	c, _, err := d.Dial("wss://"+operator.at+"/v1/vms/web/console", http.Header{"Authorization": {"Bearer " + operator.token}})
	if err != nil {
		l.fatalf("the console: %v", err)
	}
	defer c.Close()
	c.WriteMessage(websocket.BinaryMessage, []byte("echo $((6*7))x\r"))
	c.SetReadDeadline(time.Now().Add(time.Minute))
	for seen := ""; !strings.Contains(seen, "42x"); {
		_, b, err := c.ReadMessage()
		if err != nil {
			l.fatalf("the console: %v; it said %q", err, seen)
		}
		seen += string(b)
	}
	l.ask("n3", "cluster", "token", "revoke", made.ID)
	for err == nil {
		_, _, err = c.ReadMessage()
	}
	if late := net.Error(nil); errors.As(err, &late) && late.Timeout() {
		t.Error("the console outlives its token")
	}
	if strings.Contains(l.ask("n1", "cluster", "token", "list"), made.ID) {
		t.Error("a revoked token is listed")
	}
}

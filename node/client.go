// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"

	"tandem/api"
	"tandem/host/control"
	"tandem/host/etcd"
)

// Client asks a node's daemon.
type Client struct {
	path string
	http http.Client
}

// NewClient returns a Client of the daemon with a run folder.
func NewClient(run string) *Client {
	c := &Client{path: filepath.Join(run, Socket)}
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", c.path)
	}}
	return c
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return err
		}
	}
	resp, err := c.do(ctx, method, path, &body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	return json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(out)
}

// do returns an answer that is not an error, which the caller closes.
func (c *Client) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://node/v1"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreached(err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, api.Problem(resp)
	}
	return resp, nil
}

// unreached says why the daemon can't be asked.
func (c *Client) unreached(err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no daemon answers at %s: start tandem node, or give its --run folder", c.path)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s may not be opened: run as the daemon's user (%w)", c.path, syscall.EACCES)
	}
	return err
}

// maxRaw bounds an answer that is taken as it is, in bytes.
const maxRaw = 8 << 20

// Raw asks for something below /v1 and returns the answer as it is.
func (c *Client) Raw(ctx context.Context, path string) ([]byte, error) {
	resp, err := c.do(ctx, "GET", path, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, maxRaw))
}

type tokenAnswer struct {
	Token string `json:"token"`
}

// Info asks for the daemon itself.
func (c *Client) Info(ctx context.Context) (i Info, err error) {
	return i, c.call(ctx, "GET", "/info", nil, &i)
}

// Init founds a cluster and returns a token for the others.
func (c *Client) Init(ctx context.Context, r InitRequest) (string, error) {
	var a tokenAnswer
	err := c.call(ctx, "POST", "/cluster/init", r, &a)
	return a.Token, err
}

// Join joins a cluster.
func (c *Client) Join(ctx context.Context, r JoinRequest) error {
	return c.call(ctx, "POST", "/cluster/join", r, nil)
}

// Token returns a new token.
func (c *Client) Token(ctx context.Context) (string, error) {
	var a tokenAnswer
	err := c.call(ctx, "POST", "/cluster/token", nil, &a)
	return a.Token, err
}

// WithdrawTokens makes all tokens worthless.
func (c *Client) WithdrawTokens(ctx context.Context) error {
	return c.call(ctx, "DELETE", "/cluster/token", nil, nil)
}

// CreateToken makes a token of the API.
func (c *Client) CreateToken(ctx context.Context, q TokenRequest) (t MadeToken, err error) {
	return t, c.call(ctx, "POST", "/tokens", q, &t)
}

// Tokens lists the tokens of the API.
func (c *Client) Tokens(ctx context.Context) (list []api.Token, err error) {
	return list, c.call(ctx, "GET", "/tokens", nil, &list)
}

// RevokeToken ends a token of the API.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.call(ctx, "DELETE", "/tokens/"+url.PathEscape(id), nil, nil)
}

// Confirm accepts an etcd that had been wiped or restored.
func (c *Client) Confirm(ctx context.Context) error {
	return c.call(ctx, "POST", "/cluster/confirm", nil, nil)
}

// Nodes lists the nodes.
func (c *Client) Nodes(ctx context.Context) (list []NodeInfo, err error) {
	return list, c.call(ctx, "GET", "/nodes", nil, &list)
}

// ChangeNode changes what is wanted of a node.
func (c *Client) ChangeNode(ctx context.Context, name string, q NodeChange) error {
	return c.call(ctx, "PATCH", "/nodes/"+url.PathEscape(name), q, nil)
}

// RemoveNode takes a node out for good.
func (c *Client) RemoveNode(ctx context.Context, name string) error {
	return c.call(ctx, "DELETE", "/nodes/"+url.PathEscape(name), nil, nil)
}

// VMs lists the VMs.
func (c *Client) VMs(ctx context.Context) (list []VMInfo, err error) {
	return list, c.call(ctx, "GET", "/vms", nil, &list)
}

// VM asks for one VM.
func (c *Client) VM(ctx context.Context, name string) (i VMInfo, err error) {
	return i, c.call(ctx, "GET", "/vms/"+url.PathEscape(name), nil, &i)
}

// Create makes a VM.
func (c *Client) Create(ctx context.Context, q CreateRequest) error {
	return c.call(ctx, "POST", "/vms", q, nil)
}

// ChangeVM changes what is wanted of a VM.
func (c *Client) ChangeVM(ctx context.Context, name string, q VMChange) error {
	return c.call(ctx, "PATCH", "/vms/"+url.PathEscape(name), q, nil)
}

// Move asks for a copy of a VM, primary or backup, to be on another host.
func (c *Client) Move(ctx context.Context, name string, q MoveRequest) error {
	return c.call(ctx, "POST", "/vms/"+url.PathEscape(name)+"/move", q, nil)
}

// Resize makes a disk of a running VM larger.
func (c *Client) Resize(ctx context.Context, name string, q ResizeRequest) error {
	return c.call(ctx, "POST", "/vms/"+url.PathEscape(name)+"/resize", q, nil)
}

// SetMemory asks a guest to run in so many bytes of its memory.
func (c *Client) SetMemory(ctx context.Context, name string, q MemoryRequest) error {
	return c.call(ctx, "POST", "/vms/"+url.PathEscape(name)+"/memory", q, nil)
}

// Attach puts a disk into an empty drive of a VM, running or not.
func (c *Client) Attach(ctx context.Context, name string, q AttachRequest) error {
	return c.call(ctx, "POST", "/vms/"+url.PathEscape(name)+"/attach", q, nil)
}

// Detach takes a disk out of a VM, running or not.
func (c *Client) Detach(ctx context.Context, name string, q DetachRequest) error {
	return c.call(ctx, "POST", "/vms/"+url.PathEscape(name)+"/detach", q, nil)
}

// MoveDisk begins to move a disk of a running VM to another place; DiskMove tells how it
// goes, and StayDisk gives it up.
func (c *Client) MoveDisk(ctx context.Context, name string, q DiskMoveRequest) error {
	return c.call(ctx, "POST", "/vms/"+url.PathEscape(name)+"/disk-move", q, nil)
}

// DiskMove is the newest move of a disk of a VM.
func (c *Client) DiskMove(ctx context.Context, name string) (m control.DiskMove, err error) {
	return m, c.call(ctx, "GET", "/vms/"+url.PathEscape(name)+"/disk-move", nil, &m)
}

// StayDisk gives up the move of a disk that is still being copied.
func (c *Client) StayDisk(ctx context.Context, name string) error {
	return c.call(ctx, "DELETE", "/vms/"+url.PathEscape(name)+"/disk-move", nil, nil)
}

// Command does something at a VM's primary: shutdown, reset or test-failover.
func (c *Client) Command(ctx context.Context, name, command string) error {
	return c.call(ctx, "POST", "/vms/"+url.PathEscape(name)+"/"+command, nil, nil)
}

// Console opens a connection with a VM's console; recent asks for what was printed
// last. It ends when the primary does.
func (c *Client) Console(ctx context.Context, name string, recent bool) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.path)
	if err != nil {
		return nil, c.unreached(err)
	}
	query := ""
	if !recent {
		query = "?recent=no"
	}
	return control.Upgrade(conn, "/v1/vms/"+url.PathEscape(name)+"/console"+query)
}

// maxMessage bounds a message of the stream, in bytes.
const maxMessage = 4 << 20

// Stream calls f with what happens, as the stream tells it, until ctx ends, f fails or
// the daemon does. It begins with a reset.
func (c *Client) Stream(ctx context.Context, f func(kind string, data []byte) error) error {
	resp, err := c.do(ctx, "GET", "/stream", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxMessage)
	for kind := ""; lines.Scan(); {
		switch name, value, _ := strings.Cut(lines.Text(), ": "); name {
		case "event":
			kind = value
		case "data":
			if err := f(kind, []byte(value)); err != nil {
				return err
			}
		}
	}
	return cmp.Or(lines.Err(), io.ErrUnexpectedEOF)
}

// Samples are how a VM did in the last minutes, the oldest first.
func (c *Client) Samples(ctx context.Context, name string) (list []Sample, err error) {
	return list, c.call(ctx, "GET", "/vms/"+url.PathEscape(name)+"/samples", nil, &list)
}

// Delete ends a VM and removes its record; its disks stay.
func (c *Client) Delete(ctx context.Context, name string) error {
	return c.call(ctx, "DELETE", "/vms/"+url.PathEscape(name), nil, nil)
}

// Events lists what happened to a VM, the oldest first.
func (c *Client) Events(ctx context.Context, name string) (list []etcd.Event, err error) {
	return list, c.call(ctx, "GET", "/vms/"+url.PathEscape(name)+"/events", nil, &list)
}

// Missing reports whether an error says that there is nothing of that name.
func Missing(err error) bool {
	var f api.Failure
	return errors.As(err, &f) && f.Code == http.StatusNotFound
}

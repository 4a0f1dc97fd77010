// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"

	"tandem/machine/event"
	"tandem/replica"
)

// ErrRefused is wrapped by the errors of commands that the replica has refused, or given
// up; the text says why.
var ErrRefused = errors.New("refused by the replica")

// commandTime is how long an answer may take: a change of roles ends with the claim.
const commandTime = 30 * time.Second

// commands are what a replica can be asked for, by the path of the request.
var commands = map[string]func(r *replica.Replica, arg int) error{
	"poweroff":      func(r *replica.Replica, _ int) error { return r.PowerOff() },
	"shutdown":      func(r *replica.Replica, _ int) error { return r.Shutdown() },
	"reset":         func(r *replica.Replica, _ int) error { return r.Reset() },
	"cpu-share":     (*replica.Replica).SetCPUShare,
	"switch":        func(r *replica.Replica, _ int) error { return r.Switch() },
	"detach":        func(r *replica.Replica, _ int) error { return r.Detach() },
	"resume":        func(r *replica.Replica, _ int) error { return r.Resume() },
	"report":        func(r *replica.Replica, _ int) error { return r.ReportDiskErrors() },
	"test-failover": func(r *replica.Replica, _ int) error { return r.TestFailover() },
}

// diskCommands are those about the disk in a slot.
var diskCommands = map[string]func(r *replica.Replica, slot event.DeviceID, q url.Values) error{
	"disk-resize": func(r *replica.Replica, slot event.DeviceID, q url.Values) error {
		size, err := strconv.ParseUint(q.Get("bytes"), 10, 64)
		if err != nil {
			return errors.New("disk-resize needs bytes=N")
		}
		return r.ResizeDisk(slot, size)
	},
	"disk-attach": func(r *replica.Replica, slot event.DeviceID, q url.Values) error {
		return r.InsertDisk(slot, q.Get("disk"))
	},
	"disk-detach": func(r *replica.Replica, slot event.DeviceID, _ url.Values) error { return r.EjectDisk(slot) },
}

// diskCommand reads the arguments of a disk's command.
func diskCommand(name string, q url.Values) (func(r *replica.Replica, _ int) error, error) {
	slot, err := strconv.ParseUint(q.Get("slot"), 10, 3)
	if err != nil {
		return nil, fmt.Errorf("%s needs slot=N, from 0 to 7", name)
	}
	return func(r *replica.Replica, _ int) error { return diskCommands[name](r, event.DeviceID(slot), q) }, nil
}

// command is one that waits for its answer.
type command struct {
	do    func(r *replica.Replica, arg int) error
	arg   int
	reply chan error // takes one answer without a reader
}

var errGone = fmt.Errorf("%w: this copy has ended", ErrRefused)

// post hands a command to the replica's loop and answers with its outcome: 202, or 409
// with {"error": why}.
func (s *Server) post(w http.ResponseWriter, req *http.Request) {
	name := req.PathValue("command")
	do, ok := commands[name]
	var bad error
	if diskCommands[name] != nil {
		do, bad = diskCommand(name, req.URL.Query())
		ok = true
	}
	c := &command{do: do, reply: make(chan error, 1)}
	switch {
	case !ok:
		answer(w, http.StatusNotFound, fmt.Errorf("there is no command %s", name))
		return
	case bad != nil:
		answer(w, http.StatusBadRequest, bad)
		return
	case name == "test-failover" && req.URL.Query().Get("confirm") != "yes":
		answer(w, http.StatusBadRequest, errors.New("test-failover kills this process: confirm=yes says that this is meant"))
		return
	case name == "cpu-share":
		n, err := strconv.Atoi(req.URL.Query().Get("thousandths"))
		if err != nil {
			answer(w, http.StatusBadRequest, errors.New("cpu-share needs thousandths=N"))
			return
		}
		c.arg = n
	}
	if err := s.await(req.Context(), c); err != nil {
		answer(w, http.StatusConflict, err)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	if name == "test-failover" {
		http.NewResponseController(w).Flush()
		s.kill()
	}
}

// await queues a command and waits for its outcome.
func (s *Server) await(ctx context.Context, c *command) error {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return errGone
	}
	s.queue = append(s.queue, c)
	s.mu.Unlock()
	s.wake()
	select {
	case err := <-c.reply:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(commandTime):
		return fmt.Errorf("the replica has not answered for %v", commandTime)
	}
}

func answer(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(failure{err.Error()})
}

// failure is the body of an answer that is not good.
type failure struct {
	Error string `json:"error"`
}

// carryOut begins what was asked for. What takes a while is answered by Settle.
func (s *Server) carryOut(r *replica.Replica, queue []*command) {
	for _, c := range queue {
		before := r.Operation().Under
		switch err := c.do(r, c.arg); {
		case err == nil && r.Operation().Under && !before:
			s.under = c
		default:
			c.reply <- err
		}
	}
}

// Settle answers what has come to its end; the replica's loop calls it after each turn.
// A nil Server does nothing.
func (s *Server) Settle(r *replica.Replica) {
	if s == nil || s.under == nil || r.Operation().Under {
		return
	}
	s.under.reply <- r.Operation().Err
	s.under = nil
}

// end refuses what was never served, and what comes from now on.
func (s *Server) end() {
	s.mu.Lock()
	queue := s.queue
	s.queue, s.ended = nil, true
	s.mu.Unlock()
	if s.under != nil {
		queue, s.under = append(queue, s.under), nil
	}
	for _, c := range queue {
		c.reply <- errGone
	}
}

// killSelf is what test-failover does to its process: no word to anybody, as kill -9.
func killSelf() { syscall.Kill(os.Getpid(), syscall.SIGKILL) }

// PowerOff pulls the plug on the VM: both copies end.
func (c *Client) PowerOff() error { return c.ask(&c.http, "poweroff", nil) }

// Shutdown presses the VM's power button, which asks the guest to shut down; it does not
// wait for that.
func (c *Client) Shutdown() error { return c.command("shutdown", nil) }

// Reset presses the VM's reset button.
func (c *Client) Reset() error { return c.command("reset", nil) }

// SetCPUShare bounds what the VM uses of one CPU, in thousandths.
func (c *Client) SetCPUShare(thousandths int) error {
	return c.command("cpu-share", url.Values{"thousandths": {strconv.Itoa(thousandths)}})
}

// ResizeDisk makes the disk in a slot larger, and returns when the guest has been told.
func (c *Client) ResizeDisk(slot int, bytes uint64) error {
	return c.command("disk-resize", url.Values{"slot": {strconv.Itoa(slot)}, "bytes": {strconv.FormatUint(bytes, 10)}})
}

// InsertDisk puts a disk into the empty drive in a slot, and returns when the guest has
// been told.
func (c *Client) InsertDisk(slot int, disk string) error {
	return c.command("disk-attach", url.Values{"slot": {strconv.Itoa(slot)}, "disk": {disk}})
}

// EjectDisk takes the disk out of a slot's drive.
func (c *Client) EjectDisk(slot int) error {
	return c.command("disk-detach", url.Values{"slot": {strconv.Itoa(slot)}})
}

// Switch makes the backup the primary, and returns when it is; the replica that was
// asked has then halted.
func (c *Client) Switch() error { return c.command("switch", nil) }

// Detach ends the backup, and returns when the primary goes on alone.
func (c *Client) Detach() error { return c.command("detach", nil) }

// Resume has a VM go on that stopped as a disk failed: what failed is tried again.
func (c *Client) Resume() error { return c.command("resume", nil) }

// ReportDiskErrors has such a VM go on: the guest is told of the error.
func (c *Client) ReportDiskErrors() error { return c.command("report", nil) }

// TestFailover kills the primary's process, if there is a backup that can go on.
func (c *Client) TestFailover() error {
	return c.command("test-failover", url.Values{"confirm": {"yes"}})
}

func (c *Client) command(name string, query url.Values) error {
	return c.ask(&c.commands, name, query)
}

func (c *Client) ask(by *http.Client, name string, query url.Values) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTime+time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://replica/"+name+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := by.Do(req)
	if err != nil {
		return fmt.Errorf("ask the replica for %s: %w", name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusAccepted {
		return nil
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	f := failure{Error: resp.Status}
	json.NewDecoder(bytes.NewReader(b)).Decode(&f)
	return fmt.Errorf("%s: %w: %s", name, ErrRefused, f.Error)
}

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

// order is what a replica is asked for.
type order func(r *replica.Replica) error

// orders are what a replica can be asked for, by the path of the request, with what its
// query says.
var orders = map[string]func(q url.Values) (order, error){
	"poweroff": plain((*replica.Replica).PowerOff),
	"shutdown": plain((*replica.Replica).Shutdown),
	"reset":    plain((*replica.Replica).Reset),
	"switch":   plain((*replica.Replica).Switch),
	"detach":   plain((*replica.Replica).Detach),
	"resume":   plain((*replica.Replica).Resume),
	"report":   plain((*replica.Replica).ReportDiskErrors),
	"test-failover": func(q url.Values) (order, error) {
		if q.Get("confirm") != "yes" {
			return nil, errors.New("test-failover kills this process: confirm=yes says that this is meant")
		}
		return (*replica.Replica).TestFailover, nil
	},
	"cpu-share": func(q url.Values) (order, error) {
		n, err := number(q, "thousandths", 31)
		return func(r *replica.Replica) error { return r.SetCPUShare(int(n)) }, err
	},
	"memory": func(q url.Values) (order, error) {
		n, err := number(q, "bytes", 64)
		return func(r *replica.Replica) error { return r.SetMemory(n) }, err
	},
	"disk-resize": func(q url.Values) (order, error) {
		slot, err := number(q, "slot", 3)
		n, err2 := number(q, "bytes", 64)
		return func(r *replica.Replica) error { return r.ResizeDisk(event.DeviceID(slot), n) }, errors.Join(err, err2)
	},
	"disk-attach": func(q url.Values) (order, error) {
		slot, err := number(q, "slot", 3)
		return func(r *replica.Replica) error { return r.InsertDisk(event.DeviceID(slot), q.Get("disk")) }, err
	},
	"disk-move": func(q url.Values) (order, error) {
		slot, err := number(q, "slot", 3)
		return func(r *replica.Replica) error { return r.MoveDisk(event.DeviceID(slot), q.Get("disk")) }, err
	},
	"disk-settle": func(q url.Values) (order, error) {
		slot, err := number(q, "slot", 3)
		return func(r *replica.Replica) error { return r.SettleDisk(event.DeviceID(slot)) }, err
	},
	"disk-stay": plain((*replica.Replica).CancelMove),
	"disk-detach": func(q url.Values) (order, error) {
		slot, err := number(q, "slot", 3)
		return func(r *replica.Replica) error { return r.EjectDisk(event.DeviceID(slot)) }, err
	},
}

func plain(o order) func(url.Values) (order, error) {
	return func(url.Values) (order, error) { return o, nil }
}

// number reads a number of so many bits.
func number(q url.Values, name string, bits int) (uint64, error) {
	n, err := strconv.ParseUint(q.Get(name), 10, bits)
	if err != nil {
		return 0, fmt.Errorf("this needs %s=N, from 0 to %d", name, uint64(1)<<bits-1)
	}
	return n, nil
}

// command is one that waits for its answer.
type command struct {
	do    order
	reply chan error // takes one answer without a reader
}

var errGone = fmt.Errorf("%w: this copy has ended", ErrRefused)

// post hands a command to the replica's loop and answers with its outcome: 202, or 409
// with {"error": why}.
func (s *Server) post(w http.ResponseWriter, req *http.Request) {
	name := req.PathValue("command")
	read, ok := orders[name]
	if !ok {
		answer(w, http.StatusNotFound, fmt.Errorf("there is no command %s", name))
		return
	}
	do, err := read(req.URL.Query())
	if err != nil {
		answer(w, http.StatusBadRequest, err)
		return
	}
	c := &command{do: do, reply: make(chan error, 1)}
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
		switch err := c.do(r); {
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

// SetMemory asks the guest to run in so many bytes of its memory.
func (c *Client) SetMemory(bytes uint64) error {
	return c.command("memory", url.Values{"bytes": {strconv.FormatUint(bytes, 10)}})
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

// MoveDisk begins to move the shared disk in a slot to another one; Status tells how it
// goes. It ends with SettleDisk, once the VM would be started with the new disk, or with
// StayDisk before it is copied.
func (c *Client) MoveDisk(slot int, disk string) error {
	return c.command("disk-move", url.Values{"slot": {strconv.Itoa(slot)}, "disk": {disk}})
}

// SettleDisk leaves a disk's old place behind.
func (c *Client) SettleDisk(slot int) error {
	return c.command("disk-settle", url.Values{"slot": {strconv.Itoa(slot)}})
}

// StayDisk gives up a move.
func (c *Client) StayDisk() error { return c.command("disk-stay", nil) }

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

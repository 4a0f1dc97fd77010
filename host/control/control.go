// SPDX-License-Identifier: Apache-2.0

// Package control is a replica process's door for people and for its daemon: a
// Unix socket with HTTP, and a file of events.
//
//	GET  /status                     a Status as JSON
//	GET  /console?recent=no          becomes a connection with the VM's console (Upgrade)
//	POST /poweroff                   pulls the plug: both copies of the VM end
//	POST /reset                      presses the reset button
//	POST /cpu-share?thousandths=N    bounds what the VM uses of one CPU
//	POST /switch                     the backup becomes the primary, this copy halts
//	POST /detach                     the backup ends, this copy goes on alone
//	POST /test-failover?confirm=yes  kills this process, so that the backup goes on
//
// A command is answered when it is done: 202, or 409 and {"error": why} if it is not
// possible now, or was given up. All but status are for the primary's copy.
//
// The replica's own loop answers: Serve is called between turns, and Settle, so that
// nothing else ever touches a replica.
package control

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"tandem/ft"
	"tandem/replica"
)

// Status is a replica's state. Times are in seconds.
type Status struct {
	Role           string  `json:"role"` // primary or backup
	State          string  `json:"state"`
	Epoch          uint64  `json:"epoch"`
	Wait           string  `json:"wait,omitempty"`
	Step           uint64  `json:"step"`
	GuestSeconds   float64 `json:"guest_seconds"`
	CPUShare       float64 `json:"cpu_share"`
	LagSeconds     float64 `json:"execution_lag_seconds"`
	RoundTrip      float64 `json:"round_trip_seconds"`
	LogSentBytes   uint64  `json:"log_sent_bytes"`
	LogBufferBytes int     `json:"log_buffer_bytes"`
	Entries        uint64  `json:"entries"`
	Last           uint64  `json:"last_entry"`
	Acknowledged   uint64  `json:"acknowledged_entry"`
	Executed       uint64  `json:"executed_entry"`
	HeldOutputs    int     `json:"held_outputs"`
	Released       uint64  `json:"released_output"`
	Failovers      uint64  `json:"failovers"`
	OutputDelay    float64 `json:"output_delay_seconds"` // sum over all outputs released
	Outputs        uint64  `json:"outputs_released"`

	// A primary's machine had to wait for the backup: its buffer was full, or the lag
	// too large.
	Waits    uint64             `json:"waits"`
	WaitTime float64            `json:"wait_seconds"`
	Waited   map[string]float64 `json:"wait_seconds_by_reason,omitempty"`

	// Of the clone that is being sent, or was sent last.
	ClonePause float64 `json:"clone_pause_seconds"` // the guest stood still for it, at most, at a time
	CloneTime  float64 `json:"clone_seconds"`
	CloneBytes uint64  `json:"clone_sent_bytes"`
	CloneRound int     `json:"clone_round"`
	CloneLeft  int     `json:"clone_pages_left"`
	Clones     uint64  `json:"clones_sent"`

	// Of disks: blocks sent to bring the newest backup's own up to date, and what is left
	// of that; writes that waited for a read of the backup; a backup's requests that
	// failed at first.
	ResyncBytes uint64 `json:"resync_sent_bytes"`
	ResyncLeft  uint64 `json:"resync_left_bytes"`
	ReadWaits   uint64 `json:"writes_behind_reads"`
	DiskRetries uint64 `json:"disk_retries"`

	Memory      uint64 `json:"memory_bytes"`       // that the guest is to run in
	MemoryGiven uint64 `json:"memory_given_bytes"` // that it does without

	DiskMove *DiskMove `json:"disk_move,omitempty"` // the newest

	CPULimit  float64 `json:"cpu_limit"`                 // of one CPU, set by the operator
	Operation string  `json:"operation,omitempty"`       // that is under way: switch or detach
	GivenUp   string  `json:"operation_error,omitempty"` // why the newest one was

	Engine Engine `json:"engine"`
}

// DiskMove is a disk that moves to another place, or the last one that did.
type DiskMove struct {
	Phase  replica.MovePhase `json:"phase,omitempty"` // empty: it has ended
	Slot   int               `json:"slot"`
	To     string            `json:"to"`
	Copied uint64            `json:"copied_bytes"`
	Size   uint64            `json:"size_bytes"`
	Error  string            `json:"error,omitempty"` // why it was given up
}

// Engine says how this copy's steps were executed, and what the translator did.
type Engine struct {
	Translated     uint64 `json:"translated_steps"`
	Interpreted    uint64 `json:"interpreted_steps"`
	Interrupts     uint64 `json:"interrupts"`
	Regions        uint64 `json:"regions,omitempty"`
	CodeBytes      int    `json:"code_bytes,omitempty"` // in use
	CodeCacheBytes int    `json:"code_cache_bytes,omitempty"`
	Resets         uint64 `json:"code_cache_resets,omitempty"`
	Entries        uint64 `json:"translated_entries,omitempty"` // from Go
	Refills        uint64 `json:"tlb_refills,omitempty"`
}

// refresh is how often the status is taken while the replica is busy.
const refresh = 5 * time.Millisecond

// Server is the socket.
type Server struct {
	http http.Server
	ln   net.Listener
	done chan struct{}

	wake  func()
	kill  func() // this process
	join  Join
	under *command // begun, not yet answered; the loop's

	mu     sync.Mutex
	status Status
	taken  time.Time
	queue  []*command
	ended  bool // nobody serves any more
}

// Join lets somebody join the VM's console, who is shown what was printed last if
// recent says so; run serves the connection until it ends.
type Join func(recent bool) (run func(io.ReadWriteCloser), err error)

// Listen opens the socket at path; wake makes the replica's loop turn. Without join
// there is no console.
func Listen(path string, wake func(), join Join) (*Server, error) {
	os.Remove(path)
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	s := &Server{ln: ln, wake: wake, join: join, kill: killSelf, done: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", s.getStatus)
	mux.HandleFunc("GET /console", s.getConsole)
	mux.HandleFunc("POST /{command}", s.post)
	s.http = http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		s.http.Serve(ln)
		close(s.done)
	}()
	return s, nil
}

// lastWords is how long Close waits for answers to be written.
const lastWords = time.Second

// Close closes the socket, once what was asked is answered, and waits for its goroutine.
// The loop has ended.
func (s *Server) Close() error {
	s.end()
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	<-s.done
	return err
}

func (s *Server) getStatus(w http.ResponseWriter, _ *http.Request) {
	s.wake()
	s.mu.Lock()
	st := s.status
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(st)
}

// Serve does what was asked for; the replica's loop calls it between turns. A nil
// Server does nothing.
func (s *Server) Serve(r *replica.Replica) {
	if s == nil {
		return
	}
	s.mu.Lock()
	if now := time.Now(); now.Sub(s.taken) >= refresh {
		s.taken, s.status = now, take(r)
	}
	queue := s.queue
	s.queue = nil
	s.mu.Unlock()
	s.carryOut(r, queue)
}

func take(r *replica.Replica) Status {
	p, n := r.Status(), r.Stats()
	s := Status{
		Role: r.Role().String(), State: p.State.String(), Epoch: uint64(p.Epoch), Wait: p.Wait,
		CPUShare: float64(p.Share) / ft.FullShare, LagSeconds: seconds(p.Lag), RoundTrip: seconds(p.Trip),
		LogSentBytes: n.LogBytes, LogBufferBytes: p.LogBytes, Entries: n.Entries,
		Last: uint64(p.Last), Acknowledged: uint64(p.Acked), Executed: uint64(p.Backup.Executed),
		HeldOutputs: p.Held, Released: uint64(p.Released), Failovers: n.Failovers,
		OutputDelay: seconds(n.Delay), Outputs: n.Released,
		ClonePause: seconds(n.ClonePause), CloneTime: seconds(n.CloneTime), CloneBytes: n.CloneBytes,
		CloneRound: n.CloneRound, CloneLeft: n.CloneLeft, Clones: n.Clones,
		ResyncBytes: n.ResyncBytes, ResyncLeft: n.ResyncLeft, ReadWaits: n.ReadWaits, DiskRetries: n.DiskRetries,
		Waits: n.Waits, WaitTime: seconds(n.WaitTime), CPULimit: float64(r.CPUShare()) / ft.FullShare,
	}
	s.Memory, s.MemoryGiven = r.Memory()
	if m := r.Move(); m.Source != "" {
		s.DiskMove = &DiskMove{Phase: m.Phase, Slot: int(m.Slot), To: m.Source, Copied: m.Copied, Size: m.Size}
		if m.Err != nil {
			s.DiskMove.Error = m.Err.Error()
		}
	}
	if why := r.Paused(); why != "" {
		s.Wait = why
	}
	switch op := r.Operation(); {
	case op.Under:
		s.Operation = op.Name
	case op.Err != nil:
		s.GivenUp = op.Name + ": " + op.Err.Error()
	}
	for why, t := range n.Waited {
		if s.Waited == nil {
			s.Waited = map[string]float64{}
		}
		s.Waited[why] = seconds(t)
	}
	if m := r.Machine(); m != nil {
		s.Step, s.GuestSeconds = uint64(m.Step()), float64(m.Time())/1e7
		n := m.Stats()
		s.Engine = Engine{
			Translated: n.Translated.Steps, Interpreted: n.Interpreted, Interrupts: n.Interrupts,
			Regions: n.Translated.Regions, CodeBytes: n.CodeUsed, CodeCacheBytes: n.CodeSize,
			Resets: n.Translated.Resets, Entries: n.Translated.Entries, Refills: n.Translated.Refills,
		}
	}
	return s
}

func seconds(t ft.Time) float64 { return float64(t) / float64(ft.Second) }

// Client asks the control socket of a replica.
type Client struct{ http, commands http.Client }

// NewClient returns a Client of the socket at path.
func NewClient(path string) *Client {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
		IdleConnTimeout: idleTime,
	}
	return &Client{http.Client{Timeout: 2 * time.Second, Transport: t}, http.Client{Transport: t}}
}

// idleTime is how long a Client keeps a connection that it has no use for.
const idleTime = 5 * time.Second

// Status asks for the status.
func (c *Client) Status() (s Status, err error) {
	resp, err := c.http.Get("http://replica/status")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&s)
}

// SPDX-License-Identifier: Apache-2.0

// Package api is the HTTP API of a node without what it does: who may do what, how
// answers and errors look, and a stream of events that resumes. What the routes do,
// package node says, and openapi.yaml tells the world.
//
//	Unix socket ── Local ──┐                    ┌─ Route.Do ─► JSON
//	                       ├─► mux ─► role? ────┼─ Route.Serve (streams, consoles)
//	TLS ────────── Remote ─┘                    └─ pages: the dashboard
//
// # Who may do what
//
// Whoever may open the socket may do everything. Over TLS a request is of the role that
// its proof has: a certificate of the cluster's CA is a host's, and hosts may do
// everything; a token has one of three roles. A role includes those below it.
//
//	admin     make and delete VMs, hosts and tokens
//	operate   start, stop, move, evacuate, use consoles
//	view      look
//
// A browser keeps its token in a cookie that scripts can't read and other sites can't
// send. Beside that, changes asked for by another site's page are refused, also on the
// socket, which people forward to a port of their own host; there a name that resolves
// to that port is refused too.
package api

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Document describes all routes, in OpenAPI 3.1. A test of package node holds it and the
// routes equal.
//
//go:embed openapi.yaml
var Document []byte

// MaxRequest bounds the body of a request, in bytes.
const MaxRequest = 1 << 20

// bodyTime is how long a body may take to arrive.
const bodyTime = 30 * time.Second

// Route is one thing that can be asked for. Do answers with JSON; Serve answers itself.
type Route struct {
	Pattern string // of http.ServeMux
	Role    Role   // that is needed
	Do      func(*http.Request) (any, error)
	Serve   http.HandlerFunc
}

// Server serves routes.
type Server struct {
	routes []Route
	mux    *http.ServeMux
	guard  *http.CrossOriginProtection
	find   func(id string) (Token, bool)
	note   func(who Grant, r *http.Request)
}

// New returns a Server of routes, and of pages for all that is no route. Find looks up a
// token; note is told of changes that are asked for from afar.
func New(routes []Route, pages http.Handler, find func(id string) (Token, bool), note func(Grant, *http.Request)) *Server {
	s := &Server{mux: http.NewServeMux(), guard: http.NewCrossOriginProtection(), find: find, note: note}
	s.routes = append([]Route{
		{Pattern: "GET /v1/openapi.yaml", Serve: getDocument},
		{Pattern: "GET /v1/session", Role: View, Do: getSession},
		{Pattern: "POST /v1/session", Serve: s.postSession},
		{Pattern: "DELETE /v1/session", Serve: deleteSession},
	}, routes...)
	for _, r := range s.routes {
		s.mux.HandleFunc(r.Pattern, s.handler(r))
	}
	s.mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		Tell(w, Failf(http.StatusNotFound, "there is no %s %s: /v1/openapi.yaml lists what there is", r.Method, r.URL.Path))
	})
	s.mux.Handle("/", pages)
	return s
}

// Routes are all that New was given, and the server's own.
func (s *Server) Routes() []Route { return s.routes }

func (s *Server) handler(r Route) http.HandlerFunc {
	do := r.Serve
	if do == nil {
		do = Answer(r.Do)
	}
	return func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if err := Need(q, r.Role); err != nil {
			Tell(w, err)
			return
		}
		if g := Who(q); s.note != nil && r.Role > Public && g.By != BySocket && q.Method != http.MethodGet {
			s.note(g, q)
		}
		do(w, q)
	}
}

// Answer makes a handler that answers with JSON.
func Answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		c.SetReadDeadline(time.Now().Add(bodyTime))
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxRequest))
		c.SetReadDeadline(time.Time{})
		if err != nil {
			Tell(w, Failf(http.StatusBadRequest, "the request could not be read: %w", err))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(b))
		v, err := f(r)
		if err != nil {
			Tell(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v)
	}
}

// Read reads a request's body; an empty one is a zero.
func Read[T any](r *http.Request) (v T, err error) {
	d := json.NewDecoder(io.LimitReader(r.Body, MaxRequest))
	d.DisallowUnknownFields()
	if err = d.Decode(&v); err != nil && !errors.Is(err, io.EOF) {
		return v, Failf(http.StatusBadRequest, "the request is no JSON of the kind wanted: %w", err)
	}
	return v, nil
}

// Failure is an error with its status code.
type Failure struct {
	Code int
	Err  error
	Role Role // that is missing
}

func (f Failure) Error() string { return f.Err.Error() }

// Unwrap implements the errors package's interface.
func (f Failure) Unwrap() error { return f.Err }

// Fail gives an error its status code.
func Fail(code int, err error) error { return Failure{Code: code, Err: err} }

// Failf makes a Failure.
func Failf(code int, format string, args ...any) error {
	return Fail(code, fmt.Errorf(format, args...))
}

// problem is the body of an answer that is not good.
type problem struct {
	Error string `json:"error"`
	Role  *Role  `json:"role,omitempty"`
}

// Tell answers with an error: 503, if it has no code of its own.
func Tell(w http.ResponseWriter, err error) {
	f := Failure{Code: http.StatusServiceUnavailable}
	errors.As(err, &f)
	p := problem{Error: err.Error()}
	if f.Role != Public {
		p.Role = &f.Role
	}
	if f.Code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="tandem"`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.Code)
	json.NewEncoder(w).Encode(p)
}

// Problem reads what Tell has written.
func Problem(resp *http.Response) error {
	p := problem{}
	if json.NewDecoder(io.LimitReader(resp.Body, MaxRequest)).Decode(&p) != nil || p.Error == "" {
		p.Error = resp.Status
	}
	f := Failure{Code: resp.StatusCode, Err: errors.New(p.Error)}
	if p.Role != nil {
		f.Role = *p.Role
	}
	return f
}

func getDocument(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	w.Write(Document)
}

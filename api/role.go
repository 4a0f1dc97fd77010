// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// Role is what somebody may do; it includes those below it.
type Role uint8

const (
	Public Role = iota // what anybody may do
	View
	Operate
	Admin
)

var roleNames = [...]string{"public", "view", "operate", "admin"}

func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return fmt.Sprintf("unknown %d", uint8(r))
}

// ParseRole reads a role that a token can have.
func ParseRole(s string) (Role, error) {
	for r := View; r <= Admin; r++ {
		if s == r.String() {
			return r, nil
		}
	}
	return 0, fmt.Errorf("role %q: choose view, operate or admin", s)
}

// MarshalText implements encoding.TextMarshaler.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Role) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRole(string(b))
	return err
}

// How somebody is known.
const (
	BySocket      = "socket"
	ByCertificate = "certificate"
	ByToken       = "token"
)

// Grant is who asks, and what they may do. The zero Grant is of nobody.
type Grant struct {
	Role    Role      `json:"role"`
	Name    string    `json:"name,omitempty"` // of the token, or the host
	By      string    `json:"by"`
	Expires time.Time `json:"expires,omitzero"`
	holds   func() bool
}

// Holds reports that a Grant has not ended: what lasts is to ask again and again.
func (g Grant) Holds() bool { return g.holds == nil || g.holds() }

func (g Grant) String() string {
	if g.Name == "" {
		return g.By
	}
	return g.By + " " + g.Name
}

// holdEvery is how often what lasts looks whether its Grant still holds.
const holdEvery = time.Second

// While returns a context that ends when who asks may not any more.
func While(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	g := Who(r)
	if g.holds == nil {
		return ctx, cancel
	}
	go func() {
		defer cancel()
		t := time.NewTicker(holdEvery)
		defer t.Stop()
		for g.Holds() {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
	}()
	return ctx, cancel
}

type grantKey struct{}

// Who asks.
func Who(r *http.Request) Grant {
	g, _ := r.Context().Value(grantKey{}).(Grant)
	return g
}

// Need refuses what the one who asks may not do.
func Need(r *http.Request, role Role) error {
	g := Who(r)
	remedy := fmt.Sprintf("tandem cluster token create --role %s makes a token", role)
	switch {
	case g.Role >= role:
		return nil
	case g.Role == Public:
		return Failure{http.StatusUnauthorized, fmt.Errorf("this needs the role %s: log in with a token; %s", role, remedy), role}
	}
	return Failure{http.StatusForbidden, fmt.Errorf("this needs the role %s, and %s has %s; %s", role, g, g.Role, remedy), role}
}

// Local serves the socket: who may open it may do everything.
func (s *Server) Local() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := plainHost(r.Host); err != nil {
			Tell(w, err)
			return
		}
		s.serve(w, r, Grant{Role: Admin, By: BySocket})
	})
}

// plainHost refuses names that somebody else's DNS server could lead to a port which a
// user has forwarded to the socket.
func plainHost(host string) error {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if net.ParseIP(strings.Trim(host, "[]")) == nil && strings.Contains(host, ".") {
		return Failf(http.StatusForbidden, "the socket is not served as %q: ask for localhost or an address", host)
	}
	return nil
}

// Remote serves TLS, where each request proves who asks.
func (s *Server) Remote() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g, err := s.identify(r)
		if err != nil {
			http.SetCookie(w, cookie("", -1))
			Tell(w, err)
			return
		}
		s.serve(w, r, g)
	})
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, g Grant) {
	if err := s.guard.Check(r); err != nil {
		Tell(w, Failf(http.StatusForbidden, "a page of another site may not ask for this (%w)", err))
		return
	}
	s.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), grantKey{}, g)))
}

// errToken is told of tokens that are of no use any more, and of wrong ones.
var errToken = errors.New("this token is not known: it was revoked, has expired or is not copied whole; log in with another one")

// identify finds out who asks. Nobody is no error, but a proof that is wrong is, except
// on the way to log in anew.
func (s *Server) identify(r *http.Request) (Grant, error) {
	text, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		if c, err := r.Cookie(cookieName); err == nil {
			text = c.Value
		}
	}
	if text == "" {
		if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
			return Grant{Role: Admin, Name: r.TLS.VerifiedChains[0][0].Subject.CommonName, By: ByCertificate}, nil
		}
		return Grant{}, nil
	}
	g, ok := s.granted(text)
	if !ok && (bearer || strings.HasPrefix(r.URL.Path, "/v1/") && r.URL.Path != sessionPath) {
		return Grant{}, Failure{http.StatusUnauthorized, errToken, View}
	}
	return g, nil
}

// granted is what a token allows.
func (s *Server) granted(text string) (Grant, bool) {
	t, ok := s.check(text)
	if !ok {
		return Grant{}, false
	}
	return Grant{Role: t.Role, Name: t.Name, By: ByToken, Expires: t.Expires,
		holds: func() bool { _, ok := s.check(text); return ok }}, true
}

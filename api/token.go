// SPDX-License-Identifier: Apache-2.0

package api

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

// Token is what is kept of a token: a hash, by which it is known again, and nothing that
// it could be made from.
type Token struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"` // for people
	Role    Role      `json:"role"`
	Hash    string    `json:"-"` // SHA-256 of the secret; that has 130 bits, and needs no salt
	Made    time.Time `json:"made"`
	Expires time.Time `json:"expires,omitzero"`
}

// tokenPrefix tells tokens of the API from those that let hosts join, for people and for
// programs that look for secrets in what is published.
const tokenPrefix = "tandem-api."

// NewToken makes a token; text is shown once and kept nowhere.
func NewToken(name string, role Role, made time.Time, life time.Duration) (text string, t Token) {
	secret := rand.Text()
	t = Token{ID: strings.ToLower(rand.Text()[:8]), Name: name, Role: role, Hash: hash(secret), Made: made.UTC()}
	if life > 0 {
		t.Expires = t.Made.Add(life)
	}
	return tokenPrefix + t.ID + "." + secret, t
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// check looks a token up.
func (s *Server) check(text string) (Token, bool) {
	text, ok := strings.CutPrefix(text, tokenPrefix)
	id, secret, cut := strings.Cut(text, ".")
	if !ok || !cut || len(text) > 100 {
		return Token{}, false
	}
	t, ok := s.find(id)
	switch {
	case !ok, subtle.ConstantTimeCompare([]byte(hash(secret)), []byte(t.Hash)) != 1:
		return Token{}, false
	case !t.Expires.IsZero() && !time.Now().Before(t.Expires):
		return Token{}, false
	}
	return t, true
}

// The cookie that a browser keeps its token in. Its prefix makes browsers refuse it
// without Secure, with Domain, or from a path.
const (
	cookieName  = "__Host-tandem"
	sessionPath = "/v1/session"
)

func cookie(value string, age int) *http.Cookie {
	return &http.Cookie{Name: cookieName, Value: value, Path: "/", MaxAge: age, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}
}

func getSession(r *http.Request) (any, error) { return Who(r), nil }

// postSession logs a browser in.
func (s *Server) postSession(w http.ResponseWriter, r *http.Request) {
	Answer(func(r *http.Request) (any, error) {
		q, err := Read[struct {
			Token string `json:"token"`
		}](r)
		if err != nil {
			return nil, err
		}
		text := strings.TrimSpace(q.Token)
		g, ok := s.granted(text)
		if !ok {
			return nil, Failure{http.StatusUnauthorized, errToken, View}
		}
		age := 0 // until the browser is closed
		if !g.Expires.IsZero() {
			age = max(1, int(time.Until(g.Expires)/time.Second))
		}
		http.SetCookie(w, cookie(text, age))
		return g, nil
	})(w, r)
}

// deleteSession logs a browser out. The token is as good as before.
func deleteSession(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, cookie("", -1))
	Answer(func(*http.Request) (any, error) { return struct{}{}, nil })(w, r)
}

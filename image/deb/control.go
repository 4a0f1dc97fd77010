// SPDX-License-Identifier: Apache-2.0

package deb

import (
	"iter"
	"strconv"
	"strings"
)

// Stanza is one paragraph of a control file, as text (deb-control(5)).
type Stanza string

// Stanzas splits a control file into its paragraphs.
func Stanzas(text string) iter.Seq[Stanza] {
	return func(yield func(Stanza) bool) {
		for text != "" {
			one, rest, _ := strings.Cut(text, "\n\n")
			if one = strings.Trim(one, "\n"); one != "" && !yield(Stanza(one)) {
				return
			}
			text = rest
		}
	}
}

// Fields yields names and values in order. A value of several lines keeps its
// newlines, without the first space of each.
func (s Stanza) Fields() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		text := string(s)
		for text != "" {
			end := fieldEnd(text)
			name, value, ok := strings.Cut(text[:end], ":")
			if ok && !strings.HasPrefix(name, "#") {
				value = strings.TrimSpace(value)
				if strings.Contains(value, "\n") {
					value = strings.ReplaceAll(value, "\n ", "\n")
				}
				if !yield(name, value) {
					return
				}
			}
			text = text[min(end+1, len(text)):]
		}
	}
}

// fieldEnd is where the first field of text ends: at a newline that no space
// or tab follows.
func fieldEnd(text string) int {
	for at := 0; ; {
		i := strings.IndexByte(text[at:], '\n')
		if i < 0 {
			return len(text)
		}
		if at += i + 1; at == len(text) || text[at] != ' ' && text[at] != '\t' {
			return at - 1
		}
	}
}

// Get returns a field, or "". Names match in any case.
func (s Stanza) Get(name string) string {
	for n, v := range s.Fields() {
		if strings.EqualFold(n, name) {
			return v
		}
	}
	return ""
}

// Package is one entry of an archive's index.
type Package struct {
	Name, Version, Architecture string
	MultiArch, Priority         string
	Essential                   bool
	PreDepends, Depends         string
	Provides, Conflicts, Breaks string
	Filename, SHA256            string
	Size                        int64
}

// ParsePackage reads an index entry; a missing Filename, Size or SHA256 shows
// as a zero value.
func ParsePackage(s Stanza) Package {
	var p Package
	for name, v := range s.Fields() {
		switch name {
		case "Package":
			p.Name = v
		case "Version":
			p.Version = v
		case "Architecture":
			p.Architecture = v
		case "Multi-Arch":
			p.MultiArch = v
		case "Priority":
			p.Priority = v
		case "Essential":
			p.Essential = v == "yes"
		case "Pre-Depends":
			p.PreDepends = v
		case "Depends":
			p.Depends = v
		case "Provides":
			p.Provides = v
		case "Conflicts":
			p.Conflicts = v
		case "Breaks":
			p.Breaks = v
		case "Filename":
			p.Filename = v
		case "SHA256":
			p.SHA256 = v
		case "Size":
			p.Size, _ = strconv.ParseInt(v, 10, 64)
		}
	}
	return p
}

// Relation is one name of a relationship field, e.g. "libc6 (>= 2.38)".
type Relation struct {
	Name, Arch string // Arch: what follows a colon, such as "any"
	Op         string // "", "<<", "<=", "=", ">=", ">>"
	Version    string
}

// ParseRelations reads a relationship field: groups joined by commas, each of
// alternatives joined by "|" (Debian Policy 7.1).
func ParseRelations(field string) ([][]Relation, error) {
	var groups [][]Relation
	for group := range strings.SplitSeq(field, ",") {
		if group = strings.TrimSpace(group); group == "" {
			continue
		}
		var alternatives []Relation
		for one := range strings.SplitSeq(group, "|") {
			r, err := parseRelation(strings.TrimSpace(one))
			if err != nil {
				return nil, err
			}
			alternatives = append(alternatives, r)
		}
		groups = append(groups, alternatives)
	}
	return groups, nil
}

func parseRelation(text string) (Relation, error) {
	name, rest, constrained := strings.Cut(text, "(")
	r := Relation{Name: strings.TrimSpace(name)}
	if constrained {
		inside, after, closed := strings.Cut(rest, ")")
		inside = strings.TrimSpace(inside)
		n := len(inside) - len(strings.TrimLeft(inside, "<>="))
		r.Op, r.Version = inside[:n], strings.TrimSpace(inside[n:])
		if r.Op == "<" || r.Op == ">" {
			r.Op += "=" // the old spelling, Policy 7.1
		}
		if !closed || strings.TrimSpace(after) != "" || operators[r.Op] == nil || r.Version == "" {
			return r, malformed("relation %q", text)
		}
	}
	r.Name, r.Arch, _ = strings.Cut(r.Name, ":")
	if r.Name == "" || strings.ContainsAny(r.Name, " \t\n[<") {
		return r, malformed("relation %q", text)
	}
	return r, nil
}

var operators = map[string]func(order int) bool{
	"<<": func(o int) bool { return o < 0 },
	"<=": func(o int) bool { return o <= 0 },
	"=":  func(o int) bool { return o == 0 },
	">=": func(o int) bool { return o >= 0 },
	">>": func(o int) bool { return o > 0 },
}

// allows says whether a version satisfies the relation.
func (r Relation) allows(version string) bool {
	return r.Op == "" || version != "" && operators[r.Op](Compare(version, r.Version))
}

func (r Relation) String() string {
	if r.Op == "" {
		return r.Name
	}
	return r.Name + " (" + r.Op + " " + r.Version + ")"
}

// Compare orders two versions: epoch, upstream version, revision (Debian
// Policy 5.6.12).
func Compare(a, b string) int {
	ae, au, ar := splitVersion(a)
	be, bu, br := splitVersion(b)
	for _, pair := range [][2]string{{ae, be}, {au, bu}, {ar, br}} {
		if o := comparePart(pair[0], pair[1]); o != 0 {
			return o
		}
	}
	return 0
}

func splitVersion(v string) (epoch, upstream, revision string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		epoch, v = e, rest
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

// comparePart compares runs of non-digits and runs of digits in turn.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !digit(a[0]) || b != "" && !digit(b[0]) {
			if x, y := weight(a), weight(b); x != y {
				return sign(x - y)
			}
			a, b = a[1:], b[1:]
		}
		x, y := digits(a), digits(b)
		a, b = a[len(x):], b[len(y):]
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if len(x) != len(y) {
			return sign(len(x) - len(y))
		}
		if o := strings.Compare(x, y); o != 0 {
			return o
		}
	}
	return 0
}

// weight orders first bytes: "~" before the end, then letters, then the rest.
func weight(s string) int {
	switch {
	case s == "" || digit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case s[0] >= 'A' && s[0] <= 'Z' || s[0] >= 'a' && s[0] <= 'z':
		return int(s[0])
	}
	return int(s[0]) + 256
}

func digits(s string) string {
	i := 0
	for i < len(s) && digit(s[i]) {
		i++
	}
	return s[:i]
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func sign(n int) int {
	if n < 0 {
		return -1
	}
	return 1
}

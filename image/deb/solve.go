// SPDX-License-Identifier: Apache-2.0

package deb

import (
	"fmt"
	"slices"
	"strings"
)

// Index is the packages of one archive, found by name and by what they provide.
type Index struct {
	packages map[string]*Package
	provides map[string][]provider
	names    []string
}

type provider struct {
	pkg     *Package
	version string // of the provided name, or ""
}

// NewIndex reads a Packages file for one architecture. Of several versions of
// a package the highest counts.
func NewIndex(text, arch string) (*Index, error) {
	x := &Index{packages: map[string]*Package{}, provides: map[string][]provider{}}
	for s := range Stanzas(text) {
		p := ParsePackage(s)
		if p.Name == "" || p.Version == "" || p.Filename == "" || p.Size <= 0 || len(p.SHA256) != 64 {
			return nil, malformed("index entry for %q lacks a version, file name, size or SHA256", p.Name)
		}
		if p.Architecture != arch && p.Architecture != "all" {
			continue
		}
		old := x.packages[p.Name]
		if old == nil {
			x.names = append(x.names, p.Name)
		}
		if old == nil || Compare(p.Version, old.Version) > 0 {
			x.packages[p.Name] = &p
		}
	}
	slices.Sort(x.names)
	return x, x.indexProvides()
}

func (x *Index) indexProvides() error {
	for _, name := range x.names {
		p := x.packages[name]
		if p.Provides == "" {
			continue
		}
		groups, err := ParseRelations(p.Provides)
		if err != nil {
			return fmt.Errorf("package %s: Provides: %w", name, err)
		}
		for _, g := range groups {
			x.provides[g[0].Name] = append(x.provides[g[0].Name], provider{p, g[0].Version})
		}
	}
	// The most important provider first, then by name: mawk, not gawk, for awk.
	for _, list := range x.provides {
		slices.SortStableFunc(list, func(a, b provider) int { return rank(a.pkg) - rank(b.pkg) })
	}
	return nil
}

var priorities = []string{"required", "important", "standard", "optional", "extra"}

func rank(p *Package) int {
	if i := slices.Index(priorities, p.Priority); i >= 0 {
		return i
	}
	return len(priorities)
}

// Package returns the package of that name, or nil.
func (x *Index) Package(name string) *Package { return x.packages[name] }

// Essential returns the names of the packages marked so.
func (x *Index) Essential() []string {
	var out []string
	for _, name := range x.names {
		if x.packages[name].Essential {
			out = append(out, name)
		}
	}
	return out
}

// Solve returns the packages asked for and all they depend on, sorted by name.
// A dependency is met by what is already chosen if possible, else by its first
// alternative that can be had and conflicts with nothing chosen. There is no
// backtracking: an archive's stable release doesn't need it, and an answer that
// is wrong is found by the check at the end.
func (x *Index) Solve(names []string) ([]*Package, error) {
	s := solver{index: x}
	for _, n := range names {
		r, err := ParseRelations(n)
		if err != nil || len(r) != 1 {
			return nil, fmt.Errorf("package %q: not a package name", n)
		}
		if err := s.need(r[0], nil); err != nil {
			return nil, err
		}
	}
	for i := 0; i < len(s.order); i++ { // grows on the way
		if err := s.depends(s.order[i]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(s.order, func(a, b *Package) int { return strings.Compare(a.Name, b.Name) })
	return s.order, s.check()
}

type solver struct {
	index *Index
	order []*Package
}

func (s *solver) depends(p *Package) error {
	for _, field := range []string{p.PreDepends, p.Depends} {
		groups, err := ParseRelations(field)
		if err != nil {
			return fmt.Errorf("package %s: %w", p.Name, err)
		}
		for _, g := range groups {
			if err := s.need(g, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// need meets one group of alternatives for a package, or for the user (nil).
func (s *solver) need(group []Relation, by *Package) error {
	for _, p := range s.order {
		for _, r := range group {
			if p.satisfies(r) {
				return nil
			}
		}
	}
	for _, r := range group {
		for _, p := range s.index.candidates(r) {
			if s.conflict(p) == nil {
				s.order = append(s.order, p)
				return nil
			}
		}
	}
	return s.missing(group, by)
}

func (s *solver) missing(group []Relation, by *Package) error {
	var want []string
	for _, r := range group {
		want = append(want, r.String())
		for _, p := range s.index.candidates(r) {
			if q := s.conflict(p); q != nil {
				return fmt.Errorf("package %s can't be had together with %s: they conflict; leave one out", p.Name, q.Name)
			}
		}
	}
	text := strings.Join(want, " | ")
	if by == nil {
		return fmt.Errorf("package %s is not in the archive: check its name", text)
	}
	return fmt.Errorf("package %s depends on %s, which the archive does not have", by.Name, text)
}

// candidates lists what could satisfy a relation, the real package first.
func (x *Index) candidates(r Relation) []*Package {
	var out []*Package
	if p := x.packages[r.Name]; p != nil && r.allows(p.Version) {
		out = append(out, p)
	}
	for _, v := range x.provides[r.Name] {
		if r.allows(v.version) && !slices.Contains(out, v.pkg) {
			out = append(out, v.pkg)
		}
	}
	return out
}

// satisfies says whether p is, or provides, what r asks for. An unversioned
// Provides meets no versioned relation (Policy 7.5).
func (p *Package) satisfies(r Relation) bool {
	if p.Name == r.Name && r.allows(p.Version) {
		return true
	}
	if !strings.Contains(p.Provides, r.Name) {
		return false
	}
	groups, _ := ParseRelations(p.Provides)
	for _, g := range groups {
		if g[0].Name == r.Name && r.allows(g[0].Version) {
			return true
		}
	}
	return false
}

// conflict returns a chosen package that can't be installed beside p.
func (s *solver) conflict(p *Package) *Package {
	for _, q := range s.order {
		if p.excludes(q) || q.excludes(p) {
			return q
		}
	}
	return nil
}

func (p *Package) excludes(q *Package) bool {
	if p == q {
		return false
	}
	for _, field := range []string{p.Conflicts, p.Breaks} {
		if field == "" {
			continue
		}
		groups, _ := ParseRelations(field)
		for _, g := range groups {
			if q.satisfies(g[0]) {
				return true
			}
		}
	}
	return false
}

// check proves the answer: every dependency is met, no two packages conflict.
func (s *solver) check() error {
	for _, p := range s.order {
		if q := s.conflict(p); q != nil {
			return fmt.Errorf("packages %s and %s conflict: leave one out", p.Name, q.Name)
		}
	}
	return nil
}

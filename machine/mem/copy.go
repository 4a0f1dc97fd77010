// SPDX-License-Identifier: Apache-2.0

package mem

// Copy hands on all pages of RAM while the machine runs, for a clone (paper §3.1).
//
//	round 0, all pages ─ stores ─► round 1, those written since ─ … ─► Freeze
//
// Each round hands on what was stored to since it was handed on before. Freeze
// fixes the moment whose memory the copy is to be: what is left is handed on as it
// was then, though the machine goes on. A store to such a page saves its bytes
// first. So the machine never waits for pages, however fast it writes; whoever takes
// them sees to it that Saved stays small.
//
// The machine can't tell whether it is copied.
type Copy struct {
	r       *RAM
	scan    PFN   // of round 0: the next page
	round   []PFN // of later rounds: pages not yet handed on
	written []PFN // stored to since they were handed on
	frozen  bool
	saved   []savedPage
}

type savedPage struct {
	p PFN
	b []byte
}

// StartCopy begins a copy, in place of one that may be under way.
func (r *RAM) StartCopy() *Copy {
	r.copy.End()
	r.copy = &Copy{r: r}
	return r.copy
}

// Take hands on pages of the round, each as it is now, or after Freeze as it was
// then, until each returns false or it has looked at most pages. The bytes are the
// caller's only during the call.
func (c *Copy) Take(most int, each func(p PFN, b []byte) (more bool)) {
	n := 0
	for ; n < most && len(c.saved) > 0; n++ {
		s := c.saved[0]
		c.saved[0], c.saved = savedPage{}, c.saved[1:]
		if !each(s.p, s.b) {
			return
		}
	}
	for more := true; more && n < most; n++ {
		p, ok := c.next()
		if !ok {
			break
		}
		if c.frozen {
			if c.r.notes[p]&Frozen == 0 {
				continue // saved, and handed on
			}
			c.r.notes[p] &^= Frozen
		} else {
			c.r.notes[p] |= Copied
		}
		more = each(p, c.r.Page(p))
	}
	if n > 0 && !c.frozen {
		c.r.watcher.DropWrites()
	}
}

func (c *Copy) next() (p PFN, ok bool) {
	if c.scan < c.r.Pages() {
		c.scan++
		return c.scan - 1, true
	}
	if len(c.round) == 0 {
		return 0, false
	}
	p, c.round = c.round[0], c.round[1:]
	return p, true
}

// Left is how many pages of the round were not looked at.
func (c *Copy) Left() int { return int(c.r.Pages()-c.scan) + len(c.round) + len(c.saved) }

// Written is how many pages the next round would have.
func (c *Copy) Written() int { return len(c.written) }

// Saved is how many pages were saved by stores after Freeze and not handed on yet.
func (c *Copy) Saved() int { return len(c.saved) }

// NextRound begins a round of the pages written.
func (c *Copy) NextRound() {
	c.round = append(c.round, c.written...)
	c.written = nil
}

// Freeze fixes the moment. The pages left and those written are one last round.
func (c *Copy) Freeze() {
	c.NextRound()
	for _, p := range c.round {
		c.r.notes[p] |= Frozen
	}
	for p := c.scan; p < c.r.Pages(); p++ {
		c.r.notes[p] |= Frozen
	}
	c.frozen = true
	c.r.watcher.DropWrites()
}

// End ends the copy, whole or not.
func (c *Copy) End() {
	if c == nil || c.r.copy != c {
		return
	}
	c.r.copy = nil
	c.round, c.written, c.saved = nil, nil, nil
	for p := range c.r.notes {
		c.r.notes[p] &^= Copied | Frozen
	}
}

// touch hears of a store to a page noted Copied or Frozen, before it is made.
func (c *Copy) touch(p PFN, note Note) {
	switch {
	case c == nil:
	case note&Frozen != 0:
		c.saved = append(c.saved, savedPage{p, append([]byte(nil), c.r.Page(p)...)})
	case !c.frozen:
		c.written = append(c.written, p)
	}
}

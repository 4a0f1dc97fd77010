// SPDX-License-Identifier: Apache-2.0

package site

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"tandem/host/filedisk"
	"tandem/machine/event"
	"tandem/world"
)

// A replicated disk (paper §4.1) has a mark beside it, FILE.tandem, which says what it
// was last:
//
//	tandem disk 1
//	vm web
//	current 12 5f0c…@host1        it is the disk of epoch 12, if that epoch is this owner's
//	current 11 77ab…@host1        what it was before it tried that claim
//
// or, of a disk that follows another, perhaps half copied: "copy". A mark is written
// before the claim that it tells of, and the arbiter's record decides: the disk that
// the record's owner marked is the current one, every other is stale. So a disk whose
// host lost the claim, or was down while the other went on alone, is never booted
// by mistake.
type mark struct {
	vm      string
	copy    bool
	current []claimMark // newest first
}

type claimMark struct {
	epoch event.Epoch
	owner string
}

const (
	markSuffix = ".tandem"
	markForm   = "tandem disk 1\n"
	keepMarks  = 2
)

func loadMark(path string) (m mark, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	body, ok := strings.CutPrefix(string(b), markForm)
	for _, line := range strings.Split(strings.TrimSuffix(body, "\n"), "\n") {
		var c claimMark
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case word == "vm":
			m.vm = rest
		case line == "copy":
			m.copy = true
		case word == "current":
			if n, _ := fmt.Sscanf(rest, "%d %s", &c.epoch, &c.owner); n != 2 {
				ok = false
			}
			m.current = append(m.current, c)
		default:
			ok = false
		}
	}
	if !ok || m.vm == "" {
		return m, fmt.Errorf("%s is damaged: see that this is the disk that you want, remove the file, and start with --force", path)
	}
	return m, nil
}

func (m mark) save(path string) error {
	b := []byte(markForm + "vm " + m.vm + "\n")
	if m.copy {
		b = append(b, "copy\n"...)
	}
	for _, c := range m.current {
		b = fmt.Appendf(b, "current %d %s\n", c.epoch, c.owner)
	}
	if err := filedisk.Replace(path, b); err != nil {
		return fmt.Errorf("keeping the mark of a disk in %s: %w", path, err)
	}
	return nil
}

// is reports whether the disk is that of the arbiter's newest record.
func (m mark) is(rec world.Record) bool {
	for _, c := range m.current {
		if uint64(c.epoch) == rec.DiskGeneration && c.owner == rec.Owner {
			return true
		}
	}
	return false
}

// ErrStale is wrapped by the errors of disks that are not the VM's newest.
var ErrStale = errors.New("stale disk")

// checkMark says why a VM should not boot from a disk.
func (s *Site) checkMark(path string, rec world.Record) error {
	m, err := loadMark(path + markSuffix)
	switch {
	case err != nil:
		return err
	case m.vm != "" && m.vm != s.cfg.VM:
		return fmt.Errorf("disk %s belongs to the VM %s, says %s%s: give this VM a disk of its own, or start with --force", path, m.vm, path, markSuffix)
	case rec.Epoch == 0 && !m.copy, m.is(rec):
		return nil
	case m.copy:
		return fmt.Errorf("%w: %s was a backup's, and may lack what the primary wrote last, or be half copied. The VM's newest disk is that of epoch %d (%s): "+
			"start the VM there, or with --force here if that disk is lost", ErrStale, path, rec.Epoch, rec.Owner)
	}
	return fmt.Errorf("%w: %s is not the VM's newest: that is the disk of epoch %d (%s). "+
		"Start the VM there, or with --force here if that disk is lost: what was written since is lost with it", ErrStale, path, rec.Epoch, rec.Owner)
}

// markClaim marks all of the VM's own disks before an epoch is claimed.
func (s *Site) markClaim(epoch event.Epoch) error {
	for _, slot := range s.cfg.Slots {
		if !slot.Mode.Own() {
			continue
		}
		path := slot.Disk + markSuffix
		m, err := loadMark(path)
		if err != nil {
			return err
		}
		c := claimMark{epoch, s.cfg.Owner}
		if len(m.current) == 0 || m.current[0] != c {
			m.current = append([]claimMark{c}, m.current...)
		}
		m.vm, m.copy, m.current = s.cfg.VM, false, m.current[:min(len(m.current), keepMarks)]
		if err := m.save(path); err != nil {
			return err
		}
	}
	return nil
}

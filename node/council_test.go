// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tandem/host/etcd"
)

// seatsOf reads members: V a voter, v one that is silent, D one that is silent for long,
// L a spare, l one that is silent.
func seatsOf(text string) (list []seat) {
	for i, r := range text {
		s := seat{Member: etcd.Member{ID: uint64(i + 1), Name: fmt.Sprint(i), Learner: strings.ContainsRune("Ll", r)}}
		s.up, s.dead = strings.ContainsRune("VL", r), r == 'D'
		list = append(list, s)
	}
	return list
}

// Three members vote, or five if there are as many; a voter that is silent for long is
// replaced by a spare first and taken out then, and nobody is taken out whose vote is
// missed less than his seat.
func TestCouncil(t *testing.T) {
	for _, c := range []struct {
		seats           string
		promote, remove int // position from 1
	}{
		{"V", 0, 0}, {"VL", 2, 0}, {"VVL", 3, 0}, {"VVV", 0, 0},
		{"VVVL", 0, 0}, {"VVVLL", 4, 0}, {"VVVVL", 5, 0}, {"VVVVVL", 0, 0},
		{"VVvL", 0, 0}, // it may be back
		{"VVDL", 4, 0}, // first the new one
		{"VVDV", 0, 3}, // then the old one
		{"VVDl", 0, 0}, // nobody can take its place
		{"VVD", 0, 0},  // two of two outlive no more than two of three
		{"VvDV", 0, 0}, // one more is silent: no change now
		{"VVVVD", 0, 0}, {"VVVDD", 0, 4}, {"VVVD", 0, 4}, {"VVVVDL", 6, 0}, {"VVVVDV", 0, 5},
		{"VD", 0, 0}, {"VDL", 3, 0},
	} {
		promote, remove := council(seatsOf(c.seats))
		if int(promote.ID) != c.promote || int(remove.ID) != c.remove {
			t.Errorf("%s: promote %d, remove %d; want %d, %d", c.seats, promote.ID, remove.ID, c.promote, c.remove)
		}
	}
}

// Whatever happens to members, the council comes to rest with votes that outlive a host
// if three hosts are there at all.
func TestCouncilRests(t *testing.T) {
	kinds := "VDL"
	for n := range 6561 { // eight members of three kinds
		var text strings.Builder
		for i, x := 0, n; i < 8; i, x = i+1, x/3 {
			text.WriteByte(kinds[x%3])
		}
		seats := seatsOf(text.String())
		if !strings.Contains(text.String(), "V") {
			continue
		}
		for range 20 {
			promote, remove := council(seats)
			switch {
			case promote.ID != 0:
				for i := range seats {
					seats[i].Learner = seats[i].Learner && seats[i].ID != promote.ID
				}
			case remove.ID != 0:
				for i := range seats {
					if seats[i].ID == remove.ID {
						seats = append(seats[:i:i], seats[i+1:]...)
						break
					}
				}
			}
		}
		alive, voters := 0, 0
		for _, s := range seats {
			if !s.Learner {
				voters++
				if s.up {
					alive++
				}
			}
		}
		if p, r := council(seats); p.ID != 0 || r.ID != 0 {
			t.Fatalf("%s never comes to rest", text.String())
		}
		if healthy := strings.Count(text.String(), "V") + strings.Count(text.String(), "L"); healthy >= fewVoters && alive-1 <= voters/2 {
			t.Errorf("%s: %d of %d voters are left, which don't outlive one more", text.String(), alive, voters)
		}
	}
}

// The leadership goes to a voter that is heard and that fewer copies depend on, and stays
// where it is if there is none.
func TestHeir(t *testing.T) {
	for _, c := range []struct {
		seats  string
		weight []int // by seat; the first is the leader
		want   int
	}{
		{"VVV", []int{hasPrimary, hasBackup, hasNoCopy}, 3}, {"VVV", []int{hasBackup, hasPrimary, hasNoCopy}, 3},
		{"VVV", []int{hasNoCopy, hasPrimary, hasBackup}, 0}, {"VVv", []int{hasPrimary, hasBackup, hasNoCopy}, 2},
		{"VVL", []int{hasPrimary, hasPrimary, hasNoCopy}, 0}, {"VVV", []int{hasPrimary, hasPrimary, hasPrimary}, 0},
	} {
		weight := map[string]int{}
		for i, w := range c.weight {
			weight[fmt.Sprint(i)] = w
		}
		if got := heir("0", seatsOf(c.seats), weight); int(got.ID) != c.want {
			t.Errorf("%s %v: %d, want %d", c.seats, c.weight, got.ID, c.want)
		}
	}
}

// A voter counts as dead once it was silent for a while without a break.
func TestBench(t *testing.T) {
	b := &bench{silent: map[uint64]time.Time{}}
	list := []etcd.Member{{ID: 1, Name: "a"}}
	now := time.Unix(0, 0)
	look := func(after time.Duration, heard bool) bool {
		now = now.Add(after)
		return b.seats(list, map[uint64]bool{1: heard}, now)[0].dead
	}
	if look(0, false) || look(deadTime-1, false) || look(1, true) || look(deadTime, false) || look(deadTime-1, false) {
		t.Error("it counts as dead too early")
	}
	if !look(1, false) {
		t.Error("it never counts as dead")
	}
}

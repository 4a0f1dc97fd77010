// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"fmt"
	"strings"

	"tandem/machine/event"
)

// Divergence says that a machine is not the one that wrote the log. The copy
// must be discarded (design: "a difference is never silent").
type Divergence struct {
	Seq    event.Seq  // of the entry that showed it
	Step   event.Step // that the machine had reached
	Place  Place
	Want   string        // by the log
	Got    string        // of the machine
	Recent []event.Entry // applied before, oldest first
}

// Place is what differed.
type Place string

const (
	PlaceState  Place = "registers or devices"
	PlaceMemory Place = "memory"
	PlaceOutput Place = "outputs"
	PlaceStep   Place = "execution"
	PlaceInput  Place = "input"
)

func (d *Divergence) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "replay diverged at entry %d, step %d, in %s: the log has %s, this machine %s; discard this copy and make a new one",
		d.Seq, d.Step, d.Place, d.Want, d.Got)
	if len(d.Recent) > 0 {
		b.WriteString("; entries before:")
	}
	for _, e := range d.Recent {
		b.WriteString("\n  " + Text(e))
	}
	return b.String()
}

// recent is a ring of the entries applied last.
type recent struct {
	ring [8]event.Entry
	n    int
}

func (r *recent) add(e event.Entry) {
	r.ring[r.n%len(r.ring)] = e
	r.n++
}

func (r *recent) list() []event.Entry {
	var out []event.Entry
	for i := max(0, r.n-len(r.ring)); i < r.n; i++ {
		out = append(out, r.ring[i%len(r.ring)])
	}
	return out
}

var kindNames = [...]string{
	event.KindClock:      "Clock",
	event.KindFrames:     "Frames",
	event.KindDiskDone:   "DiskDone",
	event.KindConsoleIn:  "ConsoleIn",
	event.KindEntropy:    "Entropy",
	event.KindOutputMark: "OutputMark",
	event.KindReleased:   "Released",
	event.KindControl:    "Control",
	event.KindHash:       "Hash",
	event.KindMedium:     "Medium",
}

var controlNames = [...]string{
	event.PowerOff:    "PowerOff",
	event.Reset:       "Reset",
	event.CPUShare:    "CPUShare",
	event.Activate:    "Activate",
	event.Switch:      "Switch",
	event.Dismiss:     "Dismiss",
	event.Link:        "Link",
	event.PowerButton: "PowerButton",
	event.Resize:      "Resize",
	event.Balloon:     "Balloon",
}

func kindName(k event.Kind) string {
	if int(k) < len(kindNames) && k > 0 {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Text is an entry in one line, its payload as a length, for diagnostics:
//
//	#17 @120034 Clock base 500 rate 42949672 limit 200000, go-live
func Text(e event.Entry) string {
	if e.Input == nil {
		return fmt.Sprintf("#%d @%d empty", e.Seq, e.Step)
	}
	s := fmt.Sprintf("#%d @%d %s %s", e.Seq, e.Step, kindName(e.Input.Kind()), inputText(e.Input))
	if e.GoLive {
		s += ", go-live"
	}
	return s
}

func inputText(in event.Input) string {
	switch in := in.(type) {
	case event.Clock:
		return fmt.Sprintf("base %d rate %d limit %d", in.Base, in.Rate, in.Limit)
	case event.Frames:
		bytes := 0
		for _, f := range in.Frames {
			bytes += len(f.Data)
		}
		return fmt.Sprintf("device %d count %d bytes %d", in.Device, len(in.Frames), bytes)
	case event.DiskDone:
		where := ""
		if in.FromDisk {
			where = " from disk"
		}
		return fmt.Sprintf("device %d id %d status %d bytes %d%s", in.Device, in.ID, in.Status, len(in.Data), where)
	case event.ConsoleIn:
		return fmt.Sprintf("device %d bytes %d", in.Device, len(in.Data))
	case event.Entropy:
		return fmt.Sprintf("device %d id %d bytes %d", in.Device, in.ID, len(in.Data))
	case event.OutputMark:
		return fmt.Sprintf("last %d", in.Last)
	case event.Released:
		return fmt.Sprintf("last %d", in.Last)
	case event.Control:
		if int(in.Op) < len(controlNames) && controlNames[in.Op] != "" {
			return fmt.Sprintf("%s arg %d", controlNames[in.Op], in.Arg)
		}
		return fmt.Sprintf("op %d arg %d", in.Op, in.Arg)
	case event.Hash:
		return fmt.Sprintf("state %016x memory %016x", in.State, in.Memory)
	case event.Medium:
		return fmt.Sprintf("device %d capacity %d source %q mirror %q", in.Device, in.Capacity, in.Source, in.Mirror)
	}
	return "?"
}

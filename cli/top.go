// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tandem/api"
	"tandem/node"
)

// view is what tandem top knows of a cluster.
type view struct {
	info    node.Info
	nodes   []node.NodeInfo
	vms     []node.VMInfo
	samples map[string][]node.Sample // the newest, by VM
	events  []node.VMEvent           // the newest
	lost    error                    // why nothing is heard
}

const (
	topSamples = 60 // of each VM
	topEvents  = 50
	topRetry   = time.Second // after the daemon was lost
)

// load asks for all at once.
func (v *view) load(ctx context.Context, c *node.Client) (err error) {
	if v.info, err = c.Info(ctx); err != nil {
		return err
	}
	if v.nodes, err = c.Nodes(ctx); err != nil {
		return err
	}
	if v.vms, err = c.VMs(ctx); err != nil {
		return err
	}
	v.samples, v.events = map[string][]node.Sample{}, nil
	for _, m := range v.vms {
		events, err := c.Events(ctx, m.Name)
		if err != nil {
			return err
		}
		for _, e := range events {
			v.events = append(v.events, node.VMEvent{VM: m.Name, Event: e})
		}
		if m.Primary == nil {
			continue
		}
		if samples, err := c.Samples(ctx, m.Name); err == nil {
			v.samples[m.Name] = samples[max(0, len(samples)-topSamples):]
		}
	}
	v.trim()
	return nil
}

func (v *view) trim() {
	slices.SortStableFunc(v.events, func(a, b node.VMEvent) int { return a.Time.Compare(b.Time) })
	v.events = v.events[max(0, len(v.events)-topEvents):]
}

// take notes one message of the stream.
func (v *view) take(kind string, data []byte) (err error) {
	switch kind {
	case "info":
		v.info = node.Info{}
		err = json.Unmarshal(data, &v.info)
	case "node":
		err = replace(&v.nodes, data, func(n node.NodeInfo) string { return n.Name })
	case "vm":
		err = replace(&v.vms, data, func(m node.VMInfo) string { return m.Name })
	case "gone":
		var g node.Gone
		err = json.Unmarshal(data, &g)
		v.nodes = slices.DeleteFunc(v.nodes, func(n node.NodeInfo) bool { return g.Kind == "node" && n.Name == g.Name })
		v.vms = slices.DeleteFunc(v.vms, func(m node.VMInfo) bool { return g.Kind == "vm" && m.Name == g.Name })
	case "event":
		var e node.VMEvent
		err = json.Unmarshal(data, &e)
		v.events = append(v.events, e)
		v.trim()
	case "tick":
		var t node.Tick
		err = json.Unmarshal(data, &t)
		for _, s := range t.Samples {
			list := v.samples[s.VM]
			if n := len(list); n == 0 || list[n-1].Time.Before(s.Time) {
				list = append(list, s)
				v.samples[s.VM] = list[max(0, len(list)-topSamples):]
			}
		}
	}
	return err
}

// replace puts an item in the place of the one of its name.
func replace[T any](list *[]T, data []byte, name func(T) string) error {
	var item T
	if err := json.Unmarshal(data, &item); err != nil {
		return err
	}
	i := slices.IndexFunc(*list, func(t T) bool { return name(t) == name(item) })
	if i < 0 {
		*list = append(*list, item)
		slices.SortFunc(*list, func(a, b T) int { return strings.Compare(name(a), name(b)) })
		return nil
	}
	(*list)[i] = item
	return nil
}

// Looks of a line on a terminal.
const (
	plain  = ""
	strong = "\x1b[1m"
	faint  = "\x1b[2m"
	good   = "\x1b[32m"
	warn   = "\x1b[33m"
	bad    = "\x1b[31m"
)

// row is a line of the screen.
type row struct{ look, text string }

// need says how much a VM needs somebody: the less the more, with the look of its line.
func need(m node.VMInfo) (int, string) {
	switch {
	case m.Protected:
		return 2, good
	case !m.Power:
		return 4, faint
	case !m.FT:
		return 3, plain
	case strings.Contains(m.Status, "starting"):
		return 1, warn
	}
	return 0, bad
}

// screen draws what is known into some lines and columns.
func (v *view) screen(now time.Time, width, height int) []row {
	up, hosts, safe, wanted := 0, 0, 0, 0
	for _, n := range v.nodes {
		if !n.Witness {
			hosts++
		}
		if n.State == "up" {
			up++
		}
	}
	for _, m := range v.vms {
		if m.Power && m.FT {
			wanted++
		}
		if m.Power && m.Protected {
			safe++
		}
	}
	out := []row{{strong, fmt.Sprintf("tandem  node %s  %d of %d hosts up  %d of %d VMs protected  etcd %d/%d  %s", v.info.Name, up, hosts, safe, wanted, v.info.Heard, v.info.Voters, now.Format("15:04:05"))}}
	for _, trouble := range []string{v.info.Trouble, text(v.lost)} {
		if trouble != "" {
			out = append(out, row{bad, trouble})
		}
	}
	out = append(out, row{}, row{faint, fmt.Sprintf("%-16s %-28s %-10s %-10s %5s %9s %12s %9s %5s  %s", "VM", "STATUS", "PRIMARY", "BACKUP", "EPOCH", "LAG", "LOG", "DELAY", "CPU", "LAG, LAST MINUTE")})
	vms := slices.Clone(v.vms)
	slices.SortStableFunc(vms, func(a, b node.VMInfo) int {
		x, _ := need(a)
		y, _ := need(b)
		return cmp.Or(cmp.Compare(x, y), strings.Compare(a.Name, b.Name))
	})
	for _, m := range vms {
		_, look := need(m)
		out = append(out, row{look, v.line(m, now)})
	}
	out = append(out, row{}, row{faint, fmt.Sprintf("%-16s %-10s %9s %9s %9s %8s", "HOST", "STATE", "PRIMARIES", "BACKUPS", "LEFT", "ETCD")})
	for _, n := range v.nodes {
		look := plain
		if n.State == "down" {
			look = bad
		}
		out = append(out, row{look, fmt.Sprintf("%-16s %-10s %9d %9d %9s %8s %s", n.Name, n.State, n.Primaries, n.Backups, size(n.Left), orElse(n.Etcd, "-"), n.Evacuation)})
	}
	out = append(out, row{}, row{faint, "EVENTS"})
	for _, e := range v.events[max(0, len(v.events)-max(3, height-len(out)-1)):] {
		out = append(out, row{plain, fmt.Sprintf("%s  %-16s %-10s %-8s %s", e.Time.Local().Format("15:04:05.000"), e.VM, e.Node, e.Kind, e.Text)})
	}
	for i := range out {
		out[i].text = clip(out[i].text, width)
	}
	return out[:min(len(out), max(1, height))]
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// clip cuts a line to a width, and takes out what would steer the terminal.
func clip(s string, width int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(0, width)])
}

// line is a VM's line.
func (v *view) line(m node.VMInfo, now time.Time) string {
	host := func(c *node.CopyInfo) string {
		if c == nil {
			return "-"
		}
		return c.Node
	}
	s := fmt.Sprintf("%-16s %-28s %-10s %-10s %5d", m.Name, m.Status, host(m.Primary), host(m.Backup), m.Epoch)
	list := v.samples[m.Name]
	if len(list) == 0 || now.Sub(list[len(list)-1].Time) > 10*time.Second {
		return s
	}
	x := list[len(list)-1]
	return s + fmt.Sprintf(" %9s %12s %9s %4.0f%%  %s", brief(x.Lag), bits(x.LogRate), brief(x.Delay), 100*x.Share, bars(list))
}

// brief is a time for people, in three digits.
func brief(seconds float64) string {
	d := time.Duration(seconds * 1e9)
	for unit := time.Duration(1); ; unit *= 10 {
		if d < 1000*unit || unit >= time.Second {
			return d.Round(unit).String()
		}
	}
}

// bits is a rate of bytes, in bits for people.
func bits(bytes float64) string {
	b := bytes * 8
	for _, unit := range []string{"bit/s", "kbit/s", "Mbit/s"} {
		if b < 1000 {
			return fmt.Sprintf("%.3g %s", b, unit)
		}
		b /= 1000
	}
	return fmt.Sprintf("%.3g Gbit/s", b)
}

// bars draws lags in eighths of a line; 100 ms, where the primary stops, fill it.
func bars(list []node.Sample) string {
	levels := []rune("▁▂▃▄▅▆▇█")
	out := make([]rune, len(list))
	for i, s := range list {
		out[i] = levels[min(len(levels)-1, max(0, int(s.Lag/0.1*float64(len(levels)))))]
	}
	return string(out)
}

func topCommand() *cobra.Command {
	var once bool
	c := asking("top", "Watch the cluster: VMs, hosts and what happens", 0, 0, "no arguments",
		func(ctx context.Context, c *cobra.Command, a *asks, _ []string) error {
			v := &view{samples: map[string][]node.Sample{}}
			out, terminal := c.OutOrStdout().(*os.File)
			if once || !terminal || !term.IsTerminal(int(out.Fd())) {
				if err := v.load(ctx, a.client()); err != nil {
					return err
				}
				return a.show(c.OutOrStdout(), v.vms, func(w io.Writer) {
					for _, r := range v.screen(time.Now(), 1000, 1000) {
						fmt.Fprintln(w, r.text)
					}
				})
			}
			return watch(ctx, a.client(), v, out)
		})
	c.Long = "Follows the cluster as the daemon of this host tells it, those VMs first that need somebody. q leaves.\n" +
		"Without a terminal, or with --once, what is known now is printed."
	c.Flags().BoolVar(&once, "once", false, "print once, and end")
	return c
}

// watch draws until q is pressed.
func watch(ctx context.Context, c *node.Client, v *view, out *os.File) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if in := int(os.Stdin.Fd()); term.IsTerminal(in) {
		old, err := term.MakeRaw(in)
		if err != nil {
			return fmt.Errorf("put the terminal into raw mode: %w; --once does without", err)
		}
		defer term.Restore(in, old)
		go untilQuit(cancel)
	}
	fmt.Fprint(out, "\x1b[?1049h\x1b[?25l")
	defer fmt.Fprint(out, "\x1b[?25h\x1b[?1049l")
	for ctx.Err() == nil {
		err := c.Stream(ctx, func(kind string, data []byte) error {
			v.lost = nil
			err := v.take(kind, data)
			if kind == "reset" {
				err = v.load(ctx, c)
			}
			v.draw(out)
			if f := (api.Failure{}); errors.As(err, &f) { // this host is in no cluster, say
				v.lost, err = err, nil
			}
			return err
		})
		v.lost = err
		v.draw(out)
		select {
		case <-ctx.Done():
		case <-time.After(topRetry):
		}
	}
	return nil
}

// untilQuit reads keys; it ends with the process if none comes.
func untilQuit(quit func()) {
	defer quit()
	b := make([]byte, 1)
	for {
		if n, err := os.Stdin.Read(b); err != nil || n == 1 && (b[0] == 'q' || b[0] == 'Q' || b[0] == 3 || b[0] == 4) {
			return
		}
	}
}

// draw fills the terminal.
func (v *view) draw(out *os.File) {
	width, height, err := term.GetSize(int(out.Fd()))
	if err != nil {
		width, height = 80, 24
	}
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, r := range v.screen(time.Now(), width, height) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(r.look + r.text + "\x1b[0m\x1b[K")
	}
	b.WriteString("\x1b[J")
	io.WriteString(out, b.String())
}

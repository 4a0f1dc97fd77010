// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"tandem/machine"
)

// What the Makefile says of the source, since the go command does not always see its
// repository.
var version, commit, date string

// build is what the program knows of itself.
type build struct {
	Version  string    `json:"version"`
	Machine  uint64    `json:"machine_version"` // copies of one VM must have the same
	Commit   string    `json:"commit"`
	Date     time.Time `json:"date,omitzero"` // of the commit
	Modified bool      `json:"modified"`      // beyond the commit
	Go       string    `json:"go"`
	Platform string    `json:"platform"`
}

// readBuild reads what the go command put into the program.
func readBuild() build {
	b := build{Version: "unknown", Machine: uint64(machine.Version), Commit: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok {
		b.Version = orElse(info.Main.Version, b.Version)
		b.settings(info.Settings)
	}
	b.Version, b.Commit = orElse(version, b.Version), orElse(commit, b.Commit)
	if t, err := time.Parse(time.RFC3339, date); err == nil {
		b.Date = t.UTC()
	}
	return b
}

func (b *build) settings(list []debug.BuildSetting) {
	for _, s := range list {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Date, _ = time.Parse(time.RFC3339, s.Value)
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
}

func versionCommand() *cobra.Command {
	var o output
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Args: args(0, 0, "no arguments"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			b := readBuild()
			return o.print(c.OutOrStdout(), b, func(w io.Writer) {
				changed := ""
				if b.Modified {
					changed = " and changes"
				}
				fmt.Fprintf(w, "tandem %s, machine version %d, commit %s%s, %s, %s\n", b.Version, b.Machine, b.Commit, changed, b.Go, b.Platform)
			})
		},
	}
	o.add(c)
	return c
}

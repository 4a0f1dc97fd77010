// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"tandem/image"
	"tandem/node"
)

// examples are those of commands that bring none along. Every command that people
// see has some: TestExamples.
var examples = map[string]string{
	"tandem":            "  tandem demo\n  tandem image build web --packages redis-server\n  tandem run web --forward 127.0.0.1:6379:6379",
	"tandem demo":       "  tandem demo\n  tandem demo --kill both --before 10s\n  tandem demo --again --format json",
	"tandem replay":     "  tandem run web --record boot.log\n  tandem replay boot.log --console",
	"tandem node":       "  tandem node\n  tandem node --memory 16G --metrics 127.0.0.1:9100 --api :7380",
	"tandem nodes":      "  tandem nodes\n  tandem nodes --format json",
	"tandem completion": "  tandem completion bash > /etc/bash_completion.d/tandem\n  tandem completion zsh > \"${fpath[1]}/_tandem\"",
	"tandem version":    "  tandem version\n  tandem version --format json",

	"tandem cluster":              "  tandem cluster init --address 10.0.0.1 --name a\n  tandem cluster join TOKEN --address 10.0.0.2 --name b",
	"tandem cluster init":         "  tandem cluster init --address 10.0.0.1 --name a",
	"tandem cluster join":         "  tandem cluster join TOKEN --address 10.0.0.2 --name b\n  tandem cluster join - --address 10.0.0.2 < token",
	"tandem cluster token":        "  tandem cluster token",
	"tandem cluster token create": "  tandem cluster token create --role operate --name alice --expires 720h",
	"tandem cluster token list":   "  tandem cluster token list",
	"tandem cluster token revoke": "  tandem cluster token revoke k3vq7m2a",

	"tandem cluster evacuate": "  tandem cluster evacuate a",
	"tandem cluster restore":  "  tandem cluster restore a",
	"tandem cluster dead":     "  tandem cluster dead a",
	"tandem cluster remove":   "  tandem cluster remove a",
	"tandem cluster confirm":  "  tandem cluster confirm",

	"tandem create":     "  tandem create web --image /srv/images/web --disk nbd://10.0.0.9:10809/web --network switch:10.0.0.9:7077 --ft --start",
	"tandem start":      "  tandem start web",
	"tandem stop":       "  tandem stop web",
	"tandem delete":     "  tandem delete web",
	"tandem top":        "  tandem top\n  tandem top --once",
	"tandem list":       "  tandem list\n  tandem list --format json",
	"tandem info":       "  tandem info web",
	"tandem events":     "  tandem events web",
	"tandem ft":         "  tandem ft enable web\n  tandem ft status web",
	"tandem ft enable":  "  tandem ft enable web",
	"tandem ft disable": "  tandem ft disable web",
	"tandem ft status":  "  tandem ft status web || echo not protected",

	"tandem ft migrate-backup": "  tandem ft migrate-backup web --to c",
	"tandem ft test-failover":  "  tandem ft test-failover web --yes",
	"tandem migrate":           "  tandem migrate web --to b",
	"tandem reset":             "  tandem reset web",
	"tandem disk":              "  tandem disk resize web 0 20G",
	"tandem memory":            "  tandem memory web 256M",
	"tandem disk attach":       "  tandem disk attach web nbd://10.0.0.5/data",
	"tandem disk detach":       "  tandem disk detach web 1",
	"tandem disk move":         "  tandem disk move web 0 nbd://10.0.0.6/web\n  tandem disk move web --cancel",
	"tandem disk resize":       "  tandem disk resize web 0 20G",
	"tandem shutdown":          "  tandem shutdown web --timeout 2m",
	"tandem console":           "  tandem console web",
}

// choices are the values that a flag may have, whichever command has it.
var choices = map[string][]string{
	"engine":        {engineJIT, engineInterpreter},
	"mmu":           {"sv39", "sv48", "sv57"},
	"terminal":      {terminalUART, terminalVirtio},
	"kill":          {"primary", "backup", "both", "stopped", "switch"},
	"on-divergence": {"restart", "continue"},
	"role":          {"view", "operate", "admin"},
	"spread":        {"prefer", "require"},
	"format":        {"text", "json"},
	"network":       {"user", "none", "switch:", "tap:"},
	"reads":         {"log", "backup"},
	"disks":         {"shared", "replicated"},
	"disk-error":    {"report", "stop"},
}

// groups are the commands as the help of tandem itself shows them.
var groups = []struct {
	title    string
	commands []string
}{
	{"To begin with:", []string{"demo", "doctor", "image", "run", "replay"}},
	{"VMs of a cluster:", []string{"create", "start", "stop", "shutdown", "reset", "delete", "disk", "list", "top", "info", "console", "events", "migrate", "ft"}},
	{"Hosts:", []string{"cluster", "nodes", "node", "witness", "support-bundle"}},
	{"Shared storage and network:", []string{"store", "switch"}},
}

// arrange puts the commands into their groups.
func arrange(root *cobra.Command) {
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title})
		for _, c := range root.Commands() {
			if slices.Contains(g.commands, c.Name()) {
				c.GroupID = g.title
			}
		}
	}
}

// finish gives all commands below c their examples and completions.
func finish(c *cobra.Command) {
	if c.Example == "" {
		c.Example = examples[c.CommandPath()]
	}
	if _, argument, ok := strings.Cut(c.Use, " "); ok && c.ValidArgsFunction == nil {
		switch {
		case strings.HasPrefix(argument, "NAME") && c.Name() != "create":
			c.ValidArgsFunction = completeFrom(vmNames)
		case strings.HasPrefix(argument, "NODE"):
			c.ValidArgsFunction = completeFrom(nodeNames)
		case strings.HasPrefix(argument, "[IMAGE]"):
			c.ValidArgsFunction = oneImage
		}
	}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if _, has := c.GetFlagCompletionFunc(f.Name); has {
			return
		}
		if list, ok := choices[f.Name]; ok {
			c.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp))
		}
		if f.Name == "image" {
			c.RegisterFlagCompletionFunc(f.Name, imageNames)
		}
	})
	for _, sub := range c.Commands() {
		finish(sub)
	}
}

// completeFrom completes one argument from what the daemon knows, if it answers soon.
func completeFrom(names func(context.Context, *node.Client) []string) cobra.CompletionFunc {
	return func(c *cobra.Command, a []string, _ string) ([]string, cobra.ShellCompDirective) {
		f := c.Flags().Lookup("run")
		if len(a) > 0 || f == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, stop := context.WithTimeout(context.Background(), time.Second)
		defer stop()
		return names(ctx, node.NewClient(f.Value.String())), cobra.ShellCompDirectiveNoFileComp
	}
}

func vmNames(ctx context.Context, c *node.Client) (names []string) {
	list, _ := c.VMs(ctx) // none, if nobody answers
	for _, v := range list {
		names = append(names, v.Name)
	}
	return names
}

func nodeNames(ctx context.Context, c *node.Client) (names []string) {
	list, _ := c.Nodes(ctx)
	for _, n := range list {
		names = append(names, n.Name)
	}
	return names
}

// flagError says what was wrong with a flag, and which was perhaps meant.
func flagError(c *cobra.Command, err error) error {
	var bad *pflag.InvalidValueError
	var none *pflag.NotExistError
	switch {
	case errors.As(err, &bad):
		kind := kinds[bad.GetFlag().Value.Type()]
		if kind == "" {
			kind = "value for it"
		}
		err = fmt.Errorf("--%s %s: not a %s", bad.GetFlag().Name, bad.GetValue(), kind)
	case errors.As(err, &none) && len(none.GetSpecifiedName()) > 1:
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, f.Name)
			}
		})
		if near := image.Nearest(none.GetSpecifiedName(), names); near != "" {
			err = fmt.Errorf("%w, did you mean --%s?", err, near)
		}
	}
	return usageError{fmt.Errorf("%w; see %s --help", err, c.CommandPath())}
}

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the manual pages of all commands",
		Long: "Writes a page of section 1 for each command into a folder, which is made if missing. The same\n" +
			"program writes the same bytes.",
		Example: "  tandem man /usr/local/share/man/man1 && man tandem-run",
		Args:    args(1, 1, "a folder for the pages"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(c *cobra.Command, a []string) error {
			if err := os.MkdirAll(a[0], 0o755); err != nil {
				return fmt.Errorf("folder %s: %w; name one that can be made and written", a[0], why(err))
			}
			b := readBuild()
			date := b.Date
			h := doc.GenManHeader{Section: "1", Source: "tandem", Manual: "tandem", Date: &date}
			root := c.Root()
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, &h, a[0]); err != nil {
				return fmt.Errorf("folder %s: %w; name one that can be made and written", a[0], why(err))
			}
			pages, err := filepath.Glob(filepath.Join(a[0], "tandem*.1"))
			fmt.Fprintf(c.OutOrStdout(), "%d pages in %s\n", len(pages), a[0])
			return err
		},
	}
}

// visible are all commands that people see.
func visible(c *cobra.Command) (list []*cobra.Command) {
	if c.Hidden || c.Name() == "help" {
		return nil
	}
	list = append(list, c)
	for _, sub := range c.Commands() {
		list = slices.Concat(list, visible(sub))
	}
	return list
}

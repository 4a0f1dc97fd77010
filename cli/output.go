// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// output is the flag --format of a command that prints what it found.
type output struct{ format string }

const formatUsage = "text for people; json or yaml for programs"

func (o *output) add(c *cobra.Command) {
	c.Flags().StringVar(&o.format, "format", "text", formatUsage)
	c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"text", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
}

func (o *output) check() error {
	switch o.format {
	case "text", "json", "yaml":
		return nil
	}
	return usageError{fmt.Errorf("--format %s: choose text, json or yaml", o.format)}
}

// print writes v for programs, or what text makes of it in columns for people.
func (o *output) print(w io.Writer, v any, text func(io.Writer)) error {
	switch o.format {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		return writeYAML(w, v)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	text(t)
	return t.Flush()
}

// writeYAML writes v with the names that it has in JSON.
func writeYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var tree yaml.Node // JSON is YAML; a node keeps the order of fields
	if err := yaml.Unmarshal(b, &tree); err != nil {
		return err
	}
	block(&tree)
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	defer e.Close()
	return e.Encode(&tree)
}

// block takes JSON's brackets and quotes out of a tree.
func block(n *yaml.Node) {
	if len(n.Content) > 0 {
		n.Style = 0
	} else {
		n.Style &^= yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		block(c)
	}
}

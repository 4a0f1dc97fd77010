// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"tandem/api"
	"tandem/node"
)

// tokenCommand is about tokens of both kinds: those that let hosts join, and those of the
// HTTP API.
func tokenCommand() *cobra.Command {
	withdraw := false
	c := asking("token", "Print a token that lets hosts join for a day; the commands below are about tokens of the HTTP API", 0, 0, "no arguments",
		func(ctx context.Context, c *cobra.Command, a *asks, _ []string) error {
			if withdraw {
				return a.client().WithdrawTokens(ctx)
			}
			token, err := a.client().Token(ctx)
			return tellToken(c.OutOrStdout(), a, token, err)
		})
	c.Flags().BoolVar(&withdraw, "withdraw", false, "print none, and let nobody join with those that were printed before")
	c.AddCommand(tokenCreate(),
		asking("list", "List the tokens of the HTTP API", 0, 0, "no arguments",
			func(ctx context.Context, c *cobra.Command, a *asks, _ []string) error {
				list, err := a.client().Tokens(ctx)
				if err != nil {
					return err
				}
				return a.show(c.OutOrStdout(), list, func(w io.Writer) {
					fmt.Fprintln(w, "ID\tNAME\tROLE\tMADE\tEXPIRES\t")
					for _, t := range list {
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t\n", t.ID, t.Name, t.Role, minute(t.Made), minute(t.Expires))
					}
				})
			}),
		asking("revoke ID", "Revoke a token of the HTTP API", 1, 1, "the ID of a token: tandem cluster token list shows it",
			func(ctx context.Context, _ *cobra.Command, a *asks, list []string) error {
				return a.client().RevokeToken(ctx, list[0])
			}))
	return c
}

func minute(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format("2006-01-02 15:04")
}

func tokenCreate() *cobra.Command {
	var role string
	var q node.TokenRequest
	var expires time.Duration
	c := asking("create --role ROLE", "Make a token of the HTTP API and the dashboard", 0, 0, "no arguments",
		func(ctx context.Context, c *cobra.Command, a *asks, _ []string) (err error) {
			if role == "" {
				return usageError{errors.New("--role is missing: choose view, operate or admin")}
			}
			if q.Role, err = api.ParseRole(role); err != nil {
				return usageError{fmt.Errorf("--role: %w", err)}
			}
			if c.Flags().Changed("expires") && expires < time.Second {
				return usageError{fmt.Errorf("--expires %v: give at least 1s", expires)}
			}
			q.Seconds = int64(expires / time.Second)
			t, err := a.client().CreateToken(ctx, q)
			if err != nil {
				return err
			}
			return a.show(c.OutOrStdout(), t, func(w io.Writer) { fmt.Fprintln(w, t.Text) })
		})
	c.Long = "view looks; operate starts, stops, moves and evacuates as well, and joins consoles; admin makes and\n" +
		"deletes VMs, hosts and tokens. The token is printed once, and kept nowhere: the cluster has a hash of it."
	f := c.Flags()
	f.StringVar(&role, "role", "", "view, operate or admin")
	f.StringVar(&q.Name, "name", "", "whose it is, for people; default: the role")
	f.DurationVar(&expires, "expires", 0, "life of the token, 24h say; default: until it is revoked")
	return c
}

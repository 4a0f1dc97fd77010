// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"tandem/host/confine"
)

// confineFlag says whether a process confines itself.
type confineFlag string

const (
	confineAuto = "auto"
	confineOn   = "on"
	confineOff  = "off"
)

func (c *confineFlag) add(f *pflag.FlagSet) {
	f.StringVar((*string)(c), "confine", confineAuto, "take from this process what it will not need again, see docs/SECURITY.md: auto: as far as the kernel can; on: or don't run; off")
}

// check validates the flag, and that the kernel can do what is asked for, before
// anything is opened.
func (c confineFlag) check() error {
	switch c {
	case confineAuto, confineOff:
	case confineOn:
		if err := confine.Missing(); err != nil {
			return fmt.Errorf("--confine on: %w: or run with --confine auto", err)
		}
	default:
		return usageError{fmt.Errorf("--confine %s: choose auto, on or off", string(c))}
	}
	return nil
}

// enter confines the process, whose devices are open.
func (c confineFlag) enter(n confine.Needs) error {
	if c == confineOff {
		return nil
	}
	err := confine.Process(n)
	switch kept := (*confine.KeptError)(nil); {
	case err == nil:
	case c == confineOn:
		return fmt.Errorf("--confine on: %w", err)
	case errors.As(err, &kept):
		diagnostics().Warn("this process is not confined as a whole", "err", err)
	default:
		diagnostics().Info("this process is not confined as a whole", "err", err)
	}
	return nil
}

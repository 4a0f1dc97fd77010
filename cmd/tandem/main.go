// SPDX-License-Identifier: Apache-2.0

// Command tandem runs fault-tolerant virtual machines.
package main

import (
	"os"

	"tandem/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }

// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// Builds from the real mirror, when TANDEM_IMAGE_OUT names a folder.
func TestManualBuild(t *testing.T) {
	out := os.Getenv("TANDEM_IMAGE_OUT")
	if out == "" {
		t.Skip("TANDEM_IMAGE_OUT is not set")
	}
	start := time.Now()
	i, err := Build(context.Background(), Options{Dir: out, Packages: strings.Fields(os.Getenv("PKGS")), Progress: NewProgress(os.Stderr), Essential: os.Getenv("ESS") != ""})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(i, time.Since(start))
}

// SPDX-License-Identifier: Apache-2.0

package control

import (
	"encoding/json"
	"os"

	"tandem/host"
)

// How a copy ended.
const (
	EndOff    = "off"    // the VM ended by itself, or was powered off: both copies end
	EndHalted = "halted" // another copy may go on
	EndFailed = "failed" // it could not run
	EndKilled = "killed" // it left no word: never written, concluded
)

// maxResult are the bytes of a Result that are read.
const maxResult = 64 << 10

// Result is a copy's last word.
type Result struct {
	End string `json:"end"`
	Why string `json:"why,omitempty"`
}

// Save writes a Result.
func (r Result) Save(path string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}

// LoadResult reads the last word of a copy that has ended; without one it was killed.
func LoadResult(path string) Result {
	var r Result
	b, err := host.ReadPlain(path, maxResult)
	if err != nil || json.Unmarshal(b, &r) != nil {
		return Result{End: EndKilled, Why: "the process was killed, or its host was"}
	}
	return r
}

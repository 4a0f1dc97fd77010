// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"time"

	"tandem/ft"
	"tandem/host"
	"tandem/replica"
)

// Record is one line of the file of events.
type Record struct {
	Time  time.Time `json:"time"`
	Kind  string    `json:"kind"`
	Text  string    `json:"text,omitempty"`
	From  string    `json:"from,omitempty"`
	To    string    `json:"to,omitempty"`
	Epoch uint64    `json:"epoch,omitempty"`
	Entry uint64    `json:"entry,omitempty"`
	Step  uint64    `json:"step"`
}

// Log appends events to a file, behind the replica that reports them.
type Log struct {
	f *os.File
	w *host.Behind
}

// OpenLog opens the file of events; without a path they go to standard error.
func OpenLog(path string) (*Log, error) {
	if path == "" {
		return &Log{os.Stderr, host.NewBehind(os.Stderr)}, nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &Log{f, host.NewBehind(f)}, nil
}

// Report appends an event.
func (l *Log) Report(e replica.Event) {
	b, _ := json.Marshal(Record{Time: time.Now(), Kind: string(e.Kind), Text: e.Text, From: name(e.From), To: name(e.To),
		Epoch: uint64(e.Epoch), Entry: uint64(e.Seq), Step: uint64(e.Step)})
	l.w.Write(append(b, '\n'))
}

func name(s ft.State) string {
	if s == 0 {
		return ""
	}
	return s.String()
}

// Close writes what is queued and closes the file.
func (l *Log) Close() error {
	err := l.w.Close()
	if l.f == os.Stderr {
		return err
	}
	return errors.Join(err, l.f.Close())
}

// ReadRecords reads a file of events; a last line that is cut short is left out.
func ReadRecords(path string) (list []Record) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		var r Record
		if json.Unmarshal(in.Bytes(), &r) == nil {
			list = append(list, r)
		}
	}
	return list
}

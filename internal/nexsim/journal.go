package nexsim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
)

// journal keeps what was emitted over the end of the process, however it ends: Nex forgets nothing either. A line is
// written before an insight is given to anybody.
type journal struct {
	mu   sync.Mutex
	file *os.File
}

// Record is one line of the file named by Options.Journal.
type Record struct {
	Workspace string  `json:"workspace"`
	Insight   Insight `json:"insight"`
}

func (j *journal) write(r Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err := j.file.Write(append(mustJSON(r), '\n'))
	return err
}

func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	_ = j.file.Close()
}

// ReadJournal hands over what a journal holds and answers the size of its whole lines: a process that was killed may have
// left half of one.
func ReadJournal(r io.Reader, each func(Record)) (size int64, err error) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return size, nil
		}
		if err != nil {
			return size, err
		}
		var one Record
		if err := json.Unmarshal(line, &one); err != nil {
			return size, fmt.Errorf("at byte %d: %w", size, err)
		}
		size += int64(len(line))
		each(one)
	}
}

// openJournal takes up what was emitted before.
func (s *Sim) openJournal(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	size, err := ReadJournal(f, func(r Record) {
		if w := s.bySlug[r.Workspace]; w != nil {
			w.record(r.Insight)
		}
	})
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		_, err = f.Seek(size, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, w := range s.workspaces { // the same contents again would be the same insights
		w.rand = rand.New(rand.NewPCG(s.opts.Seed+uint64(w.total), hash("contents", w.info.Slug)))
	}
	s.journal = &journal{file: f}
	return nil
}

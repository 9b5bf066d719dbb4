package nexsim

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// Where a fault takes a slug, "" stands for all workspaces unless it says otherwise.

// Drop ends the open streams and returns how many: cleanly, or with abort by breaking the connection in mid-response. What
// still waited to be written is lost to them.
func (s *Sim) Drop(slug string, abort bool) int {
	how := ended
	if abort {
		how = aborted
	}
	n := 0
	for _, w := range s.mustEach(slug) {
		n += w.drop(how, anyConn)
	}
	return n
}

// Stall silences the open streams until Resume and returns how many: the connections stay, but no byte comes, keepalives
// included. With newToo streams to come are silent as well, after their response header. What is emitted meanwhile
// waits; a stream whose buffer runs over is cut off.
func (s *Sim) Stall(slug string, newToo bool) int {
	n := 0
	for _, w := range s.mustEach(slug) {
		n += w.stall(true, newToo)
	}
	return n
}

// Resume ends a stall and returns how many streams are open.
func (s *Sim) Resume(slug string) int {
	n := 0
	for _, w := range s.mustEach(slug) {
		n += w.stall(false, false)
	}
	return n
}

func (w *workspace) stall(on, newToo bool) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stallNew = newToo
	for _, c := range w.conns {
		c.stall(on)
	}
	return len(w.conns)
}

// Cut emits a generated batch of one insight of which the open streams get the first half only; then their connections
// break, stalled ones too. The insight was emitted all the same: replay and REST have it. The slug must not be empty.
func (s *Sim) Cut(slug string) Batch {
	w := s.must(slug)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.send(w.generate(1), func(f frame) frame { return frame{wire: f.wire[:len(f.wire)/2], then: aborted} })
}

// The kinds of garbage.
const (
	GarbageJSON     = "json"     // a live event whose data is broken JSON
	GarbageBinary   = "binary"   // random bytes, as lines without a field and as a live event's data
	GarbageUTF8     = "utf8"     // a live batch of one insight whose content holds bytes that are no UTF-8
	GarbageOversize = "oversize" // a live batch of one insight, valid, with Size bytes of data
)

const (
	garbageBytes = 512
	maxOversize  = 64 << 20
)

// Garbage sends the open streams something that is no insight of Nex; replay, REST and Emitted never know of it. size is
// the bytes of data: 512 if 0, 64 MiB at most; "json" and "utf8" have a size of their own. The slug must not be empty.
func (s *Sim) Garbage(slug, kind string, size int) error {
	w, err := s.find(slug)
	if err != nil {
		return err
	}
	size = orDefault(size, garbageBytes)
	if size < 1 || size > maxOversize {
		return fmt.Errorf("garbage size %d: must be 1..%d bytes", size, maxOversize)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	eol := w.wire.Load().eol()
	var wire []byte
	switch kind {
	case GarbageJSON:
		wire = encodeEvent(eventBatch, []byte(`{"workspace":{"slug":"`+slug+`"},"insights":[{"type":"risk","content":"cut o`), eol)
	case GarbageBinary:
		noise := randomLine(w.rand, size)
		wire = slices.Concat(noise, []byte(eol), encodeEvent(eventBatch, noise, eol))
	case GarbageUTF8:
		wire = encodeEvent(eventBatch, []byte(`{"insights":[{"type":"risk","content":"caf`+"\xe9 \xff\xfe\xc3"+`"}],"insight_count":1}`), eol)
	case GarbageOversize:
		wire = encodeEvent(eventBatch, oversize(size), eol)
	default:
		return fmt.Errorf("garbage kind %q: must be json, binary, utf8 or oversize", kind)
	}
	w.push(frame{wire: wire})
	return nil
}

// oversize is a batch of size bytes, or as short as one can be.
func oversize(size int) []byte {
	const head, tail = `{"insights":[{"type":"activity","content":"`, `"}],"insight_count":1}`
	return []byte(head + strings.Repeat("x", max(1, size-len(head)-len(tail))) + tail)
}

// randomLine is n bytes without a line end.
func randomLine(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	b = bytes.ReplaceAll(b, []byte("\n"), []byte{0})
	return bytes.ReplaceAll(b, []byte("\r"), []byte{0xff})
}

// SetWire changes how streams are written. Line ending and pieces count from the next write on, also on open streams.
func (s *Sim) SetWire(slug string, wire Wire) error {
	if err := wire.validate(); err != nil {
		return err
	}
	list, err := s.each(slug)
	if err != nil {
		return err
	}
	for _, w := range list {
		w.setWire(wire)
	}
	return nil
}

func (w *workspace) setWire(wire Wire) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.wire.Swap(&wire)
	if field := wire.retryField(); field != nil && wire.Retry != old.Retry {
		w.push(frame{wire: field})
	}
}

// SetDuplicates sets which part (0..1) of the generated insights repeats type, content and target of one of the newest
// 100, under an id of its own.
func (s *Sim) SetDuplicates(slug string, share float64) error {
	if !(share >= 0 && share <= 1) {
		return fmt.Errorf("duplicates %v: must be 0..1", share)
	}
	list, err := s.each(slug)
	if err != nil {
		return err
	}
	for _, w := range list {
		w.mu.Lock()
		w.duplicates = share
		w.mu.Unlock()
	}
	return nil
}

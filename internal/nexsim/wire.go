package nexsim

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

const (
	eventBatch  = "insight.batch.created"
	eventReplay = "insight.replay"
)

// Wire is how a workspace's streams are written, within what the event-stream format allows. The zero value is the plain
// way: LF, no byte order mark, no retry field, each event in one piece.
type Wire struct {
	// LineEnding is "lf" (also ""), "crlf" or "cr".
	LineEnding string
	// BOM puts a byte order mark before the first byte of a new stream.
	BOM bool
	// Retry is sent as the retry field, in milliseconds: on new streams and, when it changes, on open ones. 0 sends none.
	Retry time.Duration
	// Chunk is how many bytes are written and flushed at a time; 0 = each event whole, 1 = byte by byte.
	Chunk int
	// SplitUTF8 flushes after the first byte of every character that has more than one.
	SplitUTF8 bool
	// Pause is the time between such pieces. Without it the network may join them again.
	Pause time.Duration
}

func (w Wire) validate() error {
	switch {
	case !slices.Contains([]string{"", "lf", "crlf", "cr"}, w.LineEnding):
		return fmt.Errorf("line ending %q: must be lf, crlf or cr", w.LineEnding)
	case w.Retry < 0 || w.Chunk < 0 || w.Pause < 0:
		return fmt.Errorf("retry %v, chunk %d, pause %v: must not be negative", w.Retry, w.Chunk, w.Pause)
	}
	return nil
}

func (w *Wire) eol() string {
	switch w.LineEnding {
	case "crlf":
		return "\r\n"
	case "cr":
		return "\r"
	}
	return "\n"
}

// greeting is what a new stream begins with.
func (w *Wire) greeting(workspaceID, tokenID string) []byte {
	var b []byte
	if w.BOM {
		b = append(b, "\ufeff"...)
	}
	b = append(b, ": connected workspace_id="+workspaceID+" token_id="+tokenID+w.eol()+w.eol()...)
	return append(b, w.retryField()...)
}

func (w *Wire) retryField() []byte {
	if w.Retry == 0 {
		return nil
	}
	return []byte("retry: " + strconv.FormatInt(w.Retry.Milliseconds(), 10) + w.eol() + w.eol())
}

// encodeEvent frames data as one event, a data field for each of its lines.
func encodeEvent(name string, data []byte, eol string) []byte {
	b := make([]byte, 0, len(data)+len(name)+64)
	if name != "" {
		b = append(append(append(b, "event: "...), name...), eol...)
	}
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		b = append(append(append(b, "data: "...), line...), eol...)
	}
	return append(b, eol...)
}

// output writes to one stream in the pieces that its workspace's Wire asks for.
type output struct {
	w         http.ResponseWriter
	flusher   *http.ResponseController
	workspace *workspace
}

func (o *output) flush() error { return o.flusher.Flush() }

func (o *output) keepalive() error {
	eol := o.workspace.wire.Load().eol()
	if err := o.write([]byte(": keepalive" + eol + eol)); err != nil {
		return err
	}
	return o.flush()
}

func (o *output) write(b []byte) error {
	wire := o.workspace.wire.Load()
	if wire.Chunk == 0 && !wire.SplitUTF8 {
		_, err := o.w.Write(b)
		return err
	}
	for len(b) > 0 {
		n := wire.piece(b)
		if _, err := o.w.Write(b[:n]); err != nil {
			return err
		}
		if err := o.flush(); err != nil {
			return err
		}
		b = b[n:]
		if wire.Pause > 0 {
			time.Sleep(wire.Pause)
		}
	}
	return nil
}

// piece is how many bytes of b, which is not empty, go out next.
func (w *Wire) piece(b []byte) int {
	n := len(b)
	if w.Chunk > 0 {
		n = min(n, w.Chunk)
	}
	if !w.SplitUTF8 {
		return n
	}
	for i := range n {
		if utf8.RuneStart(b[i]) && b[i] >= utf8.RuneSelf {
			return i + 1
		}
	}
	return n
}

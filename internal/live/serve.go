package live

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

const (
	keepalive = 15 * time.Second
	// writeTime is how long one who watches may take to receive an entry. One who takes longer comes again, and goes on from the
	// last event that he got.
	writeTime = 10 * time.Second
	// comeAgain is after how long he should.
	comeAgain = 3 * time.Second
)

// Past is what a reader is told first: what he has missed since he was last there, the oldest first.
type Past struct {
	Entries []*Entry
	Dropped uint64 // how many more there were, before these
}

// Serve writes what a reader gets as Server-Sent Events, until ctx ends, he is gone or too slow, or the hub is closed.
func (r *Reader) Serve(ctx context.Context, w http.ResponseWriter, past Past) {
	out := &writer{w: w, rc: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold it back
	out.text(fmt.Sprintf("retry: %d\n\n", comeAgain.Milliseconds()))
	out.dropped(past.Dropped)
	var told uint64 // the last event
	for _, e := range past.Entries {
		out.bytes(e.frame)
		told = e.Sequence
	}
	out.flush()
	quiet := time.NewTicker(keepalive)
	defer quiet.Stop()
	for out.err == nil {
		select {
		case <-ctx.Done():
			return
		case <-quiet.C:
			out.text(": keepalive\n\n")
			out.flush()
			continue
		case <-r.ready:
		}
		queue, dropped, open := r.take()
		for _, e := range queue {
			if e.Sequence == 0 || e.Sequence > told { // what was stored while the past was read is in both
				out.bytes(e.frame)
			}
		}
		out.dropped(dropped)
		out.flush()
		if !open {
			return
		}
		quiet.Reset(keepalive)
	}
}

// writer writes until it fails.
type writer struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	err error
}

func (o *writer) bytes(b []byte) {
	if o.err != nil {
		return
	}
	_ = o.rc.SetWriteDeadline(time.Now().Add(writeTime)) // in place of the server's, which is for a whole answer
	_, o.err = o.w.Write(b)
}

func (o *writer) text(s string) { o.bytes([]byte(s)) }

func (o *writer) dropped(n uint64) {
	if n > 0 {
		o.bytes(frame(KindDropped, 0, Dropped{n}))
	}
}

func (o *writer) flush() {
	if o.err == nil {
		o.err = o.rc.Flush()
	}
}

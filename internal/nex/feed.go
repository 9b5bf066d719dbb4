package nex

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrIdle ends a stream that sent nothing at all for too long, keepalive comments included: such a connection is dead,
// whatever TCP believes.
var ErrIdle = errors.New("stream fell silent")

// Feed is an open stream. Next, Wait and Take are for one goroutine at a time; the other methods are for any.
type Feed struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	body   io.ReadCloser
	framer *framer

	idle     time.Duration
	lastByte atomic.Int64 // Unix nanoseconds
	watchdog *time.Timer

	mu          sync.Mutex
	workspaceID string
	tokenID     string
	retry       time.Duration
	hasRetry    bool

	connectOnce sync.Once
	connected   chan struct{}
}

func newFeed(ctx context.Context, cancel context.CancelCauseFunc, body io.ReadCloser, maxEvent int, idle time.Duration) *Feed {
	f := &Feed{ctx: ctx, cancel: cancel, body: body, idle: idle, connected: make(chan struct{})}
	f.framer = newFramer(watchedReader{f}, maxEvent)
	f.framer.comment, f.framer.retry = f.onComment, f.onRetry
	f.lastByte.Store(time.Now().UnixNano())
	f.watchdog = time.AfterFunc(idle, f.watch)
	return f
}

// watchedReader notes when bytes arrive.
type watchedReader struct{ feed *Feed }

func (r watchedReader) Read(p []byte) (int, error) {
	n, err := r.feed.body.Read(p)
	if n > 0 {
		r.feed.lastByte.Store(time.Now().UnixNano())
	}
	return n, err
}

// watch runs when the stream may have been silent too long. It is set anew for the rest, so that a timer is touched once
// in an idle time and not with every read.
func (f *Feed) watch() {
	silent := time.Since(time.Unix(0, f.lastByte.Load()))
	if silent >= f.idle {
		f.cancel(ErrIdle)
		return
	}
	if f.ctx.Err() == nil {
		f.watchdog.Reset(f.idle - silent)
	}
}

// Next answers the next event. It blocks; the error is as that of Wait.
func (f *Feed) Next() (Frame, error) {
	for {
		if err := f.Wait(); err != nil {
			return Frame{}, err
		}
		if frame, ok := f.Take(); ok {
			return frame, nil
		}
	}
}

// Wait blocks until something has come. The error is [ErrIdle], the context's, io.EOF where the server ended the stream, or
// what broke it. It needs little stack, so that a goroutine which does nothing else can be one of thousands.
func (f *Feed) Wait() error {
	err := f.framer.wait()
	if err == nil {
		return nil
	}
	if cause := context.Cause(f.ctx); cause != nil {
		return cause
	}
	return err
}

// Take answers the next event of what has come; ok if there is one. Where only the beginning of one has, it is taken and Wait is for
// the rest.
func (f *Feed) Take() (frame Frame, ok bool) {
	if frame, ok = f.framer.take(); ok {
		f.signalConnected()
	}
	return frame, ok
}

// Close ends the stream; a Next under way returns.
func (f *Feed) Close() error {
	f.watchdog.Stop()
	f.cancel(context.Canceled)
	return f.body.Close()
}

// Connected is closed when Nex has greeted, by its first comment or event. Next must be running.
func (f *Feed) Connected() <-chan struct{} { return f.connected }

// Identity is what the connect comment said of the key; empty before it came.
func (f *Feed) Identity() (workspaceID, tokenID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.workspaceID, f.tokenID
}

// Retry is the server's last wish for the pause before a reconnect.
func (f *Feed) Retry() (time.Duration, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.retry, f.hasRetry
}

func (f *Feed) signalConnected() { f.connectOnce.Do(func() { close(f.connected) }) }

// onComment reads ": connected workspace_id=… token_id=…".
func (f *Feed) onComment(text string) {
	defer f.signalConnected()
	rest, ok := strings.CutPrefix(text, "connected")
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, field := range strings.Fields(rest) {
		switch name, value, _ := strings.Cut(field, "="); name {
		case "workspace_id":
			f.workspaceID = printable(value)
		case "token_id":
			f.tokenID = printable(value)
		}
	}
}

func (f *Feed) onRetry(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retry, f.hasRetry = d, true
}

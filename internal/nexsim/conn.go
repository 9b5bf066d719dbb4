package nexsim

import (
	"context"
	"sync"
	"time"
)

// frame is what a stream writes in one piece, shared by all streams that get it.
type frame struct {
	wire []byte
	then ending // what happens to the stream afterwards
}

// ending says whether and how a stream ends.
type ending uint8

const (
	lives   ending = iota
	ended          // the response ends as it should
	aborted        // the connection breaks in mid-response
)

// lastWrite is how long a stream that ends cleanly may still take for the write it is in.
const lastWrite = 2 * time.Second

// conn is one open stream: a bounded queue between whoever emits and the goroutine that writes.
type conn struct {
	token    string
	buffer   int                   // bytes that may wait
	wake     chan struct{}         // capacity 1: there is something to look at
	deadline func(time.Time) error // of the connection's writes

	mu      sync.Mutex
	queue   []frame
	waiting int // bytes in queue
	stalled bool
	ending  ending
	left    bool // the writer is gone and deadline belongs to another request
}

func newConn(token string, buffer int, deadline func(time.Time) error) *conn {
	return &conn{token: token, buffer: buffer, wake: make(chan struct{}, 1), deadline: deadline}
}

// push never blocks. It reports false when the buffer is full; a frame of any size fits into an empty one.
func (c *conn) push(f frame) bool {
	c.mu.Lock()
	if c.waiting > c.buffer {
		c.mu.Unlock()
		return false
	}
	c.queue = append(c.queue, f)
	c.waiting += len(f.wire)
	c.mu.Unlock()
	c.poke()
	return true
}

// next takes the next frame; ok is false when there is nothing to do for now.
func (c *conn) next() (f frame, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ending != lives:
		return frame{then: c.ending}, true
	case c.stalled || len(c.queue) == 0:
		return frame{}, false
	}
	f, c.queue[0] = c.queue[0], frame{}
	c.queue = c.queue[1:]
	if len(c.queue) == 0 {
		c.queue = nil // what a burst needed is not kept at rest
	}
	c.waiting -= len(f.wire)
	return f, true
}

func (c *conn) stall(on bool) {
	c.mu.Lock()
	c.stalled = on
	c.mu.Unlock()
	c.poke()
}

func (c *conn) silent() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stalled
}

// end ends the stream, also when its writer hangs in a write.
func (c *conn) end(how ending) {
	c.mu.Lock()
	if c.ending == lives && !c.left {
		c.ending = how
		grace := time.Duration(0)
		if how == ended {
			grace = lastWrite
		}
		// An error means that this kind of connection knows no deadlines: then the write ends when the client does.
		_ = c.deadline(time.Now().Add(grace))
	}
	c.mu.Unlock()
	c.poke()
}

// finish lets the writer come to the frame that ends the stream, within reason.
func (c *conn) finish() {
	c.mu.Lock()
	c.stalled = false
	if !c.left {
		_ = c.deadline(time.Now().Add(lastWrite)) // as in end
	}
	c.mu.Unlock()
	c.poke()
}

// leave is called by the writer as the last thing. A cleanly ended connection may serve another request.
func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = true
	if c.ending == ended {
		_ = c.deadline(time.Time{})
	}
}

func (c *conn) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// serve writes frames and keepalives until the stream ends. The ticker is a runtime timer of about 100 bytes, no goroutine,
// and spreads the keepalives of many streams in time as their connects were.
func (c *conn) serve(ctx context.Context, out *output, every time.Duration) ending {
	keepalive := time.NewTicker(every)
	defer keepalive.Stop()
	for {
		then, err := c.drain(out)
		if err != nil {
			return aborted
		}
		if then != lives {
			return then
		}
		select {
		case <-c.wake:
		case <-keepalive.C:
			if c.silent() {
				continue
			}
			if err := out.keepalive(); err != nil {
				return aborted
			}
		case <-ctx.Done():
			return ended
		}
	}
}

// drain writes all that waits and flushes once it is through: each event goes out at once, a burst in full packets.
func (c *conn) drain(out *output) (ending, error) {
	wrote := false
	for {
		f, ok := c.next()
		if !ok {
			break
		}
		if len(f.wire) > 0 {
			wrote = true
			if err := out.write(f.wire); err != nil {
				return aborted, err
			}
		}
		if f.then != lives {
			return f.then, out.flush()
		}
	}
	if !wrote {
		return lives, nil
	}
	return lives, out.flush()
}

// Package live tells those who watch what happens, while it happens: what enters the log, and what becomes of deliveries. All who
// watch at one process share one reading of NATS, which lasts as long as somebody does; who is slow misses something, and is told
// how much.
package live

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nex-crm/relay/internal/bus"
)

const (
	// MaxReaders may watch at one process at a time.
	MaxReaders = 64
	// queueLength is how much waits for a reader, some 8 KiB each at most; as much again is being written to him.
	queueLength = 256
	// eventsAtOnce are held of the log while they are read: they come whole, up to the largest event. attemptsAtOnce are small.
	eventsAtOnce, attemptsAtOnce = 16, 128
	// beginTime bounds the look at where the streams end.
	beginTime = 5 * time.Second
)

var (
	// ErrFull is returned by [Hub.Join] where [MaxReaders] watch already.
	ErrFull = errors.New("too many are watching already")
	// ErrClosed is returned by [Hub.Join] when the relay stops.
	ErrClosed = errors.New("the relay stops")
)

// Hub is where those who watch meet what happens. The zero value is ready. Its methods are safe for concurrent use.
type Hub struct {
	joining sync.Mutex // the first one begins the reading, while others wait for it
	mu      sync.Mutex
	reading *reading // nil while nobody watches
	closed  bool
}

// reading is one life of the shared reading: from the first who watches to the last.
type reading struct {
	readers map[*Reader]struct{}
	stop    context.CancelFunc
}

// Reader is one who watches.
type Reader struct {
	hub  *Hub
	want func(*Entry) bool

	mu      sync.Mutex
	queue   []*Entry
	dropped uint64 // behind what is in the queue
	closed  bool
	ready   chan struct{} // holds one when there is something to take
}

// Join lets one watch what he wants: want is asked of each entry, by one goroutine at a time, and must not block. What is
// stored after Join has returned comes to him. He must [Reader.Leave].
func (h *Hub) Join(ctx context.Context, b *bus.Bus, want func(*Entry) bool) (*Reader, error) {
	h.joining.Lock()
	defer h.joining.Unlock()
	r := &Reader{hub: h, want: want, ready: make(chan struct{}, 1)}
	if joined, err := h.add(r); joined || err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, beginTime)
	defer cancel()
	events, err := b.End(ctx, bus.StreamNex)
	if err != nil {
		return nil, err
	}
	attempts, err := b.End(ctx, bus.StreamAttempts)
	if err != nil {
		return nil, err
	}
	return r, h.begin(b, r, events, attempts)
}

// add is Join where somebody watches already.
func (h *Hub) add(r *Reader) (joined bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return false, ErrClosed
	case h.reading == nil:
		return false, nil
	case len(h.reading.readers) >= MaxReaders:
		return false, ErrFull
	}
	h.reading.readers[r] = struct{}{}
	return true, nil
}

// begin reads the streams behind where they ended.
func (h *Hub) begin(b *bus.Bus, first *Reader, events, attempts uint64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrClosed
	}
	ctx, stop := context.WithCancel(context.Background())
	reading := &reading{readers: map[*Reader]struct{}{first: {}}, stop: stop}
	h.reading = reading
	go b.Follow(ctx, bus.StreamNex, events, eventsAtOnce, func(m bus.Stored) { h.tell(reading, OfLog(m)) })
	go b.Follow(ctx, bus.StreamAttempts, attempts, attemptsAtOnce, func(m bus.Stored) {
		if e, ok := OfAttempt(m); ok {
			h.tell(reading, e)
		}
	})
	return nil
}

// tell hands an entry to everybody who wants it. It never waits for anybody.
func (h *Hub) tell(reading *reading, e *Entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for r := range reading.readers {
		if r.want(e) {
			r.offer(e)
		}
	}
}

// Close ends the watching for all, and for good.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.reading == nil {
		return
	}
	for r := range h.reading.readers {
		r.close()
	}
}

// Leave ends the watching of one. The last one ends the reading.
func (r *Reader) Leave() {
	h := r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reading == nil {
		return
	}
	delete(h.reading.readers, r)
	if len(h.reading.readers) == 0 {
		h.reading.stop()
		h.reading = nil
	}
}

// offer queues an entry. From the first one that finds no room on, all are dropped until the reader has taken all that waits: so
// what is missing is missing behind it.
func (r *Reader) offer(e *Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == queueLength {
		r.dropped++
	} else {
		r.queue = append(r.queue, e)
	}
	r.wake()
}

func (r *Reader) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.wake()
}

func (r *Reader) wake() {
	select {
	case r.ready <- struct{}{}:
	default:
	}
}

// take is what waits, how many were dropped behind it, and whether there is more to come.
func (r *Reader) take() (queue []*Entry, dropped uint64, open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	queue, dropped = r.queue, r.dropped
	r.queue, r.dropped = nil, 0
	return queue, dropped, !r.closed
}

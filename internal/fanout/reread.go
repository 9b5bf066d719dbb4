package fanout

import (
	"context"
	"sync"
	"time"
)

const (
	// rereadBytes bounds the events that are kept after they were read from the log for a delivery that had waited: what
	// waits for many endpoints comes back to all of them at about the same time, and is read once. One is let go when nobody
	// has asked for it for rereadTime.
	rereadBytes = 8 << 20
	rereadTime  = 10 * time.Second
)

// reread is the events that were read from the log again.
type reread struct {
	mu    sync.Mutex
	all   map[uint64]*rereadEvent
	order []*rereadEvent // those that have come, oldest first
	bytes int            // of those
}

type rereadEvent struct {
	sequence uint64
	asked    time.Time     // for the last time; guarded by reread.mu
	come     chan struct{} // closed when one of the next two is set
	event    *message
	err      error
}

func newReread() *reread { return &reread{all: map[uint64]*rereadEvent{}} }

// get answers an event of the log. load reads it; of those who ask for one event at a time one does so. What fails is not
// kept.
func (r *reread) get(ctx context.Context, sequence uint64, load func() (*message, error)) (*message, error) {
	r.mu.Lock()
	if one := r.all[sequence]; one != nil {
		one.asked = time.Now()
		r.mu.Unlock()
		select {
		case <-one.come:
			return one.event, one.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	one := &rereadEvent{sequence: sequence, asked: time.Now(), come: make(chan struct{})}
	r.all[sequence] = one
	r.mu.Unlock()

	one.event, one.err = load()
	close(one.come)
	r.mu.Lock()
	defer r.mu.Unlock()
	if one.err != nil {
		delete(r.all, sequence)
		return nil, one.err
	}
	r.order = append(r.order, one)
	r.bytes += one.size()
	for r.bytes > rereadBytes && len(r.order) > 1 {
		r.drop()
	}
	return one.event, nil
}

// size is what an event takes: measured, 1,500 bytes beside its own, of which its headers, with those that the answer has got on its
// way, are the most.
func (e *rereadEvent) size() int { return len(e.event.data) + 1500 }

// drop lets go of the oldest; mu is held.
func (r *reread) drop() {
	oldest := r.order[0]
	r.order[0] = nil
	r.order = r.order[1:]
	r.bytes -= oldest.size()
	delete(r.all, oldest.sequence)
}

// expire lets go of those that nobody has asked for lately, from the oldest to the first that somebody has.
func (r *reread) expire(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.order) > 0 && now.Sub(r.order[0].asked) >= rereadTime {
		r.drop()
	}
	if len(r.order) == 0 {
		r.order = nil
	}
}

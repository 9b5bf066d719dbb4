package fanout

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/nex-crm/relay/internal/bus"
)

const (
	// rereadBytes bounds the events that are kept after they were read from the log for a delivery that had waited: what
	// waits for many endpoints comes back to all of them at about the same time, and is read once. One is let go when nobody
	// has asked for it for rereadTime.
	rereadBytes = 8 << 20
	rereadTime  = 10 * time.Second
	// aheadLeast is how many events that waited in one message are worth to be read together, aheadSpread among how many times as many
	// they may lie, aheadBytes what is asked for at most, and aheadTime how long that may take: the due ones of all endpoints come
	// one after the other.
	aheadLeast, aheadSpread, aheadBytes = 8, 2, 1 << 20
	aheadTime                           = 250 * time.Millisecond
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
	r.kept(one)
	return one.event, nil
}

// kept counts an event that has come; mu is held.
func (r *reread) kept(one *rereadEvent) {
	r.order = append(r.order, one)
	r.bytes += one.size()
	for r.bytes > rereadBytes && len(r.order) > 1 {
		r.drop()
	}
}

// has counts those of some events that are here or on their way.
func (r *reread) has(sequences map[uint64]bool) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for sequence := range sequences {
		if r.all[sequence] != nil {
			n++
		}
	}
	return n
}

// keep has an event here before it is asked for.
func (r *reread) keep(m *message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all[m.sequence] != nil {
		return
	}
	one := &rereadEvent{sequence: m.sequence, asked: time.Now(), come: make(chan struct{}), event: m}
	close(one.come)
	r.all[m.sequence] = one
	r.kept(one)
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

// readAhead reads the events of deliveries that have waited together, where they lie close to each other and their lane will ask for
// them soon. What it does not read is read when it is asked for.
func (f *Fanout) readAhead(ctx context.Context, l *lane, list []*delivery) {
	if len(list) < aheadLeast || !l.soon() {
		return
	}
	wanted := make(map[uint64]bool, len(list))
	from, to := uint64(math.MaxUint64), uint64(0)
	for _, d := range list {
		if d.inline == nil {
			wanted[d.sequence] = true
			from, to = min(from, d.sequence), max(to, d.sequence)
		}
	}
	if len(wanted) < aheadLeast || to-from >= aheadSpread*uint64(len(wanted)) || f.reread.has(wanted) > len(wanted)/2 || !f.loads.TryAcquire(1) {
		return
	}
	defer f.loads.Release(1)
	ctx, cancel := context.WithTimeout(ctx, aheadTime)
	defer cancel()
	_ = f.cfg.Bus.ReadRun(ctx, from, to, aheadBytes, func(m bus.Stored) {
		if wanted[m.Sequence] {
			f.reread.keep(newMessage(m.Subject, m.Header, m.Sequence, m.Time, m.Data))
		}
	})
}

// soon tells whether what the lane is given now is attempted within a moment.
func (l *lane) soon() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proven && l.open(time.Now()) && l.bytes < l.share() && l.wait() <= maxWait
}

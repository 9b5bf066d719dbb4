package fanout

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// message is one event of the log, read once and shared by its deliveries. It does not change.
type message struct {
	sequence    uint64
	stored      time.Time // when the log took it
	workspace   string
	eventType   string
	id          string
	traceparent string
	data        []byte
}

// delivery is one event on its way to one endpoint. It has one owner at a time: a lane, an attempt, or a write.
type delivery struct {
	endpoint string
	sequence uint64
	id       string // the event's
	attempt  int    // number of the next attempt, from 1
	event    *message
	held     *held
}

// held is a message of a consumer that is acknowledged when all its deliveries are settled: answered, or stored.
type held struct {
	msg    jetstream.Msg
	weight int64
	since  time.Time
	open   atomic.Int32
	set    *heldSet
	free   func(int64)
}

// hold takes responsibility for m. It waits while too many bytes are held, and answers nil if ctx ends meanwhile.
func (f *Fanout) hold(ctx context.Context, m jetstream.Msg, size, deliveries int) *held {
	weight := min(int64(max(size, heldWeight)), maxHeldBytes)
	if f.heldBytes.Acquire(ctx, weight) != nil {
		return nil
	}
	h := &held{msg: m, weight: weight, since: time.Now(), set: &f.held, free: f.heldBytes.Release}
	h.open.Store(int32(deliveries))
	f.held.add(h)
	return h
}

// settle says that one delivery needs the message no longer. The last one acknowledges it.
func (h *held) settle() {
	if h.open.Add(-1) > 0 {
		return
	}
	h.set.remove(h)
	h.free(h.weight)
	// Should the acknowledgement get lost, the message comes again and its endpoints see it twice: at least once.
	_ = h.msg.Ack()
}

// heldSet is every message being worked on.
type heldSet struct {
	mu  sync.Mutex
	all map[*held]struct{}
}

func (s *heldSet) add(h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[*held]struct{}{}
	}
	s.all[h] = struct{}{}
}

func (s *heldSet) remove(h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, h)
}

// inProgress tells JetStream of every message that takes long that it is still being worked on.
func (s *heldSet) inProgress() {
	s.mu.Lock()
	old := make([]*held, 0, len(s.all))
	for h := range s.all {
		if time.Since(h.since) >= working/2 {
			old = append(old, h)
		}
	}
	s.mu.Unlock()
	for _, h := range old {
		_ = h.msg.InProgress() // one that was settled meanwhile says so, and that is fine
	}
}

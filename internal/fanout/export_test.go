package fanout

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
)

// LaneBytes is the weight of the lane that holds most.
func (f *Fanout) LaneBytes() (most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.lanes {
		l.mu.Lock()
		most = max(most, l.bytes)
		l.mu.Unlock()
	}
	return most
}

// Lanes is of how many endpoints there is a lane, and how many deliveries are counted as waiting in them.
func (f *Fanout) Lanes() (lanes int, waiting int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.lanes), f.inQueues.Load()
}

// Behind tells whether what comes new for an endpoint goes behind its backlog.
func (f *Fanout) Behind(id string) bool {
	f.mu.Lock()
	l := f.lanes[id]
	f.mu.Unlock()
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.behind
}

// MakeLane is what happens to an event for an endpoint as some snapshot has it.
func (f *Fanout) MakeLane(e *endpoint.Endpoint) { f.lane(e) }

// HoldsAtMost tells whether the events that are held take n bytes at most.
func (f *Fanout) HoldsAtMost(n int64) bool {
	if !f.heldBytes.TryAcquire(maxHeldBytes - n) {
		return false
	}
	f.heldBytes.Release(maxHeldBytes - n)
	return true
}

// Bodies is what the events take that are held, or were read again.
func (f *Fanout) Bodies() int64 { return f.bodies.Load() }

// WithMaxHeld bounds the bytes of the events that are held.
func WithMaxHeld(cfg Config, n int64) Config {
	cfg.maxHeld = n
	return cfg
}

// WithoutLookout leaves it to the test to look at what the log will lose.
func WithoutLookout(cfg Config) Config {
	cfg.noLookout = true
	return cfg
}

// WithLookAgain sets how often it is asked whether the event that holds up an ordered endpoint still has to wait.
func WithLookAgain(cfg Config, d time.Duration) Config {
	cfg.lookAgain = d
	return cfg
}

// WithRestoreEvery sets how often streams that were deleted are made again.
func WithRestoreEvery(cfg Config, d time.Duration) Config {
	cfg.restoreEvery = d
	return cfg
}

// WithAckWait sets how long JetStream waits before it gives a message to somebody else.
func WithAckWait(cfg Config, d time.Duration) Config {
	cfg.ackWait = d
	return cfg
}

// NoteInOrder is the second half of beginning an endpoint's order.
func (f *Fanout) NoteInOrder(ctx context.Context, e *endpoint.Endpoint) error {
	return f.noteInOrder(ctx, e)
}

// HandleEvent is the step that reading the log repeats.
func (f *Fanout) HandleEvent(ctx context.Context, m jetstream.Msg) { f.handleEvent(ctx, m) }

// JudgeStranger is a step of looking at the backlogs, at a time.
func (f *Fanout) JudgeStranger(ctx context.Context, id string, now time.Time) {
	f.judgeStranger(ctx, id, now)
}

// HoldFilters takes all turns of the filters that the reader of the log leaves for later, until release is called.
func (f *Fanout) HoldFilters() (release func()) {
	f.judge.mu.Lock()
	defer f.judge.mu.Unlock()
	free := f.judge.free
	f.judge.free = 0
	return func() {
		f.judge.mu.Lock()
		defer f.judge.mu.Unlock()
		f.judge.free += free
		f.judge.begin()
	}
}

// GiveBack is how reading a consumer ends.
func GiveBack(pull *bus.Pull) { giveBack(pull) }

// AskForScan asks for a look at the backlogs, and answers whether that is heard.
func (f *Fanout) AskForScan() bool {
	signal(f.scan)
	select {
	case <-f.scan:
		return true
	default:
		return false
	}
}

// LookAhead is one look at what the log will lose, at a time.
func (f *Fanout) LookAhead(ctx context.Context, now time.Time) { f.lookAhead(ctx, now) }

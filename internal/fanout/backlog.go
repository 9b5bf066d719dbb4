package fanout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
)

const (
	// scanEvery is how often the backlogs are counted, to find those of earlier lives and of other replicas.
	scanEvery = 5 * time.Second
	// strangerTime is how long what waits for an endpoint that nobody here knows is kept: a replica whose configuration is
	// older, or a key that is missing, is no reason to throw it away.
	strangerTime = 24 * time.Hour
	// drainFetch is how many messages of a backlog are fetched at once.
	drainFetch = 2
)

// active tells whether an endpoint is to get webhooks now.
func (f *Fanout) active(id string) bool {
	e := f.cfg.Endpoints.Snapshot().Get(id)
	return e != nil && e.Active()
}

// drainable tells whether an endpoint's backlog may be brought back now: not while it is being put into another order.
func (f *Fanout) drainable(id string) bool {
	e := f.cfg.Endpoints.Snapshot().Get(id)
	return e != nil && e.Active() && e.State.Position == 0 &&
		!slices.ContainsFunc(e.State.Spans, func(s endpoint.Span) bool { return s.Mode != endpoint.ModeAll })
}

// stocked notes that deliveries are in an endpoint's backlog now.
func (f *Fanout) stocked(endpoint string, list []*delivery) {
	f.mu.Lock()
	l := f.lanes[endpoint]
	f.mu.Unlock()
	if l == nil {
		return
	}
	l.mu.Lock()
	for _, d := range list {
		if d.shelved {
			l.shelved--
		}
	}
	l.stored++
	l.mu.Unlock()
	signal(l.room)
}

// startDrain has an endpoint's backlog brought back, if nobody does so already.
func (f *Fanout) startDrain(l *lane) {
	if !f.drainable(l.endpoint) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopping.Load() {
		return
	}
	l.mu.Lock()
	started := l.draining
	l.draining = true
	l.mu.Unlock()
	if !started {
		f.drainers.Go(func() { f.drain(f.runCtx, l) })
	}
}

// drain brings an endpoint's backlog back, as the lane takes it, until there is none.
func (f *Fanout) drain(ctx context.Context, l *lane) {
	over := false
	defer func() {
		if over { // and perhaps another has begun
			return
		}
		l.mu.Lock()
		l.draining = false
		l.mu.Unlock()
	}()
	wait := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(0))
	said := false
	for ctx.Err() == nil && f.drainable(l.endpoint) {
		if !f.awaitOpen(ctx, l) {
			continue // no consumer for an endpoint that takes nothing
		}
		var err error
		if over, err = f.drainConsumer(ctx, l); over || ctx.Err() != nil {
			return
		}
		if err != nil && f.cfg.Bus.Connected() && !said {
			said = true
			f.log.Warn("what waits for an endpoint cannot be read, trying on", "endpoint", l.endpoint, "error", err)
		}
		select {
		case <-time.After(wait.NextBackOff()):
		case <-ctx.Done():
		}
	}
}

// drainConsumer reads the backlog until it is empty (done: the lane counts as drained then), or cannot or must not be read.
func (f *Fanout) drainConsumer(ctx context.Context, l *lane) (done bool, err error) {
	cfg := bus.BacklogConsumer(l.endpoint, f.cfg.ackWait)
	c, err := f.cfg.Bus.JetStream().CreateOrUpdateConsumer(ctx, bus.StreamRetry, cfg)
	if err != nil {
		return false, fmt.Errorf("create consumer: %w", err)
	}
	pull, err := f.cfg.Bus.PullNow(bus.StreamRetry, cfg.Durable, drainFetch)
	if err != nil {
		return false, err
	}
	defer giveBack(pull)
	for ctx.Err() == nil && f.drainable(l.endpoint) {
		if !f.awaitOpen(ctx, l) {
			continue
		}
		stored := l.storedNow()
		m, err := pull.Next(ctx)
		switch {
		case err == nil:
			f.handleBacklog(ctx, l, m)
		case !errors.Is(err, bus.ErrNothing):
			return false, err
		default:
			if done, err := f.drained(ctx, l, c, stored); done || err != nil {
				return done, err
			}
		}
	}
	return false, nil
}

// awaitOpen waits while the lane takes nothing, a second at most, and tells whether it takes something.
func (f *Fanout) awaitOpen(ctx context.Context, l *lane) bool {
	l.mu.Lock()
	now := time.Now()
	left := max(l.trouble.pausedUntil.Sub(now), 0)
	if l.trouble.circuit.open {
		left = max(left, l.trouble.circuit.nextProbe.Sub(now), 0)
	}
	if l.disabling {
		left = max(left, time.Second)
	}
	l.mu.Unlock()
	if left == 0 {
		return true
	}
	select {
	case <-time.After(min(left, time.Second)):
	case <-l.room:
	case <-ctx.Done():
	}
	return false
}

func (l *lane) storedNow() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stored
}

// drained tells whether there is no backlog any more: nothing waits, and nothing was stored since stored was asked for.
func (f *Fanout) drained(ctx context.Context, l *lane, c jetstream.Consumer, stored int) (bool, error) {
	info, err := c.Info(ctx)
	if err != nil {
		return false, fmt.Errorf("consumer: %w", err)
	}
	l.mu.Lock()
	done := info.NumPending == 0 && l.shelved == 0 && l.stored == stored
	if done { // what is stored from here on has a run of its own: this one has still to give back what it asked for
		l.behind, l.draining = false, false
	}
	l.mu.Unlock()
	if done {
		return true, nil
	}
	select { // something is on its way, or another replica has it
	case <-l.room:
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
	}
	return false, nil
}

// handleBacklog gives the deliveries of one message to the lane, as it takes them.
func (f *Fanout) handleBacklog(ctx context.Context, l *lane, m jetstream.Msg) {
	refs := f.references(m)
	if len(refs) == 0 {
		return
	}
	list := f.holdReferences(ctx, m, refs)
	f.readAhead(ctx, l, list)
	for i, d := range list {
		if l.admit(ctx, d) {
			continue
		}
		for _, d := range list[i:] { // stopping, or the endpoint was paused: back to where they were
			f.backlog(d)
		}
		return
	}
}

// scanBacklogs is the step that finds the backlogs of which this process does not know.
func (f *Fanout) scanBacklogs(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	waiting, all, err := f.cfg.Bus.RetryPending(ctx)
	if err != nil {
		return // NATS is away; the next scan tells
	}
	f.waiting.Store(int64(all))
	snapshot, now := f.cfg.Endpoints.Snapshot(), time.Now()
	for id := range waiting {
		e := snapshot.Get(id)
		switch {
		case e == nil:
			f.judgeStranger(ctx, id, now)
			continue
		case !e.Active():
			continue
		}
		delete(f.strangers, id)
		l := f.lane(e)
		l.mu.Lock()
		l.behind = true
		l.mu.Unlock()
		f.startDrain(l)
	}
}

// judgeStranger removes what waits for an endpoint that has not been known for long: it was deleted.
func (f *Fanout) judgeStranger(ctx context.Context, id string, now time.Time) {
	since, seen := f.strangers[id]
	switch {
	case !seen:
		f.strangers[id] = now
		f.log.Info("deliveries wait for an endpoint that is not known: they are kept for a while", "endpoint", id, "for", strangerTime)
	case now.Sub(since) >= strangerTime:
		// Not what else is kept of it: an ordered endpoint that is out of the file has its place in its consumer.
		if err := f.cfg.Bus.PurgeRetry(ctx, id, 0); err == nil {
			delete(f.strangers, id)
			f.log.Info("what waited for an endpoint that is gone was removed", "endpoint", id)
		}
	}
}

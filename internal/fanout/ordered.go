package fanout

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/webhook"
)

// orderedRun is the work for one ordered endpoint in this process.
type orderedRun struct {
	filters []string
	stop    context.CancelFunc
}

// PrepareOrdered makes the consumers of the ordered endpoints among list, so that none of their events is missed between
// the moment when the endpoint is known and the one when its work begins.
func (f *Fanout) PrepareOrdered(ctx context.Context, list ...*endpoint.Endpoint) error {
	for _, e := range list {
		if !e.Ordered {
			continue
		}
		if _, err := f.orderedConsumer(ctx, e); err != nil {
			return fmt.Errorf("endpoint %s: %w", e.ID, err)
		}
	}
	return nil
}

// orderedConsumer finds or makes an endpoint's consumer; one that exists keeps its place.
func (f *Fanout) orderedConsumer(ctx context.Context, e *endpoint.Endpoint) (jetstream.Consumer, error) {
	js := f.cfg.Bus.JetStream()
	want := f.cfg.Bus.OrderedConsumer(e.ID, filterSubjects(e), ackWait)
	c, err := js.Consumer(ctx, bus.StreamNex, want.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		c, err = js.CreateConsumer(ctx, bus.StreamNex, want)
		if errors.Is(err, jetstream.ErrConsumerExists) { // another replica was faster
			c, err = js.Consumer(ctx, bus.StreamNex, want.Durable)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("consumer for its order: %w", err)
	}
	have := c.CachedInfo().Config
	filters := have.FilterSubjects
	if have.FilterSubject != "" {
		filters = []string{have.FilterSubject}
	}
	if slices.Equal(filters, want.FilterSubjects) {
		return c, nil
	}
	have.FilterSubject, have.FilterSubjects = "", want.FilterSubjects
	if c, err = js.UpdateConsumer(ctx, bus.StreamNex, have); err != nil {
		return nil, fmt.Errorf("consumer for its order: %w", err)
	}
	return c, nil
}

// restartOrdered has an endpoint go on with a sequence.
func (f *Fanout) restartOrdered(ctx context.Context, e *endpoint.Endpoint, from uint64) error {
	js := f.cfg.Bus.JetStream()
	want := f.cfg.Bus.OrderedConsumer(e.ID, filterSubjects(e), ackWait)
	want.DeliverPolicy, want.OptStartSeq = jetstream.DeliverByStartSequencePolicy, from
	err := js.DeleteConsumer(ctx, bus.StreamNex, want.Durable)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("remove consumer: %w", err)
	}
	if _, err = js.CreateConsumer(ctx, bus.StreamNex, want); err != nil && !errors.Is(err, jetstream.ErrConsumerExists) {
		return fmt.Errorf("consumer for its order: %w", err)
	}
	return nil
}

// reconcileOrdered starts and ends the work for ordered endpoints.
func (f *Fanout) reconcileOrdered(ctx context.Context, snapshot *endpoint.Snapshot) {
	for _, e := range snapshot.All() {
		run := f.ordered[e.ID]
		wanted := e.Ordered && e.Active() && e.State.Position == 0
		if run != nil && (!wanted || !slices.Equal(run.filters, filterSubjects(e))) {
			run.stop()
			delete(f.ordered, e.ID)
			run = nil
		}
		if run == nil && wanted {
			ctx, cancel := context.WithCancel(ctx)
			f.ordered[e.ID] = &orderedRun{filters: filterSubjects(e), stop: cancel}
			f.ordering.Go(func() { f.keepOrder(ctx, e.ID) })
		}
	}
	for id, run := range f.ordered {
		if e := snapshot.Get(id); e == nil || !e.Ordered {
			run.stop()
			delete(f.ordered, id)
			if err := f.endOrder(ctx, id, e); err != nil {
				f.log.Warn("the order of an endpoint cannot be ended", "endpoint", id, "error", err)
			}
		}
	}
}

func (f *Fanout) stopOrdered() {
	for _, run := range f.ordered {
		run.stop()
	}
}

// endOrder removes the consumer of an endpoint that is gone, or no longer ordered: then what it has not delivered is left to
// be caught up with.
func (f *Fanout) endOrder(ctx context.Context, id string, e *endpoint.Endpoint) error {
	js := f.cfg.Bus.JetStream()
	name := f.cfg.Bus.OrderedConsumer(id, nil, 0).Durable
	if e != nil {
		c, err := js.Consumer(ctx, bus.StreamNex, name)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		last, err := f.cfg.Bus.LastSequence(ctx)
		if err != nil {
			return err
		}
		from := c.CachedInfo().AckFloor.Stream + 1
		_, err = f.cfg.Endpoints.UpdateState(ctx, id, func(s *endpoint.State) bool {
			if from > last || slices.ContainsFunc(s.Spans, func(one endpoint.Span) bool { return one.From == from }) {
				return false
			}
			s.Ordered, s.Spans = nil, append(s.Spans, endpoint.Span{ID: rand.Text()[:12], From: from, To: last, Mode: endpoint.ModeAll})
			return true
		})
		if err != nil {
			return err
		}
	}
	err := js.DeleteConsumer(ctx, bus.StreamNex, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil
	}
	return err
}

// keepOrder delivers to one endpoint, one event at a time, until ctx ends.
func (f *Fanout) keepOrder(ctx context.Context, id string) {
	wait := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(0))
	for ctx.Err() == nil {
		began := time.Now()
		err := f.readOrdered(ctx, id)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 30*time.Second {
			wait.Reset()
		}
		f.log.Debug("reading in order failed, starting again", "endpoint", id, "error", err)
		select {
		case <-time.After(wait.NextBackOff()):
		case <-ctx.Done():
		}
	}
}

func (f *Fanout) readOrdered(ctx context.Context, id string) error {
	e := f.cfg.Endpoints.Snapshot().Get(id)
	if e == nil {
		return errInactive
	}
	c, err := f.orderedConsumer(ctx, e)
	if err != nil {
		return err
	}
	iter, err := c.Messages(jetstream.PullMaxMessages(1))
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	defer giveBack(iter)
	for {
		m, err := iter.Next(jetstream.NextContext(ctx))
		switch {
		case err == nil:
			f.handleOrdered(ctx, id, m)
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, jetstream.ErrNoHeartbeat):
		default:
			return fmt.Errorf("next: %w", err)
		}
	}
}

// handleOrdered makes the next attempt for the event at which an endpoint stands. JetStream gives no other before it is
// acknowledged, to whichever replica.
func (f *Fanout) handleOrdered(ctx context.Context, id string, m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		_ = m.Term()
		return
	}
	if meta.NumDelivered > 1 { // another replica may have noted an attempt
		fence, cancel := context.WithTimeout(ctx, storeTimeout)
		err := f.cfg.Endpoints.Fence(fence)
		cancel()
		if err != nil {
			_ = m.NakWithDelay(time.Second)
			return
		}
	}
	e := f.cfg.Endpoints.Snapshot().Get(id)
	if e == nil || !e.Active() || !e.Ordered {
		_ = m.Nak()
		return
	}
	msg := newMessage(m.Subject(), m.Headers(), meta.Sequence.Stream, meta.Timestamp, m.Data())
	if !f.wants(e, msg.workspace, msg.eventType, msg.data) {
		_ = m.Ack()
		return
	}
	d := &delivery{endpoint: id, sequence: msg.sequence, id: msg.id, attempt: 1, event: msg}
	if at := e.State.Ordered; at != nil && at.Sequence == d.sequence {
		if left := time.Until(at.NextAt); left > 0 {
			_ = m.NakWithDelay(left)
			return
		}
		d.attempt = at.Attempt
	}
	if d.held = f.hold(ctx, m, len(msg.data), 1); d.held != nil {
		f.attemptOrdered(e, d)
	}
}

// attemptOrdered makes one attempt and lets the next event come, or this one again.
func (f *Fanout) attemptOrdered(e *endpoint.Endpoint, d *delivery) {
	l := f.lane(e)
	if !l.takeTurn() {
		d.held.giveBack(0)
		return
	}
	result, decision := f.attempt(l, e, d)
	switch {
	case decision.Verdict != Retry:
		f.settle(d, result, decision)
	case result.Outcome == webhook.Canceled:
		d.held.giveBack(0)
	default:
		next := endpoint.OrderedState{Sequence: d.sequence, Attempt: decision.Attempt, NextAt: decision.At}
		err := f.untilDone("note attempt of an ordered endpoint", func() error {
			_, err := f.cfg.Endpoints.UpdateState(f.storeCtx, d.endpoint, func(s *endpoint.State) bool {
				s.Ordered = &next
				return true
			})
			return err
		})
		if err != nil {
			d.held.giveBack(time.Second) // stopping: this attempt is not counted
			return
		}
		d.held.giveBack(time.Until(decision.At))
	}
}

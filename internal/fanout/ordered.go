package fanout

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
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

// PrepareOrdered makes the consumers of the ordered endpoints among list that have none, so that none of their events is
// missed between the moment when the endpoint is known and the one when its work begins.
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

// PrepareNew is [Fanout.PrepareOrdered] for an endpoint that may be refused yet: a consumer that exists is left as it is.
func (f *Fanout) PrepareNew(ctx context.Context, e *endpoint.Endpoint) error {
	if !e.Ordered {
		return nil
	}
	_, err := f.cfg.Bus.JetStream().Consumer(ctx, bus.StreamNex, orderedName(e.ID))
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		_, err = f.orderedConsumer(ctx, e)
	}
	if err != nil {
		return fmt.Errorf("endpoint %s: %w", e.ID, err)
	}
	return nil
}

func orderedName(id string) string { return bus.OrderedPrefix + id }

// orderedConsumer finds or makes an endpoint's consumer. One that exists keeps its place.
func (f *Fanout) orderedConsumer(ctx context.Context, e *endpoint.Endpoint) (jetstream.Consumer, error) {
	js := f.cfg.Bus.JetStream()
	c, err := js.Consumer(ctx, bus.StreamNex, orderedName(e.ID))
	want := f.cfg.Bus.OrderedConsumer(e.ID, filterSubjects(e), 0, f.cfg.ackWait)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		if want.OptStartSeq, err = f.orderBegins(ctx, e); err != nil {
			return nil, err
		}
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

// orderBegins is where a new consumer of an endpoint begins. Where one was lost, that is where it stood. The first one begins
// where the shared consumer stands, or at the endpoint's place in the log if it has one: so an endpoint that was not ordered
// before misses nothing.
func (f *Fanout) orderBegins(ctx context.Context, e *endpoint.Endpoint) (uint64, error) {
	mark, marked, err := f.storedMark(ctx, e.ID)
	if err != nil {
		return 0, err
	}
	shared := uint64(1)
	if !marked {
		// Before the endpoint's place is looked at: what is given up later is behind it.
		c, err := f.cfg.Bus.JetStream().Consumer(ctx, bus.StreamNex, bus.ConsumerFanout)
		switch {
		case err == nil:
			shared = c.CachedInfo().AckFloor.Stream + 1
		case !errors.Is(err, jetstream.ErrConsumerNotFound):
			return 0, fmt.Errorf("where the log is read: %w", err)
		}
		if err := f.cfg.Endpoints.Fence(ctx); err != nil { // another replica may have noted its place
			return 0, err
		}
	}
	log, err := f.cfg.Bus.Extent(ctx)
	if err != nil {
		return 0, err
	}
	if marked {
		return mark.next(log), nil
	}
	begin := shared
	if state := f.cfg.Endpoints.State(e.ID); state.Position != 0 {
		begin = min(begin, goesOnAt(&state, log))
	}
	return begin, f.firstMark(ctx, e.ID, markAt(begin-1, log))
}

// restartOrdered has an endpoint go on behind a mark. Whoever makes the consumer, it begins there.
func (f *Fanout) restartOrdered(ctx context.Context, e *endpoint.Endpoint, mark orderMark) error {
	if err := f.setMark(ctx, e.ID, mark); err != nil {
		return err
	}
	js := f.cfg.Bus.JetStream()
	want := f.cfg.Bus.OrderedConsumer(e.ID, filterSubjects(e), mark.Sequence+1, f.cfg.ackWait)
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
	for id, run := range f.ordered {
		e := snapshot.Get(id)
		wanted := e != nil && e.Ordered && e.Active() && e.State.Position == 0
		if !wanted || !slices.Equal(run.filters, filterSubjects(e)) {
			run.stop()
			delete(f.ordered, id)
		}
	}
	for _, e := range snapshot.All() {
		var err error
		switch {
		case e.Ordered && !e.State.InOrder:
			if f.mayTurn(e.ID) {
				err = f.beginOrder(ctx, e)
			}
		case !e.Ordered && e.State.InOrder:
			if f.mayTurn(e.ID) {
				err = f.endOrder(ctx, e)
			}
		}
		if err != nil && ctx.Err() == nil {
			f.log.Warn("an endpoint's order cannot be begun or ended yet, trying on", "endpoint", e.ID, "error", err)
		}
		if e.Ordered && e.Active() && e.State.Position == 0 && f.ordered[e.ID] == nil {
			ctx, cancel := context.WithCancel(ctx)
			f.ordered[e.ID] = &orderedRun{filters: filterSubjects(e), stop: cancel}
			f.ordering.Go(func() { f.keepOrder(ctx, e.ID) })
		}
	}
}

func (f *Fanout) stopOrdered() {
	for _, run := range f.ordered {
		run.stop()
	}
}

// beginOrder notes that an endpoint has a consumer of its own.
func (f *Fanout) beginOrder(ctx context.Context, e *endpoint.Endpoint) error {
	if _, err := f.orderedConsumer(ctx, e); err != nil {
		return err
	}
	return f.noteInOrder(ctx, e)
}

// noteInOrder notes it of the very endpoint that has the consumer. That was removed with it, should it have been deleted since: another
// made under its id would miss what is read of the log until it has its own.
func (f *Fanout) noteInOrder(ctx context.Context, e *endpoint.Endpoint) error {
	_, err := f.cfg.Endpoints.UpdateState(ctx, e.ID, func(s *endpoint.State) bool {
		now := f.cfg.Endpoints.Snapshot().Get(e.ID)
		if s.InOrder || now == nil || !now.CreatedAt.Equal(e.CreatedAt) {
			return false
		}
		s.InOrder = true
		return true
	})
	return err
}

// endOrder removes the consumer of an endpoint that is no longer ordered. What it has not delivered is left to be caught up
// with.
func (f *Fanout) endOrder(ctx context.Context, e *endpoint.Endpoint) error {
	mark, marked, err := f.storedMark(ctx, e.ID)
	if err != nil {
		return err
	}
	c, err := f.cfg.Bus.JetStream().Consumer(ctx, bus.StreamNex, orderedName(e.ID))
	gone := errors.Is(err, jetstream.ErrConsumerNotFound)
	if err != nil && !gone {
		return err
	}
	log, err := f.cfg.Bus.Extent(ctx)
	if err != nil {
		return err
	}
	from := uint64(0)
	if !gone {
		from = c.CachedInfo().AckFloor.Stream + 1
	}
	if marked {
		from = max(from, mark.next(log))
	}
	_, err = f.cfg.Endpoints.UpdateState(ctx, e.ID, func(s *endpoint.State) bool {
		if !s.InOrder {
			return false // another replica was faster
		}
		s.InOrder, s.Ordered = false, nil
		to := log.Last
		if s.Position != 0 {
			to = s.Position // not active: from there on it goes on by itself
		}
		if from != 0 && from <= to {
			s.Spans = append(s.Spans, endpoint.Span{ID: rand.Text()[:12], From: from, To: to, Mode: endpoint.ModeAll})
		}
		return true
	})
	if err != nil {
		return err
	}
	return f.removeOrdered(ctx, e.ID)
}

func (f *Fanout) removeOrdered(ctx context.Context, id string) error {
	f.marks.Delete(id)
	if err := f.cfg.Bus.Order().Delete(ctx, id); err != nil {
		return fmt.Errorf("forget how far endpoint %s has come: %w", id, err)
	}
	err := f.cfg.Bus.JetStream().DeleteConsumer(ctx, bus.StreamNex, orderedName(id))
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
	if c, err = f.passBy(ctx, e, c); err != nil {
		return err
	}
	for ctx.Err() == nil && f.active(id) {
		// A request of its own for each event: with one attempt at a time nothing is gained by more.
		m, err := next(ctx, c)
		if err != nil {
			return fmt.Errorf("next: %w", err)
		}
		switch {
		case m == nil:
		case ctx.Err() != nil:
			comeAgain(m, 0)
		default:
			f.handleOrdered(ctx, id, m)
		}
	}
	return ctx.Err()
}

// passBy has a consumer go on behind what is older than its endpoint, where it stands before: of another with its id one may have
// been left, with the whole log before it.
func (f *Fanout) passBy(ctx context.Context, e *endpoint.Endpoint, c jetstream.Consumer) (jetstream.Consumer, error) {
	if e.Since <= c.CachedInfo().AckFloor.Stream {
		return c, nil
	}
	mark, err := f.orderMark(ctx, e.ID)
	if err != nil {
		return nil, err
	}
	log, err := f.cfg.Bus.Extent(ctx)
	if err != nil || e.Since > log.Last || e.SinceTime.Before(log.Made) || mark.next(log) > e.Since {
		return c, err
	}
	if err := f.restartOrdered(ctx, e, orderMark{e.Since, e.SinceTime}); err != nil {
		return nil, err
	}
	return f.orderedConsumer(ctx, e)
}

// orderedWait is how long a request for an ordered endpoint's next event waits for it. From ten seconds on the server tells
// that it still does, and the client leaves a second for an event that is sent at the very end: one that nobody takes comes
// again only when its acknowledgement is overdue. For the same reason lastCall passes between the end of the work and that of
// the request: under flow the next event is on its way then.
const (
	orderedWait = 13 * time.Second
	lastCall    = 200 * time.Millisecond
)

// next is a consumer's next message, nil if there is none for a while. One may come although ctx has ended.
func next(ctx context.Context, c jetstream.Consumer) (jetstream.Msg, error) {
	request, cancel := context.WithTimeout(context.WithoutCancel(ctx), orderedWait)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastCall, cancel) })()
	batch, err := c.Fetch(1, jetstream.FetchContext(request))
	if err != nil {
		return nil, err
	}
	for m := range batch.Messages() {
		return m, nil
	}
	if err := batch.Error(); err != nil && ctx.Err() == nil && !errors.Is(err, nats.ErrTimeout) {
		return nil, err
	}
	return nil, nil
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
			comeAgain(m, time.Second)
			return
		}
	}
	began := time.Now() // before the endpoint is looked at
	e := f.cfg.Endpoints.Snapshot().Get(id)
	if e == nil || !e.Active() || !e.Ordered {
		comeAgain(m, 0)
		return
	}
	mark, err := f.orderMark(ctx, id)
	if err != nil {
		comeAgain(m, time.Second)
		return
	}
	msg := newMessage(m.Subject(), m.Headers(), meta.Sequence.Stream, meta.Timestamp, m.Data())
	if mark.passed(msg) || f.erasedEvent(msg, msg.stored) {
		_ = m.Ack()
		return
	}
	wanted := !e.MadeAfter(msg.sequence, msg.stored)
	if wanted {
		if wanted, err = f.wants(ctx, e, msg); err != nil { // stopping
			comeAgain(m, 0)
			return
		}
	}
	if !wanted {
		_ = m.Ack()
		return
	}
	d := &delivery{endpoint: id, workspace: msg.workspace, sequence: msg.sequence, id: msg.id, attempt: 1, event: msg}
	if at := e.State.Ordered; at != nil && at.Sequence == d.sequence && at.Holds(e) {
		if left := time.Until(at.NextAt); left > 0 {
			comeAgain(m, f.untilLook(left))
			return
		}
		d.attempt, d.since = at.Attempt, at.Since
	}
	l := f.lane(e)
	if l.isDisabling() {
		comeAgain(m, time.Second)
		return
	}
	if left := l.nextTurn(); left > time.Second { // its rate limit: nothing is held meanwhile
		comeAgain(m, f.untilLook(left))
		return
	}
	if d.held = f.holdOrdered(ctx, l, m, len(msg.data)); d.held != nil {
		d.held.before = func() { f.noteOrder(id, msg) }
		f.attemptOrdered(e, d, began)
	}
}

// holdOrdered is hold for an event of an ordered endpoint. Those that have not answered well lately have room of their own: they
// may fill it for as long as their receivers hang. So have those of which nothing is known yet. Nobody waits for so long that the
// server gives the event to somebody else.
func (f *Fanout) holdOrdered(ctx context.Context, l *lane, m jetstream.Msg, size int) *held {
	room := f.doubtful
	switch tried, proven := l.known(); {
	case !tried:
		room = f.untried
	case proven:
		room = f.inOrder
	}
	ctx, cancel := context.WithTimeout(ctx, f.cfg.ackWait/10)
	defer cancel()
	return f.holdIn(ctx, room, m, size, make([]share, 1), time.Second)
}

// attemptOrdered makes one attempt and lets the next event come, or this one again.
func (f *Fanout) attemptOrdered(e *endpoint.Endpoint, d *delivery, began time.Time) {
	f.inTurn.Add(1)
	defer f.inTurn.Add(-1)
	l := f.lane(e)
	result, agreed := f.handshake(e)
	var decision Decision
	switch {
	case !f.active(e.ID):
		d.held.giveBack(0)
		return
	case !agreed:
		decision = f.conclude(l, e, d, began, result)
	case !l.takeTurn(d):
		d.held.giveBack(0)
		return
	case f.erased(d):
		d.settle()
		return
	default:
		result, decision = f.attempt(l, e, d)
	}
	switch {
	case decision.Verdict != Retry || f.erased(d):
		f.settle(l, e, d, began, result, decision)
	case result.Outcome == webhook.Canceled:
		d.held.giveBack(0)
	default:
		next := endpoint.OrderedState{Sequence: d.sequence, Attempt: decision.Attempt, NextAt: decision.At, FailedAt: time.Now().UTC(), Since: d.since}
		err := f.untilDone("note attempt of an ordered endpoint", func() error { return f.cfg.Endpoints.HoldUp(f.storeCtx, e, next) })
		if err != nil {
			d.held.giveBack(time.Second) // stopping: this attempt is not counted
			return
		}
		d.held.giveBack(f.untilLook(time.Until(decision.At)))
	}
}

// untilLook is when an event that has a while left is looked at next: in between its endpoint may have been given another
// URL, or been switched off and on.
func (f *Fanout) untilLook(left time.Duration) time.Duration { return min(left, f.cfg.lookAgain) }

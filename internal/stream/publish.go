package stream

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
)

const (
	// pipelineDepth is how many events of one stream may be on their way to the log.
	pipelineDepth = 256
	retryMin      = 100 * time.Millisecond
	retryMax      = 5 * time.Second
)

// publisher brings the events of one workspace into the log, in order, many at once. It takes the next event when there
// is room: a slow or absent NATS makes its callers wait, and they stop reading.
type publisher struct {
	bus   *bus.Bus
	log   *slog.Logger
	count *counters
	line  chan item

	warned    bool      // that publishing fails; of run, as recovered is
	recovered time.Time // when publishing last worked again
}

// item is an event on its way. One without an event only says that everything before it has arrived.
type item struct {
	event   *event.Event
	since   time.Time // when it was submitted
	pending *bus.Pending
	err     error
	instead func() *event.Event // what to publish if NATS does not take the event for its size
	done    func()
}

func newPublisher(b *bus.Bus, log *slog.Logger, count *counters) *publisher {
	return &publisher{bus: b, log: log, count: count, line: make(chan item, pipelineDepth)}
}

// submit hands an event over. It blocks while there is no room.
func (p *publisher) submit(ctx context.Context, e *event.Event, instead func() *event.Event) error {
	since := time.Now()
	pending, err := p.bus.PublishAsync(ctx, e, e.ID)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case p.line <- item{event: e, since: since, pending: pending, err: err, instead: instead}:
		return nil
	case <-ctx.Done():
		if pending != nil {
			_, _ = pending.Wait(ctx) // gives its place back
		}
		return ctx.Err()
	}
}

// flush returns when everything submitted before is in the log.
func (p *publisher) flush(ctx context.Context) error {
	arrived := make(chan struct{})
	select {
	case p.line <- item{done: func() { close(arrived) }}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-arrived:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run settles what was submitted until the line is closed. ctx ends its patience.
func (p *publisher) run(ctx context.Context) {
	for it := range p.line {
		if it.event != nil {
			p.settle(ctx, it)
		}
		if it.done != nil {
			it.done()
		}
	}
}

// settle waits until an event is in the log, publishing it again as often as that takes. The message id makes that safe.
func (p *publisher) settle(ctx context.Context, it item) {
	ack, err := bus.Ack{}, it.err
	if err == nil {
		ack, err = it.pending.Wait(ctx)
	}
	if err == nil {
		err = p.confirm(ctx, it.event, &ack)
	}
	if err != nil {
		p.sayFailing(it, err)
		if ack, err = p.insist(ctx, it.event, err); err == nil {
			p.sayRecovered(it)
		}
	}
	if errors.Is(err, bus.ErrTooLarge) && it.instead != nil {
		p.log.Error("insight is too large for the NATS server and is kept in quarantine, cut short: raise max_payload of the server",
			"event", it.event.ID, "error", err)
		if _, err := p.insist(ctx, it.instead(), nil); err != nil && ctx.Err() == nil {
			p.log.Error("event could not be published", "event", it.event.ID, "error", err)
		}
		return
	}
	if err != nil {
		if ctx.Err() == nil {
			p.log.Error("event could not be published", "event", it.event.ID, "error", err)
		}
		return
	}
	p.arrived(it.event, ack)
}

// insist publishes until it succeeds, ctx ends, or it cannot succeed. err is why the first try failed, nil if there was
// none.
func (p *publisher) insist(ctx context.Context, e *event.Event, err error) (ack bus.Ack, _ error) {
	if errors.Is(err, bus.ErrTooLarge) {
		return ack, err
	}
	wait := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(retryMin), backoff.WithMaxInterval(retryMax), backoff.WithMaxElapsedTime(0))
	try := func() error {
		var err error
		if ack, err = p.bus.Publish(ctx, e); err == nil {
			err = p.confirm(ctx, e, &ack)
		}
		if errors.Is(err, bus.ErrTooLarge) {
			return backoff.Permanent(err)
		}
		return err
	}
	return ack, backoff.Retry(try, backoff.WithContext(wait, ctx))
}

// sayFailing tells once that publishing fails: what was submitted before it last worked again failed in the outage that is
// over. While the connection is down the bus has told so, for all streams.
func (p *publisher) sayFailing(it item, err error) {
	switch {
	case errors.Is(err, bus.ErrTooLarge) || !it.since.After(p.recovered):
	case p.bus.Connected():
		p.warned = true
		p.log.Warn("publishing fails, the source waits", "error", err)
	default:
		p.log.Debug("publishing fails, the source waits", "error", err)
	}
}

func (p *publisher) sayRecovered(it item) {
	if it.since.After(p.recovered) {
		p.recovered = time.Now()
	}
	if p.warned {
		p.warned = false
		p.log.Info("publishing works again")
	}
}

// confirm looks behind a duplicate: ids of Nex are only known to be unique within a workspace, message ids are one space
// for the whole log. An event whose id another workspace has used is published under an id that says whose it is.
func (p *publisher) confirm(ctx context.Context, e *event.Event, ack *bus.Ack) error {
	if !ack.Duplicate {
		return nil
	}
	stored, err := p.bus.Get(ctx, ack.Sequence)
	if errors.Is(err, bus.ErrNotInLog) {
		return nil // it was there, and has been removed since
	}
	if err != nil {
		return err
	}
	if workspace, _, _ := event.SplitSubject(stored.Subject); workspace == e.Workspace {
		return nil
	}
	pending, err := p.bus.PublishAsync(ctx, e, e.Workspace+"/"+e.ID)
	if err != nil {
		return err
	}
	*ack, err = pending.Wait(ctx)
	return err
}

func (p *publisher) arrived(e *event.Event, ack bus.Ack) {
	if event.IsNews(e.Type) {
		return
	}
	if ack.Duplicate {
		p.count.duplicate()
		return
	}
	p.count.published()
}

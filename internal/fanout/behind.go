package fanout

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
)

// behind is an endpoint that is still to get something.
type behind struct {
	pace
	from, upTo uint64 // of this part of the log it is known that it holds nothing for the endpoint
	found      uint64 // the first event behind it that is for the endpoint
	asks       *endpoint.Endpoint
	sequence   uint64    // of the oldest event
	stored     time.Time // when the log took it
}

// unread is the first event that the shared consumer has not read for a while, 0 if there is none.
func (f *Fanout) unread(ctx context.Context, now time.Time) uint64 {
	c, err := f.cfg.Bus.JetStream().Consumer(ctx, bus.StreamNex, bus.ConsumerFanout)
	if err != nil || c.CachedInfo().NumPending == 0 {
		return 0
	}
	next := c.CachedInfo().Delivered.Stream + 1
	if at, err := f.cfg.Bus.TimeFrom(ctx, next); err != nil || now.Sub(at) < unreadTime {
		return 0
	}
	return next
}

// sample is how RELAY_RETRY is looked at: up to a sequence, at some places.
type sample struct {
	to     uint64
	places int
}

// behind finds the oldest event that an endpoint is still to get; nil if nothing stands before it.
func (f *Fanout) behind(ctx context.Context, e *endpoint.Endpoint, log bus.Extent, unread uint64, where sample) (*behind, error) {
	b := f.lookout.seen[e.ID]
	from, err := f.logFrom(ctx, e, log, unread)
	if err != nil {
		return b, err
	}
	waits := uint64(0)
	err = f.cfg.Bus.ReadSomeRetry(ctx, e.ID, where.to, where.places, func(data []byte) error {
		refs, _ := parseReferences(data) // what cannot be read is handled where it is due
		for _, r := range refs {
			if len(r.Event) == 0 && (waits == 0 || r.Sequence < waits) {
				waits = r.Sequence
			}
		}
		return nil
	})
	if err != nil {
		return b, err
	}
	if from == 0 && waits == 0 {
		return nil, nil
	}
	if b == nil || b.asks == nil || !b.asks.AsksLike(e) {
		b = &behind{asks: e}
	}
	first, err := f.firstFor(ctx, e, b, from, log)
	if err != nil {
		return b, err
	}
	if waits != 0 && (first == 0 || waits < first) {
		first = waits
	}
	if first == 0 {
		b.sequence, b.steps = 0, nil
		return b, nil
	}
	if first != b.sequence || first < log.First {
		at, err := f.cfg.Bus.TimeFrom(ctx, first)
		if errors.Is(err, bus.ErrNotInLog) {
			at, err = log.LastTime, nil
		}
		if err != nil {
			return b, err
		}
		b.sequence, b.stored = first, at
	}
	return b, nil
}

// logFrom is from where on an endpoint is still to get what stands in the log alone; 0 = nothing.
func (f *Fanout) logFrom(ctx context.Context, e *endpoint.Endpoint, log bus.Extent, unread uint64) (uint64, error) {
	from := uint64(math.MaxUint64)
	state := &e.State
	for _, s := range state.Spans {
		if s.Replay == nil {
			from = min(from, s.From)
		}
	}
	if state.Position != 0 {
		from = min(from, goesOnAt(state, log))
	}
	switch {
	case e.Ordered:
		mark, err := f.orderMark(ctx, e.ID)
		if err != nil {
			return 0, err
		}
		from = min(from, mark.next(log))
	case unread != 0:
		from = min(from, unread)
	}
	if from > log.Last {
		return 0, nil
	}
	if !e.SinceTime.Before(log.Made) {
		from = max(from, e.Since+1)
	}
	return from, nil
}

// firstFor is the first event of the log from a sequence on that is for an endpoint, 0 if there is none. It looks at none twice.
func (f *Fanout) firstFor(ctx context.Context, e *endpoint.Endpoint, b *behind, from uint64, log bus.Extent) (uint64, error) {
	if from == 0 {
		b.from, b.upTo = 0, 0
		return 0, nil
	}
	from = max(from, log.First)
	if b.found >= from && from >= b.from {
		return b.found, nil
	}
	if b.found = 0; from < b.from || from > b.upTo+1 {
		b.from, b.upTo = from, from-1
	}
	if b.upTo >= log.Last {
		return 0, nil
	}
	if e.Filter == "" {
		q := bus.Query{Stream: bus.StreamNex, Subjects: e.Subjects(), After: b.upTo, Before: log.Last + 1, Limit: 1, Oldest: true}
		page, err := f.cfg.Bus.Page(ctx, q)
		if err != nil {
			return 0, err
		}
		for _, m := range page.Messages {
			b.found = m.Sequence
			return b.found, nil
		}
		b.upTo = log.Last
		return 0, nil
	}
	err := f.cfg.Bus.Read(ctx, filterSubjects(e), b.upTo+1, log.Last, func(m bus.Stored) error {
		wanted, err := f.wants(ctx, e, newMessage(m.Subject, m.Header, m.Sequence, m.Time, m.Data))
		switch {
		case err != nil:
			return err
		case wanted && !e.Past(m.Sequence, m.Time):
			b.found = m.Sequence
			return errFound
		}
		b.upTo = m.Sequence
		return nil
	})
	switch {
	case errors.Is(err, errFound):
		return b.found, nil
	case err == nil:
		b.upTo = log.Last
	}
	return 0, err
}

var errFound = errors.New("found")

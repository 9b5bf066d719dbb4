package fanout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
)

// Undelivered is what an endpoint is still to get. What moves from one place to the next while it is counted may count twice,
// and nothing is left out.
type Undelivered struct {
	// Waiting deliveries are stored in RELAY_RETRY: for a later attempt, or until the endpoint can take them.
	Waiting uint64
	// InLog are events that stand in the log alone: the endpoint is paused, catching up or ordered, or they have not been read yet.
	InLog uint64
	// InFlight are new events that a replica works on.
	InFlight uint64
	// Oldest is the sequence of the oldest of them all, 0 if there is none; Stored when the log took it, zero where that holds it no
	// more.
	Oldest uint64
	Stored time.Time
	// Silent replicas did not say what they work on.
	Silent int
}

// Count is all of them.
func (u *Undelivered) Count() uint64 { return u.Waiting + u.InLog + u.InFlight }

func (u *Undelivered) older(sequence uint64) {
	if u.Oldest == 0 || sequence < u.Oldest {
		u.Oldest = sequence
	}
}

// Undelivered counts what an endpoint is still to get. With a filter it reads the events of the log that the endpoint has before it.
func (f *Fanout) Undelivered(ctx context.Context, e *endpoint.Endpoint) (u Undelivered, err error) {
	// In the order in which an event goes, so that none slips through.
	spans, err := f.before(ctx, e)
	for _, s := range spans {
		if err == nil {
			err = f.countSpan(ctx, e, s, &u)
		}
	}
	if err != nil {
		return u, fmt.Errorf("undelivered to %s: %w", e.ID, err)
	}
	work, silent := f.inWork(ctx, e.ID)
	u.InFlight, u.Silent = work.Fresh, silent
	if work.Oldest > 0 {
		u.older(work.Oldest)
	}
	settled := map[uint64]int{}
	for _, sequence := range work.Settled {
		settled[sequence]++
	}
	err = f.cfg.Bus.FollowRetry(ctx, e.ID, func(data []byte) error {
		refs, err := parseReferences(data)
		if err != nil {
			return nil // handled where it is due
		}
		for _, r := range refs {
			if settled[r.Sequence] > 0 { // its message waits for others
				settled[r.Sequence]--
				continue
			}
			u.Waiting++
			u.older(r.Sequence)
		}
		return nil
	})
	if err != nil {
		return u, fmt.Errorf("undelivered to %s: %w", e.ID, err)
	}
	if u.Oldest > 0 {
		m, err := f.cfg.Bus.Get(ctx, u.Oldest)
		switch {
		case err == nil:
			u.Stored = m.Time
		case !errors.Is(err, bus.ErrNotInLog):
			return u, fmt.Errorf("undelivered to %s: %w", e.ID, err)
		}
	}
	return u, nil
}

// part is a part of the log, both ends inclusive.
type part struct{ from, to uint64 }

// before are the parts of the log that an endpoint has before it, without what a replay is to bring: apart, in order.
func (f *Fanout) before(ctx context.Context, e *endpoint.Endpoint) ([]part, error) {
	log, err := f.cfg.Bus.Extent(ctx)
	if err != nil {
		return nil, err
	}
	state := f.cfg.Endpoints.State(e.ID)
	var list []part
	for _, s := range state.Spans {
		if s.Replay == nil && s.To == 0 {
			s.To = log.Last
		}
		if s.Replay == nil {
			list = append(list, part{s.From, s.To})
		}
	}
	if e.Ordered {
		mark, marked, err := f.storedMark(ctx, e.ID)
		if err != nil {
			return nil, err
		}
		if marked {
			list = append(list, part{mark.next(log), log.Last})
			return f.apart(e, list, log), nil
		}
	}
	if state.Position != 0 {
		list = append(list, part{goesOnAt(&state, log), log.Last})
	}
	c, err := f.cfg.Bus.JetStream().Consumer(ctx, bus.StreamNex, bus.ConsumerFanout)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound): // nobody has begun to read
		list = append(list, part{1, log.Last})
	case err != nil:
		return nil, err
	case c.CachedInfo().NumPending > 0:
		list = append(list, part{c.CachedInfo().Delivered.Stream + 1, log.Last})
	}
	return f.apart(e, list, log), nil
}

// apart joins parts that meet, leaves out what is none for the endpoint because it is older, and what the log does not hold.
func (f *Fanout) apart(e *endpoint.Endpoint, list []part, log bus.Extent) (out []part) {
	first := log.First
	if !e.SinceTime.Before(log.Made) {
		first = max(first, e.Since+1)
	}
	if s := e.State.Skipped; s != nil && !s.Stored.Before(log.Made) {
		first = max(first, s.Sequence+1)
	}
	slices.SortFunc(list, func(a, b part) int { return int(int64(a.from) - int64(b.from)) })
	for _, p := range list {
		p.from, p.to = max(p.from, first), min(p.to, log.Last)
		switch n := len(out); {
		case p.from > p.to:
		case n > 0 && p.from <= out[n-1].to+1:
			out[n-1].to = max(out[n-1].to, p.to)
		default:
			out = append(out, p)
		}
	}
	return out
}

// countSpan counts the events of a part of the log that are for an endpoint.
func (f *Fanout) countSpan(ctx context.Context, e *endpoint.Endpoint, p part, u *Undelivered) error {
	if e.Filter != "" {
		return f.wanted(ctx, e, p.from, p.to, func(m bus.Stored) error {
			if !e.Past(m.Sequence, m.Time) {
				u.InLog++
				u.older(m.Sequence)
			}
			return nil
		})
	}
	q := bus.Query{Stream: bus.StreamNex, Subjects: e.Subjects(), After: p.from - 1, Before: p.to + 1}
	n, err := f.cfg.Bus.Count(ctx, q)
	if err != nil || n == 0 {
		return err
	}
	u.InLog += n
	q.Limit, q.Oldest = 1, true
	page, err := f.cfg.Bus.Page(ctx, q)
	for _, m := range page.Messages {
		u.older(m.Sequence)
	}
	return err
}

// work is what replicas work on for an endpoint.
type work struct {
	Fresh   uint64   `json:"fresh"`             // events of the log
	Oldest  uint64   `json:"oldest"`            // of the fresh; 0 = none
	Settled []uint64 `json:"settled,omitempty"` // events done with whose message in RELAY_RETRY waits for others
}

func (w *work) add(other work) {
	w.Fresh += other.Fresh
	w.Settled = append(w.Settled, other.Settled...)
	if w.Oldest == 0 || other.Oldest != 0 && other.Oldest < w.Oldest {
		w.Oldest = other.Oldest
	}
}

// ownWork is what this process works on for an endpoint.
func (f *Fanout) ownWork(id string) (w work) {
	oldest := uint64(math.MaxUint64)
	f.held.mu.Lock()
	defer f.held.mu.Unlock()
	for key, h := range f.held.all {
		for i := range h.shares {
			one := &h.shares[i]
			if one.endpoint != id {
				continue
			}
			switch settled := one.settled.Load(); {
			case key.stream == bus.StreamRetry && settled:
				w.Settled = append(w.Settled, one.sequence)
			case key.stream == bus.StreamNex && !settled:
				w.Fresh++
				oldest = min(oldest, one.sequence)
			}
		}
	}
	if w.Fresh > 0 {
		w.Oldest = oldest
	}
	return w
}

const (
	// workSubject is where the replicas ask each other what they work on for an endpoint.
	workSubject = "relay.ask.work"
	// workPatience is how long their answers are waited for.
	workPatience = time.Second
)

// answerWork tells other replicas what this one works on, until ctx ends.
func (f *Fanout) answerWork(ctx context.Context) {
	sub, err := f.cfg.Bus.Conn().Subscribe(workSubject, func(m *nats.Msg) {
		if m.Header.Get(workFrom) == f.name {
			return
		}
		if answer, err := json.Marshal(f.ownWork(string(m.Data))); err == nil {
			_ = m.Respond(answer) // who asked is gone
		}
	})
	if err != nil {
		f.log.Warn("other replicas are not told what this one works on", "error", err)
		return
	}
	<-ctx.Done()
	_ = sub.Unsubscribe()
}

const workFrom = "Relay-From"

// inWork is what all replicas work on for an endpoint, and how many did not answer.
func (f *Fanout) inWork(ctx context.Context, id string) (all work, silent int) {
	others := f.replicas() - 1
	if others > 0 {
		all, silent = f.askWork(ctx, id, others)
	}
	all.add(f.ownWork(id))
	return all, silent
}

func (f *Fanout) replicas() int {
	if f.cfg.Replicas == nil {
		return 1
	}
	return max(1, f.cfg.Replicas())
}

func (f *Fanout) askWork(ctx context.Context, id string, others int) (all work, silent int) {
	nc := f.cfg.Bus.Conn()
	ctx, cancel := context.WithTimeout(ctx, workPatience)
	defer cancel()
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return all, others
	}
	defer func() { _ = sub.Unsubscribe() }()
	ask := &nats.Msg{Subject: workSubject, Reply: sub.Subject, Data: []byte(id), Header: nats.Header{workFrom: {f.name}}}
	if err := nc.PublishMsg(ask); err != nil {
		return all, others
	}
	for ; others > 0; others-- {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			break
		}
		var one work
		if json.Unmarshal(m.Data, &one) == nil {
			all.add(one)
		}
	}
	return all, others
}

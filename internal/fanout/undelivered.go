package fanout

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// Undelivered counts what an endpoint is still to get, each event once, and each that its owner wants it to get again. With a filter it
// reads the events of the log that the endpoint has before it, and those that waited when it was last changed which events it asks for.
func (f *Fanout) Undelivered(ctx context.Context, e *endpoint.Endpoint) (u Undelivered, err error) {
	if err = f.undelivered(ctx, e, &u); err != nil {
		err = fmt.Errorf("undelivered to %s: %w", e.ID, err)
	}
	return u, err
}

func (f *Fanout) undelivered(ctx context.Context, e *endpoint.Endpoint, u *Undelivered) error {
	log, err := f.cfg.Bus.Extent(ctx)
	if err != nil {
		return err
	}
	// In the order in which an event goes, so that none slips through.
	parts, err := f.before(ctx, e, log)
	for _, p := range parts {
		if err == nil {
			err = f.countPart(ctx, e, p, u)
		}
	}
	if err != nil {
		return err
	}
	work, silent := f.inWork(ctx, e.ID)
	u.Silent = silent
	waits, err := f.waits(ctx, e, work.Settled, u)
	if err != nil {
		return err
	}
	counted := func(sequence uint64) bool {
		return sequence < since(e, log) || slices.ContainsFunc(parts, func(p part) bool { return p.from <= sequence && sequence <= p.to })
	}
	if waits, err = f.stillWanted(ctx, e, log, slices.DeleteFunc(waits, counted)); err != nil {
		return err
	}
	fresh := slices.DeleteFunc(distinct(work.Fresh), func(sequence uint64) bool {
		_, waiting := slices.BinarySearch(waits, sequence)
		return waiting || counted(sequence)
	})
	u.Waiting += uint64(len(waits))
	u.InFlight = uint64(len(fresh))
	for _, list := range [][]uint64{waits, fresh} {
		if len(list) > 0 {
			u.older(list[0])
		}
	}
	if u.Oldest > 0 {
		m, err := f.cfg.Bus.Get(ctx, u.Oldest)
		switch {
		case err == nil:
			u.Stored = m.Time
		case !errors.Is(err, bus.ErrNotInLog):
			return err
		}
	}
	return nil
}

func distinct(list []uint64) []uint64 {
	slices.Sort(list)
	return slices.Compact(list)
}

// waits are the events that wait for an endpoint in RELAY_RETRY, each once: a crash leaves some there twice. Those that its owner wants it
// to get again are counted at once.
func (f *Fanout) waits(ctx context.Context, e *endpoint.Endpoint, done []uint64, u *Undelivered) (list []uint64, err error) {
	settled := map[uint64]int{}
	for _, sequence := range done {
		settled[sequence]++
	}
	err = f.cfg.Bus.FollowRetry(ctx, e.ID, func(data []byte) error {
		refs, err := parseReferences(data)
		if err != nil {
			return nil // handled where it is due
		}
		for _, r := range refs {
			switch {
			case settled[r.Sequence] > 0: // its message waits for others
				settled[r.Sequence]--
			case r.Forced != "":
				u.Waiting++
				u.older(r.Sequence)
			default:
				list = append(list, r.Sequence)
			}
		}
		return nil
	})
	return distinct(list), err
}

// stillWanted leaves out what was put there before it was changed which events the endpoint asks for, and is not asked for any more: it is
// dropped when its turn comes.
func (f *Fanout) stillWanted(ctx context.Context, e *endpoint.Endpoint, log bus.Extent, list []uint64) ([]uint64, error) {
	from, _ := slices.BinarySearch(list, log.First) // what the log has lost nobody can ask
	to, _ := slices.BinarySearch(list, e.Changed+1)
	if from >= to {
		return list, nil
	}
	wanted := map[uint64]bool{}
	err := f.wanted(ctx, e, list[from], list[to-1], func(m bus.Stored) error {
		wanted[m.Sequence] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	kept := slices.DeleteFunc(slices.Clone(list[from:to]), func(sequence uint64) bool { return !wanted[sequence] })
	return slices.Concat(list[:from], kept, list[to:]), nil
}

// since is the first event of the log that is for an endpoint at all: what is older, or was skipped, is not.
func since(e *endpoint.Endpoint, log bus.Extent) (first uint64) {
	if !e.SinceTime.Before(log.Made) {
		first = e.Since + 1
	}
	if s := e.State.Skipped; s != nil && !s.Stored.Before(log.Made) {
		first = max(first, s.Sequence+1)
	}
	return first
}

// part is a part of the log, both ends inclusive.
type part struct{ from, to uint64 }

// before are the parts of the log that an endpoint has before it, without what a replay is to bring: apart, in order.
func (f *Fanout) before(ctx context.Context, e *endpoint.Endpoint, log bus.Extent) ([]part, error) {
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
			return apart(e, list, log), nil
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
	default: // its NumPending is 0 for a moment also where it has not heard yet of what the log has just taken
		list = append(list, part{c.CachedInfo().Delivered.Stream + 1, log.Last})
	}
	return apart(e, list, log), nil
}

// apart joins parts that meet, leaves out what is none for the endpoint because it is older, and what the log does not hold.
func apart(e *endpoint.Endpoint, list []part, log bus.Extent) (out []part) {
	first := max(log.First, since(e, log))
	slices.SortFunc(list, func(a, b part) int { return cmp.Compare(a.from, b.from) })
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

// countPart counts the events of a part of the log that are for an endpoint.
func (f *Fanout) countPart(ctx context.Context, e *endpoint.Endpoint, p part, u *Undelivered) error {
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
	Fresh   []uint64 `json:"fresh,omitempty"`   // events of the log
	Settled []uint64 `json:"settled,omitempty"` // events done with whose message in RELAY_RETRY waits for others
}

func (w *work) add(other work) {
	w.Fresh = append(w.Fresh, other.Fresh...)
	w.Settled = append(w.Settled, other.Settled...)
}

// ownWork is what this process works on for an endpoint.
func (f *Fanout) ownWork(id string) (w work) {
	f.held.mu.Lock()
	defer f.held.mu.Unlock()
	for key, h := range f.held.all {
		for i := range h.shares {
			one := &h.shares[i]
			if one.endpoint != id {
				continue
			}
			switch settled := one.settled.Load(); {
			case key.from.Value().stream == bus.StreamRetry && settled:
				w.Settled = append(w.Settled, one.sequence)
			case key.from.Value().stream == bus.StreamNex && !settled:
				w.Fresh = append(w.Fresh, one.sequence)
			}
		}
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

package fanout

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
)

const (
	// lookoutEvery is how often it is looked whether the log will lose what endpoints are still to get, and lookoutShare how much
	// of the time that may take at most.
	lookoutEvery, lookoutShare = 10 * time.Second, 20
	// paceOver is over what time it is measured how fast the log grows and endpoints come on.
	paceOver = 10 * time.Minute
	// unreadTime is how long an event may wait to be read before that counts as a delay of its endpoints.
	unreadTime = time.Minute
	// retryPlaces is at how many places of all that waits for endpoints the oldest is looked for in one round, and mostPlaces for
	// one of them.
	retryPlaces, mostPlaces = 4096, 32
	// lookTime bounds the look at one endpoint.
	lookTime = 5 * time.Second
)

// lookout sees to it that the log loses nothing unsaid that an endpoint is still to get. Its look is that of one goroutine.
type lookout struct {
	log  pace
	seen map[string]*behind

	mu     sync.Mutex
	least  time.Duration // until the next loss
	oldest time.Duration // age of the oldest undelivered event
}

// pace is how fast a sequence grows.
type pace struct{ steps []step }

type step struct {
	at       time.Time
	sequence uint64
	stored   time.Time
}

// add notes where the sequence is now, and forgets what is older than paceOver but for one.
func (p *pace) add(s step) {
	if n := len(p.steps); n > 0 && s.sequence < p.steps[n-1].sequence {
		p.steps = p.steps[:0] // it begins anew
	}
	p.steps = append(p.steps, s)
	for len(p.steps) > 2 && s.at.Sub(p.steps[1].at) >= paceOver {
		p.steps = slices.Delete(p.steps, 0, 1)
	}
}

// speed is how many sequences a second, and how many seconds of the log, it comes on in a second.
func (p *pace) speed() (sequences, stored float64) {
	if len(p.steps) < 2 {
		return 0, 0
	}
	first, last := p.steps[0], p.steps[len(p.steps)-1]
	took := last.at.Sub(first.at).Seconds()
	if took <= 0 {
		return 0, 0
	}
	return float64(last.sequence-first.sequence) / took, last.stored.Sub(first.stored).Seconds() / took
}

// fastest is how many sequences a second it came on lately: all the time, or since the look before.
func (p *pace) fastest() float64 {
	all, _ := p.speed()
	last, _ := (&pace{p.steps[max(0, len(p.steps)-2):]}).speed()
	return max(all, last)
}

// never is no time that comes.
const never = time.Duration(math.MaxInt64)

// lossAhead is in how long the log loses an endpoint's oldest undelivered event, as both come on now, by which of its limits, and how
// long the log keeps events by that.
func lossAhead(log bus.Extent, grows float64, oldest step, sequences, stored float64, now time.Time) (left time.Duration, limit string, keeps time.Duration) {
	left, keeps = never, never
	take := func(name string, room, closes, kept float64) {
		in := never
		switch {
		case room <= 0:
			in = 0
		case closes > 0:
			in = seconds(room / closes)
		}
		keeps = min(keeps, seconds(kept))
		if in < left {
			left, limit = in, name
		}
	}
	if log.MaxAge > 0 {
		take("max_age", oldest.stored.Add(log.MaxAge).Sub(now).Seconds(), 1-stored, log.MaxAge.Seconds())
	}
	size, after := float64(log.Size()), float64(log.Last+1-min(oldest.sequence, log.Last))
	if log.MaxBytes > 0 && size > 0 {
		most := float64(log.MaxBytes) / (float64(log.Bytes) / size)
		take("max_bytes", most-after, grows-sequences, most/grows)
	}
	if log.MaxMsgs > 0 {
		take("max_msgs", float64(log.MaxMsgs)-after, grows-sequences, float64(log.MaxMsgs)/grows)
	}
	return left, limit, keeps
}

func seconds(s float64) time.Duration {
	if s >= never.Seconds() || math.IsNaN(s) {
		return never
	}
	return time.Duration(s * float64(time.Second))
}

// lookOut looks again and again, until ctx ends.
func (f *Fanout) lookOut(ctx context.Context) {
	every := lookoutEvery
	for {
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return
		}
		began := time.Now()
		keeps := f.lookAhead(ctx, began)
		every = min(lookoutEvery, max(time.Second, keeps/40))              // a log may be short
		every = max(every, min(lookoutShare*time.Since(began), time.Hour)) // and endpoints many
	}
}

// lookAhead is the step that lookOut repeats. It answers for how long the log keeps an event, as it grows now.
func (f *Fanout) lookAhead(ctx context.Context, now time.Time) (keeps time.Duration) {
	l := &f.lookout
	log, err := f.cfg.Bus.Extent(ctx)
	waitsTo := uint64(0)
	if err == nil {
		waitsTo, err = f.cfg.Bus.RetryEnd(ctx)
	}
	if err != nil {
		return never // NATS is away; the next look tells
	}
	l.log.add(step{now, log.Last, log.LastTime})
	_, _, keeps = lossAhead(log, l.log.fastest(), step{now, log.Last, now}, 0, 0, now)
	unread := f.unread(ctx, now)
	list := f.cfg.Endpoints.Snapshot().All()
	waits := sample{to: waitsTo, places: max(1, min(mostPlaces, retryPlaces/max(1, len(list))))}
	least, oldest, kept := never, time.Duration(0), map[string]*behind{}
	for _, e := range list {
		look, cancel := context.WithTimeout(ctx, lookTime)
		b, err := f.behind(look, e, log, unread, waits)
		cancel()
		if err != nil && ctx.Err() != nil {
			return keeps
		}
		if err != nil {
			f.log.Debug("what an endpoint is still to get cannot be looked at", "endpoint", e.ID, "error", err)
		}
		if b != nil {
			kept[e.ID] = b
		}
		left := f.judgeLoss(ctx, e, b, log, now)
		least = min(least, left)
		if b != nil && b.sequence != 0 {
			oldest = max(oldest, now.Sub(b.stored))
		}
	}
	l.seen = kept
	l.mu.Lock()
	l.least, l.oldest = least, oldest
	l.mu.Unlock()
	return keeps
}

// judgeLoss tells an endpoint's owner when the log will lose what it is still to get, and when that is over. It answers in how long.
func (f *Fanout) judgeLoss(ctx context.Context, e *endpoint.Endpoint, b *behind, log bus.Extent, now time.Time) time.Duration {
	left, limit, keeps := never, "", never
	if b != nil && b.sequence != 0 {
		b.add(step{now, b.sequence, b.stored})
		sequences, stored := b.speed()
		left, limit, keeps = lossAhead(log, f.lookout.log.fastest(), step{now, b.sequence, b.stored}, sequences, stored, now)
	}
	soon := min(f.cfg.LossWarning, keeps/4)
	switch ahead := left < soon; {
	case f.cfg.LossWarning == 0 || b != nil && len(b.steps) == 1: // how fast it comes on is not known yet
	case ahead && e.State.LossAhead == nil:
		if changed, err := f.setLossAhead(ctx, e.ID, &now); err == nil && changed {
			f.log.Warn("the log will lose events that an endpoint is still to get: bring it back, skip them, or raise the log's limit",
				"endpoint", e.ID, "in", left.Round(time.Second), "by", "stream."+limit, "from", b.sequence)
			f.tell(event.EndpointLossAhead, e.ID, f.lossNews(ctx, e, b, left, limit, now))
		}
	case e.State.LossAhead != nil && left >= soon/4*5 && f.lossIsOver(ctx, e, log, now):
		if changed, err := f.setLossAhead(ctx, e.ID, nil); err == nil && changed {
			f.log.Info("the log is no longer about to lose events that an endpoint is still to get", "endpoint", e.ID)
			f.tell(event.EndpointLossAverted, e.ID, map[string]any{"endpoint": e.ID})
		}
	}
	return left
}

// lossIsOver tells whether the log does not lose soon what an endpoint is still to get, however it comes on. The look ahead sees some of what
// waits; before its owner is told that all is well, all of it is looked at.
func (f *Fanout) lossIsOver(ctx context.Context, e *endpoint.Endpoint, log bus.Extent, now time.Time) bool {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	u, err := f.Undelivered(ctx, e)
	if err != nil || u.Oldest > 0 && u.Stored.IsZero() { // the log has lost it
		return false
	}
	if u.Oldest == 0 {
		return true
	}
	left, _, keeps := lossAhead(log, f.lookout.log.fastest(), step{now, u.Oldest, u.Stored}, 0, 0, now)
	return left >= min(f.cfg.LossWarning, keeps/4)
}

func (f *Fanout) setLossAhead(ctx context.Context, id string, at *time.Time) (changed bool, err error) {
	return f.cfg.Endpoints.UpdateState(ctx, id, func(s *endpoint.State) bool {
		if (s.LossAhead == nil) == (at == nil) {
			return false // another replica was faster
		}
		s.LossAhead = at
		return true
	})
}

// lossNews is what is told of a loss ahead.
func (f *Fanout) lossNews(ctx context.Context, e *endpoint.Endpoint, b *behind, left time.Duration, limit string, now time.Time) map[string]any {
	data := map[string]any{
		"endpoint": e.ID, "lost_in_seconds": int64(left.Seconds()), "lost_at": now.Add(left).UTC().Truncate(time.Second),
		"limit": "stream." + limit, "oldest_sequence": b.sequence, "oldest_at": b.stored.UTC(),
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if u, err := f.Undelivered(ctx, e); err == nil {
		data["undelivered"] = u.Count()
	}
	return data
}

// lossIn is in how long the log loses something that an endpoint is still to get, as of the last look; +Inf = never.
func (f *Fanout) lossIn() float64 {
	f.lookout.mu.Lock()
	defer f.lookout.mu.Unlock()
	if f.lookout.least == never {
		return math.Inf(1)
	}
	return f.lookout.least.Seconds()
}

func (f *Fanout) oldestUndelivered() float64 {
	f.lookout.mu.Lock()
	defer f.lookout.mu.Unlock()
	return f.lookout.oldest.Seconds()
}

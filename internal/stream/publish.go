package stream

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
)

const (
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
)

// publisher brings the events of one workspace into the log, in order, and none that the log holds already. It alone
// decides that, event by event: what it knows is what the log holds, and each write says up to where it knows it. Where
// somebody else has written meanwhile (another replica, or this one in an earlier life) the write is refused, and the
// publisher learns what was written before it tries again. So no two writers, dead, slow or cut off, write one insight
// twice.
//
// It takes the next event when there is room: a slow or absent NATS makes its callers wait, and they stop reading.
type publisher struct {
	bus   *bus.Bus
	log   *slog.Logger
	count *counters
	now   func() time.Time
	line  *line

	patience context.Context // of what is under way
	// surprise hears of each new insight that came over the stream, before it is written, and answers what is to be told first;
	// nil for nothing. In the log it stands before what it is about: no other life knows of the one without the other.
	surprise func(emitted time.Time, recalled bool) *event.Event

	told func(ctx context.Context, e *event.Event, sequence uint64) // hears of news in the log; may be nil
	// erased tells of an insight that came again whether it was removed from the log for good; nil for never.
	erased func(ctx context.Context, e *event.Event) (bool, error)
	// past tells of an insight of a replay that the log does not hold whether it has left it; nil for never.
	past func(emitted time.Time) bool

	ids    *identities       // of the line's goroutine, as what follows is
	from   uint64            // ids knows every insight of the workspace from this sequence on
	last   map[string]uint64 // by subject: the newest sequence that ids knows, where it is not the one before from
	warned bool              // that publishing fails
	newest uint64            // how far the log has come, as far as is known
	extent bus.Extent        // and how far it reached back when that was last looked at
}

// item is an event on its way. One without an event only says that everything before it has arrived.
type item struct {
	event    *event.Event
	release  func()
	recalled bool          // of a replay or REST: it may be older than what ids covers
	known    bool          // the log holds it, as a look into the log found
	fresh    *atomic.Int64 // of a filling: counts those that were new; nil for the stream's
	// instead makes what is published if NATS does not take the event for its size, with at most limit bytes of it.
	instead func(limit int) *event.Event
	done    func()
}

func newPublisher(b *bus.Bus, log *slog.Logger, count *counters, now func() time.Time, surprise func(time.Time, bool) *event.Event) *publisher {
	p := &publisher{bus: b, log: log, count: count, now: now, surprise: surprise, last: map[string]uint64{}, patience: context.Background()}
	p.line = newLine(p.settleAll)
	return p
}

// know tells what the log holds; before the first submit.
func (p *publisher) know(window time.Duration, recent bus.Recent) {
	p.ids, p.from = newIdentities(window, recent), recent.From
	for _, k := range recent.Insights {
		p.last[k.Subject] = k.Sequence
	}
}

// submit hands an event over. It blocks while there is no room.
func (p *publisher) submit(ctx context.Context, it item) (err error) {
	if it.release, err = p.bus.Reserve(ctx, len(it.event.Data)); err != nil {
		return err
	}
	if err = p.line.put(ctx, it); err != nil {
		it.release()
	}
	return err
}

// flush returns when everything submitted before is in the log.
func (p *publisher) flush(ctx context.Context) error {
	return p.between(ctx, func() {})
}

// lacks tells whether the log lacks one of these, when everything submitted before is there.
func (p *publisher) lacks(ctx context.Context, list []*event.Event) (bool, error) {
	var lacks bool
	err := p.between(ctx, func() {
		lacks = slices.ContainsFunc(list, func(e *event.Event) bool { return !p.ids.holds(e) })
	})
	if err != nil { // the publisher may still come to it
		return false, err
	}
	return lacks, nil
}

// between does something after everything submitted before is in the log, and before anything that is submitted later.
func (p *publisher) between(ctx context.Context, do func()) error {
	arrived := make(chan struct{})
	if err := p.line.put(ctx, item{done: func() { do(); close(arrived) }}); err != nil {
		return err
	}
	select {
	case <-arrived:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// settleAll brings a group into the log, in order; the insights that are too old for ids are looked up together.
func (p *publisher) settleAll(group []item) {
	p.recall(p.patience, group)
	for i := range group {
		p.settle(p.patience, &group[i])
		group[i] = item{} // its bytes are not needed any more
	}
}

// recall looks into the log for insights that are too old for ids to know.
func (p *publisher) recall(ctx context.Context, group []item) {
	var missing []*item
	var from time.Time
	timeless := false
	for i := range group {
		it := &group[i]
		covered := p.ids.covers
		if !it.recalled {
			covered = func(at time.Time) bool { return p.ids.coversLive(at, p.now()) }
		}
		if it.event == nil || event.IsNews(it.event.Type) || covered(it.event.Emitted) || p.ids.holds(it.event) {
			continue
		}
		missing = append(missing, it)
		timeless = timeless || it.event.Emitted.IsZero()
		if at := p.ids.lookFrom(it.event.Emitted); from.IsZero() || at.Before(from) {
			from = at
		}
	}
	if len(missing) == 0 {
		return
	}
	if timeless {
		from = time.Time{}
	}
	p.insist(ctx, func() error { return p.lookUp(ctx, missing, from) })
}

// lookUp marks those that the log holds.
func (p *publisher) lookUp(ctx context.Context, missing []*item, from time.Time) error {
	byID, byText := map[string]*item{}, map[string][]*item{}
	for _, it := range missing {
		byID[plainID(it.event.Workspace, it.event.ID)] = it
		byText[it.event.Fingerprint] = append(byText[it.event.Fingerprint], it)
	}
	unknown := len(missing)
	mark := func(it *item) {
		if !it.known {
			it.known = true
			unknown--
		}
	}
	return p.bus.Scan(ctx, missing[0].event.Workspace, from, maxKnown, func(k bus.Known) bool {
		if it := byID[ownID(k)]; it != nil {
			mark(it)
		}
		for _, it := range byText[k.Fingerprint] {
			if p.ids.sameTime(nanos(k.Emitted), nanos(k.Stored), nanos(it.event.Emitted)) {
				mark(it)
			}
		}
		return unknown > 0
	})
}

// settle brings one event into the log, if it is not there yet.
func (p *publisher) settle(ctx context.Context, it *item) {
	if it.event != nil {
		defer it.release()
		err := p.bring(ctx, it)
		if errors.Is(err, bus.ErrTooLarge) && it.instead != nil {
			p.log.Error("event is too large for NATS and is kept in quarantine, cut short: raise max_payload of the server, or max_msg_size of the stream",
				"event", it.event.ID, "error", err)
			for limit := quarantineSize; errors.Is(err, bus.ErrTooLarge) && limit > 0; limit /= 8 {
				err = p.news(ctx, it.instead(limit))
			}
		}
		if err != nil && ctx.Err() == nil {
			p.log.Error("event could not be published", "event", it.event.ID, "error", err)
		}
	}
	if it.done != nil {
		it.done()
	}
}

func (p *publisher) bring(ctx context.Context, it *item) error {
	if event.IsNews(it.event.Type) {
		return p.news(ctx, it.event)
	}
	fresh, err := p.insight(ctx, it)
	switch {
	case err != nil:
	case fresh:
		p.count.published()
		if it.fresh != nil {
			it.fresh.Add(1)
			p.count.metrics.gapPublished.Inc()
		}
	default:
		p.count.duplicate()
	}
	return err
}

// news publishes what is no insight.
func (p *publisher) news(ctx context.Context, e *event.Event) error {
	if e == nil {
		return nil
	}
	return p.insist(ctx, func() error {
		return p.tell(ctx, e)
	})
}

func (p *publisher) tell(ctx context.Context, e *event.Event) error {
	ack, err := p.bus.Append(ctx, e, e.ID, bus.Anywhere)
	if err == nil && p.told != nil {
		p.told(ctx, e, ack.Sequence)
	}
	return err
}

// insight publishes an insight, unless the log holds it; fresh tells which.
func (p *publisher) insight(ctx context.Context, it *item) (fresh bool, err error) {
	e, subject := it.event, it.event.NATSSubject()
	tried, heard := false, false
	var first *event.Event
	err = p.insist(ctx, func() error {
		if it.known || p.ids.holds(e) {
			fresh = tried && p.ids.holdsID(e.ID) // our own, whose acknowledgement got lost
			if tried {
				p.log.Debug("insight had reached the log", "event", e.ID, "own", fresh, "emitted", e.Emitted)
			}
			return nil
		}
		last, known := p.last[subject]
		if !known {
			return p.learn(ctx, subject)
		}
		if it.recalled && p.erased != nil {
			if gone, err := p.erased(ctx, e); err != nil || gone {
				it.known = gone
				return err
			}
		}
		if it.fresh == nil && it.recalled && !heard && p.past != nil && p.past(e.Emitted) {
			it.known = true
			return nil
		}
		if it.fresh == nil && !heard {
			heard, first = true, p.surprise(e.Emitted, it.recalled)
		}
		if first != nil {
			if err := p.tell(ctx, first); err != nil {
				return err
			}
			first = nil
		}
		ack, err := p.bus.Append(ctx, e, e.ID, last)
		if err == nil && ack.Duplicate {
			ack, err = p.collision(ctx, e, ack, last)
		}
		switch {
		case errors.Is(err, bus.ErrConflict):
			return p.learn(ctx, subject)
		case err != nil:
			tried = true
			return err
		case !ack.Duplicate:
			fresh, p.last[subject], p.newest = true, ack.Sequence, ack.Sequence
		}
		p.log.Debug("insight is in the log", "event", e.ID, "sequence", ack.Sequence, "duplicate", ack.Duplicate, "emitted", e.Emitted)
		p.ids.add(e.ID, e.Fingerprint, e.Emitted, p.now())
		return nil
	})
	if it.known {
		p.ids.add(e.ID, e.Fingerprint, e.Emitted, p.now()) // not looked for in the log again
	}
	return fresh, err
}

// errAgain asks for another try at once.
var errAgain = errors.New("the log has changed")

// learn reads what others wrote to a subject. It answers errAgain when that is known.
func (p *publisher) learn(ctx context.Context, subject string) error {
	before, known := p.last[subject]
	if !known && p.from > 0 {
		before = p.from - 1
	}
	written, last, err := p.bus.After(ctx, subject, before)
	if err != nil {
		return err
	}
	for _, k := range written {
		p.ids.add(ownID(k), k.Fingerprint, k.Emitted, k.Stored)
	}
	p.last[subject] = last
	if known && last == before {
		return bus.ErrConflict // somebody else's write is under way
	}
	return errAgain
}

// collision looks behind a duplicate: ids of Nex are only known to be unique within a workspace, message ids are one space
// for the whole log. An event whose id another workspace has used, or may have, is published under an id that says whose it is.
func (p *publisher) collision(ctx context.Context, e *event.Event, ack bus.Ack, last uint64) (bus.Ack, error) {
	subject, err := p.bus.SubjectAt(ctx, ack.Sequence)
	switch {
	case errors.Is(err, bus.ErrNotInLog): // it was there, and has been removed since
		if event.Derived(e.ID) {
			return ack, nil // nobody else's
		}
	case err != nil:
		return ack, err
	default:
		if workspace, _, _ := event.SplitSubject(subject); workspace == e.Workspace {
			return ack, nil
		}
	}
	return p.bus.Append(ctx, e, e.Workspace+"/"+e.ID, last)
}

// insist tries until it succeeds, ctx ends, or it cannot succeed.
func (p *publisher) insist(ctx context.Context, try func() error) error {
	wait := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(retryMin), backoff.WithMaxInterval(retryMax), backoff.WithMaxElapsedTime(0))
	for {
		err := try()
		switch {
		case err == nil:
			if p.warned {
				p.warned = false
				p.log.Info("publishing works again")
			}
			return nil
		case errors.Is(err, errAgain):
			continue
		case errors.Is(err, bus.ErrTooLarge):
			return err
		}
		p.sayFailing(err)
		select {
		case <-time.After(wait.NextBackOff()):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sayFailing tells once that publishing fails. While the connection is down the bus has told so, for all streams.
func (p *publisher) sayFailing(err error) {
	if p.warned || errors.Is(err, bus.ErrConflict) || !p.bus.Connected() {
		p.log.Debug("publishing fails, the source waits", "error", err)
		return
	}
	p.warned = true
	p.log.Warn("publishing fails, the source waits", "error", err)
}

package fanout

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
)

const (
	// batchMax deliveries of one endpoint wait in one message at most: a crash repeats those of the messages on their way.
	batchMax = 64
	// gatherTime is how long a batch stays open.
	gatherTime = 100 * time.Millisecond
)

// reference is a delivery as it waits in RELAY_RETRY, alone or in a list. The event stays in the log.
type reference struct {
	Sequence uint64 `json:"sequence"`
	ID       string `json:"id"`
	Endpoint string `json:"endpoint"`
	// Workspace of the event; empty where it is not known.
	Workspace string `json:"workspace,omitempty"`
	Attempt   int    `json:"attempt"`
	Since     int64  `json:"since,omitempty"` // Unix seconds when its receiver first put it off
	// Forced names the wish of the endpoint's owner because of which it gets this, whatever it asks for by now.
	Forced string `json:"forced,omitempty"`
	// Event is the event itself, where the log holds it no more.
	Event json.RawMessage `json:"event,omitempty"`
}

// place is where deliveries are to wait: until a time, or in their endpoint's backlog. What comes to one place within
// gatherTime is written together: alone, a million deliveries that wait for their time cost nats-server 320 MB of memory,
// together 7 MB, in the backlog nothing; and a write costs as much as a quarter of a webhook.
type place struct {
	endpoint string
	at       int64 // Unix seconds; 0 = the backlog
}

// shelf gathers what is to be stored.
type shelf struct {
	wake chan struct{}

	mu   sync.Mutex
	open map[place][]*delivery
}

func newShelf() *shelf {
	return &shelf{wake: make(chan struct{}, 1), open: map[place][]*delivery{}}
}

// park stores a delivery until a time, then settles it here.
func (f *Fanout) park(d *delivery, at time.Time) {
	f.shelve(d, place{d.endpoint, max(1, ceilSecond(at).Unix())})
}

// backlog stores a delivery behind those that wait for its endpoint to take them, then settles it here. An endpoint that this
// replica does not know is not for it to judge: it may have been deleted, be too new, or sealed with a key that is missing.
func (f *Fanout) backlog(d *delivery) {
	e := f.cfg.Endpoints.Snapshot().Get(d.endpoint)
	if e == nil {
		f.shelve(d, place{endpoint: d.endpoint})
		return
	}
	l := f.lane(e)
	l.mu.Lock()
	l.behind, d.shelved = true, true
	l.shelved++
	l.mu.Unlock()
	f.shelve(d, place{endpoint: d.endpoint})
	f.startDrain(l)
}

// shelve adds a delivery to the batch of its place. It returns at once, but waits while too many writes are under way.
func (f *Fanout) shelve(d *delivery, p place) {
	if d.inline != nil { // as large as an event: with others it might be too large
		f.store(p, []*delivery{d})
		return
	}
	s := f.shelf
	s.mu.Lock()
	list := append(s.open[p], d)
	if len(list) == 1 {
		f.attempts.Add(1) // until it is being stored
	}
	if len(list) < batchMax {
		s.open[p] = list
		s.mu.Unlock()
		signal(s.wake)
		return
	}
	delete(s.open, p)
	s.mu.Unlock()
	f.store(p, list)
	f.attempts.Done()
}

// keepShelf stores what has been gathered, until ctx ends.
func (f *Fanout) keepShelf(ctx context.Context) {
	for {
		select {
		case <-f.shelf.wake:
			select {
			case <-time.After(gatherTime):
			case <-ctx.Done():
			}
			f.clearShelf()
		case <-ctx.Done():
			f.clearShelf()
			return
		}
	}
}

// clearShelf stores what was gathered up to now.
func (f *Fanout) clearShelf() {
	s := f.shelf
	s.mu.Lock()
	open := s.open
	s.open = make(map[place][]*delivery, len(open))
	s.mu.Unlock()
	for p, list := range open {
		f.store(p, list)
		f.attempts.Done()
	}
}

// store writes one batch in the background and settles its deliveries.
func (f *Fanout) store(p place, list []*delivery) {
	msg, opts, err := parcel(p, list)
	if err != nil { // texts and numbers always encode
		f.log.Error("deliveries cannot be stored", "endpoint", p.endpoint, "error", err)
		return
	}
	if d := list[0]; d.inline != nil && int64(len(msg.Data)) > f.cfg.Bus.Conn().MaxPayload()-headerRoom {
		f.bury(d, DeadLetter{Reason: ReasonExpired, Error: "the log has lost the event, and it is too large to wait here"})
		return
	}
	f.write(list, "store deliveries for later", func() error {
		ctx, cancel := context.WithTimeout(f.storeCtx, storeTimeout)
		defer cancel()
		_, err := f.cfg.Bus.JetStream().PublishMsg(ctx, msg, opts...)
		if err == nil && p.at == 0 {
			f.stocked(p.endpoint, list)
		}
		return err
	})
}

// parcel is the message in which deliveries wait. One that waits alone has a waiting place of its own, where it stands once
// though it were put there twice.
func parcel(p place, list []*delivery) (*nats.Msg, []jetstream.PublishOpt, error) {
	refs := make([]reference, len(list))
	for i, d := range list {
		refs[i] = reference{
			Sequence: d.sequence, ID: d.id, Endpoint: d.endpoint, Workspace: d.workspace, Attempt: d.attempt, Since: d.since, Forced: d.forced, Event: d.inline,
		}
	}
	data, err := plainJSON(refs)
	if err != nil {
		return nil, nil, err
	}
	msg := &nats.Msg{Data: data}
	due := bus.RetryDueSubject(p.endpoint, len(list))
	switch at := time.Unix(p.at, 0); {
	case p.at == 0:
		msg.Subject = bus.RetryBacklogSubject(p.endpoint, len(list))
		return msg, once(), nil
	case !at.After(time.Now()):
		msg.Subject = due
		return msg, once(), nil
	case len(list) == 1 && list[0].forced == "": // another may wait under its sequence because of its owner's wish
		msg.Subject = bus.RetryWaitSubject(p.endpoint, list[0].sequence)
		return msg, []jetstream.PublishOpt{jetstream.WithScheduleAt(at), jetstream.WithScheduleTarget(due)}, nil
	default:
		msg.Subject = bus.RetryBatchSubject(p.endpoint, strings.ToLower(rand.Text()[:12]), len(list))
		return msg, []jetstream.PublishOpt{jetstream.WithScheduleAt(at), jetstream.WithScheduleTarget(due)}, nil
	}
}

// once keeps a write that is repeated, because its answer came too late, from being done twice, for as long as the server knows ids: two
// minutes. What has a time needs no such thing, since its subject is its own, and must not have it: the message that comes of it when it
// is due would count as the same once more.
func once() []jetstream.PublishOpt {
	return []jetstream.PublishOpt{jetstream.WithMsgID(strings.ToLower(rand.Text()[:16]))}
}

// ceilSecond rounds up: schedules are kept in whole seconds, and an attempt must not come early.
func ceilSecond(t time.Time) time.Time {
	if s := t.Truncate(time.Second); s.Before(t) {
		return s.Add(time.Second)
	}
	return t
}

// write repeats a write until it succeeded, in the background, then settles the deliveries. If the relay stops first, they
// stay unsettled: their messages come again.
func (f *Fanout) write(list []*delivery, what string, step func() error) {
	if f.storing.Acquire(f.storeCtx, 1) != nil {
		return
	}
	f.attempts.Go(func() {
		defer f.storing.Release(1)
		if err := f.untilDone(what, step); err != nil {
			return
		}
		for _, d := range list {
			d.settle()
		}
	})
}

func (f *Fanout) untilDone(what string, step func() error) error {
	return f.untilDoneIn(f.storeCtx, what, step)
}

func (f *Fanout) untilDoneIn(ctx context.Context, what string, step func() error) error {
	wait := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(50*time.Millisecond), backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(0))
	said := false
	once := func() error {
		err := step()
		if errors.Is(err, nats.ErrMaxPayload) {
			return backoff.Permanent(err) // however often it is tried
		}
		return err
	}
	err := backoff.RetryNotify(once, backoff.WithContext(wait, ctx), func(err error, _ time.Duration) {
		if !said {
			f.log.Warn("write failed, trying on", "what", what, "error", err)
			said = true
		}
	})
	if err != nil && ctx.Err() == nil {
		f.log.Error("write given up", "what", what, "error", err)
	}
	return err
}

package fanout

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/webhook"
)

// maxReplays bounds the replays of one endpoint that are not over.
const maxReplays = 16

// Errors of replays.
var (
	ErrTooManyReplays = fmt.Errorf("the endpoint has %d replays already that are not over: wait for one, or cancel it", maxReplays)
	ErrNoReplay       = errors.New("no such replay")
)

// Replay has an endpoint get a part of the log again, as far as r selects it. It is stored when Replay returns, and goes on over
// restarts: what it queues is delivered with the endpoint's other events, out of their order.
func (f *Fanout) Replay(ctx context.Context, id string, r endpoint.Replay) error {
	var refused error
	_, err := f.cfg.Endpoints.UpdateState(ctx, id, func(s *endpoint.State) bool {
		running := 0
		for _, span := range s.Spans {
			if span.Replay != nil {
				running++
			}
		}
		if refused = nil; running >= maxReplays {
			refused = ErrTooManyReplays
			return false
		}
		s.Spans = append(s.Spans, endpoint.Span{ID: r.ID, From: r.From, To: r.To, Mode: endpoint.ModeAll, Replay: &r})
		return true
	})
	return errors.Join(refused, err)
}

// CancelReplay ends a replay. What it has queued is delivered.
func (f *Fanout) CancelReplay(ctx context.Context, id, replay string) error {
	found := false
	_, err := f.cfg.Endpoints.UpdateState(ctx, id, func(s *endpoint.State) bool {
		chosen := func(span endpoint.Span) bool { return span.Replay != nil && span.ID == replay }
		if found = slices.ContainsFunc(s.Spans, chosen); found {
			s.CancelSpans(time.Now(), chosen)
		}
		return found
	})
	if err == nil && !found {
		return fmt.Errorf("%s: %w", replay, ErrNoReplay)
	}
	return err
}

// CountReplay is how many events a replay would queue. With a filter it reads them.
func (f *Fanout) CountReplay(ctx context.Context, e *endpoint.Endpoint, r endpoint.Replay) (n uint64, err error) {
	err = f.wanted(ctx, r.Selects(e), r.From, r.To, func(bus.Stored) error {
		n++
		return nil
	})
	return n, err
}

// Again has an endpoint get an event again, unless that waits for its next attempt, which is made now instead, or is on its way: then it
// would come twice.
func (f *Fanout) Again(ctx context.Context, id string, sequence uint64, eventID string) error {
	held := false
	_, err := f.cfg.Endpoints.UpdateState(ctx, id, func(s *endpoint.State) bool {
		e := f.cfg.Endpoints.Snapshot().Get(id)
		held = e != nil && e.Ordered && s.Ordered != nil && s.Ordered.Sequence == sequence && s.Ordered.Holds(e) && s.Ordered.NextAt.After(time.Now())
		if held { // the event that holds up the others: it waits in the log
			at := *s.Ordered
			at.NextAt = time.Time{}
			s.Ordered = &at
		}
		return held
	})
	if err != nil || held {
		return err
	}
	n, coming, err := f.hurry(ctx, id, func(_ bus.Stored, r reference) bool {
		return r.Sequence == sequence && r.Forced == "" && (r.ID == "" || eventID == "" || r.ID == eventID)
	})
	if err != nil || n > 0 || coming {
		return err
	}
	return f.Redeliver(ctx, id, sequence, eventID, nil)
}

// Redeliver has an endpoint get an event again, with the whole schedule before it, whatever it asks for by now. kept is the event
// itself, for where the log holds it no more; where there is none, the error is [bus.ErrNotInLog]. The delivery is stored when
// Redeliver returns.
func (f *Fanout) Redeliver(ctx context.Context, id string, sequence uint64, eventID string, kept []byte) error {
	d := &delivery{endpoint: id, sequence: sequence, id: eventID, attempt: 1, forced: rand.Text()[:12]}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	m, err := f.cfg.Bus.Get(ctx, sequence)
	if err == nil && m != nil && eventID != "" && storedID(m) != eventID { // of a log that was made anew
		err = bus.ErrNotInLog
	}
	if errors.Is(err, bus.ErrNotInLog) && isEvent(kept) {
		d.inline, err = kept, nil
	}
	if err != nil {
		return fmt.Errorf("deliver %d again: %w", sequence, err)
	}
	msg, opts, err := parcel(place{endpoint: id, at: time.Now().Unix()}, []*delivery{d})
	if err != nil {
		return err
	}
	if _, err := f.cfg.Bus.JetStream().PublishMsg(ctx, msg, opts...); err != nil {
		return fmt.Errorf("store delivery of %d to %s: %w", sequence, id, err)
	}
	return nil
}

func storedID(m *bus.Stored) string { return eventID(m.Header, m.Sequence) }

func isEvent(kept []byte) bool {
	var e struct{ SpecVersion string }
	return json.Unmarshal(kept, &e) == nil && e.SpecVersion != ""
}

// Test sends an endpoint an event that says that it is a test, in one attempt made as any other. Nothing is learnt from it, and
// nothing becomes of it but a record.
func (f *Fanout) Test(ctx context.Context, e *endpoint.Endpoint) (*Attempt, error) {
	now := time.Now()
	data := map[string]string{"endpoint": e.ID, "message": "This is a test of the relay. No insight stands behind it."}
	news, err := event.News(event.NoWorkspace, event.EndpointTest, e.ID, data, now)
	if err != nil {
		return nil, err
	}
	d := &delivery{endpoint: e.ID, id: news.ID, attempt: 1, event: &message{
		stored: now, workspace: news.Workspace, eventType: news.Type, id: news.ID, traceparent: news.Traceparent, data: news.AppendJSON(nil),
	}}
	result, agreed := webhook.Result{}, true
	if f.unconsented(e) {
		if refused := f.askConsent(ctx, e); refused != nil {
			result, agreed = *refused, false
		}
	}
	if agreed {
		result = f.send(ctx, e, d, now)
	}
	a := newAttempt(d, now, result, Decision{Verdict: Tested})
	f.records.add(a)
	shown := *a // the record is being written
	if a.Request != nil {
		sent := *a.Request
		shown.Request = &sent
	}
	shown.complete()
	return &shown, ctx.Err()
}

// inlineMessage is the event that a delivery brings with it.
func inlineMessage(d *delivery) *message {
	var e struct {
		Source, Type string
	}
	_ = json.Unmarshal(d.inline, &e) // it was one when it was buried
	return &message{
		sequence: d.sequence, workspace: event.SourceWorkspace(e.Source), eventType: e.Type, id: d.id, stored: time.Now(), data: d.inline,
	}
}

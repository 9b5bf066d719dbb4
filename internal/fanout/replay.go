package fanout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
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

// Again is an event that an endpoint is to get again.
type Again struct {
	Sequence uint64
	ID       string // of the event
	// Event is the event itself, where the log holds it no more.
	Event []byte
}

// Redeliver has an endpoint get an event again, with the whole schedule before it, whatever it asks for by now. It is stored when
// Redeliver returns.
func (f *Fanout) Redeliver(ctx context.Context, id string, again Again) error {
	d := &delivery{endpoint: id, sequence: again.Sequence, id: again.ID, attempt: 1, forced: true, inline: again.Event}
	msg, opts, err := parcel(place{endpoint: id, at: time.Now().Unix()}, []*delivery{d})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if _, err := f.cfg.Bus.JetStream().PublishMsg(ctx, msg, opts...); err != nil {
		return fmt.Errorf("store delivery of %d to %s: %w", again.Sequence, id, err)
	}
	return nil
}

// inlineMessage is the event that a delivery brings with it.
func inlineMessage(d *delivery) *message {
	var e struct {
		Source, Type, Traceparent string
	}
	_ = json.Unmarshal(d.inline, &e) // it was one when it was buried
	return &message{
		sequence: d.sequence, workspace: event.SourceWorkspace(e.Source), eventType: e.Type, id: d.id, stored: time.Now(), data: d.inline,
	}
}

package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/webhook"
)

func (s *server) pullOperations() {
	add(s, operation{
		method: "GET", path: "/api/v1/endpoints/{id}/events", id: "pullEvents", summary: "What should have come to a receiver", access: pulls,
		about: "For receivers, with the endpoint's own token: the events of the log that are for it as it asks for them now, the oldest first, each signed " +
			"as a webhook. Ask again with `last` as `after` until `more` is false.",
		errors: []int{http.StatusNotFound},
	}, s.pullEvents)
	add(s, operation{
		method: "POST", path: "/api/v1/endpoints/{id}/rotate-events-token", id: "rotateEventsToken", summary: "Replace an endpoint's token for events", access: writes,
		about: "The old one holds no longer. The new one is shown in this answer alone.", errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed},
	}, s.rotateEventsToken)
}

type pullEvents struct {
	ByID
	After uint64 `query:"after" doc:"Events behind this place in the log: the greatest relay-sequence below which nothing is missed, or last of the answer before."`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many at most."`
}

// Pulled is what should have come.
type Pulled struct {
	Data []PulledEvent `json:"data"`
	Last uint64        `json:"last" doc:"Up to here the log has been looked through."`
	More bool          `json:"more" doc:"There is more behind."`
}

// PulledEvent is a webhook as it would be sent now.
type PulledEvent struct {
	Sequence uint64            `json:"sequence"`
	Headers  map[string]string `json:"headers" doc:"Those of the webhook: webhook-id, webhook-timestamp, webhook-signature and what its shape sets. Verify them with body."`
	Body     string            `json:"body" doc:"The webhook's body, as it is signed, never compressed. Empty where it is no text: see body_base64."`
	Base64   []byte            `json:"body_base64,omitempty" doc:"A body that is not valid UTF-8."`
}

// pullMost bounds the events that one answer looks through, and pullBytes what it holds.
const pullMost, pullBytes = 20_000, 8 << 20

func (s *server) pullEvents(ctx context.Context, in *pullEvents) (*answer[Pulled], error) {
	_, e, err := s.endpointOf(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	b, err := s.bus()
	if err != nil {
		return nil, err
	}
	extent, err := b.Extent(ctx)
	if err != nil {
		return nil, logError(err)
	}
	out := Pulled{Data: []PulledEvent{}, Last: min(in.After, extent.Last)} // beyond its end it is a place in a log that is gone
	if !e.SinceTime.Before(extent.Made) {
		out.Last = max(out.Last, e.Since)
	}
	q := bus.Query{Stream: bus.StreamNex, Subjects: e.Subjects(), After: out.Last, Oldest: true}
	now, read, size := time.Now(), 0, 0
	err = b.Walk(ctx, q, func(m bus.Stored) (bool, error) {
		if len(out.Data) == in.Limit || read == pullMost || size > pullBytes {
			out.More = true
			return false, nil
		}
		read++
		out.Last = m.Sequence
		one, ok, err := pulled(e, &m, now)
		if err == nil && ok {
			out.Data = append(out.Data, one)
			size += len(one.Body)
		}
		return true, err
	})
	if err != nil {
		return nil, logError(err)
	}
	return &answer[Pulled]{out}, nil
}

// pulled is an event as an endpoint would get it now; ok is false where it would not.
func pulled(e *endpoint.Endpoint, m *bus.Stored, now time.Time) (one PulledEvent, ok bool, err error) {
	workspace, eventType, ok := event.SplitSubject(m.Subject)
	if !ok || e.Past(m.Sequence, m.Time) || !e.WantsType(workspace, eventType) {
		return one, false, nil
	}
	if wanted, err := e.WantsContent(endpoint.NewView(workspace, m.Data)); err != nil || !wanted {
		return one, false, nil // one on which the filter fails is no match
	}
	body, err := e.Form.Render(m.Data, m.Sequence, 0)
	if err != nil { // it would not be sent either
		return one, false, nil
	}
	id := m.Header.Get(nats.MsgIdHdr)
	if id == "" { // somebody else put it there
		id = fmt.Sprintf("seq_%d", m.Sequence)
	}
	h := http.Header{}
	for key, values := range body.Header {
		h[key] = values
	}
	webhook.SetHeaders(h, webhook.MessageID(id), now, body.Data, e.Signing(now)...)
	h.Set("Content-Type", body.ContentType)
	one = PulledEvent{Sequence: m.Sequence, Headers: map[string]string{}, Body: string(body.Data)}
	if !utf8.Valid(body.Data) {
		one.Body, one.Base64 = "", body.Data
	}
	for key := range h {
		one.Headers[strings.ToLower(key)] = h.Get(key)
	}
	return one, true, nil
}

type rotateEventsToken struct {
	ByID
	Match
}

func (s *server) rotateEventsToken(ctx context.Context, in *rotateEventsToken) (*oneEndpoint, error) {
	registry, _, err := s.endpointOf(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	meant, err := revision(in.IfMatch)
	if err != nil {
		return nil, err
	}
	token := endpoint.NewEventsToken()
	err = registry.Change(ctx, in.ID, func(e *endpoint.Endpoint) (bool, error) {
		if err := stillHas(e, meant); err != nil {
			return false, err
		}
		e.EventsToken = endpoint.HashToken(token)
		return true, nil
	})
	if err != nil {
		return nil, endpointError(err)
	}
	s.log.Info("endpoint's token for events replaced", "endpoint", in.ID, "by", callerOf(ctx).name)
	out, err := s.current(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out.Body.EventsToken = token
	return out, nil
}

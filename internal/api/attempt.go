package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/webhook"
)

// OneAttempt is an attempt with the body that was sent.
type OneAttempt struct {
	Attempt
	RequestBody SentBody `json:"request_body"`
}

// SentBody is the body of a webhook, made again.
type SentBody struct {
	Text   string `json:"text,omitempty" doc:"As it is signed, never compressed. Left out where it is no text: see base64."`
	Base64 []byte `json:"base64,omitempty" doc:"A body that is not valid UTF-8."`
	Exact  bool   `json:"exact" doc:"It is what was sent, byte for byte. If not, the endpoint's shape has changed since, or the record does not tell."`
	// Missing says why there is none.
	Missing string `json:"missing,omitempty" doc:"Why it cannot be shown."`
}

type byAttempt struct {
	Attempt uint64 `path:"attempt" minimum:"1" doc:"The attempt's id."`
}

func (s *server) getAttempt(ctx context.Context, in *byAttempt) (*answer[OneAttempt], error) {
	b, err := s.bus()
	if err != nil {
		return nil, err
	}
	a, err := s.attemptOf(ctx, b, in.Attempt, "*")
	if err != nil {
		return nil, err
	}
	out := &answer[OneAttempt]{OneAttempt{Attempt: *a}}
	out.Body.RequestBody, err = s.sentBody(ctx, b, a)
	return out, err
}

// attemptOf is an attempt of an endpoint, or of any with "*", that is the caller's business.
func (s *server) attemptOf(ctx context.Context, b *bus.Bus, id uint64, endpoint string) (*Attempt, error) {
	found, err := b.Page(ctx, bus.Query{
		Stream: bus.StreamAttempts, Subjects: []string{bus.AttemptSubject(endpoint, "*")}, Before: id + 1, After: id - 1, Limit: 1,
	})
	if err != nil {
		return nil, logError(err)
	}
	none := &Error{http.StatusNotFound, fmt.Sprintf("%d: no such attempt, or no more", id)}
	if len(found.Messages) == 0 {
		return nil, none
	}
	a, ok := readAttempt(found.Messages[0])
	if !ok {
		return nil, none
	}
	if who := callerOf(ctx); len(who.workspaces) > 0 {
		if _, _, err := s.endpointOf(ctx, a.Endpoint); err != nil || !s.hisAttempt(who, &a) {
			return nil, none
		}
	}
	return &a, nil
}

// hisAttempt tells whether an attempt at an endpoint of a caller's is his business: an endpoint of this name may have been another's.
func (s *server) hisAttempt(who *caller, a *Attempt) bool {
	return who.knows(a.Workspace) || a.Workspace == event.NoWorkspace && s.hisSince(a.Endpoint, a.At)
}

// sentBody makes the body of an attempt's request again. What the event's headers of CloudEvents in binary mode were goes to the
// request.
func (s *server) sentBody(ctx context.Context, b *bus.Bus, a *Attempt) (SentBody, error) {
	if a.Sequence == 0 {
		return SentBody{Missing: "its event stands in no log"}, nil
	}
	m, err := b.Get(ctx, a.Sequence)
	if errors.Is(err, bus.ErrNotInLog) || err == nil && !hasID(*m, a.EventID) && a.EventID != unnamed(m.Sequence) {
		return SentBody{Missing: "the log does not hold the event any more"}, nil
	}
	if err != nil {
		return SentBody{}, err
	}
	registry, err := s.registry()
	if err != nil {
		return SentBody{}, err
	}
	e := registry.Snapshot().Get(a.Endpoint)
	if e == nil {
		return SentBody{Missing: "the endpoint is no more, and its shape with it; see the event"}, nil
	}
	body, err := e.Form.Render(m.Data, a.Sequence, a.Attempt.Attempt)
	if err != nil {
		return SentBody{Missing: err.Error()}, nil
	}
	out := SentBody{Text: string(body.Data)}
	if !utf8.Valid(body.Data) {
		out.Text, out.Base64 = "", body.Data
	}
	if a.Request == nil {
		return out, nil
	}
	out.Exact = a.Request.Size == len(body.Data) && a.Request.Sum == webhook.BodySum(body.Data)
	if out.Exact {
		maps.Copy(a.Request.Headers, lowerNames(body.Header))
	}
	return out, nil
}

// unnamed is the id of an event that somebody else put into the log without one.
func unnamed(sequence uint64) string { return fmt.Sprintf("seq_%d", sequence) }

// lowerNames is a header by names in lower case.
func lowerNames(h http.Header) map[string]string {
	out := make(map[string]string, len(h))
	for name := range h {
		out[strings.ToLower(name)] = h.Get(name)
	}
	return out
}

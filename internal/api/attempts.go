package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/webhook"
)

// Attempt is one delivery attempt.
type Attempt struct {
	ID uint64 `json:"id" doc:"Its place among all attempts."`
	fanout.Attempt
}

func readAttempt(m bus.Stored) (a Attempt, ok bool) {
	read, err := fanout.ReadAttempt(m.Data)
	if err != nil {
		return a, false
	}
	return Attempt{ID: m.Sequence, Attempt: *read}, true
}

func (s *server) attemptOperations() {
	add(s, operation{
		method: "GET", path: "/api/v1/attempts", id: "listAttempts", summary: "List attempts", access: reads,
		about: "The newest first. They are kept for three days, or 1 GiB of them.", errors: []int{http.StatusNotFound},
	}, s.listAttempts)
	add(s, operation{
		method: "GET", path: "/api/v1/attempts/{attempt}", id: "getAttempt", summary: "Show an attempt", access: reads,
		about: "With the body that was sent, made again of the event in the log and the endpoint's shape.", errors: []int{http.StatusNotFound},
	}, s.getAttempt)
	add(s, operation{
		method: "GET", path: "/api/v1/endpoints/{id}/attempts", id: "listEndpointAttempts", summary: "List an endpoint's attempts", access: reads,
		about: "The newest first.", errors: []int{http.StatusNotFound},
	}, s.listEndpointAttempts)
	add(s, operation{
		method: "POST", path: "/api/v1/endpoints/{id}/attempts/{attempt}/retry", id: "retryAttempt", summary: "Deliver the event of an attempt again", access: writes,
		about: "If it waits for its next attempt, that is made now, and does not come a second time later; if not, it is delivered anew, with the whole schedule " +
			"before it, whatever became of the attempt.",
		status: http.StatusAccepted, errors: []int{http.StatusNotFound, http.StatusGone},
	}, s.retryAttempt)
	add(s, operation{
		method: "POST", path: "/api/v1/endpoints/{id}/test", id: "testEndpoint", summary: "Send a test event", access: writes,
		about: "One attempt, made as any other: address, signature, handshake and answer. Nothing else becomes of it: it is not retried, and what is " +
			"learnt of the receiver is not held against it. The endpoint may be paused.",
		errors: []int{http.StatusNotFound},
	}, s.testEndpoint)
}

// WhichAttempts chooses among attempts.
type WhichAttempts struct {
	Paging
	Period
	Event   string          `query:"event" doc:"Only those of the event with this id, or this webhook-id."`
	Outcome webhook.Outcome `query:"outcome" doc:"Only those that ended so." example:"server_error"`
	Failed  bool            `query:"failed" doc:"Only those that were not delivered."`
}

type listAttempts struct {
	WhichAttempts
	Endpoint string `query:"endpoint" maxLength:"64" doc:"Only those of this endpoint, which may have been deleted since."`
}

func (s *server) listAttempts(ctx context.Context, in *listAttempts) (*answer[list[Attempt]], error) {
	return s.attempts(ctx, in.Endpoint, &in.WhichAttempts)
}

type listEndpointAttempts struct {
	ByID
	WhichAttempts
}

func (s *server) listEndpointAttempts(ctx context.Context, in *listEndpointAttempts) (*answer[list[Attempt]], error) {
	if _, _, err := s.endpointOf(ctx, in.ID); err != nil {
		return nil, err
	}
	return s.attempts(ctx, in.ID, &in.WhichAttempts)
}

func (s *server) attempts(ctx context.Context, id string, in *WhichAttempts) (*answer[list[Attempt]], error) {
	b, err := s.bus()
	if err != nil {
		return nil, err
	}
	if id != "" && !endpoint.IDForm.MatchString(id) {
		return nil, badRequest("endpoint: %q is no id of an endpoint", id)
	}
	outcomes := []webhook.Outcome{"*"}
	switch {
	case in.Outcome != "":
		if !known(in.Outcome) {
			return nil, badRequest("outcome: %q is none; there are %v", in.Outcome, webhook.Outcomes())
		}
		outcomes = []webhook.Outcome{in.Outcome}
	case in.Failed && id != "":
		outcomes = failures()
	}
	subjects, any, err := s.subjectsOf(ctx, id, func(id string) (list []string) {
		if id == "*" && outcomes[0] == "*" {
			return nil // all that the stream has, and NATS need not compare
		}
		for _, o := range outcomes {
			list = append(list, bus.AttemptSubject(id, string(o)))
		}
		return list
	})
	if err == nil && id != "" {
		err = s.mustBeKnown(ctx, b, id, bus.StreamAttempts, "attempts", bus.AttemptSubject(id, "*"))
	}
	if err != nil || !any {
		return page[Attempt](nil, ""), err
	}
	q := bus.Query{Stream: bus.StreamAttempts, Subjects: subjects, From: in.From, To: in.To}
	who := callerOf(ctx)
	// Of all endpoints NATS would find those that failed more slowly than they are found here.
	sifts := in.Event != "" || len(who.workspaces) > 0 || in.Failed
	return collect(ctx, b, q, in.Paging, sifts, func(m bus.Stored) (Attempt, bool) {
		if !s.his(who, &m) || in.Failed && strings.HasSuffix(m.Subject, "."+string(webhook.Delivered)) {
			return Attempt{}, false
		}
		a, ok := readAttempt(m)
		return a, ok && s.hisAttempt(who, &a) && (in.Event == "" || sameID(a.EventID, in.Event))
	})
}

// hisSince tells whether an endpoint was there at a time, and not another with its id.
func (s *server) hisSince(id string, at time.Time) bool {
	registry, err := s.registry()
	if err != nil {
		return false
	}
	e := registry.Snapshot().Get(id)
	return e != nil && !at.Before(e.CreatedAt)
}

func known(o webhook.Outcome) bool {
	for _, one := range webhook.Outcomes() {
		if one == o {
			return true
		}
	}
	return false
}

func failures() (list []webhook.Outcome) {
	for _, o := range webhook.Outcomes() {
		if o != webhook.Delivered {
			list = append(list, o)
		}
	}
	return list
}

type retryAttempt struct {
	ByID
	Attempt uint64 `path:"attempt" minimum:"1" doc:"The attempt's id."`
}

// Queued says that something will be delivered.
type Queued struct {
	Sequence uint64 `json:"sequence" doc:"The event's place in the log."`
	EventID  string `json:"event_id"`
	Endpoint string `json:"endpoint"`
}

func (s *server) retryAttempt(ctx context.Context, in *retryAttempt) (*answer[Queued], error) {
	if _, _, err := s.endpointOf(ctx, in.ID); err != nil {
		return nil, err
	}
	b, err := s.bus()
	if err != nil {
		return nil, err
	}
	a, err := s.attemptOf(ctx, b, in.Attempt, in.ID)
	if err != nil {
		return nil, err
	}
	if a.Sequence == 0 {
		return nil, badRequest("%d: is an attempt with no event of the log", in.Attempt)
	}
	if err := s.again(ctx, in.ID, a.Sequence, a.EventID, nil); err != nil {
		return nil, err
	}
	s.log.Info("event is delivered again", "endpoint", in.ID, "event", a.EventID, "sequence", a.Sequence, "by", callerOf(ctx).name)
	return &answer[Queued]{Queued{Sequence: a.Sequence, EventID: a.EventID, Endpoint: in.ID}}, nil
}

// TestResult is what became of a test event.
type TestResult struct {
	EventID    string          `json:"event_id"`
	Delivered  bool            `json:"delivered"`
	Outcome    webhook.Outcome `json:"outcome"`
	Class      webhook.Class   `json:"class,omitempty"`
	Status     int             `json:"status,omitempty" doc:"The answer's; left out without an answer."`
	DurationMS float64         `json:"duration_ms"`
	Error      string          `json:"error,omitempty"`
	Response   string          `json:"response,omitempty" doc:"The answer's first KiB."`

	Request         *webhook.Sent     `json:"request,omitempty" doc:"Left out where none could be made."`
	ResponseHeaders map[string]string `json:"response_headers,omitempty" doc:"What looks like a credential is redacted."`
}

func (s *server) testEndpoint(ctx context.Context, in *ByID) (*answer[TestResult], error) {
	_, e, err := s.endpointOf(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	f := s.fanout()
	if f == nil {
		return nil, errStarting
	}
	a, err := f.Test(ctx, e)
	if err != nil {
		return nil, err
	}
	out := TestResult{
		EventID: a.EventID, Delivered: a.Outcome == webhook.Delivered, Outcome: a.Outcome, Class: a.Outcome.Class(a.Status), Status: a.Status,
		DurationMS: a.DurationMS, Error: a.Error, Response: a.Response, Request: a.Request, ResponseHeaders: a.ResponseHeaders,
	}
	s.log.Info("test event sent", "endpoint", in.ID, "outcome", a.Outcome, "by", callerOf(ctx).name)
	return &answer[TestResult]{out}, nil
}

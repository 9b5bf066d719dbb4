package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/webhook"
)

// scanMost bounds the messages that are looked through for one page where a filter keeps few, and scanTime how long: the page is
// shorter then, and says where to go on.
const (
	scanMost = 20_000
	scanTime = 25 * time.Millisecond
	siftPage = 500 // at a time: a page of more bytes is read in two steps (bus.Page)
)

// bus is the log, or an answer to come again.
func (s *server) bus() (*bus.Bus, error) {
	if s.cfg.Log != nil {
		if b := s.cfg.Log(); b != nil {
			return b, nil
		}
	}
	return nil, errStarting
}

var errStarting = &Error{http.StatusServiceUnavailable, "the relay is starting and has not reached NATS yet: try again, see /readyz"}

// Period is a part of time that a list is about.
type Period struct {
	From time.Time `query:"from" doc:"Not older than this (RFC 3339)."`
	To   time.Time `query:"to" doc:"Older than this (RFC 3339)."`
}

// collect is a page of what keep makes of the messages that a query means, the newest first.
func collect[T any](ctx context.Context, b *bus.Bus, q bus.Query, in Paging, sifts bool, keep func(bus.Stored) (T, bool)) (*answer[list[T]], error) {
	if in.Cursor != "" {
		before, err := strconv.ParseUint(in.Cursor, 10, 64)
		if err != nil || before == 0 {
			return nil, badRequest("cursor: %q is none that a page before has given", in.Cursor)
		}
		q.Before = before
	}
	var data []T
	q.Limit = in.Limit
	began := time.Now()
	for seen := 0; ; {
		p, err := b.Page(ctx, q)
		if err != nil {
			return nil, logError(err)
		}
		for i, m := range p.Messages {
			one, ok := keep(m)
			if !ok {
				continue
			}
			if data = append(data, one); len(data) == in.Limit && (i+1 < len(p.Messages) || p.Next != 0) {
				return page(data, strconv.FormatUint(m.Sequence, 10)), nil
			}
		}
		seen += len(p.Messages)
		switch {
		case p.Next == 0:
			return page(data, ""), nil
		case !sifts || seen >= scanMost || time.Since(began) >= scanTime:
			return page(data, strconv.FormatUint(p.Next, 10)), nil
		}
		q.Before, q.Limit = p.Next, siftPage
	}
}

// logError is what is wrong with a reading of a stream, as the caller is told.
func logError(err error) error {
	switch {
	case errors.Is(err, bus.ErrQuery):
		return badRequest("%v", err)
	case errors.Is(err, bus.ErrBehind): // which is more than that NATS does not answer
		return &Error{http.StatusServiceUnavailable, "the servers of NATS do not agree on what there is: try again in a moment"}
	}
	return err
}

// StoredEvent is an event as it stands in the log.
type StoredEvent struct {
	Sequence uint64          `json:"sequence" doc:"Its place in the log."`
	Stored   time.Time       `json:"stored" doc:"When the log took it."`
	Subject  string          `json:"subject" doc:"Its NATS subject."`
	Via      string          `json:"via,omitempty" doc:"How it came from Nex: live over the stream, in its replay after a connect, or over REST when a gap was filled." enum:"stream,replay,rest"`
	Received *time.Time      `json:"received,omitempty" doc:"When it came from Nex."`
	Trace    string          `json:"traceparent,omitempty" doc:"Its W3C trace context; every webhook of it is a child of this."`
	Event    json.RawMessage `json:"event" doc:"The CloudEvent."`
}

func storedEvent(m bus.Stored) StoredEvent {
	out := StoredEvent{Sequence: m.Sequence, Stored: m.Time.UTC(), Subject: m.Subject, Trace: m.Header.Get(bus.HeaderTraceparent), Event: json.RawMessage("null")}
	if json.Valid(m.Data) {
		out.Event = m.Data
	}
	switch via := m.Header.Get(bus.HeaderVia); via {
	case event.ViaStream, event.ViaReplay, event.ViaREST:
		out.Via = via
	}
	if at, err := time.Parse(time.RFC3339Nano, m.Header.Get(bus.HeaderReceived)); err == nil {
		out.Received = &at
	}
	return out
}

func (s *server) eventOperations() {
	add(s, operation{
		method: "GET", path: "/api/v1/events", id: "listEvents", summary: "List what the log holds", access: reads,
		about: "The newest first.",
	}, s.listEvents)
	add(s, operation{
		method: "GET", path: "/api/v1/events/{sequence}", id: "getEvent", summary: "Show an event", access: reads, errors: []int{http.StatusNotFound},
	}, s.getEvent)
}

type listEvents struct {
	Paging
	Period
	Workspace string `query:"workspace" doc:"Only those of this workspace; _ is the relay itself."`
	Type      string `query:"type" doc:"Only those of a type, as a pattern: nex.insight.*" example:"nex.insight.risk"`
	ID        string `query:"id" doc:"Only the one with this id."`
}

func (s *server) listEvents(ctx context.Context, in *listEvents) (*answer[list[StoredEvent]], error) {
	b, err := s.bus()
	if err != nil {
		return nil, err
	}
	subjects, err := eventSubjects(callerOf(ctx), in.Workspace, in.Type)
	if err != nil {
		return nil, err
	}
	if len(subjects) == 0 {
		return page[StoredEvent](nil, ""), nil
	}
	q := bus.Query{Stream: bus.StreamNex, Subjects: subjects, From: in.From, To: in.To}
	return collect(ctx, b, q, in.Paging, in.ID != "", func(m bus.Stored) (StoredEvent, bool) {
		return storedEvent(m), in.ID == "" || hasID(m, in.ID)
	})
}

// eventSubjects are the subjects of what a caller asks for, as far as it is his business.
func eventSubjects(who *caller, workspace, pattern string) ([]string, error) {
	if pattern == "" {
		pattern = "nex.>"
	} else if err := event.ValidatePattern(pattern); err != nil {
		return nil, badRequest("type: %v", err)
	}
	workspaces := []string{"*"}
	switch {
	case workspace == "" && len(who.workspaces) > 0:
		workspaces = who.workspaces
	case workspace != "":
		token := workspace
		if token != event.NoWorkspace {
			token = event.Token(workspace)
		}
		if !who.knows(token) {
			return nil, nil
		}
		workspaces = []string{token}
	}
	subjects := make([]string, len(workspaces))
	for i, w := range workspaces {
		subjects[i] = event.PatternSubject(w, pattern)
	}
	return subjects, nil
}

// hasID tells whether a stored event has an id. Where two workspaces have the same, the log knows the later one by both.
func hasID(m bus.Stored, id string) bool {
	known := m.Header.Get(nats.MsgIdHdr)
	_, own, _ := strings.Cut(known, "/")
	return sameID(known, id) || sameID(own, id)
}

// sameID tells whether an event's id is the one asked for, which may be as a receiver has seen it.
func sameID(known, asked string) bool { return known == asked || webhook.MessageID(known) == asked }

type bySequence struct {
	Sequence uint64 `path:"sequence" minimum:"1" doc:"The event's place in the log."`
}

func (s *server) getEvent(ctx context.Context, in *bySequence) (*answer[StoredEvent], error) {
	b, err := s.bus()
	if err != nil {
		return nil, err
	}
	m, err := b.Get(ctx, in.Sequence)
	if errors.Is(err, bus.ErrNotInLog) {
		return nil, &Error{http.StatusNotFound, fmt.Sprintf("%d: the log does not hold this event, or no more", in.Sequence)}
	}
	if err != nil {
		return nil, err
	}
	if workspace, _, _ := event.SplitSubject(m.Subject); !callerOf(ctx).knows(workspace) {
		return nil, &Error{http.StatusNotFound, fmt.Sprintf("%d: the log does not hold this event, or no more", in.Sequence)}
	}
	return &answer[StoredEvent]{storedEvent(*m)}, nil
}

// subjectsMost is for how many endpoints of a caller's the log is asked by their subjects: NATS compares each message with each of
// them. Beyond, all is read and what is not his is left out.
const subjectsMost = 16

// subjectsOf are the subjects of one endpoint, or of those that are the caller's business, with others among them where they are many:
// see [server.his]; false where there are none. Those of all are what of makes of a *.
func (s *server) subjectsOf(ctx context.Context, id string, of func(id string) []string) ([]string, bool, error) {
	who := callerOf(ctx)
	switch {
	case id != "":
		if len(who.workspaces) > 0 {
			if _, _, err := s.endpointOf(ctx, id); err != nil {
				return nil, false, err
			}
		}
		return of(id), true, nil
	case len(who.workspaces) == 0:
		return of("*"), true, nil
	}
	registry, err := s.registry()
	if err != nil {
		return nil, false, err
	}
	var subjects []string
	n := 0
	for _, e := range registry.Snapshot().All() {
		if !who.sees(e) {
			continue
		}
		if n++; n > subjectsMost {
			return of("*"), true, nil
		}
		subjects = append(subjects, of(e.ID)...)
	}
	return slices.Compact(subjects), len(subjects) > 0, nil
}

// his tells whether what a message of RELAY_ATTEMPTS or RELAY_DEAD is about is at an endpoint that is the caller's business.
func (s *server) his(who *caller, m *bus.Stored) bool {
	if len(who.workspaces) == 0 {
		return true
	}
	registry, err := s.registry()
	if err != nil {
		return false
	}
	e := registry.Snapshot().Get(bus.EndpointOf(m.Subject))
	return e != nil && who.sees(e)
}

// mustBeKnown refuses an endpoint that there is not: an empty list would hide that its id is misspelt. One that has been deleted is
// known for as long as a stream holds something of it, which subjects name; what that is, what says.
func (s *server) mustBeKnown(ctx context.Context, b *bus.Bus, id, stream, what string, subjects ...string) error {
	registry, err := s.registry()
	if err != nil || registry.Snapshot().Get(id) != nil {
		return err
	}
	found, err := b.Page(ctx, bus.Query{Stream: stream, Subjects: subjects, Limit: 1})
	if err != nil {
		return logError(err)
	}
	if len(found.Messages) == 0 {
		return &Error{http.StatusNotFound, fmt.Sprintf("%s: no such endpoint, and no %s of a former one are kept", id, what)}
	}
	return nil
}

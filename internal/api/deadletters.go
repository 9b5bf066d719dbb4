package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/webhook"
)

// DeadLetter is a delivery that was given up.
type DeadLetter struct {
	ID uint64 `json:"id" doc:"Its place among all dead letters."`
	fanout.DeadLetter
	Event json.RawMessage `json:"event,omitempty" doc:"The event as it was to be delivered; left out where the log had lost it."`
}

func readDeadLetter(m bus.Stored) (d DeadLetter, ok bool) {
	d.ID = m.Sequence
	if json.Unmarshal(m.Data, &d.DeadLetter) != nil {
		return d, false
	}
	if string(d.DeadLetter.Event) != "null" {
		d.Event = d.DeadLetter.Event
	}
	return d, true
}

func (s *server) deadLetterOperations() {
	add(s, operation{
		method: "GET", path: "/api/v1/dead-letters", id: "listDeadLetters", summary: "List dead letters", access: reads,
		about: "Deliveries that were given up, the newest first. They are kept until they are retried or deleted.", errors: []int{http.StatusNotFound},
	}, s.listDeadLetters)
	add(s, operation{
		method: "GET", path: "/api/v1/dead-letters/{letter}", id: "getDeadLetter", summary: "Show a dead letter", access: reads, errors: []int{http.StatusNotFound},
	}, s.getDeadLetter)
	add(s, operation{
		method: "POST", path: "/api/v1/dead-letters/{letter}/retry", id: "retryDeadLetter", summary: "Deliver a dead letter after all", access: writes,
		about: "With the whole schedule before it. The letter is removed.", status: http.StatusAccepted, errors: []int{http.StatusNotFound, http.StatusGone},
	}, s.retryDeadLetter)
	add(s, operation{
		method: "DELETE", path: "/api/v1/dead-letters/{letter}", id: "deleteDeadLetter", summary: "Delete a dead letter", access: writes,
		status: http.StatusNoContent, errors: []int{http.StatusNotFound},
	}, s.deleteDeadLetter)
	add(s, operation{
		method: "POST", path: "/api/v1/dead-letters/retry", id: "retryDeadLetters", summary: "Deliver many dead letters after all", access: writes,
		about:  fmt.Sprintf("The oldest first, %d of them at most with one request, or as many as %v are enough for: while the answer says `more`, ask again with `last` as `after`.", bulkMost, bulkTime),
		errors: []int{http.StatusNotFound},
	}, s.retryDeadLetters)
	add(s, operation{
		method: "POST", path: "/api/v1/dead-letters/delete", id: "deleteDeadLetters", summary: "Delete many dead letters", access: writes,
		about:  fmt.Sprintf("%d of them at most with one request, or as many as %v are enough for: while the answer says `more`, ask again with `last` as `after`.", bulkMost, bulkTime),
		errors: []int{http.StatusNotFound},
	}, s.deleteDeadLetters)
}

// bulkMost is how many dead letters one request is about, at most, and bulkTime how long it works on them where NATS is slow: well
// below writeTimeout, after which nobody would be told.
const (
	bulkMost = 5000
	bulkTime = 20 * time.Second
)

type listDeadLetters struct {
	Paging
	Period
	Event    string        `query:"event" doc:"Only those of the event with this id, or this webhook-id."`
	Endpoint string        `query:"endpoint" maxLength:"64" doc:"Only those of this endpoint."`
	Class    webhook.Class `query:"class" doc:"Only those of this class." example:"5xx"`
}

// letterQuery is which dead letters are meant; ok is false where there are none for the caller.
func (s *server) letterQuery(ctx context.Context, b *bus.Bus, id string, class webhook.Class, from, to time.Time) (q bus.Query, ok bool, err error) {
	if id != "" && !endpoint.IDForm.MatchString(id) {
		return q, false, badRequest("endpoint: %q is no id of an endpoint", id)
	}
	if class != "" && !slices.Contains(webhook.Classes(), class) {
		return q, false, badRequest("class: %q is none; there are %v", class, webhook.Classes())
	}
	subjects, ok, err := s.subjectsOf(ctx, id, func(id string) []string {
		if id == "*" && class == "" {
			return nil // all that the stream has, and NATS need not compare
		}
		return bus.DeadSubjects(id, string(class))
	})
	if err == nil && id != "" {
		err = s.mustBeKnown(ctx, b, id, bus.StreamDead, "dead letters", bus.DeadSubjects(id, "")...)
	}
	return bus.Query{Stream: bus.StreamDead, Subjects: subjects, From: from, To: to}, ok, err
}

func (s *server) listDeadLetters(ctx context.Context, in *listDeadLetters) (*answer[list[DeadLetter]], error) {
	b, err := s.bus()
	if err != nil {
		return nil, err
	}
	q, ok, err := s.letterQuery(ctx, b, in.Endpoint, in.Class, in.From, in.To)
	if err != nil || !ok {
		return page[DeadLetter](nil, ""), err
	}
	who := callerOf(ctx)
	return collect(ctx, b, q, in.Paging, in.Event != "" || len(who.workspaces) > 0, func(m bus.Stored) (DeadLetter, bool) {
		if !s.his(who, &m) {
			return DeadLetter{}, false
		}
		d, ok := readDeadLetter(m)
		ok = ok && who.knows(d.Workspace) // an endpoint of this name may have been another's
		return d, ok && (in.Event == "" || sameID(d.EventID, in.Event))
	})
}

// Letter names a dead letter.
type Letter struct {
	Letter uint64 `path:"letter" minimum:"1" doc:"The dead letter's id."`
}

// letterOf is the dead letter of a request.
func (s *server) letterOf(ctx context.Context, id uint64) (*bus.Bus, *DeadLetter, error) {
	b, err := s.bus()
	if err != nil {
		return nil, nil, err
	}
	m, err := b.GetDead(ctx, id)
	none := &Error{http.StatusNotFound, fmt.Sprintf("%d: no such dead letter, or no more", id)}
	if errors.Is(err, bus.ErrNotInLog) {
		return nil, nil, none
	}
	if err != nil {
		return nil, nil, err
	}
	d, ok := readDeadLetter(*m)
	if !ok {
		return nil, nil, none
	}
	if who := callerOf(ctx); len(who.workspaces) > 0 {
		if _, _, err := s.endpointOf(ctx, d.Endpoint); err != nil || !who.knows(d.Workspace) {
			return nil, nil, none
		}
	}
	return b, &d, nil
}

func (s *server) getDeadLetter(ctx context.Context, in *Letter) (*answer[DeadLetter], error) {
	_, d, err := s.letterOf(ctx, in.Letter)
	if err != nil {
		return nil, err
	}
	return &answer[DeadLetter]{*d}, nil
}

func (s *server) deleteDeadLetter(ctx context.Context, in *Letter) (*struct{}, error) {
	b, d, err := s.letterOf(ctx, in.Letter)
	if err != nil {
		return nil, err
	}
	if err := b.DeleteDead(ctx, d.ID); err != nil && !errors.Is(err, bus.ErrNotInLog) {
		return nil, err
	}
	s.log.Info("dead letter deleted", "endpoint", d.Endpoint, "event", d.EventID, "by", callerOf(ctx).name)
	return nil, nil
}

func (s *server) retryDeadLetter(ctx context.Context, in *Letter) (*answer[Queued], error) {
	b, d, err := s.letterOf(ctx, in.Letter)
	if err != nil {
		return nil, err
	}
	if err := s.revive(ctx, b, d); err != nil {
		return nil, err
	}
	s.log.Info("dead letter is delivered after all", "endpoint", d.Endpoint, "event", d.EventID, "by", callerOf(ctx).name)
	return &answer[Queued]{Queued{Sequence: d.Sequence, EventID: d.EventID, Endpoint: d.Endpoint}}, nil
}

// revive has a dead letter delivered, then removes it. Should the relay die in between, it is delivered and still there.
func (s *server) revive(ctx context.Context, b *bus.Bus, d *DeadLetter) error {
	if _, _, err := s.endpointOf(ctx, d.Endpoint); err != nil {
		return err
	}
	if err := s.again(ctx, d.Endpoint, d.Sequence, d.EventID, d.Event); err != nil {
		return err
	}
	if err := b.DeleteDead(ctx, d.ID); err != nil && !errors.Is(err, bus.ErrNotInLog) {
		return err
	}
	return nil
}

// again has an endpoint get an event again: that of the log, or what was kept of it.
func (s *server) again(ctx context.Context, id string, sequence uint64, eventID string, kept []byte) error {
	f := s.fanout()
	if f == nil {
		return errStarting
	}
	if err := s.mayHave(ctx, id, sequence, kept); err != nil {
		return err
	}
	var err error
	if kept == nil { // no dead letter: it may be on its way still
		err = f.Again(ctx, id, sequence, eventID)
	} else {
		err = f.Redeliver(ctx, id, sequence, eventID, kept)
	}
	if errors.Is(err, bus.ErrNotInLog) {
		return &Error{http.StatusGone, fmt.Sprintf("%s: the log does not hold this event any more", eventID)}
	}
	return err
}

// mayHave refuses an event that is not the caller's business, or of a workspace that is not the endpoint's: its id may have been
// another's.
func (s *server) mayHave(ctx context.Context, id string, sequence uint64, kept []byte) error {
	_, e, err := s.endpointOf(ctx, id)
	if err != nil {
		return err
	}
	who := callerOf(ctx)
	if len(who.workspaces) == 0 && len(e.Workspaces) == 0 {
		return nil
	}
	b, err := s.bus()
	if err != nil {
		return err
	}
	workspace := ""
	m, err := b.Get(ctx, sequence)
	switch {
	case err == nil:
		workspace, _, _ = event.SplitSubject(m.Subject)
	case errors.Is(err, bus.ErrNotInLog):
		var e struct{ Source string }
		_ = json.Unmarshal(kept, &e) // what is no event is nobody's
		workspace = event.SourceWorkspace(e.Source)
	default:
		return err
	}
	if !who.knows(workspace) {
		return &Error{http.StatusNotFound, fmt.Sprintf("%d: the log does not hold this event, or no more", sequence)}
	}
	if len(e.Workspaces) > 0 && workspace != "" && !slices.Contains(e.Workspaces, workspace) {
		return &Error{http.StatusConflict, fmt.Sprintf("%d: is of a workspace that %s gets nothing of", sequence, id)}
	}
	return nil
}

// Which chooses dead letters. At least one of its members is needed, or all.
type Which struct {
	Endpoint string        `json:"endpoint,omitempty" doc:"Those of this endpoint."`
	Class    webhook.Class `json:"class,omitempty" doc:"Those of this class." example:"5xx"`
	From     *time.Time    `json:"from,omitempty" doc:"Those that are not older than this."`
	To       *time.Time    `json:"to,omitempty" doc:"Those that are older than this."`
	All      bool          `json:"all,omitempty" doc:"Every one."`
	After    uint64        `json:"after,omitempty" doc:"Only those behind this id: last of the answer before, so that what it has skipped is not looked at again."`
	Limit    int           `json:"limit,omitempty" minimum:"1" maximum:"5000" doc:"How many at most; 5000 is the default."`
}

// Bulk is what became of many dead letters.
type Bulk struct {
	Done    int      `json:"done" doc:"As many as that."`
	Skipped int      `json:"skipped,omitempty" doc:"Those that stay, see reasons."`
	Reasons []string `json:"reasons,omitempty" doc:"Why some were skipped, up to ten."`
	More    bool     `json:"more" doc:"There are others: ask again."`
	Last    uint64   `json:"last,omitempty" doc:"The id of the last one that was looked at: give it as after to go on behind it."`
}

type bulk struct{ Body Which }

// letters calls do with the dead letters that are chosen, the oldest first, and counts.
func (s *server) letters(ctx context.Context, which *Which, do func(*bus.Bus, *DeadLetter) error) (*answer[Bulk], error) {
	b, err := s.bus()
	if err != nil {
		return nil, err
	}
	if which.Endpoint == "" && which.Class == "" && which.From == nil && which.To == nil && !which.All {
		return nil, badRequest("which ones? give endpoint, class, from, to or all")
	}
	if which.Limit < 0 || which.Limit > bulkMost {
		return nil, badRequest("limit: %d is out of bounds: give 1 to %d", which.Limit, bulkMost)
	}
	var from, to time.Time
	set(&from, which.From)
	set(&to, which.To)
	q, ok, err := s.letterQuery(ctx, b, which.Endpoint, which.Class, from, to)
	if err != nil {
		return nil, err
	}
	out := &answer[Bulk]{}
	if !ok {
		return out, nil
	}
	q.Oldest, q.After = true, which.After
	most, until := cmp.Or(which.Limit, bulkMost), time.Now().Add(cmp.Or(s.cfg.BulkTime, bulkTime))
	err = b.Walk(ctx, q, func(m bus.Stored) (bool, error) {
		if out.Body.Done == most || out.Body.Last != 0 && time.Now().After(until) {
			out.Body.More = true
			return false, nil
		}
		who := callerOf(ctx)
		if d, readable := readDeadLetter(m); readable && s.his(who, &m) && who.knows(d.Workspace) {
			if err := out.Body.count(&d, do(b, &d)); err != nil {
				return false, err
			}
		}
		out.Body.Last = m.Sequence
		return true, nil
	})
	if err != nil {
		return nil, logError(err)
	}
	return out, nil
}

// count takes note of what became of a dead letter. Those whose endpoint, or event, is gone are skipped.
func (b *Bulk) count(d *DeadLetter, err error) error {
	var known *Error
	switch {
	case err == nil:
		b.Done++
	case !errors.As(err, &known) || known.Code >= 500:
		return err
	default:
		if b.Skipped++; len(b.Reasons) < 10 {
			b.Reasons = append(b.Reasons, fmt.Sprintf("%d: %s", d.ID, known.Message))
		}
	}
	return nil
}

func (s *server) retryDeadLetters(ctx context.Context, in *bulk) (*answer[Bulk], error) {
	out, err := s.letters(ctx, &in.Body, func(b *bus.Bus, d *DeadLetter) error { return s.revive(ctx, b, d) })
	if err == nil {
		s.log.Info("dead letters are delivered after all", "count", out.Body.Done, "endpoint", in.Body.Endpoint, "class", in.Body.Class, "by", callerOf(ctx).name)
	}
	return out, err
}

func (s *server) deleteDeadLetters(ctx context.Context, in *bulk) (*answer[Bulk], error) {
	out, err := s.letters(ctx, &in.Body, func(b *bus.Bus, d *DeadLetter) error {
		if err := b.DeleteDead(ctx, d.ID); err != nil && !errors.Is(err, bus.ErrNotInLog) {
			return err
		}
		return nil
	})
	if err == nil {
		s.log.Info("dead letters deleted", "count", out.Body.Done, "endpoint", in.Body.Endpoint, "class", in.Body.Class, "by", callerOf(ctx).name)
	}
	return out, err
}

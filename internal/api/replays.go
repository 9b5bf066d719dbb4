package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
)

// NewReplay is the body of POST …/replay: which part of the log an endpoint is to get again.
type NewReplay struct {
	From   *time.Time `json:"from,omitempty" doc:"Events that the log took then or later."`
	To     *time.Time `json:"to,omitempty" doc:"Events that the log took before."`
	After  uint64     `json:"after,omitempty" doc:"Events behind this sequence."`
	Before uint64     `json:"before,omitempty" doc:"Events before this sequence."`
	Events []string   `json:"events,omitempty" doc:"Patterns over the type, in place of the endpoint's." example:"[\"nex.insight.risk\"]"`
	Filter string     `json:"filter,omitempty" doc:"An expression over the event, in place of the endpoint's."`
	DryRun bool       `json:"dry_run,omitempty" doc:"Only count how many it would be."`
}

// Replay is a part of the log that an endpoint gets again.
type Replay struct {
	ID       string     `json:"id,omitempty" doc:"Left out where it was only counted."`
	State    string     `json:"state" enum:"counted,waiting,running,done,canceled" doc:"waiting is for the endpoint to be active, or for what stands before it."`
	At       *time.Time `json:"at,omitempty" doc:"When it was asked for."`
	From     uint64     `json:"from" doc:"The first sequence."`
	To       uint64     `json:"to" doc:"The last sequence."`
	Read     uint64     `json:"read" doc:"How many sequences have been read of them."`
	Queued   uint64     `json:"queued" doc:"How many events have been queued for the endpoint."`
	Matching *uint64    `json:"matching,omitempty" doc:"How many events it is about; only where it was counted."`
	Events   []string   `json:"events,omitempty"`
	Filter   string     `json:"filter,omitempty"`
	Ended    *time.Time `json:"ended,omitempty"`
}

func (s *server) replayOperations() {
	add(s, operation{
		method: "POST", path: "/api/v1/endpoints/{id}/replay", id: "replay", summary: "Let an endpoint get a part of the log again", access: writes,
		about: "Or for the first time, what came before it was made included. It is queued behind what waits for the endpoint, and delivered with it; " +
			"it goes on over restarts. `dry_run` tells how many events it would be.",
		status: http.StatusAccepted, errors: []int{http.StatusNotFound, http.StatusConflict},
	}, s.replay)
	add(s, operation{
		method: "GET", path: "/api/v1/endpoints/{id}/replays", id: "listReplays", summary: "How an endpoint's replays are", access: reads,
		about: "Those that are not over, and the last ten that are.", errors: []int{http.StatusNotFound},
	}, s.listReplays)
	add(s, operation{
		method: "DELETE", path: "/api/v1/endpoints/{id}/replays/{replay}", id: "cancelReplay", summary: "Cancel a replay", access: writes,
		about: "What it has queued is delivered.", status: http.StatusNoContent, errors: []int{http.StatusNotFound},
	}, s.cancelReplay)
}

type replay struct {
	ByID
	Body NewReplay
}

func (s *server) replay(ctx context.Context, in *replay) (*answer[Replay], error) {
	registry, e, err := s.endpointOf(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	b, err := s.bus()
	if err != nil {
		return nil, err
	}
	f := s.fanout()
	if f == nil {
		return nil, errStarting
	}
	id, repeated := newID(ctx)
	id = id[:12]
	for _, one := range replays(registry, in.ID) {
		if repeated && one.ID == id { // its relay died before it had answered
			return &answer[Replay]{one}, nil
		}
	}
	r := endpoint.Replay{ID: id, At: time.Now().UTC(), Events: in.Body.Events, Filter: in.Body.Filter}
	if err := checkSelection(&r); err != nil {
		return nil, err
	}
	if r.From, r.To, err = extent(ctx, b, &in.Body); err != nil {
		return nil, err
	}
	out := Replay{At: &r.At, From: r.From, To: r.To, Events: r.Events, Filter: r.Filter}
	if in.Body.DryRun {
		counting, cancel := within(ctx, countTime)
		defer cancel()
		n, err := f.CountReplay(counting, e, r)
		if err != nil && counting.Err() != nil && ctx.Err() == nil {
			return nil, badRequest("from %d to %d are too many events to be read in %v: count a smaller part, or let it run", r.From, r.To, countTime)
		}
		if err != nil {
			return nil, err
		}
		out.State, out.Matching = "counted", &n
		return &answer[Replay]{out}, nil
	}
	err = f.Replay(ctx, in.ID, r)
	if errors.Is(err, fanout.ErrTooManyReplays) {
		return nil, &Error{http.StatusConflict, err.Error()}
	}
	if err != nil {
		return nil, err
	}
	s.log.Info("replay asked for", "endpoint", in.ID, "replay", r.ID, "from", r.From, "to", r.To, "by", callerOf(ctx).name)
	for _, one := range replays(registry, in.ID) {
		if one.ID == r.ID {
			return &answer[Replay]{one}, nil
		}
	}
	out.ID, out.State = r.ID, "waiting"
	return &answer[Replay]{out}, nil
}

// countTime bounds a dry run, which reads all it counts: the answer must be written before the server gives it up.
const countTime = 45 * time.Second

// checkSelection judges what a replay selects by.
func checkSelection(r *endpoint.Replay) error {
	var problems []string
	for i, p := range r.Events {
		if err := event.ValidatePattern(p); err != nil {
			problems = append(problems, fmt.Sprintf("events[%d]: %v", i, err))
		}
	}
	if r.Filter != "" {
		if _, err := endpoint.CompileFilter(r.Filter); err != nil {
			problems = append(problems, "filter: "+err.Error())
		}
	}
	if len(problems) > 0 {
		return badRequest("%s", strings.Join(problems, "; "))
	}
	return nil
}

// extent is the part of the log that a replay is about, as it is now.
func extent(ctx context.Context, b *bus.Bus, in *NewReplay) (from, to uint64, err error) {
	q := bus.Query{Stream: bus.StreamNex, After: in.After, Before: in.Before, Limit: 1}
	set(&q.From, in.From)
	set(&q.To, in.To)
	if in.From == nil && in.To == nil && in.After == 0 && in.Before == 0 {
		return 0, 0, badRequest("which part of the log? give from, to, after or before")
	}
	ends := [2]uint64{}
	for i := range ends {
		q.Oldest = i == 0
		p, err := b.Page(ctx, q)
		if err != nil {
			return 0, 0, logError(err)
		}
		if len(p.Messages) == 0 {
			return 0, 0, badRequest("the log holds nothing of this part")
		}
		ends[i] = p.Messages[0].Sequence
	}
	return ends[0], ends[1], nil
}

// replays are an endpoint's, those that are not over first.
func replays(registry *endpoint.Registry, id string) (list []Replay) {
	show := func(r *endpoint.Replay, state string, read uint64) {
		one := Replay{ID: r.ID, State: state, At: &r.At, From: r.From, To: r.To, Read: read, Queued: r.Queued, Events: r.Events, Filter: r.Filter}
		if !r.Ended.IsZero() {
			one.Ended = &r.Ended
		}
		list = append(list, one)
	}
	state := registry.State(id)
	e := registry.Snapshot().Get(id)
	for i := range state.Spans {
		span := &state.Spans[i]
		if span.Replay == nil {
			continue
		}
		how := "waiting"
		if i == 0 && e != nil && e.Active() {
			how = "running"
		}
		show(span.Replay, how, span.From-span.Replay.From)
	}
	for i := len(state.Replayed) - 1; i >= 0; i-- {
		r := &state.Replayed[i]
		if r.Canceled {
			show(r, "canceled", 0)
		} else {
			show(r, "done", r.To+1-r.From)
		}
	}
	return list
}

func (s *server) listReplays(ctx context.Context, in *ByID) (*answer[list[Replay]], error) {
	registry, _, err := s.endpointOf(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return page(replays(registry, in.ID), ""), nil
}

type cancelReplay struct {
	ByID
	Replay string `path:"replay" maxLength:"64" doc:"The replay's id."`
}

func (s *server) cancelReplay(ctx context.Context, in *cancelReplay) (*struct{}, error) {
	if _, _, err := s.endpointOf(ctx, in.ID); err != nil {
		return nil, err
	}
	f := s.fanout()
	if f == nil {
		return nil, errStarting
	}
	err := f.CancelReplay(ctx, in.ID, in.Replay)
	if errors.Is(err, fanout.ErrNoReplay) {
		return nil, &Error{http.StatusNotFound, err.Error() + " that is not over"}
	}
	if err == nil {
		s.log.Info("replay canceled", "endpoint", in.ID, "replay", in.Replay, "by", callerOf(ctx).name)
	}
	return nil, err
}

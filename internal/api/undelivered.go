package api

import (
	"context"
	"net/http"
	"time"
)

func (s *server) undeliveredOperations() {
	add(s, operation{
		method: "GET", path: "/api/v1/endpoints/{id}/undelivered", id: "undelivered", summary: "What an endpoint is still to get", access: pulls,
		about: "Counted now, over the log, what waits, and what the replicas work on. While deliveries move from one to the other, one may count twice, and none " +
			"is left out. With a filter the events that the endpoint has before it are read, which takes as long as a dry run.",
		errors: []int{http.StatusNotFound},
	}, s.undelivered)
}

// Undelivered is what an endpoint is still to get.
type Undelivered struct {
	Count    uint64       `json:"count" doc:"All of them."`
	Waiting  uint64       `json:"waiting" doc:"Those that wait for their next attempt, or for the endpoint to take them."`
	InLog    uint64       `json:"in_log" doc:"Those that stand in the log alone: the endpoint is paused, catching up or ordered, or they have not been read yet."`
	InFlight uint64       `json:"in_flight" doc:"New ones that the relay works on."`
	Oldest   *OldestEvent `json:"oldest,omitempty"`
	Exact    bool         `json:"exact" doc:"Every replica said what it works on; else those in flight elsewhere are missing."`
}

// OldestEvent is the oldest event that an endpoint is still to get.
type OldestEvent struct {
	Sequence   uint64     `json:"sequence"`
	StoredAt   *time.Time `json:"stored_at,omitempty" doc:"When the log took it; left out where the log holds it no more."`
	AgeSeconds float64    `json:"age_seconds,omitempty"`
}

func (s *server) undelivered(ctx context.Context, in *ByID) (*answer[Undelivered], error) {
	_, e, err := s.endpointOf(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	f := s.fanout()
	if f == nil {
		return nil, errStarting
	}
	counting, cancel := within(ctx, countTime)
	defer cancel()
	u, err := f.Undelivered(counting, e)
	if err != nil && counting.Err() != nil && ctx.Err() == nil {
		return nil, &Error{http.StatusServiceUnavailable, "what the endpoint has before it cannot be read in " + countTime.String()}
	}
	if err != nil {
		return nil, err
	}
	out := Undelivered{Count: u.Count(), Waiting: u.Waiting, InLog: u.InLog, InFlight: u.InFlight, Exact: u.Silent == 0}
	if u.Oldest > 0 {
		out.Oldest = &OldestEvent{Sequence: u.Oldest}
		if !u.Stored.IsZero() {
			out.Oldest.StoredAt = &u.Stored
			out.Oldest.AgeSeconds = max(0, time.Since(u.Stored).Round(time.Millisecond).Seconds())
		}
	}
	return &answer[Undelivered]{out}, nil
}

package api

import (
	"context"
	"net/http"
	"time"
)

func (s *server) retryOperations() {
	add(s, operation{
		method: "POST", path: "/api/v1/endpoints/{id}/retry", id: "retryEndpoint", summary: "Try now what has failed at an endpoint and waits", access: writes,
		about: "Every delivery that waits for its next attempt, or those whose last attempt failed since a time. It is that attempt, earlier: none is spent, nothing " +
			"comes twice because of it. What has used up its attempts is a dead letter: see `/dead-letters/retry`. `more` says that there was not enough time for all.",
		errors: []int{http.StatusNotFound},
	}, s.retryEndpoint)
}

// RetryWaiting is the body of POST …/retry.
type RetryWaiting struct {
	Since *time.Time `json:"since,omitempty" doc:"Only what failed then or later."`
}

// Retried is what is tried now.
type Retried struct {
	Retried uint64 `json:"retried" doc:"How many deliveries."`
	More    bool   `json:"more,omitempty" doc:"There are more: ask again."`
}

type retryEndpoint struct {
	ByID
	Body *RetryWaiting
}

func (s *server) retryEndpoint(ctx context.Context, in *retryEndpoint) (*answer[Retried], error) {
	if _, _, err := s.endpointOf(ctx, in.ID); err != nil {
		return nil, err
	}
	f := s.fanout()
	if f == nil {
		return nil, errStarting
	}
	var since time.Time
	if in.Body != nil {
		set(&since, in.Body.Since)
	}
	bounded, cancel := within(ctx, countTime)
	defer cancel()
	n, err := f.Hurry(bounded, in.ID, since)
	out := Retried{Retried: n, More: err != nil}
	if err != nil && (ctx.Err() != nil || bounded.Err() == nil) {
		return nil, err
	}
	s.log.Info("what waits for an endpoint is tried now", "endpoint", in.ID, "since", since, "deliveries", n, "by", callerOf(ctx).name)
	return &answer[Retried]{out}, nil
}

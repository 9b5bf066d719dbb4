package api

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
)

// Enable is the body of POST …/enable: what the endpoint gets of the events that came while it was not active. It may be
// left out.
type Enable struct {
	Resume string `json:"resume,omitempty" enum:"all,newest-first,latest-per-target,skip"`
}

type enableEndpoint struct {
	ByID
	Resume string `query:"resume" doc:"As in the body."`
	Body   *Enable
}

// Rate is attempts a second, given as a number or as a text: 10, "10/s", "600/m", "100/h".
type Rate float64

// Schema is what the API's document says of it.
func (Rate) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Description: "Attempts a second: a number, or a text as 10/s, 600/m, 100/h.", Examples: []any{10, "600/m"}}
}

// UnmarshalJSON reads either form.
func (r *Rate) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) != nil {
		text = string(data)
	}
	rate, err := endpoint.ParseRate(text)
	if err != nil {
		return fmt.Errorf("rate_limit: %w", err)
	}
	*r = Rate(rate)
	return nil
}

// pausedOverAPI is the reason of a pause of an endpoint whose settings stand in the config file.
const pausedOverAPI = "paused over the API"

func (s *server) fanout() *fanout.Fanout {
	if s.cfg.Fanout == nil {
		return nil
	}
	return s.cfg.Fanout()
}

// enableEndpoint switches an endpoint on again that its owner or the relay had switched off.
func (s *server) enableEndpoint(ctx context.Context, in *enableEndpoint) (*oneEndpoint, error) {
	if err := s.upToDate(ctx); err != nil {
		return nil, err
	}
	registry, e, err := s.endpointOf(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	resume := in.Resume
	if in.Body != nil && in.Body.Resume != "" {
		if resume != "" && resume != in.Body.Resume {
			return nil, badRequest("resume: is %s in the URL and %s in the body: leave one out", shownKey(resume), shownKey(in.Body.Resume))
		}
		resume = in.Body.Resume
	}
	mode := endpoint.Mode(resume)
	switch {
	case e.Source == endpoint.SourceConfig && !e.Enabled:
		return nil, endpointError(fmt.Errorf("%s has enabled: false: %w", in.ID, endpoint.ErrFromConfig))
	case e.Ordered && mode != "" && mode != endpoint.ModeAll && mode != endpoint.ModeSkip:
		return nil, badRequest("resume: %s would break the order of this endpoint: all or skip", mode)
	}
	if _, err := endpoint.ParseMode(resume); err != nil {
		return nil, badRequest("resume: %v", err)
	}
	var at uint64
	if f := s.fanout(); f != nil {
		if at, _, err = f.EndOfLog(ctx); err != nil {
			return nil, err
		}
	}
	if err := registry.Enable(ctx, in.ID, mode, at); err != nil {
		return nil, endpointError(err)
	}
	if e.Source == endpoint.SourceAPI && !e.Enabled {
		if err := registry.SetEnabled(ctx, in.ID, true, mode, at); err != nil {
			return nil, endpointError(err)
		}
	}
	s.log.Info("endpoint enabled", "endpoint", in.ID, "resume", resume, "by", callerOf(ctx).name)
	return s.current(ctx, in.ID)
}

// upToDate returns when this replica knows what was decided about endpoints up to now, wherever it was.
func (s *server) upToDate(ctx context.Context) error {
	registry, err := s.registry()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fenceTime)
	defer cancel()
	if err := registry.Fence(ctx); err != nil {
		return fmt.Errorf("look up what was decided about endpoints: %w", err)
	}
	return nil
}

// fenceTime bounds the wait for what this replica has still to hear.
const fenceTime = 10 * time.Second

// disableEndpoint pauses an endpoint: it gets nothing until it is enabled, and keeps its place in the log.
func (s *server) disableEndpoint(ctx context.Context, in *ByID) (*oneEndpoint, error) {
	if err := s.upToDate(ctx); err != nil {
		return nil, err
	}
	registry, e, err := s.endpointOf(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if e.Source == endpoint.SourceAPI {
		err = registry.SetEnabled(ctx, in.ID, false, "", 0)
	} else {
		_, err = registry.Disable(ctx, in.ID, pausedOverAPI, time.Now())
	}
	if err != nil {
		return nil, endpointError(err)
	}
	s.log.Info("endpoint paused", "endpoint", in.ID, "by", callerOf(ctx).name)
	return s.current(ctx, in.ID)
}

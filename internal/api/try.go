package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
)

// Trial is the body of POST /api/v1/try: settings of an endpoint that are to be tried before they are saved.
type Trial struct {
	Events      []string `json:"events,omitempty" doc:"Patterns over the type; nex.insight.* where none is given."`
	Workspaces  []string `json:"workspaces,omitempty" doc:"By name; all where none is given."`
	Filter      string   `json:"filter,omitempty" example:"event.data.confidence >= 0.8"`
	Shape       string   `json:"shape,omitempty" enum:"structured,binary,thin,template,slack,teams,discord"`
	Template    string   `json:"template,omitempty"`
	ContentType string   `json:"content_type,omitempty"`
	Last        int      `json:"last,omitempty" minimum:"1" maximum:"10000" doc:"On how many of the newest events of these types and workspaces; 1000 is the default."`
	Samples     int      `json:"samples,omitempty" minimum:"1" maximum:"20" doc:"How many webhooks to show as they would be; 3 is the default."`
}

// TrialResult is what an endpoint with these settings would have had.
type TrialResult struct {
	Read         int      `json:"read" doc:"On so many events it was tried."`
	Matching     int      `json:"matching" doc:"So many of them would have been sent."`
	FilterFailed int      `json:"filter_failed,omitempty" doc:"On so many the filter failed, which is no match."`
	ShapeFailed  int      `json:"shape_failed,omitempty" doc:"Of so many that match no webhook could be made."`
	Errors       []string `json:"errors,omitempty" doc:"How they failed, the first ten."`
	Cut          bool     `json:"cut,omitempty" doc:"Time was up before so many as last asks for had been read."`
	Samples      []Sample `json:"samples"`
}

// Sample is a webhook as it would be.
type Sample struct {
	Sequence    uint64            `json:"sequence"`
	ContentType string            `json:"content_type"`
	Headers     map[string]string `json:"headers,omitempty" doc:"Those that the shape sets."`
	Body        string            `json:"body" doc:"The first 4 KiB."`
}

const (
	tryMost, tryDefault        = 10_000, 1000
	samplesMost, samplesNormal = 20, 3
	sampleBytes                = 4 << 10
)

func (s *server) tryOperations() {
	add(s, operation{
		method: "POST", path: "/api/v1/try", id: "try", summary: "Try settings on the events of the log", access: reads,
		about: "Nothing is saved and nothing is sent. The newest events that stand on the subjects in question are matched, and made into webhooks, " +
			"for five seconds at most: `cut` says that there were more.",
	}, s.try)
}

// What a template may do with one event is bounded, and takes 10 ms of a processor at worst: with thousands of them a request that changes
// nothing would take minutes from the deliveries.
const (
	tryTime   = 5 * time.Second
	tryAtOnce = 2
)

func (s *server) try(ctx context.Context, in *struct{ Body Trial }) (*answer[TrialResult], error) {
	e, err := s.tried(callerOf(ctx), &in.Body)
	if err != nil {
		return nil, err
	}
	last, samples := in.Body.Last, in.Body.Samples
	if last == 0 {
		last = tryDefault
	}
	if samples == 0 {
		samples = samplesNormal
	}
	if last < 0 || last > tryMost || samples < 0 || samples > samplesMost {
		return nil, badRequest("last: 1 to %d, and samples: 1 to %d", tryMost, samplesMost)
	}
	leave, err := s.mayTry(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	b, err := s.bus()
	if err != nil {
		return nil, err
	}
	out := TrialResult{Samples: []Sample{}}
	q := bus.Query{Stream: bus.StreamNex, Subjects: e.Subjects()}
	until := time.Now().Add(cmp.Or(s.cfg.TryTime, tryTime))
	err = b.Walk(ctx, q, func(m bus.Stored) (bool, error) {
		if out.Read > 0 && time.Now().After(until) {
			out.Cut = true
			return false, nil
		}
		out.Read++
		out.add(e, &m, samples)
		return out.Read < last, ctx.Err()
	})
	if err != nil {
		return nil, logError(err)
	}
	return &answer[TrialResult]{out}, nil
}

// mayTry waits for a turn, as long as one takes; leave ends it.
func (s *server) mayTry(ctx context.Context) (leave func(), err error) {
	leave = func() { <-s.trials }
	select {
	case s.trials <- struct{}{}:
		return leave, nil
	default:
	}
	patience := time.NewTimer(cmp.Or(s.cfg.TryTime, tryTime))
	defer patience.Stop()
	select {
	case s.trials <- struct{}{}:
		return leave, nil
	case <-patience.C:
		return nil, &Error{http.StatusServiceUnavailable, fmt.Sprintf("%d others are trying settings at this replica: try again in a moment", tryAtOnce)}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// tried is an endpoint with the settings that are to be tried.
func (s *server) tried(who *caller, in *Trial) (*endpoint.Endpoint, error) {
	e := &endpoint.Endpoint{Events: in.Events, Filter: in.Filter}
	var problems []string
	e.Workspaces, problems = s.workspacesOf(who, in.Workspaces, problems)
	r := endpoint.Replay{Events: in.Events, Filter: in.Filter}
	if err := checkSelection(&r); err != nil {
		problems = append(problems, err.Error())
	}
	var err error
	if e.Form, err = endpoint.NewForm(in.Shape, in.Template, in.ContentType, false); err != nil {
		problems = append(problems, strings.Split(err.Error(), "\n")...)
	}
	if len(problems) > 0 {
		return nil, badRequest("%s", strings.Join(problems, "; "))
	}
	return e, nil
}

// add counts one event.
func (t *TrialResult) add(e *endpoint.Endpoint, m *bus.Stored, samples int) {
	fails := func(what string, err error) {
		if len(t.Errors) < 10 {
			t.Errors = append(t.Errors, fmt.Sprintf("%d: %s: %v", m.Sequence, what, err))
		}
	}
	workspace, eventType, ok := event.SplitSubject(m.Subject)
	if !ok || !e.WantsType(workspace, eventType) {
		return
	}
	wanted, err := e.WantsContent(endpoint.NewView(workspace, m.Data))
	if err != nil {
		t.FilterFailed++
		fails("filter", err)
	}
	if !wanted {
		return
	}
	t.Matching++
	body, err := e.Form.Render(m.Data, m.Sequence, 1)
	if err != nil {
		t.ShapeFailed++
		fails("shape", err)
		return
	}
	if len(t.Samples) < samples {
		t.Samples = append(t.Samples, Sample{
			Sequence: m.Sequence, ContentType: body.ContentType, Headers: flat(body.Header), Body: strings.ToValidUTF8(string(body.Data[:min(len(body.Data), sampleBytes)]), "\ufffd"),
		})
	}
}

func flat(h http.Header) map[string]string {
	if len(h) == 0 {
		return nil
	}
	out := make(map[string]string, len(h))
	for key := range h {
		out[key] = h.Get(key)
	}
	return out
}

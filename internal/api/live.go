package api

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/live"
)

const (
	// pastMost is how many events one who comes again is told of those that he has missed.
	pastMost = 500
	// pastAtOnce are looked up at a time: each may hold a page of whole events.
	pastAtOnce = 2
	pastTime   = 15 * time.Second
)

func (s *server) liveOperations() {
	const path = "/api/v1/live"
	add(s, operation{
		method: "GET", path: path, id: "live", summary: "What happens, while it happens", access: reads,
		about: "Server-Sent Events, whose data is JSON: `event` (LiveEvent) and, of the relay's own, `news` (LiveEvent with its data) for what enters the log, " +
			"`attempt` (LiveAttempt) for each delivery attempt, `dropped` (LiveDropped) where some are missing because the reader was too slow. " +
			"What enters the log has its sequence as id: who comes again with it in `Last-Event-ID` gets the newest 500 events that he has missed first, " +
			"and in `dropped` how many others. Attempts have no id and are not told again. A comment comes every 15 seconds. 64 may watch a replica at a time.",
		errors: []int{http.StatusNotFound, http.StatusServiceUnavailable},
	}, s.watch)
	schemas := s.api.OpenAPI().Components.Schemas
	for name, t := range map[string]reflect.Type{
		"LiveEvent": reflect.TypeFor[live.Event](), "LiveAttempt": reflect.TypeFor[live.Attempt](), "LiveDropped": reflect.TypeFor[live.Dropped](),
	} {
		schemas.Map()[name] = huma.SchemaFromType(schemas, t)
	}
	s.api.OpenAPI().Paths[path].Get.Responses["200"].Content = map[string]*huma.MediaType{
		"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString, Description: "See LiveEvent, LiveAttempt and LiveDropped."}},
	}
}

type watch struct {
	Workspace string      `query:"workspace" doc:"Only what is of this workspace; _ is the relay itself."`
	Endpoint  string      `query:"endpoint" maxLength:"64" doc:"Only the attempts of this endpoint, and news about it."`
	Kind      []live.Kind `query:"kind" nullable:"false" enum:"event,news,attempt" doc:"Only these, parted by commas."`
	Last      string      `header:"Last-Event-ID" doc:"The id of the last event that was received: what came since is told first."`
}

func (s *server) watch(ctx context.Context, in *watch) (*huma.StreamResponse, error) {
	b, err := s.bus()
	if err != nil {
		return nil, err
	}
	registry, err := s.registry()
	if err != nil {
		return nil, err
	}
	who := callerOf(ctx)
	if err := s.mayWatch(ctx, b, in.Endpoint); err != nil {
		return nil, err
	}
	last, err := in.last()
	if err != nil {
		return nil, err
	}
	want := in.wanted(who, registry)
	reader, err := s.live.Join(ctx, b, want)
	if err != nil {
		return nil, watchError(err)
	}
	past, err := s.past(ctx, b, in, last, want)
	if err != nil {
		reader.Leave()
		return nil, err
	}
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		defer reader.Leave()
		_, w := humago.Unwrap(ctx)
		reader.Serve(ctx.Context(), w, past)
	}}, nil
}

// mayWatch refuses an endpoint that is none, or none of the caller's.
func (s *server) mayWatch(ctx context.Context, b *bus.Bus, id string) error {
	if id == "" {
		return nil
	}
	if !endpoint.IDForm.MatchString(id) {
		return badRequest("endpoint: %q is no id of an endpoint", id)
	}
	if len(callerOf(ctx).workspaces) == 0 {
		return s.mustBeKnown(ctx, b, id, bus.StreamAttempts, "attempts", bus.AttemptSubject(id, "*"))
	}
	_, _, err := s.endpointOf(ctx, id)
	return err
}

func watchError(err error) error {
	switch {
	case errors.Is(err, live.ErrFull):
		return &Error{http.StatusServiceUnavailable, strconv.Itoa(live.MaxReaders) + " are watching this replica already: close one of them, or ask another replica"}
	case errors.Is(err, live.ErrClosed):
		return &Error{http.StatusServiceUnavailable, "the relay stops"}
	}
	return err
}

// last is the sequence behind which one who comes again goes on; 0 if he is new.
func (in *watch) last() (uint64, error) {
	if in.Last == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(in.Last, 10, 64)
	if err != nil {
		return 0, badRequest("Last-Event-ID: %q is none that this stream has given; leave it out to begin now", in.Last)
	}
	return n, nil
}

// workspace is what is asked for as a token; empty = all.
func (in *watch) workspace() string {
	if in.Workspace == "" || in.Workspace == event.NoWorkspace {
		return in.Workspace
	}
	return event.Token(in.Workspace)
}

func (in *watch) wants(kind live.Kind) bool {
	return len(in.Kind) == 0 || slices.Contains(in.Kind, kind)
}

// wanted tells what a caller gets: what he asks for, as far as it is his business at that moment. The rules are those of the lists.
func (in *watch) wanted(who *caller, registry *endpoint.Registry) func(*live.Entry) bool {
	workspace := in.workspace()
	return func(e *live.Entry) bool {
		if !in.wants(e.Kind) || workspace != "" && e.Workspace != workspace || in.Endpoint != "" && e.Endpoint != in.Endpoint {
			return false
		}
		if e.Kind != live.KindAttempt || len(who.workspaces) == 0 {
			return who.knows(e.Workspace)
		}
		// An endpoint of this name may have been another's.
		its := registry.Snapshot().Get(e.Endpoint)
		return its != nil && who.sees(its) && (who.knows(e.Workspace) || e.Workspace == event.NoWorkspace && !e.At.Before(its.CreatedAt))
	}
}

// past is what one who comes again has missed of the log.
func (s *server) past(ctx context.Context, b *bus.Bus, in *watch, last uint64, want func(*live.Entry) bool) (past live.Past, err error) {
	pattern := "nex.>"
	switch {
	case in.Endpoint != "":
		pattern = "nex.relay.endpoint.>"
	case !in.wants(live.KindEvent):
		pattern = "nex.relay.>"
	}
	subjects, err := eventSubjects(callerOf(ctx), in.Workspace, pattern)
	if err != nil || len(subjects) == 0 || last == 0 || !in.wants(live.KindEvent) && !in.wants(live.KindNews) {
		return past, err
	}
	ctx, cancel := context.WithTimeout(ctx, pastTime)
	defer cancel()
	select {
	case s.pasts <- struct{}{}:
		defer func() { <-s.pasts }()
	case <-ctx.Done():
		return past, &Error{http.StatusServiceUnavailable, "many are asking for what they have missed: try again, or leave Last-Event-ID out"}
	}
	q := bus.Query{Stream: bus.StreamNex, Subjects: subjects, After: last, Limit: pastMost}
	page, err := b.Page(ctx, q)
	if err != nil {
		return past, logError(err)
	}
	for _, m := range slices.Backward(page.Messages) {
		if e := live.OfLog(m); want(e) {
			past.Entries = append(past.Entries, e)
		}
	}
	if page.Next != 0 {
		q.Before = page.Next
		if past.Dropped, err = b.Count(ctx, q); err != nil {
			return past, logError(err)
		}
	}
	return past, nil
}

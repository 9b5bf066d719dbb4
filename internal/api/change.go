package api

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/webhook"
)

// ChangeEndpoint is the body of PATCH /api/v1/endpoints/{id}: what is left out, or null, stays. "" and [] are the default. Secrets
// are changed by rotate-secret.
type ChangeEndpoint struct {
	URL         *string   `json:"url,omitempty"`
	Description *string   `json:"description,omitempty"`
	Events      *[]string `json:"events,omitempty"`
	Workspaces  *[]string `json:"workspaces,omitempty"`
	RateLimit   *Rate     `json:"rate_limit,omitempty"`
	Ordered     *bool     `json:"ordered,omitempty"`
	Filter      *string   `json:"filter,omitempty"`
	Resume      *string   `json:"resume,omitempty" enum:"all,newest-first,latest-per-target,skip"`
	Handshake   *bool     `json:"handshake,omitempty"`
	Shape       *string   `json:"shape,omitempty" enum:"structured,binary,thin,template,slack,teams,discord"`
	Template    *string   `json:"template,omitempty"`
	ContentType *string   `json:"content_type,omitempty"`
	Gzip        *bool     `json:"gzip,omitempty"`
	Proxy       *string   `json:"proxy,omitempty" doc:"Clients' certificates are left as they are."`
	ClientCert  *string   `json:"client_cert,omitempty" doc:"PEM; with client_key."`
	ClientKey   *string   `json:"client_key,omitempty" doc:"PEM; with client_cert."`
	Timeout     *string   `json:"timeout,omitempty" example:"10s"`
	MaxInFlight *int      `json:"max_in_flight,omitempty"`
	// Headers are merged by name.
	Headers map[string]*string `json:"headers,omitempty" doc:"Merged by name: null removes one."`
	Enabled *bool              `json:"enabled,omitempty" doc:"As the operations enable, with the endpoint's own way to resume, and disable."`
}

// TransformSchema says that null may stand for any value.
func (ChangeEndpoint) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	for _, property := range s.Properties {
		property.Nullable = property.Type != "" // one without a type takes anything
		if len(property.Enum) > 0 {
			property.Enum = append(property.Enum, nil)
		}
	}
	return s
}

type changeEndpoint struct {
	ByID
	IfMatch string `header:"If-Match" doc:"The revision that the change is meant for, as the ETag shows it, or * for any." example:"\"7\""`
	Body    ChangeEndpoint
}

// changeEndpoint changes what a request names of an endpoint, if nobody was faster.
func (s *server) changeEndpoint(ctx context.Context, in *changeEndpoint) (*oneEndpoint, error) {
	registry, e, err := s.endpointOf(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if e.Source == endpoint.SourceConfig {
		return nil, endpointError(fmt.Errorf("%s: %w", in.ID, endpoint.ErrFromConfig))
	}
	if in.IfMatch == "" {
		return nil, &Error{http.StatusPreconditionRequired, "If-Match: the revision is missing that the change is meant for; give the endpoint's ETag, or * for any"}
	}
	meant, err := revision(in.IfMatch)
	if err != nil {
		return nil, err
	}
	var end uint64
	f := s.fanout()
	if f != nil {
		if end, _, err = f.EndOfLog(ctx); err != nil {
			return nil, err
		}
	}
	who := callerOf(ctx)
	err = registry.Change(ctx, in.ID, func(e *endpoint.Endpoint) (bool, error) {
		if err := stillHas(e, meant); err != nil {
			return false, err
		}
		before := *e
		if err := s.merge(who, e, &in.Body); err != nil {
			return false, err
		}
		if !e.AsksLike(&before) {
			e.Changed = end
		}
		if f != nil { // before it is known: what is stored from then on is read by its own consumer
			if err := f.PrepareNew(ctx, e); err != nil {
				return false, err
			}
		}
		return true, nil
	})
	if err != nil {
		return nil, endpointError(err)
	}
	if now := registry.Snapshot().Get(in.ID); f != nil && now != nil {
		if err := f.PrepareOrdered(ctx, now); err != nil {
			return nil, err
		}
	}
	if in.Body.Enabled != nil && *in.Body.Enabled {
		if err := registry.Enable(ctx, in.ID, "", end); err != nil { // what the relay itself had switched off
			return nil, endpointError(err)
		}
	}
	s.log.Info("endpoint changed", "endpoint", in.ID, "by", who.name)
	return s.current(ctx, in.ID)
}

// Match is the part of a request that may say which revision of an endpoint it is meant for.
type Match struct {
	IfMatch string `header:"If-Match" doc:"Only if the endpoint has this revision still, as the ETag shows it; * or nothing is any." example:"\"7\""`
}

// revision reads an If-Match; 0 is any.
func revision(ifMatch string) (uint64, error) {
	if ifMatch == "" || ifMatch == "*" {
		return 0, nil
	}
	n, err := strconv.ParseUint(strings.Trim(ifMatch, `"`), 10, 64)
	if err != nil || n == 0 {
		return 0, badRequest("If-Match: %q is no revision of an endpoint; give its ETag, or * for any", ifMatch)
	}
	return n, nil
}

// stillHas refuses a change that is meant for another revision of an endpoint.
func stillHas(e *endpoint.Endpoint, meant uint64) error {
	if meant != 0 && meant != e.Revision {
		return fmt.Errorf("%s: %w", e.ID, endpoint.ErrRevision)
	}
	return nil
}

// merge changes an endpoint as asked, or names every fault.
func (s *server) merge(who *caller, e *endpoint.Endpoint, in *ChangeEndpoint) error {
	var problems []string
	set(&e.URL, in.URL)
	set(&e.Description, in.Description)
	set(&e.Events, in.Events)
	set(&e.Ordered, in.Ordered)
	set(&e.Filter, in.Filter)
	set(&e.Handshake, in.Handshake)
	set(&e.MaxInFlight, in.MaxInFlight)
	set(&e.Enabled, in.Enabled)
	if in.RateLimit != nil {
		e.RateLimit = float64(*in.RateLimit)
	}
	if in.Resume != nil {
		e.Resume = endpoint.Mode(*in.Resume)
	}
	if in.Workspaces != nil {
		e.Workspaces, problems = s.workspacesOf(who, *in.Workspaces, problems)
	}
	if in.Timeout != nil {
		var err error
		if e.Timeout, err = duration(*in.Timeout); err != nil {
			problems = append(problems, "timeout: "+err.Error())
		}
	}
	problems = append(problems, mergeHeaders(e, in.Headers)...)
	if err := mergeForm(e, in); err != nil {
		problems = append(problems, strings.Split(err.Error(), "\n")...)
	}
	route, err := mergeRoute(e.Route, in)
	if err != nil {
		problems = append(problems, strings.Split(err.Error(), "\n")...)
	} else if e.Route = route; in.Proxy != nil {
		problems = s.checkProxy(route, problems)
	}
	if err := e.Validate(s.cfg.Limits); err != nil {
		problems = append(problems, strings.Split(err.Error(), "\n")...)
	}
	if len(problems) > 0 {
		return badRequest("%s", strings.Join(problems, "; "))
	}
	return nil
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// duration reads a duration, empty as 0.
func duration(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration; write e.g. 10s", text)
	}
	return d, nil
}

// mergeHeaders changes an endpoint's headers by name, in whatever letter case that was given before.
func mergeHeaders(e *endpoint.Endpoint, in map[string]*string) (problems []string) {
	if len(in) == 0 {
		return nil
	}
	e.Headers = maps.Clone(e.Headers)
	given := make(map[string]bool, len(in))
	for _, name := range slices.Sorted(maps.Keys(in)) {
		if lower := strings.ToLower(name); given[lower] {
			problems = append(problems, fmt.Sprintf("headers: %q: is given twice in different case: leave one out", name))
		} else {
			given[lower] = true
		}
	}
	maps.DeleteFunc(e.Headers, func(known, _ string) bool { return given[strings.ToLower(known)] })
	for name, value := range in {
		if value == nil {
			continue
		}
		if e.Headers == nil {
			e.Headers = map[string]string{}
		}
		e.Headers[name] = *value
	}
	return problems
}

// mergeForm changes what is given of an endpoint's form.
func mergeForm(e *endpoint.Endpoint, in *ChangeEndpoint) error {
	if in.Shape == nil && in.Template == nil && in.ContentType == nil && in.Gzip == nil {
		return nil
	}
	var f endpoint.Form
	if e.Form != nil {
		f = *e.Form
	}
	if in.Shape != nil && *in.Shape != f.Kind { // what belongs to a template goes with it
		f.Kind, f.Template, f.ContentType = *in.Shape, "", ""
	}
	set(&f.Template, in.Template)
	set(&f.ContentType, in.ContentType)
	set(&f.Gzip, in.Gzip)
	form, err := endpoint.NewForm(f.Kind, f.Template, f.ContentType, f.Gzip)
	if err == nil {
		e.Form = form
	}
	return err
}

// mergeRoute is a route with what is given of it changed.
func mergeRoute(route *webhook.Route, in *ChangeEndpoint) (*webhook.Route, error) {
	if in.Proxy == nil && in.ClientCert == nil && in.ClientKey == nil {
		return route, nil
	}
	given := func(text *string) string {
		if text == nil {
			return ""
		}
		return *text
	}
	fresh, err := endpoint.NewRoute(given(in.Proxy), []byte(given(in.ClientCert)), []byte(given(in.ClientKey)))
	if err != nil || route == nil {
		return fresh, err
	}
	if fresh == nil {
		fresh = &webhook.Route{}
	}
	if in.Proxy == nil {
		fresh.Proxy = route.Proxy
	}
	if in.ClientCert == nil && in.ClientKey == nil {
		fresh.ClientCert = route.ClientCert
	}
	if fresh.Proxy == nil && fresh.ClientCert == nil {
		return nil, nil
	}
	return fresh, nil
}

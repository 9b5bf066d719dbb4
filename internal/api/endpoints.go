package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/webhook"
)

// NewEndpoint is the body of POST /api/v1/endpoints. Only url is needed.
type NewEndpoint struct {
	ID          string            `json:"id,omitempty" pattern:"^[A-Za-z0-9_-]{1,64}$" doc:"Made by the relay where none is given."`
	URL         string            `json:"url" example:"https://crm.example.com/webhooks"`
	Description string            `json:"description,omitempty" maxLength:"1024"`
	Events      []string          `json:"events,omitempty" doc:"Patterns over the type; nex.insight.* where none is given." example:"[\"nex.insight.risk\"]"`
	Workspaces  []string          `json:"workspaces,omitempty" doc:"By name; all where none is given."`
	Secret      string            `json:"secret,omitempty" doc:"whsec_…; made by the relay, and shown once, where neither secret nor key is given."`
	SigningKey  string            `json:"signing_key,omitempty" doc:"whsk_…, an Ed25519 key."`
	Signatures  []string          `json:"signatures,omitempty" doc:"What the relay makes secrets for where none is given: v1 (default), v1a."`
	RateLimit   Rate              `json:"rate_limit,omitempty"`
	Ordered     bool              `json:"ordered,omitempty" doc:"Strictly in the order of the log, one at a time."`
	Filter      string            `json:"filter,omitempty" doc:"An expression over the event." example:"event.data.confidence >= 0.8"`
	Resume      endpoint.Mode     `json:"resume,omitempty" enum:"all,newest-first,latest-per-target,skip" doc:"What it gets after a pause of what came meanwhile; all is the default."`
	Handshake   bool              `json:"handshake,omitempty" doc:"Ask the receiver first (CloudEvents, OPTIONS)."`
	Shape       string            `json:"shape,omitempty" enum:"structured,binary,thin,template,slack,teams,discord" doc:"What a webhook looks like; structured is the default."`
	Template    string            `json:"template,omitempty" doc:"With shape template: a Go text/template."`
	ContentType string            `json:"content_type,omitempty" doc:"With shape template; application/json is the default."`
	Gzip        bool              `json:"gzip,omitempty" doc:"Compress the body. The signature is over what it was before."`
	Proxy       string            `json:"proxy,omitempty" doc:"http(s)://user:password@host:port, one of webhooks.allow_proxies."`
	ClientCert  string            `json:"client_cert,omitempty" doc:"PEM; with client_key."`
	ClientKey   string            `json:"client_key,omitempty" doc:"PEM; with client_cert."`
	Timeout     string            `json:"timeout,omitempty" doc:"Of an attempt, 100ms to 5m." example:"10s"`
	MaxInFlight int               `json:"max_in_flight,omitempty" doc:"Attempts at once, up to 1024; 0 is the relay's default."`
	Headers     map[string]string `json:"headers,omitempty" doc:"Sent with every webhook; 8 KiB at most, names and values together."`
	Enabled     *bool             `json:"enabled,omitempty" doc:"false begins paused; true is the default."`
}

func (s *server) endpointOperations() {
	add(s, operation{
		method: "GET", path: "/api/v1/endpoints", id: "listEndpoints", summary: "List the endpoints", access: reads,
		about: "By id, those of the config file and of the API.",
	}, s.listEndpoints)
	add(s, operation{
		method: "POST", path: "/api/v1/endpoints", id: "createEndpoint", summary: "Make an endpoint", access: writes,
		about:  "It gets what is stored from now on. Where no secret is given the relay makes one and shows it in this answer alone.",
		status: http.StatusCreated, errors: []int{http.StatusConflict, http.StatusServiceUnavailable},
	}, s.createEndpoint)
	add(s, operation{
		method: "GET", path: "/api/v1/endpoints/{id}", id: "getEndpoint", summary: "Show an endpoint", access: reads, errors: []int{http.StatusNotFound},
	}, s.getEndpoint)
	add(s, operation{
		method: "PATCH", path: "/api/v1/endpoints/{id}", id: "changeEndpoint", summary: "Change an endpoint", access: writes,
		about: "A JSON merge patch (RFC 7396): what is left out stays, and so does what is null, but for headers. `If-Match` names the revision that the change is meant for, so that two " +
			"who change one endpoint at the same time do not overwrite each other; `*` is whichever there is.",
		errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed, http.StatusPreconditionRequired},
	}, s.changeEndpoint)
	add(s, operation{
		method: "DELETE", path: "/api/v1/endpoints/{id}", id: "deleteEndpoint", summary: "Delete an endpoint", access: writes,
		about: "What waits for it is dropped.", status: http.StatusNoContent, errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed},
	}, s.deleteEndpoint)
	add(s, operation{
		method: "POST", path: "/api/v1/endpoints/{id}/enable", id: "enableEndpoint", summary: "Let an endpoint go on", access: writes,
		about:  "Takes back a pause, or that the relay has disabled it. `resume` says what it gets of what came meanwhile.",
		errors: []int{http.StatusNotFound, http.StatusConflict},
	}, s.enableEndpoint)
	add(s, operation{
		method: "POST", path: "/api/v1/endpoints/{id}/disable", id: "disableEndpoint", summary: "Pause an endpoint", access: writes,
		about: "It gets nothing until it is enabled, and keeps its place in the log.", errors: []int{http.StatusNotFound, http.StatusConflict},
	}, s.disableEndpoint)
}

// registry is the endpoints, or an answer to come again: the relay listens before it has reached NATS.
func (s *server) registry() (*endpoint.Registry, error) {
	if r := s.cfg.Endpoints(); r != nil {
		return r, nil
	}
	return nil, errStarting
}

// endpointOf is the endpoint of a request. One that is not the caller's business does not exist for him.
func (s *server) endpointOf(ctx context.Context, id string) (*endpoint.Registry, *endpoint.Endpoint, error) {
	registry, err := s.registry()
	if err != nil {
		return nil, nil, err
	}
	e := registry.Snapshot().Get(id)
	if e == nil || !callerOf(ctx).sees(e) {
		return nil, nil, endpointError(fmt.Errorf("%s: %w", id, endpoint.ErrNotFound))
	}
	return registry, e, nil
}

// ByID is the part of a request that names an endpoint.
type ByID struct {
	ID string `path:"id" maxLength:"64" doc:"The endpoint's id."`
}

// oneEndpoint is an answer that shows an endpoint.
type oneEndpoint struct {
	ETag string `header:"ETag" doc:"The endpoint's revision, for If-Match."`
	Body Endpoint
}

// current shows an endpoint as it is now.
func (s *server) current(ctx context.Context, id string) (*oneEndpoint, error) {
	_, e, err := s.endpointOf(ctx, id)
	if err != nil {
		return nil, err
	}
	return &oneEndpoint{etag(e.Revision), s.show(e)}, nil
}

func etag(revision uint64) string {
	if revision == 0 { // of the config file: there is nothing to change
		return ""
	}
	return strconv.Quote(strconv.FormatUint(revision, 10))
}

type listEndpoints struct {
	Paging
	Workspace string `query:"workspace" doc:"Only those that get events of this workspace."`
	State     string `query:"state" enum:"active,paused,disabled" doc:"Only those that are so."`
	Source    string `query:"source" enum:"config,api" doc:"Only those that come from there."`
}

func (s *server) listEndpoints(ctx context.Context, in *listEndpoints) (*answer[list[Endpoint]], error) {
	registry, err := s.registry()
	if err != nil {
		return nil, err
	}
	who := callerOf(ctx)
	var data []Endpoint
	all := registry.Snapshot().All() // by id
	from, _ := slices.BinarySearchFunc(all, in.Cursor, func(e *endpoint.Endpoint, after string) int {
		if e.ID <= after {
			return -1
		}
		return 1
	})
	for _, e := range all[from:] {
		wanted := who.sees(e) && (in.Source == "" || e.Source == in.Source) && (in.State == "" || state(e) == in.State) &&
			(in.Workspace == "" || len(e.Workspaces) == 0 || slices.Contains(e.Workspaces, event.Token(in.Workspace)))
		if !wanted {
			continue
		}
		if len(data) == in.Limit {
			return page(data, data[len(data)-1].ID), nil
		}
		data = append(data, s.show(e))
	}
	return page(data, ""), nil
}

func (s *server) getEndpoint(ctx context.Context, in *ByID) (*oneEndpoint, error) {
	return s.current(ctx, in.ID)
}

func (s *server) createEndpoint(ctx context.Context, in *struct{ Body NewEndpoint }) (*oneEndpoint, error) {
	registry, err := s.registry()
	if err != nil {
		return nil, err
	}
	e, made, err := s.build(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	token := endpoint.NewEventsToken()
	e.EventsToken = endpoint.HashToken(token)
	if there := registry.Snapshot().Get(e.ID); there != nil { // before anything is prepared: what is there under this id may be another's
		if in.Body.ID == "" || e.MadeBy != "" && there.MadeBy == e.MadeBy {
			return nil, &Error{http.StatusConflict, fmt.Sprintf("%s was made by a request with this Idempotency-Key whose answer got lost: rotate its secret to have one", e.ID)}
		}
		return nil, endpointError(fmt.Errorf("%s: %w", e.ID, endpoint.ErrExists))
	}
	if f := s.fanout(); f != nil {
		if e.Since, e.SinceTime, err = f.EndOfLog(ctx); err != nil {
			return nil, err
		}
		if err := f.PrepareNew(ctx, e); err != nil {
			return nil, err
		}
	}
	if err := registry.Create(ctx, e); err != nil {
		return nil, endpointError(err)
	}
	s.log.Info("endpoint created", "endpoint", e.ID, "by", callerOf(ctx).name)
	out, err := s.current(ctx, e.ID)
	if err != nil {
		return nil, err
	}
	out.Body.EventsToken = token
	if made {
		out.Body.Secret = revealHMAC(e.Secrets)
	}
	return out, nil
}

// build turns a request into a valid endpoint. made tells that its secret is the relay's.
func (s *server) build(ctx context.Context, in NewEndpoint) (e *endpoint.Endpoint, made bool, err error) {
	e = &endpoint.Endpoint{
		ID: in.ID, URL: in.URL, Description: in.Description, Events: in.Events, MaxInFlight: in.MaxInFlight, Headers: in.Headers,
		RateLimit: float64(in.RateLimit), Ordered: in.Ordered, Filter: in.Filter, Resume: in.Resume, Handshake: in.Handshake,
		Enabled: in.Enabled == nil || *in.Enabled, CreatedAt: time.Now().UTC(),
	}
	var problems []string
	id, again := newID(ctx)
	if again {
		e.MadeBy = id
	}
	if e.ID == "" {
		e.ID = "ep_" + id
	}
	if e.Timeout, err = duration(in.Timeout); err != nil {
		problems = append(problems, "timeout: "+err.Error())
	}
	e.Workspaces, problems = s.workspacesOf(callerOf(ctx), in.Workspaces, problems)
	if e.Secrets, made, err = secrets(in.Secret, in.SigningKey, in.Signatures); err != nil {
		problems = append(problems, strings.Split(err.Error(), "\n")...)
	}
	if e.Route, err = endpoint.NewRoute(in.Proxy, []byte(in.ClientCert), []byte(in.ClientKey)); err != nil {
		problems = append(problems, strings.Split(err.Error(), "\n")...)
	}
	problems = s.checkProxy(e.Route, problems)
	if e.Form, err = endpoint.NewForm(in.Shape, in.Template, in.ContentType, in.Gzip); err != nil {
		problems = append(problems, strings.Split(err.Error(), "\n")...)
	}
	if err := e.Validate(s.cfg.Limits); err != nil {
		problems = append(problems, strings.Split(err.Error(), "\n")...)
	}
	if len(problems) > 0 {
		return nil, false, &Error{http.StatusBadRequest, strings.Join(problems, "; ")}
	}
	return e, made, nil
}

// workspacesOf are the tokens of the workspaces that a caller names for an endpoint. One who is bound to some names none for all
// of those.
func (s *server) workspacesOf(who *caller, names, problems []string) (tokens, all []string) {
	known := map[string]bool{}
	for _, w := range s.cfg.Workspaces() {
		known[w.Token] = who.knows(w.Token)
	}
	for i, name := range names {
		token := event.Token(name)
		if !known[token] {
			problems = append(problems, fmt.Sprintf("workspaces[%d]: the relay has no workspace %q", i, name))
		}
		tokens = append(tokens, token)
	}
	if len(names) == 0 {
		tokens = slices.Clone(who.workspaces)
	}
	return tokens, problems
}

// checkProxy refuses a proxy that the operator has not permitted: the relay's own network is reached through it.
func (s *server) checkProxy(route *webhook.Route, problems []string) []string {
	if _, port, ok := proxyAddr(route); ok && !slices.Contains(s.cfg.AllowProxies, port) {
		problems = append(problems, fmt.Sprintf("proxy: %s is not among webhooks.allow_proxies of the relay's configuration", port))
	}
	return problems
}

type deleteEndpoint struct {
	ByID
	Match
}

func (s *server) deleteEndpoint(ctx context.Context, in *deleteEndpoint) (*struct{}, error) {
	registry, _, err := s.endpointOf(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	meant, err := revision(in.IfMatch)
	if err != nil {
		return nil, err
	}
	if err := registry.DeleteIf(ctx, in.ID, meant); err != nil {
		return nil, endpointError(err)
	}
	s.log.Info("endpoint deleted", "endpoint", in.ID, "by", callerOf(ctx).name)
	if f := s.fanout(); f != nil {
		if err := f.Forget(ctx, in.ID); err != nil { // dropped when it is due, then
			s.log.Warn("what waits for a deleted endpoint could not be removed", "endpoint", in.ID, "error", err)
		}
	}
	return nil, nil
}

func endpointError(err error) error {
	code := map[error]int{
		endpoint.ErrNotFound: http.StatusNotFound, endpoint.ErrExists: http.StatusConflict, endpoint.ErrFromConfig: http.StatusConflict,
		endpoint.ErrNoKey: http.StatusServiceUnavailable, endpoint.ErrRevision: http.StatusPreconditionFailed,
	}
	for sentinel, status := range code {
		if errors.Is(err, sentinel) {
			return &Error{status, err.Error()}
		}
	}
	return err
}

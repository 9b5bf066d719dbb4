package api

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
)

// HeldUp is an event that fails at an ordered endpoint, and its next attempt.
type HeldUp struct {
	Sequence uint64    `json:"sequence"`
	Attempt  int       `json:"attempt"`
	NextAt   time.Time `json:"next_at"`
}

// Endpoint is an endpoint as the API shows it. Secrets are never shown, but for one that the relay made: once, in the
// answer to its creation. Values of custom headers are not shown either, since they often are credentials.
type Endpoint struct {
	ID          string             `json:"id"`
	URL         string             `json:"url"`
	Description string             `json:"description,omitempty"`
	Events      []string           `json:"events"`
	Workspaces  []string           `json:"workspaces"`
	Timeout     string             `json:"timeout,omitempty"`
	MaxInFlight int                `json:"max_in_flight,omitempty"`
	RateLimit   float64            `json:"rate_limit,omitempty"` // attempts a second
	Ordered     bool               `json:"ordered,omitempty"`
	Filter      string             `json:"filter,omitempty"`
	Resume      endpoint.Mode      `json:"resume,omitempty"`
	Headers     map[string]string  `json:"headers,omitempty"`
	Handshake   bool               `json:"handshake,omitempty"`
	Proxy       string             `json:"proxy,omitempty"`       // without credentials
	ClientCert  string             `json:"client_cert,omitempty"` // the certificate's subject
	Signatures  []string           `json:"signatures"`            // v1, v1a
	PublicKeys  []PublicKey        `json:"public_keys,omitempty"`
	Enabled     bool               `json:"enabled"`
	State       string             `json:"state"` // active, paused (enabled: false), disabled (by the relay)
	Disabled    *endpoint.Disabled `json:"disabled,omitempty"`
	Source      string             `json:"source"` // config, api
	CreatedAt   *time.Time         `json:"created_at,omitempty"`
	// FailingSince is when a run of failures began that no success has ended.
	FailingSince *time.Time `json:"failing_since,omitempty"`
	// Position is the endpoint's place in the log while it is not active.
	Position uint64 `json:"position,omitempty"`
	// HeldUp is the event that fails at an ordered endpoint and holds up those behind it.
	HeldUp *HeldUp `json:"held_up,omitempty"`
	// FilterError is how the filter last failed on an event at this replica.
	FilterError *fanout.FilterError `json:"filter_error,omitempty"`
	Secret      string              `json:"secret,omitempty"`
	Warnings    []string            `json:"warnings,omitempty"`
}

// NewEndpoint is the body of POST /api/v1/endpoints. Only url is needed.
type NewEndpoint struct {
	ID          string            `json:"id"`
	URL         string            `json:"url"`
	Description string            `json:"description"`
	Events      []string          `json:"events"`
	Workspaces  []string          `json:"workspaces"`
	Secret      string            `json:"secret"`
	SigningKey  string            `json:"signing_key"` // whsk_…
	Signatures  []string          `json:"signatures"`  // what the relay makes secrets for where none is given: v1 (default), v1a
	RateLimit   Rate              `json:"rate_limit"`
	Ordered     bool              `json:"ordered"`
	Filter      string            `json:"filter"`
	Resume      endpoint.Mode     `json:"resume"`
	Handshake   bool              `json:"handshake"`
	Proxy       string            `json:"proxy"`
	ClientCert  string            `json:"client_cert"` // PEM
	ClientKey   string            `json:"client_key"`  // PEM
	Timeout     string            `json:"timeout"`     // e.g. "10s"
	MaxInFlight int               `json:"max_in_flight"`
	Headers     map[string]string `json:"headers"`
	Enabled     *bool             `json:"enabled"`
}

func (s *server) show(e *endpoint.Endpoint) Endpoint {
	out := Endpoint{
		ID: e.ID, URL: e.URL, Description: e.Description, Events: e.Events, Workspaces: e.Workspaces, MaxInFlight: e.MaxInFlight,
		Enabled: e.Enabled, State: "active", Disabled: e.Disabled, Source: e.Source, RateLimit: e.RateLimit, Ordered: e.Ordered,
		Filter: e.Filter, Resume: e.Resume, Handshake: e.Handshake, FailingSince: e.State.FailingSince, Position: e.State.Position,
	}
	showSignatures(&out, e)
	showRoute(&out, e.Route)
	if at := e.State.Ordered; e.Ordered && at != nil {
		if at.Holds(e) && at.NextAt.After(time.Now()) { // what was settled stands there too
			out.HeldUp = &HeldUp{Sequence: at.Sequence, Attempt: at.Attempt, NextAt: at.NextAt}
		}
	}
	if f := s.fanout(); f != nil {
		if failed, ok := f.FilterError(e.ID); ok {
			out.FilterError = &failed
		}
	}
	if len(out.Events) == 0 {
		out.Events = []string{endpoint.DefaultEvents}
	}
	if out.Workspaces == nil {
		out.Workspaces = []string{}
	}
	if e.Timeout > 0 {
		out.Timeout = e.Timeout.String()
	}
	if !e.CreatedAt.IsZero() {
		out.CreatedAt = &e.CreatedAt
	}
	if len(e.Headers) > 0 {
		out.Headers = make(map[string]string, len(e.Headers))
		for name := range e.Headers {
			out.Headers[name] = "[redacted]"
		}
	}
	switch {
	case e.Disabled != nil:
		out.State = "disabled"
	case !e.Enabled:
		out.State = "paused"
	}
	if s.cfg.Warn != nil {
		out.Warnings = s.cfg.Warn(e)
	}
	return out
}

// registry is the endpoints, or an answer to come again: the relay listens before it has reached NATS.
func (s *server) registry() (*endpoint.Registry, error) {
	if r := s.cfg.Endpoints(); r != nil {
		return r, nil
	}
	return nil, &Error{http.StatusServiceUnavailable, "the relay is starting and has not reached NATS yet: try again, see /readyz"}
}

func (s *server) listEndpoints(*http.Request) (int, any, error) {
	registry, err := s.registry()
	if err != nil {
		return 0, nil, err
	}
	all := registry.Snapshot().All()
	data := make([]Endpoint, 0, len(all))
	for _, e := range all {
		data = append(data, s.show(e))
	}
	return http.StatusOK, list[Endpoint]{data}, nil
}

func (s *server) getEndpoint(r *http.Request) (int, any, error) {
	registry, err := s.registry()
	if err != nil {
		return 0, nil, err
	}
	e := registry.Snapshot().Get(r.PathValue("id"))
	if e == nil {
		return 0, nil, endpointError(fmt.Errorf("%s: %w", r.PathValue("id"), endpoint.ErrNotFound))
	}
	return http.StatusOK, s.show(e), nil
}

func (s *server) createEndpoint(r *http.Request) (int, any, error) {
	registry, err := s.registry()
	if err != nil {
		return 0, nil, err
	}
	var in NewEndpoint
	if err := decode(r, &in); err != nil {
		return 0, nil, err
	}
	e, made, err := s.build(in)
	if err != nil {
		return 0, nil, err
	}
	if registry.Snapshot().Get(e.ID) != nil { // before anything is prepared: what is there under this id is another's
		return 0, nil, endpointError(fmt.Errorf("%s: %w", e.ID, endpoint.ErrExists))
	}
	if f := s.fanout(); f != nil {
		if e.Since, e.SinceTime, err = f.EndOfLog(r.Context()); err != nil {
			return 0, nil, err
		}
		if err := f.PrepareNew(r.Context(), e); err != nil {
			return 0, nil, err
		}
	}
	if err := registry.Create(r.Context(), e); err != nil {
		return 0, nil, endpointError(err)
	}
	s.log.Info("endpoint created", "endpoint", e.ID)
	e.Source = endpoint.SourceAPI
	out := s.show(e)
	if made {
		out.Secret = revealHMAC(e.Secrets)
	}
	return http.StatusCreated, out, nil
}

// build turns a request into a valid endpoint. made tells that its secret is the relay's.
func (s *server) build(in NewEndpoint) (e *endpoint.Endpoint, made bool, err error) {
	e = &endpoint.Endpoint{
		ID: in.ID, URL: in.URL, Description: in.Description, Events: in.Events, MaxInFlight: in.MaxInFlight, Headers: in.Headers,
		RateLimit: float64(in.RateLimit), Ordered: in.Ordered, Filter: in.Filter, Resume: in.Resume, Handshake: in.Handshake,
		Enabled: in.Enabled == nil || *in.Enabled, CreatedAt: time.Now().UTC(),
	}
	var problems []string
	if e.ID == "" {
		e.ID = "ep_" + strings.ToLower(rand.Text())
	}
	if in.Timeout != "" {
		if e.Timeout, err = time.ParseDuration(in.Timeout); err != nil {
			problems = append(problems, fmt.Sprintf("timeout: %q is no duration; write e.g. 10s", in.Timeout))
		}
	}
	known := map[string]bool{}
	for _, w := range s.cfg.Workspaces() {
		known[w.Token] = true
	}
	for i, name := range in.Workspaces {
		token := event.Token(name)
		if !known[token] {
			problems = append(problems, fmt.Sprintf("workspaces[%d]: the relay has no workspace %q", i, name))
		}
		e.Workspaces = append(e.Workspaces, token)
	}
	if e.Secrets, made, err = secrets(in.Secret, in.SigningKey, in.Signatures); err != nil {
		problems = append(problems, strings.Split(err.Error(), "\n")...)
	}
	if e.Route, err = endpoint.NewRoute(in.Proxy, []byte(in.ClientCert), []byte(in.ClientKey)); err != nil {
		problems = append(problems, strings.Split(err.Error(), "\n")...)
	}
	if _, port, ok := proxyAddr(e.Route); ok && !slices.Contains(s.cfg.AllowProxies, port) {
		// The relay's own network is reached through it: that is for the operator to permit.
		problems = append(problems, fmt.Sprintf("proxy: %s is not among webhooks.allow_proxies of the relay's configuration", port))
	}
	if err := e.Validate(s.cfg.Limits); err != nil {
		problems = append(problems, strings.Split(err.Error(), "\n")...)
	}
	if len(problems) > 0 {
		return nil, false, &Error{http.StatusBadRequest, strings.Join(problems, "; ")}
	}
	return e, made, nil
}

func (s *server) deleteEndpoint(r *http.Request) (int, any, error) {
	registry, err := s.registry()
	if err != nil {
		return 0, nil, err
	}
	id := r.PathValue("id")
	if err := registry.Delete(r.Context(), id); err != nil {
		return 0, nil, endpointError(err)
	}
	s.log.Info("endpoint deleted", "endpoint", id)
	if f := s.fanout(); f != nil {
		if err := f.Forget(r.Context(), id); err != nil { // dropped when it is due, then
			s.log.Warn("what waits for a deleted endpoint could not be removed", "endpoint", id, "error", err)
		}
	}
	return http.StatusNoContent, nil, nil
}

func endpointError(err error) error {
	code := map[error]int{
		endpoint.ErrNotFound: http.StatusNotFound, endpoint.ErrExists: http.StatusConflict, endpoint.ErrFromConfig: http.StatusConflict,
		endpoint.ErrNoKey: http.StatusServiceUnavailable,
	}
	for sentinel, status := range code {
		if errors.Is(err, sentinel) {
			return &Error{status, err.Error()}
		}
	}
	return err
}

// decode reads one JSON object and refuses what it does not know: a misspelt field would be a setting that never holds.
func decode(r *http.Request, into any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return &Error{http.StatusRequestEntityTooLarge, fmt.Sprintf("body over %d bytes", tooLarge.Limit)}
	case errors.Is(err, io.EOF):
		return &Error{http.StatusBadRequest, emptyBody}
	case err != nil:
		return &Error{http.StatusBadRequest, "body: " + strings.TrimPrefix(err.Error(), "json: ")}
	}
	if dec.More() {
		return &Error{http.StatusBadRequest, "body: more than one JSON value"}
	}
	return nil
}

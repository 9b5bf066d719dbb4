package api

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/webhook"
)

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
	Headers     map[string]string  `json:"headers,omitempty"`
	Enabled     bool               `json:"enabled"`
	State       string             `json:"state"` // active, paused (enabled: false), disabled (by the relay)
	Disabled    *endpoint.Disabled `json:"disabled,omitempty"`
	Source      string             `json:"source"` // config, api
	CreatedAt   *time.Time         `json:"created_at,omitempty"`
	Secret      string             `json:"secret,omitempty"`
	Warnings    []string           `json:"warnings,omitempty"`
}

// NewEndpoint is the body of POST /api/v1/endpoints. Only url is needed.
type NewEndpoint struct {
	ID          string            `json:"id"`
	URL         string            `json:"url"`
	Description string            `json:"description"`
	Events      []string          `json:"events"`
	Workspaces  []string          `json:"workspaces"`
	Secret      string            `json:"secret"`
	Timeout     string            `json:"timeout"` // e.g. "10s"
	MaxInFlight int               `json:"max_in_flight"`
	Headers     map[string]string `json:"headers"`
	Enabled     *bool             `json:"enabled"`
}

func (s *server) show(e *endpoint.Endpoint) Endpoint {
	out := Endpoint{
		ID: e.ID, URL: e.URL, Description: e.Description, Events: e.Events, Workspaces: e.Workspaces, MaxInFlight: e.MaxInFlight,
		Enabled: e.Enabled, State: "active", Disabled: e.Disabled, Source: e.Source,
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
	if err := registry.Create(r.Context(), e); err != nil {
		return 0, nil, endpointError(err)
	}
	s.log.Info("endpoint created", "endpoint", e.ID)
	e.Source = endpoint.SourceAPI
	out := s.show(e)
	if made {
		out.Secret = e.Secrets[0].Reveal()
	}
	return http.StatusCreated, out, nil
}

// build turns a request into a valid endpoint. made tells that its secret is the relay's.
func (s *server) build(in NewEndpoint) (e *endpoint.Endpoint, made bool, err error) {
	e = &endpoint.Endpoint{
		ID: in.ID, URL: in.URL, Description: in.Description, Events: in.Events, MaxInFlight: in.MaxInFlight, Headers: in.Headers,
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
	secret := webhook.GenerateSecret()
	if made = in.Secret == ""; !made {
		if secret, err = webhook.ParseSecret(in.Secret); err != nil {
			problems = append(problems, fmt.Sprintf("secret: %v", err))
		}
	}
	e.Secrets = []webhook.Secret{secret}
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
	return http.StatusNoContent, nil, nil
}

// enableEndpoint switches an endpoint on again that the relay disabled.
func (s *server) enableEndpoint(r *http.Request) (int, any, error) {
	registry, err := s.registry()
	if err != nil {
		return 0, nil, err
	}
	id := r.PathValue("id")
	if err := registry.Enable(r.Context(), id, ""); err != nil {
		return 0, nil, endpointError(err)
	}
	return s.getEndpoint(r)
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
		return &Error{http.StatusBadRequest, "empty body: a JSON object is needed"}
	case err != nil:
		return &Error{http.StatusBadRequest, "body: " + strings.TrimPrefix(err.Error(), "json: ")}
	}
	if dec.More() {
		return &Error{http.StatusBadRequest, "body: more than one JSON value"}
	}
	return nil
}

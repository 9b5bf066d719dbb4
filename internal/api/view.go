package api

import (
	"crypto/x509"
	"net"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/webhook"
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
	RateLimit   float64            `json:"rate_limit,omitempty" doc:"Attempts a second."`
	Ordered     bool               `json:"ordered,omitempty"`
	Filter      string             `json:"filter,omitempty"`
	Resume      endpoint.Mode      `json:"resume,omitempty"`
	Headers     map[string]string  `json:"headers,omitempty"`
	Handshake   bool               `json:"handshake,omitempty"`
	Shape       string             `json:"shape,omitempty" doc:"What a webhook looks like; left out where it is the CloudEvent as it is."`
	Template    string             `json:"template,omitempty"`
	ContentType string             `json:"content_type,omitempty"`
	Gzip        bool               `json:"gzip,omitempty"`
	Proxy       string             `json:"proxy,omitempty" doc:"Without its credentials."`
	ClientCert  string             `json:"client_cert,omitempty" doc:"The certificate's subject."`
	Signatures  []string           `json:"signatures"` // v1, v1a
	PublicKeys  []PublicKey        `json:"public_keys,omitempty"`
	Enabled     bool               `json:"enabled"`
	State       string             `json:"state" enum:"active,paused,disabled" doc:"disabled is by the relay, paused by its owner."`
	Disabled    *endpoint.Disabled `json:"disabled,omitempty"`
	Source      string             `json:"source" enum:"config,api"`
	CreatedAt   *time.Time         `json:"created_at,omitempty"`
	Revision    uint64             `json:"revision,omitempty" doc:"Counts the changes of its settings; an endpoint of the config file has none."`
	// FailingSince is when a run of failures began that no success has ended.
	FailingSince *time.Time `json:"failing_since,omitempty" doc:"When a run of failures began that no success has ended."`
	// LossAhead is since when it is known that the log will lose what the endpoint is still to get.
	LossAhead *time.Time `json:"loss_ahead,omitempty" doc:"Since when it is known that the log will lose what the endpoint is still to get, before long."`
	// Position is the endpoint's place in the log while it is not active.
	Position uint64 `json:"position,omitempty" doc:"Its place in the log while it is not active."`
	// HeldUp is the event that fails at an ordered endpoint and holds up those behind it.
	HeldUp *HeldUp `json:"held_up,omitempty" doc:"The event that fails at an ordered endpoint and holds up those behind it."`
	// FilterError is how the filter last failed on an event at this replica.
	FilterError *fanout.FilterError `json:"filter_error,omitempty" doc:"How the filter last failed on an event at this replica."`
	Secret      string              `json:"secret,omitempty" doc:"Only in the answer to the request for which the relay made it."`
	EventsToken string              `json:"events_token,omitempty" doc:"With which the receiver asks what should have come; only in the answer to the request for which the relay made it."`
	Warnings    []string            `json:"warnings,omitempty"`
}

// state is how an endpoint is, in a word.
func state(e *endpoint.Endpoint) string {
	switch {
	case e.Disabled != nil:
		return "disabled"
	case !e.Enabled:
		return "paused"
	}
	return "active"
}

func (s *server) show(e *endpoint.Endpoint) Endpoint {
	out := Endpoint{
		ID: e.ID, URL: e.URL, Description: e.Description, Events: e.Events, Workspaces: e.Workspaces, MaxInFlight: e.MaxInFlight,
		Enabled: e.Enabled, State: state(e), Disabled: e.Disabled, Source: e.Source, RateLimit: e.RateLimit, Ordered: e.Ordered,
		Filter: e.Filter, Resume: e.Resume, Handshake: e.Handshake, FailingSince: e.State.FailingSince, Position: e.State.Position,
		Revision: e.Revision, LossAhead: e.State.LossAhead,
	}
	showSignatures(&out, e)
	showRoute(&out, e.Route)
	if f := e.Form; f != nil {
		out.Shape, out.Template, out.ContentType, out.Gzip = f.Kind, f.Template, f.ContentType, f.Gzip
	}
	if at := e.State.Ordered; e.Ordered && at != nil {
		if at.Holds(e) && at.NextAt.After(time.Now()) { // what was settled stands there too
			out.HeldUp = &HeldUp{Sequence: at.Sequence, Attempt: at.Attempt, NextAt: at.NextAt}
		}
	}
	if f := s.fanout(); f != nil {
		if failed, ok := f.FilterError(e); ok {
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
	if s.cfg.Warn != nil {
		out.Warnings = s.cfg.Warn(e)
	}
	return out
}

func showRoute(out *Endpoint, route *webhook.Route) {
	if shown, _, ok := proxyAddr(route); ok {
		out.Proxy = shown
	}
	if route == nil || route.ClientCert == nil || len(route.ClientCert.Certificate) == 0 {
		return
	}
	out.ClientCert = "a certificate"
	if cert, err := x509.ParseCertificate(route.ClientCert.Certificate[0]); err == nil {
		out.ClientCert = cert.Subject.String()
	}
}

// proxyAddr is a route's proxy without its credentials, as a URL and as host:port.
func proxyAddr(route *webhook.Route) (shown, addr string, ok bool) {
	if route == nil || route.Proxy == nil {
		return "", "", false
	}
	port := route.Proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[route.Proxy.Scheme]
	}
	return route.Proxy.Scheme + "://" + route.Proxy.Host, net.JoinHostPort(route.Proxy.Hostname(), port), true
}

package api

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/webhook"
)

// Enable is the body of POST …/enable: what the endpoint gets of the events that came while it was not active. It may be
// left out.
type Enable struct {
	Resume string `json:"resume"` // all, newest-first, latest-per-target, skip
}

// Rate is attempts a second, given as a number or as a text: 10, "10/s", "600/m", "100/h".
type Rate float64

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
func (s *server) enableEndpoint(r *http.Request) (int, any, error) {
	registry, err := s.registry()
	if err != nil {
		return 0, nil, err
	}
	var in Enable
	if err := decodeOptional(r, &in); err != nil {
		return 0, nil, err
	}
	if in.Resume == "" {
		in.Resume = r.URL.Query().Get("resume")
	}
	mode := endpoint.Mode(in.Resume)
	id := r.PathValue("id")
	e := registry.Snapshot().Get(id)
	switch {
	case e == nil:
		return 0, nil, endpointError(fmt.Errorf("%s: %w", id, endpoint.ErrNotFound))
	case e.Source == endpoint.SourceConfig && !e.Enabled:
		return 0, nil, endpointError(fmt.Errorf("%s has enabled: false: %w", id, endpoint.ErrFromConfig))
	case e.Ordered && mode != "" && mode != endpoint.ModeAll && mode != endpoint.ModeSkip:
		return 0, nil, &Error{http.StatusBadRequest, fmt.Sprintf("resume: %s would break the order of this endpoint: all or skip", mode)}
	}
	if _, err := endpoint.ParseMode(in.Resume); err != nil {
		return 0, nil, &Error{http.StatusBadRequest, "resume: " + err.Error()}
	}
	var at uint64
	if f := s.fanout(); f != nil {
		if at, _, err = f.EndOfLog(r.Context()); err != nil {
			return 0, nil, err
		}
	}
	if err := registry.Enable(r.Context(), id, mode, at); err != nil {
		return 0, nil, endpointError(err)
	}
	if e.Source == endpoint.SourceAPI && !e.Enabled {
		if err := registry.SetEnabled(r.Context(), id, true, mode, at); err != nil {
			return 0, nil, endpointError(err)
		}
	}
	s.log.Info("endpoint enabled", "endpoint", id, "resume", in.Resume)
	return s.getEndpoint(r)
}

// disableEndpoint pauses an endpoint: it gets nothing until it is enabled, and keeps its place in the log.
func (s *server) disableEndpoint(r *http.Request) (int, any, error) {
	registry, err := s.registry()
	if err != nil {
		return 0, nil, err
	}
	id := r.PathValue("id")
	e := registry.Snapshot().Get(id)
	switch {
	case e == nil:
		err = fmt.Errorf("%s: %w", id, endpoint.ErrNotFound)
	case e.Source == endpoint.SourceAPI:
		err = registry.SetEnabled(r.Context(), id, false, "", 0)
	default:
		_, err = registry.Disable(r.Context(), id, pausedOverAPI, time.Now())
	}
	if err != nil {
		return 0, nil, endpointError(err)
	}
	s.log.Info("endpoint paused", "endpoint", id)
	return s.getEndpoint(r)
}

// decodeOptional is decode where the body may be empty.
func decodeOptional(r *http.Request, into any) error {
	if r.ContentLength == 0 {
		return nil
	}
	err := decode(r, into)
	var empty *Error
	if errors.As(err, &empty) && empty.Message == emptyBody {
		return nil
	}
	return err
}

const emptyBody = "empty body: a JSON object is needed"

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

// Package api is the relay's HTTP side: health, readiness, metrics, and the admin API over workspaces and endpoints.
package api

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/stream"
)

// Config of the HTTP side. All fields but Token and Guard are needed.
type Config struct {
	// Token is the bearer token of /api/; empty lets everybody in who reaches the listener, which must be loopback then.
	Token string
	// Ready answers each condition of readiness and whether it holds.
	Ready func() map[string]bool
	// Workspaces answers how each stream is.
	Workspaces func() []stream.Status
	// Endpoints is the registry, nil while the relay is starting; Limits are the rules for new endpoints.
	Endpoints func() *endpoint.Registry
	Limits    endpoint.Limits
	// Fanout delivers to them; nil while the relay is starting.
	Fanout func() *fanout.Fanout
	// Overlap is how long a secret that is replaced signs on, unless the request says otherwise.
	Overlap time.Duration
	// AllowProxies are the proxies, host:port, that an endpoint made over the API may name.
	AllowProxies []string
	// Warn tells what will keep an endpoint from being delivered to, although it is valid; nil warns of nothing.
	Warn     func(*endpoint.Endpoint) []string
	Gatherer prometheus.Gatherer
	Logger   *slog.Logger
	Version  string
}

const (
	maxBody           = 256 << 10
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 30 * time.Second
	writeTimeout      = time.Minute
	idleTimeout       = 2 * time.Minute
)

type server struct {
	cfg Config
	log *slog.Logger
}

// NewServer is the HTTP server, without a listener.
func NewServer(cfg Config) *http.Server {
	log := cfg.Logger.With("component", "http")
	return &http.Server{
		Handler:           Handler(cfg),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Handler holds every route.
func Handler(cfg Config) http.Handler {
	s := &server{cfg: cfg, log: cfg.Logger.With("component", "http")}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{}))

	api := func(pattern string, h handler) { mux.Handle(pattern, s.authorized(s.json(h))) }
	api("GET /api/v1/workspaces", s.listWorkspaces)
	api("GET /api/v1/endpoints", s.listEndpoints)
	api("POST /api/v1/endpoints", s.createEndpoint)
	api("GET /api/v1/endpoints/{id}", s.getEndpoint)
	api("DELETE /api/v1/endpoints/{id}", s.deleteEndpoint)
	api("POST /api/v1/endpoints/{id}/enable", s.enableEndpoint)
	api("POST /api/v1/endpoints/{id}/disable", s.disableEndpoint)
	api("POST /api/v1/endpoints/{id}/rotate-secret", s.rotateSecret)
	api("/api/", func(r *http.Request) (int, any, error) {
		return 0, nil, &Error{http.StatusNotFound, "no such resource: " + r.Method + " " + r.URL.Path}
	})
	mux.Handle("GET /.well-known/webhook-keys", s.json(s.webhookKeys))
	mux.HandleFunc("GET /{$}", s.index)
	return mux
}

// handler answers a status and a value, or an error; one place writes them.
type handler func(r *http.Request) (status int, body any, err error)

func (s *server) json(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		status, body, err := h(r)
		if err != nil {
			s.writeError(w, r, err)
			return
		}
		writeJSON(w, status, body)
	})
}

func (s *server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	var known *Error
	if !errors.As(err, &known) {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		known = &Error{http.StatusInternalServerError, "internal error: see the relay's log"}
	}
	writeJSON(w, known.Code, known)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	if body == nil {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(body) // the client is gone: nobody to tell
}

// Error is an answer that says what is wrong, in Nex's form.
type Error struct {
	Code    int    `json:"code"` // the HTTP status
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

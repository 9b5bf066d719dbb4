// Package api is the relay's HTTP side: health, readiness, metrics, the dashboard, and the admin API over workspaces and endpoints.
package api

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/dashboard"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/live"
	"github.com/nex-crm/relay/internal/stream"
)

// Config of the HTTP side. All fields but Tokens are needed.
type Config struct {
	// Tokens let callers into /api/; none lets everybody in who reaches the listener, which must be loopback then.
	Tokens []Token
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
	// BulkTime is how long a request about many dead letters works on them before it answers that there are more; 0 = 20 s.
	BulkTime time.Duration
	// TryTime is how long settings are tried on events before the answer says that there were more; 0 = 5 s.
	TryTime time.Duration
	// Warn tells what will keep an endpoint from being delivered to, although it is valid; nil warns of nothing.
	Warn func(*endpoint.Endpoint) []string
	// Log is where events, attempts and dead letters are; nil while the relay is starting.
	Log func() *bus.Bus
	// Requests is where answers to requests with an Idempotency-Key are kept; nil while the relay is starting.
	Requests func() jetstream.KeyValue
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
	cfg    Config
	log    *slog.Logger
	api    huma.API
	tokens []knownToken
	live   live.Hub
	pasts  chan struct{} // bounds who asks for what he has missed
	// unkeyed are the paths at which a POST changes nothing: an Idempotency-Key means nothing there.
	unkeyed map[string]bool
	trials  chan struct{} // bounds who tries settings
	outage  outage
}

// NewServer is the HTTP server, without a listener.
func NewServer(cfg Config) *http.Server {
	s := newServer(cfg)
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	server.RegisterOnShutdown(s.live.Close) // it would wait for those who watch
	return server
}

// Handler holds every route.
func Handler(cfg Config) http.Handler { return newServer(cfg).handler() }

func newServer(cfg Config) *server {
	return &server{
		cfg: cfg, log: cfg.Logger.With("component", "http"), tokens: knownTokens(cfg.Tokens), pasts: make(chan struct{}, pastAtOnce),
		unkeyed: map[string]bool{},
		trials:  make(chan struct{}, tryAtOnce),
	}
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	s.api = s.newAPI(mux)
	s.workspaceOperations()
	s.endpointOperations()
	s.secretOperations()
	s.eventOperations()
	s.attemptOperations()
	s.deadLetterOperations()
	s.replayOperations()
	s.undeliveredOperations()
	s.retryOperations()
	s.eraseOperations()
	s.tryOperations()
	s.pullOperations()
	s.liveOperations()
	s.tokenOperations()
	mux.HandleFunc("GET /api/openapi.json", s.openAPI())
	mux.HandleFunc("/api/", s.nothing(mux))
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.cfg.Gatherer, promhttp.HandlerOpts{}))
	page := dashboard.Handler()
	mux.Handle("GET /{$}", page)
	mux.Handle("GET /dashboard/{file}", page)
	handler := s.once(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		handler.ServeHTTP(w, r)
	})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = marshal(w, body) // the client is gone: nobody to tell
}

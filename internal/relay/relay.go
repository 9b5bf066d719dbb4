// Package relay is the owner of all parts: it builds them in the order in which an insight passes through them, runs
// them, reloads workspaces and endpoints, and stops everything in two stages.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/config"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/lease"
	"github.com/nex-crm/relay/internal/nex"
	"github.com/nex-crm/relay/internal/stream"
	"github.com/nex-crm/relay/internal/webhook"
)

// Options of a relay. Config and Logger are needed.
type Options struct {
	Config *config.Config
	Logger *slog.Logger
	// Version is what the relay calls itself in User-Agent and /healthz.
	Version string
	// Reload reads the configuration anew; nil switches reloading off.
	Reload func() (*config.Config, error)
	// HUP asks for a reload at once (SIGHUP); may be nil.
	HUP <-chan struct{}
}

// Grace is how long attempts in flight may take to finish when the relay stops. All of stopping stays below 30 s.
const Grace = 22 * time.Second

// Relay is one replica. Build it with [New]; [Relay.Run] runs it once.
type Relay struct {
	opts     Options
	log      *slog.Logger
	registry *prometheus.Registry
	plan     *plan
	listener net.Listener

	ready chan struct{} // closed when every part runs
	parts atomic.Pointer[parts]
}

// parts exist once the log can be reached.
type parts struct {
	bus       *bus.Bus
	endpoints *endpoint.Registry
	leases    *lease.Table // nil: the embedded server has no other replicas
	streams   *stream.Manager
	fanout    *fanout.Fanout
	sender    *webhook.Sender
}

// New judges the whole configuration and binds the HTTP listener: what can fail early fails here. Its error may be
// [config.Problems].
func New(opts Options) (*Relay, error) {
	plan, err := newPlan(opts.Config)
	if err != nil {
		return nil, err
	}
	opts.Config = plan.cfg
	r := &Relay{
		opts: opts, log: opts.Logger, plan: plan, registry: prometheus.NewRegistry(), ready: make(chan struct{}),
	}
	r.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if r.listener, err = net.Listen("tcp", opts.Config.HTTP.Listen); err != nil {
		return nil, fmt.Errorf("http.listen: %w", err)
	}
	return r, nil
}

// Addr is the address of the HTTP listener.
func (r *Relay) Addr() string { return r.listener.Addr().String() }

// Ready is closed when every part runs; a stream may still be connecting.
func (r *Relay) Ready() <-chan struct{} { return r.ready }

// NATSURL is where clients reach the embedded server, empty if they cannot; valid after Ready.
func (r *Relay) NATSURL() string {
	if p := r.parts.Load(); p != nil {
		return p.bus.ClientURL()
	}
	return ""
}

// Workspaces answers how each stream is.
func (r *Relay) Workspaces() []stream.Status {
	if p := r.parts.Load(); p != nil {
		return p.streams.Status()
	}
	return nil
}

// Connected is how many streams are up.
func (r *Relay) Connected() int {
	if p := r.parts.Load(); p != nil {
		return p.streams.Connected()
	}
	return 0
}

// Attempts is how many attempts to deliver a webhook were made so far.
func (r *Relay) Attempts() uint64 {
	if p := r.parts.Load(); p != nil {
		return p.fanout.Attempts()
	}
	return 0
}

// Run runs the relay until ctx ends, then stops it: streams first, so that nothing more comes in; then deliveries; then
// the API, which tells until the end that the relay is not ready; then the log. It returns nil after a stop as asked.
func (r *Relay) Run(ctx context.Context) (err error) {
	var stop cleanups
	defer func() { err = errors.Join(err, stop.run(r.log)) }()

	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	p, err := r.build(ctx, &stop, fail)
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil // asked to stop while it waited for NATS
		}
		return err
	}
	r.parts.Store(p)
	close(r.ready)
	r.log.Info("relay is up", "http", r.Addr(), "nats", r.natsName(), "workspaces", len(r.plan.workspaces),
		"endpoints", len(p.endpoints.Snapshot().All()), "version", r.opts.Version)
	r.reloadLoop(ctx, p)
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	r.log.Info("stopping: no more events are taken in, attempts in flight may finish", "grace", Grace)
	return nil
}

func (r *Relay) natsName() string {
	if u := r.opts.Config.NATS.URL; u != "" {
		return "external"
	}
	if u := r.NATSURL(); u != "" {
		return u
	}
	return "embedded, not listening"
}

// build makes and starts the parts, in the order of the flow but for the API, which answers from the first moment.
// Each leaves behind how it is stopped.
func (r *Relay) build(ctx context.Context, stop *cleanups, fail context.CancelCauseFunc) (*parts, error) {
	p := &parts{}
	start := func(name string, run func(context.Context) error) {
		stop.add(name, launch(name, run, fail))
	}

	server := api.NewServer(r.apiConfig())
	start("http", func(ctx context.Context) error { return serve(ctx, server, r.listener) })

	var err error
	if p.bus, err = bus.Open(ctx, r.plan.bus(r.log, r.registry)); err != nil {
		return nil, err
	}
	stop.add("nats", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return p.bus.Close(ctx)
	})

	sealer, err := r.plan.sealer()
	if err != nil {
		return nil, err
	}
	p.endpoints = endpoint.NewRegistry(p.bus.Endpoints(), sealer, r.log)
	start("endpoints", p.endpoints.Run)
	if err := p.endpoints.Load(ctx); err != nil {
		return nil, err
	}
	if n, err := p.endpoints.Reseal(ctx); err != nil {
		return nil, fmt.Errorf("seal endpoints with the new encryption key: %w", err)
	} else if n > 0 {
		r.log.Info("endpoints were sealed with the new encryption key: the previous one is not needed any more", "endpoints", n)
	}

	p.sender = r.plan.sender(r.opts.Version)
	stop.add("sender", func() error { p.sender.CloseIdle(); return nil })
	if r.opts.Config.NATS.URL != "" {
		p.leases = lease.New(lease.Config{Bucket: p.bus.Leases(), Replica: replicaName(r.Addr()), Logger: r.log})
	}
	if p.fanout, err = fanout.New(r.plan.fanout(p, r.log, r.registry)); err != nil {
		return nil, err
	}
	if err := r.patiently(ctx, "apply the endpoints of the file", func() error {
		return p.fanout.ApplyFile(ctx, r.plan.endpoints)
	}); err != nil {
		return nil, err
	}
	if err := r.patiently(ctx, "prepare ordered endpoints", func() error {
		return p.fanout.PrepareOrdered(ctx, p.endpoints.Snapshot().All()...)
	}); err != nil {
		return nil, err
	}
	start("fanout", p.fanout.Run)

	client, err := nex.NewClient(r.plan.nex(r.opts.Version))
	if err != nil {
		return nil, fmt.Errorf("nex client: %w", err)
	}
	stop.add("nex client", func() error { client.CloseIdle(); return nil })
	if p.leases != nil {
		start("leases", p.leases.Run)
	}
	p.streams = stream.NewManager(r.plan.stream(client, p, r.log, r.registry))
	p.streams.Apply(r.plan.workspaces)
	start("streams", p.streams.Run)
	return p, nil
}

// launch runs a part in the background. What it returns stops the part and waits for it. A part that ends by itself with
// an error ends the relay: half a relay would look like a whole one.
func launch(name string, run func(context.Context) error, fail context.CancelCauseFunc) func() error {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var err error
	wg.Go(func() {
		if err = run(ctx); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
			fail(err)
		}
	})
	return func() error {
		cancel()
		wg.Wait()
		return err
	}
}

func serve(ctx context.Context, server *http.Server, l net.Listener) error {
	stopped := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			err = server.Close()
			stopped <- err
			return
		}
		stopped <- nil
	})
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

func (r *Relay) apiConfig() api.Config {
	return api.Config{
		Tokens:     tokens(r.opts.Config),
		Ready:      r.readiness,
		Workspaces: r.Workspaces,
		Endpoints: func() *endpoint.Registry {
			if p := r.parts.Load(); p != nil {
				return p.endpoints
			}
			return nil
		},
		Fanout: func() *fanout.Fanout {
			if p := r.parts.Load(); p != nil {
				return p.fanout
			}
			return nil
		},
		Log: func() *bus.Bus {
			if p := r.parts.Load(); p != nil {
				return p.bus
			}
			return nil
		},
		Requests: func() jetstream.KeyValue {
			if p := r.parts.Load(); p != nil {
				return p.bus.Requests()
			}
			return nil
		},
		Limits:       r.plan.limits(),
		Overlap:      r.plan.cfg.Webhooks.SecretOverlap,
		AllowProxies: r.plan.cfg.Webhooks.AllowProxies,
		Warn:         r.plan.warn,
		Gatherer:     r.registry,
		Logger:       r.log,
		Version:      r.opts.Version,
	}
}

// tokens are who may use the API.
func tokens(cfg *config.Config) (list []api.Token) {
	if cfg.HTTP.AdminToken.IsSet() {
		list = append(list, api.Token{Name: "admin", Secret: cfg.HTTP.AdminToken.Reveal(), Write: true})
	}
	for _, t := range cfg.Tokens {
		one := api.Token{Name: t.Name, Secret: t.Token.Reveal(), Write: t.Access == config.AccessWrite}
		for _, name := range t.Workspaces {
			one.Workspaces = append(one.Workspaces, event.Token(name))
		}
		list = append(list, one)
	}
	return list
}

// replicaName tells replicas apart and stays the same over a restart: no two listen on one address of one host.
func replicaName(addr string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "relay"
	}
	_, port, _ := net.SplitHostPort(addr)
	return host + "-" + port
}

// readiness is what /readyz shows: the log is connected and takes what is written, events are being read from it, this
// replica may hold streams, and at least one of those that it holds is up.
func (r *Relay) readiness() map[string]bool {
	p := r.parts.Load()
	if p == nil {
		return map[string]bool{"nats": false, "fanout": false, "streams": false}
	}
	checks := map[string]bool{
		"nats":    p.bus.Connected() && p.bus.Writable(),
		"fanout":  p.fanout.Running(),
		"streams": p.streams.Connected() > 0 || p.streams.Running() == 0,
	}
	if p.leases != nil {
		checks["leases"] = p.leases.Alive()
	}
	return checks
}

// startTime bounds how long a step of the start is tried again.
const startTime = time.Minute

// patiently repeats a step of the start while NATS, which answered a moment ago, does not.
func (r *Relay) patiently(ctx context.Context, what string, step func() error) error {
	wait := backoff.NewExponentialBackOff(backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(startTime))
	said := false
	return backoff.RetryNotify(step, backoff.WithContext(wait, ctx), func(err error, _ time.Duration) {
		if !said {
			said = true
			r.log.Warn("start waits for NATS, trying on", "for", what, "error", err)
		}
	})
}

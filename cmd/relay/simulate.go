package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/nex-crm/relay/internal/nexsim"
)

type simulateCmd struct {
	Addr       string        `default:"127.0.0.1:9400" help:"Address to listen on. The control API under /_sim/ has no key: keep it on loopback."`
	Workspaces []string      `default:"acme" sep:"," help:"Workspaces, by slug."`
	Count      int           `help:"This many workspaces more, named ws-1, ws-2, ..."`
	Rate       float64       `default:"1" help:"Insights per second over all workspaces; 0 emits only on POST /_sim/emit."`
	Seed       uint64        `default:"1" help:"Contents are the same for the same seed."`
	Journal    string        `type:"path" help:"File that keeps what was emitted, for the next start."`
	SizeMax    int           `placeholder:"BYTES" help:"Largest insight, 1024 to 204800 bytes; the default is 204800."`
	For        time.Duration `help:"End after this time, e.g. 30s."`
}

func (c *simulateCmd) Help() string {
	return "Stands for Nex: GET /v1/insights/stream (SSE) and GET /v1/insights, also under /api/developers/. Set nex.base_url of\n" +
		"the relay to the address printed. GET /_sim/ lists the control API: emit, drop, stall, refuse, cut, garbage and more."
}

func (c *simulateCmd) Run(ctx context.Context, e env) error {
	opts := nexsim.Options{Seed: c.Seed, Rate: c.Rate, Journal: c.Journal, SizeMax: c.SizeMax, Logger: newLogger(e.stderr, "info", "text")}
	for _, slug := range c.Workspaces {
		opts.Workspaces = append(opts.Workspaces, nexsim.Workspace{Slug: slug})
	}
	for i := range c.Count {
		opts.Workspaces = append(opts.Workspaces, nexsim.Workspace{Slug: fmt.Sprintf("ws-%d", i+1)})
	}
	sim, err := nexsim.New(opts)
	if err != nil {
		return usageError{err}
	}
	l, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if c.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.For)
		defer cancel()
	}
	fmt.Fprintf(e.stdout, "base_url  http://%s/api/developers\ncontrol   http://%s/_sim/\n", l.Addr(), l.Addr())
	for i, w := range opts.Workspaces {
		if i == 20 {
			fmt.Fprintf(e.stdout, "...       %d more; a workspace's key is the same in every run\n", len(opts.Workspaces)-i)
			break
		}
		fmt.Fprintf(e.stdout, "key       %s  %s\n", w.Slug, nexsim.DefaultKey(w.Slug))
	}
	return serveSim(ctx, sim, l)
}

// serveSim serves and emits until ctx ends.
func serveSim(ctx context.Context, sim *nexsim.Sim, l net.Listener) error {
	server := &http.Server{Handler: sim.Handler(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	runErr := sim.Run(ctx)
	sim.Close()
	_ = server.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	if runErr != nil && ctx.Err() == nil {
		return runErr
	}
	return nil
}

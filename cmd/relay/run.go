package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/nex-crm/relay/internal/config"
	"github.com/nex-crm/relay/internal/relay"
)

// configFlags say which configuration a command uses.
type configFlags struct {
	Config string   `short:"c" help:"Configuration file; without it ./relay.yaml, then /etc/relay/relay.yaml."`
	Set    []string `placeholder:"KEY=VALUE" sep:"none" help:"Set one key, e.g. --set log.level=debug; it wins over the file and the environment."`
}

// source is what to load, and to load again when it changes.
func (c *configFlags) source(e env) (config.Source, error) {
	file, err := config.Find(c.Config)
	if err != nil {
		return config.Source{}, err
	}
	set := map[string]string{}
	for _, kv := range c.Set {
		key, value, ok := strings.Cut(kv, "=")
		if !ok {
			return config.Source{}, fmt.Errorf("--set %s: write KEY=VALUE", kv)
		}
		set[key] = value
	}
	return config.Source{File: file, Env: e.vars, Set: set}, nil
}

// load reads the configuration and has the relay judge it too, so that all problems are shown at once.
func (c *configFlags) load(e env) (*config.Config, config.Source, error) {
	source, err := c.source(e)
	if err != nil {
		return nil, source, usageError{err}
	}
	cfg, err := config.Load(source)
	if err := relay.Judge(cfg, err); err != nil {
		return nil, source, usageError{fmt.Errorf("configuration %s:\n%w", source.File, err)}
	}
	return cfg, source, nil
}

type runCmd struct {
	configFlags
}

func (c *runCmd) Help() string {
	return "Holds a stream per workspace, publishes every insight to NATS JetStream and delivers webhooks. SIGTERM or Ctrl-C end it\n" +
		"within 30 s with nothing lost; SIGHUP or a changed file applies workspaces and endpoints.\n\n" +
		"Every key of the file can come from the environment too: nats.url is RELAY_NATS__URL."
}

func (c *runCmd) Run(ctx context.Context, e env) error { return c.serve(ctx, e, func(*relay.Relay) {}) }

// serve runs the relay until ctx ends; up hears when every part of it runs.
func (c *runCmd) serve(ctx context.Context, e env, up func(*relay.Relay)) error {
	cfg, source, err := c.load(e)
	if err != nil {
		return err
	}
	r, err := relay.New(relay.Options{
		Config:  cfg,
		Logger:  newLogger(e.stderr, cfg.Log.Level, cfg.Log.Format),
		Version: version,
		Reload:  func() (*config.Config, error) { return config.Load(source) },
		HUP:     hangups(ctx),
	})
	if err != nil {
		var problems config.Problems
		if errors.As(err, &problems) {
			return usageError{err}
		}
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop, ok := collectGarbage(e.vars, r.Attempts)
	defer stop()
	if ok {
		go giveBack(ctx)
	}
	go func() {
		select {
		case <-r.Ready():
			up(r)
		case <-ctx.Done():
		}
	}()
	return r.Run(ctx)
}

// hangups turns SIGHUP into values until ctx ends.
func hangups(ctx context.Context) <-chan struct{} {
	signals, out := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-signals:
			case <-ctx.Done():
				return
			}
			select {
			case out <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/nex-crm/relay/internal/relay"
)

type checkCmd struct {
	configFlags
	Timeout time.Duration `default:"20s" help:"How long each check may take."`
}

func (c *checkCmd) Help() string {
	return "Reads the configuration and tries it: each key against the stream and REST, NATS and its streams, each endpoint's\n" +
		"address. Nothing is changed and no webhook is sent. Exit code 0: all fine, 1: a fault, 2: the configuration is wrong."
}

func (c *checkCmd) Run(ctx context.Context, e env) error {
	if c.Timeout <= 0 {
		return usageError{fmt.Errorf("--timeout %v leaves no time for a check: give e.g. 20s", c.Timeout)}
	}
	cfg, source, err := c.load(e)
	if err != nil {
		return err
	}
	findings := relay.Check(ctx, cfg, version, c.Timeout)
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "ok\tconfig\t%s\tvalid: %d workspaces, %d endpoints\n", source.File, len(cfg.Workspaces), len(cfg.Endpoints))
	faults := 0
	for _, f := range findings {
		if f.Level == relay.LevelFault {
			faults++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.Level, f.What, f.Name, f.Detail)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if faults > 0 {
		return errors.New(plural(faults, "fault") + " found")
	}
	return nil
}

func plural(n int, one string, many ...string) string {
	switch {
	case n == 1:
		return "1 " + one
	case len(many) > 0:
		return fmt.Sprintf("%d %s", n, many[0])
	}
	return fmt.Sprintf("%d %ss", n, one)
}

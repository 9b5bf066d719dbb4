package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/nex-crm/relay/internal/bench"
	"github.com/nex-crm/relay/internal/relay"
)

type benchCmd struct {
	Only     scenarios `placeholder:"NAME,..." help:"These scenarios only; --list names them."`
	Scale    string    `enum:"quick,standard,full" default:"standard" help:"How much of each: standard (under three minutes on two processors), full (every size that the reaches are set for), quick (shows only that it works)."`
	Size     int       `placeholder:"BYTES" default:"1024" help:"Size of an insight, 512 to 524288 bytes; 1024 if left out. What is larger than 4096 comes in smaller numbers."`
	JSON     bool      `name:"json" help:"Print the figures as JSON."`
	List     bool      `help:"Print the scenarios and end."`
	Dir      string    `type:"path" help:"Where the logs on disk are made, 2 GB with --scale full; they are removed again. The directory for temporary files if left out."`
	Profiles string    `type:"path" placeholder:"DIR" help:"Write a processor profile of the relay for each measured phase (go tool pprof)."`
}

// scenarios are names between commas; none is no way to ask for all.
type scenarios []string

func (s *scenarios) UnmarshalText(text []byte) error {
	if strings.TrimSpace(string(text)) == "" {
		return errors.New("no scenario is named: --list names them, and without --only all of them run")
	}
	for name := range strings.SplitSeq(string(text), ",") {
		*s = append(*s, strings.TrimSpace(name))
	}
	return nil
}

func (c *benchCmd) Help() string {
	return "Measures what a relay carries on this machine, each figure beside a bound that is measured in the same run. Source,\n" +
		"relay, receivers and the loops that make the bounds are processes of their own. Everything stays on this machine, on free\n" +
		"ports. A figure that is below its reach is shown as such; the exit code is 1 only where something could not be measured."
}

func (c *benchCmd) Run(ctx context.Context, e env) error {
	if c.List {
		return c.list(e)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o := bench.Options{
		Command: []string{self, benchPartName}, Only: c.Only, Size: c.Size, Dir: c.Dir, Profiles: c.Profiles,
		Scale:    map[string]bench.Scale{"quick": bench.Quick, "standard": bench.Standard, "full": bench.Full}[c.Scale],
		Progress: func(text string) { fmt.Fprintln(e.stderr, text) },
	}
	if err := o.Check(); err != nil {
		return usageError{err}
	}
	report, err := bench.Run(ctx, o)
	if report == nil {
		return err
	}
	show := report.Table
	if c.JSON {
		show = report.JSON
	}
	if shown := show(e.stdout); shown != nil {
		return shown
	}
	return err
}

func (c *benchCmd) list(e env) error {
	t := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	for _, s := range bench.Scenarios {
		fmt.Fprintf(t, "%s\t%s\n", s.Name, s.About)
	}
	return t.Flush()
}

// benchPartName is the command by which the bench starts itself in a role.
const benchPartName = "bench-part"

type benchPartCmd struct {
	Size int    `arg:""`
	Role string `arg:""`
}

func (c *benchPartCmd) Run(ctx context.Context, e env) error {
	return bench.Serve(ctx, c.Role, c.Size, os.Stdin, e.stdout, func(ctx context.Context, file string, up func(http, nats string)) error {
		run := runCmd{configFlags{Config: file}}
		return run.serve(ctx, env{vars: withoutKeys(e.vars), stdout: e.stderr, stderr: e.stderr}, func(r *relay.Relay) { up(r.Addr(), r.NATSURL()) })
	})
}

// withoutKeys leaves out what would change the configuration that the bench writes.
func withoutKeys(vars []string) (kept []string) {
	for _, v := range vars {
		if !strings.HasPrefix(v, "RELAY_") {
			kept = append(kept, v)
		}
	}
	return kept
}

// Package bench measures what a relay carries on this machine, each figure beside a bound that is measured in the same run.
//
// The relay under test, the source of its events, the receivers of its webhooks and the loops that make the bounds are processes of
// their own, all of the same binary (see [Serve]): what one of them costs is its own, and memory and processor time are the relay's
// alone. The relay is the daemon of `relay run` with its defaults, but for a shorter schedule in retries, a shorter duplicate window in
// one part of restart, and an authority of its own in connections: attempt records, PubAck and retries are on in every scenario.
//
//	bench.go    which scenarios there are, and their order
//	scale.go    how much of each
//	part.go     a process, from here
//	serve.go    a process, from inside: receiver.go loop.go source.go publisher.go daemon.go
//	world.go    the relay under test
//	accounts.go what a figure of deliveries is worth
//	report.go   the figures
package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options of a run.
type Options struct {
	// Command starts a part: its arguments are followed by the size of an insight and the name of the role. See [Serve].
	Command []string
	// Size of an insight, MinSize to MaxSize bytes. What is larger than 4096 comes in smaller numbers.
	Size int
	// Only names the scenarios to run; empty means all.
	Only []string
	Scale
	// Dir is where the logs on disk are made, and removed again; the system's directory for temporary files if empty.
	Dir string
	// Profiles is a directory for processor profiles of the relay, one for each measured phase; empty makes none.
	Profiles string
	// Progress hears what is under way; nil tells nobody.
	Progress func(string)
}

// Scenario is one line of inquiry, of one figure or a few.
type Scenario struct {
	Name  string
	About string // the figures and their bound
	run   func(context.Context, *stage) error
}

// Scenarios are all there are, in the order in which they run.
var Scenarios = []Scenario{
	{"ingest", "events/s from SSE to PubAck, over 1 and 100 streams; bound: asynchronous JetStream publish of the same bytes", ingest},
	{"deliver-1", "webhooks/s to one endpoint; bound: a bare net/http loop with the same bodies and concurrency", deliverOne},
	{"deliver-100", "webhooks/s where each event goes to 100 endpoints; bound: the same loop over 100 hosts", deliverHundred},
	{"deliver-10k", "webhooks/s with 10,000 endpoints, ten for each event; bound: as deliver-1", deliverMany},
	{"connections", "webhooks/s where each needs a new connection, over HTTP and over HTTPS; bound: the same loop, new connections too", connections},
	{"latency", "emission to NATS subscriber and to webhook, p50 and p99 at 200 events/s; bound: publish and POST directly", latency},
	{"isolation", "healthy webhooks/s and p99 with 30 of 100 endpoints sick; bound: without them", isolation},
	{"streams", "resident memory per held stream; time until all are back after a drop", streams},
	{"endpoints", "resident memory per endpoint, and time to match an event", endpoints},
	{"retries", "parked deliveries: resident memory, and drain rate when the endpoint returns; bound: as deliver-1", retries},
	{"restart", "start to first delivery with a long log; bound: with an empty one", restart},
	{"replicas", "webhooks/s and processor time by 1, 2 and 3 relays on one NATS server; bound: the one", replicas},
	{"idle", "processor time of a relay with quiet streams and endpoints", idle},
}

// Check finds what is wrong with the options.
func (o Options) Check() error {
	if o.Size < MinSize || o.Size > MaxSize {
		return fmt.Errorf("--size %d: %d to %d bytes are needed", o.Size, MinSize, MaxSize)
	}
	var names []string
	for _, s := range Scenarios {
		names = append(names, s.Name)
	}
	for _, name := range o.Only {
		if !slices.Contains(names, name) {
			return fmt.Errorf("--only: scenario %q is not known: choose from %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// rootName begins the name of the directory of a run.
const rootName = "relay-bench-"

// Run runs the scenarios one after the other. What fails is reported with the scenario and in the error; the others run all the same.
// When it returns no part runs any more.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	root, err := os.MkdirTemp(o.Dir, rootName)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(root)
	if o.Profiles != "" {
		if err := os.MkdirAll(o.Profiles, 0o700); err != nil {
			return nil, err
		}
	}
	if o.Progress != nil {
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(root), rootName+"*")); len(left) > 1 {
			others := slices.DeleteFunc(left, func(dir string) bool { return dir == root })
			o.Progress("of other runs, which still go on or were killed, there is: " + strings.Join(others, ", "))
		}
	}
	o.Scale = o.Scale.sized(o.Size)
	began := time.Now()
	report := &Report{Machine: thisMachine(), At: began.UTC(), Scale: o.Scale.Name, Size: o.Size}
	var failed error
	for _, s := range Scenarios {
		if len(o.Only) > 0 && !slices.Contains(o.Only, s.Name) {
			continue
		}
		if o.Progress != nil {
			o.Progress(fmt.Sprintf("%4.0f s  %s: %s", time.Since(began).Seconds(), s.Name, s.About))
		}
		if err := runOne(ctx, o, root, s, report); err != nil {
			report.Failures = append(report.Failures, fmt.Sprintf("%s: %v", s.Name, err))
			failed = errors.Join(failed, fmt.Errorf("%s: %w", s.Name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	report.Seconds = time.Since(began).Seconds()
	return report, failed
}

func runOne(ctx context.Context, o Options, root string, s Scenario, report *Report) (err error) {
	ctx, cancel := context.WithTimeout(ctx, o.Scale.Patience)
	defer cancel()
	ctx, died := context.WithCancelCause(ctx)
	defer died(nil)
	st := &stage{opts: o, scenario: s.Name, dir: filepath.Join(root, s.Name), report: report, died: died}
	if err := os.MkdirAll(st.dir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.clear()) }()
	if err = s.run(ctx, st); err != nil {
		err = blame(ctx, err)
	}
	return err
}

// Command relay brings the insights of Nex into NATS JetStream and to webhooks. See its --help, or the README.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// version is set by the linker in releases.
var version = "dev"

// Exit codes.
const (
	exitOK     = 0 // ended as asked
	exitFailed = 1 // failed at work
	exitUsage  = 2 // wrong usage or configuration
)

// env is what a command sees of the world, so that tests can be the world.
type env struct {
	vars           []string
	stdout, stderr io.Writer
}

// usageError is an error of the caller's making: it ends with exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

type cli struct {
	Demo       demoCmd       `cmd:"" help:"See it work: simulator, NATS, relay and a receiver in one process."`
	Run        runCmd        `cmd:"" help:"Run the relay."`
	Check      checkCmd      `cmd:"" help:"Check the configuration, the keys, NATS and the endpoints, and say what is wrong."`
	Simulate   simulateCmd   `cmd:"" help:"Run the Nex simulator alone."`
	Listen     listenCmd     `cmd:"" help:"Run a local webhook receiver that verifies signatures and prints what comes."`
	Tail       tailCmd       `cmd:"" help:"Print events live from NATS."`
	Endpoints  endpointsCmd  `cmd:"" help:"List, make and change the endpoints of a running relay."`
	Deliveries deliveriesCmd `cmd:"" help:"Attempts at a running relay; deliver again, and replay."`
	Dead       deadCmd       `cmd:"" help:"Dead letters of a running relay: list, retry, delete."`
	Erase      eraseCmd      `cmd:"" help:"Remove everything that is stored of a workspace, or of one of its subjects."`
	Trace      traceCmd      `cmd:"" help:"Print one event's way, from Nex to every attempt."`
	Bench      benchCmd      `cmd:"" help:"Measure what a relay carries on this machine, beside what the machine can do."`
	BenchPart  benchPartCmd  `cmd:"" hidden:""`
	Version    versionCmd    `cmd:"" help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first signal ends it in order, a second one at once
	code := run(ctx, os.Args[1:], env{vars: os.Environ(), stdout: os.Stdout, stderr: os.Stderr})
	stop()
	os.Exit(code)
}

// run is main without the process: arguments in, exit code out.
func run(ctx context.Context, args []string, e env) int {
	var c cli
	exit := -1
	parser, err := kong.New(&c,
		kong.Name("relay"),
		kong.Description("Nex insight streams to NATS JetStream and signed webhooks.\n\n"+
			"First look: relay demo\nA real one: relay check -c relay.yaml, then relay run -c relay.yaml"),
		kong.Writers(e.stdout, e.stderr),
		kong.Exit(func(code int) { exit = code; panic(exited{}) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(e),
	)
	if err != nil {
		fmt.Fprintln(e.stderr, "relay:", err)
		return exitFailed
	}
	parsed, err := parse(parser, args)
	switch {
	case exit >= 0: // --help was given and answered
		return exit
	case err != nil:
		fmt.Fprintf(e.stderr, "relay: %v\nrelay: try relay --help\n", err)
		return exitUsage
	}
	if err := parsed.Run(); err != nil {
		fmt.Fprintln(e.stderr, "relay:", err)
		var usage usageError
		if errors.As(err, &usage) {
			return exitUsage
		}
		return exitFailed
	}
	return exitOK
}

type exited struct{}

// parse stops where kong would have ended the process.
func parse(parser *kong.Kong, args []string) (parsed *kong.Context, err error) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(exited); !ok {
				panic(r)
			}
		}
	}()
	if len(args) == 0 {
		args = []string{"--help"}
	}
	return parser.Parse(args)
}

type versionCmd struct{}

func (versionCmd) Run(e env) error {
	_, err := fmt.Fprintln(e.stdout, "relay", version)
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/config"
	"github.com/nex-crm/relay/internal/nexsim"
	"github.com/nex-crm/relay/internal/relay"
	"github.com/nex-crm/relay/internal/webhook"
)

type demoCmd struct {
	For        time.Duration `help:"End after this time, e.g. 10s; otherwise at Ctrl-C."`
	Rate       float64       `default:"4" help:"Insights per second."`
	Workspaces int           `default:"2" help:"Workspaces, 1 to 8."`
	Seed       uint64        `help:"Contents are the same for the same seed; 0 chooses one."`
	Verbose    bool          `short:"v" help:"Show the relay's own log too."`
}

func (c *demoCmd) Help() string {
	return "Runs the whole way on this machine, on free ports and in a temporary directory: a simulator of Nex, a relay with its\n" +
		"embedded NATS, and a receiver with three endpoints. crm-sync takes everything, risk-alerts only risks and opportunities,\n" +
		"and flaky answers 503 at first, so that retries are seen to succeed."
}

// demoNames are the workspaces, in order.
var demoNames = []string{"acme", "globex", "initech", "umbrella", "hooli", "stark", "wayne", "tyrell"}

// demoConfig is a plain relay.yaml, so that the demo shows nothing that a user could not write.
var demoConfig = template.Must(template.New("relay.yaml").Parse(`
nex:
  base_url: http://{{.Nex}}/api/developers
workspaces:
{{- range .Workspaces}}
  - {name: {{.}}, api_key_file: {{.}}.key}
{{- end}}
nats:
  embedded: {listen: "{{.NATS}}", store_dir: "{{.Dir}}/nats"}
webhooks:
  allow_http: true
  allow_networks: [127.0.0.0/8]
  schedule: [0s, 2s, 4s, 8s]
endpoints:
  - {id: crm-sync, url: "http://{{.Receiver}}/crm-sync", secret_file: webhook.secret}
  - {id: risk-alerts, url: "http://{{.Receiver}}/risk-alerts", events: [nex.insight.risk, nex.insight.opportunity], secret_file: webhook.secret}
  - {id: flaky, url: "http://{{.Receiver}}/flaky", workspaces: [{{index .Workspaces 0}}], secret_file: webhook.secret}
http:
  listen: "{{.HTTP}}"
`))

func (c *demoCmd) Run(ctx context.Context, e env) error {
	if c.Workspaces < 1 || c.Workspaces > len(demoNames) {
		return usageError{fmt.Errorf("--workspaces %d: 1 to %d are needed", c.Workspaces, len(demoNames))}
	}
	if c.Rate <= 0 || c.Rate > 1000 {
		return usageError{fmt.Errorf("--rate %v: more than 0 and at most 1000 insights per second", c.Rate)}
	}
	if c.For < 0 {
		return usageError{fmt.Errorf("--for %v: a positive duration, e.g. 10s", c.For)}
	}
	if c.Seed == 0 {
		c.Seed = uint64(time.Now().UnixNano())
	}
	dir, err := os.MkdirTemp("", "relay-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	d := &demo{cmd: c, dir: dir, names: demoNames[:c.Workspaces], started: time.Now(), view: newView(e), secret: webhook.GenerateSecret()}
	if c.Verbose {
		d.log = newLogger(e.stderr, "info", "text")
	} else {
		d.log = newLogger(e.stderr, "error", "text")
	}
	return d.run(ctx)
}

// demo is the parts of a demo and how it goes.
type demo struct {
	cmd     *demoCmd
	dir     string
	names   []string
	started time.Time
	secret  webhook.Secret
	view    *view
	log     *slog.Logger

	sim      *nexsim.Sim
	receiver *demoReceiver
	relay    *relay.Relay
}

const (
	// quietTime is how long before the end of --for the simulator falls silent.
	quietTime = 500 * time.Millisecond
	// settleTime bounds the wait for deliveries that are still missing then.
	settleTime = 15 * time.Second
	// startTime bounds each step of the start.
	startTime = 30 * time.Second
)

// run starts the parts from left to right, lets them work, and stops them from left to right.
func (d *demo) run(ctx context.Context) error {
	background := context.WithoutCancel(ctx)
	if err := d.simulate(); err != nil {
		return err
	}
	simAddr, stopSim, err := serveHTTP(background, d.sim.Handler())
	if err != nil {
		return err
	}
	defer stopSim()
	defer d.sim.Close()
	d.view.step("Nex simulator", "http://"+simAddr)

	d.receiver = newDemoReceiver(d.view, d.secret)
	receiverAddr, stopReceiver, err := serveHTTP(background, d.receiver)
	if err != nil {
		return err
	}
	defer stopReceiver()
	d.view.step("webhook receiver", "http://"+receiverAddr)

	relayDone, stopRelay, err := d.start(ctx, simAddr, receiverAddr)
	if err != nil {
		return err
	}
	if err := d.await(ctx); err != nil {
		return errors.Join(err, stopRelay())
	}
	emitted, silence := launch(background, d.sim.Run)
	err = d.wait(ctx, relayDone)
	_ = silence()
	<-emitted
	if err == nil {
		d.settle(relayDone)
		err = d.summary(background)
	}
	return errors.Join(err, stopRelay())
}

// launch runs a part; done is closed when it ended, stop ends it and answers its error.
func launch(ctx context.Context, part func(context.Context) error) (done <-chan struct{}, stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	var err error
	go func() {
		defer close(ended)
		err = part(ctx)
	}()
	return ended, func() error {
		cancel()
		<-ended
		return err
	}
}

// serveHTTP serves on a free port of this machine.
func serveHTTP(ctx context.Context, h http.Handler) (addr string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	return l.Addr().String(), func() {
		_ = server.Close()
		<-done
	}, nil
}

func (d *demo) simulate() (err error) {
	opts := nexsim.Options{Seed: d.cmd.Seed, Rate: d.cmd.Rate, SizeMax: 20 << 10, Logger: d.log}
	for _, name := range d.names {
		opts.Workspaces = append(opts.Workspaces, nexsim.Workspace{Slug: name})
	}
	d.sim, err = nexsim.New(opts)
	return err
}

// start runs the relay on the well-known addresses as far as they are free, and on any free ones where another program
// was faster.
func (d *demo) start(ctx context.Context, simAddr, receiverAddr string) (done <-chan struct{}, stop func() error, err error) {
	done, stop, err = d.launchRelay(ctx, simAddr, receiverAddr, freeAddr("127.0.0.1:4222"), freeAddr("127.0.0.1:8080"))
	if errors.Is(err, syscall.EADDRINUSE) {
		done, stop, err = d.launchRelay(ctx, simAddr, receiverAddr, anyAddr, anyAddr)
	}
	return done, stop, err
}

// launchRelay returns when the relay is up, with an error when it is not.
func (d *demo) launchRelay(ctx context.Context, simAddr, receiverAddr, natsAddr, httpAddr string) (done <-chan struct{}, stop func() error, err error) {
	if err := d.configure(simAddr, receiverAddr, natsAddr, httpAddr); err != nil {
		return nil, nil, err
	}
	done, stop = launch(context.WithoutCancel(ctx), d.relay.Run)
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	select {
	case <-d.relay.Ready():
		return done, stop, nil
	case <-done:
		err = errors.New("the relay did not start")
	case <-ctx.Done():
		err = fmt.Errorf("start: %w", ctx.Err())
	}
	return nil, nil, errors.Join(err, stop())
}

// configure writes a relay.yaml and builds the relay from it.
func (d *demo) configure(simAddr, receiverAddr, natsAddr, httpAddr string) error {
	files := map[string]string{"webhook.secret": d.secret.Reveal()}
	for _, name := range d.names {
		files[name+".key"] = nexsim.DefaultKey(name)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(content+"\n"), 0o600); err != nil {
			return err
		}
	}
	var text strings.Builder
	if err := demoConfig.Execute(&text, map[string]any{
		"Nex": simAddr, "Receiver": receiverAddr, "Workspaces": d.names, "Dir": d.dir,
		"NATS": natsAddr, "HTTP": httpAddr,
	}); err != nil {
		return err
	}
	path := filepath.Join(d.dir, "relay.yaml")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		return err
	}
	cfg, err := config.Load(config.Source{File: path})
	if err != nil {
		return err
	}
	d.relay, err = relay.New(relay.Options{Config: cfg, Logger: d.log, Version: version})
	return err
}

const anyAddr = "127.0.0.1:0"

// freeAddr is the well-known address if nobody has it, else any free one.
func freeAddr(addr string) string {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return anyAddr
	}
	_ = l.Close()
	return addr
}

// await returns when every stream is open.
func (d *demo) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	d.view.step("embedded NATS", d.relay.NATSURL())
	d.view.step("relay", "http://"+d.relay.Addr())
	d.view.step("dashboard", "http://"+d.relay.Addr()+"/")
	for _, name := range d.names {
		if err := d.sim.WaitConnected(ctx, name, 1); err != nil {
			return fmt.Errorf("workspace %s: its stream did not connect: %w", name, err)
		}
		d.view.step("stream connected", "workspace "+name)
	}
	d.view.legend(d.relay.NATSURL(), d.cmd.For)
	return nil
}

// wait returns when it is time to stop.
func (d *demo) wait(ctx context.Context, relayDone <-chan struct{}) error {
	var end <-chan time.Time
	if d.cmd.For > 0 {
		end = time.After(max(d.cmd.For-time.Since(d.started)-quietTime, d.cmd.For/2))
	}
	select {
	case <-end:
	case <-ctx.Done():
	case <-relayDone:
		return errors.New("the relay ended by itself")
	}
	return nil
}

// settle waits for the deliveries that are still on their way.
func (d *demo) settle(relayDone <-chan struct{}) {
	deadline := time.After(settleTime)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for d.receiver.delivered() < d.expected() {
		select {
		case <-tick.C:
		case <-deadline:
			return
		case <-relayDone:
			return
		}
	}
}

// expected is how many deliveries the endpoints of the demo must get for what was emitted.
func (d *demo) expected() int {
	n := 0
	for i, name := range d.names {
		for _, insight := range d.sim.Emitted(name) {
			n++ // crm-sync
			if insight.Type == "risk" || insight.Type == "opportunity" {
				n++ // risk-alerts
			}
			if i == 0 {
				n++ // flaky
			}
		}
	}
	return n
}

func (d *demo) summary(ctx context.Context) error {
	insights := 0
	for _, name := range d.names {
		insights += len(d.sim.Emitted(name))
	}
	published, err := d.published(ctx)
	if err != nil {
		return fmt.Errorf("count what was published: %w", err)
	}
	d.view.summary(d.receiver.summary(d.relay.Connected(), insights, published, d.expected()))
	return nil
}

// published asks NATS, as any other client would, how many insights the log holds.
func (d *demo) published(ctx context.Context) (int, error) {
	nc, err := nats.Connect(d.relay.NATSURL())
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	s, err := js.Stream(ctx, "NEX")
	if err != nil {
		return 0, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter("nex.*.insight.>"))
	if err != nil {
		return 0, err
	}
	n := 0
	for _, count := range info.State.Subjects {
		n += int(count)
	}
	return n, nil
}

//go:build unix

// Package chaos is the fault harness: it starts the relay, the Nex simulator and nats-server as processes, injects a
// random sequence of faults that a seed decides, lets it settle, and checks what the relay promises: every insight that
// was emitted is in the log once, and every endpoint got every event.
package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nex-crm/relay/internal/nexsim"
	"github.com/nex-crm/relay/internal/porttest"
)

// Topology is how the relay is run.
type Topology string

// The topologies: one relay with the server inside; two on one nats-server; two on a cluster of three.
const (
	Embedded Topology = "embedded"
	External Topology = "external"
	Cluster  Topology = "cluster"
)

// Options of one run.
type Options struct {
	Seed     uint64
	Topology Topology
	Faults   time.Duration // how long faults are injected
	Settle   time.Duration // how long it may take afterwards until everything is where it belongs
	Rate     float64       // insights a second, over all workspaces
	Dir      string        // for logs and stores
	Binaries Binaries
	Logf     func(format string, args ...any)
}

var workspaces = []string{"acme", "globex", "initech"}

// world is everything that runs.
type world struct {
	opts Options
	rand *rand.Rand

	nex      *process
	nexURL   string
	nexProxy *proxy
	journal  string

	nats      []*process
	natsPorts []int
	natsProxy []*proxy // a way to each server

	relays   []*process
	apis     []string // base URLs
	receiver *receiver

	clock  time.Duration // by how much Nex's clock was moved
	report Report
}

func newWorld(o Options) (_ *world, err error) {
	w := &world{opts: o, rand: rand.New(rand.NewPCG(o.Seed, 1)), report: Report{Seed: o.Seed, Topology: o.Topology, Faults: map[string]int{}}}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.receiver, err = newReceiver(o.Seed); err != nil {
		return nil, err
	}
	if err := w.addNex(); err != nil {
		return nil, err
	}
	if err := w.addNATS(); err != nil {
		return nil, err
	}
	replicas := 2
	if o.Topology == Embedded {
		replicas = 1
	}
	for i := range replicas {
		if err := w.addRelay(i); err != nil {
			return nil, err
		}
	}
	for _, p := range w.all() {
		if err := p.start(); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *world) all() []*process {
	list := append([]*process{}, w.nats...)
	if w.nex != nil {
		list = append(list, w.nex)
	}
	return append(list, w.relays...)
}

func (w *world) close() {
	for _, p := range w.all() {
		_ = p.signal(syscall.SIGCONT)
		p.kill()
	}
	for _, p := range append(w.natsProxy, w.nexProxy) {
		if p != nil {
			p.close()
		}
	}
	if w.receiver != nil {
		w.receiver.close()
	}
}

func (w *world) path(name string) string { return filepath.Join(w.opts.Dir, name) }

func (w *world) addNex() error {
	port, err := porttest.Free()
	if err != nil {
		return err
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	w.nexURL, w.journal = "http://"+addr, w.path("journal")
	w.nex = &process{name: "nex", log: w.path("nex.log"), args: []string{
		w.opts.Binaries.Relay, "simulate", "--addr", addr, "--journal", w.journal, "--workspaces", strings.Join(workspaces, ","),
		"--rate", fmt.Sprint(w.opts.Rate), "--seed", fmt.Sprint(w.opts.Seed), "--size-max", "4096", "--for", "15m",
	}}
	w.nexProxy, err = newProxy(addr)
	return err
}

func (w *world) addNATS() error {
	servers := map[Topology]int{External: 1, Cluster: 3}[w.opts.Topology]
	var routes []string
	var routePorts []int
	for range servers {
		port, err := porttest.Free()
		if err != nil {
			return err
		}
		route, err := porttest.Free()
		if err != nil {
			return err
		}
		p, err := newProxy(fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return err
		}
		w.natsPorts, w.natsProxy = append(w.natsPorts, port), append(w.natsProxy, p)
		routePorts = append(routePorts, route)
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", route))
	}
	for i := range servers {
		name := fmt.Sprintf("nats-%d", i)
		config := fmt.Sprintf("server_name: %s\nlisten: 127.0.0.1:%d\nmax_payload: 8MB\njetstream { store_dir: %q }\n", name, w.natsPorts[i], w.path(name))
		if servers > 1 {
			// no_advertise keeps the clients to the proxies.
			config += fmt.Sprintf("cluster { name: chaos, listen: 127.0.0.1:%d, no_advertise: true, routes: [%s] }\n", routePorts[i], strings.Join(routes, ", "))
		}
		file := w.path(name + ".conf")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return err
		}
		w.nats = append(w.nats, &process{name: name, log: w.path(name + ".log"), args: []string{w.opts.Binaries.NATS, "-c", file}})
	}
	return nil
}

func (w *world) addRelay(i int) error {
	name := fmt.Sprintf("relay-%d", i)
	httpPort, err := porttest.Free()
	if err != nil {
		return err
	}
	natsPort, err := porttest.Free()
	if err != nil {
		return err
	}
	nats := fmt.Sprintf("nats: {embedded: {listen: \"127.0.0.1:%d\", store_dir: %q}}", natsPort, w.path(name+"-store"))
	if len(w.nats) > 0 {
		var urls []string
		for _, p := range w.natsProxy {
			urls = append(urls, "nats://"+p.addr())
		}
		nats = fmt.Sprintf("nats: {url: %q, replicas: %d}", strings.Join(urls, ","), len(w.nats))
	} else {
		w.natsPorts = []int{natsPort}
	}
	var list, env []string
	for _, slug := range workspaces {
		list = append(list, fmt.Sprintf("{name: %s, api_key_env: KEY_%s}", slug, slug))
		env = append(env, fmt.Sprintf("KEY_%s=%s", slug, key(slug, i)))
	}
	var endpoints []string
	for _, id := range []string{steady, flaky} {
		endpoints = append(endpoints, fmt.Sprintf("{id: %s, url: %q, events: [\"nex.insight.*\"], secret_env: SECRET}", id, w.receiver.url(id)))
	}
	config := fmt.Sprintf(`nex: {base_url: "http://%s/api/developers", idle_timeout: 5s, reconnect_min: 200ms, reconnect_max: 3s, gap_check_interval: 5s, unauthorized_retry: 2s, backfill: 1m}
workspaces: [%s]
%s
webhooks: {timeout: 2s, schedule: [0s, 1s, 1s, 1s, 2s, 2s, 2s, 2s, 2s, 2s, 2s, 2s, 2s, 2s, 2s, 2s], allow_http: true, allow_networks: [127.0.0.0/8]}
endpoints: [%s]
http: {listen: "127.0.0.1:%d"}
log: {level: debug}
`, w.nexProxy.addr(), strings.Join(list, ", "), nats, strings.Join(endpoints, ", "), httpPort)
	file := w.path(name + ".yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	w.apis = append(w.apis, fmt.Sprintf("http://127.0.0.1:%d", httpPort))
	w.relays = append(w.relays, &process{
		name: name, log: w.path(name + ".log"), env: append(env, "SECRET="+w.receiver.secret),
		args: []string{w.opts.Binaries.Relay, "run", "-c", file},
	})
	return nil
}

// key is a replica's key of a workspace: the first has the one that every simulator knows, the second one of its own.
func key(slug string, replica int) string {
	if replica == 0 {
		return nexsim.DefaultKey(slug)
	}
	return fmt.Sprintf("%s-%d", nexsim.DefaultKey(slug), replica)
}

var client = &http.Client{Timeout: 3 * time.Second}

// control asks something of the simulator. What a simulator that is down does not hear is settled by calm.
func (w *world) control(action string, body any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	resp, err := client.Post(w.nexURL+"/_sim/"+action, "application/json", bytes.NewReader(raw))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("simulator: %s: %s", action, text)
	}
	return nil
}

// prepareNex waits for the simulator and gives the replicas their keys.
func (w *world) prepareNex(ctx context.Context) error {
	return until(ctx, func() error {
		for i := 1; i < len(w.relays); i++ {
			for _, slug := range workspaces {
				err := w.control("key", map[string]any{"workspace": slug, "token": key(slug, i), "scopes": []string{nexsim.ScopeInsights}})
				if err != nil {
					return err
				}
			}
		}
		return w.control("limit", map[string]any{})
	})
}

// until tries until it succeeds, or answers the last error when ctx ends.
func until(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// status is one workspace as one relay shows it.
type status struct {
	Token string `json:"token"`
	State string `json:"state"`
}

// connected is how many of the workspaces are up at any of the relays that run.
func (w *world) connected() int {
	up := map[string]bool{}
	for i, p := range w.relays {
		if !p.running() {
			continue
		}
		resp, err := client.Get(w.apis[i] + "/api/v1/workspaces")
		if err != nil {
			continue
		}
		var answer struct {
			Data []status `json:"data"`
		}
		err = json.NewDecoder(resp.Body).Decode(&answer)
		_ = resp.Body.Close()
		if err != nil {
			continue
		}
		for _, s := range answer.Data {
			if s.State == "connected" {
				up[s.Token] = true
			}
		}
	}
	return len(up)
}

// ready tells whether every relay is, one that holds no stream at the moment too.
func (w *world) ready() error {
	for i, p := range w.relays {
		resp, err := client.Get(w.apis[i] + "/readyz")
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s is not ready: %d", p.name, resp.StatusCode)
		}
	}
	return nil
}

// waitConnected waits until every workspace is up somewhere.
func (w *world) waitConnected(ctx context.Context) error {
	return until(ctx, func() error {
		if n := w.connected(); n < len(workspaces) {
			return fmt.Errorf("%d of %d workspaces are connected", n, len(workspaces))
		}
		return nil
	})
}

//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
)

// fault is one kind of harm. inject returns when the fault is over or lasts on by itself; calm ends what lasts.
type fault struct {
	name   string
	weight int
	where  []Topology // nil = everywhere
	inject func(*world, context.Context) error
}

var outside = []Topology{External, Cluster}

var faults = []fault{
	{"kill relay", 6, nil, func(w *world, ctx context.Context) error { return w.killRelay(ctx) }},
	{"restart relay", 2, nil, func(w *world, ctx context.Context) error {
		p := pick(w, w.relays)
		if err := p.signal(syscall.SIGTERM); err != nil {
			return err
		}
		w.pause(ctx, 0, time.Second)
		return p.start()
	}},
	{"stop relay", 3, nil, func(w *world, ctx context.Context) error { return w.freeze(ctx, pick(w, w.relays), 4*time.Second) }},
	{"stop relay beyond its lease", 1, outside, func(w *world, ctx context.Context) error {
		p := pick(w, w.relays)
		if err := p.signal(syscall.SIGSTOP); err != nil {
			return err
		}
		w.pause(ctx, 16*time.Second, 20*time.Second)
		return p.signal(syscall.SIGCONT)
	}},
	{"relay dead until taken over", 1, outside, func(w *world, ctx context.Context) error { return w.takeover(ctx) }},
	{"kill nex", 3, nil, func(w *world, ctx context.Context) error {
		w.nex.kill()
		w.pause(ctx, 0, 2*time.Second)
		if err := w.nex.start(); err != nil {
			return err
		}
		w.clock = 0
		return w.prepareNex(ctx)
	}},
	{"stop nex", 1, nil, func(w *world, ctx context.Context) error { return w.freeze(ctx, w.nex, 4*time.Second) }},
	{"kill nats", 4, outside, func(w *world, ctx context.Context) error {
		p := pick(w, w.nats)
		p.kill()
		w.pause(ctx, 0, 2*time.Second)
		return p.start()
	}},
	{"stop nats", 2, outside, func(w *world, ctx context.Context) error { return w.freeze(ctx, pick(w, w.nats), 4*time.Second) }},
	{"leader stepdown", 4, []Topology{Cluster}, func(w *world, _ context.Context) error { return w.stepDown() }},
	{"drop connections to nex", 5, nil, func(w *world, _ context.Context) error { w.nexProxy.drop(); return nil }},
	{"half-open connections to nex", 2, nil, func(w *world, _ context.Context) error { w.nexProxy.halfOpen(); return nil }},
	{"nex unreachable", 2, nil, func(w *world, ctx context.Context) error {
		w.nexProxy.refuse(true)
		w.pause(ctx, 0, 3*time.Second)
		w.nexProxy.refuse(false)
		return nil
	}},
	{"drop connections to nats", 4, outside, func(w *world, _ context.Context) error { pick(w, w.natsProxy).drop(); return nil }},
	{"half-open connections to nats", 2, outside, func(w *world, _ context.Context) error { pick(w, w.natsProxy).halfOpen(); return nil }},
	{"nats unreachable", 2, outside, func(w *world, ctx context.Context) error {
		for _, p := range w.natsProxy {
			p.refuse(true)
		}
		w.pause(ctx, 0, 4*time.Second)
		for _, p := range w.natsProxy {
			p.refuse(false)
		}
		return nil
	}},
	simFault("answers 5xx", 3, "refuse", func(w *world) any {
		return map[string]any{"status": pick(w, []int{500, 502, 503, 504}), "endpoint": pick(w, []string{"", "stream", "rest"}), "count": 1 + w.rand.IntN(6)}
	}),
	simFault("answers 429", 2, "refuse", func(w *world) any {
		return map[string]any{"status": 429, "retry_after": "1", "count": 1 + w.rand.IntN(4)}
	}),
	simFault("rate limit", 1, "limit", func(*world) any { return map[string]any{"per_second": 1, "burst": 2, "retry_after": true} }),
	simFault("silent stream", 2, "stall", func(w *world) any {
		return map[string]any{"workspace": pick(w, workspaces), "new": w.rand.IntN(3) == 0}
	}),
	simFault("truncated event", 4, "cut", func(w *world) any { return map[string]any{"workspace": pick(w, workspaces)} }),
	simFault("garbage", 2, "garbage", func(w *world) any {
		return map[string]any{"workspace": pick(w, workspaces), "kind": pick(w, []string{"json", "binary"})}
	}),
	simFault("streams ended by nex", 2, "drop", func(w *world) any { return map[string]any{"abort": w.rand.IntN(2) == 0} }),
	simFault("rest shape", 3, "rest", func(w *world) any {
		return map[string]any{"shape": pick(w, []string{"data", "enriched"}), "ids": w.rand.IntN(2) == 0}
	}),
	simFault("replay shape", 3, "replay", func(w *world) any {
		return map[string]any{"shape": pick(w, []string{"batch", "single", "array"}), "time": pick(w, []string{"seconds", "none"})}
	}),
	simFault("repeated texts", 1, "duplicates", func(w *world) any { return map[string]any{"share": 0.3 * w.rand.Float64()} }),
	simFault("clock jump", 2, "clock", func(w *world) any {
		// Within the identity window altogether, so that a repeated text is one insight however often the clock jumps.
		const most = 4 * time.Minute
		to := time.Duration(w.rand.Int64N(int64(2*most))) - most
		jump := to - w.clock
		w.clock = to
		return map[string]any{"jump": jump.String()}
	}),
	simFault("slow bytes", 1, "wire", func(w *world) any {
		return map[string]any{"chunk": 64 + w.rand.IntN(1000), "split_utf8": true, "line_ending": pick(w, []string{"lf", "crlf", "cr"})}
	}),
}

// simFault is one of the simulator's own. A simulator that does not answer at the moment has a fault already.
func simFault(name string, weight int, action string, body func(*world) any) fault {
	return fault{name, weight, nil, func(w *world, _ context.Context) error {
		if err := w.control(action, body(w)); err != nil {
			w.opts.Logf("%v", err)
		}
		return nil
	}}
}

func pick[T any](w *world, list []T) T { return list[w.rand.IntN(len(list))] }

// pause waits at least least and less than most.
func (w *world) pause(ctx context.Context, least, most time.Duration) {
	d := least
	if most > least {
		d += time.Duration(w.rand.Int64N(int64(most - least)))
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (w *world) freeze(ctx context.Context, p *process, most time.Duration) error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	w.pause(ctx, 100*time.Millisecond, most)
	return p.signal(syscall.SIGCONT)
}

func (w *world) killRelay(ctx context.Context) error {
	p := pick(w, w.relays)
	p.kill()
	w.pause(ctx, 0, 2*time.Second)
	return p.start()
}

var errNotHeld = errors.New("a dead replica's streams are not held again within a minute")

// takeover kills a relay and measures how long it takes until the others hold everything. It outlasts the other faults: a
// session alone is 15 s.
func (w *world) takeover(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	settled, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if errors.Join(until(settled, w.ready), w.waitConnected(settled)) != nil {
		return nil // something else is broken at the moment, or nobody is there to take over: nothing to measure
	}
	p := pick(w, w.relays)
	p.kill()
	began := time.Now()
	over, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := w.waitConnected(over)
	if took := time.Since(began); err == nil && took > w.report.Takeover {
		w.report.Takeover = took
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errNotHeld, err)
	}
	return p.start()
}

// stepDown makes another server lead a stream.
func (w *world) stepDown() error {
	nc, err := w.connectNATS()
	if err != nil {
		return nil // no server answers at the moment
	}
	defer nc.Close()
	stream := pick(w, []string{"NEX", "RELAY_RETRY", "KV_RELAY_LEASES", "KV_RELAY_ENDPOINTS"})
	_, _ = nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, time.Second) // there may be no leader
	return nil
}

// connectNATS goes past the proxies.
func (w *world) connectNATS() (*nats.Conn, error) {
	var urls string
	for _, port := range w.natsPorts {
		urls += fmt.Sprintf("nats://127.0.0.1:%d,", port)
	}
	return nats.Connect(urls[:len(urls)-1], nats.Timeout(time.Second), nats.MaxReconnects(-1))
}

// harm injects faults, one after the other and now and then two at once, until ctx ends.
func (w *world) harm(ctx context.Context) error {
	var choices []fault
	for _, f := range faults {
		fits := len(f.where) == 0
		for _, t := range f.where {
			fits = fits || t == w.opts.Topology
		}
		for range f.weight {
			if fits {
				choices = append(choices, f)
			}
		}
	}
	for ctx.Err() == nil {
		f := pick(w, choices)
		w.opts.Logf("%s fault: %s", time.Now().UTC().Format("15:04:05.000"), f.name)
		w.report.Faults[f.name]++
		if err := f.inject(w, ctx); err != nil && (ctx.Err() == nil || errors.Is(err, errNotHeld)) {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if w.rand.IntN(3) > 0 {
			w.pause(ctx, 0, 1500*time.Millisecond)
		}
	}
	return nil
}

// calm ends all faults and the flow.
func (w *world) calm(ctx context.Context) error {
	for _, p := range w.all() {
		if p.died() {
			return fmt.Errorf("%s ended by itself: see its log", p.name)
		}
		if err := p.signal(syscall.SIGCONT); err != nil {
			return err
		}
		if err := p.start(); err != nil {
			return err
		}
	}
	for _, p := range append(w.natsProxy, w.nexProxy) {
		p.refuse(false)
		p.drop()
	}
	w.receiver.behave()
	if err := w.prepareNex(ctx); err != nil {
		return err
	}
	for action, body := range map[string]any{
		"rate": map[string]any{"per_second": 0}, "clear": map[string]any{}, "resume": map[string]any{},
		"limit": map[string]any{}, "wire": map[string]any{},
	} {
		if err := w.control(action, body); err != nil {
			return err
		}
	}
	return nil
}

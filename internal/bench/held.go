package bench

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
)

// streams is what a stream costs that is held, and how soon all are back.
func streams(ctx context.Context, s *stage) error {
	var empty int64
	for i := range s.opts.Streams {
		if err := s.streamsOf(ctx, i, &empty); err != nil {
			return err
		}
	}
	return nil
}

// streamReaches are the two numbers of streams that the reaches are set for.
var streamReaches = [2]int{1000, 10_000}

// streamsOf measures the first or the second number of them, and with the first what a relay without them takes.
func (s *stage) streamsOf(ctx context.Context, i int, empty *int64) error {
	n := s.opts.Streams[i]
	names := slugs(n)
	src, base, err := s.source(ctx, names)
	if err != nil {
		return err
	}
	file, err := s.configure(setting{store: fmt.Sprintf("log-%d", n), nex: base, slugs: names})
	if err != nil {
		return err
	}
	r, err := s.startRelay(ctx, file)
	if err != nil {
		return err
	}
	if _, err := ask[int64](ctx, src, "connected", connectedArgs{Seconds: waitTime}); err != nil {
		return err
	}
	connected := time.Now()
	if i == 0 { // while the other rests
		if *empty, err = s.restingMemory(ctx, setting{store: "none"}); err != nil {
			return err
		}
	}
	held, err := s.resting(ctx, r, connected, s.opts.Settle)
	if err != nil {
		return err
	}
	needed := s.reachFor(streamReaches[i], "streams", func(sc Scale) int { return sc.Streams[i] })
	s.add(memoryFigure(fmt.Sprintf("resident memory per stream of %d", n), held, *empty, n, 40, fmt.Sprintf("%d streams", n), needed))
	var took time.Duration
	err = s.profiled(ctx, r.part, fmt.Sprintf("-%d", n), func() error {
		dropped, err := ask[int64](ctx, src, "drop", nothing{})
		if err != nil {
			return err
		}
		back, err := ask[int64](ctx, src, "connected", connectedArgs{Seconds: waitTime})
		took = time.Duration(back - dropped)
		return err
	})
	if err != nil {
		return err
	}
	s.add(Figure{
		Name: fmt.Sprintf("all %d back after a drop", n), Unit: "s", Value: took.Seconds(), Reach: Reach{AtMost, 30}, ReachFor: needed,
		Size: fmt.Sprintf("%d streams", n),
	})
	return s.finish(ctx, r, src)
}

// memory of a relay that has nothing to do: what is resident, and what of it is left when the garbage is collected.
type memory struct{ resident, held int64 }

// resting reads it when the relay has had nothing to do for so long, since a time.
func (s *stage) resting(ctx context.Context, r *relay, since time.Time, long time.Duration) (m memory, err error) {
	if err := pause(ctx, time.Until(since.Add(long))); err != nil {
		return m, err
	}
	u, err := ask[usage](ctx, r.part, "usage", nothing{})
	if err != nil {
		return m, err
	}
	m.resident = u.RSS
	if u, err = ask[usage](ctx, r.part, "collect", nothing{}); err != nil {
		return m, err
	}
	m.held = u.RSS
	return m, s.heapProfile(ctx, r)
}

// heapProfile writes one where profiles were asked for, and says where the memory is.
func (s *stage) heapProfile(ctx context.Context, r *relay) error {
	if s.opts.Profiles == "" {
		return nil
	}
	s.heaps++
	file, err := filepath.Abs(filepath.Join(s.opts.Profiles, fmt.Sprintf("%s-heap-%d.pprof", s.scenario, s.heaps)))
	if err != nil {
		return err
	}
	in, err := ask[shares](ctx, r.part, "heap", profileArgs{File: file})
	if err != nil {
		return err
	}
	mb := func(n int64) float64 { return float64(n) / (1 << 20) }
	return os.WriteFile(file+".txt", fmt.Appendf(nil, "objects %.1f MB, fragments %.1f MB, stacks %.1f MB, free %.1f MB, other %.1f MB\n",
		mb(in.Objects), mb(in.Fragments), mb(in.Stacks), mb(in.Free), mb(in.Other)), 0o600)
}

// restingMemory is what a relay with a setting takes when it has nothing to do.
func (s *stage) restingMemory(ctx context.Context, w setting) (int64, error) {
	m, err := s.memoryOf(ctx, w)
	return m.resident, err
}

func (s *stage) memoryOf(ctx context.Context, w setting) (m memory, err error) {
	file, err := s.configure(w)
	if err != nil {
		return m, err
	}
	r, err := s.startRelay(ctx, file)
	if err != nil {
		return m, err
	}
	if m, err = s.resting(ctx, r, time.Now(), s.opts.Settle); err != nil {
		return m, err
	}
	return m, s.stopRelay(ctx, r)
}

// memoryFigure is what each of n takes, in KB. reach is in KB too, and set for another size where needed says so.
func memoryFigure(name string, m memory, empty int64, n int, reach float64, size, needed string) Figure {
	each := func(rss int64) float64 { return max(0, float64(rss-empty)/1024/float64(n)) }
	return Figure{
		Name: name, Unit: "KB", Value: each(m.resident), Reach: Reach{AtMost, reach}, ReachFor: needed, Size: size,
		Note: fmt.Sprintf("%.1f KB when the garbage is collected; the relay without them has %.0f MB", each(m.held), float64(empty)/(1<<20)),
	}
}

// endpoints is what an endpoint costs that is known and has had a webhook, some time ago, and what it costs an event that many are.
func endpoints(ctx context.Context, s *stage) error {
	n := s.opts.Endpoints
	receiver, hosts, err := s.receive(ctx, openArgs{Ports: 1})
	if err != nil {
		return err
	}
	// No connection stays: those are 2,048 at most, however many endpoints there are, and gone when they were idle for 90 s.
	d := delivery{endpoints: n, answer: "close", kinds: n / 10, perEvent: 10}
	r, err := s.startDelivered(ctx, receiver, setting{store: "log", endpoints: d.targets(hosts)}, d)
	if err != nil {
		return err
	}
	account, err := s.settle(ctx, receiver, r)
	if err != nil {
		return err
	}
	calm := time.Now()
	empty, err := s.restingMemory(ctx, setting{store: "none"}) // while the other rests
	if err != nil {
		return err
	}
	held, err := s.resting(ctx, r, calm, s.opts.Calm)
	if err != nil {
		return err
	}
	if err := s.finish(ctx, r, receiver); err != nil {
		return err
	}
	size := fmt.Sprintf("%d endpoints, a webhook each, calm for %v", n, s.opts.Calm)
	needed := s.reachFor(10_000, "endpoints", func(sc Scale) int { return sc.Endpoints })
	f := memoryFigure(fmt.Sprintf("resident memory per endpoint of %d", n), held, empty, n, 4, size, needed)
	s.add(account.apply(f))
	s.add(Figure{Name: fmt.Sprintf("matching an event with %d endpoints", n), Unit: "µs", Value: matchTime(n), Reach: Reach{AtMost, 20}, ReachFor: needed, Size: fmt.Sprintf("%d endpoints, 10 match", n)})
	return nil
}

// startDelivered starts a relay that returns when each of its endpoints has had one webhook: its log has one event of each kind.
func (s *stage) startDelivered(ctx context.Context, receiver *part, w setting, d delivery) (*relay, error) {
	file, err := s.configure(w)
	if err != nil {
		return nil, err
	}
	if err := s.introduce(ctx, file); err != nil {
		return nil, err
	}
	if _, err := s.fill(ctx, fillArgs{Dir: w.store, N: d.kinds, Kinds: d.kinds}); err != nil {
		return nil, err
	}
	if err := do(ctx, receiver, "watch", watchArgs{Name: "ok", Marks: []int64{int64(d.endpoints)}}); err != nil {
		return nil, err
	}
	r, err := s.startRelay(ctx, file)
	if err != nil {
		return nil, err
	}
	_, err = ask[[]int64](ctx, receiver, "wait", waitArgs{Name: "ok", Seconds: waitTime})
	return r, err
}

// matchTime is how many microseconds it takes to find who wants an event, as the fanout does.
func matchTime(n int) float64 {
	d := delivery{hosts: 1, endpoints: n, kinds: n / 10, perEvent: 10}
	var list []*endpoint.Endpoint
	for _, t := range d.targets([]string{"http://127.0.0.1:1"}) {
		list = append(list, &endpoint.Endpoint{ID: t.id, URL: t.url, Events: t.events, Enabled: true})
	}
	registry := endpoint.NewRegistry(nil, endpoint.Sealer{}, slog.New(slog.DiscardHandler))
	registry.SetConfig(list)
	const events = 20_000
	type one struct {
		kind string
		data []byte
	}
	var all []one
	for i := range min(d.kinds, 1000) {
		e := newEvent("acme", kindOf(i), i, time.Now())
		all = append(all, one{e.Type, e.JSON()})
	}
	began := time.Now()
	for i := range events {
		e := &all[i%len(all)]
		snapshot, view := registry.Snapshot(), endpoint.NewView("acme", e.data)
		found := snapshot.MatchQuick(nil, "acme", e.kind, view, nil, nil)
		if found = snapshot.MatchInactive(found, "acme", e.kind, view, nil, nil); len(found) != d.perEvent {
			panic(fmt.Sprintf("%d endpoints want an event that is for %d", len(found), d.perEvent))
		}
	}
	return float64(time.Since(began).Microseconds()) / events
}

// idle is what a relay costs that only waits: each of its streams has brought an event, each of its endpoints has had a webhook.
func idle(ctx context.Context, s *stage) error {
	names := slugs(s.opts.Quiet)
	src, base, err := s.source(ctx, names)
	if err != nil {
		return err
	}
	receiver, hosts, err := s.receive(ctx, openArgs{Ports: 1})
	if err != nil {
		return err
	}
	d := delivery{endpoints: s.opts.Quiet, kinds: s.opts.Quiet, perEvent: 1}
	file, err := s.configure(setting{store: "log", nex: base, slugs: names, endpoints: d.targets(hosts)})
	if err != nil {
		return err
	}
	if err := do(ctx, receiver, "watch", watchArgs{Name: "ok", Marks: []int64{int64(d.endpoints)}}); err != nil {
		return err
	}
	r, err := s.startRelay(ctx, file)
	if err != nil {
		return err
	}
	if _, err := ask[int64](ctx, src, "connected", connectedArgs{Seconds: waitTime}); err != nil {
		return err
	}
	if _, err := ask[int64](ctx, src, "emit", emitArgs{N: len(names), Kinds: d.kinds}); err != nil {
		return err
	}
	if _, err := ask[[]int64](ctx, receiver, "wait", waitArgs{Name: "ok", Seconds: waitTime}); err != nil {
		return err
	}
	account, err := s.settle(ctx, receiver, r)
	if err != nil {
		return err
	}
	if err := pause(ctx, s.opts.Calm); err != nil { // the first look for gaps is over, and what the webhooks left is given back
		return err
	}
	var cpu, took float64
	err = s.profiled(ctx, r.part, "", func() error {
		before, err := ask[usage](ctx, r.part, "usage", nothing{})
		if err != nil {
			return err
		}
		began := time.Now()
		if err := pause(ctx, s.opts.IdleFor); err != nil {
			return err
		}
		after, err := ask[usage](ctx, r.part, "usage", nothing{})
		cpu, took = after.CPU-before.CPU, time.Since(began).Seconds()
		return err
	})
	if err != nil {
		return err
	}
	u, err := ask[usage](ctx, r.part, "usage", nothing{})
	if err != nil {
		return err
	}
	s.add(account.apply(Figure{
		Name: "resident memory of a relay with them", Unit: "MB", Value: float64(u.RSS) / (1 << 20), Reach: Reach{Kind: NoReach}, Size: "an event and a webhook each",
	}))
	needed := s.reachFor(1000, "of each", func(sc Scale) int { return sc.Quiet })
	s.add(account.apply(Figure{
		Name: fmt.Sprintf("%d quiet streams and %d endpoints", len(names), d.endpoints), Unit: "% of a core", Value: 100 * cpu / took,
		Reach: Reach{AtMost, 1}, ReachFor: needed, Size: fmt.Sprintf("%.0f s", took),
	}))
	return s.finish(ctx, r, src, receiver)
}

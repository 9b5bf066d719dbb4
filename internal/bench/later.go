package bench

import (
	"context"
	"fmt"
	"time"
)

// retries is what waits for an endpoint that answers nothing but 503, and how soon it has nine tenths of it when it answers again.
func retries(ctx context.Context, s *stage) error {
	receiver, hosts, err := s.receive(ctx, openArgs{Ports: 1})
	if err != nil {
		return err
	}
	n := s.opts.Parked
	w := setting{
		store: "log", endpoints: []target{{id: "crm", url: hosts[0] + "/crm/down"}},
		// What was tried while it was down comes back at once, not after five minutes.
		schedule: "[0s, 5s, 5s, 5s, 5s, 5s, 5s, 5s, 5s, 5s, 5s, 5s, 5s, 5s, 5s, 5s]",
	}
	file, err := s.configure(w)
	if err != nil {
		return err
	}
	if err := s.introduce(ctx, file); err != nil {
		return err
	}
	if _, err := s.fill(ctx, fillArgs{Dir: "log", N: n}); err != nil {
		return err
	}
	if err := do(ctx, receiver, "down", true); err != nil {
		return err
	}
	// What was a probe, or failed twice before it was known that the endpoint only fails, has its time minutes later.
	if err := do(ctx, receiver, "watch", watchArgs{Name: "crm", Marks: []int64{int64(n / 10), int64(n * 9 / 10)}}); err != nil {
		return err
	}
	r, err := s.startRelay(ctx, file)
	if err != nil {
		return err
	}
	// What is in flight, a probe, is none of it.
	if err := awaitMetric(ctx, r, "relay_retries_pending", func(v float64) bool { return v >= float64(n)*0.99 }); err != nil {
		return err
	}
	calm := time.Now()
	empty, err := s.restingMemory(ctx, setting{store: "none"}) // while the other rests
	if err != nil {
		return err
	}
	// What was parked last is looked at for a few seconds yet.
	waiting, err := s.resting(ctx, r, calm, s.opts.Calm+s.opts.Calm/4)
	if err != nil {
		return err
	}
	if err := do(ctx, receiver, "down", false); err != nil {
		return err
	}
	var at []int64
	cpu, err := s.spent(ctx, r.part, "", n*9/10, func() (err error) {
		at, err = ask[[]int64](ctx, receiver, "wait", waitArgs{Name: "crm", Seconds: waitTime})
		return err
	})
	if err != nil {
		return err
	}
	if err := awaitMetric(ctx, r, "relay_retries_pending", func(v float64) bool { return v == 0 }); err != nil {
		return err
	}
	account, err := s.settle(ctx, receiver, r)
	if err != nil {
		return err
	}
	if err := s.stopRelay(ctx, r); err != nil {
		return err
	}
	// The log costs memory too, whatever has become of its events.
	done, err := s.memoryOf(ctx, w)
	if err != nil {
		return err
	}
	needed := s.reachFor(100_000, "deliveries", func(sc Scale) int { return sc.Parked })
	more := func(rss int64) float64 { return float64(rss-empty) / (1 << 20) }
	s.add(account.apply(Figure{
		Name: "resident memory for what is parked", Unit: "MB", Value: more(waiting.resident), Reach: Reach{AtMost, 32}, ReachFor: needed,
		Size: fmt.Sprintf("%d deliveries", n),
		Note: fmt.Sprintf("when the garbage is collected %.1f MB, and %.1f MB where all of the same log has been delivered; the relay without them has %.0f MB",
			more(waiting.held), more(done.held), float64(empty)/(1<<20)),
	}))
	bound, err := s.postBound(ctx, boundURLs(hosts, ""), n/2, "")
	if err != nil {
		return err
	}
	s.add(account.apply(Figure{
		Name: "drained when the endpoint returns, 10 to 90 % of it", Unit: "webhooks/s", Value: float64(n*9/10-n/10) / (float64(at[1]-at[0]) / 1e9), Bound: &bound.PerSecond, BoundCPU: bound.CPU,
		BoundOf: "a bare net/http loop", Reach: Reach{ShareAtLeast, 0.7}, ReachFor: needed, Size: fmt.Sprintf("%d deliveries", n), CPU: cpu,
	}))
	return nil
}

// restart is how long it takes from the start of the process to the first webhook. The events in the log are those of a workspace that
// the relay has, so that it takes it at the start, as it does with each.
func restart(ctx context.Context, s *stage) error {
	s.profileStarts = true
	_, base, err := s.source(ctx, []string{filledSlug})
	if err != nil {
		return err
	}
	empty, err := s.firstDelivery(ctx, base, "empty", 0, 0)
	if err != nil {
		return err
	}
	// A log of a week has few events of the last two hours, and one that was filled just now has no others: with a short window they are
	// as old.
	for _, log := range []struct {
		name   string
		window time.Duration
	}{{"older than stream.duplicate_window", time.Second}, {"all within it", 0}} {
		long, err := s.firstDelivery(ctx, base, fmt.Sprint("log-", log.window), log.window, s.opts.Log)
		if err != nil {
			return err
		}
		s.add(accounts{empty.lost + long.lost, empty.doubled + long.doubled}.apply(Figure{
			Name: "start to first delivery, a long log, " + log.name, Unit: "s", Value: long.took.Seconds(), Bound: new(empty.took.Seconds()), BoundOf: "start with an empty log",
			Reach: Reach{MoreAtMost, 1}, ReachFor: s.reachFor(1_000_000, "events", func(sc Scale) int { return sc.Log }), Size: fmt.Sprintf("%d events in the log", s.opts.Log),
		}))
	}
	return nil
}

// firstOne is when the first webhook came, and what that is worth.
type firstOne struct {
	took time.Duration
	accounts
}

// firstDelivery starts a relay on a log whose events are all settled but the last one.
func (s *stage) firstDelivery(ctx context.Context, base, store string, window time.Duration, events int) (f firstOne, err error) {
	receiver, hosts, err := s.receive(ctx, openArgs{Ports: 1})
	if err != nil {
		return f, err
	}
	file, err := s.configure(setting{
		store: store, window: window, nex: base, slugs: []string{filledSlug},
		endpoints: []target{{id: "crm", url: hosts[0] + "/crm/", events: []string{"nex.insight.kind1"}}},
	})
	if err != nil {
		return f, err
	}
	if err := s.introduce(ctx, file); err != nil {
		return f, err
	}
	if events > 0 {
		if _, err := s.fill(ctx, fillArgs{Dir: store, N: events, Window: window}); err != nil {
			return f, err
		}
		if err := s.readThrough(ctx, file); err != nil {
			return f, err
		}
	}
	if _, err := s.fill(ctx, fillArgs{Dir: store, N: 1, Kinds: 2, First: 1, Window: window}); err != nil { // of type kind1
		return f, err
	}
	if err := do(ctx, receiver, "watch", watchArgs{Name: "crm", Marks: []int64{1}}); err != nil {
		return f, err
	}
	r, err := s.startRelay(ctx, file)
	if err != nil {
		return f, err
	}
	at, err := ask[[]int64](ctx, receiver, "wait", waitArgs{Name: "crm", Seconds: waitTime})
	if err != nil {
		return f, err
	}
	f.took = time.Unix(0, at[0]).Sub(r.began)
	if f.accounts, err = s.settle(ctx, receiver, r); err != nil {
		return f, err
	}
	return f, s.finish(ctx, r, receiver)
}

// readThrough has a relay read its log to the end.
func (s *stage) readThrough(ctx context.Context, file string) error {
	r, err := s.startRelay(ctx, file)
	if err != nil {
		return err
	}
	log, err := s.connect(ctx, r)
	if err != nil {
		return err
	}
	if err := do(ctx, log, "settled", heardArgs{Seconds: waitTime}); err != nil {
		return err
	}
	return s.finish(ctx, r, log)
}

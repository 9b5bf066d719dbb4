package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// latency is how long an event is under way at a rate that nothing has to wait for.
func latency(ctx context.Context, s *stage) error {
	receiver, hosts, err := s.receive(ctx, openArgs{Ports: 1})
	if err != nil {
		return err
	}
	published, posted, err := s.latencyBounds(ctx, receiver, hosts[0])
	if err != nil {
		return err
	}
	heard, delivered, account, err := s.relayLatency(ctx, receiver, hosts[0])
	if err != nil {
		return err
	}
	for _, way := range []struct {
		name, bound   string
		value, beside spread
	}{
		{"emission to NATS subscriber", "publish to the same kind of server", heard, published},
		{"emission to webhook", "POST to the same receiver", delivered, posted},
	} {
		size := fmt.Sprintf("%d events at %d/s", way.value.N, s.opts.PaceRate)
		p50, p99 := ms(way.beside.P50), ms(way.beside.P99)
		s.add(account.apply(Figure{Name: way.name + ", p50", Unit: "ms", Value: ms(way.value.P50), Bound: &p50, BoundOf: way.bound, Reach: Reach{MoreAtMost, 1}, Size: size}))
		s.add(account.apply(Figure{Name: way.name + ", p99", Unit: "ms", Value: ms(way.value.P99), Bound: &p99, BoundOf: way.bound, Reach: Reach{TimesAtMost, 3}, Size: size}))
	}
	return nil
}

// latencyBounds are measured at one time, as the two ways through the relay are.
func (s *stage) latencyBounds(ctx context.Context, receiver *part, host string) (published, posted spread, err error) {
	var failed error
	var both sync.WaitGroup
	both.Go(func() { published, failed = s.publishLatency(ctx) })
	posted, err = s.postLatency(ctx, receiver, host)
	both.Wait()
	return published, posted, errors.Join(failed, err)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// relayLatency has the simulator emit at a steady rate; each event says when that was.
func (s *stage) relayLatency(ctx context.Context, receiver *part, host string) (heard, delivered spread, a accounts, err error) {
	names := slugs(1)
	src, base, err := s.source(ctx, names)
	if err != nil {
		return heard, delivered, a, err
	}
	file, err := s.configure(setting{store: "log", nex: base, slugs: names, endpoints: []target{{id: "crm", url: host + "/crm/"}}})
	if err != nil {
		return heard, delivered, a, err
	}
	r, err := s.startRelay(ctx, file)
	if err != nil {
		return heard, delivered, a, err
	}
	if _, err := ask[int64](ctx, src, "connected", connectedArgs{Seconds: waitTime}); err != nil {
		return heard, delivered, a, err
	}
	listener, err := s.subscribe(ctx, r.NATS)
	if err != nil {
		return heard, delivered, a, err
	}
	for i, seconds := range []float64{s.warmUp(), s.opts.PacedFor.Seconds()} { // the first round is not counted
		n := int64(float64(s.opts.PaceRate) * seconds)
		if err := do(ctx, receiver, "watch", watchArgs{Name: "crm", Marks: []int64{n}, Timed: true}); err != nil {
			return heard, delivered, a, err
		}
		round := func() error {
			if _, err := ask[int](ctx, src, "pace", paceArgs{Rate: s.opts.PaceRate, Seconds: seconds}); err != nil {
				return err
			}
			if heard, err = ask[spread](ctx, listener, "heard", heardArgs{N: int(n), Seconds: waitTime}); err != nil {
				return err
			}
			if _, err := ask[[]int64](ctx, receiver, "wait", waitArgs{Name: "crm", Seconds: waitTime}); err != nil {
				return err
			}
			delivered, err = ask[spread](ctx, receiver, "timed", watchArgs{Name: "crm"})
			return err
		}
		if i == 0 {
			err = round()
		} else {
			err = s.profiled(ctx, r.part, "", round)
		}
		if err != nil {
			return heard, delivered, a, err
		}
	}
	if a, err = s.settle(ctx, receiver, r); err != nil {
		return heard, delivered, a, err
	}
	return heard, delivered, a, s.finish(ctx, r, src, listener)
}

// warmUp is how long connections and heaps get to take their shape, in seconds.
func (s *stage) warmUp() float64 { return s.opts.PacedFor.Seconds() / 4 }

// subscribe listens at a server.
func (s *stage) subscribe(ctx context.Context, url string) (*part, error) {
	p, err := s.part(rolePublisher)
	if err != nil {
		return nil, err
	}
	return p, do(ctx, p, "subscribe", connectArgs{URL: url})
}

// publishLatency is the bound of NATS subscribers: the same bytes, published to a server of the same kind in the publisher's process.
func (s *stage) publishLatency(ctx context.Context) (took spread, err error) {
	p, err := s.part(rolePublisher)
	if err != nil {
		return took, err
	}
	url, err := ask[string](ctx, p, "open", dirArgs{Dir: s.path("bound")})
	if err != nil {
		return took, err
	}
	listener, err := s.subscribe(ctx, url)
	if err != nil {
		return took, err
	}
	for _, seconds := range []float64{s.warmUp(), s.opts.PacedFor.Seconds()} {
		n, err := ask[int](ctx, p, "pace", publishArgs{Rate: s.opts.PaceRate, Seconds: seconds})
		if err != nil {
			return took, err
		}
		if took, err = ask[spread](ctx, listener, "heard", heardArgs{N: n, Seconds: waitTime}); err != nil {
			return took, err
		}
	}
	if err := s.end(listener); err != nil {
		return took, err
	}
	return took, s.end(p)
}

// postLatency is the bound of webhooks.
func (s *stage) postLatency(ctx context.Context, receiver *part, host string) (took spread, err error) {
	p, err := s.part(roleLoop)
	if err != nil {
		return took, err
	}
	for _, seconds := range []float64{s.warmUp(), s.opts.PacedFor.Seconds()} {
		if err := do(ctx, receiver, "watch", watchArgs{Name: boundName, Timed: true}); err != nil {
			return took, err
		}
		if _, err := ask[int](ctx, p, "pace", paceArgs{URL: host + "/" + boundName + "/", Rate: s.opts.PaceRate, Seconds: seconds}); err != nil {
			return took, err
		}
		if took, err = ask[spread](ctx, receiver, "timed", watchArgs{Name: boundName}); err != nil {
			return took, err
		}
	}
	return took, s.end(p)
}

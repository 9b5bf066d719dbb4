package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ring is a relay with its endpoints, and whoever publishes to its log.
type ring struct {
	name     string // under which its receivers count
	relay    *relay
	log      *part
	receiver *part
	healthy  int
}

const (
	// pacedPerSecond is the rate at which the age of webhooks is looked at.
	pacedPerSecond = 40
	// burstFlood and pacedFlood are how many events for the flooded ones come with each event for all.
	burstFlood, pacedFlood = 3, 10
)

// isolation has two relays, each with a log of its own, one of them with sick endpoints beside the healthy ones, take turns: on a
// shared machine what one second can do is not what the next can. Of the sick ones a third hangs, a third answers 500, and a third
// gets ten times what it can take.
func isolation(ctx context.Context, s *stage) error {
	receiver, hosts, err := s.receive(ctx, openArgs{Ports: 1})
	if err != nil {
		return err
	}
	without, err := s.newRing(ctx, "without", receiver, hosts[0], false)
	if err != nil {
		return err
	}
	with, err := s.newRing(ctx, "with", receiver, hosts[0], true)
	if err != nil {
		return err
	}
	var rates, ages turns
	for i := range s.opts.Rounds {
		order := []*ring{without, with}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		rate, age := map[*ring]float64{}, map[*ring]float64{}
		for _, r := range order {
			err := alone(r, order, func() (err error) {
				rate[r], age[r], err = s.turn(ctx, r)
				return err
			})
			if err != nil {
				return err
			}
		}
		rates.add(rate[without], rate[with])
		ages.add(age[without], age[with])
	}
	account, err := s.settle(ctx, receiver, without.relay, with.relay)
	if err != nil {
		return err
	}
	of := fmt.Sprintf("a relay with the %d healthy ones alone, in turns", s.opts.Healthy)
	s.add(account.apply(rates.figure(Figure{
		Name: fmt.Sprintf("healthy ones with %d of %d sick", 3*s.opts.SickOfAKind, s.opts.Healthy+3*s.opts.SickOfAKind), Unit: "webhooks/s",
		BoundOf: of, Reach: Reach{ShareAtLeast, 0.95}, Size: fmt.Sprintf("%d rounds of %d webhooks", s.opts.Rounds, s.opts.Burst*s.opts.Healthy),
	})))
	s.add(account.apply(ages.figure(Figure{
		Name: "healthy ones, publish to webhook, p99", Unit: "ms", BoundOf: of, Reach: Reach{TimesAtMost, 1.5},
		Size: fmt.Sprintf("%d rounds of %v at %d events/s", s.opts.Rounds, s.opts.Window, pacedPerSecond),
	})))
	return nil
}

// turn is one of a relay: how many webhooks a second its healthy ones get, and how old they are at the 99th percentile, in milliseconds.
func (s *stage) turn(ctx context.Context, r *ring) (rate, p99 float64, err error) {
	if err := pause(ctx, catchUp); err != nil {
		return 0, 0, err
	}
	if rate, err = r.burst(ctx, s.opts.Burst); err != nil {
		return 0, 0, err
	}
	age, err := r.paced(ctx, s.opts.Window)
	return rate, ms(age.P99), err
}

// catchUp is what a relay that stood still gets to do what was due meanwhile.
const catchUp = 50 * time.Millisecond

// turns are what some rounds have measured, each without the sick ones and with them.
type turns struct{ without, with, ratios []float64 }

func (t *turns) add(without, with float64) {
	t.without, t.with, t.ratios = append(t.without, without), append(t.with, with), append(t.ratios, with/without)
}

// figure compares what was measured within one round: from one to the next the machine may have changed.
func (t *turns) figure(f Figure) Figure {
	bound := median(t.without)
	f.Bound, f.Value = &bound, bound*median(t.ratios)
	f.Note = fmt.Sprintf("the median of the rounds' ratios, which are %.2f to %.2f; %s to %s %s with the sick ones, %s to %s without them",
		slices.Min(t.ratios), slices.Max(t.ratios), number(slices.Min(t.with)), number(slices.Max(t.with)), f.Unit,
		number(slices.Min(t.without)), number(slices.Max(t.without)))
	return f
}

// alone measures one while the processes of the others stand still, where the system can do that: what their sick endpoints cost is
// none of the bound.
func alone(r *ring, all []*ring, measure func() error) (err error) {
	for _, other := range all {
		if other != r {
			if err := other.relay.standStill(); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, other.relay.goOn()) }()
		}
	}
	return measure()
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// hangTime is after how long an attempt at an endpoint that hangs has failed: less than by default, so that some do within a run.
const hangTime = 5 * time.Second

func (s *stage) newRing(ctx context.Context, name string, receiver *part, host string, sick bool) (*ring, error) {
	var list []target
	add := func(behaviour string, n int, kinds ...string) {
		for i := range n {
			counted := name
			if behaviour != "" {
				counted += behaviour
			}
			list = append(list, target{id: fmt.Sprintf("e%s-%d", behaviour, i), url: fmt.Sprintf("%s/%s/%s?e=%d", host, counted, behaviour, i), events: kinds})
		}
	}
	add("", s.opts.Healthy, "nex.insight.risk")
	if sick {
		add("hang", s.opts.SickOfAKind, "nex.insight.risk")
		add("fail", s.opts.SickOfAKind, "nex.insight.risk")
		add("slow", s.opts.SickOfAKind, "nex.insight.risk", "nex.insight.flood")
	}
	file, err := s.configure(setting{store: name, endpoints: list, timeout: hangTime})
	if err != nil {
		return nil, err
	}
	r := &ring{name: name, receiver: receiver, healthy: s.opts.Healthy}
	if r.relay, err = s.startRelay(ctx, file); err != nil {
		return nil, err
	}
	if r.log, err = s.connect(ctx, r.relay); err != nil {
		return nil, err
	}
	if _, err := r.burst(ctx, s.opts.Burst); err != nil { // connections, heaps
		return nil, err
	}
	if !sick {
		return r, nil
	}
	for { // it takes some seconds and some failures until it is known who only fails or hangs
		if open, err := metric(ctx, r.relay, "relay_circuits_open"); err != nil || open >= float64(2*s.opts.SickOfAKind) {
			return r, err
		}
		if _, err := r.paced(ctx, time.Second/2); err != nil {
			return nil, err
		}
	}
}

// burst is how many webhooks a second the healthy ones get while the log has more.
func (r *ring) burst(ctx context.Context, events int) (perSecond float64, err error) {
	total := int64(events * r.healthy)
	if err := do(ctx, r.receiver, "watch", watchArgs{Name: r.name, Marks: []int64{total / 10, total}}); err != nil {
		return 0, err
	}
	if _, err := ask[published](ctx, r.log, "publish", publishArgs{N: events, Flood: burstFlood}); err != nil {
		return 0, err
	}
	at, err := ask[[]int64](ctx, r.receiver, "wait", waitArgs{Name: r.name, Seconds: waitTime})
	if err != nil {
		return 0, err
	}
	return float64(total-total/10) / (float64(at[1]-at[0]) / 1e9), nil
}

// paced is how old the webhooks of the healthy ones are when nothing has to wait.
func (r *ring) paced(ctx context.Context, d time.Duration) (spread, error) {
	events := int64(d.Seconds() * pacedPerSecond)
	if err := do(ctx, r.receiver, "watch", watchArgs{Name: r.name, Marks: []int64{events * int64(r.healthy)}, Timed: true}); err != nil {
		return spread{}, err
	}
	if _, err := ask[int](ctx, r.log, "pace", publishArgs{Rate: pacedPerSecond, Seconds: d.Seconds(), Flood: pacedFlood}); err != nil {
		return spread{}, err
	}
	if _, err := ask[[]int64](ctx, r.receiver, "wait", waitArgs{Name: r.name, Seconds: waitTime}); err != nil {
		return spread{}, err
	}
	return ask[spread](ctx, r.receiver, "timed", watchArgs{Name: r.name})
}

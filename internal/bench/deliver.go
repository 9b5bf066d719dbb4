package bench

import (
	"context"
	"fmt"

	"github.com/nex-crm/relay/internal/config"
)

// delivery is a way to deliver: some endpoints, on some hosts, and events of some types.
type delivery struct {
	hosts     int
	endpoints int
	answer    string // the receiver's behaviour
	kinds     int    // of events; each endpoint wants one of them
	perEvent  int    // endpoints that want each event
	boundHost int    // hosts of the bound
	reach     float64
}

func deliverOne(ctx context.Context, s *stage) error {
	return s.deliver(ctx, delivery{hosts: 1, endpoints: 1, kinds: 1, perEvent: 1, boundHost: 1, reach: 0.8})
}

func deliverHundred(ctx context.Context, s *stage) error {
	return s.deliver(ctx, delivery{hosts: 100, endpoints: 100, kinds: 1, perEvent: 100, boundHost: 100, reach: 0.8})
}

func deliverMany(ctx context.Context, s *stage) error {
	n := s.opts.Endpoints
	return s.deliver(ctx, delivery{hosts: 100, endpoints: n, kinds: n / 10, perEvent: 10, boundHost: 1, reach: 0.7})
}

// deliver fills a log while the relay is away, and has it deliver what is there: how fast events come is another figure.
func (s *stage) deliver(ctx context.Context, d delivery) error {
	receiver, hosts, err := s.receive(ctx, openArgs{Ports: d.hosts})
	if err != nil {
		return err
	}
	file, err := s.configure(setting{store: "log", endpoints: d.targets(hosts)})
	if err != nil {
		return err
	}
	if err := s.introduce(ctx, file); err != nil {
		return err
	}
	events := s.opts.Deliver / d.perEvent
	if _, err := s.fill(ctx, fillArgs{Dir: "log", N: events, Kinds: d.kinds}); err != nil {
		return err
	}
	total := events * d.perEvent
	before, err := s.postBound(ctx, boundURLs(hosts[:d.boundHost], ""), total/2, "")
	if err != nil {
		return err
	}
	if err := do(ctx, receiver, "watch", watchArgs{Name: "ok", Marks: []int64{int64(total / 10), int64(total)}}); err != nil {
		return err
	}
	r, err := s.startRelay(ctx, file)
	if err != nil {
		return err
	}
	var at []int64
	cpu, err := s.spentInAll(ctx, r.part, "", total, func() (err error) {
		at, err = ask[[]int64](ctx, receiver, "wait", waitArgs{Name: "ok", Seconds: waitTime})
		return err
	})
	if err != nil {
		return err
	}
	account, err := s.settle(ctx, receiver, r)
	if err != nil {
		return err
	}
	if err := s.stopRelay(ctx, r); err != nil {
		return err
	}
	after, err := s.postBound(ctx, boundURLs(hosts[:d.boundHost], ""), total/2, "")
	if err != nil {
		return err
	}
	bound := between(before, after)
	s.add(account.apply(Figure{
		Name: fmt.Sprintf("delivered, %s", d.text()), Unit: "webhooks/s", Value: float64(total-total/10) / (float64(at[1]-at[0]) / 1e9),
		Bound: &bound.PerSecond, BoundCPU: bound.CPU, BoundOf: fmt.Sprintf("a bare net/http loop to %d hosts, half before and half after", d.boundHost),
		Reach: Reach{ShareAtLeast, d.reach}, Size: fmt.Sprintf("%d webhooks", total), CPU: cpu,
	}))
	return nil
}

func (d delivery) text() string {
	if d.endpoints == 1 {
		return "1 endpoint"
	}
	return fmt.Sprintf("%d endpoints, %d an event", d.endpoints, d.perEvent)
}

// targets are endpoints that answer well.
func (d delivery) targets(hosts []string) (list []target) {
	for i := range d.endpoints {
		list = append(list, target{
			id: fmt.Sprintf("e-%d", i), url: fmt.Sprintf("%s/ok/%s?e=%d", hosts[i%len(hosts)], d.answer, i), events: []string{"nex.insight." + kindOf(i%d.kinds)},
		})
	}
	return list
}

// postBound is how many posts a second net/http makes to some URLs, as many at once to each host as the relay makes.
func (s *stage) postBound(ctx context.Context, urls []string, n int, ca string) (posted, error) {
	p, err := s.part(roleLoop)
	if err != nil {
		return posted{}, err
	}
	defaults := config.Default()
	atOnce := min(defaults.Webhooks.MaxInFlight*len(urls), boundAtOnce)
	done, err := ask[posted](ctx, p, "post", postArgs{URLs: urls, N: n, AtOnce: atOnce, CA: ca})
	if err != nil {
		return posted{}, err
	}
	return done, s.end(p)
}

// boundAtOnce is what a loop over many hosts is best at.
const boundAtOnce = 400

// boundURLs are where a loop posts to on some hosts; behaviour is that of the receiver.
func boundURLs(hosts []string, behaviour string) (urls []string) {
	for _, host := range hosts {
		urls = append(urls, host+"/"+boundName+"/"+behaviour)
	}
	return urls
}

// between is a bound of which one half was measured before, one after.
func between(before, after posted) posted {
	return posted{PerSecond: (before.PerSecond + after.PerSecond) / 2, CPU: (before.CPU + after.CPU) / 2}
}

package bench

import (
	"context"
	"fmt"
	"math"
	"strings"
)

// replicas is what a second and a third relay on one NATS server cost: on one machine they share its processors, so what is of interest
// is the processor time of a webhook and not the rate.
func replicas(ctx context.Context, s *stage) error {
	var alone *float64
	for _, n := range []int{1, 2, 3} {
		f, err := s.deliverBy(ctx, n)
		if err != nil {
			return err
		}
		if f.Bound = alone; alone == nil {
			alone = &f.Value
		} else {
			f.BoundOf = "one relay on the same server"
		}
		s.add(f)
	}
	return nil
}

// replicaEndpoints want each event.
const replicaEndpoints = 10

// deliverBy delivers with so many relays on one server, which is a process of its own.
func (s *stage) deliverBy(ctx context.Context, n int) (f Figure, err error) {
	receiver, hosts, err := s.receive(ctx, openArgs{Ports: replicaEndpoints})
	if err != nil {
		return f, err
	}
	server, err := s.part(rolePublisher)
	if err != nil {
		return f, err
	}
	name := fmt.Sprintf("log-%d", n)
	url, err := ask[string](ctx, server, "open", dirArgs{Dir: s.path(name)})
	if err != nil {
		return f, err
	}
	d := delivery{endpoints: replicaEndpoints, kinds: 1}
	file, err := s.configure(setting{store: name, nats: url, endpoints: d.targets(hosts)})
	if err != nil {
		return f, err
	}
	var relays []*relay
	for range n {
		r, err := s.startRelay(ctx, file)
		if err != nil {
			return f, err
		}
		r.NATS = url
		relays = append(relays, r)
	}
	events := s.opts.Deliver / 2 / replicaEndpoints
	total := events * replicaEndpoints
	if err := do(ctx, receiver, "watch", watchArgs{Name: "ok", Marks: []int64{int64(total / 10), int64(total)}}); err != nil {
		return f, err
	}
	var at []int64
	cpu, err := s.spent(ctx, server, fmt.Sprintf("-server-%d", n), total, func() (err error) {
		f.CPU, err = s.spentByAll(ctx, relays, total, func() (err error) {
			if _, err = ask[published](ctx, server, "publish", publishArgs{N: events}); err != nil {
				return err
			}
			at, err = ask[[]int64](ctx, receiver, "wait", waitArgs{Name: "ok", Seconds: waitTime})
			return err
		})
		return err
	})
	if err != nil {
		return f, err
	}
	account, err := s.settle(ctx, receiver, relays...)
	if err != nil {
		return f, err
	}
	f = account.apply(f)
	var shares []string
	for _, r := range relays {
		delivered, err := metric(ctx, r, `relay_delivery_attempts_total{outcome="delivered"}`)
		if err != nil {
			return f, err
		}
		shares = append(shares, fmt.Sprintf("%.0f %%", math.Round(100*delivered/float64(total))))
		if err := s.stopRelay(ctx, r); err != nil {
			return f, err
		}
	}
	f.Name, f.Unit, f.Size = fmt.Sprintf("delivered by %s on one NATS server outside", relaysText(n)), "webhooks/s", fmt.Sprintf("%d webhooks", total)
	f.Value, f.Reach = float64(total-total/10)/(float64(at[1]-at[0])/1e9), Reach{Kind: NoReach}
	f.Note = fmt.Sprintf("each relay has done %s; the server took %.0f µs for each webhook, and published the events", strings.Join(shares, ", "), cpu)
	for _, p := range []*part{server, receiver} {
		if err := s.end(p); err != nil {
			return f, err
		}
	}
	return f, nil
}

// spentByAll is how much processor time each of n took all of some relays together, in microseconds.
func (s *stage) spentByAll(ctx context.Context, relays []*relay, n int, do func() error) (each float64, err error) {
	for i, r := range relays {
		inner := do
		do = func() error {
			one, err := s.spent(ctx, r.part, fmt.Sprintf("-%d-%d", len(relays), i+1), n, inner)
			each += one
			return err
		}
	}
	return each, do()
}

func relaysText(n int) string {
	if n == 1 {
		return "1 relay"
	}
	return fmt.Sprintf("%d relays", n)
}

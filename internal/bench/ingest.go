package bench

import (
	"context"
	"fmt"
)

// waitTime bounds the wait for what a relay is given to do.
const waitTime = 100.0

func ingest(ctx context.Context, s *stage) error {
	for _, n := range []int{1, 100} {
		rate, cpu, err := s.ingestOver(ctx, n)
		if err != nil {
			return err
		}
		bound, err := s.publishBound(ctx, fmt.Sprintf("bound-%d", n), s.opts.Ingest)
		if err != nil {
			return err
		}
		s.add(Figure{
			Name: fmt.Sprintf("SSE to PubAck over %s", streamsText(n)), Unit: "events/s", Value: rate, Bound: &bound,
			BoundOf: "asynchronous JetStream publish of the same bytes", Reach: Reach{ShareAtLeast, 0.7},
			Size: fmt.Sprintf("%d events", s.opts.Ingest), CPU: cpu,
		})
	}
	return nil
}

func streamsText(n int) string {
	if n == 1 {
		return "1 stream"
	}
	return fmt.Sprintf("%d streams", n)
}

// publishBound is how many events a second go into a log that nobody else uses.
func (s *stage) publishBound(ctx context.Context, dir string, n int) (float64, error) {
	done, err := s.fill(ctx, fillArgs{Dir: dir, N: n})
	if err != nil {
		return 0, err
	}
	return float64(done.N) / done.Seconds, nil
}

// ingestOver is how many events a second a relay brings from its streams into the log.
func (s *stage) ingestOver(ctx context.Context, streams int) (perSecond, cpu float64, err error) {
	names := slugs(streams)
	src, base, err := s.source(ctx, names)
	if err != nil {
		return 0, 0, err
	}
	file, err := s.configure(setting{store: fmt.Sprintf("ingest-%d", streams), nex: base, slugs: names})
	if err != nil {
		return 0, 0, err
	}
	r, err := s.startRelay(ctx, file)
	if err != nil {
		return 0, 0, err
	}
	if _, err := ask[int64](ctx, src, "connected", connectedArgs{Seconds: waitTime}); err != nil {
		return 0, 0, err
	}
	log, err := s.connect(ctx, r)
	if err != nil {
		return 0, 0, err
	}
	n := s.opts.Ingest / streams * streams
	cpu, err = s.spent(ctx, r.part, fmt.Sprintf("-%d", streams), n, func() error {
		began, err := ask[int64](ctx, src, "emit", emitArgs{N: n})
		if err != nil {
			return err
		}
		ended, err := ask[int64](ctx, log, "wait", heardArgs{N: n, Seconds: waitTime})
		perSecond = float64(n) / (float64(ended-began) / 1e9)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	return perSecond, cpu, s.finish(ctx, r, src, log)
}

// source starts a Nex with so many workspaces.
func (s *stage) source(ctx context.Context, names []string) (src *part, base string, err error) {
	if src, err = s.part(roleSource); err != nil {
		return nil, "", err
	}
	base, err = ask[string](ctx, src, "open", sourceArgs{Slugs: names})
	return src, base, err
}

// connect starts a NATS client of a relay.
func (s *stage) connect(ctx context.Context, r *relay) (*part, error) {
	p, err := s.part(rolePublisher)
	if err != nil {
		return nil, err
	}
	return p, do(ctx, p, "connect", connectArgs{URL: r.NATS})
}

// finish stops a relay, then the parts beside it.
func (s *stage) finish(ctx context.Context, r *relay, beside ...*part) error {
	if err := s.stopRelay(ctx, r); err != nil {
		return err
	}
	for _, p := range beside {
		if err := s.end(p); err != nil {
			return err
		}
	}
	return nil
}

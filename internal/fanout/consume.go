package fanout

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
)

// consume reads one durable consumer until ctx ends, and starts again when reading fails.
func (f *Fanout) consume(ctx context.Context, stream string, cfg jetstream.ConsumerConfig, handle func(context.Context, jetstream.Msg)) {
	wait := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(0))
	var last string
	for ctx.Err() == nil {
		start := time.Now()
		err := f.read(ctx, stream, cfg, handle)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > 30*time.Second {
			wait.Reset()
			last = ""
		}
		if err.Error() != last {
			last = err.Error()
			f.log.Warn("reading a consumer failed, starting again", "stream", stream, "consumer", cfg.Durable, "error", err)
		}
		select {
		case <-time.After(wait.NextBackOff()):
		case <-ctx.Done():
		}
	}
}

func (f *Fanout) read(ctx context.Context, stream string, cfg jetstream.ConsumerConfig, handle func(context.Context, jetstream.Msg)) error {
	if _, err := f.cfg.Bus.JetStream().CreateOrUpdateConsumer(ctx, stream, cfg); err != nil {
		return fmt.Errorf("create consumer: %w", err)
	}
	pull, err := f.cfg.Bus.Pull(stream, cfg.Durable, prefetch)
	if err != nil {
		return err
	}
	f.running.Add(1)
	defer f.running.Add(-1)
	defer giveBack(pull)
	for ctx.Err() == nil {
		m, err := pull.Next(ctx)
		if err != nil {
			return err
		}
		handle(ctx, m) // even if ctx has just ended: what is dropped here comes again only when its ack is overdue
	}
	return ctx.Err()
}

// giveBack returns what was asked for and not looked at, so that another replica, or this one after its restart, has it at
// once and not when the acknowledgement is overdue.
func giveBack(pull *bus.Pull) {
	pull.Close(giveBackTime, func(m jetstream.Msg) { comeAgain(m, 0) })
}

// comeAgain has a message given again after a while, or at once. A server that is stopped forgets a message that was returned
// without a delay, and gives it again when its acknowledgement is overdue; one with a delay it writes down.
func comeAgain(m jetstream.Msg, after time.Duration) {
	_ = m.NakWithDelay(max(after, time.Millisecond))
}

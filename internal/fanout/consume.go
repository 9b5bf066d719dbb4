package fanout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go/jetstream"
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
	consumer, err := f.cfg.Bus.JetStream().CreateOrUpdateConsumer(ctx, stream, cfg)
	if err != nil {
		return fmt.Errorf("create consumer: %w", err)
	}
	iter, err := consumer.Messages(jetstream.PullMaxMessages(prefetch))
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	f.running.Add(1)
	defer f.running.Add(-1)
	defer giveBack(iter)
	for {
		if err := readFor(ctx, iter, handle); err != nil {
			return err
		}
	}
}

// readFor reads for as long as askAgain, and what is in hand then.
func readFor(ctx context.Context, iter jetstream.MessagesContext, handle func(context.Context, jetstream.Msg)) error {
	turn, end := context.WithTimeout(ctx, askAgain)
	defer end()
	for {
		m, err := iter.Next(jetstream.NextContext(turn))
		switch {
		case err == nil:
			handle(ctx, m) // even if ctx has just ended: what is dropped here comes again only when its ack is overdue
		case ctx.Err() != nil:
			return ctx.Err()
		case turn.Err() != nil:
			return nil
		case errors.Is(err, jetstream.ErrNoHeartbeat):
			// The server is away for the moment; the iterator asks again by itself when it is back.
		default:
			return fmt.Errorf("next: %w", err)
		}
	}
}

// giveBack returns what was fetched and not looked at, so that another replica, or this one after its restart, has it at
// once and not when the acknowledgement is overdue.
func giveBack(iter jetstream.MessagesContext) {
	iter.Drain()
	for deadline := time.Now().Add(giveBackTime); ; {
		m, err := iter.Next(jetstream.NextMaxWait(max(time.Until(deadline), time.Millisecond)))
		if err != nil {
			return
		}
		comeAgain(m, 0)
	}
}

// comeAgain has a message given again after a while, or at once. A server that is stopped forgets a message that was returned
// without a delay, and gives it again when its acknowledgement is overdue; one with a delay it writes down.
func comeAgain(m jetstream.Msg, after time.Duration) {
	_ = m.NakWithDelay(max(after, time.Millisecond))
}

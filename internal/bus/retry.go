package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ReadRetry hands over everything that waits for an endpoint in RELAY_RETRY, subject by subject in the order in which it was
// stored, and answers the sequence of the last message that was there.
func (b *Bus) ReadRetry(ctx context.Context, endpoint string, do func(data []byte) error) (last uint64, err error) {
	end, err := b.RetryEnd(ctx)
	if err != nil {
		return 0, err
	}
	for _, subject := range RetrySubjects(endpoint) {
		err := b.direct(ctx, StreamRetry, subject, 1, end, func(m Stored) error {
			last = max(last, m.Sequence)
			return do(m.Data)
		})
		if err != nil {
			return 0, err
		}
	}
	return last, nil
}

// FollowRetry hands over everything that waits for an endpoint in RELAY_RETRY in the order in which it was stored, what is stored meanwhile
// included: what moves from one place to another is stored anew before it is removed, so that it may come twice, and comes once.
func (b *Bus) FollowRetry(ctx context.Context, endpoint string, do func(data []byte) error) error {
	return b.direct(ctx, StreamRetry, anyRetry(endpoint), 1, math.MaxUint64, func(m Stored) error { return do(m.Data) })
}

// anyRetry is the filter for all that waits for an endpoint.
func anyRetry(endpoint string) string { return "relay.retry.*." + endpoint + ".>" }

// ReadSomeRetry hands over some of the messages that wait for an endpoint in RELAY_RETRY: one at each of some places that lie evenly
// over those up to a sequence, the one that was stored first among them.
func (b *Bus) ReadSomeRetry(ctx context.Context, endpoint string, end uint64, places int, do func(data []byte) error) error {
	for from, step := uint64(1), uint64(0); from <= end; {
		m, err := b.askLeader(ctx, StreamRetry, map[string]any{"seq": from, "next_by_subj": anyRetry(endpoint)})
		if errors.Is(err, ErrNotInLog) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("what waits for %s: %w", endpoint, err)
		}
		if err := do(m.Data); err != nil {
			return err
		}
		if step == 0 {
			step = max(1, (end-min(end, m.Sequence))/uint64(places))
		}
		from = m.Sequence + step
	}
	return nil
}

// RetryEnd is the sequence of the newest message of RELAY_RETRY, 0 if nothing waits there.
func (b *Bus) RetryEnd(ctx context.Context) (uint64, error) {
	s, err := b.js.Stream(ctx, StreamRetry)
	if missing(StreamRetry, err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("what waits: %w", err)
	}
	if state := s.CachedInfo().State; state.Msgs > 0 {
		return state.LastSeq, nil
	}
	return 0, nil
}

// directBatch and directBytes are how much is asked for at a time.
const directBatch, directBytes = 1024, 4 << 20

// direct hands over the messages of a stream on a subject from one sequence to another, both inclusive, without a consumer: a work
// queue has no two for one subject. Any replica answers.
func (b *Bus) direct(ctx context.Context, stream, subject string, from, to uint64, do func(Stored) error) error {
	inbox := b.nc.NewInbox()
	sub, err := b.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	for from <= to {
		if err := b.askDirect(stream, subject, inbox, from, directBatch, directBytes); err != nil {
			return fmt.Errorf("read %s: %w", subject, err)
		}
		last, more, err := b.batch(ctx, sub, to, do)
		if err != nil {
			return fmt.Errorf("read %s: %w", subject, err)
		}
		if !more {
			return nil
		}
		from = last + 1
	}
	return nil
}

// askDirect asks for the messages of a stream on a subject from a sequence on, so many and as many bytes at most.
func (b *Bus) askDirect(stream, subject, inbox string, from uint64, batch, bytes int) error {
	request, err := json.Marshal(map[string]any{"seq": from, "batch": batch, "max_bytes": bytes, "next_by_subj": subject})
	if err != nil {
		return err
	}
	return b.nc.PublishRequest(jetstream.DefaultAPIPrefix+"DIRECT.GET."+stream, inbox, request)
}

// batch hands over the answer to one request of direct, and tells where it ended and whether there is more.
func (b *Bus) batch(ctx context.Context, sub *nats.Subscription, to uint64, do func(Stored) error) (last uint64, more bool, err error) {
	for {
		waiting, cancel := context.WithTimeout(ctx, ackTimeout)
		m, err := sub.NextMsgWithContext(waiting)
		cancel()
		if err != nil {
			return 0, false, err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "404":
			return last, false, nil
		case "204": // the end of the batch
			pending, err := strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
			return last, pending > 0 && last > 0 && last < to, err
		case "503":
			return last, false, nats.ErrNoResponders
		default:
			return last, false, fmt.Errorf("status %s: %s", status, m.Header.Get("Description"))
		}
		one, err := storedDirect(m)
		if err != nil {
			return last, false, err
		}
		last = one.Sequence
		if last > to {
			continue // to the end of the batch
		}
		if err := do(one); err != nil {
			return last, false, err
		}
	}
}

// storedDirect is a message of a stream as a direct get answers it.
func storedDirect(m *nats.Msg) (Stored, error) {
	sequence, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return Stored{}, fmt.Errorf("no sequence in an answer: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	if err != nil {
		return Stored{}, fmt.Errorf("no time in an answer: %w", err)
	}
	return Stored{Sequence: sequence, Time: at, Subject: m.Header.Get(jetstream.SubjectHeader), Header: m.Header, Data: m.Data}, nil
}

// PurgeRetry removes everything that waits for an endpoint in RELAY_RETRY, as far as it was stored before a sequence of that
// stream; 0 = all of it.
func (b *Bus) PurgeRetry(ctx context.Context, endpoint string, before uint64) error {
	s, err := b.js.Stream(ctx, StreamRetry)
	if err != nil {
		return fmt.Errorf("remove what waits for %s: %w", endpoint, err)
	}
	for _, subject := range RetrySubjects(endpoint) {
		opts := []jetstream.StreamPurgeOpt{jetstream.WithPurgeSubject(subject)}
		if before > 0 {
			opts = append(opts, jetstream.WithPurgeSequence(before))
		}
		if err := s.Purge(ctx, opts...); err != nil {
			return fmt.Errorf("remove what waits for %s: %w", endpoint, err)
		}
	}
	return nil
}

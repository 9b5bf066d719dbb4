package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/event"
)

// Known is what the log tells of one insight it holds.
type Known struct {
	ID          string
	Fingerprint string
	Emitted     time.Time // as Nex said; zero if it gave no time
	Stored      time.Time // when the log took it
	Sequence    uint64
}

// Stored is one event as it stands in the log.
type Stored struct {
	Sequence uint64
	Time     time.Time // when the log took it
	Subject  string
	Header   nats.Header
	Data     []byte
}

// ErrNotInLog is returned by [Bus.Get] for a sequence that the log does not hold any more.
var ErrNotInLog = errors.New("no longer in the log")

// Get reads one event by its sequence.
func (b *Bus) Get(ctx context.Context, sequence uint64) (*Stored, error) {
	m, err := b.nex.GetMsg(ctx, sequence)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, fmt.Errorf("sequence %d: %w", sequence, ErrNotInLog)
	}
	if err != nil {
		return nil, fmt.Errorf("read sequence %d: %w", sequence, err)
	}
	return &Stored{Sequence: m.Sequence, Time: m.Time, Subject: m.Subject, Header: m.Header, Data: m.Data}, nil
}

// Last reads the newest event of a subject, [ErrNotInLog] if there is none.
func (b *Bus) Last(ctx context.Context, subject string) (*Stored, error) {
	m, err := b.nex.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, fmt.Errorf("%s: %w", subject, ErrNotInLog)
	}
	if err != nil {
		return nil, fmt.Errorf("read last of %s: %w", subject, err)
	}
	return &Stored{Sequence: m.Sequence, Time: m.Time, Subject: m.Subject, Header: m.Header, Data: m.Data}, nil
}

// Recent reads back the newest insights of a workspace, oldest first: about n of them, headers alone, whatever the
// size of the log. It costs a handful of requests and the memory of what it returns.
func (b *Bus) Recent(ctx context.Context, workspace string, n int) ([]Known, error) {
	filter := event.Subject(workspace, event.InsightPrefix+">")
	info, err := b.nex.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("read back %s: %w", workspace, err)
	}
	start, pending, err := b.tail(ctx, filter, info.State.FirstSeq, info.State.LastSeq, uint64(n))
	if err != nil {
		return nil, fmt.Errorf("read back %s: %w", workspace, err)
	}
	if pending == 0 {
		return nil, nil
	}
	out, err := b.headers(ctx, filter, start, pending)
	if err != nil {
		return nil, fmt.Errorf("read back %s: %w", workspace, err)
	}
	if len(out) > n {
		out = out[len(out)-n:]
	}
	return out, nil
}

// tail finds a sequence from which at least n messages of filter follow, and how many do. JetStream cannot start "n
// before the end" of a subject, but says at once how many messages would follow a start: so the start goes back in
// growing steps, then in halves if one step caught many times too much.
func (b *Bus) tail(ctx context.Context, filter string, first, last, n uint64) (start, pending uint64, err error) {
	if last == 0 || last < first {
		return first, 0, nil
	}
	step := max(2*n, 1024)
	tooFew := last + 1
	for {
		start = first
		if last-first > step {
			start = last - step
		}
		if pending, err = b.follow(ctx, filter, start); err != nil {
			return 0, 0, err
		}
		if pending >= n || start == first {
			break
		}
		tooFew, step = start, step*16
	}
	for pending > 16*n && start+1 < tooFew {
		mid := start + (tooFew-start)/2
		p, err := b.follow(ctx, filter, mid)
		if err != nil {
			return 0, 0, err
		}
		if p >= n {
			start, pending = mid, p
		} else {
			tooFew = mid
		}
	}
	return start, pending, nil
}

func (b *Bus) follow(ctx context.Context, filter string, start uint64) (uint64, error) {
	c, err := b.nex.CreateConsumer(ctx, tailConsumer(filter, start))
	if err != nil {
		return 0, err
	}
	info := c.CachedInfo()
	_ = b.nex.DeleteConsumer(ctx, info.Name) // it would end by itself
	return info.NumPending, nil
}

func tailConsumer(filter string, start uint64) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		FilterSubject:     filter,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       start,
		AckPolicy:         jetstream.AckNonePolicy,
		HeadersOnly:       true,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: 10 * time.Second,
	}
}

func (b *Bus) headers(ctx context.Context, filter string, start, count uint64) ([]Known, error) {
	c, err := b.nex.CreateConsumer(ctx, tailConsumer(filter, start))
	if err != nil {
		return nil, err
	}
	defer func() { _ = b.nex.DeleteConsumer(context.WithoutCancel(ctx), c.CachedInfo().Name) }()
	out := make([]Known, 0, count)
	for uint64(len(out)) < count {
		batch, err := c.Fetch(int(min(count-uint64(len(out)), 500)), jetstream.FetchContext(ctx))
		if err != nil {
			return nil, err
		}
		got := 0
		for m := range batch.Messages() {
			got++
			meta, err := m.Metadata()
			if err != nil {
				return nil, err
			}
			out = append(out, known(m.Headers(), meta.Timestamp, meta.Sequence.Stream))
			if meta.NumPending == 0 {
				count = uint64(len(out)) // some may have been removed since they were counted
			}
		}
		if err := batch.Error(); err != nil && got == 0 {
			return nil, err
		}
	}
	return out, nil
}

func known(h nats.Header, stored time.Time, sequence uint64) Known {
	k := Known{ID: h.Get(nats.MsgIdHdr), Fingerprint: h.Get(HeaderFingerprint), Stored: stored, Sequence: sequence}
	if at := h.Get(HeaderEmitted); at != "" {
		k.Emitted, _ = time.Parse(time.RFC3339Nano, at) // ours; a foreign one counts as none
	}
	return k
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/event"
)

// Headers that an event carries in the log beside Nats-Msg-Id, which is its id.
const (
	HeaderContentType = "Content-Type"
	HeaderTraceparent = "traceparent"
	// HeaderFingerprint and HeaderEmitted are the identity of an insight, so that reading it back needs no bodies.
	HeaderFingerprint = "Relay-Fingerprint"
	HeaderEmitted     = "Relay-Emitted-At"
	// HeaderVia and HeaderReceived are how an insight came from Nex, and when.
	HeaderVia      = "Relay-Via"
	HeaderReceived = "Relay-Received-At"
)

// ErrTooLarge is returned for an event that the server does not take: its max_payload bounds it, or the stream's
// max_msg_size. Waiting does not help.
var ErrTooLarge = errors.New("event exceeds the NATS server's max_payload or the stream's max_msg_size")

// Ack says that an event is in the log.
type Ack struct {
	Sequence uint64
	// Duplicate is set when the log already had the id, at Sequence.
	Duplicate bool
}

// Pending is a publish on its way. Each must be waited for: its place among those in flight is given back then.
type Pending struct {
	bus    *Bus
	future jetstream.PubAckFuture
	weight int64
	start  time.Time
}

// PublishAsync hands an event to NATS and returns before the answer. It blocks while too much is in flight: this is
// how a slow log slows its sources. messageID is the id by which the log knows doubles, usually e.ID.
func (b *Bus) PublishAsync(ctx context.Context, e *event.Event, messageID string) (*Pending, error) {
	msg := message(e, messageID)
	if int64(msg.Size()) > b.nc.MaxPayload() && b.nc.MaxPayload() > 0 {
		return nil, fmt.Errorf("%w: %d > %d bytes", ErrTooLarge, msg.Size(), b.nc.MaxPayload())
	}
	weight := min(max(int64(msg.Size()), pendingWeight), b.weight)
	if err := b.pending.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	future, err := b.js.PublishMsgAsync(msg)
	if err != nil {
		b.pending.Release(weight)
		return nil, fmt.Errorf("publish: %w", err)
	}
	return &Pending{bus: b, future: future, weight: weight, start: time.Now()}, nil
}

// Wait returns when the event is in the log, or why it may not be. After an error the event may still have arrived:
// publishing it again under the same message id is safe.
func (p *Pending) Wait(ctx context.Context) (Ack, error) {
	defer p.bus.pending.Release(p.weight)
	select {
	case ack := <-p.future.Ok():
		p.bus.metrics.publishSeconds.Observe(time.Since(p.start).Seconds())
		return Ack{Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
	case err := <-p.future.Err():
		return Ack{}, fmt.Errorf("publish: %w", err)
	case <-ctx.Done():
		return Ack{}, ctx.Err()
	}
}

// ErrConflict is returned by [Bus.Append] where the subject's newest event is another than the caller knows of.
var ErrConflict = errors.New("somebody else has written to the subject")

// Anywhere says to [Bus.Append] that it does not matter what the subject holds.
const Anywhere = math.MaxUint64

// Append publishes an event if the newest of its subject in the log has the sequence last (0: there is none), else it
// fails with [ErrConflict]. So two writers that know what the log holds cannot both write what only one of them may.
// Its place must have been reserved, see [Bus.Reserve]. After another error the event may still have arrived.
func (b *Bus) Append(ctx context.Context, e *event.Event, messageID string, last uint64) (Ack, error) {
	msg := message(e, messageID)
	if int64(msg.Size()) > b.nc.MaxPayload() && b.nc.MaxPayload() > 0 {
		return Ack{}, fmt.Errorf("%w: %d > %d bytes", ErrTooLarge, msg.Size(), b.nc.MaxPayload())
	}
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	start := time.Now()
	var opts []jetstream.PublishOpt
	if last != Anywhere {
		opts = append(opts, jetstream.WithExpectLastSequencePerSubject(last))
	}
	ack, err := b.js.PublishMsg(ctx, msg, opts...)
	if err == nil {
		b.failed.Store(0)
		b.failing.Store(0)
		b.metrics.publishSeconds.Observe(time.Since(start).Seconds())
		return Ack{Sequence: ack.Sequence, Duplicate: ack.Duplicate}, nil
	}
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant) {
		return Ack{}, fmt.Errorf("%w: %w", ErrConflict, err)
	}
	if errors.Is(err, jetstream.ErrStreamMessageExceedsMaximum) {
		return Ack{}, fmt.Errorf("%w: %d bytes: %w", ErrTooLarge, msg.Size(), err)
	}
	b.failed.Store(time.Now().UnixNano())
	b.failing.CompareAndSwap(0, start.UnixNano())
	return Ack{}, fmt.Errorf("publish: %w", err)
}

// Writable tells whether the log took what was last appended, and the server inside has not given its store up. A failure
// that nobody repeats is forgotten after a while.
func (b *Bus) Writable() bool {
	at := b.failed.Load()
	if b.embedded != nil && b.embedded.failed() {
		return false
	}
	return at == 0 || time.Since(time.Unix(0, at)) > 2*ackTimeout
}

// failingSince is the begin of the first append that failed since one did not; zero if the last one did not fail.
func (b *Bus) failingSince() time.Time {
	if at := b.failing.Load(); at != 0 && !b.Writable() {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// Reserve takes the place of an event among those in flight, over all sources: this is how a slow log slows them. It
// blocks while there is none. The place is given back with the function it answers.
func (b *Bus) Reserve(ctx context.Context, size int) (release func(), err error) {
	weight := min(max(int64(size), pendingWeight), b.weight)
	if err := b.pending.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	return func() { b.pending.Release(weight) }, nil
}

// Publish is [Bus.PublishAsync] and its answer.
func (b *Bus) Publish(ctx context.Context, e *event.Event) (Ack, error) {
	p, err := b.PublishAsync(ctx, e, e.ID)
	if err != nil {
		return Ack{}, err
	}
	return p.Wait(ctx)
}

func message(e *event.Event, messageID string) *nats.Msg {
	h := nats.Header{
		nats.MsgIdHdr:     {messageID},
		HeaderContentType: {event.ContentType},
		HeaderTraceparent: {e.Traceparent},
	}
	if e.Fingerprint != "" {
		h[HeaderFingerprint] = []string{e.Fingerprint}
	}
	if !e.Emitted.IsZero() {
		h[HeaderEmitted] = []string{e.Emitted.UTC().Format(time.RFC3339Nano)}
	}
	if e.Via != "" {
		h[HeaderVia], h[HeaderReceived] = []string{e.Via}, []string{e.Received.UTC().Format(time.RFC3339Nano)}
	}
	return &nats.Msg{Subject: e.NATSSubject(), Header: h, Data: e.JSON()}
}

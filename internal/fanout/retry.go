package fanout

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
)

// reference is a delivery as it waits in RELAY_RETRY. The event stays in the log.
type reference struct {
	Sequence uint64 `json:"sequence"`
	ID       string `json:"id"`
	Endpoint string `json:"endpoint"`
	Attempt  int    `json:"attempt"`
}

// park stores a delivery until a time, then settles it here. It returns at once, but waits while too many writes are
// under way. A delivery has one waiting place: one that comes twice (after a crash, say) waits once.
func (f *Fanout) park(d *delivery, at time.Time) {
	f.write(d, "store delivery for later", func() error {
		payload, err := json.Marshal(reference{Sequence: d.sequence, ID: d.id, Endpoint: d.endpoint, Attempt: d.attempt})
		if err != nil {
			return backoff.Permanent(err)
		}
		due := bus.RetryDueSubject(d.endpoint)
		msg := &nats.Msg{Subject: due, Data: payload}
		var opts []jetstream.PublishOpt
		if at = ceilSecond(at); at.After(time.Now()) {
			msg.Subject = bus.RetryWaitSubject(d.endpoint, d.sequence)
			opts = []jetstream.PublishOpt{jetstream.WithScheduleAt(at), jetstream.WithScheduleTarget(due)}
		}
		ctx, cancel := context.WithTimeout(f.storeCtx, storeTimeout)
		defer cancel()
		_, err = f.cfg.Bus.JetStream().PublishMsg(ctx, msg, opts...)
		return err
	})
}

// ceilSecond rounds up: schedules are kept in whole seconds, and an attempt must not come early.
func ceilSecond(t time.Time) time.Time {
	if s := t.Truncate(time.Second); s.Before(t) {
		return s.Add(time.Second)
	}
	return t
}

// write repeats a write until it succeeded, in the background, then settles the delivery. If the relay stops first, the
// delivery stays unsettled: its message comes again.
func (f *Fanout) write(d *delivery, what string, step func() error) {
	if f.storing.Acquire(f.storeCtx, 1) != nil {
		return
	}
	f.attempts.Go(func() {
		defer f.storing.Release(1)
		if err := f.untilDone(what, step); err == nil {
			d.held.settle()
		}
	})
}

func (f *Fanout) untilDone(what string, step func() error) error {
	wait := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(50*time.Millisecond), backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(0))
	said := false
	err := backoff.RetryNotify(step, backoff.WithContext(wait, f.storeCtx), func(err error, _ time.Duration) {
		if !said {
			f.log.Warn("write failed, trying on", "what", what, "error", err)
			said = true
		}
	})
	if err != nil && f.storeCtx.Err() == nil {
		f.log.Error("write given up", "what", what, "error", err)
	}
	return err
}

// handleDue gives a delivery whose time has come to its lane.
func (f *Fanout) handleDue(ctx context.Context, m jetstream.Msg) {
	var ref reference
	if err := json.Unmarshal(m.Data(), &ref); err != nil || !endpoint.IDForm.MatchString(ref.Endpoint) || ref.Sequence == 0 || ref.Attempt < 1 {
		f.log.Error("a waiting delivery cannot be read, dropped", "subject", m.Subject(), "error", err)
		_ = m.Term()
		return
	}
	e := f.cfg.Endpoints.Snapshot().Get(ref.Endpoint)
	if e == nil { // deleted since
		_ = m.Ack()
		return
	}
	h := f.hold(ctx, m, len(m.Data()), 1)
	if h == nil {
		return
	}
	f.hand(ctx, e, &delivery{endpoint: ref.Endpoint, sequence: ref.Sequence, id: ref.ID, attempt: ref.Attempt, held: h})
}

// eventID is the id of a stored event. One that somebody else put into the log may have none: its place serves.
func eventID(h nats.Header, sequence uint64) string {
	if id := h.Get(nats.MsgIdHdr); id != "" {
		return id
	}
	return fmt.Sprintf("seq_%d", sequence)
}

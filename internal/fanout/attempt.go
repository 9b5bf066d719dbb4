package fanout

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/webhook"
)

// disabledPause is when a delivery that is due for a disabled endpoint is looked at again.
const disabledPause = 15 * time.Minute

// attemptDelivery makes one attempt and sees the delivery to its next place: settled, stored for later, or dead.
func (f *Fanout) attemptDelivery(l *lane, d *delivery) {
	e := f.cfg.Endpoints.Snapshot().Get(d.endpoint)
	switch {
	case e == nil: // deleted since
		d.held.settle()
		return
	case !e.Active():
		f.park(d, time.Now().Add(disabledPause))
		return
	}
	if err := f.load(d); err != nil {
		f.unreadable(d, err)
		return
	}
	start := time.Now()
	result := f.send(e, d, start)
	now := time.Now()
	decision := f.cfg.Policy.Decide(result, d.attempt, now.Sub(d.event.stored), now, jitter())

	f.metrics.observe(result, d.event.stored, now)
	f.report(l, d, result, decision)
	if result.Outcome != webhook.Canceled {
		f.records.add(newAttempt(d, start, result, decision))
	}
	if decision.Pause {
		l.pause(decision.At)
	}
	f.settle(d, result, decision)
}

// load fetches the event of a delivery that was stored as a reference.
func (f *Fanout) load(d *delivery) error {
	if d.event != nil {
		return nil
	}
	m, err := f.cfg.Bus.Get(f.attemptCtx, d.sequence)
	if err != nil {
		return err
	}
	workspace, eventType, _ := event.SplitSubject(m.Subject)
	ev := &message{
		sequence: m.Sequence, stored: m.Time, workspace: workspace, eventType: eventType, id: eventID(m.Header, m.Sequence),
		traceparent: m.Header.Get(bus.HeaderTraceparent), data: m.Data,
	}
	if ev.id != d.id { // the log was made anew: the sequence means another event now
		return fmt.Errorf("sequence %d holds another event: %w", d.sequence, bus.ErrNotInLog)
	}
	d.event = ev
	return nil
}

// unreadable handles a delivery whose event cannot be fetched.
func (f *Fanout) unreadable(d *delivery, err error) {
	if errors.Is(err, bus.ErrNotInLog) {
		f.log.Error("delivery given up: its event has left the log; keep stream.max_age longer than webhooks.schedule",
			"endpoint", d.endpoint, "event", d.id, "attempt", d.attempt, "error", err)
		f.bury(d, deadLetter{Reason: "event_expired", Error: err.Error()})
		return
	}
	// NATS is away or slow: no fault of the endpoint, no attempt spent.
	f.park(d, time.Now().Add(5*time.Second))
}

func (f *Fanout) send(e *endpoint.Endpoint, d *delivery, at time.Time) webhook.Result {
	target, err := url.Parse(e.URL)
	if err != nil {
		return webhook.Result{Outcome: webhook.InvalidRequest, Err: errors.New("url does not parse")}
	}
	var header http.Header
	if len(e.Headers) > 0 {
		header = make(http.Header, len(e.Headers))
		for k, v := range e.Headers {
			header.Set(k, v)
		}
	}
	return f.cfg.Sender.Send(f.attemptCtx, &webhook.Request{
		URL: target, ID: d.event.id, Body: d.event.data, ContentType: event.ContentType,
		Traceparent: event.ChildTraceparent(d.event.traceparent), Header: header, Secrets: e.Secrets,
		Timeout: orDefault(e.Timeout, f.cfg.Timeout), At: at,
	})
}

// settle carries out a decision.
func (f *Fanout) settle(d *delivery, result webhook.Result, decision Decision) {
	switch decision.Verdict {
	case Done:
		d.held.settle()
	case Retry:
		d.attempt = decision.Attempt
		f.park(d, decision.At)
	case Dead:
		f.bury(d, deadLetter{Reason: "attempts_used_up", Outcome: result.Outcome, Status: result.StatusCode, Error: errorText(result.Err)})
	case Disable:
		f.disable(d)
	}
}

// disable switches off an endpoint that answered 410, and is done with the delivery.
func (f *Fanout) disable(d *delivery) {
	f.write(d, "disable endpoint", func() error {
		changed, err := f.cfg.Endpoints.Disable(f.storeCtx, d.endpoint, "the receiver answered 410 Gone", time.Now())
		if errors.Is(err, endpoint.ErrNotFound) {
			return nil
		}
		if err != nil || !changed {
			return err
		}
		f.log.Warn("endpoint disabled: it answered 410 Gone", "endpoint", d.endpoint)
		return f.news(event.EndpointDisabled, d.endpoint, map[string]any{"endpoint": d.endpoint, "reason": "gone", "status": http.StatusGone, "event_id": d.id})
	})
}

// report says once that an endpoint began to fail, once more when the reason changes, and once that it is over.
func (f *Fanout) report(l *lane, d *delivery, result webhook.Result, decision Decision) {
	if result.Outcome == webhook.Canceled {
		return
	}
	reason := ""
	if result.Outcome != webhook.Delivered {
		reason = fmt.Sprintf("%s %d", result.Outcome, result.StatusCode)
	}
	changed, before := l.note(reason)
	switch {
	case !changed:
	case reason != "":
		log := f.log.With("endpoint", d.endpoint, "event", d.id, "attempt", d.attempt, "outcome", result.Outcome)
		if result.StatusCode != 0 {
			log = log.With("status", result.StatusCode)
		}
		if result.Err != nil {
			log = log.With("error", result.Err)
		}
		if decision.Verdict == Retry {
			log = log.With("at", decision.At)
		}
		log.Warn("delivery failed", "next", decision.Verdict)
	default:
		f.log.Info("endpoint answers again", "endpoint", d.endpoint, "before", before)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

package fanout

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/shape"
	"github.com/nex-crm/relay/internal/webhook"
)

// attemptDelivery makes one attempt and sees the delivery to its next place: settled, stored for later, or dead. It answers what
// the lane counts for it.
func (f *Fanout) attemptDelivery(l *lane, d *delivery) (weight int) {
	began := time.Now() // before the endpoint is looked at
	e, weight := f.ready(l, d)
	if e == nil {
		return weight
	}
	if f.unconsented(e) { // it has become another since it was asked
		f.backlog(d)
		return weight
	}
	result, decision := f.attempt(l, e, d)
	f.settle(l, e, d, began, result, decision)
	return weight
}

// ready sees that a delivery is still one for its endpoint, and has its event. If not it sees to it and answers nil.
func (f *Fanout) ready(l *lane, d *delivery) (e *endpoint.Endpoint, weight int) {
	weight = d.weight
	e = f.cfg.Endpoints.Snapshot().Get(d.endpoint)
	if e == nil || !e.Active() || d.forced == "" && d.sequence <= e.State.Position { // until its place is given up, as its owner wishes
		f.backlog(d)
		return nil, weight
	}
	if d.event == nil {
		if err := f.load(d); err != nil {
			f.unreadable(d, err)
			return nil, weight
		}
		stays := l.read(d, len(d.event.data))
		weight = d.weight
		if !stays {
			d.event = nil
			f.backlog(d)
			return nil, weight
		}
		d.unasked = true // its owner may have narrowed it since
	}
	if f.erased(d) {
		d.settle()
		return nil, weight
	}
	if d.forced != "" {
		return e, weight
	}
	if e.Past(d.sequence, d.event.stored) { // it was for another endpoint with this id, or is to be skipped
		d.settle()
		return nil, weight
	}
	if !d.unasked {
		return e, weight
	}
	wanted, err := f.wants(f.runCtx, e, d.event)
	switch {
	case err != nil: // stopping
		f.backlog(d)
		return nil, weight
	case !wanted:
		d.settle()
		return nil, weight
	}
	d.unasked = false
	return e, weight
}

// attempt is one POST and what is to be learned from it.
func (f *Fanout) attempt(l *lane, e *endpoint.Endpoint, d *delivery) (webhook.Result, Decision) {
	start := time.Now()
	result := f.send(f.attemptCtx, e, d, start)
	return result, f.conclude(l, e, d, start, result)
}

// conclude takes what an attempt that began at start tells about the endpoint, and decides what becomes of the delivery.
func (f *Fanout) conclude(l *lane, e *endpoint.Endpoint, d *delivery, start time.Time, result webhook.Result) Decision {
	now := time.Now()
	f.made.Add(1)
	f.metrics.observe(result, d.event.stored, now)
	if result.Outcome != webhook.Delivered && result.Outcome != webhook.Canceled && f.cfg.Endpoints.Replaced(e) {
		// It tells of another URL, or of another endpoint: that is not held against this one, which is tried at once.
		decision := Decision{Verdict: Retry, At: now, Attempt: d.attempt}
		f.record(d, start, result, decision)
		return decision
	}
	if result.PutOff() && result.Outcome != webhook.Canceled && d.since == 0 {
		d.since = now.Unix()
	}
	decision := f.cfg.Policy.Decide(result, d.attempt, putOff(d, now), now, jitter(d, now))
	f.report(l, d, result, decision)
	if result.Outcome != webhook.Canceled {
		f.record(d, start, result, decision)
	}
	run := circuitRun
	if e.Ordered {
		run = circuitRunOrdered
	}
	change := l.learn(result, decision, start, now, run)
	for _, other := range change.evicted {
		f.backlog(other)
	}
	f.health(e, d, result, change, now)
	if result.Control == webhook.ControlDisable && decision.Verdict != Disable {
		f.disable(e, "the receiver asked for it (webhook-delivery: disable)", "asked", nil, nil, map[string]any{"status": result.StatusCode, "event_id": d.id})
	}
	return decision
}

// record writes an attempt down, unless its event was erased meanwhile.
func (f *Fanout) record(d *delivery, start time.Time, result webhook.Result, decision Decision) {
	if !f.erased(d) {
		f.records.add(newAttempt(d, start, result, decision))
	}
}

// putOff is for how long the receiver has put a delivery off.
func putOff(d *delivery, now time.Time) time.Duration {
	if d.since == 0 {
		return 0
	}
	return now.Sub(time.Unix(d.since, 0))
}

// jitter is a number in [-1, 1] that spreads retries. What fails at an endpoint at one time comes again at one time, so that
// it can wait together; other endpoints, and other times, come at others.
func jitter(d *delivery, now time.Time) float64 {
	var buf [96]byte // enough for an endpoint's id: this runs with every attempt
	b := append(buf[:0], d.endpoint...)
	b = strconv.AppendInt(append(b, ' '), int64(d.attempt), 10)
	b = strconv.AppendInt(append(b, ' '), now.UnixMilli()/jitterSpan.Milliseconds(), 10)
	h := fnv.New32a()
	_, _ = h.Write(b)
	return float64(h.Sum32())/math.MaxUint32*2 - 1
}

const jitterSpan = 100 * time.Millisecond

// load fetches the event of a delivery that was stored as a reference.
func (f *Fanout) load(d *delivery) error {
	if d.inline != nil {
		d.event = inlineMessage(d)
		return nil
	}
	ev, err := f.reread.get(f.attemptCtx, d.sequence, func() (*message, error) {
		if err := f.loads.Acquire(f.attemptCtx, 1); err != nil {
			return nil, err
		}
		defer f.loads.Release(1)
		m, err := f.cfg.Bus.Get(f.attemptCtx, d.sequence)
		if err != nil {
			return nil, err
		}
		return newMessage(m.Subject, m.Header, m.Sequence, m.Time, m.Data), nil
	})
	if err != nil {
		return err
	}
	if d.id != "" && ev.id != d.id { // the log was made anew: the sequence means another event now
		return fmt.Errorf("sequence %d holds another event: %w", d.sequence, bus.ErrNotInLog)
	}
	d.event, d.id, d.workspace = ev, ev.id, ev.workspace
	return nil
}

// unreadable handles a delivery whose event cannot be fetched.
func (f *Fanout) unreadable(d *delivery, err error) {
	if errors.Is(err, bus.ErrNotInLog) && f.erasedUnread(d) {
		d.settle()
		return
	}
	if errors.Is(err, bus.ErrNotInLog) {
		f.log.Error("delivery given up: its event has left the log; keep stream.max_age longer than webhooks.schedule",
			"endpoint", d.endpoint, "event", d.id, "attempt", d.attempt, "error", err)
		f.bury(d, DeadLetter{Reason: ReasonExpired, Error: err.Error()})
		return
	}
	// NATS is away or slow: no fault of the endpoint, no attempt spent.
	f.park(d, time.Now().Add(5*time.Second))
}

func (f *Fanout) send(ctx context.Context, e *endpoint.Endpoint, d *delivery, at time.Time) webhook.Result {
	target, err := url.Parse(e.URL)
	if err != nil {
		return webhook.Result{Outcome: webhook.InvalidRequest, Err: errors.New("url does not parse")}
	}
	body, err := e.Form.Render(d.event.data, d.sequence, d.attempt)
	if err != nil {
		return webhook.Result{Outcome: webhook.InvalidRequest, Err: err}
	}
	req := &webhook.Request{
		URL: target, ID: d.event.id, Body: body.Data, ContentType: body.ContentType, Attributes: body.Header, Sequence: d.sequence, Attempt: d.attempt,
		Traceparent: event.ChildTraceparent(d.event.traceparent), Header: header(e), Secrets: e.Signing(at),
		Timeout: orDefault(e.Timeout, f.cfg.Timeout), At: at, Route: e.Route, Origin: f.origin(e),
	}
	if body.Encoding != "" {
		if req.Encoded, err = shape.Compress(body.Data); err != nil {
			return webhook.Result{Outcome: webhook.InvalidRequest, Err: fmt.Errorf("compress: %w", err)}
		}
		req.Encoding = body.Encoding
	}
	return f.cfg.Sender.Send(ctx, req)
}

// origin is what names us to a receiver that was asked for its consent, empty for others.
func (f *Fanout) origin(e *endpoint.Endpoint) string {
	if !e.Handshake {
		return ""
	}
	return f.cfg.Origin
}

// unconsented tells whether an endpoint's receiver has still to be asked for its consent.
func (f *Fanout) unconsented(e *endpoint.Endpoint) bool {
	return e != nil && e.Handshake && e.GrantedNow(f.cfg.Origin) == nil
}

// consent sees that the receiver has agreed, where that is asked for. If it has not, or the endpoint is to get nothing by now, it
// sees to the delivery and answers false.
func (f *Fanout) consent(l *lane, e *endpoint.Endpoint, d *delivery) bool {
	start := time.Now()
	result, agreed := f.handshake(e)
	switch {
	case !f.active(e.ID):
		f.backlog(d)
	case !agreed:
		f.settle(l, e, d, start, result, f.conclude(l, e, d, start, result))
	default:
		return true
	}
	return false
}

// handshake sees that the receiver has consented, where that is asked for: agreed, or the result of an attempt that was not made.
// Those that come while it is being asked share its answer.
func (f *Fanout) handshake(e *endpoint.Endpoint) (result webhook.Result, agreed bool) {
	if !f.unconsented(e) {
		return webhook.Result{}, true
	}
	answer, _, _ := f.granting.Do(e.ID+" "+e.URL, func() (any, error) { return f.askConsent(f.attemptCtx, e), nil })
	if refused := answer.(*webhook.Result); refused != nil {
		return *refused, false
	}
	if now := f.cfg.Endpoints.Snapshot().Get(e.ID); now != nil {
		f.lane(now) // it has named its rate
	}
	return webhook.Result{}, true
}

// askConsent asks a receiver, and answers nil if it agrees.
func (f *Fanout) askConsent(ctx context.Context, e *endpoint.Endpoint) *webhook.Result {
	now := f.cfg.Endpoints.Snapshot().Get(e.ID)
	switch {
	case now == nil || !now.Active():
		return &webhook.Result{Outcome: webhook.Canceled, Err: errInactive}
	case now.URL == e.URL && !f.unconsented(now):
		return nil // the one before was granted it
	}
	start := time.Now()
	target, err := url.Parse(e.URL)
	if err != nil {
		return &webhook.Result{Outcome: webhook.InvalidRequest, Err: errors.New("url does not parse")}
	}
	v, err := f.cfg.Sender.Validate(ctx, &webhook.ValidationRequest{
		URL: target, Origin: f.cfg.Origin, Header: header(e), Route: e.Route, Timeout: orDefault(e.Timeout, f.cfg.Timeout),
	})
	if err == nil {
		err = f.cfg.Endpoints.Grant(ctx, e.ID, e.URL, f.cfg.Origin, v.Rate, time.Now())
	}
	switch {
	case err == nil:
		f.log.Info("receiver has consented to deliveries", "endpoint", e.ID, "rate_per_minute", v.Rate)
		return nil
	case ctx.Err() != nil:
		return &webhook.Result{Outcome: webhook.Canceled, Err: err, Duration: time.Since(start)}
	}
	result := &webhook.Result{Outcome: webhook.NotGranted, Err: err, Duration: time.Since(start)}
	var answer *webhook.AnswerError
	if errors.As(err, &answer) && answer.Result.PutOff() {
		said := answer.Result
		result.StatusCode, result.RetryAfter, result.HasRetryAfter, result.Overloaded = said.StatusCode, said.RetryAfter, said.HasRetryAfter, said.Overloaded
		if said.Outcome == webhook.Throttled {
			result.Outcome = webhook.Throttled
		}
	}
	return result
}

// header is an endpoint's own.
func header(e *endpoint.Endpoint) http.Header {
	if len(e.Headers) == 0 {
		return nil
	}
	h := make(http.Header, len(e.Headers))
	for k, v := range e.Headers {
		h.Set(k, v)
	}
	return h
}

// settle carries out the decision on an attempt that began at a time.
func (f *Fanout) settle(l *lane, e *endpoint.Endpoint, d *delivery, began time.Time, result webhook.Result, decision Decision) {
	if decision.Verdict != Disable && f.erased(d) { // while it was in flight
		d.settle()
		return
	}
	switch decision.Verdict {
	case Done:
		d.settle()
	case Retry:
		d.attempt = decision.Attempt
		if result.Outcome == webhook.Canceled {
			f.backlog(d)
			return
		}
		f.park(d, decision.At)
	case Dead:
		f.bury(d, DeadLetter{Reason: decision.Reason, Outcome: result.Outcome, Status: result.StatusCode, Error: errorText(result.Err)})
	case Disable:
		if !l.firstGone(began) { // one of those in flight when the first said so: it waits for what its owner decides
			f.backlog(d)
			return
		}
		f.disable(e, "the receiver answered 410 Gone", "gone", d, l.disabled, map[string]any{"status": result.StatusCode, "event_id": d.id})
	}
}

// disable switches an endpoint off, which off, if any, hears, then is done with the delivery, which may be nil. why is for its
// owner, reason for programs.
func (f *Fanout) disable(e *endpoint.Endpoint, why, reason string, d *delivery, off func(), details map[string]any) {
	var list []*delivery
	if d != nil {
		list = append(list, d)
	}
	ours := false
	f.write(list, "disable endpoint", func() error {
		changed, err := f.cfg.Endpoints.DisableIf(f.storeCtx, e, why, time.Now())
		if err == nil && off != nil {
			off()
		}
		if ours = ours || changed; err != nil || !ours {
			return err
		}
		f.log.Warn("endpoint disabled: "+why+"; it keeps its place in the log", "endpoint", e.ID)
		data := map[string]any{"endpoint": e.ID, "reason": reason}
		maps.Copy(data, details)
		return f.news(event.EndpointDisabled, e.ID, data)
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

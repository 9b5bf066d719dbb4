package fanout

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/webhook"
)

// Attempt is one delivery attempt as it stands in RELAY_ATTEMPTS.
type Attempt struct {
	EventID    string          `json:"event_id"`
	Sequence   uint64          `json:"sequence"`
	Endpoint   string          `json:"endpoint"`
	Workspace  string          `json:"workspace"`
	Type       string          `json:"type"`
	Attempt    int             `json:"attempt"`
	At         time.Time       `json:"at"`
	DurationMS float64         `json:"duration_ms"`
	Outcome    webhook.Outcome `json:"outcome"`
	Status     int             `json:"status,omitempty"` // 0 without an answer
	Error      string          `json:"error,omitempty"`
	Response   string          `json:"response,omitempty"` // the answer's first KiB
	Verdict    Verdict         `json:"verdict"`
	NextAt     *time.Time      `json:"next_at,omitempty"`
	// Request is nil where none could be made, and in records of relays that did not keep it.
	Request *webhook.Sent `json:"request,omitempty" doc:"Left out where none could be made. Whether it was sent tells the outcome."`
	// ResponseHeaders are the answer's, without what is secret.
	ResponseHeaders map[string]string `json:"response_headers,omitempty" doc:"The answer's, by name: the first of up to 32, 4 KiB in all, 256 bytes if it was delivered. What looks like a credential is redacted."`
}

// ReadAttempt is a record of RELAY_ATTEMPTS with what is not stored because the rest tells it.
func ReadAttempt(record []byte) (*Attempt, error) {
	var a Attempt
	if err := json.Unmarshal(record, &a); err != nil {
		return nil, err
	}
	a.complete()
	return &a, nil
}

func (a *Attempt) complete() {
	if a.Request != nil {
		a.Request.Complete(a.EventID, a.At, a.Sequence, a.Attempt)
	}
}

func newAttempt(d *delivery, start time.Time, result webhook.Result, decision Decision) *Attempt {
	a := &Attempt{
		EventID: d.id, Sequence: d.sequence, Endpoint: d.endpoint, Workspace: d.event.workspace, Type: d.event.eventType,
		Attempt: d.attempt, At: start.UTC(), DurationMS: float64(result.Duration.Microseconds()) / 1000,
		Outcome: result.Outcome, Status: result.StatusCode, Error: errorText(result.Err),
		Response: strings.ToValidUTF8(string(result.Body), "\ufffd"), Verdict: decision.Verdict,
		Request: result.Sent, ResponseHeaders: result.Header,
	}
	if decision.Verdict == Retry {
		at := decision.At.UTC()
		a.NextAt = &at
	}
	return a
}

const (
	// recordQueue is how many records may wait to be written, some 600 bytes each: two to three seconds of full speed.
	recordQueue   = 32768
	recordPending = 4096
	// recordStall is how long the writing may stand still because recordPending records are without an answer. nats.go's own
	// 200 ms are over while a busy machine syncs a file.
	recordStall = 5 * time.Second
)

// recorder writes attempt records beside the deliveries: it may lose records when JetStream cannot keep up, counting
// them, but never delays, stops or repeats a delivery.
type recorder struct {
	log   *slog.Logger
	js    jetstream.JetStream
	queue chan *Attempt
	lost  prometheus.Counter
	said  atomic.Bool
}

func newRecorder(nc *nats.Conn, log *slog.Logger, lost prometheus.Counter) (*recorder, error) {
	r := &recorder{log: log, queue: make(chan *Attempt, recordQueue), lost: lost}
	var err error
	// A context of its own: its limits and its stalls are nobody else's.
	r.js, err = jetstream.New(nc,
		jetstream.WithPublishAsyncMaxPending(recordPending),
		jetstream.WithPublishAsyncTimeout(10*time.Second),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { r.lose(err) }))
	return r, err
}

func (r *recorder) add(a *Attempt) {
	select {
	case r.queue <- a:
	default:
		r.lose(nil)
	}
}

// run writes until ctx ends, then what is still queued.
func (r *recorder) run(ctx context.Context) {
	for {
		select {
		case a := <-r.queue:
			r.write(a)
		case <-ctx.Done():
			r.flush()
			return
		}
	}
}

func (r *recorder) flush() {
	for {
		select {
		case a := <-r.queue:
			r.write(a)
		default:
			select {
			case <-r.js.PublishAsyncComplete():
			case <-time.After(2 * time.Second):
			}
			return
		}
	}
}

func (r *recorder) write(a *Attempt) {
	payload, err := json.Marshal(a)
	if err == nil {
		_, err = r.js.PublishAsync(bus.AttemptSubject(a.Endpoint, string(a.Outcome)), payload, jetstream.WithStallWait(recordStall))
	}
	if err != nil {
		r.lose(err)
	}
}

func (r *recorder) lose(err error) {
	r.lost.Inc()
	if !r.said.Swap(true) {
		r.log.Warn("attempt records are being lost; deliveries go on; see relay_attempt_records_lost_total", "error", err)
	}
}

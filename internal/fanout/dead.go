package fanout

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/webhook"
)

// DeadLetter is a delivery given up, as it stands in RELAY_DEAD. It carries the event: the log may forget it first.
type DeadLetter struct {
	EventID  string `json:"event_id"`
	Sequence uint64 `json:"sequence"`
	Endpoint string `json:"endpoint"`
	// Workspace of the event; empty where it was not known any more.
	Workspace string          `json:"workspace,omitempty"`
	Attempts  int             `json:"attempts"`
	At        time.Time       `json:"at"`
	Reason    string          `json:"reason"` // see the Reason constants
	Class     webhook.Class   `json:"class"`  // the last token of its subject too
	Outcome   webhook.Outcome `json:"outcome,omitempty"`
	Status    int             `json:"status,omitempty"`
	Error     string          `json:"error,omitempty"`
	// Event is the event as it was to be delivered; null where it had left the log.
	Event json.RawMessage `json:"event"`
}

// bury writes the dead letter and says so, then settles the delivery.
func (f *Fanout) bury(d *delivery, letter DeadLetter) {
	letter.EventID, letter.Sequence, letter.Endpoint = d.id, d.sequence, d.endpoint
	letter.Attempts, letter.At = d.attempt, time.Now().UTC()
	if letter.Workspace = d.workspace; letter.Workspace == "" {
		if e := f.cfg.Endpoints.Snapshot().Get(d.endpoint); e != nil && len(e.Workspaces) == 1 {
			letter.Workspace = e.Workspaces[0]
		}
	}
	letter.Class = letter.Outcome.Class(letter.Status)
	if letter.Event = json.RawMessage("null"); d.event != nil && json.Valid(d.event.data) {
		letter.Event = d.event.data
	}
	f.metrics.deadLetters.WithLabelValues(string(letter.Class)).Inc()
	f.write([]*delivery{d}, "store dead letter", func() error {
		payload, err := f.letterText(&letter)
		if err != nil {
			return backoff.Permanent(err)
		}
		ctx, cancel := context.WithTimeout(f.storeCtx, storeTimeout)
		defer cancel()
		msg := &nats.Msg{Subject: bus.DeadSubject(d.endpoint, string(letter.Class)), Data: payload}
		// The id keeps it one letter when the delivery comes again after a crash between this write and the next.
		// What its owner asked for again may die again.
		once := bus.RetryWaitSubject(d.endpoint, d.sequence) + "." + d.forced
		if _, err := f.cfg.Bus.JetStream().PublishMsg(ctx, msg, jetstream.WithMsgID(once)); err != nil {
			return err
		}
		if d.event != nil && event.IsNews(d.event.eventType) {
			return nil
		}
		return f.news(event.EndpointDeadLetter, d.endpoint, map[string]any{
			"endpoint": d.endpoint, "event_id": d.id, "sequence": d.sequence, "attempts": d.attempt, "reason": letter.Reason,
			"outcome": letter.Outcome, "status": letter.Status, "class": letter.Class, "fault": faultOf(letter.Class),
		})
	})
}

// faultOf says on whose side a fault of a class is.
func faultOf(c webhook.Class) string {
	if c.Ours() {
		return "relay"
	}
	return "receiver"
}

// letterText is a dead letter as it is stored: without its event where that leaves no room for the rest. The log has that still.
func (f *Fanout) letterText(letter *DeadLetter) ([]byte, error) {
	payload, err := plainJSON(letter)
	if err == nil && int64(len(payload)) > f.cfg.Bus.Conn().MaxPayload()-headerRoom {
		slim := *letter
		slim.Event = json.RawMessage("null")
		payload, err = plainJSON(slim)
	}
	return payload, err
}

// headerRoom is what the headers of a message may take of what the server takes in all.
const headerRoom = 1 << 10

// plainJSON is a value as JSON whose texts stay as they are: < and > escaped are six times as long.
func plainJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}

// news publishes an operational event about an endpoint.
func (f *Fanout) news(eventType, endpointID string, data any) error {
	e, err := event.News(event.NoWorkspace, eventType, endpointID, data, time.Now())
	if err != nil {
		return backoff.Permanent(err)
	}
	ctx, cancel := context.WithTimeout(f.storeCtx, storeTimeout)
	defer cancel()
	_, err = f.cfg.Bus.Publish(ctx, e)
	return err
}

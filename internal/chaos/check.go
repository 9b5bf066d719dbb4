//go:build unix

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/nexsim"
	"github.com/nex-crm/relay/internal/webhook"
)

// Report is what one run found.
type Report struct {
	Seed     uint64         `json:"seed"`
	Topology Topology       `json:"topology"`
	Faults   map[string]int `json:"faults"`
	Emitted  int            `json:"emitted"` // insights, repeated texts counted once
	Lost     int            `json:"lost"`
	Doubled  int            `json:"doubled"`
	Foreign  int            `json:"foreign"` // in the log, never emitted
	Webhooks int            `json:"webhooks"`
	Missing  int            `json:"missing_webhooks"`
	Repeated int            `json:"repeated_webhooks"`
	Invalid  int            `json:"invalid_webhooks"`
	Takeover time.Duration  `json:"takeover"` // the worst
	Settled  time.Duration  `json:"settled"`  // after the last fault
	Failure  string         `json:"failure,omitempty"`
}

// OK tells whether every promise was kept.
func (r *Report) OK() bool {
	return r.Failure == "" && r.Lost+r.Doubled+r.Foreign+r.Missing+r.Invalid == 0
}

// Run makes one run. Its error is one of the harness; what the relay did wrong is in the report.
func Run(ctx context.Context, o Options) (Report, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return Report{}, err
	}
	w, err := newWorld(o)
	if err != nil {
		return Report{}, err
	}
	defer w.close()
	begin, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := errors.Join(w.prepareNex(begin), w.waitConnected(begin)); err != nil {
		return w.report, fmt.Errorf("it does not come up: %w", err)
	}
	harm, cancel := context.WithTimeout(ctx, o.Faults)
	defer cancel()
	err = w.harm(harm)
	if err == nil {
		calm, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		err = w.calm(calm)
	}
	if err != nil {
		w.report.Failure = err.Error()
		return w.report, nil
	}
	began := time.Now()
	settle, cancel := context.WithTimeout(ctx, o.Settle)
	defer cancel()
	err = until(settle, func() error { return w.judge(settle) })
	w.report.Settled = time.Since(began)
	if err == nil {
		// Nothing more may come after all is there.
		w.pause(ctx, 1500*time.Millisecond, 0)
		again, cancel := context.WithTimeout(ctx, 20*time.Second) // one of the servers may not answer yet
		defer cancel()
		err = until(again, func() error { return w.judge(again) })
	}
	if err != nil {
		w.report.Failure = err.Error()
	}
	return w.report, nil
}

// text is what an insight is known by: the harness keeps all times within the identity window.
type text struct{ workspace, kind, content string }

// judge compares what was emitted with the log, and the log with what the endpoints accepted.
func (w *world) judge(ctx context.Context) error {
	emitted, err := w.emitted()
	if err != nil {
		return err
	}
	log, ids, err := w.logged(ctx)
	if err != nil {
		return err
	}
	r := &w.report
	r.Emitted, r.Lost, r.Doubled, r.Foreign = len(emitted), 0, 0, 0
	var faults []string
	for t := range emitted {
		if log[t] == 0 {
			r.Lost++
			faults = append(faults, fmt.Sprintf("lost: %.100q", t))
		}
	}
	for t, n := range log {
		if n > 1 {
			r.Doubled += n - 1
			faults = append(faults, fmt.Sprintf("%d times: %.100q", n, t))
		}
		if !emitted[t] {
			r.Foreign++
			faults = append(faults, fmt.Sprintf("never emitted: %.100q", t))
		}
	}
	r.Webhooks, r.Missing, r.Repeated, r.Invalid = 0, 0, 0, w.receiver.invalid
	for _, endpoint := range []string{steady, flaky} {
		got := w.receiver.got(endpoint)
		for _, id := range ids {
			if got[id] == 0 {
				r.Missing++
				faults = append(faults, fmt.Sprintf("%s did not get %s", endpoint, id))
			}
		}
		for _, n := range got {
			r.Webhooks += n
			r.Repeated += n - 1
		}
	}
	if r.OK() {
		return nil
	}
	return errors.New(strings.Join(faults[:min(len(faults), 8)], "; "))
}

func (w *world) emitted() (map[text]bool, error) {
	f, err := os.Open(w.journal)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[text]bool{}
	_, err = nexsim.ReadJournal(f, func(r nexsim.Record) { out[text{r.Workspace, r.Insight.Type, r.Insight.Content}] = true })
	return out, err
}

// logged is every insight of the log, and the webhook-id of each.
func (w *world) logged(ctx context.Context) (log map[text]int, ids []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	nc, err := w.connectNATS()
	if err != nil {
		return nil, nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, nil, err
	}
	s, err := js.Stream(ctx, "NEX")
	if err != nil {
		return nil, nil, err
	}
	c, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{FilterSubject: "nex.*.insight.>", AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true})
	if err != nil {
		return nil, nil, err
	}
	log = map[text]int{}
	for left := c.CachedInfo().NumPending; left > 0; left-- {
		m, err := c.Next(jetstream.FetchContext(ctx))
		if err != nil {
			return nil, nil, err
		}
		var e struct {
			ID   string `json:"id"`
			Data struct {
				Type    string `json:"type"`
				Content string `json:"content"`
			} `json:"data"`
		}
		if err := json.Unmarshal(m.Data(), &e); err != nil {
			return nil, nil, fmt.Errorf("event at %s: %w", m.Subject(), err)
		}
		log[text{strings.Split(m.Subject(), ".")[1], e.Data.Type, e.Data.Content}]++
		ids = append(ids, webhook.MessageID(e.ID))
	}
	return log, ids, nil
}

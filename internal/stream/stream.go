// Package stream is the source: one feed per workspace, read and held open, its insights normalized, those that the log
// already holds left out, the others published until they are stored; and what was missed fetched over REST.
//
//	manager -> stream: connect -> read -> Normalize -> claim -> publish
//	                   gap:    fetch -> Normalize -> claim -> publish
package stream

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/cenkalti/backoff/v4"
	"golang.org/x/time/rate"

	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nex"
)

const (
	// settleTime is how long a stopped stream waits until what it read is in the log.
	settleTime = 10 * time.Second
	// newsTime bounds the wait for room to publish news: it is told while NATS can take it, and holds nothing up.
	newsTime = time.Second
	// readBackSlack is how much more than the identity window is read back at the start, for clocks that differ.
	readBackSlack = 5 * time.Minute
	// quarantineSize is how much of a malformed event is kept if it is too large for a message.
	quarantineSize = 64 << 10
	quoteSize      = 200 // of it in the log
)

// replayEvent names the events with which Nex repeats its newest insights on connect.
const replayEvent = "insight.replay"

var errStreamEnded = errors.New("stream ended by Nex")

// stream is one workspace's feed.
type stream struct {
	cfg       *Config
	workspace Workspace
	wanted    time.Time // since when
	log       *slog.Logger
	shared    *shared
	count     *counters
	publisher *publisher
	limiter   *rate.Limiter

	// life is run's context. What was read is published whatever becomes of the connection it came over.
	life      context.Context
	gap       gap
	filler    filler
	erasures  erasures
	nexID     string // Nex's id of the workspace, of its last greeting
	warned    string // what was said of it
	lastQuote string // the last malformed event that was logged; of the reader
	lastError string // the last error that was logged; of the loop
}

// apart runs what needs a deep stack in a goroutine of its own and waits for it. The goroutine of a stream waits for nearly all of
// its life, and a stack that has grown once does not become smaller than four times what the wait needs: this saves 4 KB.
func apart(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	<-done
}

// run holds the stream until ctx ends, then waits until what it read is in the log.
func (s *stream) run(ctx context.Context) {
	defer s.count.enter(StateStarting, s.cfg.Now())
	s.life = ctx
	defer func() { s.shared.letGo(s.nexID, s.workspace.Token) }()
	if err := s.readBack(ctx); err != nil {
		return // ctx ended
	}
	patience, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	s.publisher.patience = patience
	s.hold(ctx)
	apart(func() { s.endFilling(ctx) })
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		s.publisher.line.end()
	}()
	select {
	case <-settled:
	case <-time.After(settleTime):
		giveUp()
		<-settled
		s.log.Warn("stopped before all that was read reached the log; the next start fetches it again")
	}
}

// readBack learns what the log holds. Nothing is read from Nex before.
func (s *stream) readBack(ctx context.Context) error {
	wait := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(retryMin), backoff.WithMaxInterval(retryMax), backoff.WithMaxElapsedTime(0))
	said := false
	return backoff.RetryNotify(func() (err error) {
		select {
		case s.shared.readBacks <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-s.shared.readBacks }()
		apart(func() { err = s.learn(ctx) })
		return err
	}, backoff.WithContext(wait, ctx), func(err error, _ time.Duration) {
		if !said {
			said = true
			apart(func() { s.log.Warn("the log cannot be read back yet, trying on", "error", err) })
		}
	})
}

// learn is one try of readBack.
func (s *stream) learn(ctx context.Context) error {
	recent, err := s.cfg.Bus.Recent(ctx, s.workspace.Token, leastKnown, s.cfg.Now().Add(-s.cfg.IdentityWindow-readBackSlack), maxKnown)
	if err != nil {
		return err
	}
	mark, err := s.begin(ctx)
	if err != nil {
		return err
	}
	from, err := s.checkpoint(ctx)
	if err != nil {
		return err
	}
	lastUp := from.stored
	if n := len(recent.Insights); n > 0 && recent.Insights[n-1].Stored.After(lastUp) {
		lastUp = recent.Insights[n-1].Stored
	}
	now := s.cfg.Now()
	from.trust(recent.Insights, now)
	s.gap.begin(from.to, mark, setRight(lastUp, lastUp, now), now)
	s.gap.toldAt = now
	s.gap.reopen(from.open, now)
	s.gap.toldSeq = from.seq
	s.publisher.know(s.cfg.IdentityWindow, recent)
	return nil
}

// hold connects, reads, and connects again until ctx ends.
func (s *stream) hold(ctx context.Context) {
	wait := s.reconnects()
	for first := true; ; first = false {
		if !first {
			s.count.metrics.reconnects.Inc()
		}
		lived, retry, err := s.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if lived >= s.cfg.HealthyAfter {
			wait.Reset()
		}
		if retry > 0 {
			wait.InitialInterval = min(max(retry, 100*time.Millisecond), wait.MaxInterval)
			wait.Reset()
		}
		state, delay := s.pause(err, wait)
		apart(func() { s.fail(ctx, state, err) })
		next := s.cfg.Now().Add(delay)
		s.count.enter(state, s.cfg.Now())
		s.count.update(func(st *Status) { st.NextAttempt = &next })
		var back <-chan struct{}
		if unreachable(err) {
			back = s.shared.failed()
		}
		select {
		case <-time.After(delay):
		case <-back:
		case <-ctx.Done():
			return
		}
	}
}

// reconnectJitter is by how much a pause is longer or shorter than it would be, so that streams which broke at once do not
// come back at once.
const reconnectJitter = 0.5

// reconnects are the pauses between attempts: longer and longer, and with their jitter never over ReconnectMax.
func (s *stream) reconnects() *backoff.ExponentialBackOff {
	longest := time.Duration(float64(s.cfg.ReconnectMax) / (1 + reconnectJitter))
	return backoff.NewExponentialBackOff(backoff.WithInitialInterval(min(s.cfg.ReconnectMin, longest)), backoff.WithMaxInterval(longest),
		backoff.WithMultiplier(2), backoff.WithRandomizationFactor(reconnectJitter), backoff.WithMaxElapsedTime(0))
}

// pause decides how long to wait after err.
func (s *stream) pause(err error, wait *backoff.ExponentialBackOff) (State, time.Duration) {
	var answer *nex.Error
	if errors.As(err, &answer) {
		switch {
		case answer.Unauthorized():
			return StateUnauthorized, s.cfg.UnauthorizedRetry
		case answer.Temporary() && answer.HasRetryAfter:
			// Not all at once when the time is over.
			return StateWaiting, min(answer.RetryAfter, s.cfg.RetryAfterMax) + time.Duration(float64(wait.InitialInterval)*spread(s.workspace.Token))
		}
	}
	return StateWaiting, wait.NextBackOff()
}

// spread is a number from 0 up to 1 for each workspace.
func spread(token string) float64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(token))
	return float64(h.Sum32()) / (1 << 32)
}

// unreachable tells whether Nex did not answer at all, or only that it cannot: what ends for all streams at once.
func unreachable(err error) bool {
	var answer *nex.Error
	if errors.As(err, &answer) {
		return answer.Temporary() && !answer.HasRetryAfter
	}
	return true
}

// fail says what is wrong, once for as long as it stays the same.
func (s *stream) fail(ctx context.Context, state State, err error) {
	text := err.Error()
	s.count.update(func(st *Status) { st.LastError = text })
	if text == s.lastError {
		return
	}
	s.lastError = text
	if state != StateUnauthorized {
		s.log.Warn("stream is down, connecting again", "error", err)
		return
	}
	var answer *nex.Error
	errors.As(err, &answer)
	remedy := "the API key is wrong or revoked: configure a valid one"
	if answer.Status == http.StatusForbidden {
		remedy = "the API key lacks the scope insight.stream: add it in Nex, or configure another key"
	}
	s.log.Error("Nex refuses the key of this workspace: "+remedy, "status", answer.Status, "message", answer.Message, "next_try_in", s.cfg.UnauthorizedRetry)
	s.news(ctx, event.StreamUnauthorized, map[string]any{"status": answer.Status, "message": answer.Message})
}

// handle takes one event of the stream. Its error is only that of life: what cannot be understood is put aside.
func (s *stream) handle(frame nex.Frame) error {
	switch {
	case frame.TooLarge:
		return s.malformed(frame.Event, frame.Data, frame.Size, fmt.Sprintf("event of %d bytes is over nex.max_event_size", frame.Size))
	case frame.Event != "" && !strings.HasPrefix(frame.Event, "insight."):
		s.log.Debug("event of a kind that carries no insights", "event", frame.Event, "size", len(frame.Data))
		return nil
	}
	payload, err := nex.ParsePayload(frame.Data)
	if err != nil {
		return s.malformed(frame.Event, frame.Data, len(frame.Data), err.Error())
	}
	return s.take(frame.Event, payload, frame.Event == replayEvent, nil)
}

// take hands over the insights of a payload to be published where the log does not hold them yet; fresh counts those, and
// may be nil. recalled says that they may be old.
func (s *stream) take(source string, payload nex.Payload, recalled bool, fresh *atomic.Int64) error {
	now := s.cfg.Now()
	s.count.received(len(payload.Insights), now)
	for _, in := range payload.Insights {
		e := Normalize(s.workspace.Token, in, now)
		e.Via, e.Received = via(source, recalled), now
		s.gap.notice(e.Emitted, now)
		err := s.publisher.submit(s.life, item{event: e, recalled: recalled, fresh: fresh, instead: func(limit int) *event.Event {
			if limit == quarantineSize {
				s.count.malformed()
			}
			return s.quarantine(source, in.Raw[:min(len(in.Raw), limit)], len(in.Raw), "larger than the NATS server's max_payload or the stream's max_msg_size")
		}})
		if err != nil {
			return err
		}
	}
	for _, bad := range payload.Malformed {
		if err := s.malformed(source, bad.Raw, len(bad.Raw), bad.Reason); err != nil {
			return err
		}
	}
	return nil
}

func via(source string, recalled bool) string {
	switch {
	case source == sourceREST:
		return event.ViaREST
	case recalled:
		return event.ViaReplay
	}
	return event.ViaStream
}

// sourceREST stands where the stream names the kind of its event.
const sourceREST = "rest"

// malformed counts, logs and keeps what is no insight.
func (s *stream) malformed(source string, raw []byte, size int, reason string) error {
	s.count.malformed()
	quote := fmt.Sprintf("%q", raw[:min(len(raw), quoteSize)])
	if quote != s.lastQuote { // a replay brings it again
		s.lastQuote = quote
		s.log.Warn("malformed event, kept in quarantine", "reason", reason, "event", source, "size", size, "begins", quote,
			"subject", event.Subject(s.workspace.Token, event.Malformed))
	}
	return s.publisher.submit(s.life, item{event: s.quarantine(source, raw, size, reason), instead: func(limit int) *event.Event {
		return s.quarantine(source, raw[:min(len(raw), limit)], size, reason)
	}})
}

// quarantine is the event that keeps what is no insight. Its id is of the bytes: the same rubbish in the next replay is
// the same event.
func (s *stream) quarantine(source string, raw []byte, size int, reason string) *event.Event {
	data := map[string]any{"reason": reason, "event": source, "size": size}
	if utf8.Valid(raw) {
		data["raw"] = string(raw)
	} else {
		data["raw_base64"] = base64.StdEncoding.EncodeToString(raw)
	}
	if len(raw) < size {
		data["truncated"] = true
	}
	e, err := event.News(s.workspace.Token, event.Malformed, "", data, s.cfg.Now())
	if err != nil { // texts and numbers always encode
		s.log.Error("malformed event could not be kept", "error", err)
		return nil
	}
	e.ID = event.InsightID(s.workspace.Token, "", event.Malformed, string(raw), time.Time{})
	return e
}

// news tells what happened to the stream if NATS can take it soon, and answers whether it can.
func (s *stream) news(ctx context.Context, kind string, data any) bool {
	e, err := event.News(s.workspace.Token, kind, "", data, s.cfg.Now())
	if err != nil {
		s.log.Error("news could not be told", "type", kind, "error", err)
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, newsTime)
	defer cancel()
	if err := s.publisher.submit(ctx, item{event: e}); err != nil {
		s.log.Debug("news could not be told", "type", kind, "error", err)
		return false
	}
	return true
}

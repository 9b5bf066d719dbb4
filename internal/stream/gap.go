package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nex"
)

const (
	// pageLimit is the most that Nex gives for one window; a window that holds as many may hold more.
	pageLimit = 100
	// minWindow is where splitting ends: Nex's times are whole seconds.
	minWindow = time.Second
	// requestsPerSecond and requestBurst bound what gap filling asks of Nex for one key.
	requestsPerSecond = 2
	requestBurst      = 4
	// tellEvery is how often the safety net says that it found nothing, so that the checkpoint in the log moves on.
	tellEvery = time.Hour
)

// gapNews is the data of gap_filled and gap_not_fillable. The newest gap_filled is the checkpoint.
type gapNews struct {
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Found     int       `json:"found"`
	Published int       `json:"published"`
	Reason    string    `json:"reason,omitempty"`
}

// checkpoint is the time before which the log is complete, zero if this workspace was never filled before.
func (s *stream) checkpoint(ctx context.Context) (time.Time, error) {
	last, err := s.cfg.Bus.Last(ctx, event.Subject(s.workspace.Token, event.GapFilled))
	if errors.Is(err, bus.ErrNotInLog) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	var e struct {
		Data gapNews `json:"data"`
	}
	if err := json.Unmarshal(last.Data, &e); err != nil {
		s.log.Warn("the last gap_filled cannot be read, as if there were none", "error", err)
		return time.Time{}, nil
	}
	return e.Data.To, nil
}

// fillGaps fills the gap before this connection, then looks again from time to time, until ctx ends.
func (s *stream) fillGaps(ctx context.Context) {
	if !s.fill(ctx, true) || s.cfg.GapCheckInterval <= 0 {
		return
	}
	ticker := time.NewTicker(s.cfg.GapCheckInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if !s.fill(ctx, false) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// fill fetches everything from the checkpoint to now. It tells whether another try in this session makes sense.
func (s *stream) fill(ctx context.Context, onConnect bool) bool {
	now := s.cfg.Now().UTC()
	if s.completeTo.IsZero() {
		s.completeTo = now.Add(-s.cfg.Backfill).Add(s.cfg.GapOverlap) // the overlap is taken off below
		if s.cfg.Backfill == 0 {
			s.complete(ctx, gapNews{From: now, To: now}, true)
			return true
		}
	}
	news := gapNews{From: s.completeTo.Add(-s.cfg.GapOverlap), To: now}
	if oldest := now.Add(-s.cfg.MaxAge); s.cfg.MaxAge > 0 && news.From.Before(oldest) {
		s.notFillable(ctx, gapNews{From: news.From, To: oldest, Reason: "older than the log keeps events (stream.max_age)"})
		news.From = oldest
	}
	err := s.fetch(ctx, &news)
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil:
		s.log.Warn("gap cannot be filled", "from", news.From, "to", news.To, "error", err)
		s.notFillable(ctx, gapNews{From: s.completeTo, To: news.To, Found: news.Found, Published: news.Published, Reason: err.Error()})
		return false
	}
	if err := s.publisher.flush(ctx); err != nil {
		return false
	}
	if news.Published > 0 {
		s.log.Info("gap filled", "from", news.From, "to", news.To, "published", news.Published)
	}
	s.complete(ctx, news, onConnect || news.Published > 0 || now.Sub(s.toldAt) >= tellEvery)
	return true
}

// complete moves the checkpoint, in the log too if tell is set.
func (s *stream) complete(ctx context.Context, news gapNews, tell bool) {
	s.completeTo = news.To
	s.count.update(func(st *Status) { st.CompleteTo = &news.To })
	if tell {
		s.toldAt = news.To
		s.news(ctx, event.GapFilled, news)
	}
}

func (s *stream) notFillable(ctx context.Context, news gapNews) {
	s.news(ctx, event.GapNotFillable, news)
}

// window is a span of time, from inclusive.
type window struct{ from, to time.Time }

// fetch takes all insights between news.From and news.To, oldest window first, and counts them in news. A window that
// holds more than Nex gives at once is split. The checkpoint follows in memory, so that another session goes on there.
func (s *stream) fetch(ctx context.Context, news *gapNews) error {
	todo := []window{{news.From, news.To}}
	wait := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(time.Second), backoff.WithMaxInterval(time.Minute), backoff.WithMaxElapsedTime(0))
	for len(todo) > 0 {
		w := todo[len(todo)-1]
		payload, err := s.page(ctx, w)
		if delay, again := s.retryPage(err, wait); again {
			select {
			case <-time.After(delay):
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err != nil {
			return err
		}
		wait.Reset()
		full := len(payload.Insights)+len(payload.Malformed) >= pageLimit
		if full && w.to.Sub(w.from) > minWindow {
			middle := w.from.Add(w.to.Sub(w.from) / 2)
			todo = append(todo[:len(todo)-1], window{middle, w.to}, window{w.from, middle})
			continue
		}
		todo = todo[:len(todo)-1]
		if err := s.takePage(payload, news); err != nil {
			return err
		}
		if full {
			s.notFillable(ctx, gapNews{From: w.from, To: w.to, Found: len(payload.Insights),
				Reason: fmt.Sprintf("Nex gives at most %d insights for a window, and this one cannot be split any more", pageLimit)})
		}
		if w.to.After(s.completeTo) && w.to.Before(news.To) {
			s.completeTo = w.to
		}
	}
	return nil
}

func (s *stream) page(ctx context.Context, w window) (nex.Payload, error) {
	if err := s.limiter.Wait(ctx); err != nil {
		return nex.Payload{}, err
	}
	return s.cfg.Client.Insights(ctx, s.workspace.Key, nex.Query{From: w.from, To: w.to, Limit: pageLimit})
}

// retryPage tells whether a request that failed is to be made again, and when.
func (s *stream) retryPage(err error, wait backoff.BackOff) (time.Duration, bool) {
	var answer *nex.Error
	switch {
	case err == nil:
		return 0, false
	case !errors.As(err, &answer):
		return wait.NextBackOff(), true // the network, or rubbish in place of an answer
	case answer.Temporary() && answer.HasRetryAfter:
		return max(min(answer.RetryAfter, s.cfg.RetryAfterMax), 100*time.Millisecond), true
	case answer.Temporary():
		return wait.NextBackOff(), true
	}
	return 0, false
}

// takePage publishes what is new in a page, oldest first.
func (s *stream) takePage(payload nex.Payload, news *gapNews) error {
	slices.SortStableFunc(payload.Insights, func(a, b nex.Insight) int { return a.Time.Compare(b.Time) })
	fresh, err := s.take("rest", payload)
	news.Found += len(payload.Insights)
	news.Published += fresh
	s.count.metrics.gapPublished.Add(float64(fresh))
	return err
}

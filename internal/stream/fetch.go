package stream

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nex"
)

const (
	// pageLimit is the most that Nex gives for one window; a window that holds as many may hold more.
	pageLimit = 100
	// minWindow is where splitting ends. Nex's times may be finer than a second, even where it shows whole ones.
	minWindow = time.Millisecond
	// windowOverlap is by how much neighbouring windows overlap: whether Nex takes the ends of a window as part of it, and
	// whether it cuts them to seconds, must not matter.
	windowOverlap = time.Second
	// mostEqual is how often in a row a part of a window may hold just what the whole did before it is no longer split, unless
	// all of it belongs there: Nex may not look at fractions of a second.
	mostEqual = 4
	// requestsPerSecond and requestBurst bound what gap filling asks of Nex for one key.
	requestsPerSecond = 2
	requestBurst      = 4
	// requestPause is the first pause after a request that failed.
	requestPause = time.Second
	// windowTries is how often a window is asked for before it is found out whether it is the window or Nex that fails;
	// partTries is the same for the parts of one that failed.
	windowTries, partTries = 5, 2
	// throttledTries is how often Nex may say of a window that it is asked too much before that is told: with our own pauses it
	// takes about a minute. It says nothing of the window.
	throttledTries = 10
	// liveFirst is how long an insight is left to the stream, which gives more of it than REST may: the first that reaches the
	// log stays.
	liveFirst = 2 * time.Second
	// goodPage is how many insights a window should hold that is a part of one that held too many.
	goodPage = 70
	// leastRefused is down to what a window is split that Nex refuses, if it is not for its size, and mostRefused how far up
	// that goes where it refuses one after the other.
	leastRefused, mostRefused = time.Second, time.Hour
)

// window is a span of time, from inclusive.
type window struct {
	from, to time.Time
	tries    int
	crowded  bool   // it is the rest of one that held too many
	page     uint64 // of the full page of the window that this is a part of: its hash
	equal    int    // how often in a row a part held the same page
}

func (w window) size() time.Duration { return w.to.Sub(w.from) }

// splitAt makes two windows of one, which overlap.
func (w window) splitAt(at time.Time, overlap time.Duration, tries int) (earlier, later window) {
	earlier, later = w, w
	earlier.tries, later.tries = tries, tries
	overlap = min(overlap, at.Sub(w.from)/4, w.to.Sub(at)/4)
	earlier.to, later.from = at.Add(overlap), at
	earlier.crowded = false
	return earlier, later
}

// splittable tells whether splitting a window may change anything, of which a full page is known.
func (w *window) splittable(page []nex.Insight) bool {
	if w.size() < 2*minWindow {
		return false
	}
	h := fnv.New64a()
	for _, in := range page {
		_, _ = h.Write(in.Raw)
	}
	sum := h.Sum64()
	if w.equal++; sum != w.page || w.size() >= time.Second {
		w.page, w.equal = sum, 0
	}
	return w.equal < mostEqual || w.belongs(page)
}

// belongs tells whether a window is smaller than a second and all of its page belongs there, with a millisecond to spare for
// how times were cut: so it is where Nex knows fractions of a second, or where all of that second is close together.
func (w *window) belongs(page []nex.Insight) bool {
	return w.size() < time.Second && !slices.ContainsFunc(page, func(in nex.Insight) bool {
		return in.Time.Before(w.from.Add(-minWindow)) || in.Time.After(w.to.Add(minWindow))
	})
}

// fetch takes all insights of some windows, the oldest and last of them first. A window that holds more than Nex gives at once
// is split, and so is one that Nex does not give while it gives others. The checkpoint follows, so that another try, or
// another process, goes on there.
func (s *stream) fetch(ctx context.Context, f *filling, todo []window) error {
	for asked := false; len(todo) > 0; asked = true {
		if f.again && asked && s.gap.newer() {
			f.rest = todo
			break
		}
		w := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if w.crowded && f.fits > 0 && w.size() > 2*f.fits {
			earlier, later := w.splitAt(w.from.Add(f.fits), windowOverlap, windowTries)
			later.crowded = true
			todo = append(todo, later, earlier)
			continue
		}
		payload, release, refused, err := s.ask(ctx, w)
		if err != nil {
			return err
		}
		if refused != nil {
			if future, err := s.future(ctx, w, f, refused); err != nil {
				return err
			} else if future {
				return errFuture
			}
			if whole, err := s.giveUp(ctx, w, f, refused); err != nil {
				return err
			} else if whole {
				s.lose(w, f, refused)
				continue
			}
			earlier, later := w.splitAt(w.middle(), minWindow, partTries) // what is refused should be in one of them
			todo = append(todo, later, earlier)
			continue
		}
		f.least = 0
		full := len(payload.Insights)+len(payload.Malformed) >= pageLimit
		if full && w.splittable(payload.Insights) {
			release()
			overlap := windowOverlap
			if w.belongs(payload.Insights) {
				overlap = minWindow // what is in both parts is asked for twice
			}
			earlier, later := w.splitAt(splitPoint(w, payload.Insights), overlap, windowTries)
			later.crowded = true
			f.fits = min(f.fits, w.size()/2)
			todo = append(todo, later, earlier)
			continue
		}
		if young, err := s.young(ctx, w, payload, f); err != nil {
			release()
			return err
		} else if young {
			release()
			if err := s.leaveToStream(ctx, f); err != nil {
				return err
			}
			todo = append(todo, w)
			continue
		}
		held := len(payload.Insights)
		f.learn(w, held)
		err = s.takePage(payload, f)
		release()
		if err != nil {
			return err
		}
		if full {
			f.lose(gapNews{From: w.from, To: w.to, Found: held, class: "full",
				Reason: fmt.Sprintf("Nex gives at most %d insights for a window, and this one cannot be split any more and may hold more", pageLimit)})
		}
		if err := s.advance(ctx, f, w.to); err != nil {
			return err
		}
	}
	return s.tellLost(ctx, f)
}

// young tells whether a page holds what the log does not, and the stream, which is up, may still bring: it is new by our clock, or,
// should Nex's be behind, the newest that there is.
func (s *stream) young(ctx context.Context, w window, payload nex.Payload, f *filling) (bool, error) {
	if f.leftToStream || w.to.Before(f.to) || !s.gap.isUp() {
		return false, nil
	}
	now := s.cfg.Now()
	var latest time.Time
	for _, in := range payload.Insights {
		if in.Time.After(latest) {
			latest = in.Time
		}
	}
	switch {
	case latest.IsZero():
		return false, nil
	case latest.After(now):
		latest = now
	}
	var list []*event.Event
	for _, in := range payload.Insights {
		if in.Time.After(latest.Add(-s.cfg.liveFirst)) {
			list = append(list, Normalize(s.workspace.Token, in, now))
		}
	}
	if len(list) == 0 {
		return false, nil
	}
	return s.publisher.lacks(ctx, list)
}

// leaveToStream gives the stream time to bring what is young, once in a filling: under a steady flow something always is.
func (s *stream) leaveToStream(ctx context.Context, f *filling) error {
	f.leftToStream = true
	s.log.Debug("what is young is left to the stream for now", "for", s.cfg.liveFirst)
	select {
	case <-time.After(s.cfg.liveFirst):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errFuture ends a filling whose end Nex takes for the future; the next asks for less.
var errFuture = errors.New("not to be asked for the future")

// future finds out whether Nex refuses a window because it takes its end for the future, and then up to when it may be
// asked: our clock may be ahead of its own.
func (s *stream) future(ctx context.Context, w window, f *filling, refused error) (bool, error) {
	if !w.to.Equal(f.end) || !forGood(refused) || s.gap.boundKnown() {
		return false, nil
	}
	var lead time.Duration
	gives := func(at time.Time) (bool, error) {
		_, release, refused, err := s.ask(ctx, window{from: at.Add(-time.Second), to: at, tries: partTries})
		if err != nil || refused != nil {
			return false, err
		}
		release()
		lead = at.Sub(s.cfg.Now())
		return true, nil
	}
	if given, err := gives(w.to); given || err != nil {
		return false, err
	}
	_, good := s.gap.moments(s.cfg.Now())
	if given, err := gives(good); !given {
		return false, err
	}
	for bad := w.to; bad.Sub(good) > time.Second; {
		middle := good.Add(bad.Sub(good) / 2)
		given, err := gives(middle)
		switch {
		case err != nil:
			return false, err
		case given:
			good = middle
		default:
			bad = middle
		}
	}
	s.log.Info("Nex refuses to be asked for the future", "asked_up_to", lead.Round(time.Second), "error", refused)
	s.gap.bound(lead, good)
	return true, nil
}

// forGood tells whether Nex answers the same request the same way as long as nothing changes.
func forGood(err error) bool {
	var answer *nex.Error
	return errors.As(err, &answer) && !answer.Temporary()
}

// lose gives a window up, as far as its time is over: the next filling asks for the rest.
func (s *stream) lose(w window, f *filling, refused error) {
	if w.to.After(f.to) {
		w.to = f.to
	}
	if !w.from.Before(w.to) {
		return
	}
	news := gapNews{From: w.from, To: w.to, Reason: refused.Error(), class: class(refused)}
	if heals(refused) {
		news.Reason += "; it is tried on"
	}
	f.lose(news)
	if f.again && heals(refused) {
		f.left = append(f.left, w)
	} else {
		s.gap.giveUpOn(w, heals(refused), givenUpFirst, s.cfg.Now())
	}
}

// giveUp tells whether a window that Nex refuses is lost as a whole. Where one after the other is refused they are given up
// in larger and larger pieces, so that a year of them ends too; but only if Nex refuses a piece's end as well, so that
// what comes behind them is not lost with them.
func (s *stream) giveUp(ctx context.Context, w window, f *filling, refused error) (bool, error) {
	least := leastRefused
	if errors.Is(refused, nex.ErrTooLarge) {
		least = minWindow
	}
	least = max(least, f.least)
	if w.size() >= 2*least {
		return false, nil
	}
	if w.size() >= 2*leastRefused {
		_, release, refused, err := s.ask(ctx, window{from: w.to.Add(-leastRefused), to: w.to, tries: 1})
		if err != nil {
			return false, err
		}
		if refused == nil {
			release()
			f.least = 0
			return false, nil
		}
	}
	f.least = min(2*least, mostRefused)
	return true, nil
}

// middle is where a window is split of which nothing is known.
func (w window) middle() time.Time { return w.from.Add(w.size() / 2) }

// learn notes how large a window would hold a good page, as far as the last one tells.
func (f *filling) learn(w window, held int) {
	f.fits = min(w.size()*goodPage/time.Duration(max(held, 1)), 4*w.size())
	f.fits = max(f.fits, time.Second)
}

// splitPoint chooses where to split a window of which a full page is known. Where Nex gave the oldest, most of them fit into
// the earlier part. Where it gave the newest, the earlier part is half of the window, and half of that, until it holds no
// more than a page: the oldest are taken first, so that a filling gains something before it is through with all.
func splitPoint(w window, page []nex.Insight) time.Time {
	times := make([]time.Time, 0, len(page))
	for _, in := range page {
		if !in.Time.Before(w.from) && in.Time.Before(w.to) {
			times = append(times, in.Time)
		}
	}
	if len(times) > 0 {
		slices.SortFunc(times, time.Time.Compare)
		at := times[len(times)*9/10]
		first, last := times[0], times[len(times)-1]
		if first.Sub(w.from) >= w.to.Sub(last) {
			if at = times[len(times)/10]; at.After(w.middle()) {
				at = w.middle()
			}
		}
		unit := minWindow
		if w.size() >= 4*time.Second {
			unit = time.Second
		}
		at = at.Truncate(unit)
		if at.Sub(w.from) < unit {
			at = at.Add(unit) // what comes at once is parted from what comes after it
		}
		if at.Sub(w.from) >= minWindow && w.to.Sub(at) >= minWindow {
			return at
		}
	}
	return w.middle()
}

// advance notes how far a filling has come, and from time to time in the log. What was lost on the way is told before.
func (s *stream) advance(ctx context.Context, f *filling, to time.Time) error {
	if err := s.tellLost(ctx, f); err != nil {
		return err
	}
	if f.again || !to.Before(f.to) {
		return nil
	}
	if !s.gap.complete(to, f.surprises) { // what was handed over is published, whatever becomes of the rest
		s.retract(ctx)
		return nil
	}
	if s.cfg.Now().Sub(f.noted) < noteEvery {
		return nil
	}
	if err := s.publisher.flush(ctx); err != nil {
		return err
	}
	f.noted = s.cfg.Now()
	if at, _ := s.gap.stands(); !at.Before(to) {
		s.tell(ctx, f.news(to))
	}
	return nil
}

func (s *stream) tellLost(ctx context.Context, f *filling) error {
	for len(f.untold) > 0 {
		if !s.gap.known(f.untold[0], s.cfg.Now()) {
			if err := s.notFillable(ctx, f.untold[0]); err != nil {
				return err
			}
		}
		f.untold = f.untold[1:]
	}
	return nil
}

// ask requests one window until Nex has given it or will not. refused is why it does not give this window although it
// gives others; while it gives none at all ask waits. err ends the filling.
func (s *stream) ask(ctx context.Context, w window) (payload nex.Payload, release func(), refused, err error) {
	wait := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(s.cfg.pause), backoff.WithMaxInterval(time.Minute), backoff.WithMaxElapsedTime(0))
	for tries, throttled := 0, 0; ; {
		payload, release, err := s.page(ctx, w)
		switch {
		case err == nil:
			s.answered()
			return payload, release, nil, nil
		case ctx.Err() != nil:
			return nex.Payload{}, nil, nil, ctx.Err()
		case errors.Is(err, nex.ErrTooLarge):
			return nex.Payload{}, nil, err, nil
		}
		s.sayOdd(err)
		var answer *nex.Error
		if errors.As(err, &answer) && answer.Unauthorized() {
			return nex.Payload{}, nil, nil, err
		}
		delay, again := s.retryPage(err, wait)
		if answer == nil || !answer.Throttled() {
			tries++
		} else if throttled++; throttled >= throttledTries {
			s.sayAway(err)
		}
		if !again || tries >= w.tries {
			failed := s.probe(ctx)
			if failed == nil {
				return nex.Payload{}, nil, err, nil
			}
			if _, heals := s.retryPage(failed, wait); !heals {
				return nex.Payload{}, nil, nil, err
			}
			s.sayAway(failed)
		}
		if !again {
			delay = wait.NextBackOff()
		}
		s.remind(ctx)
		select {
		case <-time.After(delay):
		case <-s.gap.connected: // Nex is back; what this connection asks for begins after this
			s.gap.renewed = true
		case <-ctx.Done():
			return nex.Payload{}, nil, nil, ctx.Err()
		}
	}
}

// probe finds out whether Nex answers over REST at all, with a window that costs it next to nothing, and with another where
// Nex may take the first for the future.
func (s *stream) probe(ctx context.Context) error {
	present, past := s.gap.moments(s.cfg.Now())
	_, release, err := s.page(ctx, window{from: present.Add(-time.Second), to: present})
	if forGood(err) {
		_, release, err = s.page(ctx, window{from: past.Add(-time.Second), to: past})
	}
	if err == nil {
		release()
	}
	return err
}

// retryPage tells whether a request that failed is to be made again, and when.
func (s *stream) retryPage(err error, wait backoff.BackOff) (time.Duration, bool) {
	var answer *nex.Error
	switch {
	case !errors.As(err, &answer):
		return wait.NextBackOff(), true // the network, or rubbish in place of an answer
	case answer.Temporary() && answer.HasRetryAfter:
		return max(min(answer.RetryAfter, s.cfg.RetryAfterMax), 100*time.Millisecond), true
	case answer.Temporary():
		return wait.NextBackOff(), true
	}
	return 0, false
}

// sayOdd logs once what is no answer of Nex's.
func (s *stream) sayOdd(err error) {
	var answer *nex.Error
	if errors.As(err, &answer) || err.Error() == s.gap.lastOdd {
		return
	}
	s.gap.lastOdd = err.Error()
	s.log.Warn("insights could not be asked for over REST, trying on", "error", err)
}

// sayAway says once that Nex gives nothing over REST.
func (s *stream) sayAway(err error) {
	s.count.update(func(st *Status) { st.LastError = err.Error() })
	if !s.gap.silent {
		s.gap.silent = true
		s.log.Warn("Nex gives no insights over REST: gaps are filled when it does", "error", err)
	}
}

func (s *stream) answered() {
	if s.gap.silent {
		s.gap.silent = false
		s.log.Info("Nex gives insights over REST again")
		s.count.update(func(st *Status) {
			if st.State == StateConnected {
				st.LastError = ""
			}
		})
	}
}

// page makes one request. Those of one key are limited in rate; those of all in number, from here until release, when what
// came is handed over or not needed: so many pages at most are in memory.
func (s *stream) page(ctx context.Context, w window) (payload nex.Payload, release func(), err error) {
	if err := s.limiter.Wait(ctx); err != nil {
		return nex.Payload{}, nil, err
	}
	select {
	case s.shared.fetches <- struct{}{}:
	case <-ctx.Done():
		return nex.Payload{}, nil, ctx.Err()
	}
	large := false
	release = sync.OnceFunc(func() {
		if large {
			<-s.shared.large
		}
		<-s.shared.fetches
	})
	query := nex.Query{From: w.from, To: w.to, Limit: pageLimit, Large: func(ctx context.Context) error {
		select {
		case s.shared.large <- struct{}{}:
			large = true
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	// In a goroutine of its own, whose stack goes with it: what decoding needs would stay with each stream.
	var one sync.WaitGroup
	one.Go(func() { payload, err = s.cfg.Client.Insights(ctx, s.workspace.Key, query) })
	one.Wait()
	if err != nil {
		release()
		return nex.Payload{}, nil, err
	}
	return payload, release, nil
}

// takePage hands over a page, oldest first.
func (s *stream) takePage(payload nex.Payload, f *filling) error {
	slices.SortStableFunc(payload.Insights, func(a, b nex.Insight) int { return a.Time.Compare(b.Time) })
	f.found += len(payload.Insights)
	return s.take("rest", payload, true, &f.fresh)
}

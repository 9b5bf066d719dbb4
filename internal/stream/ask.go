package stream

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/nex-crm/relay/internal/nex"
)

const (
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
)

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

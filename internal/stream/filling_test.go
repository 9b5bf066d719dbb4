package stream

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestReasonsToLookForGaps: connections at once, surprises once a minute at most, and from time to time without either.
func TestReasonsToLookForGaps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const every = 5 * time.Minute
		s := &stream{cfg: &Config{GapCheckInterval: every, Now: time.Now}, gap: newGap(0)}
		reason := func(what string, wantConnect, want bool) {
			t.Helper()
			synctest.Wait()
			onConnect, found := s.reason()
			if onConnect != wantConnect || found != want || s.filler.running != want {
				t.Errorf("%s: on connect %t, found %t, running %t", what, onConnect, found, s.filler.running)
			}
			s.filler.mu.Lock()
			s.filler.running = true // as if a look were under way
			s.filler.mu.Unlock()
		}
		reason("nothing", false, false)
		time.Sleep(2 * every)
		reason("nothing before the first connection", false, false)
		signal(s.gap.connected)
		signal(s.gap.again)
		reason("a connection", true, true)
		reason("a surprise", false, true)
		signal(s.gap.again)
		reason("another", false, false)
		signal(s.gap.again)
		reason("and another", false, false)
		time.Sleep(surpriseEvery)
		reason("they have waited", false, true)
		reason("both were one", false, false)
		signal(s.gap.again)
		reason("one more", false, false)
		time.Sleep(surpriseEvery)
		reason("it has waited", false, true)
		time.Sleep(every - 2*surpriseEvery)
		reason("time has passed", false, true)
		time.Sleep(every)
		reason("and again", false, true)
		s.endFilling(t.Context())
		time.Sleep(2 * every)
		reason("after the end", false, false)
	})
}

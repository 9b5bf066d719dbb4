package fanout

import (
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/nex-crm/relay/internal/webhook"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := Policy{Schedule: DefaultSchedule(), Jitter: 0.1, RetryAfterMax: time.Hour}
	result := func(o webhook.Outcome) webhook.Result { return webhook.Result{Outcome: o} }
	retryAfter := func(d time.Duration) webhook.Result {
		return webhook.Result{Outcome: webhook.Throttled, RetryAfter: d, HasRetryAfter: true}
	}
	tests := []struct {
		name    string
		result  webhook.Result
		attempt int
		age     time.Duration
		random  float64
		want    Decision
	}{
		{"2xx", result(webhook.Delivered), 1, 0, 0, Decision{Verdict: Done}},
		{"410", result(webhook.Gone), 3, 0, 0, Decision{Verdict: Disable}},
		{"first failure", result(webhook.ServerError), 1, 0, 0, Decision{Verdict: Retry, At: now.Add(5 * time.Second), Attempt: 2}},
		{"jitter up", result(webhook.Timeout), 1, 0, 1, Decision{Verdict: Retry, At: now.Add(5500 * time.Millisecond), Attempt: 2}},
		{"jitter down", result(webhook.Redirect), 2, 0, -1, Decision{Verdict: Retry, At: now.Add(270 * time.Second), Attempt: 3}},
		{"ninth failure", result(webhook.ClientError), 9, 0, 0, Decision{Verdict: Retry, At: now.Add(24 * time.Hour), Attempt: 10}},
		{"tenth failure", result(webhook.DNSError), 10, 0, 0, Decision{Verdict: Dead}},
		{"a schedule that got shorter", result(webhook.TLSError), 14, 0, 0, Decision{Verdict: Dead}},
		{"refused target", result(webhook.RefusedTarget), 1, 0, 0, Decision{Verdict: Retry, At: now.Add(5 * time.Second), Attempt: 2}},
		{"our shutdown", result(webhook.Canceled), 10, 0, 0, Decision{Verdict: Retry, At: now, Attempt: 10}},
		{"429 without Retry-After", result(webhook.Throttled), 1, 0, 0, Decision{Verdict: Retry, At: now.Add(5 * time.Second), Attempt: 2}},
		{"429 with Retry-After", retryAfter(90 * time.Second), 10, 0, 1, Decision{Verdict: Retry, At: now.Add(90 * time.Second), Attempt: 10, Pause: true}},
		{"Retry-After 0", retryAfter(0), 1, 0, 0, Decision{Verdict: Retry, At: now.Add(time.Second), Attempt: 1, Pause: true}},
		{"Retry-After of a year", retryAfter(365 * 24 * time.Hour), 1, 0, 0, Decision{Verdict: Retry, At: now.Add(time.Hour), Attempt: 1, Pause: true}},
		{"put off for ever", retryAfter(time.Second), 1, 8 * 24 * time.Hour, 0, Decision{Verdict: Dead}},
	}
	for _, tt := range tests {
		if got := p.Decide(tt.result, tt.attempt, tt.age, now, tt.random); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestCeilSecond(t *testing.T) {
	t.Parallel()
	whole := time.Date(2026, 1, 1, 0, 0, 5, 0, time.UTC)
	for in, want := range map[time.Time]time.Time{whole: whole, whole.Add(1): whole.Add(time.Second), whole.Add(-1): whole} {
		if got := ceilSecond(in); !got.Equal(want) {
			t.Errorf("%v -> %v", in, got)
		}
	}
}

// busy is a lane with n attempts in flight and a queue.
func busy(now time.Time, n, queued int, interval time.Duration) *lane {
	return &lane{fanout: &Fanout{}, maxInFlight: n, running: n, moved: now, windowStart: now, interval: interval, queue: make([]*delivery, queued)}
}

func TestLaneSendsAwayWhatWouldWaitTooLong(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := busy(now, 4, 101, 10*time.Millisecond) // 1.01 s of queue
	first, parked := l.offer(t.Context(), &delivery{})
	second, _ := l.offer(t.Context(), &delivery{})
	if !parked || first.Before(now.Add(time.Second)) {
		t.Errorf("parked %v at %v", parked, first.Sub(now))
	}
	if gap := second.Sub(first); gap < 10*time.Millisecond {
		t.Errorf("two deliveries come back %v apart, the endpoint takes one each 10ms", gap)
	}
}

func TestLaneThatStandsStill(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := busy(now.Add(-10*time.Second), 4, 3, 10*time.Millisecond)
	if at, parked := l.offer(t.Context(), &delivery{}); !parked || at.Before(now.Add(time.Second)) || at.After(now.Add(13*time.Second)) {
		t.Errorf("parked %v at %v", parked, at.Sub(now))
	}
	slow := busy(now.Add(-10*time.Second), 1, 0, 5*time.Second) // an endpoint that takes 5 s is slow, not stuck
	if slow.stalled(now) {
		t.Error("a slow endpoint counts as standing still")
	}
}

func TestLanePauses(t *testing.T) {
	t.Parallel()
	l := &lane{fanout: &Fanout{}, maxInFlight: 4}
	until := time.Now().Add(time.Hour)
	l.pause(until)
	l.pause(until.Add(-time.Minute)) // the longer one holds
	if at, parked := l.offer(t.Context(), &delivery{}); !parked || at.Before(until) {
		t.Errorf("parked %v at %v", parked, at)
	}
}

func TestQueueWithoutAWorkerIsTakenAway(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := busy(now, 1, 2, 10*time.Millisecond)
	l.fanout = &Fanout{queued: semaphore.NewWeighted(2)}
	_ = l.fanout.queued.TryAcquire(2)
	l.pause(now.Add(time.Hour))
	if l.next() != nil || l.running != 0 || len(l.queue) != 2 {
		t.Fatalf("%d running, %d queued", l.running, len(l.queue))
	}
	l.pausedUntil = now.Add(-time.Millisecond)
	left := l.stuck(now)
	if len(left) != 2 || left[0].at.After(now) || left[1].at.After(now.Add(time.Second)) || len(l.queue) != 0 {
		t.Errorf("%+v", left)
	}
}

func TestLaneMeasuresItsPace(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := busy(now.Add(-2*time.Second), 2, 0, 0)
	l.windowCount = 39 // in two seconds
	l.next()
	if l.interval < 49*time.Millisecond || l.interval > 60*time.Millisecond {
		t.Errorf("pace %v, 40 in 2 s were finished", l.interval)
	}
}

package fanout

import (
	"testing"
	"time"

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
		{"tenth failure", result(webhook.DNSError), 10, 0, 0, Decision{Verdict: Dead, Reason: ReasonUsedUp}},
		{"a schedule that got shorter", result(webhook.TLSError), 14, 0, 0, Decision{Verdict: Dead, Reason: ReasonUsedUp}},
		{"refused target", result(webhook.RefusedTarget), 1, 0, 0, Decision{Verdict: Retry, At: now.Add(5 * time.Second), Attempt: 2}},
		{"our shutdown", result(webhook.Canceled), 10, 0, 0, Decision{Verdict: Retry, At: now, Attempt: 10}},
		{"429 without Retry-After", result(webhook.Throttled), 1, 0, 0, Decision{Verdict: Retry, At: now.Add(5 * time.Second), Attempt: 1, Pause: true}},
		{"429 with Retry-After", retryAfter(90 * time.Second), 10, 0, 1, Decision{Verdict: Retry, At: now.Add(90 * time.Second), Attempt: 10, Pause: true}},
		{"500 with Retry-After", webhook.Result{Outcome: webhook.ServerError, RetryAfter: time.Minute, HasRetryAfter: true}, 10, 0, 1, Decision{Verdict: Retry, At: now.Add(time.Minute), Attempt: 10, Pause: true}},
		{"400 with Retry-After, for ever", webhook.Result{Outcome: webhook.ClientError, RetryAfter: time.Second, HasRetryAfter: true}, 1, 8 * 24 * time.Hour, 0, Decision{Verdict: Dead, Reason: ReasonUsedUp}},
		{"our shutdown while it was said", webhook.Result{Outcome: webhook.Canceled, RetryAfter: time.Hour, HasRetryAfter: true}, 3, 0, 0, Decision{Verdict: Retry, At: now, Attempt: 3}},
		{"Retry-After 0", retryAfter(0), 1, 0, 0, Decision{Verdict: Retry, At: now.Add(time.Second), Attempt: 1, Pause: true}},
		{"Retry-After of a year", retryAfter(365 * 24 * time.Hour), 1, 0, 0, Decision{Verdict: Retry, At: now.Add(time.Hour), Attempt: 1, Pause: true}},
		{"the receiver aborts", webhook.Result{Outcome: webhook.ServerError, Control: webhook.ControlAbort}, 1, 0, 0, Decision{Verdict: Dead, Reason: ReasonAborted}},
		{"delivered is delivered", webhook.Result{Outcome: webhook.Delivered, Control: webhook.ControlAbort}, 1, 0, 0, Decision{Verdict: Done}},
		{"put off for ever", retryAfter(time.Second), 1, 8 * 24 * time.Hour, 0, Decision{Verdict: Dead, Reason: ReasonUsedUp}},
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

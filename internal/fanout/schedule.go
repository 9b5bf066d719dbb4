package fanout

import (
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

// Policy says when to try again.
type Policy struct {
	// Schedule holds the pause before each attempt; its length is the number of attempts. It is not empty.
	Schedule []time.Duration
	// Jitter spreads each pause by this share to both sides: 0.1 makes 5 s into 4.5 to 5.5 s.
	Jitter float64
	// RetryAfterMax caps what a receiver may ask for.
	RetryAfterMax time.Duration
}

// DefaultSchedule is the example of Standard Webhooks: ten attempts over about three days.
func DefaultSchedule() []time.Duration {
	return []time.Duration{0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour,
		14 * time.Hour, 20 * time.Hour, 24 * time.Hour}
}

// Verdict is what becomes of a delivery after an attempt.
type Verdict string

// The verdicts.
const (
	Done    Verdict = "done"    // answered: nothing more to do
	Retry   Verdict = "retry"   // another attempt at Decision.At
	Dead    Verdict = "dead"    // attempts used up
	Disable Verdict = "disable" // done, and the endpoint wants no more
	Tested  Verdict = "test"    // it was one: nothing becomes of it
)

// Why a delivery is a dead letter.
const (
	ReasonUsedUp  = "attempts_used_up"
	ReasonAborted = "aborted"       // the receiver asked for it (webhook-delivery: abort-message)
	ReasonExpired = "event_expired" // the event had left the log
)

// Decision is a verdict and its details.
type Decision struct {
	Verdict Verdict
	// At and Attempt are the time and the number of the next attempt; only with Retry.
	At      time.Time
	Attempt int
	// Reason is why it is dead, for programs.
	Reason string
	// Pause is set where the whole endpoint is to be left alone until At.
	Pause bool
}

const (
	// A receiver that asks for less is still left alone this long.
	minRetryAfter = time.Second
	// A receiver that says 429 and no time is left alone this long.
	throttlePause = 5 * time.Second
	// A delivery that its receiver keeps putting off is given up when that takes this many times as long as the whole schedule.
	putOffFactor = 2
	putOffSlack  = time.Hour
)

// Decide says what becomes of a delivery whose attempt-th attempt ended with result. putOff is for how long the receiver has
// put it off; random is in [-1, 1]. It depends on nothing else.
func (p Policy) Decide(result webhook.Result, attempt int, putOff time.Duration, now time.Time, random float64) Decision {
	switch {
	case result.Outcome == webhook.Delivered:
		return Decision{Verdict: Done}
	case result.Outcome == webhook.Gone:
		return Decision{Verdict: Disable}
	case result.Outcome == webhook.Canceled:
		// Our own shutdown: no failed attempt.
		return Decision{Verdict: Retry, At: now, Attempt: attempt}
	case result.Control == webhook.ControlAbort:
		return Decision{Verdict: Dead, Reason: ReasonAborted}
	case result.PutOff():
		// The receiver says when to come again: that costs none of the attempts, within reason.
		if putOff > putOffFactor*p.total()+putOffSlack {
			return Decision{Verdict: Dead, Reason: ReasonUsedUp}
		}
		wait := throttlePause
		if result.HasRetryAfter {
			wait = result.RetryAfter
		}
		wait = min(max(wait, minRetryAfter), max(p.RetryAfterMax, minRetryAfter))
		return Decision{Verdict: Retry, At: now.Add(wait), Attempt: attempt, Pause: true}
	case attempt >= len(p.Schedule):
		return Decision{Verdict: Dead, Reason: ReasonUsedUp}
	default:
		pause := p.Schedule[attempt]
		pause += time.Duration(p.Jitter * random * float64(pause))
		return Decision{Verdict: Retry, At: now.Add(pause), Attempt: attempt + 1}
	}
}

func (p Policy) total() time.Duration {
	var sum time.Duration
	for _, d := range p.Schedule {
		sum += d
	}
	return sum
}

package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/nex-crm/relay/internal/bus"
)

// errAway is the answer while NATS does not give one.
var errAway = &Error{http.StatusServiceUnavailable, "NATS does not answer, try again"}

// answerTime bounds what an operation waits for: its answer must be written before the server gives it up.
const answerTime = writeTimeout - 10*time.Second

// within is ctx for a time, after which it is canceled. It has no deadline that the client of NATS would know of: that would wait for an
// answer until then, and not for its own few seconds.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	over := time.AfterFunc(d, cancel)
	return ctx, func() { over.Stop(); cancel() }
}

// warnAgain is how often it is said aloud, at most, that requests fail because NATS does not answer: each of them would say the same.
const warnAgain = time.Minute

// outage keeps one absence of NATS from filling the log.
type outage struct{ warned atomic.Int64 } // Unix time in ns; 0 = not yet

// level is at which the next failure is logged.
func (o *outage) level(now time.Time) slog.Level {
	before := o.warned.Load()
	if before != 0 && now.Sub(time.Unix(0, before)) < warnAgain || !o.warned.CompareAndSwap(before, now.UnixNano()) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// failed is what the caller of ctx is told of an error, after bounded (see [within]). One that is no [Error], and not NATS's absence, is the relay's own fault.
func (s *server) failed(ctx, bounded context.Context, operation string, err error) *Error {
	var known *Error
	switch {
	case errors.As(err, &known):
		return known
	case ctx.Err() != nil: // the caller is gone
		return &Error{http.StatusServiceUnavailable, "the request was given up"}
	case bus.Away(err), bounded.Err() != nil:
		s.sayAway(ctx, operation, err)
		return errAway
	}
	s.log.Error("request failed", "operation", operation, "error", err)
	return &Error{http.StatusInternalServerError, "internal error: see the relay's log"}
}

// sayAway says once for an outage, whoever meets it first, that NATS does not answer.
func (s *server) sayAway(ctx context.Context, what string, err error) {
	s.log.Log(ctx, s.outage.level(time.Now()), "NATS does not answer, requests are told to come again", "operation", what, "error", err)
}

package fanout

import (
	"maps"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/webhook"
)

// health tells of an endpoint that begins to only fail, or answers again, and disables one that has done nothing but fail for
// too long.
func (f *Fanout) health(e *endpoint.Endpoint, d *delivery, result webhook.Result, c change, now time.Time) {
	since := e.State.FailingSince
	switch {
	case result.Outcome == webhook.Canceled:
	case result.Outcome == webhook.Delivered:
		if c.closed {
			f.log.Info("endpoint has recovered: what waits for it is delivered", "endpoint", e.ID)
		}
		if since != nil { // also where another life of this process, or another replica, told that it fails
			f.noteFailing(e, nil, func() error {
				if event.IsNews(d.event.eventType) {
					return nil // they would feed each other
				}
				return f.news(event.EndpointRecovered, e.ID, map[string]any{"endpoint": e.ID, "failing_since": since.UTC()})
			})
		}
	case c.opened:
		f.log.Warn("endpoint only fails: it gets single attempts until one succeeds, the rest waits", "endpoint", e.ID, "since", c.since)
		f.onlyFails(e, d, result, c.since)
	case since == nil && !c.putOff.IsZero() && now.Sub(c.putOff) >= f.putOffTime():
		f.log.Warn("endpoint does nothing but put off: that counts as failing", "endpoint", e.ID, "since", c.putOff)
		f.onlyFails(e, d, result, c.putOff)
	case since != nil && f.cfg.DisableAfter > 0 && f.noteStillFails(e, now):
	case since != nil && f.cfg.DisableAfter > 0 && now.Sub(*since) >= f.cfg.DisableAfter:
		f.disable(e, "it did nothing but fail for "+f.cfg.DisableAfter.String(), "failing", nil, nil, map[string]any{
			"since": since.UTC(), "outcome": result.Outcome, "status": result.StatusCode,
		})
	}
}

// putOffTime is how long an endpoint may do nothing but put off (429, or 503 with Retry-After) before that counts as failing.
func (f *Fanout) putOffTime() time.Duration {
	if f.cfg.DisableAfter > 0 {
		return min(putOffMost, f.cfg.DisableAfter/2)
	}
	return putOffMost
}

const putOffMost = 6 * time.Hour

// onlyFails tells that an endpoint only fails, and remembers since when.
func (f *Fanout) onlyFails(e *endpoint.Endpoint, d *delivery, result webhook.Result, since time.Time) {
	f.tellUnless(d, event.EndpointFailing, e.ID, map[string]any{
		"endpoint": e.ID, "since": since.UTC(), "outcome": result.Outcome, "status": result.StatusCode, "error": errorText(result.Err),
	})
	if e.State.FailingSince == nil {
		f.noteFailing(e, &since, nil)
	}
}

// tellUnless tells news, unless the delivery that it is about was of news itself: they would feed each other.
func (f *Fanout) tellUnless(d *delivery, eventType, id string, data any) {
	if !event.IsNews(d.event.eventType) {
		f.tell(eventType, id, data)
	}
}

// noteFailing remembers since when an endpoint only fails, over restarts and for all replicas; nil = no longer. Whoever
// changes it tells.
func (f *Fanout) noteFailing(e *endpoint.Endpoint, since *time.Time, tell func() error) {
	ours := false
	f.write(nil, "note health of endpoint", func() error {
		changed, err := f.cfg.Endpoints.UpdateState(f.storeCtx, e.ID, func(s *endpoint.State) bool {
			return !f.cfg.Endpoints.Replaced(e) && s.SetFailing(e, since, time.Now())
		})
		if ours = ours || changed; err == nil && ours && tell != nil {
			err = tell()
		}
		return err
	})
}

// noteStillFails remembers from time to time that an endpoint that only fails still does. It answers true while it is not
// known yet how long it has been tried: the time from its last failure to the begin of this process is none, perhaps no relay ran.
func (f *Fanout) noteStillFails(e *endpoint.Endpoint, now time.Time) bool {
	due := func(s *endpoint.State) bool {
		return s.Failing(e) != nil && (s.FailedAt.Before(f.began) || now.Sub(s.FailedAt) >= min(time.Hour, f.cfg.DisableAfter/10))
	}
	if !due(&e.State) {
		return false
	}
	f.write(nil, "note health of endpoint", func() error {
		_, err := f.cfg.Endpoints.UpdateState(f.storeCtx, e.ID, func(s *endpoint.State) bool {
			if !due(s) {
				return false
			}
			last := s.FailedAt
			if last.Before(*s.FailingSince) {
				last = *s.FailingSince
			}
			if off := f.began.Sub(last); off > 0 {
				since := s.FailingSince.Add(off)
				s.FailingSince = &since
			}
			s.FailedAt = now
			return true
		})
		return err
	})
	return e.State.FailedAt.Before(f.began)
}

// filterFailed makes a filter that fails on an event seen: once for as long as it fails. What the error says may quote the event,
// which is for those to see who see the endpoint, not for the log.
func (f *Fanout) filterFailed(e *endpoint.Endpoint, m *message, err error) {
	f.metrics.filterErrors.Inc()
	if now := f.cfg.Endpoints.Snapshot().Get(e.ID); now == nil || now.Filter != e.Filter {
		return // nobody would be told
	}
	f.filterMu.Lock()
	said := f.filterSaid[e.ID]
	again := said.filter == e.Filter
	if !again {
		said.Count = 0
	}
	f.filterSaid[e.ID] = FilterError{
		Error: err.Error(), At: time.Now().UTC(), Count: said.Count + 1, filter: e.Filter, workspace: m.workspace, eventType: m.eventType,
	}
	f.filterMu.Unlock()
	if !again {
		f.log.Warn("a filter fails on an event, which counts as no match: filter_error of the endpoint says more", "endpoint", e.ID, "event", m.id)
	}
}

// FilterError is how a filter last failed in this process.
type FilterError struct {
	Error string    `json:"error"`
	At    time.Time `json:"at"`
	Count int       `json:"count"`

	filter, workspace, eventType string // what failed, and on what
}

// FilterError is how an endpoint's filter last failed. Error may quote the event, so it is told only while the endpoint has that
// filter and would still get that event: changed, it may have come to be the business of others.
func (f *Fanout) FilterError(e *endpoint.Endpoint) (FilterError, bool) {
	f.filterMu.Lock()
	defer f.filterMu.Unlock()
	said, ok := f.filterSaid[e.ID]
	return said, ok && said.filter == e.Filter && e.WantsType(said.workspace, said.eventType)
}

// forgetFilterErrors forgets how filters failed on events of a workspace.
func (f *Fanout) forgetFilterErrors(workspace string) {
	f.filterMu.Lock()
	defer f.filterMu.Unlock()
	maps.DeleteFunc(f.filterSaid, func(_ string, said FilterError) bool { return said.workspace == workspace })
}

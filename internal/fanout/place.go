package fanout

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/time/rate"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
)

// An endpoint that is not active (paused by its owner, disabled by the relay) keeps its place in the log: what is stored
// behind it is left there and costs nothing. Three rules make that exact over all replicas, whatever each of them has heard:
//
//   - The place is any sequence read from the log after the endpoint is known to be inactive. What comes before, or while
//     there is no place yet, goes into the backlog.
//   - An event behind the place is left only by a replica that has asked, after the event was stored, whether the endpoint is
//     still inactive (Fence).
//   - When the endpoint is active again, the place is given up first, and the end of the log read then: everything up to there
//     is still to be delivered. What a replica left before is within; what is stored later nobody leaves.

// maxFilters bounds the filter subjects of a consumer; more are asked for as everything.
const maxFilters = 32

// asleep sees to an event for an endpoint that is not active.
func (f *Fanout) asleep(e *endpoint.Endpoint, d *delivery) {
	if at := e.State.Position; at == 0 || d.sequence <= at {
		f.backlog(d)
		return
	}
	f.leavingMu.Lock()
	f.leaving = append(f.leaving, d)
	f.leavingMu.Unlock()
	signal(f.leave)
}

// keepPlaces leaves events to the log until ctx ends.
func (f *Fanout) keepPlaces(ctx context.Context) {
	for {
		select {
		case <-f.leave:
		case <-ctx.Done():
			return
		}
		for !f.LeaveToLog(ctx) {
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
	}
}

// LeaveToLog is the step that keepPlaces repeats: it asks once whether the endpoints of the events that wait for it are still
// inactive. It answers false if nobody answered.
func (f *Fanout) LeaveToLog(ctx context.Context) bool {
	f.leavingMu.Lock()
	list := f.leaving
	f.leaving = nil
	f.leavingMu.Unlock()
	if len(list) == 0 {
		return true
	}
	fence, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := f.cfg.Endpoints.Fence(fence); err != nil {
		f.leavingMu.Lock()
		f.leaving = append(list, f.leaving...)
		f.leavingMu.Unlock()
		return false
	}
	snapshot := f.cfg.Endpoints.Snapshot()
	for _, d := range list {
		switch e := snapshot.Get(d.endpoint); {
		case e == nil:
			f.backlog(d) // not for this replica to judge
		case e.Active():
			f.hand(ctx, e, d, true)
		case e.State.Position == 0 || d.sequence <= e.State.Position:
			f.backlog(d)
		default:
			d.settle() // left
		}
	}
	return true
}

// finishLeaving settles what still waits to be left when the relay stops: another start would get it only when its
// acknowledgement is overdue. What nobody answers for is stored.
func (f *Fanout) finishLeaving() {
	ctx, cancel := context.WithTimeout(f.storeCtx, 2*time.Second)
	defer cancel()
	if f.LeaveToLog(ctx) {
		return
	}
	f.leavingMu.Lock()
	list := f.leaving
	f.leaving = nil
	f.leavingMu.Unlock()
	for _, d := range list {
		f.backlog(d)
	}
}

// follow carries out what changes of the endpoints ask for, until ctx ends.
func (f *Fanout) follow(ctx context.Context) {
	ticker := time.NewTicker(scanEvery)
	defer ticker.Stop()
	signal(f.scan) // what an earlier life left
	for {
		changes := f.cfg.Endpoints.Changes()
		f.reconcile(ctx)
		select {
		case <-changes:
		case <-f.scan:
			f.scanBacklogs(ctx)
		case <-ticker.C:
			f.scanBacklogs(ctx)
		case <-ctx.Done():
			f.stopOrdered()
			return
		}
	}
}

// reconcile is the step that follow repeats.
func (f *Fanout) reconcile(ctx context.Context) {
	snapshot := f.cfg.Endpoints.Snapshot()
	heard := f.heard
	f.heard = snapshot.Generation
	for _, e := range snapshot.All() {
		if e.Heard > heard && !e.Ordered {
			f.welcome(e)
		}
		var err error
		switch {
		case !e.Active() && e.State.Position == 0:
			if f.mayTurn(e.ID) {
				err = f.takePlace(ctx, e)
			}
		case e.Active() && (e.State.Position != 0 || askedToGoOn(&e.State)):
			if f.mayTurn(e.ID) {
				err = f.goOn(ctx, e)
			}
		case slices.ContainsFunc(e.State.Spans, func(s endpoint.Span) bool { return s.To == 0 }):
			err = f.closeSpans(ctx, e)
		case f.mayCatchUp(e):
			f.startCatchUp(ctx, e)
		}
		if err != nil && ctx.Err() == nil {
			f.log.Warn("an endpoint's place in the log cannot be noted yet, trying on", "endpoint", e.ID, "error", err)
		}
		f.wakeLane(e)
	}
	f.reconcileOrdered(ctx, snapshot)
}

// mayTurn tells whether an endpoint's state may be turned about now. Replicas whose files disagree would do so for ever, each
// because of what the other has written: that is to cost little. What is put off is looked at again with the backlogs.
func (f *Fanout) mayTurn(id string) bool {
	turns := f.turns[id]
	if turns == nil {
		if len(f.turns) >= turnsKept {
			clear(f.turns)
		}
		turns = rate.NewLimiter(rate.Every(turnEvery), turnBurst)
		f.turns[id] = turns
	}
	return turns.Allow()
}

const (
	turnEvery = time.Second
	turnBurst = 20
	turnsKept = 4096 // endpoints
)

// wakeLane sees to the lane of an endpoint that may have become active just now, or no longer be.
func (f *Fanout) wakeLane(e *endpoint.Endpoint) {
	f.mu.Lock()
	l := f.lanes[e.ID]
	f.mu.Unlock()
	if l == nil {
		return
	}
	l.mu.Lock()
	behind := l.behind && !l.draining
	woken := e.Active() && l.asleep
	l.asleep = !e.Active()
	l.mu.Unlock()
	if woken {
		l.resumed()
	}
	if behind && e.Active() {
		f.startDrain(l)
	}
}

// takePlace notes where an endpoint that has become inactive stands.
func (f *Fanout) takePlace(ctx context.Context, e *endpoint.Endpoint) error {
	log, err := f.cfg.Bus.Extent(ctx)
	if err != nil {
		return err
	}
	_, err = f.cfg.Endpoints.UpdateState(ctx, e.ID, func(s *endpoint.State) bool {
		if s.Position != 0 {
			return false
		}
		s.Position, s.PositionLog, s.FailingSince = max(log.Last, 1), log.Made, nil // the time while it is not tried counts for nothing
		return true
	})
	return err
}

// askedToGoOn tells whether the owner's wish how to go on has not been carried out yet.
func askedToGoOn(s *endpoint.State) bool { return s.Resume != "" || s.ResumeAt != 0 }

// goOn gives the place of an endpoint up that has become active again, and notes what it still has to get from there. One that
// went on before anybody had noted its place has everything in its backlog: that is treated as its owner wishes, too.
func (f *Fanout) goOn(ctx context.Context, e *endpoint.Endpoint) error {
	log, err := f.cfg.Bus.Extent(ctx)
	if err != nil {
		return err
	}
	end := e.State.ResumeAt
	if end == 0 || end > log.Last { // not known, or of a log that is no more
		end = log.Last
	}
	mode := resumeMode(e)
	if mode == endpoint.ModeSkip {
		if err := f.skip(ctx, e, end, log); err != nil {
			return err
		}
	}
	from, placed := uint64(0), false
	changed, err := f.cfg.Endpoints.UpdateState(ctx, e.ID, func(s *endpoint.State) bool {
		if s.Position == 0 && !askedToGoOn(s) || !f.active(e.ID) {
			return false // another replica was faster, or it is no longer to go on
		}
		span := endpoint.Span{ID: rand.Text()[:12], From: goesOnAt(s, log), Mode: mode}
		if s.Position == 0 { // nothing of the log, but what waits is put into another order
			span.To = max(end, 1)
			span.From = span.To + 1
		}
		from, placed = span.From, s.Position != 0
		if !e.Ordered && mode != endpoint.ModeSkip && (s.Position != 0 || mode != endpoint.ModeAll) {
			s.Spans = append(s.Spans, span)
		}
		switch {
		case mode == endpoint.ModeSkip:
			s.CancelSpans(time.Now(), func(endpoint.Span) bool { return true })
			s.Ordered, s.Skipped = nil, &endpoint.Skipped{Sequence: end, Stored: log.LastTime}
		case s.Ordered != nil:
			s.Ordered.NextAt = time.Time{}
		}
		s.Position, s.PositionLog, s.Resume, s.ResumeAt = 0, time.Time{}, "", 0
		return true
	})
	if err == nil && changed {
		f.log.Info("endpoint goes on", "endpoint", e.ID, "from", from, "resume", mode)
		data := map[string]any{"endpoint": e.ID, "resume": mode, "from": from}
		if placed && mode != endpoint.ModeSkip && from < log.First {
			f.log.Warn("events have left the log that an endpoint was still to get; keep stream.max_age and max_bytes above the longest pause",
				"endpoint", e.ID, "from", from, "to", log.First-1)
			data["missed"] = map[string]uint64{"from": from, "to": log.First - 1}
		}
		f.tell(event.EndpointResumed, e.ID, data)
	}
	return err
}

// goesOnAt is where the log goes on behind an endpoint's place: at its beginning, where the place is one in a log that is no more.
func goesOnAt(s *endpoint.State, log bus.Extent) uint64 {
	if s.Position > max(log.Last, 1) || !s.PositionLog.IsZero() && !s.PositionLog.Equal(log.Made) {
		return 1
	}
	return s.Position + 1
}

// closeSpans notes where spans end whose place was given up.
func (f *Fanout) closeSpans(ctx context.Context, e *endpoint.Endpoint) error {
	log, err := f.cfg.Bus.Extent(ctx)
	if err != nil {
		return err
	}
	open := map[string]bool{} // those known before the end was read
	for _, span := range e.State.Spans {
		open[span.ID] = span.To == 0
	}
	_, err = f.cfg.Endpoints.UpdateState(ctx, e.ID, func(s *endpoint.State) bool {
		changed := false
		for i := range s.Spans {
			if span := &s.Spans[i]; open[span.ID] && span.To == 0 {
				span.To, changed = max(log.Last, span.From-1), true
			}
		}
		return changed
	})
	return err
}

func resumeMode(e *endpoint.Endpoint) endpoint.Mode {
	mode := e.State.Resume
	if mode == "" {
		mode = e.Resume
	}
	if mode == "" || e.Ordered && mode != endpoint.ModeSkip {
		return endpoint.ModeAll
	}
	return mode
}

// skip removes what waits for an endpoint of the events up to a sequence. While the endpoint has a place its backlog is not brought
// back, so that nobody else reads it meanwhile.
func (f *Fanout) skip(ctx context.Context, e *endpoint.Endpoint, at uint64, log bus.Extent) error {
	if e.Ordered {
		if run := f.ordered[e.ID]; run != nil { // it would find no consumer, and make one
			run.stop()
			delete(f.ordered, e.ID)
		}
		return f.restartOrdered(ctx, e, markAt(at, log))
	}
	c := &catcher{fanout: f, endpoint: e}
	return c.skipTo(ctx, at)
}

// EndOfLog is the sequence of the newest event, and when the log took it: where an endpoint that skips what came before begins.
func (f *Fanout) EndOfLog(ctx context.Context) (sequence uint64, stored time.Time, err error) {
	log, err := f.cfg.Bus.Extent(ctx)
	return log.Last, log.LastTime, err
}

// tell publishes an operational event about an endpoint in the background, trying until it is stored or the relay stops.
func (f *Fanout) tell(eventType, id string, data any) {
	f.write(nil, "tell "+eventType, func() error { return f.news(eventType, id, data) })
}

// filterSubjects are the subjects of the log on which the events for an endpoint stand, and perhaps others.
func filterSubjects(e *endpoint.Endpoint) (out []string) {
	all := e.Subjects()
	if len(all) > maxFilters {
		return []string{"nex.>"}
	}
	for _, subject := range all {
		if slices.ContainsFunc(out, func(other string) bool { return server.SubjectsCollide(subject, other) }) {
			return []string{"nex.>"} // a consumer's filters must not overlap
		}
		out = append(out, subject)
	}
	return out
}

// errInactive ends reading on for an endpoint that is to get nothing now.
var errInactive = errors.New("the endpoint is not active")

func (f *Fanout) stillActive(id string) error {
	if !f.active(id) {
		return fmt.Errorf("%s: %w", id, errInactive)
	}
	return nil
}

// Forget removes what waits for an endpoint that is gone.
func (f *Fanout) Forget(ctx context.Context, id string) error {
	f.filterMu.Lock()
	delete(f.filterSaid, id)
	f.filterMu.Unlock()
	return errors.Join(f.removeOrdered(ctx, id), f.cfg.Bus.PurgeRetry(ctx, id, 0))
}

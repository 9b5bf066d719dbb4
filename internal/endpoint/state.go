package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Mode says what an endpoint gets, when it is active again, of what came while it was not.
type Mode string

// The modes.
const (
	ModeAll             Mode = "all"               // everything, oldest first
	ModeNewestFirst     Mode = "newest-first"      // everything, newest first
	ModeLatestPerTarget Mode = "latest-per-target" // of each workspace and subject the last event
	ModeSkip            Mode = "skip"              // nothing
)

// Modes are all modes, the default first.
func Modes() []Mode { return []Mode{ModeAll, ModeNewestFirst, ModeLatestPerTarget, ModeSkip} }

// ParseMode reads a mode; empty is [ModeAll].
func ParseMode(s string) (Mode, error) {
	if s == "" {
		return ModeAll, nil
	}
	if !slices.Contains(Modes(), Mode(s)) {
		return "", fmt.Errorf("%q is no way to resume: one of %v", s, Modes())
	}
	return Mode(s), nil
}

// State is what the relay remembers of an endpoint beside its settings, over restarts and for all replicas.
type State struct {
	// URLHash is of the URL that Disabled holds for: whoever changes the URL wants it tried.
	URLHash  string    `json:"url_sha256,omitempty"`
	Disabled *Disabled `json:"disabled,omitempty"`
	// Position is the endpoint's place in the log while it is not active: what is stored behind it is left there. 0 = none.
	Position uint64 `json:"position,omitempty"`
	// PositionLog is when the log was made of which Position is; zero = not known.
	PositionLog time.Time `json:"position_log,omitzero"`
	// Resume is how to go on from Position; empty means what the endpoint says.
	Resume Mode `json:"resume,omitempty"`
	// ResumeAt is the end of the log when it was asked for: with [ModeSkip] what is stored later is delivered. 0 = not known.
	ResumeAt uint64 `json:"resume_at,omitempty"`
	// Skipped is up to where its owner wanted nothing of what came: what still waits of that is dropped.
	Skipped *Skipped `json:"skipped,omitempty"`
	// Spans are the parts of the log that the endpoint still has to get from the time when it was not active.
	Spans []Span `json:"spans,omitempty"`
	// Replayed are replays that are over, the newest last.
	Replayed []Replay `json:"replayed,omitempty"`
	// FailingSince is when a run of failures began that no success has ended.
	FailingSince *time.Time `json:"failing_since,omitempty"`
	// FailingURL is the hash of the URL that it is about.
	FailingURL string `json:"failing_url_sha256,omitempty"`
	// FailedAt is about when it failed last, of use only with FailingSince: while no relay runs nothing fails.
	FailedAt time.Time `json:"failed_at,omitzero"`
	// LossAhead is when its owner was told that the log will lose what it is still to get; nil = it will not, as far as is known.
	LossAhead *time.Time `json:"loss_ahead,omitempty"`
	// Granted is the receiver's consent, where it was asked for.
	Granted *Granted `json:"granted,omitempty"`
	// InOrder says that the endpoint has a consumer of its own, whatever its settings say by now.
	InOrder bool `json:"in_order,omitempty"`
	// Ordered is where the strict order stands at an event that failed.
	Ordered *OrderedState `json:"ordered,omitempty"`
}

// Skipped is an end of the log, when it had taken that, by its own clock.
type Skipped struct {
	Sequence uint64    `json:"sequence"`
	Stored   time.Time `json:"stored"` // in a log that was made anew the sequences mean other events, which came later
}

// Span is a part of the log, from and to inclusive. To is 0 until the end of the log was read.
type Span struct {
	ID   string `json:"id"` // tells it from others, whatever becomes of From and To
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
	Mode Mode   `json:"mode"`
	// Owner is the process that works on it, and Beat when it last said so.
	Owner string    `json:"owner,omitempty"`
	Beat  time.Time `json:"beat,omitzero"`
	// Replay is set where the endpoint is to get the span again, because its owner asked for that.
	Replay *Replay `json:"replay,omitempty"`
}

// Replay is an owner's wish that the endpoint gets a part of the log, whatever it has had of it.
type Replay struct {
	ID   string    `json:"id"`
	At   time.Time `json:"at"`   // when it was asked for
	From uint64    `json:"from"` // the whole part, inclusive; the span is what is left of it
	To   uint64    `json:"to"`
	// Events and Filter stand for those of the endpoint, where they are given.
	Events []string `json:"events,omitempty"`
	Filter string   `json:"filter,omitempty"`
	Queued uint64   `json:"queued"` // events that were put into the endpoint's backlog up to now
	// Ended is when it was done with, or given up.
	Ended    time.Time `json:"ended,omitzero"`
	Canceled bool      `json:"canceled,omitempty"`
}

// Selects is the endpoint as it takes part in a replay: with what is asked for in place of its own wishes.
func (r *Replay) Selects(e *Endpoint) *Endpoint {
	as := *e
	if len(r.Events) > 0 {
		as.Events = r.Events
	}
	if r.Filter != "" {
		as.Filter = r.Filter
	}
	return &as
}

// SetFailing remembers since when an endpoint only fails at its URL, nil = no longer, and tells whether that is news.
func (s *State) SetFailing(e *Endpoint, since *time.Time, now time.Time) bool {
	s.forOther(urlHash(e.URL))
	if (s.FailingSince == nil) == (since == nil) {
		return false
	}
	s.FailingSince, s.FailedAt, s.FailingURL = since, time.Time{}, ""
	if since != nil {
		s.FailedAt, s.FailingURL = now, urlHash(e.URL)
	}
	return true
}

// Failing is since when an endpoint only fails at its URL.
func (s *State) Failing(e *Endpoint) *time.Time {
	s.forOther(urlHash(e.URL))
	return s.FailingSince
}

// forOther forgets the failures of another URL.
func (s *State) forOther(hash string) {
	if s.FailingURL != "" && s.FailingURL != hash {
		s.FailingSince, s.FailedAt, s.FailingURL = nil, time.Time{}, ""
	}
}

// end notes that a replay is over.
func (s *State) end(r Replay, canceled bool, now time.Time) {
	r.Ended, r.Canceled = now.UTC(), canceled
	s.Replayed = append(s.Replayed, r)
	if excess := len(s.Replayed) - maxReplayed; excess > 0 {
		s.Replayed = s.Replayed[excess:]
	}
}

// maxReplayed bounds the replays that are remembered when they are over.
const maxReplayed = 10

// EndSpan removes the first span.
func (s *State) EndSpan(now time.Time) {
	if r := s.Spans[0].Replay; r != nil {
		s.end(*r, false, now)
	}
	s.Spans = s.Spans[1:]
}

// CancelSpans removes the spans that a function chooses.
func (s *State) CancelSpans(now time.Time, choose func(Span) bool) {
	s.Spans = slices.DeleteFunc(s.Spans, func(span Span) bool {
		if !choose(span) {
			return false
		}
		if span.Replay != nil {
			s.end(*span.Replay, true, now)
		}
		return true
	})
}

// Granted is a receiver's consent to deliveries at a URL, from an origin.
type Granted struct {
	URLHash string    `json:"url_sha256"`
	Origin  string    `json:"origin"`
	At      time.Time `json:"at"`
	Rate    int       `json:"rate,omitempty"` // requests a minute that it takes; 0 = it names no limit
}

// GrantedNow is the receiver's consent, nil if there is none for the endpoint's URL and this origin.
func (e *Endpoint) GrantedNow(origin string) *Granted {
	if g := e.State.Granted; g != nil && g.URLHash == urlHash(e.URL) && g.Origin == origin {
		return g
	}
	return nil
}

// Grant remembers that the receiver of a URL has consented to what comes from an origin.
func (r *Registry) Grant(ctx context.Context, id, url, origin string, rate int, now time.Time) error {
	_, err := r.UpdateState(ctx, id, func(s *State) bool {
		s.Granted = &Granted{URLHash: urlHash(url), Origin: origin, At: now.UTC().Truncate(time.Second), Rate: rate}
		return true
	})
	return err
}

// OrderedState is the event at which an ordered endpoint stands, and its next attempt.
type OrderedState struct {
	Sequence uint64    `json:"sequence"`
	Attempt  int       `json:"attempt"`
	NextAt   time.Time `json:"next_at"`
	FailedAt time.Time `json:"failed_at,omitzero"` // the attempt before
	Since    int64     `json:"since,omitempty"`    // Unix seconds when the receiver first put it off
	// URLHash is of the URL that all this was learnt of.
	URLHash string `json:"url_sha256,omitempty"`
}

// Holds tells whether what was learnt of an endpoint's URL holds for the one that it has now.
func (s *OrderedState) Holds(e *Endpoint) bool { return s.URLHash == urlHash(e.URL) }

// HoldUp remembers at which event an ordered endpoint stands.
func (r *Registry) HoldUp(ctx context.Context, e *Endpoint, at OrderedState) error {
	at.URLHash = urlHash(e.URL)
	_, err := r.UpdateState(ctx, e.ID, func(s *State) bool {
		s.Ordered = &at
		return true
	})
	return err
}

// UpdateState changes what is remembered of an endpoint, on what the bucket holds at that moment. change may be called
// several times; where it answers false nothing is written. The snapshot holds the change when UpdateState returns.
func (r *Registry) UpdateState(ctx context.Context, id string, change func(*State) bool) (changed bool, err error) {
	for {
		revision, changed, err := r.tryState(ctx, id, change)
		switch {
		case isConflict(err):
			if err := pause(ctx); err != nil {
				return false, err
			}
			continue
		case err != nil:
			return false, fmt.Errorf("remember state of endpoint %s: %w", id, err)
		case !changed:
			return false, nil
		}
		return true, r.seen(ctx, revision)
	}
}

func (r *Registry) tryState(ctx context.Context, id string, change func(*State) bool) (revision uint64, changed bool, err error) {
	var s State
	var last uint64
	entry, err := r.kv.Get(ctx, keyState+id)
	switch {
	case err == nil:
		last = entry.Revision()
		if err := json.Unmarshal(entry.Value(), &s); err != nil {
			s = State{} // written by something else: what it says cannot be used
		}
	case !errors.Is(err, jetstream.ErrKeyNotFound):
		return 0, false, err
	}
	if !change(&s) {
		return 0, false, nil
	}
	value, err := json.Marshal(s)
	if err != nil {
		return 0, false, err
	}
	if last == 0 {
		revision, err = r.kv.Create(ctx, keyState+id, value)
	} else {
		revision, err = r.kv.Update(ctx, keyState+id, value, last)
	}
	return revision, true, err
}

// pause lets the server that answered catch up: what is read may come from a replica that is behind.
func pause(ctx context.Context) error {
	select {
	case <-time.After(20 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyExists) ||
		errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// Fence returns when the snapshot holds everything that the bucket held when Fence was called.
func (r *Registry) Fence(ctx context.Context) error {
	info, err := r.bucketInfo(ctx)
	if err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	return r.seen(ctx, info.State.LastSeq)
}

// Changes is closed when the snapshot is no longer the one that it was.
func (r *Registry) Changes() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.moved
}

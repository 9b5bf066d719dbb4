package stream

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
)

// surprised is what is to be told before a new insight is written that moves the checkpoint back, or has the log lose it.
func (s *stream) surprised(emitted time.Time, recalled bool) *event.Event {
	moved := s.gap.surprise(emitted, recalled)
	if !moved && recalled && emitted.IsZero() {
		var oldest time.Time
		if keep := s.cfg.MaxAge; keep > 0 {
			oldest = s.cfg.Now().Add(keep/16 - keep) // until it is asked for, it is not to be too old to be fetched
		}
		moved = s.gap.guess(oldest)
	}
	if moved {
		s.lookForGaps()
		at, _ := s.gap.stands()
		return s.filledNews(gapNews{From: at, To: at, Open: s.gap.open()})
	}
	if recalled {
		return nil
	}
	return s.fading(emitted)
}

func (s *stream) filledNews(news gapNews) *event.Event {
	e, err := event.News(s.workspace.Token, event.GapFilled, "", news, s.cfg.Now())
	if err != nil { // times always encode
		s.log.Error("news could not be told", "type", event.GapFilled, "error", err)
	}
	return e
}

// gapNews is the data of gap_filled and gap_not_fillable. The newest gap_filled is the checkpoint.
type gapNews struct {
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Found     int       `json:"found"`
	Published int       `json:"published"`
	Reason    string    `json:"reason,omitempty"`
	// CompleteTo is the checkpoint where it is not To.
	CompleteTo time.Time `json:"complete_to,omitzero"`
	// Open is what Nex did not give before it, and may still give.
	Open  []openSpan `json:"open,omitempty"`
	class string     // of the reason: what is one and the same
}

// checkpoint is what the log tells of how far it is complete; zero if it tells nothing.
type checkpoint struct {
	to     time.Time // everything before is there, as far as Nex could give it
	stored time.Time // when the log took the event that says so
	seq    uint64    // and where; 0 if it holds it no more
	open   []openSpan
}

// checkpoint reads it. A clock that was ahead when it was told is not believed: what is complete cannot lie beyond when NATS
// stored it, and where NATS stored it at a time that has not come yet, its clock was wrong too.
func (s *stream) checkpoint(ctx context.Context) (c checkpoint, err error) {
	last, err := s.lastTold(ctx)
	if errors.Is(err, bus.ErrNotInLog) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	var e struct {
		Data gapNews `json:"data"`
	}
	if err := json.Unmarshal(last.Data, &e); err != nil {
		s.log.Warn("the last gap_filled cannot be read, as if there were none", "error", err)
		return c, nil
	}
	to, now := e.Data.To, s.cfg.Now()
	if !e.Data.CompleteTo.IsZero() {
		to = e.Data.CompleteTo
	}
	if last.Time.Before(to) {
		to = last.Time
	}
	if to = setRight(to, last.Time, now); now.Before(to) {
		to = now
	}
	return checkpoint{to: to.UTC(), stored: last.Time, seq: last.Sequence, open: e.Data.Open}, nil
}

// setRight corrects a time that a clock made which stored shows to have been ahead. That it is ahead of now by some time
// says that it was wrong by at least as much, and by as much more as has passed since: that is taken to be as much again,
// and an hour.
func setRight(at, stored, now time.Time) time.Time {
	if ahead := stored.Sub(now); ahead > clockSetBack {
		return at.Add(-2*ahead - clockSlack)
	}
	return at
}

// trust bounds a checkpoint that NATS stored at a time which has not come yet by the newest insight in the log that has a time:
// what was missed since then was emitted later, by however much the clocks were wrong.
func (c *checkpoint) trust(recent []bus.Known, now time.Time) {
	if c.stored.Sub(now) <= clockSetBack {
		return
	}
	for _, k := range slices.Backward(recent) {
		if !k.Emitted.IsZero() {
			if k.Emitted.Before(c.to) {
				c.to = k.Emitted
			}
			return
		}
	}
}

// tellDue tells whether the checkpoint was last told so long ago that it should be told again. Otherwise the log would
// lose it by its age while the relay runs.
func (s *stream) tellDue() bool {
	ago := s.cfg.Now().Sub(s.gap.toldAt)
	return ago >= s.tellInterval() || ago < -clockSetBack // by a clock that was ahead
}

func (s *stream) tellInterval() time.Duration {
	if s.cfg.MaxAge > 0 {
		return min(tellEvery, s.cfg.MaxAge/4)
	}
	return tellEvery
}

// remind tells the checkpoint as it stands, if it is due: a filling waits for Nex.
func (s *stream) remind(ctx context.Context) {
	s.retract(ctx)
	if at, _ := s.gap.stands(); s.tellDue() {
		s.tell(ctx, gapNews{From: at, To: at})
	}
}

// retract tells the checkpoint as it stands, if a surprise has moved it back since it was told: another life would go on
// where the log says.
func (s *stream) retract(ctx context.Context) {
	at, surprises := s.gap.stands()
	if surprises == s.gap.toldOf {
		return
	}
	s.showComplete()
	if s.tell(ctx, gapNews{From: at, To: at}) {
		s.gap.toldOf = surprises
	}
}

// unfilled tells once that Nex refuses what is missing. It is tried again with the next look for gaps.
func (s *stream) unfilled(ctx context.Context, f *filling, err error) {
	if class(err) == s.gap.lastError {
		return
	}
	news := f.news(f.to)
	news.Reason = err.Error()
	if !news.From.Before(news.To) {
		return
	}
	if s.notFillable(ctx, news) == nil {
		s.gap.lastError = class(err)
	}
}

// tell writes the checkpoint into the log, and answers false if there was no room.
func (s *stream) tell(ctx context.Context, news gapNews) bool {
	now := s.cfg.Now()
	if at, _ := s.gap.stands(); !at.Equal(news.To) {
		news.CompleteTo = at
	}
	news.Open = s.gap.open()
	if !s.news(ctx, event.GapFilled, news) {
		return false
	}
	s.gap.toldAt = now
	return true
}

// notFillable tells that a span of time cannot be filled, and returns when the log has it, however long that takes: a
// checkpoint must not pass over what nobody was told. Its only error is ctx's.
func (s *stream) notFillable(ctx context.Context, news gapNews) error {
	s.log.Warn("gap cannot be filled", "from", news.From, "to", news.To, "reason", news.Reason)
	e, err := event.News(s.workspace.Token, event.GapNotFillable, "", news, s.cfg.Now())
	if err != nil { // times, numbers and a text always encode
		s.log.Error("news could not be told", "type", event.GapNotFillable, "error", err)
		return nil
	}
	if err := s.publisher.submit(ctx, item{event: e}); err != nil {
		return err
	}
	return s.publisher.flush(ctx)
}

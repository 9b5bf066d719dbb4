package bus

import (
	"context"
	"fmt"
	"time"
)

// Extent is what the log reaches over.
type Extent struct {
	// First and Last are sequences. First is over 1 where the log has lost events by its limits or to a purge, and above Last if it
	// holds none now; Last is 0 if it never held one.
	First, Last uint64
	FirstTime   time.Time // when it took its oldest event; zero if it holds none
	LastTime    time.Time // when it took its newest, also if it does not hold it any more
	Made        time.Time // when it was made: in one made anew the sequences mean other events
	Bytes       uint64    // what it holds
	// MaxAge, MaxBytes and MaxMsgs are its limits; 0 = none.
	MaxAge            time.Duration
	MaxBytes, MaxMsgs int64
}

// Size is how many sequences that are.
func (e Extent) Size() uint64 { return e.Last + 1 - e.First }

// Extent is what the log reaches over now.
func (b *Bus) Extent(ctx context.Context) (Extent, error) {
	info, err := b.nex.Info(ctx)
	if err != nil {
		return Extent{}, fmt.Errorf("extent of the log: %w", err)
	}
	s := info.State
	e := Extent{First: s.FirstSeq, Last: s.LastSeq, LastTime: s.LastTime, Made: info.Created, Bytes: s.Bytes}
	e.MaxAge, e.MaxBytes, e.MaxMsgs = info.Config.MaxAge, max(info.Config.MaxBytes, 0), max(info.Config.MaxMsgs, 0)
	if s.Msgs > 0 {
		e.FirstTime = s.FirstTime
	}
	return e, nil
}

// TimeFrom is when the log took the first event that it holds at a sequence or behind it; [ErrNotInLog] if there is none.
func (b *Bus) TimeFrom(ctx context.Context, sequence uint64) (time.Time, error) {
	m, err := b.askLeader(ctx, StreamNex, map[string]any{"seq": max(sequence, 1), "next_by_subj": ">", "no_hdr": true})
	if err != nil {
		return time.Time{}, fmt.Errorf("time of sequence %d: %w", sequence, err)
	}
	return m.Time, nil
}

package fanout

import (
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
)

func TestLossAhead(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	const kib = 1 << 10
	tests := []struct {
		name              string
		log               bus.Extent
		grows             float64
		oldest            step
		sequences, stored float64
		left, keeps       time.Duration
		limit             string
	}{
		{name: "no limits", log: bus.Extent{First: 1, Last: 10, Bytes: kib}, grows: 1, oldest: step{sequence: 1, stored: ago(time.Hour)}, left: never, keeps: never},
		{
			name: "by age, standing still", log: bus.Extent{First: 1, Last: 10, Bytes: kib, MaxAge: 10 * time.Hour}, grows: 1,
			oldest: step{sequence: 1, stored: ago(4 * time.Hour)}, left: 6 * time.Hour, keeps: 10 * time.Hour, limit: "max_age",
		},
		{
			name: "by age, at half the speed", log: bus.Extent{First: 1, Last: 10, Bytes: kib, MaxAge: 10 * time.Hour}, grows: 1,
			oldest: step{sequence: 1, stored: ago(4 * time.Hour)}, stored: 0.5, left: 12 * time.Hour, keeps: 10 * time.Hour, limit: "max_age",
		},
		{
			name: "by age, but it comes on faster", log: bus.Extent{First: 1, Last: 10, Bytes: kib, MaxAge: 10 * time.Hour}, grows: 1,
			oldest: step{sequence: 1, stored: ago(4 * time.Hour)}, stored: 1.5, left: never, keeps: 10 * time.Hour,
		},
		{
			name: "by age, overdue", log: bus.Extent{First: 1, Last: 10, Bytes: kib, MaxAge: 10 * time.Hour}, grows: 1,
			oldest: step{sequence: 1, stored: ago(11 * time.Hour)}, stored: 1.5, left: 0, keeps: 10 * time.Hour, limit: "max_age",
		},
		{ // 1 KiB each, room for 1,000, 900 behind it, 1 a second
			name: "by size", log: bus.Extent{First: 101, Last: 1000, Bytes: 900 * kib, MaxBytes: 1000 * kib}, grows: 1,
			oldest: step{sequence: 101, stored: ago(time.Hour)}, left: 100 * time.Second, keeps: 1000 * time.Second, limit: "max_bytes",
		},
		{
			name: "by size, but it comes on as fast", log: bus.Extent{First: 101, Last: 1000, Bytes: 900 * kib, MaxBytes: 1000 * kib}, grows: 1,
			oldest: step{sequence: 101, stored: ago(time.Hour)}, sequences: 1, left: never, keeps: 1000 * time.Second,
		},
		{
			name: "by size, quiet", log: bus.Extent{First: 101, Last: 1000, Bytes: 900 * kib, MaxBytes: 1000 * kib},
			oldest: step{sequence: 101, stored: ago(time.Hour)}, left: never, keeps: never,
		},
		{
			name: "by count, before its age", log: bus.Extent{First: 1, Last: 90, Bytes: kib, MaxMsgs: 100, MaxAge: time.Hour}, grows: 0.1,
			oldest: step{sequence: 1, stored: ago(time.Minute)}, left: 100 * time.Second, keeps: 1000 * time.Second, limit: "max_msgs",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			left, limit, keeps := lossAhead(tt.log, tt.grows, tt.oldest, tt.sequences, tt.stored, now)
			if left.Round(time.Millisecond) != tt.left.Round(time.Millisecond) || limit != tt.limit || keeps.Round(time.Millisecond) != tt.keeps.Round(time.Millisecond) {
				t.Errorf("in %v by %q of %v, not in %v by %q of %v", left, limit, keeps, tt.left, tt.limit, tt.keeps)
			}
		})
	}
}

func TestPace(t *testing.T) {
	t.Parallel()
	at := time.Unix(0, 0)
	var p pace
	if s, d := p.speed(); s != 0 || d != 0 {
		t.Errorf("%v %v before there is one", s, d)
	}
	for i := range uint64(100) { // slow at first, which is forgotten
		sequence := i
		if i > 50 {
			sequence = 50 + 60*(i-50)
		}
		p.add(step{at, sequence, at})
		at = at.Add(30 * time.Second)
	}
	if s, d := p.speed(); s != 2 || d != 1 {
		t.Errorf("%v a second, and %v, not 2 and 1", s, d)
	}
	p.add(step{at.Add(-29 * time.Second), p.steps[len(p.steps)-1].sequence + 100, at}) // all at once
	if s := p.fastest(); s != 100 {
		t.Errorf("%v a second lately, not 100", s)
	}
	if n := len(p.steps); n > 22 {
		t.Errorf("%d steps are remembered", n)
	}
	p.add(step{at, 3, at})
	if s, _ := p.speed(); s != 0 {
		t.Errorf("%v a second after it went back", s)
	}
}

package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"
)

func openForPages(t *testing.T) *Bus {
	t.Helper()
	b, err := Open(t.Context(), Config{
		Embedded: Embedded{StoreDir: t.TempDir()}, Stream: Limits{MaxAge: time.Hour, DuplicateWindow: time.Minute}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.WithoutCancel(t.Context())) })
	for i := range 50 {
		if _, err := b.js.Publish(t.Context(), fmt.Sprintf("relay.attempts.%d.delivered", i%2), nil); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// The replica that answers lacks the newest that the leader has: that is no end, and no page. If the leader has no more of it, it is.
func TestPageOfAReplicaThatIsBehind(t *testing.T) {
	t.Parallel()
	b := openForPages(t)
	for _, tt := range []struct {
		name         string
		before       uint64
		newest, end  uint64 // as the leader says
		oldest, lean bool
		limit        int
		behind       bool
	}{
		{name: "the newest are missing", newest: 51, end: 60, limit: 5, behind: true},
		{name: "the newest are missing, whole ones", newest: 51, end: 60, limit: 5, lean: true, behind: true},
		{name: "they are there", newest: 49, end: 60, limit: 5},
		{name: "they are there, whole ones", newest: 49, end: 60, limit: 5, lean: true},
		{name: "what follows the page shows that it is whole", before: 31, newest: 61, end: 60, limit: 5},
		{name: "the end is missing", newest: 51, end: 60, limit: 30, oldest: true, behind: true},
		{name: "the page ends before that", newest: 51, end: 60, limit: 5, oldest: true},
		{name: "what is missing comes later, but nothing shows that the rest is there", newest: 71, end: 60, limit: 30, oldest: true, behind: true},
	} {
		r, err := b.reach(t.Context(), Query{Stream: StreamAttempts, Subjects: []string{"relay.attempts.0.*"}, Before: tt.before})
		if err != nil {
			t.Fatal(err)
		}
		if r.newest = tt.newest; tt.before == 0 {
			r.last = tt.end
		}
		r.end = tt.end
		if !tt.lean {
			r.average = leanBytes
		}
		var p Page
		if tt.oldest {
			p, err = b.oldestPart(t.Context(), &r, tt.limit)
		} else {
			p, err = b.newestPart(t.Context(), &r, tt.limit)
		}
		if errors.Is(err, ErrBehind) != tt.behind || !tt.behind && (err != nil || len(p.Messages) != tt.limit) {
			t.Errorf("%s: %d messages, %v", tt.name, len(p.Messages), err)
		}
	}
	// It stands on one that is gone meanwhile: the leader is asked again.
	r, err := b.reach(t.Context(), Query{Stream: StreamAttempts})
	if err != nil {
		t.Fatal(err)
	}
	r.leader, r.newest, r.last = "some server", 51, 60
	if p, err := b.part(t.Context(), &r, Query{Limit: 5}); err != nil || len(p.Messages) != 5 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestCountByReading(t *testing.T) {
	t.Parallel()
	b := openForPages(t)
	r, err := b.reach(t.Context(), Query{Stream: StreamAttempts, Subjects: []string{"relay.attempts.1.*"}, After: 10, Before: 41})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := b.countHeaders(t.Context(), &r); err != nil || n != 15 {
		t.Error(n, err)
	}
}

func TestDisjoint(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ subjects, want []string }{
		{nil, nil},
		{[]string{"a.b"}, []string{"a.b"}},
		{[]string{"a.b", "a.b"}, []string{"a.b"}},
		{[]string{"a.b", "a.*", "a.>", "c"}, []string{"a.>", "c"}},
		{[]string{"a.*", "*.b"}, []string{"a.*", "*.b"}},
		{[]string{"a.*.*", "a.>", "*.b.c", "*.*.c"}, []string{"a.>", "*.*.c"}},
		{[]string{"a", ">", "b.*"}, nil},
	} {
		if got, err := disjoint(tt.subjects); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%v: %v, %v, want %v", tt.subjects, got, err, tt.want)
		}
	}
}

// The messages stand farther apart than was thought: the page is put together in several steps, in order and within its bounds.
func TestPageInSeveralSteps(t *testing.T) {
	t.Parallel()
	b := openForPages(t)
	large := make([]byte, 700<<10)
	var want []uint64
	for range 20 {
		for i := range 60 {
			subject, body := "relay.dead.small.dns", large[:1]
			if i == 30 {
				subject, body = "relay.dead.large.dns", large
			}
			ack, err := b.js.Publish(t.Context(), subject, body)
			if err != nil {
				t.Fatal(err)
			}
			if i == 30 {
				want = append(want, ack.Sequence)
			}
		}
	}
	slices.Reverse(want)
	r, err := b.reach(t.Context(), Query{Stream: StreamDead, Subjects: []string{"relay.dead.large.*"}, Before: 1200})
	if err != nil {
		t.Fatal(err)
	}
	for limit, count := range map[int]int{3: 3, 8: 8, 30: pageBytes / (700 << 10)} {
		for _, average := range []uint64{1, r.average} {
			step := r
			step.average, step.spread = average, 1
			p, err := b.newestPart(t.Context(), &step, limit)
			if err != nil || len(p.Messages) != count || p.Next != want[count-1] {
				t.Errorf("%d, average %d: %d messages, next %d, %v, want %d to %d", limit, average, len(p.Messages), p.Next, err, count, want[count-1])
				continue
			}
			for i, m := range p.Messages {
				if m.Sequence != want[i] || len(m.Data) != len(large) {
					t.Errorf("%d, average %d: the %d. is %d of %d bytes, want %d", limit, average, i, m.Sequence, len(m.Data), want[i])
				}
			}
		}
	}
}

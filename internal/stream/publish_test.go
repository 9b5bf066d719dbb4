package stream

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nex"
)

// writer is a publisher that runs, as one of several on one log.
type writer struct {
	t *testing.T
	*publisher
	surprises atomic.Int64
}

// newWriter knows the newest n of the log, or those since a time.
func newWriter(t *testing.T, b *bus.Bus, n int, since time.Time) *writer {
	t.Helper()
	w := &writer{t: t}
	w.publisher = newPublisher(b, slog.New(slog.DiscardHandler), &counters{metrics: newMetrics(prometheus.NewRegistry())}, time.Now,
		func(time.Time, bool) *event.Event { w.surprises.Add(1); return nil })
	recent, err := b.Recent(t.Context(), "acme", n, since, maxKnown)
	if err != nil {
		t.Fatal(err)
	}
	w.know(10*time.Minute, recent)
	t.Cleanup(w.line.end)
	return w
}

// form makes an insight as it comes one of several ways: with an id of Nex's or without, with a time or without.
func form(text, id string, at time.Time) *event.Event {
	return Normalize("acme", nex.Insight{ID: id, Type: "risk", Content: text, Time: at, Raw: []byte(`{"content":"` + text + `"}`)}, time.Now())
}

func (w *writer) put(recalled bool, events ...*event.Event) (fresh int64) {
	w.t.Helper()
	var tally atomic.Int64
	for _, e := range events {
		if err := w.submit(w.t.Context(), item{event: e, recalled: recalled, fresh: &tally}); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.flush(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return tally.Load()
}

func inLog(t *testing.T, b *bus.Bus) (texts map[string]int, total int) {
	t.Helper()
	texts = map[string]int{}
	err := b.Scan(t.Context(), "acme", time.Time{}, 1<<20, func(k bus.Known) bool {
		texts[k.Fingerprint]++
		total++
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts, total
}

// Two replicas hold one workspace for a while, as when one of them was stopped and woke up: each brings every insight, in
// its own order and form, at the same time.
func TestTwoWritersOfOneWorkspace(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	const n = 400
	base := time.Now().Add(-time.Hour)
	var fresh atomic.Int64
	var all sync.WaitGroup
	for r := range 3 {
		w := newWriter(t, b, leastKnown, time.Time{})
		all.Go(func() {
			for i := range n {
				i := (i + r*n/7) % n // each begins elsewhere
				id := ""
				if r > 0 {
					id = fmt.Sprintf("ins_%d", i)
				}
				at := base.Add(time.Duration(i) * time.Second)
				if r == 2 {
					at = at.Truncate(time.Second)
				}
				fresh.Add(w.put(r > 0, form(fmt.Sprint("text ", i), id, at)))
			}
		})
	}
	all.Wait()
	texts, total := inLog(t, b)
	if total != n || len(texts) != n || fresh.Load() != n {
		t.Errorf("the log holds %d events of %d insights, %d were counted as new; want %d of each", total, len(texts), fresh.Load(), n)
	}
}

// A replica slept and does not know what another wrote meanwhile.
func TestSleeperWritesNothingTwice(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	sleeper := newWriter(t, b, leastKnown, time.Time{})
	other := newWriter(t, b, leastKnown, time.Time{})
	at := time.Now()
	var live, rest []*event.Event
	for i := range 300 {
		live = append(live, form(fmt.Sprint("text ", i), "", at))
		rest = append(rest, form(fmt.Sprint("text ", i), fmt.Sprintf("ins_%d", i), at.Truncate(time.Second)))
	}
	if fresh := other.put(true, rest...); fresh != 300 {
		t.Fatalf("%d new", fresh)
	}
	if fresh := sleeper.put(false, append(live, form("later", "", at))...); fresh != 1 {
		t.Errorf("%d of what the other wrote was new again, or what it did not write is lost", fresh-1)
	}
	if _, total := inLog(t, b); total != 301 {
		t.Errorf("%d in the log", total)
	}
}

// What is older than what was read back is looked up in the log.
func TestOldInsightsAreLookedUp(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	first := newWriter(t, b, leastKnown, time.Time{})
	now := time.Now()
	var list []*event.Event
	for i := range 500 {
		// Long before they were stored, and in no order: a backfill.
		list = append(list, form(fmt.Sprint("text ", i), "", now.Add(-time.Duration((i*37)%500)*time.Hour)))
	}
	if fresh := first.put(true, list...); fresh != 500 {
		t.Fatalf("%d new", fresh)
	}
	again := newWriter(t, b, 10, time.Time{})
	if len(again.ids.ring) != 10 {
		t.Fatalf("%d read back", len(again.ids.ring))
	}
	old, oldTime := form("text 3", "ins_3", list[3].Emitted.Truncate(time.Second)), list[4].Emitted
	for _, c := range []struct {
		name  string
		e     *event.Event
		fresh int64
	}{
		{"another form", old, 0},
		{"another form, once more", old, 0},
		{"the same text at another time", form("text 4", "", oldTime.Add(11*time.Minute)), 1},
		{"the same text within the window", form("text 5", "", list[5].Emitted.Add(10*time.Minute)), 0},
		{"no time", form("text 6", "", time.Time{}), 0},
		{"an id", form("text 7", "", list[7].Emitted), 0},
		{"new and old", form("new", "ins_new", oldTime), 1},
	} {
		if fresh := again.put(true, c.e); fresh != c.fresh {
			t.Errorf("%s: %d new, want %d", c.name, fresh, c.fresh)
		}
	}
	if _, total := inLog(t, b); total != 502 {
		t.Errorf("%d in the log", total)
	}
}

// The newest event of a subject is removed from the log, by age or by hand: what was known of it holds no longer.
func TestSubjectWithoutItsNewest(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	w := newWriter(t, b, leastKnown, time.Time{})
	if w.put(false, form("one", "", time.Now())) != 1 {
		t.Fatal("not published")
	}
	s, err := b.JetStream().Stream(t.Context(), bus.StreamNex)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.put(false, form("two", "", time.Now())) != 1 {
		t.Error("not published after the log was emptied")
	}
	if texts, total := inLog(t, b); total != 1 || len(texts) != 1 {
		t.Errorf("%d in the log", total)
	}
}

// The log is at its limit and refuses: the source waits, and goes on when there is room.
func TestLogAtItsLimit(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	s, err := b.JetStream().Stream(t.Context(), bus.StreamNex)
	if err != nil {
		t.Fatal(err)
	}
	limit := func(most int64) {
		t.Helper()
		cfg := s.CachedInfo().Config
		cfg.MaxMsgs, cfg.Discard = most, jetstream.DiscardNew
		if _, err := b.JetStream().UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	limit(5)
	w := newWriter(t, b, leastKnown, time.Time{})
	put := make(chan int64)
	go func() {
		var list []*event.Event
		for i := range 20 {
			list = append(list, form(fmt.Sprint("text ", i), "", time.Now()))
		}
		put <- w.put(false, list...)
	}()
	for {
		info, err := s.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Msgs == 5 && !b.Writable() {
			break
		}
		time.Sleep(10 * time.Millisecond) // polls
	}
	limit(-1)
	if fresh := <-put; fresh != 20 {
		t.Errorf("%d new", fresh)
	}
	if texts, total := inLog(t, b); total != 20 || len(texts) != 20 {
		t.Errorf("%d in the log", total)
	}
}

// What came from a replay without times is no reason to leave out the same text of later days.
func TestTextWithoutATimeComesAgain(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	w := newWriter(t, b, leastKnown, time.Time{})
	if w.put(true, form("call back", "", time.Time{})) != 1 {
		t.Fatal("not published")
	}
	for i := range 30 {
		w.put(false, form(fmt.Sprint("text ", i), "", time.Now()))
	}
	again := newWriter(t, b, 10, time.Time{}) // has to look into the log for it
	for _, c := range []struct {
		name  string
		w     *writer
		e     *event.Event
		fresh int64
	}{
		{"the same, live", w, form("call back", "", time.Now()), 0},
		{"the same, over REST", again, form("call back", "ins_1", time.Now().Add(-time.Minute)), 0},
		{"hours later, over REST", again, form("call back", "ins_2", time.Now().Add(2*time.Hour)), 1},
		{"hours later, live", w, form("call back", "", time.Now().Add(2*time.Hour)), 0},
		{"a day later", w, form("call back", "", time.Now().Add(24*time.Hour)), 1},
	} {
		if fresh := c.w.put(true, c.e); fresh != c.fresh {
			t.Errorf("%s: %d new, want %d", c.name, fresh, c.fresh)
		}
	}
}

// An insight of the stream that comes late is looked for in the log where it is older than what was read back.
func TestLateLiveInsightIsLookedFor(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	w := newWriter(t, b, leastKnown, time.Time{})
	at := time.Now().Add(-20 * time.Minute)
	w.put(true, form("late", "ins_1", at))
	for i := range 2 * leastKnown {
		w.put(true, form(fmt.Sprint("text ", i), "", at.Add(time.Duration(i)*time.Second)))
	}
	again := newWriter(t, b, leastKnown, time.Time{}) // after a restart
	again.put(false, form("late", "", at))
	if texts, _ := inLog(t, b); texts[event.Fingerprint("acme", "risk", "late")] != 1 {
		t.Errorf("%v", texts)
	}
}

// Another workspace's event has used the id, and is in the log no more: nobody can tell whose it was.
func TestSameIDAsAnEventThatIsGone(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	w := newWriter(t, b, leastKnown, time.Time{})
	now := time.Now()
	ack, err := b.Publish(t.Context(), Normalize("beta", nex.Insight{ID: "7", Type: "risk", Content: "of beta", Time: now, Raw: []byte(`{"content":"of beta"}`)}, now))
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.JetStream().Stream(t.Context(), bus.StreamNex)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context(), jetstream.WithPurgeSequence(ack.Sequence+1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.put(true, form("of acme", "7", now))
		if _, total := inLog(t, b); total != 1 {
			t.Fatalf("%d in the log", total)
		}
	}
}

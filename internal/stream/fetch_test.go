package stream

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nexsim"
)

// hasty asks Nex again and again without the pauses that a real one is owed.
func (b *bench) hasty() {
	b.cfg.requests, b.cfg.pause = 10_000, time.Millisecond
}

// lost is what the n-th gap_not_fillable names.
func (b *bench) lost(n int) (w window, reason string) {
	b.t.Helper()
	data := b.news("acme", event.GapNotFillable, n)
	var err error
	for key, at := range map[string]*time.Time{"from": &w.from, "to": &w.to} {
		if *at, err = time.Parse(time.RFC3339Nano, data[key].(string)); err != nil {
			b.t.Fatal(err)
		}
	}
	return w, fmt.Sprint(data["reason"])
}

func (w window) holds(t time.Time) bool { return !t.Before(w.from) && t.Before(w.to) }

// One moment that Nex never gives, whatever it answers, keeps nothing else from being fetched.
func TestWindowThatNexRefuses(t *testing.T) {
	t.Parallel()
	big := `{"data":[{"type":"risk","content":"` + strings.Repeat("x", 2<<20) + `"}]}`
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter)
		reason string
	}{
		"an error that could heal":   {func(w http.ResponseWriter) { http.Error(w, `{"code":500,"message":"boom"}`, 500) }, "boom"},
		"an error that does not":     {func(w http.ResponseWriter) { http.Error(w, `{"code":404,"message":"boom"}`, 404) }, "boom"},
		"Retry-After all the time":   {func(w http.ResponseWriter) { w.Header().Set("Retry-After", "0"); w.WriteHeader(503) }, "503"},
		"rubbish":                    {func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>")) }, "not JSON"},
		"more than the client reads": {func(w http.ResponseWriter) { _, _ = w.Write([]byte(big)) }, "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			poison := time.Now().Add(-10*time.Minute - 15*time.Second)
			b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if asked, ok := isREST(r); ok && asked.holds(poison) {
					c.answer(w)
					return
				}
				next.ServeHTTP(w, r)
			})
			b.history(40, 30*time.Second)
			b.cfg.Backfill = 30 * time.Minute
			b.hasty()
			b.start(workspace("acme"))
			b.exactly("acme")
			b.eventually("complete", func() bool { return b.status("acme").CompleteTo != nil })
			// Neighbours overlap, so that a moment near an edge is refused in up to four windows, of which each may be twice as
			// large as the one before: the smallest is under two seconds, or two milliseconds for what is too large.
			most := 2 * time.Second
			if name == "more than the client reads" {
				most = 30 * minWindow
			}
			if w, reason := b.lost(1); !w.holds(poison) || w.size() > most || !strings.Contains(reason, c.reason) {
				t.Errorf("%v to %v: %s; poison %v", w.from, w.to, reason, poison)
			}
			if n := len(b.of("acme", event.GapNotFillable)); n != 1 {
				t.Errorf("told %d times", n)
			}
			if n := strings.Count(b.log.String(), "trying on"); n > 1 {
				t.Errorf("said %d times:\n%s", n, b.log)
			}
		})
	}
}

// What is too large lies where two windows of less than two seconds overlap, which are then refused one after the other: that
// it is not said of more than some milliseconds does not depend on where the edges fall.
func TestTooLargeAtAnEdge(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	now := time.Now()
	b.cfg.Now = func() time.Time { return now }
	b.cfg.Backfill = 30 * time.Minute
	w := window{from: now.Add(-b.cfg.Backfill), to: now.Add(b.cfg.GapOverlap)}
	for w.size() >= 2*leastRefused {
		w, _ = w.splitAt(w.middle(), minWindow, 1)
	}
	poison := w.middle().Add(minWindow / 2)
	big := strings.Repeat("x", 2<<20)
	b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if asked, ok := isREST(r); ok && asked.holds(poison) {
			_, _ = fmt.Fprintf(w, `{"data":[{"type":"risk","content":%q}]}`, big)
			return
		}
		next.ServeHTTP(w, r)
	})
	b.hasty()
	b.start(workspace("acme"))
	b.news("acme", event.GapFilled, 1)
	if w, reason := b.lost(1); !w.holds(poison) || w.size() > 30*minWindow || !strings.Contains(reason, "too large") {
		t.Errorf("%v of %v: %s", w.size(), poison, reason)
	}
}

// Nex answers with an error to all that is older than an hour: that ends, and is told.
func TestManyWindowsThatNexRefuses(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	edge := time.Now().Add(-time.Hour)
	var refused atomic.Int64
	b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if asked, ok := isREST(r); ok && asked.from.Before(edge) {
			http.Error(w, fmt.Sprintf(`{"code":500,"message":"request %d"}`, refused.Add(1)), http.StatusInternalServerError)
			return
		}
		next.ServeHTTP(w, r)
	})
	b.history(60, 20*time.Second)
	b.cfg.Backfill = 7 * 24 * time.Hour
	b.hasty()
	b.start(workspace("acme"))
	b.exactly("acme")
	b.eventually("complete", func() bool { return b.status("acme").CompleteTo != nil })
	if w, _ := b.lost(1); w.size() < 6*24*time.Hour || w.to.After(edge.Add(time.Minute)) {
		t.Errorf("told %v to %v, %v before the edge", w.from, w.to, edge.Sub(w.to))
	}
	if n := refused.Load(); n > 1500 {
		t.Errorf("asked %d times", n)
	}
}

// While Nex gives nothing over REST it is waited for, which is said once, and no window is given up.
func TestRESTAway(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusBadGateway, http.StatusTooManyRequests} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			if err := b.sim.Refuse(nexsim.Refusal{Endpoint: nexsim.EndpointREST, Status: status, Body: "<html>"}); err != nil {
				t.Fatal(err)
			}
			b.history(60, 20*time.Second)
			b.cfg.Backfill = time.Hour
			b.hasty()
			b.start(workspace("acme"))
			b.eventually("it is shown", func() bool { return strings.Contains(b.status("acme").LastError, fmt.Sprint(status)) })
			b.eventually("it is tried on", func() bool { return b.sim.StateOf("acme").Requests.REST[status] > 15 })
			b.sim.Clear("")
			b.exactly("acme")
			b.eventually("complete", func() bool { s := b.status("acme"); return s.CompleteTo != nil && s.LastError == "" })
			if n := strings.Count(b.log.String(), "Nex gives no insights over REST"); n != 1 {
				t.Errorf("said %d times:\n%s", n, b.log)
			}
			if n := len(b.of("acme", event.GapNotFillable)); n != 0 {
				t.Errorf("%d windows were given up", n)
			}
		})
	}
}

// The log takes nothing when a gap turns out not to be fillable: the report waits for it.
func TestReportReachesTheLog(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	s, err := b.bus.JetStream().Stream(t.Context(), bus.StreamNex)
	if err != nil {
		t.Fatal(err)
	}
	limit := func(most int64) {
		t.Helper()
		cfg := s.CachedInfo().Config
		cfg.MaxMsgs, cfg.Discard = most, jetstream.DiscardNew
		if _, err := b.bus.JetStream().UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	b.cfg.GapCheckInterval = 50 * time.Millisecond
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	if err := b.sim.Refuse(nexsim.Refusal{Status: http.StatusForbidden, Endpoint: nexsim.EndpointREST}); err != nil {
		t.Fatal(err)
	}
	limit(1)
	for range 2 * pipelineDepth { // no room is left on the way to the log
		b.sim.Emit("acme", 1)
	}
	var said time.Time
	b.eventually("it is said", func() bool { said = time.Now(); return strings.Contains(b.log.String(), "gap cannot be filled") })
	b.eventually("other news would have been dropped", func() bool { return time.Since(said) > newsTime+newsTime/4 })
	limit(-1)
	b.news("acme", event.GapNotFillable, 1)
}

// Nex may or may not take the ends of a window as part of it, and may cut them to seconds.
func TestEndsOfWindows(t *testing.T) {
	t.Parallel()
	inside, seconds := time.Nanosecond, time.Second
	for name, change := range map[string]func(w window) window{
		"from is exclusive": func(w window) window { w.from = w.from.Add(inside); return w },
		"to is inclusive":   func(w window) window { w.to = w.to.Add(inside); return w },
		"both are exclusive, cut": func(w window) window {
			return window{from: w.from.Truncate(seconds).Add(inside), to: w.to.Truncate(seconds)}
		},
		"both are inclusive, cut": func(w window) window {
			return window{from: w.from.Truncate(seconds), to: w.to.Truncate(seconds).Add(inside)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if asked, ok := isREST(r); ok {
					asked = change(asked)
					q := r.URL.Query()
					q.Set("from", asked.from.Format(time.RFC3339Nano))
					q.Set("to", asked.to.Format(time.RFC3339Nano))
					r.URL.RawQuery = q.Encode()
				}
				next.ServeHTTP(w, r)
			})
			second := b.sim.Now().Truncate(time.Second)
			list := make([]nexsim.Insight, 300)
			for i := range list {
				list[i] = nexsim.Insight{Type: "risk", Content: fmt.Sprint("insight ", i), CreatedAt: second.Add(-time.Duration(300-i) * 10 * time.Second)}
			}
			b.sim.EmitInsights("acme", list...)
			b.cfg.Backfill = time.Hour
			b.hasty()
			b.start(workspace("acme"))
			b.exactly("acme")
			b.news("acme", event.GapFilled, 1)
			if n := len(b.of("acme", event.GapNotFillable)); n != 0 {
				t.Errorf("%d windows were given up", n)
			}
		})
	}
}

// widen asks for the whole seconds that a window lies in.
func widen(r *http.Request, w window) {
	q := r.URL.Query()
	q.Set("from", w.from.Truncate(time.Second).Format(time.RFC3339))
	q.Set("to", w.to.Truncate(time.Second).Add(time.Second).Format(time.RFC3339))
	r.URL.RawQuery = q.Encode()
}

// More than Nex gives for one window lies in one second. A Nex that does not know fractions widens what is asked for.
func TestManyInsightsInASecond(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]bool{"Nex knows fractions of a second": false, "it does not": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			var asked atomic.Int64
			b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if of, ok := isREST(r); ok && asked.Add(1) > 0 && cut {
					widen(r, of)
				}
				next.ServeHTTP(w, r)
			})
			second := b.sim.Now().Add(-30 * time.Second).Truncate(time.Second)
			var list []nexsim.Insight
			for i := range 250 {
				list = append(list, nexsim.Insight{Type: "risk", Content: fmt.Sprint("insight ", i), CreatedAt: second.Add(time.Duration(i) * 4 * time.Millisecond)})
			}
			for i := range 20 { // they are what is replayed
				list = append(list, nexsim.Insight{Type: "risk", Content: fmt.Sprint("later ", i), CreatedAt: second.Add(25 * time.Second)})
			}
			b.sim.EmitInsights("acme", list...)
			b.cfg.Backfill, b.cfg.GapOverlap = time.Minute, time.Second
			b.hasty()
			b.start(workspace("acme"))
			b.news("acme", event.GapFilled, 1)
			if !cut {
				b.exactly("acme")
				if n := len(b.of("acme", event.GapNotFillable)); n != 0 {
					t.Errorf("%d windows were given up", n)
				}
				return
			}
			if w, reason := b.lost(1); w.to.Before(second) || w.from.After(second.Add(time.Second)) || !strings.Contains(reason, "may hold more") {
				t.Errorf("%v to %v: %s", w.from, w.to, reason)
			}
			if n := asked.Load(); n > 100 {
				t.Errorf("asked %d times for what cannot be split", n)
			}
		})
	}
}

// As many as Nex gives at once are of one moment, and hide others that are some milliseconds older: of a page, the newest are
// given. A Nex that does not know fractions never gives the others, but is not asked for ever.
func TestBesideAFullMillisecond(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]bool{"Nex knows fractions of a second": false, "it does not": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			var asked atomic.Int64
			b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if of, ok := isREST(r); ok && asked.Add(1) > 0 && cut {
					widen(r, of)
				}
				next.ServeHTTP(w, r)
			})
			at := b.sim.Now().Add(-30 * time.Second).Truncate(time.Second).Add(400 * time.Millisecond)
			var list []nexsim.Insight
			for i := range 10 {
				list = append(list, nexsim.Insight{Type: "risk", Content: fmt.Sprint("before ", i), CreatedAt: at.Add(-time.Duration(5+i) * time.Millisecond)})
			}
			for i := range pageLimit {
				list = append(list, nexsim.Insight{Type: "risk", Content: fmt.Sprint("at once ", i), CreatedAt: at})
			}
			for i := range 20 { // they are what is replayed
				list = append(list, nexsim.Insight{Type: "risk", Content: fmt.Sprint("later ", i), CreatedAt: at.Add(25 * time.Second)})
			}
			b.sim.EmitInsights("acme", list...)
			b.cfg.Backfill, b.cfg.GapOverlap = time.Minute, time.Second
			b.hasty()
			b.start(workspace("acme"))
			b.news("acme", event.GapFilled, 1)
			if n := asked.Load(); n > 250 {
				t.Errorf("asked %d times", n)
			}
			if cut {
				return
			}
			b.exactly("acme")
			if w, _ := b.lost(1); !w.holds(at) || w.size() > 10*minWindow {
				t.Errorf("%v to %v may hold more, all at once is %v", w.from, w.to, at)
			}
		})
	}
}

// A large backlog is taken from its oldest end, with few requests before the first insights and few for all.
func TestLargeBacklog(t *testing.T) {
	t.Parallel()
	const total = 3000
	b := setup(t, nexsim.Options{})
	var asked, before atomic.Int64
	b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if _, ok := isREST(r); ok && asked.Add(1) > 0 && b.status("acme").Published <= 20 {
			before.Store(asked.Load()) // no more than the replay is there
		}
		next.ServeHTTP(w, r)
	})
	b.history(total, 25*time.Second)
	b.cfg.Backfill = 24 * time.Hour
	b.hasty()
	b.start(workspace("acme"))
	b.exactly("acme")
	if n := before.Load(); n > 15 {
		t.Errorf("asked %d times before anything was taken", n)
	}
	if n := asked.Load(); n > total/35 {
		t.Errorf("asked %d times for %d insights", n, total)
	}
}

// Nex does not give what is older for some time, and then it does: it is asked for again, by the same life or by the next.
func TestWhatWasGivenUpIsAskedForAgain(t *testing.T) {
	t.Parallel()
	told := func(b *bench, to time.Time) {
		b.eventually("the checkpoint is told", func() bool { return b.toldTo("acme").After(to) })
	}
	for name, next := range map[string]func(b *bench, later *atomic.Int64){
		"one life":  nil,
		"two lives": func(*bench, *atomic.Int64) {},
		"two lives, days apart": func(b *bench, later *atomic.Int64) {
			later.Store(int64(60 * time.Hour))
			b.sim.JumpClock(60 * time.Hour)
			told(b, time.Now().Add(59*time.Hour))
		},
		"two lives, and a surprise before the second": func(b *bench, later *atomic.Int64) {
			told(b, time.Now().Add(-time.Minute))
			n := len(b.of("acme", event.GapFilled))
			b.sim.JumpClock(-15 * time.Minute)
			b.sim.Emit("acme", 1)
			b.news("acme", event.GapFilled, n+1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			edge := time.Now().Add(-20 * time.Minute)
			var healed atomic.Bool
			var later, requests atomic.Int64
			b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if asked, ok := isREST(r); ok && asked.from.Before(edge) && !healed.Load() {
					http.Error(w, fmt.Sprintf(`{"code":503,"message":"request %d"}`, requests.Add(1)), http.StatusServiceUnavailable)
					return
				}
				next.ServeHTTP(w, r)
			})
			b.history(60, time.Minute)
			b.cfg.Backfill, b.cfg.GapCheckInterval = time.Hour, 20*time.Millisecond
			b.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
			b.hasty()
			b.start(workspace("acme"))
			b.news("acme", event.GapFilled, 1)
			if w, _ := b.lost(1); w.to.After(edge.Add(time.Minute)) {
				t.Errorf("%v to %v, Nex gives what is after %v", w.from, w.to, edge)
			}
			b.eventually("it is said how far it is complete", func() bool { return b.status("acme").CompleteTo != nil }) // on a slow machine some news come before
			if at := b.status("acme").CompleteTo; at.After(edge) {
				t.Errorf("said to be complete to %v", at)
			}
			later.Store(int64(givenUpFirst + time.Second))
			before := requests.Load()
			b.eventually("it is asked for again", func() bool { return requests.Load() > before })
			if next != nil {
				next(b, &later)
			}
			healed.Store(true)
			if next != nil {
				b.stop()
				b.start(workspace("acme"))
			} else {
				b.eventually("its time has come", func() bool {
					later.Add(int64(time.Second)) // it may have been given up again just now
					return len(b.insights("acme")) == 60
				})
			}
			b.exactly("acme")
			b.eventually("complete", func() bool { at := b.status("acme").CompleteTo; return at != nil && at.After(edge) })
			if n := len(b.of("acme", event.GapNotFillable)); n != 1 && !strings.Contains(name, "days") {
				t.Errorf("told %d times", n)
			}
		})
	}
}

// What Nex gives again is in the middle of what it did not give.
func TestTheMiddleOfWhatWasGivenUp(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	now := time.Now()
	refuses := []window{{from: now.Add(-2 * time.Hour), to: now.Add(-10 * time.Minute)}}
	healed := []window{{from: refuses[0].from, to: now.Add(-40 * time.Minute)}, {from: now.Add(-35 * time.Minute), to: refuses[0].to}}
	var later atomic.Int64
	var heals atomic.Bool
	b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		list := refuses
		if heals.Load() {
			list = healed
		}
		if asked, ok := isREST(r); ok && slices.ContainsFunc(list, func(w window) bool { return asked.from.Before(w.to) && w.from.Before(asked.to) }) {
			http.Error(w, `{"code":404,"message":"boom"}`, http.StatusNotFound)
			return
		}
		next.ServeHTTP(w, r)
	})
	b.history(120, 30*time.Second)
	b.cfg.Backfill, b.cfg.GapCheckInterval = time.Hour, 20*time.Millisecond
	b.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	b.hasty()
	b.start(workspace("acme"))
	b.news("acme", event.GapFilled, 1)
	if n := len(b.insights("acme")); n > 25 {
		t.Fatalf("%d insights are there: this is no test", n)
	}
	heals.Store(true)
	later.Store(int64(givenUpFirst + time.Second))
	b.eventually("the middle is there", func() bool { return len(b.insights("acme")) >= 29 })
}

// Whatever part of a span Nex gives again is found, with a bounded number of requests.
func TestMomentsOfWhatWasGivenUp(t *testing.T) {
	t.Parallel()
	base := time.Date(2026, 2, 5, 10, 0, 0, 0, time.UTC)
	const parts, n = 36, againMost
	o := givenUp{from: base, to: base.Add(24 * time.Hour)}
	part := o.size() / parts
	found := map[int]bool{}
	for range 2*parts/n + 1 {
		list := o.moments(n)
		if len(list) != n+2 || list[0] != o.from || list[1] != o.to.Add(-leastRefused) {
			t.Fatalf("%d moments: %v", len(list), list)
		}
		for _, at := range list[2:] {
			if at.Before(o.from) || at.After(list[1]) {
				t.Errorf("%v is outside", at)
			}
			found[int(at.Sub(base)/part)] = true
		}
		o.asked += n
	}
	if len(found) != parts {
		t.Errorf("%d of %d parts", len(found), parts)
	}
	for size, want := range map[time.Duration]int{time.Millisecond: 1, leastRefused: 1, 1500 * time.Millisecond: 2, 4 * time.Second: 5} {
		if got := len(givenUp{from: base, to: base.Add(size)}.moments(n)); got != want {
			t.Errorf("%v: %d moments, want %d", size, got, want)
		}
	}
}

// A moment in the overlap that Nex refuses is told once, however often gaps are looked for, and not asked for each time.
func TestRefusedInTheOverlap(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusNotFound, http.StatusInternalServerError} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			poison := time.Now().Add(-2 * time.Minute)
			var refused, asked atomic.Int64
			b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if w0, ok := isREST(r); ok && asked.Add(1) > 0 && w0.holds(poison) {
					http.Error(w, fmt.Sprintf(`{"code":%d,"message":"request %d"}`, status, refused.Add(1)), status)
					return
				}
				next.ServeHTTP(w, r)
			})
			b.cfg.Backfill, b.cfg.GapCheckInterval = 5*time.Minute, 10*time.Millisecond
			b.hasty()
			b.start(workspace("acme"))
			b.news("acme", event.GapFilled, 1)
			before, all := refused.Load(), asked.Load()
			b.eventually("looked for again and again", func() bool { return asked.Load() > all+20 })
			if n := refused.Load(); n > before {
				t.Errorf("asked for %d times more", n-before)
			}
			if n := len(b.of("acme", event.GapNotFillable)); n != 1 {
				t.Errorf("told %d times", n)
			}
		})
	}
}

// Nex refuses windows that end in the future. That is no gap, nothing that is emitted then is taken for what it refused, and
// it is found out once, also where our clock is ahead of Nex's, at the first start or later.
func TestRefusedFuture(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{"clocks that agree": 0, "our clock is ahead": 40 * time.Minute, "Nex's clock is ahead": -5 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			b.sim.JumpClock(-ahead)
			b.sim.SetFuture(true)
			b.cfg.GapCheckInterval = 50 * time.Millisecond
			b.hasty()
			b.start(workspace("acme"))
			b.connected("acme", 1)
			b.news("acme", event.GapFilled, 1)
			b.sim.Emit("acme", 1)
			b.exactly("acme")
			for range 2 {
				b.sim.Stall("acme", false)
				for range 30 {
					b.sim.Emit("acme", 1)
				}
				b.exactly("acme")
				b.sim.Drop("acme", true)
			}
			before := b.sim.StateOf("acme").Requests.REST
			b.eventually("looked for again and again", func() bool { return b.sim.StateOf("acme").Requests.REST[200] > before[200]+10 })
			if n := b.sim.StateOf("acme").Requests.REST[400]; n > before[400] || n > 60 {
				t.Errorf("refused %d times, %d of them since it is known", n, n-before[400])
			}
			if n := len(b.of("acme", event.GapNotFillable)); n != 0 {
				t.Errorf("%d gaps said not to be fillable", n)
			}
		})
	}
}

// Our clock is set forward just after it was found out where the future begins for Nex: that is found out again.
func TestRefusedFutureAndOurClockSetForward(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.sim.SetFuture(true)
	b.hasty()
	b.cfg.GapCheckInterval = 50 * time.Millisecond
	var ahead atomic.Int64
	b.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	ahead.Store(int64(30 * time.Minute))
	b.sim.Stall("acme", false)
	for range 60 {
		b.sim.Emit("acme", 1)
	}
	b.sim.Drop("acme", true)
	b.exactly("acme")
	b.news("acme", event.GapFilled, 2)
	if n := len(b.of("acme", event.GapNotFillable)); n != 0 {
		t.Errorf("%d gaps said not to be fillable", n)
	}
}

// Nex was behind our clock when it was found out what it takes for the future, and is set right: it is asked for more from
// time to time, or when it gives something later. If it is still behind, nothing was missed for that.
func TestRefusedFutureIsFoundOutAgain(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		lead, ago, newest time.Duration
		want              bool
	}{
		"just now":                     {-40 * time.Minute, time.Second, 0, false},
		"a while ago":                  {-40 * time.Minute, 2 * boundEvery, -40 * time.Minute, false},
		"a while ago, and it is later": {-40 * time.Minute, 2 * boundEvery, -time.Minute, true},
		"long ago":                     {-40 * time.Minute, relearnEvery, -40 * time.Minute, true},
		"clocks that agree":            {0, relearnEvery, 0, false},
	} {
		g := newGap(time.Minute)
		g.begin(now, begun{}, now, now)
		g.notice(now.Add(c.newest), now)
		g.bound(c.lead, now)
		g.learned = time.Now().Add(-c.ago)
		at, _ := g.stands()
		_, to, _, _ := g.span(now)
		if got := to.Equal(now.Add(g.overlap)); got != c.want {
			t.Errorf("%s: asked up to %v from now", name, to.Sub(now))
		}
		g.bound(c.lead, now)
		if again, _ := g.stands(); !again.Equal(at) {
			t.Errorf("%s: still behind, and the mark moved by %v", name, again.Sub(at))
		}
	}
}

// Our clock is ahead, and the checkpoint was told while Nex did not refuse the future yet.
func TestRefusedFutureAfterACheckpointAhead(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.sim.JumpClock(-40 * time.Minute)
	b.hasty()
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	b.sim.Emit("acme", 1)
	b.exactly("acme")
	b.stop()
	for range 30 {
		b.sim.Emit("acme", 2)
	}
	b.sim.SetFuture(true)
	b.cfg.GapCheckInterval = 50 * time.Millisecond
	b.start(workspace("acme"))
	b.exactly("acme")
	if n := len(b.of("acme", event.GapNotFillable)); n != 0 {
		t.Errorf("%d gaps said not to be fillable", n)
	}
}

// A Nex that leaves out the list where it has nothing for a window gives what it has for others.
func TestEmptyAnswerWithoutAList(t *testing.T) {
	t.Parallel()
	for _, body := range []string{`{}`, `{"insight_count":0}`} {
		t.Run(body, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if _, ok := isREST(r); !ok {
					next.ServeHTTP(w, r)
					return
				}
				answer := httptest.NewRecorder()
				next.ServeHTTP(answer, r)
				if answer.Body.Len() < 64 {
					_, _ = io.WriteString(w, body)
					return
				}
				_, _ = w.Write(answer.Body.Bytes())
			})
			b.hasty()
			b.start(workspace("acme"))
			b.news("acme", event.GapFilled, 1)
			b.stop()
			b.history(60, 0)
			b.start(workspace("acme"))
			b.exactly("acme")
			b.news("acme", event.GapFilled, 2)
		})
	}
}

// While Nex is asked again for what it did not give, one request after the other taking long, a new gap does not wait for more
// than the one under way; and the asking goes on where it was.
func TestNewGapsComeFirst(t *testing.T) {
	t.Parallel()
	for name, heals := range map[string]bool{"Nex still does not give it": false, "Nex gives it now": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			edge := time.Now().Add(-20 * time.Minute)
			var slow atomic.Bool
			var later atomic.Int64
			turn, asked := make(chan struct{}, 3), make(chan time.Time, 1000)
			b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				of, ok := isREST(r)
				if !ok || !of.from.Before(edge) {
					next.ServeHTTP(w, r)
					return
				}
				if slow.Load() {
					asked <- of.from
					select {
					case <-turn:
					case <-r.Context().Done():
					}
					if heals {
						next.ServeHTTP(w, r)
						return
					}
				}
				http.Error(w, `{"code":503,"message":"boom"}`, http.StatusServiceUnavailable)
			})
			b.history(600, 6*time.Second) // several pages of them are not given
			b.cfg.Backfill, b.cfg.GapCheckInterval = time.Hour, 20*time.Millisecond
			b.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
			b.hasty()
			b.start(workspace("acme"))
			b.news("acme", event.GapFilled, 1)
			had := len(b.insights("acme"))
			slow.Store(true)
			later.Store(int64(givenUpFirst + time.Second))
			round := []time.Time{<-asked}
			b.sim.Stall("acme", false)
			for range 60 {
				b.sim.Emit("acme", 1)
			}
			b.sim.Drop("acme", true)
			b.news("acme", event.StreamConnected, 2)
			for range 2 { // one more is asked for if Nex gives it
				turn <- struct{}{}
			}
			b.eventually("the new gap is filled", func() bool { return len(b.insights("acme")) >= had+60 })
			close(turn)
			if heals {
				b.exactly("acme")
				return
			}
			for len(round) < againMost+2 {
				round = append(round, <-asked)
			}
			slices.SortFunc(round, time.Time.Compare)
			if n := len(slices.CompactFunc(round, time.Time.Equal)); n != againMost+2 {
				t.Errorf("asked at %d moments, want %d", n, againMost+2)
			}
		})
	}
}

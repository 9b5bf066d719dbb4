package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/lease"
	"github.com/nex-crm/relay/internal/nexsim"
)

// Nex's clock is set back by more than the overlap while nobody listens: what was emitted then seems older than what was
// complete.
func TestClockOfNexSetBack(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.GapOverlap, b.cfg.Backfill = time.Minute, 24*time.Hour
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.sim.Emit("acme", 5)
	b.exactly("acme")
	b.news("acme", event.GapFilled, 1)
	b.stop()
	b.sim.JumpClock(-time.Hour)
	for range 20 {
		b.sim.Emit("acme", 4) // more than a replay holds
	}
	b.start(workspace("acme"))
	b.exactly("acme")
}

// The surprise comes while a gap is being filled, and the relay dies before the next filling: what the log says is not
// behind what was missed.
func TestClockOfNexSetBackWhileAGapIsFilled(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.GapOverlap, b.cfg.Backfill = time.Minute, 24*time.Hour
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	b.sim.Emit("acme", 5)
	b.exactly("acme")
	b.stop()
	b.sim.JumpClock(-2 * time.Hour)
	b.history(200, 250*time.Millisecond)
	asked, dead := make(chan struct{}), make(chan struct{})
	var requests atomic.Int64
	b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if _, ok := isREST(r); ok && requests.Add(1) == 1 {
			close(asked)
			b.eventually("the replay is in the log", func() bool { return len(b.insights("acme")) >= 25 })
		} else if ok { // of the next filling
			<-dead
			<-r.Context().Done()
			return
		}
		next.ServeHTTP(w, r)
	})
	ends := b.cfg
	b.start(workspace("acme"))
	<-asked
	b.eventually("another filling begins", func() bool { return requests.Load() > 1 })
	close(dead)
	b.stop()
	b.cfg = ends
	b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(w, r) })
	b.start(workspace("acme"))
	b.exactly("acme")
}

// The same where the relay ends while its first request is still under way: the replay is in the log by then, and no surprise
// to the next life.
func TestClockOfNexSetBackAndARelayThatEndsAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.GapOverlap, b.cfg.Backfill = time.Minute, 24*time.Hour
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	b.sim.Emit("acme", 5)
	b.exactly("acme")
	b.stop()
	b.sim.JumpClock(-2 * time.Hour)
	b.history(200, 250*time.Millisecond)
	b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if _, ok := isREST(r); ok {
			<-r.Context().Done()
			return
		}
		next.ServeHTTP(w, r)
	})
	b.start(workspace("acme"))
	b.eventually("the replay is in the log", func() bool { return len(b.insights("acme")) >= 25 })
	b.stop()
	b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(w, r) })
	b.start(workspace("acme"))
	b.exactly("acme")
}

// A replay gives no times, and Nex's clock is behind ours, or is set back in the outage: what was missed lies before what was
// complete by our clock, and nothing that comes says so.
func TestReplayWithoutTimes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ahead, back time.Duration
		restart     bool
	}{
		"our clock is ahead":                          {ahead: 30 * time.Minute},
		"our clock is ahead, and is right afterwards": {ahead: 30 * time.Minute, restart: true},
		"Nex's is set back":                           {back: 30 * time.Minute},
		"Nex's is set back, and the relay ends":       {back: 30 * time.Minute, restart: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{ReplayTime: nexsim.ReplayNoTime})
			var gone atomic.Bool
			b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if _, ok := isREST(r); ok && gone.Load() {
					<-r.Context().Done()
					return
				}
				next.ServeHTTP(w, r)
			})
			b.cfg.GapOverlap = time.Second
			b.cfg.Now = func() time.Time { return time.Now().Add(c.ahead) }
			b.start(workspace("acme"))
			b.connected("acme", 1)
			b.news("acme", event.GapFilled, 1)
			gone.Store(c.restart && c.back > 0)
			b.sim.Stall("acme", false)
			b.sim.JumpClock(-c.back)
			for range 60 {
				b.sim.Emit("acme", 1)
			}
			b.sim.Drop("acme", true)
			if c.restart {
				b.eventually("the replay is in the log", func() bool { return len(b.insights("acme")) >= 20 })
				if !gone.Load() {
					b.news("acme", event.GapFilled, 2)
				}
				b.stop()
				gone.Store(false)
				b.cfg.Now = time.Now
				b.start(workspace("acme"))
			}
			b.exactly("acme")
		})
	}
}

// Nothing but the hour before is asked for again for a replay without times, and once for each connection.
func TestReplayWithoutTimesCostsAnHour(t *testing.T) {
	t.Parallel()
	now := time.Now()
	g := newGap(time.Minute)
	g.begin(now, begun{}, now.Add(-10*time.Minute), now)
	g.cameUp(now)
	want := now.Add(-10*time.Minute - clockSlack)
	for range 3 {
		g.guess(time.Time{})
		if at, surprises := g.stands(); !at.Equal(want) || surprises != 1 {
			t.Fatalf("%v before now, %d times", now.Sub(at), surprises)
		}
	}
	g.complete(now, 1)
	g.wentDown(now)
	g.cameUp(now.Add(time.Minute))
	g.guess(now.Add(-time.Hour))
	if at, _ := g.stands(); !at.Equal(now.Add(-time.Hour)) {
		t.Errorf("%v before now, the log keeps an hour", now.Sub(at))
	}
}

// The same while the relay was away for long, so that what is replayed is far from the oldest that was missed.
func TestClockOfNexSetBackDuringALongOutage(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	b.sim.Emit("acme", 3)
	b.exactly("acme")
	b.stop()
	b.cfg.Now = func() time.Time { return time.Now().Add(time.Hour) }
	b.sim.JumpClock(-time.Hour) // two hours, seen from the relay
	b.history(60, time.Minute)
	b.start(workspace("acme"))
	b.exactly("acme")
}

// And the first connection afterwards breaks before its replay.
func TestClockOfNexSetBackAndAConnectionThatBreaks(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	var cut atomic.Bool
	b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/stream") && cut.CompareAndSwap(true, false) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = w.Write([]byte(": connected workspace_id=1 token_id=1\n\n"))
			return
		}
		next.ServeHTTP(w, r)
	})
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	b.sim.Emit("acme", 3)
	b.exactly("acme")
	b.stop()
	b.cfg.Now = func() time.Time { return time.Now().Add(time.Hour) }
	b.sim.JumpClock(-time.Hour)
	b.history(60, time.Minute)
	cut.Store(true)
	b.start(workspace("acme"))
	b.exactly("acme")
}

// A replica whose clock was ahead has told that the log is complete up to a time that had not come yet.
func TestCheckpointOfAClockAhead(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.Now = func() time.Time { return time.Now().Add(45 * time.Minute) }
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	b.stop()
	b.sim.JumpClock(45 * time.Minute) // later
	b.history(44, time.Minute)
	b.start(workspace("acme"))
	b.exactly("acme")
}

// Our own clock was ahead at the first start and is set right, and then much is missed at once.
func TestOwnClockSetBack(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	var ahead, reversed atomic.Int64
	ahead.Store(int64(40 * time.Minute))
	b.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if asked, ok := isREST(r); ok && !asked.from.Before(asked.to) {
			reversed.Add(1)
		}
		next.ServeHTTP(w, r)
	})
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	ahead.Store(0)
	b.sim.Stall("acme", false)
	for range 61 {
		b.sim.Emit("acme", 1)
	}
	b.sim.Drop("acme", true)
	b.exactly("acme")
	if n := reversed.Load(); n != 0 {
		t.Errorf("%d windows end before they begin", n)
	}
	if n := len(b.of("acme", event.GapNotFillable)); n != 0 {
		t.Errorf("%d gaps said not to be fillable", n)
	}
}

// The clock of our host, and with it that of NATS, was ahead when the workspace was first held, and is set right: gaps are
// looked for on the same connection, and the log is told at once that it is complete up to an earlier time only.
func TestHostClockSetBack(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.sim.JumpClock(-40 * time.Minute)
	var ahead atomic.Int64 // less that of NATS
	b.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	b.cfg.GapCheckInterval = 20 * time.Millisecond
	b.hasty()
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	ahead.Store(-int64(40 * time.Minute))
	b.eventually("the log is told", func() bool { return !b.toldTo("acme").After(b.cfg.Now()) })
	b.sim.Stall("acme", false)
	for range 61 {
		b.sim.Emit("acme", 1)
	}
	b.exactly("acme")
}

// It is set right, and the relay is stopped before it looks for gaps again.
func TestHostClockSetBackBeforeTheEnd(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	var ahead atomic.Int64
	b.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	ahead.Store(-int64(40 * time.Minute))
	b.stop()
	if to := b.toldTo("acme"); to.After(b.cfg.Now()) {
		t.Errorf("the log says %v, it is %v", to, b.cfg.Now())
	}
}

// toldTo is up to when the log says that it is complete.
func (b *bench) toldTo(workspace string) time.Time {
	b.t.Helper()
	told := b.of(workspace, event.GapFilled)
	var news gapNews
	if err := json.Unmarshal(told[len(told)-1].Data, &news); err != nil {
		b.t.Fatal(err)
	}
	if news.CompleteTo.IsZero() {
		return news.To
	}
	return news.CompleteTo
}

// It is set right while the relay is stopped: the checkpoint, and when NATS stored it, lie in the future.
func TestHostClockSetBackBetweenLives(t *testing.T) {
	t.Parallel()
	for name, told := range map[string]bool{"a checkpoint": true, "only the mark of the first start": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			b.cfg.GapOverlap = time.Minute
			b.sim.JumpClock(-40 * time.Minute)
			b.start(workspace("acme"))
			b.connected("acme", 1)
			b.news("acme", event.GapFilled, 1)
			b.stop()
			if !told {
				b.forget(true)
			}
			b.sim.JumpClock(20 * time.Minute) // later
			b.history(60, 15*time.Second)
			b.cfg.Now = func() time.Time { return time.Now().Add(-20 * time.Minute) }
			b.start(workspace("acme"))
			b.exactly("acme")
		})
	}
}

// And the relay comes back so late that little of what NATS stored still lies in the future: the insights in the log tell by how
// much the clocks were wrong.
func TestHostClockSetBackLongAgo(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{ReplayTime: nexsim.ReplayNoTime})
	b.sim.JumpClock(-8 * time.Hour)
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	b.sim.Emit("acme", 1)
	b.exactly("acme")
	b.start(workspace("acme"))
	b.eventually("a checkpoint is the last that is told", func() bool { return b.toldTo("acme").After(b.sim.Now().Add(7 * time.Hour)) })
	b.stop()
	var missed []nexsim.Insight
	for i := range 60 {
		missed = append(missed, nexsim.Insight{Type: "risk", Content: fmt.Sprint("missed ", i), CreatedAt: b.sim.Now().Add(time.Minute)})
	}
	b.sim.EmitInsights("acme", missed...)
	b.sim.JumpClock(7 * time.Hour)
	b.cfg.Now = func() time.Time { return time.Now().Add(-time.Hour) }
	b.start(workspace("acme"))
	b.exactly("acme")
}

// There was no room to tell that the mark was moved back: it is told when there is.
func TestRetractWaitsForRoom(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.Bus = b.bus
	m := NewManager(b.cfg)
	s := &stream{cfg: &m.cfg, workspace: workspace("acme"), log: m.log, count: &counters{metrics: m.metrics}, gap: newGap(time.Minute)}
	s.publisher = newPublisher(b.bus, s.log, s.count, m.cfg.Now, s.surprised)
	now := time.Now()
	s.gap.begin(now, begun{}, now, now)
	s.gap.surprise(now.Add(-time.Hour), false)
	full, stop := context.WithCancel(t.Context())
	stop()
	var told []item
	goOn := make(chan struct{})
	s.publisher.line = newLine(func(group []item) {
		<-goOn
		told = append(told, group...)
	})
	put := func() {
		t.Helper()
		if err := s.publisher.line.put(t.Context(), item{}); err != nil {
			t.Fatal(err)
		}
	}
	put() // is worked on, or among those that wait
	b.eventually("it is worked on", func() bool { return len(s.publisher.line.room) == 0 })
	for range pipelineDepth {
		put()
	}
	s.retract(full)
	close(goOn)
	s.retract(t.Context())
	s.publisher.line.end()
	if n := len(told); n != 1+pipelineDepth+1 || told[n-1].event == nil {
		t.Fatalf("%d were told, the checkpoint is not the last of them", n)
	}
	told[len(told)-1].release()
}

// An insight with a time that is none does not make Nex be asked for what is to come in a thousand years.
func TestTimeFarAhead(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	b.sim.EmitInsights("acme", nexsim.Insight{Type: "risk", Content: "for ever", CreatedAt: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)})
	b.exactly("acme")
	b.sim.Stall("acme", false)
	for range 60 {
		b.sim.Emit("acme", 1)
	}
	b.sim.Drop("acme", true)
	b.exactly("acme")
	b.news("acme", event.GapFilled, 2)
	if n := b.sim.StateOf("acme").Requests.REST[http.StatusBadRequest]; n != 0 {
		t.Errorf("%d requests that Nex did not understand", n)
	}
}

// Nex's clock is behind for good: not every insight has Nex asked for what was missed.
func TestClockOfNexBehind(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.sim.JumpClock(-20 * time.Minute)
	b.hasty()
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	for i := range 50 {
		b.sim.Emit("acme", 1)
		b.eventually("it is in the log", func() bool { return b.status("acme").Published > uint64(i) })
	}
	b.exactly("acme")
	if n := b.sim.StateOf("acme").Requests.REST[http.StatusOK]; n > 10 {
		t.Errorf("asked %d times", n)
	}
}

// And forward, by more than the overlap.
func TestClockOfNexSetForward(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.GapOverlap = time.Minute
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	b.stop()
	b.sim.JumpClock(time.Hour)
	for range 20 {
		b.sim.Emit("acme", 4)
	}
	b.start(workspace("acme"))
	b.sim.Emit("acme", 1) // the replay or this one tells how late it is at Nex
	b.cfg.GapCheckInterval = 50 * time.Millisecond
	b.start(workspace("acme"))
	b.exactly("acme")
}

// Connections that break sooner than a gap takes to be filled.
func TestGapIsFilledOverManyConnections(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.Backfill, b.cfg.requests = time.Hour, 10
	list := make([]nexsim.Insight, 900)
	for i := range list {
		list[i] = nexsim.Insight{Type: "risk", Content: fmt.Sprint("text ", i), CreatedAt: time.Now().Add(-time.Duration(i) * 3 * time.Second).UTC()}
	}
	b.sim.EmitInsights("acme", list...)
	b.start(workspace("acme"))
	done := make(chan struct{})
	var breaker sync.WaitGroup
	breaker.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(300 * time.Millisecond):
				b.sim.Drop("acme", true)
			}
		}
	})
	b.exactly("acme")
	close(done)
	breaker.Wait()
}

// Two replicas with a key each of the same workspace, of which one holds it at a time.
func TestHandover(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{Workspaces: []nexsim.Workspace{{Slug: "acme"}, {Slug: "globex"}, {Slug: "initech"}}})
	for _, slug := range []string{"acme", "globex", "initech"} {
		if err := b.sim.SetKey(slug, nexsim.Key{Token: "second-" + slug, Scopes: []string{nexsim.ScopeInsights}}); err != nil {
			t.Fatal(err)
		}
	}
	replica := func(name, prefix string) (*Manager, func()) {
		table := lease.New(lease.Config{Bucket: b.bus.Leases(), Replica: name, Logger: slog.New(slog.DiscardHandler), TTL: 12 * time.Second})
		cfg := b.cfg
		cfg.Bus, cfg.Leases = b.bus, table
		m := NewManager(cfg)
		var list []Workspace
		for _, slug := range []string{"acme", "globex", "initech"} {
			w := workspace(slug)
			if prefix != "" {
				w.Key = prefix + slug
			}
			list = append(list, w)
		}
		m.Apply(list)
		stopTable := run(t, table)
		stopManager := run(t, m)
		return m, func() { stopManager(); stopTable() }
	}
	emit := func() {
		for range 5 { // all of them fewer than Nex gives for one second
			for _, slug := range []string{"acme", "globex", "initech"} {
				b.sim.Emit(slug, 2)
			}
		}
	}
	first, stopFirst := replica("a", "")
	defer stopFirst()
	b.eventually("the first holds all", func() bool { return first.Connected() == 3 })
	emit()
	second, stopSecond := replica("b", "second-")
	defer stopSecond()
	emit()
	b.eventually("they share", func() bool {
		return first.Connected()+second.Connected() == 3 && second.Connected() > 0 && first.Running()+second.Running() == 3
	})
	emit()
	for _, s := range first.Status() {
		if s.State == StateElsewhere && s.Replica != "b" {
			t.Errorf("%s is held by %q", s.Token, s.Replica)
		}
	}
	stopFirst()
	emit()
	b.eventually("the second holds all", func() bool { return second.Connected() == 3 })
	emit()
	for _, slug := range []string{"acme", "globex", "initech"} {
		b.exactly(slug)
	}
}

package stream

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nexsim"
)

// small bounds the log by its size: it turns over within seconds.
func (b *bench) small() {
	cfg := bustest.Config(b.t)
	cfg.Stream.MaxBytes = 256 << 10
	b.bus = bustest.Open(b.t, cfg)
}

// flood emits n insights, a few at a time, and waits until the log has taken them.
func (b *bench) flood(slug string, n int) {
	b.t.Helper()
	before := b.status(slug).Published
	for i := range n {
		b.sim.EmitInsights(slug, nexsim.Insight{Type: "risk", Content: fmt.Sprint("flood ", before, " ", i)})
		if i%50 == 49 || i == n-1 {
			b.eventually("the log takes them", func() bool { return b.status(slug).Published > before+uint64(i) })
		}
	}
}

func (b *bench) extent() bus.Extent {
	b.t.Helper()
	d, err := b.bus.Extent(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return d
}

// What has left the log by its size is not published again by a relay that starts anew, nor by one that goes on.
func TestLogThatTurnsOver(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.small()
	b.hasty()
	b.start(workspace("acme"))
	b.news("acme", event.GapFilled, 1)
	b.flood("acme", 1500)
	if d := b.extent(); d.First < 500 {
		t.Fatalf("%+v: this is no test", d)
	}
	for _, missed := range []int{0, 30} {
		b.stop()
		for i := range missed {
			b.sim.EmitInsights("acme", nexsim.Insight{Type: "risk", Content: fmt.Sprint("missed ", i)})
		}
		b.cfg.GapCheckInterval = 20 * time.Millisecond
		b.start(workspace("acme"))
		b.eventually("gaps were looked for", func() bool { return b.status("acme").CompleteTo != nil })
		asked := b.sim.StateOf("acme").Requests.REST[200]
		b.eventually("and again", func() bool { return b.sim.StateOf("acme").Requests.REST[200] > asked+2 })
		if n := b.status("acme").Published; n != uint64(missed) {
			t.Errorf("%d published, %d were missed", n, missed)
		}
	}
}

// Others turn the log over while nobody holds a workspace: what it missed is fetched, what it had is not.
func TestLogThatOthersTurnOver(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{Workspaces: []nexsim.Workspace{{Slug: "acme"}, {Slug: "globex"}}})
	b.small()
	b.hasty()
	b.cfg.Backfill, b.cfg.GapOverlap = 2*time.Hour, time.Second
	var list []nexsim.Insight
	for i := range 50 {
		list = append(list, nexsim.Insight{Type: "risk", Content: fmt.Sprint("had ", i), CreatedAt: b.sim.Now().Add(time.Duration(i-100) * time.Minute)})
	}
	b.sim.EmitInsights("acme", list...)
	b.start(workspace("acme"))
	b.exactly("acme")
	b.news("acme", event.GapFilled, 1)
	b.start(workspace("globex"))
	b.news("globex", event.GapFilled, 1)
	b.flood("globex", 1500)
	if n := len(b.of("acme", "")); n != 0 {
		t.Fatalf("the log has %d events of it: this is no test", n)
	}
	for i := range 30 {
		b.sim.EmitInsights("acme", nexsim.Insight{Type: "risk", Content: fmt.Sprint("missed ", i)})
	}
	b.start(workspace("acme"))
	b.eventually("gaps were looked for", func() bool { return b.status("acme").CompleteTo != nil })
	if n := b.status("acme").Published; n != 30 {
		t.Errorf("%d published, 30 were missed", n)
	}
}

// What a noisy stream has told while a gap was not filled does not pass it over.
func TestLogThatTurnsOverDuringAGap(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.small()
	b.hasty()
	b.start(workspace("acme"))
	b.news("acme", event.GapFilled, 1)
	b.flood("acme", 10)
	if err := b.sim.Refuse(nexsim.Refusal{Status: 503, Endpoint: nexsim.EndpointREST, RetryAfter: "0"}); err != nil {
		t.Fatal(err)
	}
	before := b.toldTo("acme")
	b.sim.Stall("acme", false)
	for i := range 100 { // more than a replay holds
		b.sim.EmitInsights("acme", nexsim.Insight{Type: "risk", Content: fmt.Sprint("missed ", i)})
	}
	b.sim.Drop("acme", true)
	b.news("acme", event.StreamConnected, 2)
	b.flood("acme", 1500)
	if d := b.extent(); d.First < 500 {
		t.Fatalf("%+v: this is no test", d)
	}
	if told := b.toldTo("acme"); !told.Equal(before) {
		t.Errorf("the log says %v, it was complete to %v", told, before)
	}
}

// The replay of a quiet workspace brings insights that have left the log by their age: they were there, and nothing is missing.
func TestReplayOfWhatHasLeftTheLog(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.MaxAge = 7 * 24 * time.Hour
	var old []nexsim.Insight
	for i := range 5 {
		old = append(old, nexsim.Insight{Type: "risk", Content: fmt.Sprint("old ", i), CreatedAt: b.sim.Now().Add(time.Duration(i-20) * 24 * time.Hour)})
	}
	b.sim.EmitInsights("acme", old...)
	b.start(workspace("acme"))
	b.exactly("acme")
	before := b.news("acme", event.GapFilled, 1)
	b.stop()
	s, err := b.bus.JetStream().Stream(t.Context(), bus.StreamNex)
	if err == nil {
		err = s.Purge(t.Context(), jetstream.WithPurgeSubject("nex.acme.insight.>")) // as they go with time
	}
	if err != nil {
		t.Fatal(err)
	}
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.sim.EmitInsights("acme", nexsim.Insight{Type: "risk", Content: "new"})
	b.eventually("what is new", func() bool { return slices.Contains(b.insights("acme"), "new") })
	if got := b.insights("acme"); !slices.Equal(got, []string{"new"}) {
		t.Errorf("published again: %q", got)
	}
	b.news("acme", event.GapFilled, 2)
	for _, e := range b.of("acme", event.GapNotFillable) {
		t.Errorf("told as missing: %s", e.Data)
	}
	if at := b.toldTo("acme"); at.Format(time.RFC3339Nano) < fmt.Sprint(before["to"]) {
		t.Errorf("the checkpoint went back from %v to %v", before["to"], at)
	}
}

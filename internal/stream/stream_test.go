package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nex"
	"github.com/nex-crm/relay/internal/nexsim"
	"github.com/nex-crm/relay/internal/porttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds how long a test waits for what must happen.
const patience = 2 * time.Minute

// bench is Nex and a log, and a manager between them.
type bench struct {
	t    *testing.T
	sim  *nexsim.Sim
	bus  *bus.Bus
	cfg  Config
	log  *logBuffer
	reg  *prometheus.Registry
	stop func()

	*Manager
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// setup starts a simulator and a log, and nothing between them yet.
func setup(t *testing.T, opts nexsim.Options) *bench {
	t.Helper()
	b := &bench{t: t, log: &logBuffer{}, stop: func() {}}
	if opts.SizeMax == 0 {
		opts.SizeMin, opts.SizeMax = 1<<10, 2<<10
	}
	sim, err := nexsim.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	b.sim = sim
	server := httptest.NewServer(sim.Handler())
	b.bus = bustest.New(t)
	t.Cleanup(func() {
		b.stop()
		sim.Close()
		server.Close()
	})
	client, err := nex.NewClient(nex.ClientConfig{BaseURL: server.URL, MaxEventSize: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdle)
	b.cfg = Config{
		Client: client, Logger: slog.New(slog.NewTextHandler(b.log, nil)), ReconnectMin: 10 * time.Millisecond, ReconnectMax: 100 * time.Millisecond,
		GapOverlap: 10 * time.Minute, liveFirst: 20 * time.Millisecond,
	}
	return b
}

func workspace(slug string) Workspace {
	return Workspace{Name: slug, Token: slug, Key: nexsim.DefaultKey(slug)}
}

// start runs a manager over these workspaces; one that ran before is stopped.
func (b *bench) start(workspaces ...Workspace) {
	b.t.Helper()
	b.stop()
	b.reg = prometheus.NewRegistry()
	b.cfg.Bus, b.cfg.Registerer = b.bus, b.reg
	b.Manager = NewManager(b.cfg)
	b.stop = run(b.t, b.Manager)
	b.Apply(workspaces)
}

// run runs a manager until the function that it returns is called.
func run(t *testing.T, m interface{ Run(context.Context) error }) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func (b *bench) connected(slug string, n int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	if err := b.sim.WaitConnected(ctx, slug, n); err != nil {
		b.t.Fatalf("%s has not %d streams: %+v", slug, n, b.sim.StateOf(slug))
	}
}

// eventually waits for a condition that others bring about.
func (b *bench) eventually(what string, ok func() bool) {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			b.t.Fatalf("never: %s\n%s", what, b.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// stored is an event of the log.
type stored struct {
	bus.Stored
	ID, Type, Subject string
	Data              json.RawMessage
}

// all reads the whole log, oldest first, or as much of it as can be read now.
func (b *bench) all() []stored {
	b.t.Helper()
	s, err := b.bus.JetStream().Stream(b.t.Context(), bus.StreamNex)
	if err != nil {
		return nil // NATS is away for the moment
	}
	var out []stored
	for seq := max(s.CachedInfo().State.FirstSeq, 1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := b.bus.Get(b.t.Context(), seq)
		switch {
		case errors.Is(err, bus.ErrNotInLog):
			continue // purged out of the middle
		case err != nil:
			return out
		}
		e := stored{Stored: *m}
		if err := json.Unmarshal(m.Data, &e); err != nil {
			b.t.Fatal(err)
		}
		e.Stored = *m
		out = append(out, e)
	}
	return out
}

// of keeps the events of a workspace whose type begins so.
func (b *bench) of(workspace, prefix string) []stored {
	return slices.DeleteFunc(b.all(), func(e stored) bool {
		w, kind, _ := event.SplitSubject(e.Stored.Subject)
		return w != workspace || !strings.HasPrefix(kind, prefix)
	})
}

func (b *bench) insights(workspace string) []string {
	var out []string
	for _, e := range b.of(workspace, event.InsightPrefix) {
		var in struct{ Content string }
		if err := json.Unmarshal(e.Data, &in); err != nil {
			b.t.Fatal(err)
		}
		out = append(out, in.Content)
	}
	return out
}

// news waits for news of a type and answers the data of the n-th.
func (b *bench) news(workspace, kind string, n int) map[string]any {
	b.t.Helper()
	var found []stored
	b.eventually(fmt.Sprintf("%d x %s", n, kind), func() bool {
		found = b.of(workspace, kind)
		return len(found) >= n
	})
	var data map[string]any
	if err := json.Unmarshal(found[n-1].Data, &data); err != nil {
		b.t.Fatal(err)
	}
	return data
}

// exactly waits until every insight that Nex emitted is in the log, and fails if one is there twice.
func (b *bench) exactly(slug string) {
	b.t.Helper()
	var want []string
	for _, in := range b.sim.Emitted(slug) {
		want = append(want, in.Content)
	}
	slices.Sort(want)
	var got []string
	b.eventually(fmt.Sprintf("%d insights of %s in the log", len(want), slug), func() bool {
		got = b.insights(slug)
		return len(got) >= len(want)
	})
	slices.Sort(got)
	if !slices.Equal(got, want) {
		b.t.Errorf("%d emitted, %d in the log, %d different", len(want), len(got), len(slices.Compact(slices.Clone(got))))
	}
}

func (b *bench) metric(name string) float64 {
	b.t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	b.t.Fatalf("no metric %s", name)
	return 0
}

func (b *bench) status(token string) Status {
	for _, s := range b.Status() {
		if s.Token == token {
			return s
		}
	}
	return Status{}
}

func TestLiveInsightsReachTheLog(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.StreamConnected, 1)
	b.news("acme", event.GapFilled, 1) // or it finds them over REST too
	batch := b.sim.Emit("acme", 3)
	b.exactly("acme")
	for i, e := range b.of("acme", event.InsightPrefix) {
		if e.Header.Get(nats.MsgIdHdr) != e.ID || e.Header.Get(bus.HeaderContentType) != event.ContentType || e.Header.Get(bus.HeaderTraceparent) == "" {
			t.Errorf("headers %v of %s", e.Header, e.ID)
		}
		if want := "nex.acme.insight." + batch.Insights[i].Type; e.Stored.Subject != want || e.Type != "nex.insight."+batch.Insights[i].Type {
			t.Errorf("subject %s, type %s, want %s", e.Stored.Subject, e.Type, want)
		}
		var data struct {
			Workspace nexsim.WorkspaceInfo
			Batch     struct {
				OperationID  uint64 `json:"operation_id"`
				Index, Count int
			}
		}
		if err := json.Unmarshal(e.Data, &data); err != nil || data.Workspace != batch.Workspace || data.Batch.OperationID != batch.OperationID ||
			data.Batch.Index != i || data.Batch.Count != 3 {
			t.Errorf("%v: %+v", err, data)
		}
	}
	b.eventually("counted", func() bool { return b.status("acme").Published == 3 })
	s := b.status("acme")
	if s.State != StateConnected || s.Received != 3 || s.WorkspaceID == "" || s.TokenID == "" || s.LastEventAt == nil || b.Connected() != 1 {
		t.Errorf("%+v", s)
	}
	for name, want := range map[string]float64{
		"relay_streams_connected": 1, "relay_events_received_total": 3, "relay_events_published_total": 3, "relay_events_duplicate_total": 0,
	} {
		if got := b.metric(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	b.stop()
	if got := b.metric("relay_streams_connected"); got != 0 {
		t.Errorf("%v streams connected after the end", got)
	}
}

func TestWire(t *testing.T) {
	t.Parallel()
	for name, wire := range map[string]nexsim.Wire{
		"CR, BOM": {LineEnding: "cr", BOM: true}, "CRLF in pieces": {LineEnding: "crlf", Chunk: 7}, "split characters": {SplitUTF8: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			if err := b.sim.SetWire("acme", wire); err != nil {
				t.Fatal(err)
			}
			b.start(workspace("acme"))
			b.connected("acme", 1)
			b.sim.EmitInsights("acme", nexsim.Insight{Type: "risk", Content: "größe – 😀"}, nexsim.Insight{Type: "risk", Content: "b"})
			b.exactly("acme")
		})
	}
}

func TestReconnect(t *testing.T) {
	t.Parallel()
	for name, abort := range map[string]bool{"ended": false, "broken": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			b.start(workspace("acme"))
			for i := 1; i <= 3; i++ {
				b.connected("acme", 1)
				b.news("acme", event.StreamConnected, i)
				b.sim.Emit("acme", 2)
				b.exactly("acme") // the replay brings the earlier ones again
				b.sim.Drop("acme", abort)
				if reason := b.news("acme", event.StreamDisconnected, i)["reason"]; reason == "" || !abort && reason != errStreamEnded.Error() {
					t.Errorf("reason %q", reason)
				}
			}
			b.connected("acme", 1)
			b.exactly("acme")
			if got := b.metric("relay_stream_reconnects_total"); got < 3 {
				t.Errorf("%v reconnects", got)
			}
			b.eventually("a replay is seen", func() bool { return b.metric("relay_events_duplicate_total") > 0 })
		})
	}
}

// Far more than a replay is emitted while the relay is away, in both shapes of REST, with and without ids.
func TestGapOverRestart(t *testing.T) {
	t.Parallel()
	for _, shape := range []string{nexsim.RESTData, nexsim.RESTEnriched} {
		for _, ids := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s ids %v", shape, ids), func(t *testing.T) {
				t.Parallel()
				b := setup(t, nexsim.Options{RESTShape: shape, RESTNoIDs: !ids})
				b.start(workspace("acme"))
				b.connected("acme", 1)
				b.news("acme", event.GapFilled, 1) // the checkpoint
				b.sim.Emit("acme", 5)
				b.exactly("acme")
				b.stop()
				for range 30 {
					b.sim.Emit("acme", 2)
				}
				b.start(workspace("acme"))
				b.connected("acme", 1)
				b.sim.Emit("acme", 1)
				b.exactly("acme")
				filled := b.news("acme", event.GapFilled, 2)
				b.exactly("acme")
				if n, _ := filled["found"].(float64); n < 60 {
					t.Errorf("gap filled with %v", filled)
				}
				b.eventually("complete", func() bool { return b.status("acme").CompleteTo != nil })
			})
		}
	}
}

// A relay that died before its first checkpoint has left insights in the log: it goes on behind them, not at its start.
func TestGapWithoutCheckpoint(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	first := b.sim.Emit("acme", 1).Insights[0]
	e := Normalize("acme", nex.Insight{Raw: json.RawMessage(`{"content":"x"}`), ID: first.ID, Type: first.Type, Content: first.Content, Time: first.CreatedAt}, b.sim.Now())
	e.Data, _ = json.Marshal(first)
	if _, err := b.bus.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		b.sim.Emit("acme", 3)
	}
	b.start(workspace("acme"))
	b.exactly("acme")
}

func TestGapNeedsSplitting(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	now := b.sim.Now()
	var batch []nexsim.Insight
	for i := range 150 {
		batch = append(batch, nexsim.Insight{Type: "risk", Content: fmt.Sprintf("insight %d", i), CreatedAt: now.Add(-time.Duration(150-i) * 20 * time.Second)})
	}
	b.sim.EmitInsights("acme", batch...)
	b.cfg.Backfill = time.Hour
	b.start(workspace("acme"))
	b.exactly("acme")
	if n := len(b.of("acme", event.GapNotFillable)); n != 0 {
		t.Errorf("%d gaps said not to be fillable", n)
	}
	if got := b.metric("relay_gap_filled_total"); got < 100 {
		t.Errorf("%v over REST", got)
	}
}

func TestGapThatNexCannotGive(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	second := b.sim.Now().Add(-30 * time.Second).Truncate(time.Second)
	var batch []nexsim.Insight
	for i := range 150 {
		batch = append(batch, nexsim.Insight{Type: "risk", Content: fmt.Sprintf("insight %d", i), CreatedAt: second})
	}
	b.sim.EmitInsights("acme", batch...)
	b.cfg.Backfill, b.cfg.GapOverlap = time.Minute, time.Second
	b.start(workspace("acme"))
	data := b.news("acme", event.GapNotFillable, 1)
	from, ferr := time.Parse(time.RFC3339Nano, data["from"].(string))
	to, terr := time.Parse(time.RFC3339Nano, data["to"].(string))
	if ferr != nil || terr != nil || from.After(second) || !to.After(second) || to.Sub(from) > 2*time.Second || data["reason"] == "" {
		t.Errorf("%v does not name the window around %v", data, second)
	}
	b.eventually("what Nex gives is there", func() bool { return len(b.insights("acme")) >= 100 })
}

func TestBackfillIsBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		backfill, maxAge time.Duration
		want             int
	}{"none": {0, 0, 20}, "two hours": {2 * time.Hour, 0, 24}, "all that the log keeps": {100 * time.Hour, 4 * time.Hour, 48}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			now := b.sim.Now()
			for i := range 60 { // one each five minutes
				b.sim.EmitInsights("acme", nexsim.Insight{Type: "risk", Content: fmt.Sprintf("i %d", i), CreatedAt: now.Add(-time.Duration(60-i)*5*time.Minute + time.Minute)})
			}
			b.cfg.Backfill, b.cfg.MaxAge, b.cfg.GapOverlap = c.backfill, c.maxAge, time.Second
			b.start(workspace("acme"))
			b.news("acme", event.GapFilled, 1)
			b.eventually("all of them", func() bool { return len(b.insights("acme")) >= c.want })
			if n := len(b.insights("acme")); n != c.want {
				t.Errorf("%d insights, want %d", n, c.want)
			}
			if lost := len(b.of("acme", event.GapNotFillable)); (c.maxAge > 0) != (lost > 0) {
				t.Errorf("%d gaps told", lost)
			}
		})
	}
}

// While the stream stands, what it silently misses comes over REST from time to time.
func TestSafetyNet(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.GapCheckInterval = 50 * time.Millisecond
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	b.sim.Stall("acme", false)
	b.sim.Emit("acme", 2)
	b.exactly("acme")
	if s := b.status("acme"); s.State != StateConnected {
		t.Errorf("%+v", s)
	}
}

func TestRefusedKey(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		key    nexsim.Key
		status float64
		log    string
	}{
		"unknown":  {nexsim.Key{}, 401, "wrong or revoked"},
		"no scope": {nexsim.Key{Token: "nex_no_scope", Scopes: []string{"other"}}, 403, "insight.stream"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			w := workspace("acme")
			w.Key = "nex_unknown"
			if c.key.Token != "" {
				w.Key = c.key.Token
				if err := b.sim.SetKey("acme", c.key); err != nil {
					t.Fatal(err)
				}
			}
			b.cfg.UnauthorizedRetry = 20 * time.Millisecond
			b.start(w)
			if data := b.news("acme", event.StreamUnauthorized, 1); data["status"] != c.status {
				t.Errorf("%v", data)
			}
			b.eventually("tried again", func() bool { return b.metric("relay_stream_reconnects_total") >= 5 })
			if n := strings.Count(b.log.String(), "level=ERROR"); n != 1 || !strings.Contains(b.log.String(), c.log) {
				t.Errorf("said %d times:\n%s", n, b.log)
			}
			if n := len(b.of("acme", event.StreamUnauthorized)); n != 1 {
				t.Errorf("told %d times", n)
			}
			if strings.Contains(b.log.String(), w.Key) {
				t.Error("the key is in the log")
			}
			b.cfg.UnauthorizedRetry = time.Hour
			b.start(w)
			b.eventually("refused", func() bool { return b.status("acme").State == StateUnauthorized })
			b.Apply([]Workspace{workspace("acme")}) // another key is tried at once
			b.connected("acme", 1)
			b.sim.Emit("acme", 1)
			b.exactly("acme")
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		refusal  nexsim.Refusal
		atLeast  time.Duration // of the pause before the next attempt
		atMost   time.Duration
		endpoint string
	}{
		"429 with Retry-After":    {refusal: nexsim.Refusal{Status: 429, RetryAfter: "60"}, atLeast: 55 * time.Second, atMost: 62 * time.Second},
		"503 with Retry-After":    {refusal: nexsim.Refusal{Status: 503, RetryAfter: "30"}, atLeast: 25 * time.Second, atMost: 32 * time.Second},
		"capped Retry-After":      {refusal: nexsim.Refusal{Status: 503, RetryAfter: "999999"}, atLeast: 14 * time.Minute, atMost: 16 * time.Minute},
		"500":                     {refusal: nexsim.Refusal{Status: 500}, atMost: time.Second},
		"a proxy's page":          {refusal: nexsim.Refusal{Status: 502, Body: "<html>"}, atMost: time.Second},
		"a redirect to elsewhere": {refusal: nexsim.Refusal{Status: 302, Location: "http://127.0.0.1:1/x"}, atMost: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nexsim.Options{})
			c.refusal.Endpoint = nexsim.EndpointStream
			if err := b.sim.Refuse(c.refusal); err != nil {
				t.Fatal(err)
			}
			before := time.Now()
			b.start(workspace("acme"))
			var s Status
			b.eventually("waiting", func() bool { s = b.status("acme"); return s.State == StateWaiting && s.NextAttempt != nil })
			if pause := s.NextAttempt.Sub(before); pause < c.atLeast || pause > c.atMost+time.Since(before) {
				t.Errorf("next attempt after %v, want %v to %v", pause, c.atLeast, c.atMost)
			}
			if s.LastError == "" {
				t.Errorf("%+v", s)
			}
			if c.atMost <= time.Second {
				b.sim.Clear("")
				b.connected("acme", 1)
				b.eventually("the error is gone", func() bool { return b.status("acme").LastError == "" })
			}
		})
	}
}

func TestServerChoosesThePause(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.ReconnectMin, b.cfg.ReconnectMax = time.Millisecond, time.Hour
	if err := b.sim.SetWire("acme", nexsim.Wire{Retry: 10 * time.Minute}); err != nil {
		t.Fatal(err)
	}
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.sim.Emit("acme", 1)
	b.exactly("acme")
	b.sim.Drop("acme", false)
	var s Status
	b.eventually("waiting", func() bool { s = b.status("acme"); return s.State == StateWaiting && s.NextAttempt != nil })
	if pause := time.Until(*s.NextAttempt); pause < 4*time.Minute || pause > 16*time.Minute {
		t.Errorf("next attempt in %v, asked for ten minutes", pause)
	}
}

func TestRESTRefusals(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.Backfill = time.Hour
	for range 15 {
		b.sim.Emit("acme", 3)
	}
	for _, r := range []nexsim.Refusal{
		{Status: 429, RetryAfter: "0", Count: 1}, {Status: 500, Count: 1}, {Status: 429, RetryAfter: "1", Count: 1},
	} {
		r.Endpoint = nexsim.EndpointREST
		if err := b.sim.Refuse(r); err != nil {
			t.Fatal(err)
		}
	}
	b.start(workspace("acme"))
	b.exactly("acme")
	if got := b.sim.StateOf("acme").Requests.REST; got[429] != 2 || got[500] != 1 || got[200] == 0 {
		t.Errorf("requests %v", got)
	}
}

func TestRESTRefusedForGood(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.Backfill = time.Hour
	if err := b.sim.Refuse(nexsim.Refusal{Endpoint: nexsim.EndpointREST, Status: 404, Message: "not here"}); err != nil {
		t.Fatal(err)
	}
	b.start(workspace("acme"))
	if data := b.news("acme", event.GapNotFillable, 1); !strings.Contains(fmt.Sprint(data["reason"]), "not here") {
		t.Errorf("%v", data)
	}
	b.sim.Emit("acme", 1) // the stream itself goes on
	b.exactly("acme")
}

func TestSilentStreamIsReplaced(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{Keepalive: time.Hour})
	client, err := nex.NewClient(nex.ClientConfig{BaseURL: clientBase(b), IdleTimeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdle)
	b.cfg.Client = client
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.sim.Stall("acme", false)
	b.sim.Emit("acme", 2)
	if reason := b.news("acme", event.StreamDisconnected, 1)["reason"]; reason != nex.ErrIdle.Error() {
		t.Errorf("reason %q", reason)
	}
	b.exactly("acme")
}

// clientBase serves the simulator once more, for a client of other settings.
func clientBase(b *bench) string {
	server := httptest.NewServer(b.sim.Handler())
	b.t.Cleanup(func() {
		b.stop()
		b.sim.Close()
		server.Close()
	})
	return server.URL
}

func TestMalformedIsQuarantined(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	client, err := nex.NewClient(nex.ClientConfig{BaseURL: clientBase(b), MaxEventSize: 128 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdle)
	b.cfg.Client = client
	b.start(workspace("acme"))
	b.connected("acme", 1)
	n := 0
	for _, kind := range []string{"json", "binary", "oversize"} {
		if err := b.sim.Garbage("acme", kind, 200<<10); err != nil {
			t.Fatal(err)
		}
		n++
		data := b.news("acme", event.Malformed, n)
		if data["reason"] == "" || data["size"].(float64) == 0 || len(fmt.Sprint(data["raw"], data["raw_base64"])) < 50 {
			t.Errorf("%s: %.300v", kind, data)
		}
		b.sim.Emit("acme", 1)
		b.exactly("acme") // the same stream goes on
	}
	b.sim.EmitRaw("acme", "insight.batch.created", []byte(`{"insights":[{"content":"good"},{"type":"no content"}]}`))
	data := b.news("acme", event.Malformed, n+1)
	if data["raw"] != `{"type":"no content"}` {
		t.Errorf("%v", data)
	}
	b.eventually("the good one", func() bool { return slices.Contains(b.insights("acme"), "good") })
	b.sim.EmitRaw("acme", "insight.batch.created", []byte(`{"insights":[{"type":"no content"}]}`)) // the same again
	b.sim.EmitRaw("acme", "heartbeat", []byte("no insights in here"))
	if err := b.sim.Garbage("acme", "utf8", 0); err != nil { // an insight all the same, its bad bytes replaced
		t.Fatal(err)
	}
	b.sim.Emit("acme", 1)
	want := len(b.sim.Emitted("acme")) + 2
	b.eventually("the last one", func() bool { return len(b.insights("acme")) == want })
	if got := len(b.of("acme", event.Malformed)); got != n+1 {
		t.Errorf("%d in quarantine, want %d", got, n+1)
	}
	if got := b.metric("relay_events_malformed_total"); got != float64(n+2) {
		t.Errorf("%v malformed counted, want %d", got, n+2)
	}
	if got := b.metric("relay_stream_reconnects_total"); got != 0 {
		t.Errorf("%v reconnects: a malformed event ended the stream", got)
	}
}

func TestHalfAnEvent(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	b.sim.Cut("acme")
	b.exactly("acme")
	if n := len(b.of("acme", event.Malformed)); n != 0 {
		t.Errorf("half an event is no malformed one: %d", n)
	}
}

// The server takes 8 MiB at most; the rest of the stream is not held up by what is larger.
func TestInsightLargerThanNATSTakes(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	b.sim.EmitInsights("acme",
		nexsim.Insight{Type: "risk", Content: "before"},
		nexsim.Insight{Type: "risk", Content: strings.Repeat("x", 9<<20)},
		nexsim.Insight{Type: "risk", Content: "after"})
	b.eventually("its neighbours", func() bool { return slices.Equal(b.insights("acme"), []string{"before", "after"}) })
	data := b.news("acme", event.Malformed, 1)
	if data["truncated"] != true || data["size"].(float64) < 9<<20 || !strings.Contains(data["reason"].(string), "max_payload") {
		t.Errorf("reason %v, size %v", data["reason"], data["size"])
	}
}

// The stream itself takes less than the server does: neither the insight nor the usual piece of it.
func TestInsightLargerThanTheStreamTakes(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	s, err := b.bus.JetStream().Stream(t.Context(), bus.StreamNex)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxMsgSize = 20_000
	if _, err := b.bus.JetStream().UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	b.sim.EmitInsights("acme",
		nexsim.Insight{Type: "risk", Content: "before"},
		nexsim.Insight{Type: "risk", Content: strings.Repeat("x", 100_000)},
		nexsim.Insight{Type: "risk", Content: "after"})
	b.sim.EmitRaw("acme", "insight.batch.created", []byte(strings.Repeat("\x00", 30_000))) // rubbish that is larger as JSON
	b.eventually("its neighbours", func() bool { return slices.Equal(b.insights("acme"), []string{"before", "after"}) })
	data := b.news("acme", event.Malformed, 1)
	if data["truncated"] != true || data["size"].(float64) < 100_000 || !strings.Contains(data["reason"].(string), "max_msg_size") {
		t.Errorf("reason %v, size %v", data["reason"], data["size"])
	}
	b.news("acme", event.Malformed, 2)
	b.sim.Emit("acme", 1) // and the stream goes on
	b.eventually("the next", func() bool { return len(b.insights("acme")) == 3 })
}

// outside is a nats-server of its own that can go away and come back, and a connection to it.
type outside struct {
	t      *testing.T
	cfg    bus.Config
	server *bus.Bus
	client *bus.Bus
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	port, err := porttest.Free()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	o := &outside{t: t, cfg: bustest.Config(t)}
	o.cfg.Embedded.Listen = address
	o.start()
	t.Cleanup(o.stop)
	cfg := bustest.Config(t)
	cfg.URL = "nats://" + address
	o.client = bustest.Open(t, cfg)
	return o
}

func (o *outside) start() {
	o.t.Helper()
	var err error
	if o.server, err = bus.Open(o.t.Context(), o.cfg); err != nil {
		o.t.Fatal(err)
	}
}

func (o *outside) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := o.server.Close(ctx); err != nil {
		o.t.Errorf("close: %v", err)
	}
}

func TestNATSAway(t *testing.T) {
	t.Parallel()
	nats := newOutside(t)
	b := setup(t, nexsim.Options{})
	b.bus = nats.client
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.news("acme", event.GapFilled, 1)
	b.sim.Emit("acme", 3)
	b.exactly("acme")
	nats.stop()
	for range 40 {
		b.sim.Emit("acme", 5)
	}
	b.eventually("the source notices", func() bool { return b.status("acme").Received > 3 })
	nats.start()
	b.exactly("acme")
	var want []string
	for _, in := range b.sim.Emitted("acme") {
		want = append(want, in.Content)
	}
	if !slices.Equal(b.insights("acme"), want) {
		t.Error("the order changed")
	}
	if n := strings.Count(b.log.String(), "publishing fails"); n > 1 {
		t.Errorf("one outage is told %d times", n)
	}
}

// A page of insights is on its way when NATS goes away, and then the connection for which the gap is filled ends too.
func TestConnectionEndsWhileAGapIsFilled(t *testing.T) {
	t.Parallel()
	nats := newOutside(t)
	b := setup(t, nexsim.Options{})
	b.bus = nats.client
	now := b.sim.Now()
	for i := range 450 { // more than are let through without an answer
		b.sim.EmitInsights("acme", nexsim.Insight{Type: "risk", Content: fmt.Sprint(i), CreatedAt: now.Add(-time.Duration(450-i) * 10 * time.Second)})
	}
	b.cfg.Backfill = 2 * time.Hour
	if err := b.sim.Refuse(nexsim.Refusal{Endpoint: nexsim.EndpointREST, Status: 503, RetryAfter: "0"}); err != nil {
		t.Fatal(err)
	}
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.eventually("the replay is in the log", func() bool { return len(b.insights("acme")) == 20 })
	nats.stop()
	b.sim.Clear("")
	b.eventually("the filler waits", func() bool { return b.status("acme").Received >= 20+pipelineDepth })
	if n := b.sim.Drop("acme", true); n != 1 {
		t.Fatalf("%d streams ended", n)
	}
	nats.start()
	b.exactly("acme")
}

func TestStopWhilePublishing(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.start(workspace("acme"))
	b.news("acme", event.GapFilled, 1)
	for range 3 { // 90 in all: what one second holds beyond 100, REST does not give
		b.start(workspace("acme"))
		b.connected("acme", 1)
		for range 10 {
			b.sim.Emit("acme", 3)
		}
		b.stop() // with some of them on their way
	}
	b.start(workspace("acme"))
	b.connected("acme", 1)
	b.exactly("acme")
}

// Two relays that hold the same stream and write to the same log.
func TestTwoReplicas(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.start(workspace("acme"))
	cfg := b.cfg
	cfg.Registerer = nil
	other := NewManager(cfg)
	defer run(t, other)()
	other.Apply([]Workspace{workspace("acme")})
	b.connected("acme", 2)
	for range 50 {
		b.sim.Emit("acme", 4)
	}
	b.exactly("acme")
	b.eventually("both have read everything", func() bool {
		return b.status("acme").Received >= 200 && other.Status()[0].Received >= 200
	})
	b.exactly("acme")
}

// Ids of Nex are unique within a workspace, message ids are one space for all.
func TestSameIDInTwoWorkspaces(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{LiveIDs: true, Workspaces: []nexsim.Workspace{{Slug: "acme"}, {Slug: "beta"}}})
	b.start(workspace("acme"), workspace("beta"))
	b.connected("acme", 1)
	b.connected("beta", 1)
	b.sim.EmitInsights("acme", nexsim.Insight{ID: "ins_1", Type: "risk", Content: "of acme"})
	b.exactly("acme")
	b.sim.EmitInsights("beta", nexsim.Insight{ID: "ins_1", Type: "risk", Content: "of beta"})
	b.exactly("beta")
	for _, w := range []string{"acme", "beta"} {
		if e := b.of(w, event.InsightPrefix); len(e) != 1 || e[0].ID != "ins_1" {
			t.Errorf("%s: %+v", w, e)
		}
	}
}

func TestApply(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{Workspaces: []nexsim.Workspace{{Slug: "acme"}, {Slug: "beta"}, {Slug: "gamma"}}})
	m := NewManager(Config{Client: b.cfg.Client, Bus: b.bus, Logger: b.cfg.Logger})
	m.Apply([]Workspace{workspace("gamma")}) // before Run
	b.start(workspace("acme"), workspace("beta"))
	b.connected("acme", 1)
	b.connected("beta", 1)
	b.eventually("both are up", func() bool { return b.Connected() == 2 })
	untouched := b.status("acme").Since
	stop := run(t, m)
	b.connected("gamma", 1)
	stop()
	b.connected("gamma", 0)
	m.Apply([]Workspace{workspace("gamma")}) // after its end
	b.Apply([]Workspace{workspace("acme"), workspace("gamma")})
	b.connected("beta", 0)
	b.connected("gamma", 1)
	if got := b.sim.StateOf("acme").Requests.Stream[http.StatusOK]; got != 1 {
		t.Errorf("acme was connected %d times", got)
	}
	if got := b.sim.StateOf("gamma").Requests.Stream[http.StatusOK]; got != 2 {
		t.Errorf("gamma was connected %d times", got)
	}
	if s := b.Status(); len(s) != 2 || s[0].Token != "acme" || s[1].Token != "gamma" || !s[0].Since.Equal(untouched) {
		t.Errorf("%+v", s)
	}
	if m.Connected() != 0 {
		t.Error("an ended manager holds a stream")
	}
}

// Thousands of streams come back at once after an outage: their dials do not.
func TestDialsAreBounded(t *testing.T) {
	t.Parallel()
	const streams, limit = 12, 3
	var mu sync.Mutex
	open, most := 0, 0
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/insights/stream" {
			_, _ = w.Write([]byte(`{"data":[]}`))
			return
		}
		mu.Lock()
		open++
		most = max(most, open)
		mu.Unlock()
		select {
		case <-release:
		case <-r.Context().Done():
		}
		mu.Lock()
		open--
		mu.Unlock()
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	b := setup(t, nexsim.Options{})
	t.Cleanup(func() {
		b.stop()
		server.Close()
	})
	client, err := nex.NewClient(nex.ClientConfig{BaseURL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdle)
	b.cfg.Client, b.cfg.MaxDials = client, limit
	var list []Workspace
	for i := range streams {
		list = append(list, Workspace{Name: fmt.Sprint(i), Token: fmt.Sprint(i), Key: "k"})
	}
	b.start(list...)
	b.eventually("as many as may", func() bool { mu.Lock(); defer mu.Unlock(); return open == limit })
	close(release)
	b.eventually("all are up", func() bool { return b.Connected() == streams })
	if most != limit {
		t.Errorf("%d dials at once, want %d", most, limit)
	}
}

// A time that Nex cannot have meant, or that cannot be written, holds nothing up, and what has it is in the log once.
func TestNonsenseTimes(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"0000-01-01T00:00:00Z", "0001-01-01T00:00:00-05:00", "0001-01-01T01:10:00Z", "9999-12-31T23:59:59-05:00"} {
		for _, kind := range []string{replayEvent, "insight.batch.created"} {
			t.Run(at+" "+kind, func(t *testing.T) {
				t.Parallel()
				b := setup(t, nexsim.Options{})
				b.hasty()
				b.start(workspace("acme"))
				b.news("acme", event.GapFilled, 1)
				for range 2 * leastKnown { // more than is read back
					b.sim.Emit("acme", 1)
				}
				b.exactly("acme")
				b.stop()
				b.cfg.Now = func() time.Time { return time.Now().Add(30 * time.Minute) }
				odd := fmt.Appendf(nil, `{"type":"risk","content":"odd","created_at":%q}`, at)
				for i := range 2 {
					b.start(workspace("acme"))
					b.news("acme", event.StreamConnected, i+2)
					b.sim.EmitRaw("acme", kind, odd)
					b.sim.EmitInsights("acme", nexsim.Insight{Type: "risk", Content: fmt.Sprint("after it ", i)})
					b.eventually("what came after it is in the log", func() bool { return slices.Contains(b.insights("acme"), fmt.Sprint("after it ", i)) })
				}
				n := 0
				for _, e := range b.of("acme", event.InsightPrefix) {
					if strings.Contains(string(e.Data), `"odd"`) {
						n++
					}
				}
				if n != 1 || strings.Contains(b.log.String(), "could not be told") {
					t.Errorf("%d times in the log\n%s", n, b.log)
				}
			})
		}
	}
}

package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/lease"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func insight(workspace, id string, at time.Time) *event.Event {
	return &event.Event{
		Workspace: workspace, ID: id, Type: "nex.insight.risk", Time: at, Data: []byte(`{"type":"risk","content":"c"}`),
		Fingerprint: event.Fingerprint(workspace, "risk", id), Emitted: at, Traceparent: event.NewTraceparent(),
	}
}

func TestPublishAndReadBack(t *testing.T) {
	t.Parallel()
	b, ctx := bustest.New(t), t.Context()
	at := time.Date(2026, 2, 5, 10, 30, 0, 123456789, time.UTC)
	first, err := b.Publish(ctx, insight("acme", "a.1", at))
	if err != nil || first.Duplicate || first.Sequence != 1 {
		t.Fatalf("first publish: %+v %v", first, err)
	}
	again, err := b.Publish(ctx, insight("acme", "a.1", at))
	if err != nil || !again.Duplicate || again.Sequence != 1 {
		t.Fatalf("second publish of the same id: %+v %v", again, err)
	}
	got, err := b.Get(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if got.Subject != "nex.acme.insight.risk" || string(got.Data) != string(insight("acme", "a.1", at).JSON()) {
		t.Errorf("read back %s %s", got.Subject, got.Data)
	}
	for header, want := range map[string]string{"Nats-Msg-Id": "a.1", "Content-Type": event.ContentType} {
		if got.Header.Get(header) != want {
			t.Errorf("header %s is %q, want %q", header, got.Header.Get(header), want)
		}
	}
	if _, err := b.Get(ctx, 99); !errors.Is(err, bus.ErrNotInLog) {
		t.Errorf("a sequence that is not there: %v", err)
	}
	recent, err := b.Recent(ctx, "acme", 10, time.Time{}, 10)
	if err != nil || len(recent.Insights) != 1 || !recent.Complete {
		t.Fatalf("recent: %+v %v", recent, err)
	}
	if k := recent.Insights[0]; k.Subject != "nex.acme.insight.risk" || k.ID != "a.1" || !k.Emitted.Equal(at) || k.Fingerprint != event.Fingerprint("acme", "risk", "a.1") || k.Sequence != 1 {
		t.Errorf("recent: %+v", k)
	}
}

func TestRecentFindsTheNewestOfOneWorkspaceAmongMany(t *testing.T) {
	t.Parallel()
	b, ctx := bustest.New(t), t.Context()
	at := time.Date(2026, 2, 5, 10, 30, 0, 0, time.UTC)
	var pending []*bus.Pending
	publish := func(workspace string, from, n int) {
		for i := from; i < from+n; i++ {
			p, err := b.PublishAsync(ctx, insight(workspace, fmt.Sprintf("%s-%d", workspace, i), at), fmt.Sprintf("%s-%d", workspace, i))
			if err != nil {
				t.Fatal(err)
			}
			pending = append(pending, p)
			if len(pending) == 500 {
				wait(t, &pending)
			}
		}
	}
	publish("quiet", 0, 7)    // long ago
	publish("busy", 0, 30000) // buries it
	publish("some", 0, 40)
	publish("busy", 30000, 300)
	wait(t, &pending)
	for _, tt := range []struct {
		workspace   string
		n, want     int
		first, last string
	}{
		{"quiet", 20, 7, "quiet-0", "quiet-6"},
		{"quiet", 3, 3, "quiet-4", "quiet-6"},
		{"busy", 20, 20, "busy-30280", "busy-30299"},
		{"busy", 2000, 2000, "busy-28300", "busy-30299"},
		{"some", 40, 40, "some-0", "some-39"},
		{"none", 20, 0, "", ""},
	} {
		recent, err := b.Recent(ctx, tt.workspace, tt.n, time.Time{}, tt.n)
		got := recent.Insights
		if err != nil || len(got) != tt.want {
			t.Errorf("%s/%d: %d found, want %d (%v)", tt.workspace, tt.n, len(got), tt.want, err)
			continue
		}
		if tt.want > 0 && (got[0].ID != tt.first || got[len(got)-1].ID != tt.last) {
			t.Errorf("%s/%d: %s..%s, want %s..%s", tt.workspace, tt.n, got[0].ID, got[len(got)-1].ID, tt.first, tt.last)
		}
	}
}

func TestRecentSince(t *testing.T) {
	t.Parallel()
	b, ctx := bustest.New(t), t.Context()
	publish := func(from, n int) {
		for i := from; i < from+n; i++ {
			for _, workspace := range []string{"acme", "other"} {
				id := fmt.Sprintf("%s-%d", workspace, i)
				if _, err := b.Publish(ctx, insight(workspace, id, time.Now())); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	publish(0, 1500)
	stored, err := b.Get(ctx, 2000)
	if err != nil {
		t.Fatal(err)
	}
	mark := stored.Time
	for _, tt := range []struct {
		name           string
		n              int
		since          time.Time
		most           int
		want           int
		first          string
		complete, from bool
	}{
		{"the newest are more", 700, mark, 1000, 700, "acme-800", false, true},
		{"those since are more", 100, mark, 1000, 501, "acme-999", false, true},
		{"no more than most", 100, mark, 200, 200, "acme-1300", false, true},
		{"all there is", 1500, mark, 5000, 1500, "acme-0", true, false},
		{"more than there is", 9999, time.Time{}, 9999, 1500, "acme-0", true, false},
	} {
		r, err := b.Recent(ctx, "acme", tt.n, tt.since, tt.most)
		if err != nil || len(r.Insights) == 0 {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got := r.Insights
		if d := len(got) - tt.want; d < -1 || d > 1 || got[len(got)-1].ID != "acme-1499" { // the mark's own neighbour may share its time
			t.Errorf("%s: %d from %s to %s, want %d from %s", tt.name, len(got), got[0].ID, got[len(got)-1].ID, tt.want, tt.first)
		}
		if r.Complete != tt.complete || tt.from && r.From != got[0].Sequence {
			t.Errorf("%s: complete %v, from %d", tt.name, r.Complete, r.From)
		}
	}

	seen := 0
	if err := b.Scan(ctx, "acme", mark, 10, func(bus.Known) bool { seen++; return true }); err != nil || seen < 500 || seen > 502 {
		t.Errorf("scan since: %d seen, %v", seen, err)
	}
	seen = 0
	if err := b.Scan(ctx, "acme", time.Time{}, 2000, func(bus.Known) bool { seen++; return seen < 1200 }); err != nil || seen != 1200 {
		t.Errorf("scan of the newest until enough: %d seen, %v", seen, err)
	}
	if err := b.Scan(ctx, "none", time.Time{}, 10, func(bus.Known) bool { t.Error("found one"); return true }); err != nil {
		t.Error(err)
	}
}

func TestAppendIsRefusedAfterSomebodyElse(t *testing.T) {
	t.Parallel()
	b, ctx := bustest.New(t), t.Context()
	at := time.Now()
	subject := insight("acme", "1", at).NATSSubject()
	first, err := b.Append(ctx, insight("acme", "1", at), "1", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Append(ctx, insight("acme", "2", at), "2", 0); !errors.Is(err, bus.ErrConflict) {
		t.Errorf("with the knowledge of before: %v", err)
	}
	if _, err := b.Append(ctx, insight("other", "2", at), "2", 0); err != nil {
		t.Errorf("another subject: %v", err)
	}
	second, err := b.Append(ctx, insight("acme", "3", at), "3", first.Sequence)
	if err != nil {
		t.Fatal(err)
	}
	if ack, err := b.Append(ctx, insight("acme", "3", at), "3", first.Sequence); err != nil && !errors.Is(err, bus.ErrConflict) || err == nil && !ack.Duplicate {
		t.Errorf("once more, as after a lost answer: %+v %v", ack, err)
	}
	written, last, err := b.After(ctx, subject, first.Sequence)
	if err != nil || last != second.Sequence || len(written) != 1 || written[0].ID != "3" {
		t.Errorf("after the first: %+v up to %d, %v", written, last, err)
	}
	if written, last, err := b.After(ctx, subject, second.Sequence); err != nil || len(written) != 0 || last != second.Sequence {
		t.Errorf("after the last: %+v up to %d, %v", written, last, err)
	}
	if written, last, err := b.After(ctx, "nex.none.insight.risk", 5); err != nil || len(written) != 0 || last != 0 {
		t.Errorf("of nothing: %+v up to %d, %v", written, last, err)
	}
	if got, err := b.SubjectAt(ctx, second.Sequence); err != nil || got != subject {
		t.Errorf("subject %q, %v", got, err)
	}
	if _, err := b.SubjectAt(ctx, 99); !errors.Is(err, bus.ErrNotInLog) {
		t.Errorf("of a sequence that is not there: %v", err)
	}
}

func wait(t *testing.T, pending *[]*bus.Pending) {
	t.Helper()
	for _, p := range *pending {
		if _, err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	*pending = (*pending)[:0]
}

func TestPublishBlocksWhenTooMuchIsInFlight(t *testing.T) {
	t.Parallel()
	cfg := bustest.Config(t)
	cfg.MaxPending = 2
	b := bustest.Open(t, cfg)
	at := time.Now()
	p1, err := b.PublishAsync(t.Context(), insight("acme", "1", at), "1")
	if err != nil {
		t.Fatal(err)
	}
	p2, err := b.PublishAsync(t.Context(), insight("acme", "2", at), "2")
	if err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.PublishAsync(canceled, insight("acme", "3", at), "3"); !errors.Is(err, context.Canceled) {
		t.Errorf("a third publish went through: %v", err)
	}
	for _, p := range []*bus.Pending{p1, p2} {
		if _, err := p.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := b.Publish(t.Context(), insight("acme", "3", at)); err != nil {
		t.Errorf("after the first two: %v", err)
	}
}

func TestTooLargeIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	b := bustest.New(t)
	e := insight("acme", "1", time.Now())
	e.Data = append(append([]byte(`"`), bytes.Repeat([]byte("x"), 16<<20)...), '"')
	if _, err := b.Publish(t.Context(), e); !errors.Is(err, bus.ErrTooLarge) {
		t.Errorf("16 MiB: %v", err)
	}
	e.Data = append(append([]byte(`"`), bytes.Repeat([]byte("x"), 4<<20)...), '"')
	if _, err := b.Publish(t.Context(), e); err != nil {
		t.Errorf("4 MiB: %v", err)
	}
}

func TestStoreIsLocked(t *testing.T) {
	t.Parallel()
	cfg := bustest.Config(t)
	bustest.Open(t, cfg)
	if _, err := bus.Open(t.Context(), cfg); !errors.Is(err, bus.ErrStoreLocked) {
		t.Errorf("second relay on one store: %v", err)
	}
}

func TestReopenKeepsTheLogAndAppliesLimits(t *testing.T) {
	t.Parallel()
	cfg := bustest.Config(t)
	b, err := bus.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(t.Context(), insight("acme", "1", time.Now())); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg.Stream.MaxAge = time.Hour
	cfg.Stream.DuplicateWindow = time.Minute
	b = bustest.Open(t, cfg)
	if _, err := b.Get(t.Context(), 1); err != nil {
		t.Errorf("the event did not survive: %v", err)
	}
	s, err := b.JetStream().Stream(t.Context(), bus.StreamNex)
	if err != nil {
		t.Fatal(err)
	}
	if c := s.CachedInfo().Config; c.MaxAge != time.Hour || c.Duplicates != time.Minute {
		t.Errorf("the changed limits were not applied: %v %v", c.MaxAge, c.Duplicates)
	}
}

func TestBusyPortNamesTheKey(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := bustest.Config(t)
	cfg.Embedded.Listen = l.Addr().String()
	if _, err := bus.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "nats.embedded.listen") {
		t.Errorf("busy port: %v", err)
	}
}

func TestTokenGuardsTheEmbeddedServer(t *testing.T) {
	t.Parallel()
	cfg := bustest.Config(t)
	cfg.Embedded.Listen = "127.0.0.1:0"
	cfg.Embedded.Token = "a-token-of-the-test"
	b := bustest.Open(t, cfg)
	if nc, err := nats.Connect(b.ClientURL()); err == nil {
		nc.Close()
		t.Error("a client without the token got in")
	}
	nc, err := nats.Connect(b.ClientURL(), nats.Token(cfg.Embedded.Token))
	if err != nil {
		t.Fatalf("a client with the token: %v", err)
	}
	nc.Close()
}

// external starts a nats-server as somebody else would run it.
func external(t *testing.T) (*server.Server, jetstream.JetStream) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(2 * time.Minute) {
		t.Fatal("server is not ready")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nc.Close()
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s, js
}

func TestForeignStreamIsLeftAloneAndNamed(t *testing.T) {
	t.Parallel()
	s, js := external(t)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "NEX", Subjects: []string{"nex.>"}, MaxAge: time.Hour, Duplicates: time.Minute, Storage: jetstream.MemoryStorage,
		MaxMsgsPerSubject: 1000, DiscardNewPerSubject: true, Discard: jetstream.DiscardNew,
	})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cfg := bustest.Config(t)
	cfg.URL = s.ClientURL()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	b := bustest.Open(t, cfg)
	if b.ClientURL() != "" {
		t.Error("an external NATS has a client URL of ours")
	}
	for _, want := range []string{"max_age is 1h0m0s, not 24h0m0s", "duplicate_window is 1m0s, not 2h0m0s", "storage is Memory, not File", "allow_direct is false, not true",
		"max_msgs_per_subject is 1000, not -1", "discard_new_per_subject is true, not false"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, log.String())
		}
	}
	have, err := js.Stream(t.Context(), "NEX")
	if err != nil {
		t.Fatal(err)
	}
	if have.CachedInfo().Config.MaxAge != time.Hour {
		t.Error("the operator's stream was changed")
	}
	if _, err := b.Publish(t.Context(), insight("acme", "1", time.Now())); err != nil {
		t.Error(err)
	}
	if got, err := b.Get(t.Context(), 1); err != nil || got.Subject != "nex.acme.insight.risk" {
		t.Errorf("get without allow_direct: %v", err)
	}
}

func TestUnusableStreamIsRefused(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]jetstream.StreamConfig{
		"no schedules":      {Name: "RELAY_RETRY", Subjects: []string{"relay.retry.>"}, Retention: jetstream.WorkQueuePolicy},
		"too few subjects":  {Name: "NEX", Subjects: []string{"nex.acme.>"}},
		"it forgets":        {Name: "NEX", Subjects: []string{"nex.>"}, MaxMsgsPerSubject: 999},
		"another retention": {Name: "NEX", Subjects: []string{"nex.>"}, Retention: jetstream.InterestPolicy},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, js := external(t)
			if _, err := js.CreateStream(t.Context(), bad); err != nil {
				t.Fatal(err)
			}
			cfg := bustest.Config(t)
			cfg.URL = s.ClientURL()
			if _, err := bus.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "stream "+bad.Name) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestOpenWaitsForAnExternalServer(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	cfg := bustest.Config(t)
	cfg.URL = "nats://127.0.0.1:1" // nobody answers there, and nobody is given that port
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	if _, err := bus.Open(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if n := strings.Count(log.String(), "cannot be reached"); n != 1 {
		t.Errorf("the reason was logged %d times", n)
	}
}

func TestEmbeddedFaultsLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	cfg := bustest.Config(t)
	file := cfg.Embedded.StoreDir + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Embedded.StoreDir = file
	if _, err := bus.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "store_dir") {
		t.Errorf("a file as store directory: %v", err)
	}
}

// TestSchedules pins down what the retries are built on.
func TestSchedules(t *testing.T) {
	t.Parallel()
	b, ctx := bustest.New(t), t.Context()
	js := b.JetStream()
	put := func(payload string, at time.Time) {
		msg := &nats.Msg{Subject: bus.RetryWaitSubject("crm", 7), Data: []byte(payload)}
		if _, err := js.PublishMsg(ctx, msg, jetstream.WithScheduleAt(at), jetstream.WithScheduleTarget(bus.RetryDueSubject("crm", 1))); err != nil {
			t.Fatal(err)
		}
	}
	put("first", time.Now().Add(time.Second))
	put("second", time.Now().Add(time.Second)) // replaces the first
	c, err := js.CreateOrUpdateConsumer(ctx, bus.StreamRetry, bus.RetryConsumer(30*time.Second, 100))
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Next(jetstream.FetchMaxWait(2 * time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if string(m.Data()) != "second" || m.Subject() != bus.RetryDueSubject("crm", 1) {
		t.Errorf("%s %s", m.Subject(), m.Data())
	}
	if err := m.DoubleAck(ctx); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(ctx, bus.StreamRetry)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d messages are left over", n)
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, sync := range []struct {
		name   string
		always bool
		every  time.Duration
	}{{"2m", false, 2 * time.Minute}, {"1s", false, time.Second}, {"always", true, 0}} {
		b.Run("sync="+sync.name, func(b *testing.B) {
			cfg := bustest.Config(b)
			cfg.Embedded.SyncAlways, cfg.Embedded.SyncInterval = sync.always, sync.every
			log := bustest.Open(b, cfg)
			e := insight("acme", "", time.Now())
			e.Data = append(append([]byte(`"`), bytes.Repeat([]byte("x"), 1024)...), '"')
			var pending []*bus.Pending
			for i := range b.N {
				p, err := log.PublishAsync(b.Context(), e, fmt.Sprint(i))
				if err != nil {
					b.Fatal(err)
				}
				if pending = append(pending, p); len(pending) == 256 {
					for _, p := range pending {
						if _, err := p.Wait(b.Context()); err != nil {
							b.Fatal(err)
						}
					}
					pending = pending[:0]
				}
			}
			for _, p := range pending {
				_, _ = p.Wait(b.Context())
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// A half-open connection is found before a session is over.
func TestHalfOpenConnectionIsFoundInTime(t *testing.T) {
	t.Parallel()
	opts := bustest.New(t).Conn().Opts
	if found := opts.PingInterval * time.Duration(opts.MaxPingsOut+2); found > lease.TTL {
		t.Errorf("after up to %v, a session lives %v", found, lease.TTL)
	}
}

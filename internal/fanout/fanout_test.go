package fanout_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/webhook"
)

func TestMain(m *testing.M) {
	if os.Getenv(receiversEnv) != "" {
		serveReceivers()
		return
	}
	goleak.VerifyTestMain(m)
}

// patience bounds how long a test waits for what must happen; nothing is measured by it. What a relay could not store when it stopped,
// because the machine stood still for some seconds, comes again when its acknowledgement is overdue: after half a minute.
const patience = 90 * time.Second

// bundle is a log, a registry and a fanout that runs.
type bundle struct {
	t            testing.TB
	bus          *bus.Bus
	registry     *endpoint.Registry
	secret       webhook.Secret
	policy       fanout.Policy
	grace        time.Duration
	disableAfter time.Duration
	lossWarning  time.Duration
	maxHeld      int64
	replicas     int           // 0 = one
	logger       *slog.Logger  // nil = none
	restoreEvery time.Duration // 0 = not in a test's time
	metrics      *prometheus.Registry
	relay        *fanout.Fanout // the one that runs, or did last
	stop         func()         // may be called again
	deaf         func()         // the registry hears nothing any more
}

// hears has the registry hear what happens.
func (b *bundle) hears() { b.deaf = run(b.t, b.registry.Run) }

func setup(t testing.TB, policy fanout.Policy) *bundle {
	t.Helper()
	return setupOn(t, bustest.New(t), policy)
}

func setupOn(t testing.TB, log *bus.Bus, policy fanout.Policy) *bundle {
	t.Helper()
	b := &bundle{t: t, bus: log, secret: webhook.GenerateSecret(), policy: policy}
	sealer, err := endpoint.NewSealer(make([]byte, endpoint.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	b.registry = endpoint.NewRegistry(b.bus.Endpoints(), sealer, slog.New(slog.DiscardHandler))
	b.hears()
	t.Cleanup(func() { b.deaf() })
	if err := b.registry.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

// run starts a part; what it returns ends it and waits.
func run(t testing.TB, part func(context.Context) error) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- part(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func (b *bundle) start() {
	b.t.Helper()
	b.metrics = prometheus.NewRegistry()
	f, close := b.fanout(b.metrics)
	b.relay = f
	end := run(b.t, f.Run)
	b.stop = func() {
		end()
		if _, waiting := f.Lanes(); waiting != 0 {
			b.t.Errorf("%d deliveries wait in lanes after the end", waiting)
		}
		close()
	}
}

var silent = slog.New(slog.DiscardHandler)

// fanout is a fanout that does not run yet; close ends its connections.
func (b *bundle) fanout(metrics prometheus.Registerer) (f *fanout.Fanout, close func()) {
	b.t.Helper()
	sender := webhook.NewSender(webhook.SenderConfig{
		Guard: webhook.NewGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}), AllowHTTP: true, UserAgent: "nex-relay/test", MaxIdlePerHost: 1024,
	})
	cfg := fanout.WithMaxHeld(fanout.Config{
		Bus: b.bus, Endpoints: b.registry, Sender: sender, Policy: b.policy, Timeout: 20 * time.Second, MaxInFlight: 8,
		Grace: b.grace, Logger: cmp.Or(b.logger, silent), Registerer: metrics,
		DisableAfter: b.disableAfter, LossWarning: b.lossWarning, Origin: "relay.example.com", Replicas: func() int { return max(1, b.replicas) },
	}, b.maxHeld)
	f, err := fanout.New(fanout.WithRestoreEvery(fanout.WithoutLookout(fanout.WithLookAgain(cfg, time.Second)), cmp.Or(b.restoreEvery, time.Hour)))
	if err != nil {
		b.t.Fatal(err)
	}
	return f, sender.CloseIdle
}

func (b *bundle) endpoints(list ...*endpoint.Endpoint) {
	for _, e := range list {
		e.Secrets, e.Enabled = []webhook.Secret{b.secret}, true
		if err := e.Validate(endpoint.Limits{AllowHTTP: true}); err != nil {
			b.t.Fatal(err)
		}
	}
	b.registry.SetConfig(list)
}

// publish puts n insights of acme into the log and returns their ids.
func (b *bundle) publish(prefix string, n int) []string {
	b.t.Helper()
	var ids []string
	for i := range n {
		e := &event.Event{
			Workspace: "acme", ID: fmt.Sprintf("%s-%d", prefix, i), Type: "nex.insight.risk", Time: time.Now(),
			Data: []byte(`{"type":"risk","content":"c"}`), Traceparent: event.NewTraceparent(),
		}
		if _, err := b.bus.Publish(b.t.Context(), e); err != nil {
			b.t.Fatal(err)
		}
		ids = append(ids, e.ID)
	}
	return ids
}

// next reads one message of a stream's subject; each call on one subject continues.
func (b *bundle) reader(stream, subject string) func() jetstream.Msg {
	b.t.Helper()
	c, err := b.bus.JetStream().OrderedConsumer(b.t.Context(), stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
	if err != nil {
		b.t.Fatal(err)
	}
	return func() jetstream.Msg {
		b.t.Helper()
		m, err := c.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			b.t.Fatalf("nothing came on %s: %v", subject, err)
		}
		return m
	}
}

func (b *bundle) attempts(endpointID string, n int) []fanout.Attempt {
	b.t.Helper()
	next := b.reader(bus.StreamAttempts, "relay.attempts."+endpointID+".>")
	var out []fanout.Attempt
	for range n {
		var a fanout.Attempt
		if err := json.Unmarshal(next().Data(), &a); err != nil {
			b.t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

// settled waits until nothing in the log or in RELAY_RETRY is left to do.
func (b *bundle) settled() {
	b.t.Helper()
	eventually(b.t, "everything is acknowledged", func() bool {
		unread, unacked, err := b.left()
		if err != nil {
			return false
		}
		s, err := b.bus.JetStream().Stream(b.t.Context(), bus.StreamRetry)
		return err == nil && unread == 0 && unacked == 0 && s.CachedInfo().State.Msgs == 0
	})
}

// gauge is the value of a metric without labels.
func (b *bundle) gauge(name string) float64 {
	b.t.Helper()
	families, err := b.metrics.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	b.t.Fatalf("no metric %s", name)
	return 0
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	eventuallyIn(t, patience, what, ok)
}

func eventuallyIn(t testing.TB, patience time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// receiver is a subscriber: it keeps what came, and answers as answer says.
type receiver struct {
	*httptest.Server
	mu   sync.Mutex
	got  []string // webhook-ids
	want chan string
	each func() // called with mu held
}

func newReceiver(t testing.TB, answer func(n int, w http.ResponseWriter, r *http.Request, body []byte)) *receiver {
	r := &receiver{want: make(chan string, 100_000)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		id := req.Header.Get("webhook-id")
		r.mu.Lock()
		r.got = append(r.got, id)
		n := len(r.got)
		if r.each != nil {
			r.each()
		}
		r.mu.Unlock()
		if answer != nil {
			answer(n, w, req, body)
		}
		r.want <- id
	}))
	t.Cleanup(r.Server.Close)
	return r
}

func (r *receiver) await(t testing.TB, n int) []string {
	t.Helper()
	var ids []string
	timeout := time.After(patience)
	for range n {
		select {
		case id := <-r.want:
			ids = append(ids, id)
		case <-timeout:
			t.Fatalf("%d of %d webhooks came", len(ids), n)
		}
	}
	return ids
}

func (r *receiver) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func sorted(ids []string) []string {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return ids
}

var quick = fanout.Policy{Schedule: []time.Duration{0, time.Second, time.Second}, RetryAfterMax: time.Hour}

func TestDeliversSignedToWhoWantsIt(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	type call struct {
		header http.Header
		body   string
		err    error
	}
	calls := make(chan call, 10)
	verifier, err := standardwebhooks.NewWebhook(b.secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	r := newReceiver(t, func(_ int, _ http.ResponseWriter, req *http.Request, body []byte) {
		calls <- call{req.Header, string(body), verifier.Verify(body, req.Header)}
	})
	other := newReceiver(t, nil)
	b.endpoints(
		&endpoint.Endpoint{ID: "crm", URL: r.URL, Events: []string{"nex.insight.*", "nex.insight.risk"}, Workspaces: []string{"acme"}, Headers: map[string]string{"X-Own": "yes"}},
		&endpoint.Endpoint{ID: "other", URL: other.URL, Events: []string{"nex.insight.opportunity"}},
		&endpoint.Endpoint{ID: "elsewhere", URL: other.URL, Workspaces: []string{"beta"}},
	)
	e := &event.Event{Workspace: "acme", ID: "ins.1", Type: "nex.insight.risk", Time: time.Now(), Data: []byte(`{"n": 1.0}`), Traceparent: event.NewTraceparent()}
	if _, err := b.bus.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	r.await(t, 1)
	c := <-calls
	if c.err != nil {
		t.Errorf("an independent verifier says: %v", c.err)
	}
	if c.body != string(e.JSON()) {
		t.Errorf("body is not the event's bytes:\n%s\n%s", c.body, e.JSON())
	}
	for h, want := range map[string]string{"webhook-id": "ins_1", "content-type": event.ContentType, "user-agent": "nex-relay/test", "x-own": "yes"} {
		if got := c.header.Get(h); got != want {
			t.Errorf("%s: %q, want %q", h, got, want)
		}
	}
	if n, attempt := c.header.Get("relay-sequence"), c.header.Get("relay-attempt"); n != "1" || attempt != "1" {
		t.Errorf("sequence %q, attempt %q", n, attempt)
	}
	if tp := c.header.Get("traceparent"); len(tp) != 55 || tp[:35] != e.Traceparent[:35] || tp == e.Traceparent {
		t.Errorf("traceparent %q is no child of %q", tp, e.Traceparent)
	}
	b.settled()
	a := b.attempts("crm", 1)[0]
	if a.EventID != "ins.1" || a.Attempt != 1 || a.Outcome != webhook.Delivered || a.Status != 200 || a.Verdict != fanout.Done || a.Workspace != "acme" {
		t.Errorf("attempt record %+v", a)
	}
	if n := len(r.all()); n != 1 {
		t.Errorf("two matching patterns gave %d webhooks", n)
	}
	if n := len(other.all()); n != 0 {
		t.Errorf("%d webhooks went to endpoints that did not ask for it", n)
	}
}

func TestRetriesUntilAnswered(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request, _ []byte) {
		if n < 3 {
			http.Error(w, "not now", http.StatusInternalServerError)
		}
	})
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	b.publish("x", 1)
	if got := r.await(t, 3); got[0] != "x-0" || got[1] != "x-0" || got[2] != "x-0" {
		t.Errorf("webhook-id changes over retries: %v", got)
	}
	b.settled()
	list := b.attempts("crm", 3)
	for i, want := range []webhook.Outcome{webhook.ServerError, webhook.ServerError, webhook.Delivered} {
		if list[i].Outcome != want || list[i].Attempt != i+1 {
			t.Errorf("attempt %d: %+v", i+1, list[i])
		}
	}
	if list[0].Response != "not now\n" || list[0].NextAt == nil || list[0].NextAt.Before(list[0].At.Add(time.Second)) {
		t.Errorf("first attempt: %+v", list[0])
	}
	if list[1].At.Before(*list[0].NextAt) {
		t.Error("the second attempt came before its time")
	}
}

func TestDeadLetterWhenAttemptsAreUsedUp(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0, 0}})
	r := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusFound) })
	// It also listens for its own dead letters: that must not feed itself.
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL, Events: []string{"nex.insight.*", "nex.relay.endpoint.>"}})
	b.publish("x", 1)
	var letter struct {
		EventID  string `json:"event_id"`
		Endpoint string
		Attempts int
		Reason   string
		Class    webhook.Class
		Outcome  webhook.Outcome
		Status   int
		Event    struct{ ID string }
	}
	dead := b.reader(bus.StreamDead, bus.DeadSubject("crm", "3xx"))
	if err := json.Unmarshal(dead().Data(), &letter); err != nil {
		t.Fatal(err)
	}
	if letter.EventID != "x-0" || letter.Endpoint != "crm" || letter.Attempts != 2 || letter.Reason != "attempts_used_up" ||
		letter.Class != webhook.Class3xx || letter.Outcome != webhook.Redirect || letter.Status != 302 || letter.Event.ID != "x-0" {
		t.Errorf("dead letter %+v", letter)
	}
	b.reader(bus.StreamNex, "nex._.relay.endpoint.dead_letter")()
	dead() // the news was not deliverable either ...
	b.settled()
	s, err := b.bus.JetStream().Stream(t.Context(), bus.StreamNex)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != 2 {
		t.Errorf("the log holds %d messages, want the insight and one dead-letter news", n) // ... and made no further news
	}
}

func TestGoneDisables(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request, _ []byte) {
		if n == 1 {
			w.WriteHeader(http.StatusGone)
		}
	})
	list := []*endpoint.Endpoint{{ID: "crm", URL: r.URL}}
	b.endpoints(list...)
	b.publish("x", 1)
	b.reader(bus.StreamNex, "nex._.relay.endpoint.disabled")()
	b.settled()
	if e := b.registry.Snapshot().Get("crm"); e.Active() || e.Disabled == nil {
		t.Errorf("still active: %+v", e)
	}
	b.publish("y", 3)
	b.read()
	if n := len(r.all()); n != 1 {
		t.Errorf("%d webhooks, the first said 410", n)
	}
	b.endpoints(list...) // a reload of the same file does not switch it on again
	if b.registry.Snapshot().Get("crm").Active() {
		t.Error("a reload switched it on")
	}
	if err := b.registry.Enable(t.Context(), "crm", "", 0); err != nil {
		t.Fatal(err)
	}
	b.publish("z", 1)
	r.await(t, 5) // nothing of what came meanwhile is lost
}

func TestRetryAfterPausesTheEndpointAndCostsNoAttempt(t *testing.T) {
	t.Parallel()
	for _, status := range []int{302, 404, 429, 500, 503} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			t.Parallel()
			retryAfterCostsNoAttempt(t, status)
		})
	}
}

func retryAfterCostsNoAttempt(t *testing.T, status int) {
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0}, RetryAfterMax: time.Second})
	r := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request, _ []byte) {
		if n <= 2 {
			w.Header().Set("Retry-After", "3600") // capped to a second here
			w.WriteHeader(status)
		}
	})
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL, MaxInFlight: 1})
	ids := b.publish("x", 4)
	b.settled()
	delivered := map[string]bool{}
	for _, a := range b.attempts("crm", len(r.all())) {
		if a.Attempt != 1 {
			t.Errorf("an attempt was spent: %+v", a)
		}
		if a.Outcome == webhook.Delivered {
			delivered[a.EventID] = true
		}
	}
	if len(delivered) != len(ids) {
		t.Errorf("delivered %v of %v", delivered, ids)
	}
}

func TestHangingEndpointHurtsNobody(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	release := make(chan struct{})
	hanging := newReceiver(t, func(_ int, _ http.ResponseWriter, req *http.Request, _ []byte) {
		select {
		case <-release:
		case <-req.Context().Done():
		}
	})
	healthy := newReceiver(t, nil)
	b.endpoints(&endpoint.Endpoint{ID: "hanging", URL: hanging.URL}, &endpoint.Endpoint{ID: "healthy", URL: healthy.URL})
	ids := b.publish("x", 2000)
	// The hanging one answers nothing all the while.
	if got := healthy.await(t, len(ids)); !slices.Equal(sorted(got), sorted(ids)) {
		t.Error("the healthy endpoint did not get each event once")
	}
	// What it does not take is stored, not held: all but what is in flight is acknowledged.
	eventually(t, "the events are acknowledged but for those in flight", func() bool {
		unread, unacked, err := b.left()
		return err == nil && unread == 0 && unacked <= 8
	})
	close(release)
	b.settled()
	got := sorted(hanging.all())
	if !slices.Equal(slices.Compact(got), sorted(ids)) {
		t.Errorf("the hanging endpoint got %d different events of %d", len(slices.Compact(got)), len(ids))
	}
}

func TestStopStoresWhatWaitsAndTheNextGoesOn(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	b.stop()
	b.grace = patience
	var holding atomic.Bool
	holding.Store(true)
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	r := newReceiver(t, func(_ int, _ http.ResponseWriter, _ *http.Request, _ []byte) {
		if holding.Load() {
			arrived <- struct{}{}
			<-release
		}
	})
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL, MaxInFlight: 2})
	b.start()
	ids := b.publish("x", 50)
	<-arrived
	<-arrived // two in flight, the rest in the lane, on its way or in the log
	stopped := make(chan struct{})
	go func() {
		b.stop()
		close(stopped)
	}()
	eventually(t, "what waited is stored", func() bool {
		_, stored, err := b.bus.RetryPending(t.Context())
		c, cerr := b.bus.JetStream().Consumer(t.Context(), bus.StreamNex, bus.ConsumerFanout)
		return err == nil && cerr == nil && stored > 0 && stored+c.CachedInfo().NumPending+uint64(c.CachedInfo().NumAckPending) >= 50
	})
	holding.Store(false)
	close(release) // the two in flight finish within the grace
	<-stopped
	b.start()
	b.settled()
	if got := r.all(); !slices.Equal(sorted(got), sorted(ids)) {
		t.Errorf("%d webhooks for %d events: lost or doubled over the restart", len(got), len(ids))
	}
}

func TestCutAttemptIsNoFailedAttempt(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0}}) // one failed attempt would be a dead letter
	arrived := make(chan struct{}, 10)
	r := newReceiver(t, func(n int, _ http.ResponseWriter, req *http.Request, _ []byte) {
		arrived <- struct{}{}
		if n == 1 {
			<-req.Context().Done()
		}
	})
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	b.publish("x", 1)
	<-arrived
	b.stop() // no grace
	b.start()
	<-arrived
	b.settled()
	if a := b.attempts("crm", 1)[0]; a.Attempt != 1 || a.Outcome != webhook.Delivered {
		t.Errorf("%+v", a)
	}
}

func TestWaitingDeliveries(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	r := newReceiver(t, nil)
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	js := b.bus.JetStream()
	put := func(payload string) {
		if _, err := js.Publish(t.Context(), bus.RetryDueSubject("crm", 1), []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	put(`rubbish`)
	put(`{"sequence":77,"id":"left","endpoint":"crm","attempt":2}`)
	b.settled()
	var letter struct {
		EventID string `json:"event_id"`
		Reason  string
		Class   webhook.Class
		Event   any
	}
	if err := json.Unmarshal(b.reader(bus.StreamDead, bus.DeadSubject("crm", "relay"))().Data(), &letter); err != nil {
		t.Fatal(err)
	}
	if letter.EventID != "left" || letter.Reason != "event_expired" || letter.Class != webhook.ClassRelay || letter.Event != nil {
		t.Errorf("dead letter %+v", letter)
	}
	if len(r.all()) != 0 {
		t.Errorf("delivered %v", r.all())
	}
}

func TestMetricsShowTheirZeros(t *testing.T) {
	t.Parallel()
	b := setup(t, quick)
	families, err := b.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
		if f.GetName() == "relay_delivery_attempts_total" && len(f.GetMetric()) != len(webhook.Outcomes()) {
			t.Errorf("%d outcomes shown", len(f.GetMetric()))
		}
	}
	for _, want := range []string{"relay_delivery_attempts_total", "relay_delivery_seconds", "relay_end_to_end_seconds", "relay_retries_pending",
		"relay_dead_letters_total", "relay_lane_in_flight", "relay_endpoints"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing among %s", want, strings.Join(names, " "))
		}
	}
}

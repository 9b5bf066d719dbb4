package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nex-crm/relay/internal/config"
	"github.com/nex-crm/relay/internal/nexsim"
	"github.com/nex-crm/relay/internal/porttest"
	"github.com/nex-crm/relay/internal/relay"
	"github.com/nex-crm/relay/internal/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds how long a test waits for what must happen.
const patience = 2 * time.Minute

// world is Nex, a receiver, and a directory with a configuration: what a relay is put into.
type world struct {
	t        *testing.T
	dir      string
	sim      *nexsim.Sim
	simURL   string
	secret   webhook.Secret
	receiver *httptest.Server
	log      *logBuffer
	settings string // more of the section webhooks: ", key: value"

	mu   sync.Mutex
	got  []string // webhook-ids, in the order in which they came
	seen chan struct{}
}

// logBuffer keeps the log for assertions.
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

func newWorld(t *testing.T, workspaces ...string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), secret: webhook.GenerateSecret(), seen: make(chan struct{}, 10_000), log: &logBuffer{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the relay's log:\n%s", w.log)
		}
	})
	var opts nexsim.Options
	for _, slug := range workspaces {
		opts.Workspaces = append(opts.Workspaces, nexsim.Workspace{Slug: slug})
		w.write(slug+".key", nexsim.DefaultKey(slug))
	}
	var err error
	if w.sim, err = nexsim.New(opts); err != nil {
		t.Fatal(err)
	}
	nexServer := httptest.NewServer(w.sim.Handler())
	w.simURL = nexServer.URL
	t.Cleanup(func() {
		w.sim.Close()
		nexServer.Close()
	})
	verifier := webhook.Verifier{Secrets: []webhook.Secret{w.secret}}
	w.receiver = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := verifier.Verify(r.Header, body); err != nil {
			t.Errorf("webhook not verified: %v", err)
		}
		w.mu.Lock()
		w.got = append(w.got, r.Header.Get(webhook.HeaderID))
		w.mu.Unlock()
		w.seen <- struct{}{}
	}))
	t.Cleanup(w.receiver.Close)
	w.write("webhook.secret", w.secret.Reveal())
	w.configure(workspaces, "")
	return w
}

func (w *world) write(name, content string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(content+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// configure writes relay.yaml: these workspaces, an endpoint for all, and more.
func (w *world) configure(workspaces []string, more string) {
	w.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "nex: {base_url: %s/api/developers, reconnect_min: 20ms, reconnect_max: 200ms}\n", w.simURL)
	fmt.Fprintf(&b, "nats: {embedded: {listen: \"127.0.0.1:0\", store_dir: %s/nats}}\n", w.dir)
	fmt.Fprintf(&b, "webhooks: {allow_http: true, allow_networks: [127.0.0.0/8], schedule: [0s, 1s, 1s]%s}\n", w.settings)
	b.WriteString("http: {listen: \"127.0.0.1:0\"}\nworkspaces:\n")
	for _, name := range workspaces {
		fmt.Fprintf(&b, "  - {name: %s, api_key_file: %s.key}\n", name, name)
	}
	fmt.Fprintf(&b, "endpoints:\n  - {id: all, url: \"%s/all\", secret_file: webhook.secret}\n%s", w.receiver.URL, more)
	w.write("relay.yaml", b.String())
}

func (w *world) load() (*config.Config, error) {
	return config.Load(config.Source{File: filepath.Join(w.dir, "relay.yaml")})
}

// running is a relay under test.
type running struct {
	*relay.Relay
	t    *testing.T
	hup  chan struct{}
	stop func() error
}

func (w *world) start() *running {
	w.t.Helper()
	cfg, err := w.load()
	if err != nil {
		w.t.Fatal(err)
	}
	r := &running{t: w.t, hup: make(chan struct{})}
	r.Relay, err = relay.New(relay.Options{
		Config: cfg, Logger: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Version: "test", Reload: w.load, HUP: r.hup,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-done })
	w.t.Cleanup(func() {
		if err := r.stop(); err != nil {
			w.t.Errorf("run: %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	select {
	case <-r.Ready():
	case err := <-done:
		w.t.Fatalf("the relay ended: %v", err)
	case <-time.After(patience):
		w.t.Fatal("the relay is not up")
	}
	return r
}

// request talks to the relay's HTTP side.
func (r *running) request(method, path, body string, into any) int {
	r.t.Helper()
	req, err := http.NewRequest(method, "http://"+r.Addr()+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(content, into); err != nil {
			r.t.Fatalf("%s %s: %v in %s", method, path, err, content)
		}
	}
	return resp.StatusCode
}

func (w *world) connected(slug string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if err := w.sim.WaitConnected(ctx, slug, 1); err != nil {
		w.t.Fatalf("%s did not connect: %v", slug, err)
	}
}

func (w *world) webhooks(n int) []string {
	w.t.Helper()
	timeout := time.After(patience)
	for i := range n {
		select {
		case <-w.seen:
		case <-timeout:
			w.t.Fatalf("%d of %d webhooks came", i, n)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.got)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestFromNexToWebhookOverARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme", "beta")
	r := w.start()
	w.connected("acme")
	w.connected("beta")
	w.sim.Emit("acme", 3)
	w.sim.Emit("beta", 2)
	w.webhooks(5)
	if code := r.request("GET", "/readyz", "", nil); code != 200 {
		t.Errorf("readyz says %d", code)
	}
	if err := r.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	w.sim.Emit("acme", 4) // while nobody listens: within the replay
	for range 30 {
		w.sim.Emit("beta", 1) // beyond the replay's 20: only REST has the first
	}
	w.start()
	w.connected("acme")
	w.connected("beta")
	w.webhooks(34)
	w.sim.Emit("acme", 1)
	got := w.webhooks(1)[:40]
	slices.Sort(got)
	if distinct := len(slices.Compact(slices.Clone(got))); distinct != 40 {
		t.Errorf("%d different webhooks of 40: lost or doubled over the restart", distinct)
	}
}

func TestTwoRelaysInOneProcess(t *testing.T) {
	t.Parallel()
	one, two := newWorld(t, "acme"), newWorld(t, "acme")
	a, b := one.start(), two.start()
	one.connected("acme")
	two.connected("acme")
	one.sim.Emit("acme", 1)
	two.sim.Emit("acme", 2)
	one.webhooks(1)
	two.webhooks(2)
	if a.Addr() == b.Addr() || a.NATSURL() == b.NATSURL() {
		t.Error("they share an address")
	}
	for range 2 { // stopping twice is stopping once
		if err := a.stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestReloadTouchesOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme", "beta", "gamma")
	w.configure([]string{"acme", "beta"}, "")
	w.write("beta.key", "sk-wrong-key-0000000000")
	r := w.start()
	w.connected("acme")
	var list struct {
		Data []struct {
			Token, State string
			Since        time.Time
			LastError    string `json:"last_error"`
		}
	}
	eventually(t, "beta is unauthorized", func() bool {
		list.Data = nil
		r.request("GET", "/api/v1/workspaces", "", &list)
		return len(list.Data) == 2 && list.Data[0].State == "connected" && list.Data[1].State == "unauthorized"
	})
	since := list.Data[0].Since
	if !strings.Contains(list.Data[1].LastError, "401") {
		t.Errorf("last error of beta: %q", list.Data[1].LastError)
	}

	// A file with faults changes nothing.
	good, err := os.ReadFile(filepath.Join(w.dir, "relay.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	w.write("relay.yaml", string(good)+"oops: true")
	r.hup <- struct{}{}
	eventually(t, "the fault is reported", func() bool { return strings.Contains(w.log.String(), "oops: unknown key") })

	// The key is mended in its file, gamma is new, and so is an endpoint.
	w.write("beta.key", nexsim.DefaultKey("beta"))
	w.configure([]string{"acme", "beta", "gamma"}, fmt.Sprintf("  - {id: gamma-only, url: \"%s/g\", workspaces: [gamma], secret_file: webhook.secret}\n", w.receiver.URL))
	r.hup <- struct{}{}
	w.connected("beta")
	w.connected("gamma")
	w.sim.Emit("gamma", 1)
	w.webhooks(2)
	list.Data = nil
	r.request("GET", "/api/v1/workspaces", "", &list)
	if len(list.Data) != 3 || !list.Data[0].Since.Equal(since) {
		t.Errorf("acme was touched: connected since %v, before %v", list.Data[0].Since, since)
	}

	w.configure([]string{"acme"}, "")
	r.hup <- struct{}{}
	eventually(t, "beta and gamma are let go", func() bool {
		list.Data = nil
		r.request("GET", "/api/v1/workspaces", "", &list)
		return len(list.Data) == 1 && w.sim.WaitConnected(canceled(), "gamma", 0) == nil
	})
}

func canceled() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	context.AfterFunc(ctx, cancel)
	return ctx
}

func TestEndpointOverTheAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	r := w.start()
	w.connected("acme")
	var made struct{ ID, Secret, State string }
	body := fmt.Sprintf(`{"id":"mine","url":"%s/mine","workspaces":["acme"],"secret":%q}`, w.receiver.URL, w.secret.Reveal())
	if code := r.request("POST", "/api/v1/endpoints", body, &made); code != 201 || made.Secret != "" || made.State != "active" {
		t.Fatalf("%d %+v", code, made)
	}
	w.sim.Emit("acme", 1)
	w.webhooks(2)
	if code := r.request("DELETE", "/api/v1/endpoints/mine", "", nil); code != 204 {
		t.Errorf("delete: %d", code)
	}
	if code := r.request("DELETE", "/api/v1/endpoints/all", "", nil); code != 409 {
		t.Errorf("delete one of the file: %d", code)
	}
	w.sim.Emit("acme", 1)
	w.webhooks(1)
}

func TestNATSAwayAtTheStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	port, err := porttest.Free()
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	cfg, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	cfg.NATS.URL = "nats://" + addr
	r, err := relay.New(relay.Options{Config: cfg, Logger: slog.New(slog.NewTextHandler(w.log, nil)), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	x := &running{Relay: r, t: t}
	eventually(t, "it is alive", func() bool {
		c, err := net.Dial("tcp", r.Addr())
		if err != nil {
			return false
		}
		_ = c.Close()
		return x.request("GET", "/healthz", "", nil) == 200
	})
	if code := x.request("GET", "/readyz", "", nil); code != 503 {
		t.Errorf("readyz says %d", code)
	}
	if code := x.request("GET", "/api/v1/endpoints", "", nil); code != 503 {
		t.Errorf("endpoints answer %d", code)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("asked to stop while waiting: %v", err)
	}
}

func TestSecretsNeverInTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme", "beta")
	w.write("beta.key", "sk-sentinel-wrong-key")
	r := w.start()
	w.connected("acme")
	w.sim.Emit("acme", 1)
	w.webhooks(1)
	eventually(t, "beta is refused", func() bool { return strings.Contains(w.log.String(), "refuses the key") })
	var raw json.RawMessage
	r.request("GET", "/api/v1/workspaces", "", &raw)
	var endpoints json.RawMessage
	r.request("GET", "/api/v1/endpoints", "", &endpoints)
	for _, text := range []string{w.log.String(), string(raw), string(endpoints)} {
		for _, secret := range []string{nexsim.DefaultKey("acme"), "sk-sentinel-wrong-key", strings.TrimPrefix(w.secret.Reveal(), "whsec_")} {
			if strings.Contains(text, secret) {
				t.Errorf("a secret stands in:\n%s", text)
			}
		}
	}
}

func TestFaultsOfAllPartsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	w.write("bad.secret", "whsec_sentinel!")
	w.configure([]string{"acme"}, "  - {id: bad, url: \"ftp://x\", events: [oops], secret_file: bad.secret, headers: {webhook-id: x}}\nwrong: 1\nlog: {level: loud}\n")
	cfg, err := w.load()
	err = relay.Judge(cfg, err)
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{"wrong: unknown key", "log.level: ", "endpoints[1].url: ", "endpoints[1].events[0]: ", "endpoints[1].secret: ", "endpoints[1].headers: "} {
		if strings.Count("\n"+err.Error(), "\n"+want) != 1 {
			t.Errorf("%q is not named once in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "sentinel") {
		t.Error("a secret's value is shown")
	}
}

func TestBusyPortNamesTheKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme")
	cfg, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	cfg.HTTP.Listen = strings.TrimPrefix(w.receiver.URL, "http://")
	if _, err := relay.New(relay.Options{Config: cfg, Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "http.listen") {
		t.Errorf("%v", err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "acme", "beta")
	w.write("beta.key", "sk-wrong-key-0000000000")
	w.write("gamma.key", "sk-second-key-of-acme-00")
	if err := w.sim.SetKey("acme", nexsim.Key{Token: "sk-second-key-of-acme-00", Scopes: []string{nexsim.ScopeInsights}}); err != nil {
		t.Fatal(err)
	}
	w.configure([]string{"acme", "beta", "gamma"}, "  - {id: private, url: \"http://10.1.2.3/x\", secret_file: webhook.secret}\n")
	cfg, err := w.load()
	if err != nil {
		t.Fatal(err)
	}
	w.start() // it may hold everything meanwhile
	levels := map[string]relay.Finding{}
	for _, f := range relay.Check(t.Context(), cfg, "test", 2*patience) {
		levels[f.What+" "+f.Name] = f
	}
	for name, want := range map[string]struct{ level, detail string }{
		"workspace acme":   {relay.LevelOK, "workspace_id="},
		"workspace beta":   {relay.LevelFault, "401"},
		"workspace gamma":  {relay.LevelFault, "workspace acme has a key of the same"},
		"nats embedded":    {relay.LevelOK, "can be written"},
		"endpoint all":     {relay.LevelOK, "allowed"},
		"endpoint private": {relay.LevelFault, "webhooks.allow_networks"},
	} {
		if f := levels[name]; f.Level != want.level || !strings.Contains(f.Detail, want.detail) {
			t.Errorf("%s: %+v, want %+v", name, f, want)
		}
	}
}

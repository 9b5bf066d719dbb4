package endpoint_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sealer(t testing.TB, b byte) endpoint.Sealer {
	t.Helper()
	s, err := endpoint.NewSealer(bytes.Repeat([]byte{b}, endpoint.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t testing.TB, log *bus.Bus, s endpoint.Sealer) *endpoint.Registry {
	t.Helper()
	r := endpoint.NewRegistry(log.Endpoints(), s, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if err := r.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func valid(id string) *endpoint.Endpoint {
	return &endpoint.Endpoint{ID: id, URL: "https://example.com/hook", Secrets: []webhook.Secret{webhook.GenerateSecret()}, Enabled: true,
		Headers: map[string]string{"Authorization": "Bearer sentinel-credential"}, Timeout: 3 * time.Second, Events: []string{"nex.insight.risk"}}
}

func TestValidateNamesEveryFault(t *testing.T) {
	t.Parallel()
	if err := valid("crm").Validate(endpoint.Limits{}); err != nil {
		t.Errorf("a valid endpoint: %v", err)
	}
	bad := &endpoint.Endpoint{
		ID: "a.b", URL: "http://example.com", Description: strings.Repeat("x", 2000), Events: []string{"nex.insight.*", "oops"},
		Workspaces: []string{"acme", "Acme"}, Headers: map[string]string{"webhook-id": "mine", "a b": ""}, Timeout: time.Hour, MaxInFlight: -1,
	}
	err := bad.Validate(endpoint.Limits{})
	for _, field := range []string{"id: ", "url: ", "description: ", "events[1]: ", "workspaces[1]: ", "secret: ", `headers: header "a b"`, `headers: header "webhook-id"`, "timeout: ", "max_in_flight: "} {
		if err == nil || !strings.Contains("\n"+err.Error(), "\n"+field) {
			t.Errorf("%q is not named in %v", field, err)
		}
	}
	var fe *endpoint.FieldError
	if !errors.As(err, &fe) || fe.Field != "id" {
		t.Errorf("first field error %+v", fe)
	}
	ok := valid("crm")
	ok.URL = "http://example.com"
	if err := ok.Validate(endpoint.Limits{AllowHTTP: true}); err != nil {
		t.Errorf("http where it is allowed: %v", err)
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	r := endpoint.NewRegistry(nil, endpoint.Sealer{}, slog.New(slog.DiscardHandler))
	make := func(id string, events, workspaces []string, enabled bool) *endpoint.Endpoint {
		return &endpoint.Endpoint{ID: id, Events: events, Workspaces: workspaces, Enabled: enabled}
	}
	r.SetConfig([]*endpoint.Endpoint{
		make("default", nil, nil, true),
		make("twice", []string{"nex.insight.*", "nex.insight.risk", "nex.>"}, []string{"acme", "beta"}, true),
		make("risk", []string{"nex.insight.risk"}, []string{"acme"}, true),
		make("news", []string{"nex.relay.>"}, nil, true),
		make("off", nil, nil, false),
	})
	for _, tt := range []struct{ workspace, eventType, want string }{
		{"acme", "nex.insight.risk", "default risk twice"},
		{"beta", "nex.insight.risk", "default twice"},
		{"gamma", "nex.insight.new_type", "default"},
		{"acme", event.StreamConnected, "news twice"},
		{event.NoWorkspace, event.EndpointDisabled, "news"},
	} {
		var ids []string
		for _, e := range r.Snapshot().Match(nil, tt.workspace, tt.eventType, nil, nil) {
			ids = append(ids, e.ID)
		}
		if got := strings.Join(slices.Sorted(slices.Values(ids)), " "); got != tt.want {
			t.Errorf("%s in %s: %q, want %q", tt.eventType, tt.workspace, got, tt.want)
		}
	}
}

func TestCreateReadDeleteOverReplicas(t *testing.T) {
	t.Parallel()
	log, ctx := bustest.New(t), t.Context()
	one, two := open(t, log, sealer(t, 1)), open(t, log, sealer(t, 1))
	e := valid("crm")
	if err := one.Create(ctx, e); err != nil {
		t.Fatal(err)
	}
	got := one.Snapshot().Get("crm") // who writes reads what he wrote
	if got == nil || got.Source != endpoint.SourceAPI || !got.Secrets[0].Equal(e.Secrets[0]) || got.Headers["Authorization"] != "Bearer sentinel-credential" ||
		got.Timeout != e.Timeout || got.Revision == 0 {
		t.Fatalf("read back %+v", got)
	}
	eventually(t, "the other replica knows it", func() bool { return two.Snapshot().Get("crm") != nil })
	if err := two.Create(ctx, valid("crm")); !errors.Is(err, endpoint.ErrExists) {
		t.Errorf("a second of the same id: %v", err)
	}
	if err := two.Delete(ctx, "crm"); err != nil {
		t.Fatal(err)
	}
	if two.Snapshot().Get("crm") != nil {
		t.Error("deleted, but still there")
	}
	eventually(t, "it is gone at the other replica", func() bool { return one.Snapshot().Get("crm") == nil })
	if err := one.Delete(ctx, "crm"); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("delete twice: %v", err)
	}
}

func TestBucketHoldsNoSecretInClear(t *testing.T) {
	t.Parallel()
	log, ctx := bustest.New(t), t.Context()
	r := open(t, log, sealer(t, 1))
	e := valid("crm")
	if err := r.Create(ctx, e); err != nil {
		t.Fatal(err)
	}
	entry, err := log.Endpoints().Get(ctx, "ep.crm")
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{e.Secrets[0].Reveal(), strings.TrimPrefix(e.Secrets[0].Reveal(), "whsec_"), "sentinel-credential"} {
		if bytes.Contains(entry.Value(), []byte(secret)) {
			t.Error("a secret stands in the bucket in clear")
		}
	}
	// Sealed for one endpoint, it is nothing to another, nor to another key.
	if _, err := log.Endpoints().Put(ctx, "ep.copy", entry.Value()); err != nil {
		t.Fatal(err)
	}
	other := open(t, log, sealer(t, 2))
	if err := r.Create(ctx, valid("later")); err != nil { // an ordered sign that r has seen the copy
		t.Fatal(err)
	}
	if r.Snapshot().Get("copy") != nil {
		t.Error("a record moved to another endpoint was opened")
	}
	if n := len(other.Snapshot().All()); n != 0 {
		t.Errorf("another key opened %d endpoints", n)
	}
	if err := open(t, log, endpoint.Sealer{}).Create(ctx, valid("nokey")); !errors.Is(err, endpoint.ErrNoKey) {
		t.Errorf("without a key: %v", err)
	}
}

func TestConfigWinsAndIsNotEditable(t *testing.T) {
	t.Parallel()
	log, ctx := bustest.New(t), t.Context()
	r := open(t, log, sealer(t, 1))
	if err := r.Create(ctx, valid("crm")); err != nil {
		t.Fatal(err)
	}
	mine := valid("crm")
	mine.URL = "https://example.com/from-config"
	r.SetConfig([]*endpoint.Endpoint{mine})
	if got := r.Snapshot().Get("crm"); got.URL != mine.URL || got.Source != endpoint.SourceConfig {
		t.Errorf("%+v", got)
	}
	if err := r.Delete(ctx, "crm"); !errors.Is(err, endpoint.ErrFromConfig) {
		t.Errorf("delete: %v", err)
	}
	r.SetConfig(nil)
	if got := r.Snapshot().Get("crm"); got == nil || got.Source != endpoint.SourceAPI {
		t.Errorf("the one of the API did not come back: %+v", got)
	}
}

// Many attempts in flight are answered 410 at once: one of them is told.
func TestDisableIsToldOnce(t *testing.T) {
	t.Parallel()
	r := open(t, bustest.New(t), sealer(t, 1))
	r.SetConfig([]*endpoint.Endpoint{valid("file")})
	if err := r.Create(t.Context(), valid("api")); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"file", "api"} {
		var told atomic.Int32
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				changed, err := r.Disable(t.Context(), id, "gone", time.Now())
				if err != nil {
					t.Error(err)
				}
				if changed {
					told.Add(1)
				}
			})
		}
		all.Wait()
		if told.Load() != 1 {
			t.Errorf("%s: %d of 16 calls say that they did it", id, told.Load())
		}
	}
}

func TestDisableOutlivesARestart(t *testing.T) {
	t.Parallel()
	log, ctx := bustest.New(t), t.Context()
	r := open(t, log, sealer(t, 1))
	fromConfig := valid("file")
	r.SetConfig([]*endpoint.Endpoint{fromConfig})
	if err := r.Create(ctx, valid("api")); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, id := range []string{"file", "api"} {
		if changed, err := r.Disable(ctx, id, "gone", now); err != nil || !changed {
			t.Fatalf("%s: %v %v", id, changed, err)
		}
		if changed, err := r.Disable(ctx, id, "gone", now); err != nil || changed {
			t.Errorf("%s a second time: %v %v", id, changed, err)
		}
	}
	again := open(t, log, sealer(t, 1))
	again.SetConfig([]*endpoint.Endpoint{fromConfig})
	for _, id := range []string{"file", "api"} {
		if e := again.Snapshot().Get(id); e == nil || e.Active() || e.Disabled.Reason != "gone" || !e.Disabled.At.Equal(now) {
			t.Errorf("%s after a restart: %+v", id, e)
		}
	}
	moved := valid("file")
	moved.URL = "https://example.com/elsewhere"
	again.SetConfig([]*endpoint.Endpoint{moved})
	if !again.Snapshot().Get("file").Active() {
		t.Error("another URL is another receiver, but it stayed disabled")
	}
	if err := again.Enable(ctx, "api", "", 0); err != nil || !again.Snapshot().Get("api").Active() {
		t.Errorf("enable: %v", err)
	}
	if _, err := again.Disable(ctx, "none", "gone", now); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "deep", "endpoint.key")
	first, err := endpoint.KeyFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v %v", info.Mode(), err)
	}
	if second, err := endpoint.KeyFromFile(path); err != nil || !bytes.Equal(first, second) {
		t.Errorf("the key changed: %v", err)
	}
	if err := os.WriteFile(path, []byte("sentinel-not-a-key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := endpoint.KeyFromFile(path); err == nil || strings.Contains(err.Error(), "sentinel") {
		t.Errorf("damaged key: %v", err)
	}
	for _, good := range []string{fmt.Sprintf("%064x", 7), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"} {
		if key, err := endpoint.ParseKey(good); err != nil || len(key) != endpoint.KeySize {
			t.Errorf("%q: %v", good, err)
		}
	}
	if _, err := endpoint.NewSealer([]byte("short")); err == nil {
		t.Error("a short key was taken")
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

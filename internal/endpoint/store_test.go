package endpoint_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/webhook"
)

// route is a proxy with credentials and a client certificate; key is a part of the private key that must not be seen.
func route(t *testing.T) (r *webhook.Route, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	r, err = endpoint.NewRoute("http://user:sentinel-proxy@127.0.0.1:3128", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return r, strings.Split(string(keyPEM), "\n")[1]
}

// full is an endpoint with every field that is stored; secrets are what must not stand anywhere in clear.
func full(t *testing.T, id string) (e *endpoint.Endpoint, secrets []string) {
	t.Helper()
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	e = valid(id)
	e.Description, e.Workspaces = "all of it", []string{"acme", "beta"}
	e.Filter, e.RateLimit, e.Ordered, e.Resume, e.Handshake, e.MaxInFlight = "event.data.confidence >= 0.8", 2.5, true, endpoint.ModeSkip, true, 7
	e.CreatedAt, e.EventsToken, e.Changed = now, "0123", 7
	var err error
	if e.Form, err = endpoint.NewForm("template", `{"text":{{json .data.content}}}`, "application/json", true); err != nil {
		t.Fatal(err)
	}
	e.Secrets = append(e.Secrets, webhook.GenerateSigningKey())
	e.Retired = []endpoint.Retired{{Secret: webhook.GenerateSecret(), Until: now.Add(time.Hour)}, {Secret: webhook.GenerateSigningKey(), Until: now.Add(2 * time.Hour)}}
	var key string
	e.Route, key = route(t)
	secrets = []string{"sentinel", key, "PRIVATE KEY", "whsec_", "whsk_"}
	for _, s := range append(e.Signing(now), e.Retired[0].Secret, e.Retired[1].Secret) {
		_, text, _ := strings.Cut(s.Reveal(), "_")
		secrets = append(secrets, text)
	}
	return e, secrets
}

// same compares all that is stored.
func same(t *testing.T, got, want *endpoint.Endpoint) {
	t.Helper()
	if got == nil {
		t.Fatal("it is not there")
	}
	if len(got.Secrets) != len(want.Secrets) || len(got.Retired) != len(want.Retired) {
		t.Fatalf("%d secrets and %d retired, want %d and %d", len(got.Secrets), len(got.Retired), len(want.Secrets), len(want.Retired))
	}
	for i, s := range want.Secrets {
		if !got.Secrets[i].Equal(s) {
			t.Errorf("secret %d is another", i)
		}
	}
	for i, r := range want.Retired {
		if !got.Retired[i].Secret.Equal(r.Secret) || !got.Retired[i].Until.Equal(r.Until) {
			t.Errorf("retired secret %d is another", i)
		}
	}
	if want.Route != nil && (got.Route.Proxy.String() != want.Route.Proxy.String() || !reflect.DeepEqual(got.Route.ClientCert.Certificate, want.Route.ClientCert.Certificate) ||
		!want.Route.ClientCert.PrivateKey.(*ecdsa.PrivateKey).Equal(got.Route.ClientCert.PrivateKey)) {
		t.Error("the route is another")
	}
	if want.Form != nil && (got.Form.Kind != want.Form.Kind || got.Form.Template != want.Form.Template || got.Form.ContentType != want.Form.ContentType || got.Form.Gzip != want.Form.Gzip) {
		t.Errorf("the form is another: %+v", got.Form)
	}
	a, b := *got, *want
	for _, e := range []*endpoint.Endpoint{&a, &b} {
		e.Secrets, e.Retired, e.Route, e.Form, e.Source, e.Revision, e.Heard, e.State = nil, nil, nil, nil, "", 0, 0, endpoint.State{}
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("\ngot  %+v\nwant %+v", a, b)
	}
}

func TestEveryFieldIsStored(t *testing.T) {
	t.Parallel()
	log := bustest.New(t)
	e, secrets := full(t, "crm")
	if err := open(t, log, sealer(t, 1)).Create(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	again := open(t, log, sealer(t, 1)) // another life
	same(t, again.Snapshot().Get("crm"), e)
	if err := again.Change(t.Context(), "crm", func(*endpoint.Endpoint) (bool, error) { return true, nil }); err != nil {
		t.Fatal(err)
	}
	same(t, again.Snapshot().Get("crm"), e)

	history, err := log.Endpoints().History(t.Context(), "ep.crm")
	if err != nil || len(history) != 2 {
		t.Fatalf("%d entries, %v", len(history), err)
	}
	for _, entry := range history {
		for _, secret := range secrets {
			if bytes.Contains(entry.Value(), []byte(secret)) {
				t.Errorf("%q stands in the bucket in clear", secret)
			}
		}
	}
	for _, text := range []string{fmt.Sprintf("%+v", e.Secrets), fmt.Sprintf("%#v", e.Retired)} {
		for _, secret := range secrets[5:] {
			if strings.Contains(text, secret) {
				t.Errorf("a secret prints itself: %s", text)
			}
		}
	}
}

func keyed(t *testing.T, key byte, previous ...byte) endpoint.Sealer {
	t.Helper()
	var earlier [][]byte
	for _, b := range previous {
		earlier = append(earlier, bytes.Repeat([]byte{b}, endpoint.KeySize))
	}
	s, err := endpoint.NewSealer(bytes.Repeat([]byte{key}, endpoint.KeySize), earlier...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEncryptionKeyIsReplaced(t *testing.T) {
	t.Parallel()
	log, ctx := bustest.New(t), t.Context()
	first := open(t, log, keyed(t, 1))
	var want []*endpoint.Endpoint
	for _, id := range []string{"a", "b"} {
		e, _ := full(t, id)
		want = append(want, e)
		if err := first.Create(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := first.Disable(ctx, "b", "gone", time.Now()); err != nil { // also what is disabled is sealed anew
		t.Fatal(err)
	}
	if n, err := first.Reseal(ctx); n != 0 || err != nil {
		t.Errorf("with the same key: %d %v", n, err)
	}

	// Replicas that have learnt of the next key read both, and seal with the present one.
	ready := open(t, log, keyed(t, 1, 2))
	if n, err := ready.Reseal(ctx); n != 0 || err != nil {
		t.Errorf("before the key is in use: %d %v", n, err)
	}
	if n := len(open(t, log, keyed(t, 2)).Snapshot().All()); n != 0 {
		t.Errorf("the new key alone opens %d", n)
	}
	next := open(t, log, keyed(t, 2, 1))
	for _, e := range want {
		got := next.Snapshot().Get(e.ID)
		if got == nil {
			t.Fatalf("%s cannot be read with the previous key", e.ID)
		}
	}
	if n, err := next.Reseal(ctx); n != 2 || err != nil {
		t.Errorf("resealed %d, %v", n, err)
	}
	if n, err := next.Reseal(ctx); n != 0 || err != nil {
		t.Errorf("a second time: %d, %v", n, err)
	}
	if err := ready.Fence(ctx); err != nil {
		t.Fatal(err)
	}
	if n := len(ready.Snapshot().All()); n != 2 {
		t.Errorf("a replica that has not turned yet, but knows both keys, reads %d", n)
	}
	after := open(t, log, keyed(t, 2)) // the previous key is gone
	same(t, after.Snapshot().Get("a"), want[0])
	if b := after.Snapshot().Get("b"); b == nil || b.Disabled == nil {
		t.Errorf("what was remembered of b is lost: %+v", b)
	}
	if n := len(open(t, log, keyed(t, 1)).Snapshot().All()); n != 0 {
		t.Errorf("the old key alone still opens %d", n)
	}
	if _, err := endpoint.NewSealer(make([]byte, endpoint.KeySize), []byte("short")); err == nil {
		t.Error("a short previous key was taken")
	}
}

func TestStateUnderConcurrentWriters(t *testing.T) {
	t.Parallel()
	log, ctx := bustest.New(t), t.Context()
	replicas := []*endpoint.Registry{open(t, log, sealer(t, 1)), open(t, log, sealer(t, 1))}
	const each = 8
	var all sync.WaitGroup
	for _, r := range replicas {
		for range each {
			all.Go(func() {
				changed, err := r.UpdateState(ctx, "crm", func(s *endpoint.State) bool { s.Position++; return true })
				if err != nil || !changed {
					t.Errorf("%v %v", changed, err)
				}
			})
		}
	}
	all.Wait()
	var s endpoint.State
	for _, r := range replicas {
		if changed, err := r.UpdateState(ctx, "crm", func(now *endpoint.State) bool { s = *now; return false }); err != nil || changed {
			t.Errorf("looking only: %v %v", changed, err)
		}
		if s.Position != 2*each {
			t.Errorf("%d of %d writes are there", s.Position, 2*each)
		}
	}
}

func TestFenceSeesWhatWasWritten(t *testing.T) {
	t.Parallel()
	log, ctx := bustest.New(t), t.Context()
	one, two := open(t, log, sealer(t, 1)), open(t, log, sealer(t, 1))
	if err := two.Fence(ctx); err != nil { // an empty bucket
		t.Error(err)
	}
	if err := one.Create(ctx, valid("crm")); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		changes := two.Changes()
		if err := one.SetEnabled(ctx, "crm", i%2 == 1, "", 0); err != nil {
			t.Fatal(err)
		}
		if err := two.Fence(ctx); err != nil {
			t.Fatal(err)
		}
		if two.Snapshot().Get("crm").Active() != (i%2 == 1) {
			t.Fatalf("after the fence the other replica knows less than the bucket (turn %d)", i)
		}
		<-changes // told
	}
	if err := one.Delete(ctx, "crm"); err != nil {
		t.Fatal(err)
	}
	if err := two.Fence(ctx); err != nil || two.Snapshot().Get("crm") != nil {
		t.Errorf("after a delete: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := two.Fence(ended); err == nil {
		t.Error("a fence that asked nobody says yes")
	}
}

func TestChangeUnderConflicts(t *testing.T) {
	t.Parallel()
	log, ctx := bustest.New(t), t.Context()
	replicas := []*endpoint.Registry{open(t, log, sealer(t, 1)), open(t, log, sealer(t, 1))}
	if err := replicas[0].Create(ctx, valid("crm")); err != nil {
		t.Fatal(err)
	}
	if err := replicas[1].Fence(ctx); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int32
	var all sync.WaitGroup
	for _, r := range replicas {
		for range 5 {
			all.Go(func() {
				if err := r.Change(ctx, "crm", func(e *endpoint.Endpoint) (bool, error) {
					calls.Add(1)
					e.MaxInFlight++
					return true, nil
				}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	for _, r := range replicas {
		if err := r.Fence(ctx); err != nil {
			t.Fatal(err)
		}
		if n := r.Snapshot().Get("crm").MaxInFlight; n != 10 {
			t.Errorf("%d of 10 changes are there", n)
		}
	}
	revision := replicas[0].Snapshot().Get("crm").Revision
	if err := replicas[0].Change(ctx, "crm", func(e *endpoint.Endpoint) (bool, error) { e.URL = ""; return false, nil }); err != nil {
		t.Error(err)
	}
	refused := errors.New("refused")
	if err := replicas[0].Change(ctx, "crm", func(*endpoint.Endpoint) (bool, error) { return true, refused }); !errors.Is(err, refused) {
		t.Errorf("%v", err)
	}
	if e := replicas[0].Snapshot().Get("crm"); e.Revision != revision || e.URL == "" {
		t.Errorf("something was written: %+v", e)
	}
	replicas[0].SetConfig([]*endpoint.Endpoint{valid("file")})
	for id, want := range map[string]error{"file": endpoint.ErrFromConfig, "none": endpoint.ErrNotFound} {
		if err := replicas[0].Change(ctx, id, func(*endpoint.Endpoint) (bool, error) { return true, nil }); !errors.Is(err, want) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// A new endpoint does not inherit what was remembered of an earlier one with its id.
func TestDeleteForgetsTheState(t *testing.T) {
	t.Parallel()
	log, ctx := bustest.New(t), t.Context()
	r := open(t, log, sealer(t, 1))
	for turn := range 3 {
		if err := r.Create(ctx, valid("crm")); err != nil {
			t.Fatal(err)
		}
		if e := r.Snapshot().Get("crm"); !e.Active() || !reflect.DeepEqual(e.State, endpoint.State{}) {
			t.Errorf("turn %d: it begins with %+v", turn, e.State)
		}
		if _, err := r.UpdateState(ctx, "crm", func(s *endpoint.State) bool { s.Position, s.Resume = 7, endpoint.ModeSkip; return true }); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Disable(ctx, "crm", "gone", time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := r.Grant(ctx, "crm", valid("crm").URL, "relay.example.com", 60, time.Now()); err != nil || r.Snapshot().Get("crm").GrantedNow("relay.example.com") == nil {
			t.Fatalf("grant: %v", err)
		}
		if err := r.Delete(ctx, "crm"); err != nil {
			t.Fatal(err)
		}
		if _, err := log.Endpoints().Get(ctx, "state.crm"); !errors.Is(err, jetstream.ErrKeyNotFound) {
			t.Errorf("turn %d: the state is still there: %v", turn, err)
		}
	}
}

func TestConsentHoldsForOneURL(t *testing.T) {
	t.Parallel()
	r := open(t, bustest.New(t), sealer(t, 1))
	e := valid("file")
	r.SetConfig([]*endpoint.Endpoint{e})
	if err := r.Grant(t.Context(), "file", e.URL, "relay.example.com", 30, time.Now()); err != nil {
		t.Fatal(err)
	}
	if r.Snapshot().Get("file").GrantedNow("other.example.org") != nil {
		t.Error("it has consented to another origin")
	}
	if g := r.Snapshot().Get("file").GrantedNow("relay.example.com"); g == nil || g.Rate != 30 {
		t.Errorf("%+v", g)
	}
	moved := valid("file")
	moved.URL = "https://example.com/elsewhere"
	r.SetConfig([]*endpoint.Endpoint{moved})
	if r.Snapshot().Get("file").GrantedNow("relay.example.com") != nil {
		t.Error("another URL is another receiver, but its consent is taken for granted")
	}
}

// What cannot be read spoils nothing else: it is left out and told, and a state is written anew.
func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	log, ctx := bustest.New(t), t.Context()
	kv := log.Endpoints()
	for key, value := range map[string]string{
		"state.crm": `{"position":`, "state.other": `[]`, "ep.damaged": `{`, "ep.unsealed": `{"url":"https://example.com","sealed":"x"}`,
		"ep.cut": `{"url":"https://example.com","sealed":"01234567.AAAA"}`, "unknown.key": "x",
	} {
		if _, err := kv.Put(ctx, key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	r := endpoint.NewRegistry(kv, sealer(t, 1), slog.New(slog.NewTextHandler(&out, nil)))
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.Run(run) }()
	if err := r.Load(ctx); err != nil {
		t.Fatal(err)
	}
	r.SetConfig([]*endpoint.Endpoint{valid("crm")})
	if all := r.Snapshot().All(); len(all) != 1 || !all[0].Active() {
		t.Errorf("%d endpoints", len(all))
	}
	if _, err := r.Disable(ctx, "crm", "gone", time.Now()); err != nil {
		t.Errorf("a state that cannot be read stands in the way: %v", err)
	}
	if e := r.Snapshot().Get("crm"); e.Active() || e.Disabled.Reason != "gone" {
		t.Errorf("%+v", e)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, key := range []string{"state.crm", "state.other", "ep.damaged", "ep.unsealed", "ep.cut"} {
		if !strings.Contains(out.String(), key) {
			t.Errorf("%s is not told: %s", key, out.String())
		}
	}
}

package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/fanout"
	"github.com/nex-crm/relay/internal/stream"
	"github.com/nex-crm/relay/internal/webhook"
)

// crowded is a relay's HTTP side with 10,000 endpoints, half of them of workspace acme, and attempts and dead letters at all of them.
func crowded(b *testing.B) *httptest.Server {
	const endpoints, records, letters = 10_000, 200_000, 20_000
	log := bustest.New(b)
	sealer, err := endpoint.NewSealer(make([]byte, endpoint.KeySize))
	if err != nil {
		b.Fatal(err)
	}
	registry := endpoint.NewRegistry(log.Endpoints(), sealer, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- registry.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-done })
	if err := registry.Load(b.Context()); err != nil {
		b.Fatal(err)
	}
	list := make([]*endpoint.Endpoint, endpoints)
	for i := range list {
		list[i] = &endpoint.Endpoint{
			ID: fmt.Sprintf("ep-%05d", i), URL: "https://crm.example.com/webhooks", Enabled: i%10 != 0, Workspaces: []string{workspaceOf(i)},
			Secrets: []webhook.Secret{webhook.GenerateSecret()}, Headers: map[string]string{"Authorization": "Bearer x"}, Filter: "event.data.confidence >= 0.8",
		}
	}
	registry.SetConfig(list)
	sender := webhook.NewSender(webhook.SenderConfig{Guard: webhook.NewGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}), AllowHTTP: true})
	f, err := fanout.New(fanout.Config{
		Bus: log, Endpoints: registry, Sender: sender, Policy: fanout.Policy{Schedule: fanout.DefaultSchedule()}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	crowd(b, log, endpoints, records, letters)
	s := httptest.NewServer(api.Handler(api.Config{
		Tokens: []api.Token{{Name: "admin", Secret: token, Write: true}, {Name: "acme", Secret: boundToken, Write: true, Workspaces: []string{"acme"}}},
		Workspaces: func() []stream.Status {
			return []stream.Status{{Workspace: "acme", Token: "acme"}, {Workspace: "globex", Token: "globex"}}
		},
		Endpoints: func() *endpoint.Registry { return registry }, Fanout: func() *fanout.Fanout { return f }, Log: func() *bus.Bus { return log },
		Ready: func() map[string]bool { return nil }, Gatherer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	}))
	b.Cleanup(s.Close)
	return s
}

const boundToken = "token-of-acme-000"

func workspaceOf(i int) string {
	if i%2 == 0 {
		return "acme"
	}
	return "globex"
}

// crowd writes attempts and dead letters, spread over the endpoints.
func crowd(b *testing.B, log *bus.Bus, endpoints, records, letters int) {
	js := log.JetStream()
	put := func(subject string, v any) {
		text, err := json.Marshal(v)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := js.PublishAsync(subject, text); err != nil {
			b.Fatal(err)
		}
	}
	at := time.Now().UTC().Add(-time.Hour)
	for i := range records {
		n := i * 7919 % endpoints
		a := fanout.Attempt{
			EventID: fmt.Sprintf("evt_%032d", i), Sequence: uint64(i + 1), Endpoint: fmt.Sprintf("ep-%05d", n), Workspace: workspaceOf(n), Type: "nex.insight.risk",
			Attempt: 1, At: at, DurationMS: 12.5, Outcome: webhook.Delivered, Status: 200, Verdict: fanout.Done, Request: &webhook.Sent{
				URL: "https://crm.example.com/webhooks", Size: 1000, Kept: &webhook.SentKept{Traceparent: event.NewTraceparent(), UserAgent: "nex-relay/1"},
			},
		}
		if i%25 == 0 {
			a.Outcome, a.Status, a.Verdict = webhook.ServerError, 500, fanout.Dead
		}
		put(bus.AttemptSubject(a.Endpoint, string(a.Outcome)), &a)
	}
	for i := range letters {
		n := i * 7919 % endpoints
		d := fanout.DeadLetter{
			EventID: fmt.Sprintf("evt_%032d", i), Sequence: uint64(i + 1), Endpoint: fmt.Sprintf("ep-%05d", n), Workspace: workspaceOf(n), Attempts: 10, At: at,
			Reason: fanout.ReasonUsedUp, Class: webhook.Class5xx, Outcome: webhook.ServerError, Status: 500,
			Event: json.RawMessage(`{"specversion":"1.0","id":"x","data":{"content":"` + strings.Repeat("x", 1000) + `"}}`),
		}
		if i%10 == 0 {
			d.Class, d.Outcome, d.Status = webhook.ClassDNS, webhook.DNSError, 0
		}
		put(bus.DeadSubject(d.Endpoint, string(d.Class)), &d)
	}
	<-js.PublishAsyncComplete()
}

// BenchmarkLists asks over HTTP for pages of 100 with 10,000 endpoints, and shows the median, the 95th percentile and the slowest of
// all pages of a list, of at most 100.
func BenchmarkLists(b *testing.B) {
	s := crowded(b)
	for _, c := range []struct{ name, token, path string }{
		{"endpoints", token, "/api/v1/endpoints?limit=100"},
		{"endpoints of 1000", token, "/api/v1/endpoints?limit=1000"},
		{"endpoints paused", token, "/api/v1/endpoints?limit=100&state=paused"},
		{"endpoints of a workspace", token, "/api/v1/endpoints?limit=100&workspace=acme"},
		{"endpoints, none of a state", token, "/api/v1/endpoints?limit=100&state=disabled"},
		{"endpoints, bound", boundToken, "/api/v1/endpoints?limit=100"},
		{"attempts", token, "/api/v1/attempts?limit=100"},
		{"attempts failed", token, "/api/v1/attempts?limit=100&failed=true"},
		{"attempts, bound", boundToken, "/api/v1/attempts?limit=100"},
		{"attempts failed, bound", boundToken, "/api/v1/attempts?limit=100&failed=true"},
		{"dead letters", token, "/api/v1/dead-letters?limit=100"},
		{"dead letters of a class", token, "/api/v1/dead-letters?limit=100&class=dns"},
		{"dead letters of an endpoint", token, "/api/v1/dead-letters?limit=100&endpoint=ep-04242"},
		{"dead letters, bound", boundToken, "/api/v1/dead-letters?limit=100"},
		{"dead letters of a class, bound", boundToken, "/api/v1/dead-letters?limit=100&class=dns"},
	} {
		b.Run(c.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				took = took[:0]
				for cursor := ""; len(took) < 100; {
					began := time.Now()
					next := get(b, s.URL+c.path+"&cursor="+cursor, c.token)
					took = append(took, time.Since(began))
					if cursor = next; cursor == "" {
						break
					}
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/page")
			b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "ms/p95")
			b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms/slowest")
			b.ReportMetric(float64(len(took)), "pages")
		})
	}
}

// get asks for a page and answers where it goes on.
func get(b *testing.B, url, token string) (next string) {
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Fatalf("%s: %s %s %v", url, resp.Status, body, err)
	}
	var page struct{ Next string }
	if err := json.Unmarshal(body, &page); err != nil {
		b.Fatal(err)
	}
	return page.Next
}

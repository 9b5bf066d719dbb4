package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

// flakyFailures is how many events the endpoint "flaky" refuses once each before it takes them.
const flakyFailures = 3

// demoReceiver is the sample subscriber: each path is an endpoint. It verifies every webhook.
type demoReceiver struct {
	view     *view
	verifier webhook.Verifier

	mu        sync.Mutex
	taken     map[string]bool // endpoint and webhook-id
	refused   map[string]bool // likewise, by flaky
	verified  int
	failed    int             // attempts answered with anything but 2xx
	retried   int             // deliveries that succeeded after a failed attempt
	latencies []time.Duration // emission to a verified webhook, first attempts
}

func newDemoReceiver(v *view, secret webhook.Secret) *demoReceiver {
	return &demoReceiver{view: v, verifier: webhook.Verifier{Secrets: []webhook.Secret{secret}}, taken: map[string]bool{}, refused: map[string]bool{}}
}

func (r *demoReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxWebhook))
	if err != nil {
		http.Error(w, "body cannot be read", http.StatusBadRequest)
		return
	}
	var event struct {
		Source string    `json:"source"`
		Type   string    `json:"type"`
		Time   time.Time `json:"time"`
		Data   struct {
			Content string `json:"content"`
		} `json:"data"`
	}
	verifyErr := r.verifier.Verify(req.Header, body)
	if verifyErr == nil {
		verifyErr = json.Unmarshal(body, &event)
	}
	endpoint, id := strings.TrimPrefix(req.URL.Path, "/"), req.Header.Get(webhook.HeaderID)
	a := answer{
		at: time.Now(), endpoint: endpoint, content: event.Data.Content, latency: time.Since(event.Time),
		subject: "nex." + strings.TrimPrefix(event.Source, "/nex/workspaces/") + strings.TrimPrefix(event.Type, "nex"),
	}
	a.status, a.note = r.judge(endpoint, endpoint+" "+id, verifyErr, a.latency)
	w.WriteHeader(a.status)
	r.view.answer(a)
}

// judge decides the answer and counts it.
func (r *demoReceiver) judge(endpoint, key string, verifyErr error, latency time.Duration) (status int, note string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case verifyErr != nil:
		r.failed++
		return http.StatusUnauthorized, "NOT VERIFIED: " + verifyErr.Error()
	case endpoint == "flaky" && len(r.refused) < flakyFailures && !r.refused[key]:
		r.refused[key] = true
		r.failed++
		return http.StatusServiceUnavailable, "refused on purpose, will be retried"
	case r.taken[key]:
		return http.StatusOK, "verified, had it already"
	}
	r.taken[key] = true
	r.verified++
	if r.refused[key] {
		r.retried++
		return http.StatusOK, "verified, the retry succeeded"
	}
	r.latencies = append(r.latencies, latency)
	return http.StatusOK, "verified"
}

// delivered is how many different deliveries were taken.
func (r *demoReceiver) delivered() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.taken)
}

func (r *demoReceiver) summary(streams, insights, published, expected int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.Sort(r.latencies)
	return fmt.Sprintf("summary: streams=%d insights=%d published=%d delivered=%d/%d verified=%d failed=%d retried=%d p50=%s p99=%s",
		streams, insights, published, len(r.taken), expected, r.verified, r.failed, r.retried, quantile(r.latencies, 0.50), quantile(r.latencies, 0.99))
}

// quantile of sorted durations, by the nearest rank.
func quantile(sorted []time.Duration, q float64) string {
	if len(sorted) == 0 {
		return "-"
	}
	i := min(int(q*float64(len(sorted))), len(sorted)-1)
	return milliseconds(sorted[i])
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1fms", float64(d.Microseconds())/1000)
}

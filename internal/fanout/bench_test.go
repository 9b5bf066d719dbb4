package fanout_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/webhook"
)

const benchInFlight = 64

// BenchmarkDeliver compares what the relay delivers to one endpoint, from the log on disk to the acknowledged attempt with
// its record, with a bare net/http loop that posts the same signed bodies to the same receiver: 1 KB events, 64 in flight.
// Both stand in one run; the ratio is the figure.
func BenchmarkDeliver(b *testing.B) {
	body := &event.Event{
		Workspace: "acme", Type: "nex.insight.risk", Time: time.Now(), Traceparent: event.NewTraceparent(), ID: "evt_00000000",
		Data: append(append([]byte(`{"type":"risk","content":"`), bytes.Repeat([]byte("x"), 760)...), `"}`...),
	}
	b.Run("bare", func(b *testing.B) { benchBare(b, body.JSON()) })
	b.Run("relay", func(b *testing.B) { benchRelay(b, *body) })
}

// countingReceiver answers 200 to everything and tells when it has had n.
func countingReceiver(b *testing.B, n int) (url string, done <-chan struct{}) {
	var got atomic.Int64
	all := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if got.Add(1) == int64(n) {
			close(all)
		}
	}))
	b.Cleanup(s.Close)
	return s.URL, all
}

func benchBare(b *testing.B, body []byte) {
	url, done := countingReceiver(b, b.N)
	secret := webhook.GenerateSecret()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: benchInFlight, MaxIdleConns: benchInFlight}}
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range benchInFlight {
		wg.Go(func() {
			for next.Add(1) <= int64(b.N) {
				req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
				if err != nil {
					b.Error(err)
					return
				}
				webhook.SetHeaders(req.Header, "evt_00000000", time.Now(), body, secret)
				resp, err := client.Do(req)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	}
	wg.Wait()
	<-done
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
	client.CloseIdleConnections()
}

func benchRelay(b *testing.B, e event.Event) {
	x := setup(b, quick)
	x.stop()
	var pending []*bus.Pending
	for i := range b.N { // the log is filled before: its speed is another figure
		one := e
		one.ID = fmt.Sprintf("evt_%08d", i)
		p, err := x.bus.PublishAsync(b.Context(), &one, one.ID)
		if err != nil {
			b.Fatal(err)
		}
		if pending = append(pending, p); len(pending) == 500 || i == b.N-1 {
			for _, p := range pending {
				if _, err := p.Wait(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			pending = pending[:0]
		}
	}
	url, done := countingReceiver(b, b.N)
	x.endpoints(&endpoint.Endpoint{ID: "crm", URL: url, MaxInFlight: benchInFlight})
	b.ResetTimer()
	x.start()
	<-done
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deliveries/s")
	x.settled()
	if s, err := x.bus.JetStream().Stream(b.Context(), bus.StreamAttempts); err != nil || s.CachedInfo().State.Msgs != uint64(b.N) {
		b.Errorf("%d attempt records for %d deliveries (%v)", s.CachedInfo().State.Msgs, b.N, err)
	}
}

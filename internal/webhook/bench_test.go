package webhook_test

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

// BenchmarkSend compares a whole attempt with a bare post of the same body, signed beforehand: 64 in flight, 1 KB, one receiver.
func BenchmarkSend(b *testing.B) {
	srv := serve(b, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	})
	body := bytes.Repeat([]byte("x"), 1024)
	const inFlight = 32 // times GOMAXPROCS

	b.Run("sender", func(b *testing.B) {
		s := newSender(b, func(c *webhook.SenderConfig) { c.MaxIdlePerHost, c.UserAgent = 1024, "relay" })
		r := request(b, srv.URL)
		r.Sequence, r.Attempt, r.Body, r.Traceparent = 4711, 1, body, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		b.ReportAllocs()
		b.SetParallelism(inFlight)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if got := s.Send(b.Context(), r); got.Outcome != webhook.Delivered {
					b.Errorf("got %+v", got)
				}
			}
		})
	})
	b.Run("bare", func(b *testing.B) {
		transport := &http.Transport{MaxIdleConnsPerHost: 1024}
		b.Cleanup(transport.CloseIdleConnections)
		client := &http.Client{Transport: transport, Timeout: 15 * time.Second}
		header := http.Header{"Content-Type": {webhook.DefaultContentType}, "Traceparent": {strings.Repeat("0", 55)}}
		webhook.SetHeaders(header, "evt_1", time.Now(), body, testSecret)
		b.ReportAllocs()
		b.SetParallelism(inFlight)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := barePost(client, srv.URL, header, body); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func barePost(client *http.Client, url string, header http.Header, body []byte) error {
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = header
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return err
}

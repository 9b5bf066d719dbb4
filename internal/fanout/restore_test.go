package fanout_test

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/fanout"
)

// A stream that somebody deletes while the relay runs is there again: attempts are recorded and failed deliveries tried again as
// before, and it is said once.
func TestDeletedStreamsAreMadeAgain(t *testing.T) {
	t.Parallel()
	b := setup(t, fanout.Policy{Schedule: []time.Duration{0, time.Second}, RetryAfterMax: time.Hour})
	b.stop()
	var log lines
	b.logger, b.restoreEvery = slog.New(slog.NewTextHandler(&log, nil)), 20*time.Millisecond
	b.start()
	r := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request, _ []byte) {
		if n%2 == 1 { // each is tried twice
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	b.create(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	b.publish("before", 1)
	r.await(t, 2)
	b.attempts("crm", 2)
	b.settled()
	names := []string{bus.StreamAttempts, bus.StreamRetry, bus.StreamDead}
	for _, name := range names {
		if err := b.bus.JetStream().DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "they are there again", func() bool {
		for _, name := range names {
			if !strings.Contains(log.String(), " stream="+name+"\n") {
				return false
			}
		}
		return true
	})
	b.publish("after", 1)
	r.await(t, 2)
	if got := b.attempts("crm", 2); got[0].EventID != "after-0" || got[1].Verdict != fanout.Done {
		t.Errorf("%+v", got)
	}
	b.settled()
	if n := strings.Count(log.String(), "a stream was deleted"); n != len(names) {
		t.Errorf("said %d times: %s", n, log.String())
	}
}

package stream

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/nexsim"
)

// held is a stream of Nex's that brings its insights only when a channel is closed.
type held struct {
	http.ResponseWriter
	until <-chan struct{}
}

func (h held) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("insight.batch.created")) {
		<-h.until
	}
	return h.ResponseWriter.Write(p)
}

func (h held) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// An insight that both ways have comes in the form of the stream, which says more, although REST is faster.
func TestLiveComesFirst(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{"right": 0, "Nex's is behind": -time.Minute, "Nex's is ahead": time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			liveComesFirst(t, ahead)
		})
	}
}

// liveComesFirst is the test with Nex's clock ahead of ours.
func liveComesFirst(t *testing.T, ahead time.Duration) {
	b := setup(t, nexsim.Options{})
	b.cfg.Backfill = time.Hour
	b.sim.JumpClock(ahead)
	b.cfg.liveFirst = patience
	b.cfg.Logger = slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	given := make(chan struct{})
	var once sync.Once
	b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if _, ok := isREST(r); !ok {
			next.ServeHTTP(held{w, given}, r)
			return
		}
		once.Do(func() { b.sim.Emit("acme", 1) })
		next.ServeHTTP(w, r)
	})
	b.start(workspace("acme"))
	b.eventually("the filling waits", func() bool { return strings.Contains(b.log.String(), "left to the stream") })
	close(given)
	b.exactly("acme")
	b.stop()
	var in struct{ Confidence float64 }
	if err := json.Unmarshal(b.of("acme", event.InsightPrefix)[0].Data, &in); err != nil || in.Confidence == 0 {
		t.Errorf("not what the stream says: %s (%v)", b.of("acme", event.InsightPrefix)[0].Data, err)
	}
}

// What the stream does not bring after all is published as REST gives it.
func TestLiveNeverComes(t *testing.T) {
	t.Parallel()
	b := setup(t, nexsim.Options{})
	b.cfg.liveFirst = 10 * time.Millisecond
	var once sync.Once
	b.before(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if _, ok := isREST(r); !ok {
			next.ServeHTTP(held{w, r.Context().Done()}, r)
			return
		}
		once.Do(func() { b.sim.Emit("acme", 3) })
		next.ServeHTTP(w, r)
	})
	b.start(workspace("acme"))
	b.exactly("acme")
}

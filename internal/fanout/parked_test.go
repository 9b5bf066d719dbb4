package fanout_test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
)

var parked = flag.Int("fanout.parked", 0, "deliveries of the run that measures what waiting ones cost; 0 skips it")

// rss is this process's resident memory in MB, after a collection.
func rss(t *testing.T) int {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("needs /proc")
	}
	for line := range strings.Lines(string(status)) {
		var kb int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 {
			return kb / 1024
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// TestParkedMemory is an endpoint that takes nothing while very many events come for it: what waits costs disk, not memory,
// the server inside included. Then it takes everything.
func TestParkedMemory(t *testing.T) {
	if *parked == 0 {
		t.Skip("asked for with -fanout.parked")
	}
	debug.SetGCPercent(50) // as relay run does
	b := setup(t, quick)
	var open bool
	r := newReceiver(t, func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) {
		if !open {
			w.Header().Set("Retry-After", "15")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	b.stop()
	var pending []*bus.Pending
	for i := range *parked {
		e := &event.Event{
			Workspace: "acme", ID: fmt.Sprintf("x-%d", i), Type: "nex.insight.risk", Time: time.Now(),
			Data: []byte(`{"type":"risk","content":"c"}`), Traceparent: event.NewTraceparent(),
		}
		p, err := b.bus.PublishAsync(t.Context(), e, e.ID)
		if err != nil {
			t.Fatal(err)
		}
		if pending = append(pending, p); len(pending) == 1000 || i == *parked-1 {
			for _, p := range pending {
				if _, err := p.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			pending = pending[:0]
		}
	}
	b.endpoints(&endpoint.Endpoint{ID: "crm", URL: r.URL})
	before := rss(t)
	began := time.Now()
	b.start()
	eventuallyIn(t, 10*time.Minute, "everything waits", func() bool {
		unread, unacked, err := b.left()
		return err == nil && unread == 0 && unacked == 0
	})
	took := time.Since(began)
	_, waiting, err := b.bus.RetryPending(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	after := rss(t)
	fmt.Printf("%d deliveries wait after %v: memory %d MB before, %d MB after\n", waiting, took.Round(100*time.Millisecond), before, after)
	began = time.Now()
	u, err := b.relay.Undelivered(t.Context(), b.registry.Snapshot().Get("crm"))
	if err != nil || u.Count() != uint64(*parked) || u.Oldest != 1 {
		t.Errorf("undelivered: %+v, %v", u, err)
	}
	fmt.Printf("counted in %v\n", time.Since(began).Round(10*time.Millisecond))
	if after-before > 64 {
		t.Errorf("memory rose by %d MB", after-before)
	}
}

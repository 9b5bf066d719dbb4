package fanout_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/endpoint"
	"github.com/nex-crm/relay/internal/event"
)

// Large events of which an endpoint takes nothing cost its lane's share of memory and no more, whether they come from the log
// or from its backlog, and hold up nobody else.
func TestLargeEventsAreBounded(t *testing.T) {
	t.Parallel()
	const (
		size, events = 500 << 10, 40 // 20 MB
		hangingOnes  = 2
		lane         = 4<<20 + size // what may be in one: less than laneBytes, and one more
		most         = lane/size + 1
	)
	b := setup(t, quick)
	release := make(chan struct{})
	var peak atomic.Int64
	var hanging []*receiver
	var list []*endpoint.Endpoint
	var now [hangingOnes]atomic.Int64 // in flight, as far as each has seen
	for i := range hangingOnes {
		mine := &now[i]
		r := newReceiver(t, func(_ int, _ http.ResponseWriter, req *http.Request, _ []byte) {
			n := mine.Add(1)
			defer mine.Add(-1)
			for before := peak.Load(); n > before && !peak.CompareAndSwap(before, n); before = peak.Load() {
			}
			select {
			case <-release:
			case <-req.Context().Done():
			}
		})
		hanging = append(hanging, r)
		list = append(list, &endpoint.Endpoint{ID: fmt.Sprintf("hanging-%d", i), URL: r.URL, MaxInFlight: 64, Timeout: time.Minute})
	}
	healthy := newReceiver(t, nil)
	list = append(list, &endpoint.Endpoint{ID: "healthy", URL: healthy.URL})
	var heaviest atomic.Int64
	healthy.each = func() { heaviest.Store(max(heaviest.Load(), int64(b.relay.LaneBytes()))) }
	b.endpoints(list...)

	content := strings.Repeat("x", size)
	var ids []string
	for i := range events {
		e := &event.Event{
			Workspace: "acme", ID: fmt.Sprintf("x-%d", i), Type: "nex.insight.risk", Time: time.Now(),
			Data: json.RawMessage(fmt.Sprintf(`{"type":"risk","content":%q}`, content)), Traceparent: event.NewTraceparent(),
		}
		if _, err := b.bus.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, e.ID)
	}
	healthy.hasAll(t, ids, 0)
	eventually(t, "all but what is in flight is stored", func() bool {
		unread, unacked, err := b.left()
		return err == nil && unread == 0 && unacked <= hangingOnes*most
	})
	if n := heaviest.Load(); n > 8<<20+size { // that of the healthy one, twice as much as the others
		t.Errorf("a lane held %d bytes", n)
	}
	eventually(t, fmt.Sprintf("no more than %d bytes are held", hangingOnes*lane), func() bool { return b.relay.HoldsAtMost(hangingOnes * lane) })
	if n := peak.Load(); n > most {
		t.Errorf("%d large events in flight to one endpoint", n)
	}

	// Another life knows nothing of their size, and takes them from the backlog.
	b.stop()
	for i := range now { // those that were cut are no longer counted among the next
		eventually(t, "the receivers have seen that they were cut", func() bool { return now[i].Load() == 0 })
	}
	b.start()
	for _, r := range hanging {
		before := len(r.all())
		eventually(t, "it is tried again", func() bool { return len(r.all()) > before })
	}
	eventually(t, "nothing more is taken", func() bool {
		before := len(hanging[0].all()) + len(hanging[1].all())
		b.read()
		return len(hanging[0].all())+len(hanging[1].all()) == before
	})
	if n := peak.Load(); n > most {
		t.Errorf("%d large events in flight to one endpoint from its backlog", n)
	}
	close(release)
	for _, r := range hanging {
		// What could not be stored while the relay stopped comes again when its acknowledgement is overdue.
		eventuallyIn(t, 2*time.Minute, "everything has come", func() bool {
			return slices.Equal(slices.Compact(sorted(r.all())), sorted(ids))
		})
	}
	b.settled()
	if n := peak.Load(); n > most {
		t.Errorf("%d large events in flight to one endpoint while it caught up", n)
	}
}

// Endpoints that take nothing, and are to get more large events than may be held, do not hold up the reader of the log, each
// for other events as they are.
func TestLargeEventsForManyHoldNobodyUp(t *testing.T) {
	t.Parallel()
	const size, hangingOnes, each, held = 50 << 10, 40, 8, 4 << 20 // 16 MB
	b := setup(t, quick)
	b.stop()
	b.maxHeld = held
	b.start()
	release := make(chan struct{})
	hanging := newReceiver(t, func(_ int, _ http.ResponseWriter, req *http.Request, _ []byte) {
		select {
		case <-release:
		case <-req.Context().Done():
		}
	})
	fast := newReceiver(t, nil)
	list := []*endpoint.Endpoint{{ID: "fast", URL: fast.URL, Events: []string{"nex.insight.fast"}}}
	for i := range hangingOnes {
		list = append(list, &endpoint.Endpoint{
			ID: fmt.Sprintf("hanging-%d", i), URL: hanging.URL, Events: []string{fmt.Sprintf("nex.insight.t%d", i)}, MaxInFlight: 64, Timeout: 2 * time.Minute,
		})
	}
	b.endpoints(list...)
	content := strings.Repeat("x", size)
	publish := func(id, kind, content string) {
		t.Helper()
		e := &event.Event{
			Workspace: "acme", ID: id, Type: "nex.insight." + kind, Time: time.Now(),
			Data: json.RawMessage(`{"type":"` + kind + `","content":"` + content + `"}`), Traceparent: event.NewTraceparent(),
		}
		if _, err := b.bus.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	for n := range each {
		for i := range hangingOnes {
			publish(fmt.Sprintf("h-%d-%d", n, i), fmt.Sprintf("t%d", i), content)
		}
		id := fmt.Sprintf("f-%d", n)
		publish(id, "fast", "c")
		ids = append(ids, id)
	}
	fast.hasAll(t, ids, 0)
	eventually(t, "what the others do not take is stored", func() bool {
		return b.relay.Bodies() <= held
	})
	close(release)
	// A fetch from a backlog that took too long comes again when its acknowledgement is overdue.
	eventuallyIn(t, 2*time.Minute, "everything has come", func() bool { return len(slices.Compact(sorted(hanging.all()))) == each*hangingOnes })
	b.settled()
	eventually(t, "nothing is held any more", func() bool { return b.relay.Bodies() == 0 })
}

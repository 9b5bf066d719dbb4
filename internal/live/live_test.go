package live

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tmaxmax/go-sse"
	"go.uber.org/goleak"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func logged(sequence uint64, subject, data string) bus.Stored {
	return bus.Stored{Sequence: sequence, Time: time.Date(2026, 2, 5, 10, 30, 0, 0, time.UTC), Subject: subject, Data: []byte(data)}
}

func TestEntries(t *testing.T) {
	t.Parallel()
	hostile := "</script>\r\n\r\ndata: x\u2028"
	long := strings.Repeat("é", 4000)
	for _, tt := range []struct {
		name     string
		entry    *Entry
		kind     Kind
		endpoint string
		want     string // in the data
		not      string
	}{
		{"event", OfLog(logged(7, "nex.acme.insight.risk", `{"specversion":"1.0","id":"e-1","source":"/x","type":"t","subject":"person/Jo","time":"2026-02-05T10:29:00Z","data":{"a":1}}`)),
			KindEvent, "", `{"sequence":7,"id":"e-1","type":"nex.insight.risk","workspace":"acme","subject":"person/Jo","time":"2026-02-05T10:29:00Z","stored":"2026-02-05T10:30:00Z"}`, ""},
		{"news about an endpoint", OfLog(logged(8, "nex._.relay.endpoint.failing", `{"id":"n","subject":"crm","data":{"outcome" : "timeout",
			"status":0}}`)), KindNews, "crm", `"data":{"outcome":"timeout","status":0}`, ""},
		{"news about a workspace", OfLog(logged(9, "nex.acme.relay.stream_connected", `{"id":"n","subject":"crm","data":{}}`)), KindNews, "", `"data":{}`, ""},
		{"news with much data", OfLog(logged(9, "nex.acme.relay.malformed", `{"id":"n","data":"`+long+`"}`)), KindNews, "", `"id":"n"`, `"data"`},
		{"no JSON", OfLog(logged(10, "nex.acme.insight.risk", "\r\ndata: x")), KindEvent, "", `{"sequence":10,"type":"nex.insight.risk","workspace":"acme","stored":"2026-02-05T10:30:00Z"}`, ""},
		{"of other kinds", OfLog(logged(11, "nex.acme.insight.risk", `{"id":7,"time":"now"}`)), KindEvent, "", `"sequence":11`, "now"},
		{"hostile", OfLog(logged(12, "nex.acme.insight.risk", `{"subject":`+string(mustJSON(hostile))+`}`)), KindEvent, "", `"subject":"</script>\r\n\r\ndata: x\u2028"`, ""},
		{"long", OfLog(logged(13, "nex.acme.insight.risk", `{"subject":"`+long+`"}`)), KindEvent, "", strings.Repeat("é", 256) + `…"`, strings.Repeat("é", 257)},
	} {
		e := tt.entry
		if e.Kind != tt.kind || e.Endpoint != tt.endpoint {
			t.Errorf("%s: %s of %q", tt.name, e.Kind, e.Endpoint)
		}
		if text := string(e.frame); !strings.Contains(text, tt.want) || tt.not != "" && strings.Contains(text, tt.not) {
			t.Errorf("%s: %s", tt.name, text)
		}
		whole(t, e)
	}
	e, ok := OfAttempt(bus.Stored{Sequence: 5, Data: []byte(`{"event_id":"e-1","sequence":7,"endpoint":"crm","workspace":"acme","attempt":2,"at":"2026-02-05T10:30:00Z","outcome":"timeout","response":"secret","verdict":"retry"}`)})
	if !ok || e.Kind != KindAttempt || e.Endpoint != "crm" || e.Workspace != "acme" || e.Sequence != 0 || e.At.IsZero() ||
		!bytes.HasPrefix(e.frame, []byte("event: attempt\ndata: {\"id\":5,\"event_id\":\"e-1\",\"sequence\":7,")) || bytes.Contains(e.frame, []byte("secret")) {
		t.Errorf("%v %+v %s", ok, e, e.frame)
	}
	if _, ok := OfAttempt(bus.Stored{Data: []byte("x")}); ok {
		t.Error("what is no record is no attempt")
	}
}

func mustJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// whole fails unless an entry is exactly one SSE event with JSON in it.
func whole(t *testing.T, e *Entry) {
	t.Helper()
	n := 0
	for event, err := range sse.Read(bytes.NewReader(e.frame), nil) {
		n++
		if err != nil || event.Type != string(e.Kind) || !json.Valid([]byte(event.Data)) {
			t.Errorf("%v: %+v", err, event)
		}
	}
	if n != 1 || len(e.frame) > 16<<10 {
		t.Errorf("%d events in %d bytes: %s", n, len(e.frame), e.frame)
	}
}

func FuzzEntries(f *testing.F) {
	f.Add("nex.acme.insight.risk", []byte(`{"id":"e-1","subject":"a\r\nb","time":"2026-02-05T10:29:00Z","data":{}}`))
	f.Add("nex._.relay.endpoint.failing", []byte(`{"data":{"a":[1,2]}}`))
	f.Add("", []byte("\n\n"))
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		whole(t, OfLog(bus.Stored{Sequence: 1, Subject: cut(subject), Data: data}))
		if e, ok := OfAttempt(bus.Stored{Sequence: 1, Data: data}); ok && e.frame != nil {
			whole(t, e)
		}
	})
}

func everything(*Entry) bool { return true }

// One who takes nothing holds what his queue holds, and is told what he has missed, where he has missed it.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	var h Hub
	log := bustest.New(t)
	slow := join(t, &h, log)
	defer slow.Leave()
	r := h.reading
	const missed = 40
	for i := range uint64(queueLength + missed) {
		h.tell(r, OfLog(logged(i+1, "nex.acme.insight.risk", "{}")))
	}
	queue, dropped, open := slow.take()
	if len(queue) != queueLength || queue[queueLength-1].Sequence != queueLength || dropped != missed || !open {
		t.Errorf("%d taken, %d dropped", len(queue), dropped)
	}
	h.tell(r, OfLog(logged(999, "nex.acme.insight.risk", "{}")))
	if queue, dropped, _ = slow.take(); len(queue) != 1 || dropped != 0 {
		t.Errorf("afterwards %d and %d dropped", len(queue), dropped)
	}
}

func join(t *testing.T, h *Hub, log *bus.Bus) *Reader {
	t.Helper()
	r, err := h.Join(t.Context(), log, everything)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestJoinAndLeave(t *testing.T) {
	t.Parallel()
	var h Hub
	log := bustest.New(t)
	var all []*Reader
	for range MaxReaders {
		all = append(all, join(t, &h, log))
	}
	if _, err := h.Join(t.Context(), log, everything); !errors.Is(err, ErrFull) {
		t.Errorf("one too many: %v", err)
	}
	all[0].Leave()
	all[0].Leave() // twice is once
	all[0] = join(t, &h, log)
	// All of them have one consumer of each stream.
	if _, err := log.JetStream().Publish(t.Context(), "nex.acme.insight.risk", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		<-r.ready
		if queue, _, _ := r.take(); len(queue) != 1 || queue[0].Sequence != 1 {
			t.Errorf("%d entries", len(queue))
		}
	}
	consumers(t, log, 1)
	h.Close()
	for _, r := range all {
		<-r.ready
		if _, _, open := r.take(); open {
			t.Error("is open after the end")
		}
		r.Leave()
	}
	if _, err := h.Join(t.Context(), log, everything); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
	consumers(t, log, 0)
}

// consumers waits until the log has so many.
func consumers(t *testing.T, log *bus.Bus, want int) {
	t.Helper()
	s, err := log.JetStream().Stream(t.Context(), bus.StreamNex)
	if err != nil {
		t.Fatal(err)
	}
	for {
		info, err := s.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Consumers == want {
			return
		}
	}
}

// pipe is a connection that can be read from at any time.
type pipe struct {
	*httptest.ResponseRecorder
	mu sync.Mutex
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.Body.Write(b)
}

// next is what has come since the last time, once nothing more comes.
func (p *pipe) next() string {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.Body.Reset()
	return p.Body.String()
}

// broken is a connection whose other end takes nothing.
type broken struct{ http.ResponseWriter }

func (broken) Write([]byte) (int, error) { return 0, errors.New("i/o timeout") }

func TestServe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &Reader{hub: &Hub{}, want: everything, ready: make(chan struct{}, 1)}
		ctx, gone := context.WithCancel(t.Context())
		w, done := &pipe{ResponseRecorder: httptest.NewRecorder()}, make(chan struct{})
		event := func(n uint64) *Entry { return &Entry{Sequence: n, frame: frame(KindEvent, n, n)} }
		go func() {
			defer close(done)
			r.Serve(ctx, w, Past{Entries: []*Entry{event(6), event(7)}, Dropped: 3})
		}()
		expect := func(want string) {
			t.Helper()
			if got := w.next(); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		expect("retry: 3000\n\nevent: dropped\ndata: {\"count\":3}\n\nid: 6\nevent: event\ndata: 6\n\nid: 7\nevent: event\ndata: 7\n\n")
		if w.Header().Get("Content-Type") != "text/event-stream" || !w.Flushed {
			t.Errorf("%v", w.Header())
		}
		r.offer(event(7)) // stored while the past was read
		r.offer(&Entry{frame: []byte("attempt\n\n")})
		r.offer(event(8))
		expect("attempt\n\nid: 8\nevent: event\ndata: 8\n\n")
		r.mu.Lock()
		r.queue, r.dropped = []*Entry{event(9)}, 2
		r.wake()
		r.mu.Unlock()
		expect("id: 9\nevent: event\ndata: 9\n\nevent: dropped\ndata: {\"count\":2}\n\n")
		time.Sleep(keepalive)
		expect(": keepalive\n\n")
		time.Sleep(keepalive)
		expect(": keepalive\n\n")
		gone()
		<-done

		r.close()
		r.Serve(t.Context(), w, Past{}) // ends by itself
		r.Serve(t.Context(), broken{httptest.NewRecorder()}, Past{Dropped: 1})
	})
}

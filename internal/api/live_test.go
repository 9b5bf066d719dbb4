package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tmaxmax/go-sse"

	"github.com/nex-crm/relay/internal/api"
	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/bus/bustest"
	"github.com/nex-crm/relay/internal/stream"
	"github.com/nex-crm/relay/internal/webhook"
)

// live is a real server over a log.
type liveServer struct {
	*http.Server
	log *bus.Bus
	url string
}

// liveTimeout is every limit in time of the server where a stream is to outlive them.
const liveTimeout = 2 * time.Second

func serveLive(t *testing.T, change func(*api.Config)) *liveServer {
	t.Helper()
	return serveLiveFor(t, 0, change)
}

// serveLiveFor has a server whose limits in time are short, those of the relay if 0.
func serveLiveFor(t *testing.T, limit time.Duration, change func(*api.Config)) *liveServer {
	t.Helper()
	s := &liveServer{log: bustest.New(t)}
	var cfg api.Config
	h, _ := open(t, s.log, func(c *api.Config) {
		c.Workspaces = func() []stream.Status {
			return []stream.Status{{Workspace: "acme", Token: "acme"}, {Workspace: "globex", Token: "globex"}}
		}
		if change != nil {
			change(c)
		}
		cfg = *c
	})
	for id, workspace := range map[string]string{"crm": "acme", "other": "globex"} {
		w := authorized(h, "POST", "/api/v1/endpoints", fmt.Sprintf(`{"id":%q,"url":"https://example.com","workspaces":[%q]}`, id, workspace))
		if w.Code != http.StatusCreated {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	s.Server = api.NewServer(cfg)
	if limit > 0 {
		s.ReadTimeout, s.WriteTimeout, s.ReadHeaderTimeout, s.IdleTimeout = limit, limit, limit, limit
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
		http.DefaultClient.CloseIdleConnections()
	})
	return s
}

// watching is one who watches: what comes to him, until the stream ends, and then how it ended.
type watching struct {
	t      *testing.T
	events chan sse.Event
	end    chan error
	leave  func()
}

func (s *liveServer) watch(t *testing.T, query, secret, last string) *watching {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", s.url+"/api/v1/live"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+secret)
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	w := &watching{t, make(chan sse.Event, 1024), make(chan error, 1), leave}
	go func() {
		defer resp.Body.Close()
		for event, err := range sse.Read(resp.Body, nil) {
			if err != nil {
				w.end <- err
				return
			}
			w.events <- event
		}
		w.end <- io.EOF
	}()
	t.Cleanup(leave)
	return w
}

func (w *watching) next() sse.Event {
	w.t.Helper()
	select {
	case e := <-w.events:
		return e
	case err := <-w.end:
		w.t.Fatalf("the stream ended: %v", err)
		return sse.Event{}
	}
}

// shown is what a frame tells, of whichever kind.
type shown struct {
	ID                        any
	Sequence, Count           uint64
	Workspace, Endpoint, Type string
	Outcome                   string
}

func show(t *testing.T, e sse.Event) (s shown) {
	t.Helper()
	if err := json.Unmarshal([]byte(e.Data), &s); err != nil {
		t.Fatalf("%v in %+v", err, e)
	}
	return s
}

// A stream lasts longer than any limit of the server, and ends as a whole answer when the server stops.
func TestLiveOutlivesTimeouts(t *testing.T) {
	t.Parallel()
	s := serveLiveFor(t, liveTimeout, nil)
	w := s.watch(t, "", token, "")
	for begin, n := time.Now(), uint64(1); time.Since(begin) < 2*liveTimeout; n++ {
		publish(t, s.log, "acme", fmt.Sprintf("e-%d", n), "nex.insight.risk")
		e := w.next()
		if got := show(t, e); e.Type != "event" || e.LastEventID != fmt.Sprint(n) || got.Sequence != n || got.Workspace != "acme" || got.ID != fmt.Sprintf("e-%d", n) {
			t.Fatalf("%+v", e)
		}
	}
	record(t, s.log, "crm", 1, "e-1", webhook.ServerError)
	if e := w.next(); e.Type != "attempt" || show(t, e).Outcome != "server_error" || show(t, e).Endpoint != "crm" {
		t.Errorf("%+v", e)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-w.end; err != io.EOF {
		t.Errorf("the stream was cut: %v", err)
	}
}

// Who watches sees what is his business, and of that what he asks for.
func TestLiveIsHisBusiness(t *testing.T) {
	t.Parallel()
	const acme = "token-of-acme-000"
	s := serveLive(t, func(c *api.Config) {
		c.Tokens = append(c.Tokens, api.Token{Name: "acme", Secret: acme, Workspaces: []string{"acme"}})
	})
	publish(t, s.log, "acme", "e-0", "nex.insight.risk")
	publish(t, s.log, "globex", "g-0", "nex.insight.risk")
	for _, tt := range []struct {
		query, secret string
		want          []string
	}{
		{"", token, []string{"attempt crm acme", "attempt crm globex", "attempt file acme", "attempt other globex", "event acme", "event globex", "news _", "news acme"}},
		{"", acme, []string{"attempt crm acme", "event acme", "news acme"}},
		{"?workspace=globex", token, []string{"attempt crm globex", "attempt other globex", "event globex"}},
		{"?workspace=globex", acme, nil},
		{"?endpoint=crm", token, []string{"attempt crm acme", "attempt crm globex", "news _"}},
		{"?endpoint=crm", acme, []string{"attempt crm acme"}},
		{"?kind=news,attempt&workspace=Acme", token, []string{"attempt crm acme", "attempt file acme", "news acme"}},
		{"?kind=news&workspace=_", token, []string{"news _"}},
	} {
		w := s.watch(t, tt.query, tt.secret, "")
		all := s.watch(t, "", token, "")
		publish(t, s.log, "acme", "e"+fmt.Sprint(time.Now().UnixNano()), "nex.insight.risk")
		publish(t, s.log, "globex", "e"+fmt.Sprint(time.Now().UnixNano()), "nex.insight.risk")
		publish(t, s.log, "acme", "e"+fmt.Sprint(time.Now().UnixNano()), "nex.relay.stream_connected")
		if _, err := s.log.JetStream().Publish(t.Context(), "nex._.relay.endpoint.failing", []byte(`{"id":"n","subject":"crm","data":{"endpoint":"crm"}}`)); err != nil {
			t.Fatal(err)
		}
		record(t, s.log, "crm", 1, "e-0", webhook.Delivered)
		record(t, s.log, "crm", 2, "g-0", webhook.Delivered)  // of a time when the endpoint was another's
		record(t, s.log, "file", 1, "e-0", webhook.Delivered) // which is for all workspaces
		record(t, s.log, "other", 2, "g-0", webhook.Delivered)
		for range 8 { // once one who sees everything has seen it, all have what is theirs
			all.next()
		}
		var got []string
		for range tt.want {
			e := w.next()
			one := show(t, e)
			got = append(got, strings.Join(strings.Fields(e.Type+" "+one.Endpoint+" "+one.Workspace), " "))
		}
		w.leave()
		<-w.end
		for len(w.events) > 0 {
			got = append(got, "and "+(<-w.events).Data)
		}
		if slices.Sort(got); !slices.Equal(got, tt.want) {
			t.Errorf("%s with %s: %q, want %q", tt.query, tt.secret, got, tt.want)
		}
		all.leave()
	}
}

// Who comes again gets what he has missed, once, in order, and what comes then; of much that was missed the newest.
func TestLiveGoesOn(t *testing.T) {
	t.Parallel()
	s := serveLive(t, nil)
	const stored = 503
	for n := range stored {
		publish(t, s.log, "acme", fmt.Sprintf("e-%d", n+1), "nex.insight.risk")
	}
	for last, dropped := range map[string]uint64{"500": 0, "1": 2, "503": 0, "9999": 0} {
		w := s.watch(t, "", token, last)
		var from uint64
		if _, err := fmt.Sscan(last, &from); err != nil {
			t.Fatal(err)
		}
		if dropped > 0 {
			if e := w.next(); e.Type != "dropped" || show(t, e).Count != dropped {
				t.Errorf("after %s: %+v", last, e)
			}
			from += dropped
		}
		for n := from + 1; n <= stored; n++ {
			if e := w.next(); e.LastEventID != fmt.Sprint(n) || show(t, e).Sequence != n {
				t.Fatalf("after %s: %+v, want %d", last, e, n)
			}
		}
		record(t, s.log, "crm", 1, "e-1", webhook.Delivered)
		if e := w.next(); e.Type != "attempt" {
			t.Errorf("after %s: %+v", last, e)
		}
		w.leave()
		<-w.end
	}
	w := s.watch(t, "?kind=attempt", token, "1") // attempts are not told again
	record(t, s.log, "crm", 7, "e-7", webhook.Delivered)
	if e := w.next(); e.Type != "attempt" || show(t, e).Sequence != 7 {
		t.Errorf("%+v", e)
	}
}

func TestLiveIsBounded(t *testing.T) {
	t.Parallel()
	s := serveLive(t, nil)
	for range 64 {
		s.watch(t, "", token, "")
	}
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.url+"/api/v1/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "64 are watching") {
		t.Errorf("%s %s", resp.Status, body)
	}
}

func TestLiveIsRefused(t *testing.T) {
	t.Parallel()
	log := bustest.New(t)
	h, _ := open(t, log, nil)
	record(t, log, "former", 1, "e-1", webhook.Delivered)
	starting, _ := setup(t, func(c *api.Config) { c.Log = nil })
	for _, tt := range []struct {
		h           http.Handler
		query, last string
		code        int
		want        string
	}{
		{h, "?kind=nonsense", "", 400, "kind"},
		{h, "?endpoint=a.b", "", 400, "no id of an endpoint"},
		{h, "?since=1h", "", 400, "since"},
		{h, "", "x", 400, "Last-Event-ID"},
		{h, "?workspace=_&endpoint=file", "1", 200, ""},
		{h, "?workspace=_&endpoint=former", "1", 200, ""},
		{h, "?workspace=_&endpoint=nobody", "1", 404, "nobody: no such endpoint"},
		{starting, "", "", 503, "starting"},
	} {
		w := do(tt.h, "GET", "/api/v1/live"+tt.query, "", "Authorization", "Bearer "+token, "Last-Event-ID", tt.last)
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s: %d %s", tt.query, w.Code, w.Body)
		}
	}
}

// A token tells what it may do; without any, whoever is here may do everything.
func TestToken(t *testing.T) {
	t.Parallel()
	const read = "token-read-only-00"
	h, _ := setup(t, func(c *api.Config) {
		c.Tokens = append(c.Tokens, api.Token{Name: "acme reads", Secret: read, Workspaces: []string{"acme"}})
	})
	none, _ := setup(t, func(c *api.Config) { c.Tokens, c.Logger = nil, slog.New(slog.DiscardHandler) })
	for _, tt := range []struct {
		h            http.Handler
		secret, want string
	}{
		{h, token, `{"name":"admin","access":"write","workspaces":[]}`},
		{h, read, `{"name":"acme reads","access":"read","workspaces":["acme"]}`},
		{none, "", `{"name":"local","access":"write","workspaces":[]}`},
	} {
		w := do(tt.h, "GET", "/api/v1/token", "", "Authorization", "Bearer "+tt.secret)
		if got := strings.TrimSpace(w.Body.String()); got != tt.want {
			t.Errorf("%s, want %s", got, tt.want)
		}
	}
}

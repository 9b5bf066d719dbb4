package nexsim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestStreamBegins(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"", "/api/developers"} {
		b := setup(t, Options{Now: noon().now})
		resp := b.do(http.MethodGet, base+"/v1/insights/stream", DefaultKey("acme"), "")
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("%s: %d %v", base, resp.StatusCode, resp.Header)
		}
		s := &stream{t, resp, bufio.NewReader(resp.Body)}
		id := b.StateOf("acme").WorkspaceID
		if got, want := s.block(), ": connected workspace_id="+id+" token_id="+digits("token", DefaultKey("acme"))+"\n"; got != want {
			t.Errorf("greeting %q, want %q", got, want)
		}
	}
}

func TestLiveBatch(t *testing.T) {
	t.Parallel()
	clock := noon()
	b := setup(t, Options{Now: clock.now})
	s := b.open()
	b.wantStreams(1)
	emitted := b.Emit("acme", 3)
	name, data := s.event()
	if name != "insight.batch.created" {
		t.Fatalf("event %q", name)
	}
	got := decode[Batch](t, []byte(data))
	if got.InsightCount != 3 || len(got.Insights) != 3 || got.OperationID != emitted.OperationID || !got.EmittedAt.Equal(clock.at) {
		t.Errorf("batch %+v", got)
	}
	if w := got.Workspace; w.Name != "Acme Corp" || w.Slug != "acme" || w.BusinessInfo != (BusinessInfo{"Acme Corp", "acme.example"}) {
		t.Errorf("workspace %+v", w)
	}
	for i, in := range got.Insights {
		if in.ID != "" || !in.CreatedAt.IsZero() {
			t.Errorf("live insight has id %q and time %v", in.ID, in.CreatedAt)
		}
		if e := emitted.Insights[i]; e.ID == "" || !e.CreatedAt.Equal(clock.at) || e.Content != in.Content {
			t.Errorf("returned %+v for %+v", e, in)
		}
	}
	if all := b.Emitted("acme"); !slices.Equal(contents(all), contents(emitted.Insights)) || all[2].ID != emitted.Insights[2].ID {
		t.Errorf("emitted %+v", all)
	}
}

func TestLiveIDs(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{LiveIDs: true})
	s := b.open()
	b.wantStreams(1)
	emitted := b.Emit("acme", 1)
	if got := s.live().Insights[0].ID; got == "" || got != emitted.Insights[0].ID {
		t.Errorf("live id %q, emitted %q", got, emitted.Insights[0].ID)
	}
	_, data := b.open().event()
	if !strings.Contains(data, emitted.Insights[0].ID) {
		t.Errorf("replay without the id: %s", data)
	}
}

func TestEmitInsightsAndRaw(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{})
	s := b.open()
	b.wantStreams(1)
	at := time.Date(2020, 1, 2, 3, 4, 5, 6000, time.UTC)
	b.EmitInsights("acme", Insight{Type: "risk", Content: "own", ID: "n-1", CreatedAt: at}, Insight{Type: "new_type", Content: "é"})
	got := s.live().Insights
	if got[0].ID != "n-1" || !got[0].CreatedAt.Equal(at) || got[1].ID != "" || got[1].Type != "new_type" || got[1].Content != "é" {
		t.Errorf("got %+v", got)
	}
	b.EmitInsights("acme")
	if _, data := s.event(); !strings.Contains(data, `"insights":[],`) {
		t.Errorf("empty batch: %s", data)
	}
	b.EmitRaw("acme", "", []byte("one\ntwo"))
	if got := s.block(); got != "data: one\ndata: two\n" {
		t.Errorf("raw event %q", got)
	}
	if n := len(b.Emitted("acme")); n != 2 {
		t.Errorf("%d emitted, want 2", n)
	}
}

func TestKeepalive(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{Keepalive: 10 * time.Millisecond})
	s := b.open()
	s.block()
	for range 3 {
		if got := s.block(); got != ": keepalive\n" {
			t.Fatalf("got %q", got)
		}
	}
}

func TestReplayForms(t *testing.T) {
	t.Parallel()
	type form struct {
		shape, time string
		events      int
		first       string
	}
	item := `{"type":"risk","content":"c5","confidence":0.5,"target":{"entity_type":"person","hint":"Zoë"}`
	whole := `,"created_at":"2026-02-05T12:00:00Z"}`
	workspace := `"workspace":{"name":"Acme Corp","slug":"acme","business_info":{"name":"Acme Corp","domain":"acme.example"}}`
	for _, f := range []form{
		{ReplayBatch, ReplaySeconds, 20, `{` + workspace + `,"insights":[` + item + whole + `],"insight_count":1,"emitted_at":"2026-02-05T12:00:00Z"}`},
		{ReplayBatch, ReplayNoTime, 20, `{` + workspace + `,"insights":[` + item + `}],"insight_count":1}`},
		{ReplaySingle, ReplaySeconds, 20, item + whole},
		{ReplaySingle, ReplayNoTime, 20, item + `}`},
		{ReplayArray, ReplaySeconds, 1, `[` + item + whole + `,`},
	} {
		t.Run(f.shape+" "+f.time, func(t *testing.T) {
			t.Parallel()
			b := setup(t, Options{ReplayShape: f.shape, ReplayTime: f.time, Now: noon().now})
			for i := range 25 {
				b.EmitInsights("acme", Insight{
					Type: "risk", TypeDescription: "d", Content: fmt.Sprintf("c%d", i), Confidence: 0.5, ConfidenceLevel: "medium",
					Target:   &Target{Type: "entity", EntityType: "person", Hint: "Zoë", Signals: []Signal{{"email", "z@x.example"}}},
					Evidence: []Evidence{{Excerpt: "e"}},
				})
			}
			s := b.open()
			b.wantStreams(1)
			b.EmitRaw("acme", "end", []byte("{}"))
			var got []string
			for name, data := s.event(); name != "end"; name, data = s.event() {
				if name != "insight.replay" {
					t.Fatalf("event %q", name)
				}
				got = append(got, data)
			}
			if len(got) != f.events || !strings.HasPrefix(got[0], f.first) {
				t.Fatalf("%d events, the first\n%s, want\n%s", len(got), got[0], f.first)
			}
			all := strings.Join(got, "")
			for i := 5; i < 25; i++ {
				if strings.Count(all, fmt.Sprintf(`"content":"c%d"`, i)) != 1 {
					t.Errorf("c%d is not there once", i)
				}
			}
			if strings.Index(all, `"c23"`) > strings.Index(all, `"c24"`) {
				t.Error("the newest is not the last")
			}
		})
	}
}

func TestReplayOfNothing(t *testing.T) {
	t.Parallel()
	for _, shape := range []string{ReplayBatch, ReplaySingle, ReplayArray} {
		b := setup(t, Options{ReplayShape: shape})
		s := b.open()
		b.wantStreams(1)
		b.Emit("acme", 1)
		s.live()
	}
}

// Every stream sees, whenever it connects, an unbroken run of what was emitted, up to the end.
func TestNothingBetweenReplayAndLive(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{ReplayShape: ReplaySingle, SizeMax: 2 << 10, Buffer: 1 << 30}) // readers may be slower than the emitter
	begin, stop, emitter := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(emitter)
		pace := time.NewTicker(500 * time.Microsecond)
		defer pace.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				b.EmitInsights("acme", Insight{Type: "activity", Content: "last"})
				return
			case <-pace.C:
				b.Emit("acme", 0)
			}
			if i == 20 {
				close(begin)
			}
		}
	}()
	<-begin
	var readers sync.WaitGroup
	seen := make([][]string, 10)
	for i := range seen {
		s := b.open()
		readers.Go(func() {
			for len(seen[i]) == 0 || seen[i][len(seen[i])-1] != "last" {
				list, err := s.readContents()
				if err != nil {
					t.Error(err)
					return
				}
				seen[i] = append(seen[i], list...)
			}
		})
	}
	close(stop)
	<-emitter
	readers.Wait()
	all := contents(b.Emitted("acme"))
	for i, got := range seen {
		if len(got) < 20 || len(got) > len(all) || !slices.Equal(got, all[len(all)-len(got):]) {
			t.Errorf("stream %d saw %d insights that are not the newest of %d", i, len(got), len(all))
		}
	}
}

// readContents reads the next event, a replayed single insight or a live batch.
func (s *stream) readContents() ([]string, error) {
	name, data, err := s.readEvent()
	if err != nil {
		return nil, err
	}
	if name == "insight.replay" {
		var in Insight
		err := json.Unmarshal([]byte(data), &in)
		return []string{in.Content}, err
	}
	var live Batch
	err = json.Unmarshal([]byte(data), &live)
	return contents(live.Insights), err
}

func TestSlowReader(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{Buffer: 1 << 20})
	slow, quick := b.open(), b.open()
	b.wantStreams(2)
	blob := []byte(strings.Repeat("x", 256<<10))
	received := make(chan int)
	go func() {
		defer close(received)
		for n := 1; ; n++ {
			if name, _, err := quick.readEvent(); err != nil || name == "end" {
				return
			}
			received <- n
		}
	}()
	sent := 0
	for b.StateOf("acme").TooSlow == 0 {
		b.EmitRaw("acme", "blob", blob)
		sent++
		if n := <-received; n != sent {
			t.Fatalf("the quick reader has %d of %d", n, sent)
		}
		if sent > 1000 {
			t.Fatal("250 MiB went into a stream that nobody reads")
		}
	}
	b.wantStreams(1)
	b.EmitRaw("acme", "end", nil)
	if n, more := <-received; more {
		t.Errorf("the quick reader got event %d of %d", n, sent)
	}
	if _, err := slow.rest(); err == nil {
		t.Error("the slow stream ended cleanly")
	}
}

func TestLargeEventFitsIntoSmallBuffer(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{Buffer: 1})
	s := b.open()
	s.block() // the greeting has been written, the buffer is empty
	b.EmitRaw("acme", "blob", []byte(strings.Repeat("x", 1<<20)))
	if _, data := s.event(); len(data) != 1<<20 {
		t.Errorf("%d bytes", len(data))
	}
}

func TestReplayFitsIntoSmallBuffer(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{Buffer: 1})
	b.Emit("acme", 30)
	s := b.open()
	for i := range 20 {
		if name, data := s.event(); name != "insight.replay" || !strings.Contains(data, string(mustJSON(b.Emitted("acme")[10+i].Content))) {
			t.Fatalf("event %d: %s %s", i, name, data)
		}
	}
}

func TestClientGoesAway(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{})
	s := b.open()
	b.wantStreams(1)
	s.close()
	b.wantStreams(0)
}

func TestClose(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{})
	s := b.open()
	b.wantStreams(1)
	b.Close()
	b.Close()
	if _, err := s.rest(); err != nil {
		t.Errorf("the stream did not end cleanly: %v", err)
	}
	if status, body := b.get("/v1/insights/stream"); status != http.StatusServiceUnavailable {
		t.Errorf("a stream after Close: %d %s", status, body)
	}
	if status, _ := b.get("/v1/insights"); status != http.StatusOK {
		t.Errorf("REST after Close: %d", status)
	}
}

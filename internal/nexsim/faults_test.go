package nexsim

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

func TestDrop(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{Workspaces: []Workspace{{Slug: "acme"}, {Slug: "globex"}}})
	for _, abort := range []bool{false, true} {
		for _, slug := range []string{"acme", ""} {
			s := b.open()
			b.wantStreams(1)
			if n := b.Drop("globex", abort); n != 0 {
				t.Errorf("dropped %d streams of another workspace", n)
			}
			if n := b.Drop(slug, abort); n != 1 {
				t.Errorf("dropped %d", n)
			}
			if _, err := s.rest(); (err != nil) != abort {
				t.Errorf("abort %v: the stream ended with %v", abort, err)
			}
			b.wantStreams(0)
		}
	}
	if status, _ := b.get("/v1/insights"); status != 200 { // also over a connection that served a stream
		t.Errorf("REST after a drop: %d", status)
	}
}

// Ending a stream must also end one whose writer hangs because nobody reads.
func TestDropHangingWriter(t *testing.T) {
	t.Parallel()
	for _, abort := range []bool{false, true} {
		sim := newSim(t, Options{})
		handler, left := sim.Handler(), make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(left)
			handler.ServeHTTP(w, r)
		}))
		defer server.Close()
		b := &bundle{sim, t, server.URL, &http.Client{Transport: &http.Transport{}}}
		defer b.client.CloseIdleConnections()
		s := b.open()
		b.wantStreams(1)
		b.EmitRaw("acme", "blob", []byte(strings.Repeat("x", 32<<20)))
		s.block()
		s.bytes(1) // of the event: its write has begun, and cannot end
		b.Drop("acme", abort)
		<-left
		if _, err := s.rest(); err == nil {
			t.Errorf("abort %v: the stream ended cleanly in mid-event", abort)
		}
	}
}

func TestStall(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{Keepalive: 5 * time.Millisecond})
	s := b.open()
	for s.block() != ": keepalive\n" {
	}
	if n := b.Stall("acme", false); n != 1 {
		t.Fatalf("stalled %d", n)
	}
	other := b.open() // is not stalled, and proves that time passes
	emitted := b.Emit("acme", 1)
	for range 10 {
		other.block()
	}
	got := make(chan string, 1024) // the reader waits for nobody
	go func() {
		defer close(got)
		for {
			block, err := s.readBlock()
			if err != nil {
				return
			}
			got <- block
		}
	}()
	// Keepalives that were on their way when the stall began may still come. Then it is silent while the other gets ten.
	silent := func() bool {
		for range 10 {
			other.block()
		}
		for quiet := true; ; quiet = false {
			select {
			case block := <-got:
				if block != ": keepalive\n" {
					t.Fatalf("a stalled stream got %q", block)
				}
			default:
				return quiet
			}
		}
	}
	for tries := 0; !silent(); tries++ {
		if tries == 5 {
			t.Fatal("a stalled stream gets keepalives on and on")
		}
	}
	if n := b.Resume("acme"); n != 2 {
		t.Errorf("%d streams after the stall", n)
	}
	for block := range got {
		if strings.HasPrefix(block, ": keepalive") {
			continue
		}
		if !strings.Contains(block, string(mustJSON(emitted.Insights[0].Content))) {
			t.Errorf("after the stall: %q", block)
		}
		break
	}
	s.close()
	for range got { // until the reader is through
	}
}

func TestStallNew(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{})
	b.Emit("acme", 1)
	b.Stall("", true)
	s := b.open() // has its header
	b.wantStreams(1)
	c := b.workspaces[0].conns[0]
	if _, ok := c.next(); ok {
		t.Error("a stalled stream has something to write")
	}
	b.Emit("acme", 2)
	b.Resume("")
	if got := s.block(); !strings.HasPrefix(got, ": connected") {
		t.Errorf("first after the stall: %q", got)
	}
	if name, _ := s.event(); name != "insight.replay" {
		t.Errorf("then %q", name)
	}
	if got := s.live(); len(got.Insights) != 2 {
		t.Errorf("then %+v", got)
	}
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	const stream, rest = "/v1/insights/stream", "/v1/insights"
	for _, c := range []struct {
		name         string
		refusal      Refusal
		streams, res []int // status of two requests
		body         string
	}{
		{"both", Refusal{Status: 503}, []int{503, 503}, []int{503, 503}, `{"code":503,"message":"Service Unavailable"}`},
		{"stream", Refusal{Status: 500, Endpoint: "stream", Message: "m"}, []int{500, 500}, []int{200, 200}, `{"code":500,"message":"m"}`},
		{"rest", Refusal{Status: 429, Endpoint: "rest", RetryAfter: "7"}, []int{200, 200}, []int{429, 429}, ""},
		{"once", Refusal{Status: 401, Endpoint: "stream", Count: 1}, []int{401, 200}, []int{200, 200}, ""},
		{"workspace", Refusal{Status: 502, Workspace: "acme", Body: "<html>bad gateway"}, []int{502, 502}, []int{502, 502}, "<html>bad gateway"},
		{"other workspace", Refusal{Status: 502, Workspace: "globex"}, []int{200, 200}, []int{200, 200}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, Options{Workspaces: []Workspace{{Slug: "acme"}, {Slug: "globex"}}})
			if err := b.Refuse(c.refusal); err != nil {
				t.Fatal(err)
			}
			for path, want := range map[string][]int{stream: c.streams, rest: c.res} {
				for i, status := range want {
					resp := b.do(http.MethodGet, path, DefaultKey("acme"), "")
					if resp.StatusCode != status {
						t.Errorf("%s request %d: %d, want %d", path, i, resp.StatusCode, status)
					}
					if status == 200 {
						resp.Body.Close()
						continue
					}
					if got := resp.Header.Get("Retry-After"); got != c.refusal.RetryAfter {
						t.Errorf("Retry-After %q", got)
					}
					if body := string(b.read(resp)); c.body != "" && body != c.body {
						t.Errorf("body %s", body)
					}
				}
			}
			b.Clear("")
			for _, path := range []string{stream, rest} {
				resp := b.do(http.MethodGet, path, DefaultKey("acme"), "")
				if resp.StatusCode != 200 {
					t.Errorf("%s after Clear: %d", path, resp.StatusCode)
				}
				resp.Body.Close()
			}
		})
	}
}

func TestRefuseWithoutKey(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{})
	for _, r := range []Refusal{{Status: 503, Workspace: "acme"}, {Status: 504, Count: 1}} {
		if err := b.Refuse(r); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{504, 401} { // a workspace's refusal needs a key of that workspace
		if resp := b.do(http.MethodGet, "/v1/insights", "", ""); resp.StatusCode != want {
			t.Errorf("without a key: %d, want %d", resp.StatusCode, want)
		}
	}
	if n := b.State().Refusals; n != 1 {
		t.Errorf("%d refusals in force, want 1", n)
	}
	b.Clear("acme")
	if n := b.State().Refusals; n != 0 {
		t.Errorf("%d refusals in force after Clear", n)
	}
}

func TestRedirect(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{})
	for _, status := range []int{302, 307} {
		if err := b.Redirect("acme", EndpointREST, status, "http://127.0.0.1:1/elsewhere", 1); err != nil {
			t.Fatal(err)
		}
		resp := b.do(http.MethodGet, "/v1/insights", DefaultKey("acme"), "")
		if resp.StatusCode != status || resp.Header.Get("Location") != "http://127.0.0.1:1/elsewhere" {
			t.Errorf("%d to %q", resp.StatusCode, resp.Header.Get("Location"))
		}
	}
	if status, _ := b.get("/v1/insights"); status != 200 {
		t.Errorf("after the last: %d", status)
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{})
	s := b.open()
	s.block()
	whole := b.Emit("acme", 1)
	cut := b.Cut("acme")
	b.wantStreams(0)
	if got := s.live(); got.OperationID != whole.OperationID {
		t.Errorf("before the cut: %+v", got)
	}
	half, err := s.rest()
	if err == nil {
		t.Error("the stream ended cleanly")
	}
	if !strings.HasPrefix(half, "event: insight.batch.created\ndata: {") || strings.HasSuffix(half, "\n\n") || len(half) < 400 {
		t.Errorf("half an event: %q", half)
	}
	if got := b.insights("limit=1"); !slices.Equal(got, contents(cut.Insights)) {
		t.Errorf("REST has %q", got)
	}
	again := b.open()
	again.event()
	if _, data := again.event(); !strings.Contains(data, string(mustJSON(cut.Insights[0].Content))) {
		t.Errorf("replay has %s", data)
	}
}

func TestCutEndsStall(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{})
	s := b.open()
	b.wantStreams(1)
	b.Stall("acme", false)
	b.Cut("acme")
	if _, err := s.rest(); err == nil {
		t.Error("the stream ended cleanly")
	}
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{})
	s := b.open()
	b.wantStreams(1)
	for kind, check := range map[string]func(block string) bool{
		GarbageJSON: func(s string) bool {
			return strings.HasPrefix(s, "event: insight.batch.created\ndata: {") && !strings.HasSuffix(s, "}\n")
		},
		GarbageBinary: func(s string) bool {
			return !utf8.ValidString(s) && strings.Contains(s, "\nevent: insight.batch.created\ndata: ")
		},
		GarbageUTF8:     func(s string) bool { return !utf8.ValidString(s) && strings.HasSuffix(s, "}\n") },
		GarbageOversize: func(s string) bool { return len(s) == len("event: insight.batch.created\ndata: \n")+5_000_000 },
	} {
		size := 0
		if kind == GarbageOversize {
			size = 5_000_000
		}
		if err := b.Garbage("acme", kind, size); err != nil {
			t.Fatal(err)
		}
		block := s.block()
		if strings.HasPrefix(block, ":") {
			block = s.block()
		}
		if !check(block) {
			t.Errorf("%s: %.200q", kind, block)
		}
	}
	b.Emit("acme", 1)
	s.live() // the stream goes on
	if n := len(b.Emitted("acme")); n != 1 {
		t.Errorf("%d emitted", n)
	}
}

func TestWire(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		wire Wire
		head string // of the stream, the identity left out
		eol  string
	}{
		{"plain", Wire{}, ": connected ", "\n"},
		{"lf", Wire{LineEnding: "lf", Chunk: 7}, ": connected ", "\n"},
		{"crlf", Wire{LineEnding: "crlf", BOM: true}, "\ufeff: connected ", "\r\n"},
		{"cr", Wire{LineEnding: "cr", Chunk: 1, Pause: time.Microsecond}, ": connected ", "\r"},
		{"split", Wire{SplitUTF8: true}, ": connected ", "\n"},
		{"retry", Wire{Retry: 1500 * time.Millisecond}, ": connected ", "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, Options{})
			if err := b.SetWire("acme", c.wire); err != nil {
				t.Fatal(err)
			}
			s := b.open()
			b.wantStreams(1)
			b.EmitRaw("acme", "e", []byte("田é\nx"))
			want := c.head + "workspace_id=" + b.StateOf("acme").WorkspaceID + " token_id=" + digits("token", DefaultKey("acme")) + c.eol + c.eol
			if c.wire.Retry > 0 {
				want += "retry: 1500" + c.eol + c.eol
			}
			want += "event: e" + c.eol + "data: 田é" + c.eol + "data: x" + c.eol + c.eol
			if got := s.bytes(len(want)); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestWireOfOpenStream(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{})
	s := b.open()
	s.block()
	if err := b.SetWire("", Wire{Retry: 2 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if got := s.block(); got != "retry: 2000\n" {
		t.Errorf("got %q", got)
	}
	if err := b.SetWire("", Wire{Retry: 2 * time.Second, LineEnding: "crlf", Chunk: 1}); err != nil {
		t.Fatal(err)
	}
	b.EmitRaw("acme", "e", []byte("é"))
	want := "event: e\r\ndata: é\r\n\r\n"
	if got := s.bytes(len(want)); got != want {
		t.Errorf("got %q", got)
	}
}

func TestPieces(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		wire Wire
		want []string
	}{
		{Wire{Chunk: 1}, []string{"a", "\xc3", "\xa9", "b"}},
		{Wire{Chunk: 3}, []string{"a\xc3\xa9", "b"}},
		{Wire{SplitUTF8: true}, []string{"a\xc3", "\xa9b"}},
		{Wire{SplitUTF8: true, Chunk: 1}, []string{"a", "\xc3", "\xa9", "b"}},
	} {
		var got []string
		for b := []byte("aéb"); len(b) > 0; {
			n := c.wire.piece(b)
			got = append(got, string(b[:n]))
			b = b[n:]
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.wire, got, c.want)
		}
	}
}

func TestRevokeAndAddKey(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{})
	s := b.open()
	b.wantStreams(1)
	if !b.RevokeKey(DefaultKey("acme")) || b.RevokeKey(DefaultKey("acme")) {
		t.Error("a key can be revoked once")
	}
	if _, err := s.rest(); err != nil {
		t.Errorf("the stream did not end cleanly: %v", err)
	}
	if status, _ := b.get("/v1/insights"); status != 401 {
		t.Errorf("a revoked key: %d", status)
	}
	for scopes, want := range map[string]int{"": 403, ScopeInsights: 200} {
		if err := b.SetKey("acme", Key{DefaultKey("acme"), []string{scopes}}); err != nil {
			t.Fatal(err)
		}
		if status, _ := b.get("/v1/insights"); status != want {
			t.Errorf("scope %q: %d", scopes, status)
		}
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	b := setup(t, Options{Limit: RateLimit{PerSecond: 0.001, Burst: 2, RetryAfter: true}})
	for i, want := range []int{200, 200, 429, 429} {
		resp := b.do(http.MethodGet, "/v1/insights", DefaultKey("acme"), "")
		if resp.StatusCode != want {
			t.Errorf("request %d: %d", i, resp.StatusCode)
		}
		// Since the first request some time has passed.
		after := resp.Header.Get("Retry-After")
		if n, err := strconv.Atoi(after); (want == 429) != (err == nil && n <= 1000 && n > 1000-int(patience.Seconds())) {
			t.Errorf("request %d: Retry-After %q", i, after)
		}
	}
	if resp := b.do(http.MethodGet, "/v1/insights/stream", DefaultKey("acme"), ""); resp.StatusCode != 429 {
		t.Errorf("stream: %d", resp.StatusCode)
	}
	if err := b.SetLimit(RateLimit{PerSecond: 0.01}); err != nil {
		t.Fatal(err)
	}
	b.get("/v1/insights")
	if resp := b.do(http.MethodGet, "/v1/insights", DefaultKey("acme"), ""); resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "" {
		t.Errorf("without Retry-After: %d %v", resp.StatusCode, resp.Header)
	}
	if err := b.SetLimit(RateLimit{}); err != nil {
		t.Fatal(err)
	}
	if status, _ := b.get("/v1/insights"); status != 200 {
		t.Errorf("without a limit: %d", status)
	}
}

func TestSeconds(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{1: "1", time.Second: "1", time.Second + 1: "2", 90 * time.Second: "90"} {
		if got := seconds(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestDuplicates(t *testing.T) {
	t.Parallel()
	b := newSim(t, Options{SizeMax: minSize})
	b.Emit("acme", 1)
	if err := b.SetDuplicates("", 0.5); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		b.Emit("acme", 10)
	}
	texts, ids := map[string]bool{}, map[string]bool{}
	for _, in := range b.Emitted("acme") {
		texts[in.Type+in.Content], ids[in.ID] = true, true
	}
	if len(ids) != 1001 || len(texts) < 400 || len(texts) > 600 {
		t.Errorf("%d texts under %d ids", len(texts), len(ids))
	}
}

func TestJumpClock(t *testing.T) {
	t.Parallel()
	clock := noon()
	b := setup(t, Options{Now: clock.now})
	b.JumpClock(-2 * time.Hour)
	b.Emit("acme", 1)
	b.JumpClock(5 * time.Hour)
	if got := b.Emit("acme", 1); !got.EmittedAt.Equal(clock.at.Add(3 * time.Hour)) {
		t.Errorf("emitted at %v", got.EmittedAt)
	}
	b.JumpClock(-4 * time.Hour)
	third := b.Emit("acme", 1)
	all := contents(b.Emitted("acme"))
	if got := b.insights(""); !slices.Equal(got, []string{all[1], all[2], all[0]}) {
		t.Errorf("REST is not in the order of time: %q", got)
	}
	if got := b.insights("last=10m&limit=9"); !slices.Equal(got, []string{all[1], third.Insights[0].Content}) {
		t.Errorf("last=10m: %q", got)
	}
	for range 30 {
		b.JumpClock(1<<63 - 1)
	}
	if year := b.Now().Year(); year != 2115 && year != 2116 {
		t.Errorf("the clock went to the year %d", year)
	}
	for range 30 {
		b.JumpClock(-1 << 63)
	}
	if year := b.Now().Year(); year != 1935 && year != 1936 {
		t.Errorf("the clock went to the year %d", year)
	}
}

func TestFaultArguments(t *testing.T) {
	t.Parallel()
	s := newSim(t, Options{})
	for name, err := range map[string]error{
		"refusal status":      s.Refuse(Refusal{Status: 200}),
		"refusal endpoint":    s.Refuse(Refusal{Status: 500, Endpoint: "x"}),
		"refusal count":       s.Refuse(Refusal{Status: 500, Count: -1}),
		"refusal workspace":   s.Refuse(Refusal{Status: 500, Workspace: "x"}),
		"redirect status":     s.Redirect("", "", 500, "http://x", 0),
		"redirect location":   s.Redirect("", "", 302, "", 0),
		"garbage kind":        s.Garbage("acme", "x", 0),
		"garbage size":        s.Garbage("acme", GarbageOversize, 65<<20),
		"garbage workspace":   s.Garbage("", GarbageJSON, 0),
		"line ending":         s.SetWire("", Wire{LineEnding: "x"}),
		"chunk":               s.SetWire("", Wire{Chunk: -1}),
		"wire workspace":      s.SetWire("x", Wire{}),
		"duplicates":          s.SetDuplicates("", 1.5),
		"duplicates where":    s.SetDuplicates("x", 1),
		"rate":                s.SetRate(-1),
		"limit":               s.SetLimit(RateLimit{PerSecond: -1}),
		"key":                 s.SetKey("acme", Key{}),
		"key workspace":       s.SetKey("x", Key{Token: "t"}),
		"REST shape":          s.SetREST("x", true),
		"replay shape":        s.SetReplay("x", ReplaySeconds),
		"replay time":         s.SetReplay(ReplayBatch, "x"),
		"waiting for nothing": s.WaitConnected(t.Context(), "x", 0),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for name, call := range map[string]func(){
		"emit": func() { s.Emit("x", 1) }, "drop": func() { s.Drop("x", true) }, "cut": func() { s.Cut("") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: an unknown workspace does not panic", name)
				}
			}()
			call()
		}()
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, Options{Rate: 200, SizeMax: minSize, Workspaces: []Workspace{{Slug: "acme"}, {Slug: "globex"}}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		count := func(seconds int, low, high int) {
			t.Helper()
			before := s.State().Emitted
			time.Sleep(time.Duration(seconds) * time.Second) // of the bubble's clock
			synctest.Wait()
			if n := s.State().Emitted - before; n < low || n > high {
				t.Errorf("%d insights in %d s, want %d..%d", n, seconds, low, high)
			}
		}
		count(10, 1900, 2100)
		set := func(rate float64) {
			if err := s.SetRate(rate); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		set(0)
		count(3600, 0, 0)
		set(20)
		count(100, 1850, 2150)
		for _, w := range s.State().Workspaces {
			if w.Emitted < 1000 {
				t.Errorf("%s emitted %d", w.Slug, w.Emitted)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]Options{
		"batch size 4..2":         {BatchMin: 4, BatchMax: 2},
		"batch size 1..6":         {BatchMax: 6},
		"insight size 10..204800": {SizeMin: 10},
		"keepalive":               {Keepalive: -1},
		"history":                 {History: -1},
		"buffer":                  {Buffer: -1},
		"rate -1":                 {Rate: -1},
		"limit -1":                {Limit: RateLimit{PerSecond: -1}},
		"REST shape":              {RESTShape: "x"},
		"replay shape":            {ReplayShape: "x"},
		`time "x"`:                {ReplayTime: "x"},
		"1..100 bytes":            {Workspaces: []Workspace{{}}},
		"given twice":             {Workspaces: []Workspace{{Slug: "a"}, {Slug: "a"}}},
		"token is empty":          {Workspaces: []Workspace{{Slug: "a", Keys: []Key{{}}}}},
		"belongs to workspace":    {Workspaces: []Workspace{{Slug: "a", Keys: []Key{{Token: "k"}}}, {Slug: "b", Keys: []Key{{Token: "k"}}}}},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	_, err := New(Options{Rate: -1, BatchMin: 9})
	if err == nil || !strings.Contains(err.Error(), "rate") || !strings.Contains(err.Error(), "batch") {
		t.Errorf("not every problem: %v", err)
	}
	s := newSim(t, Options{Workspaces: []Workspace{{Slug: "acme-eu"}}})
	if got := s.Emit("acme-eu", 1).Workspace.Name; got != "Acme-eu" {
		t.Errorf("name %q", got)
	}
}

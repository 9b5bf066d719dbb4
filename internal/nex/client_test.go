package nex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const (
	key      = "nex_key-0123456789"
	patience = 2 * time.Minute
)

// serve starts a server and a client of it.
func serve(t *testing.T, cfg ClientConfig, handler http.HandlerFunc) (*Client, *httptest.Server) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	cfg.BaseURL = server.URL + "/api"
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	return c, server
}

// streaming answers as a stream, writes text, and stays open until the request ends.
func streaming(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestNewClientRefusesBadURLs(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"", "app.nex.ai", "ftp://a", "http://", "http://a b", "/api"} {
		if _, err := NewClient(ClientConfig{BaseURL: u}); err == nil {
			t.Errorf("%q passes", u)
		}
	}
}

func TestStream(t *testing.T) {
	t.Parallel()
	requests := make(chan *http.Request, 1)
	c, _ := serve(t, ClientConfig{UserAgent: "nex-relay/test"}, func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		streaming(": connected workspace_id=w1 token_id=t1\nretry: 2500\n\n: keepalive\n\nevent: insight.replay\ndata: {}\n\n")(w, r)
	})
	feed, err := c.Stream(bounded(t), key)
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	r := <-requests
	if r.Method != "GET" || r.URL.Path != "/api/v1/insights/stream" || r.Header.Get("Authorization") != "Bearer "+key ||
		r.Header.Get("Accept") != "text/event-stream" || r.Header.Get("User-Agent") != "nex-relay/test" || r.Header.Get("Accept-Encoding") != "" {
		t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
	}
	select {
	case <-feed.Connected():
		t.Error("connected before a byte was read")
	default:
	}
	frame, err := feed.Next()
	if err != nil || frame.Event != "insight.replay" || string(frame.Data) != "{}" {
		t.Fatalf("%+v, %v", frame, err)
	}
	<-feed.Connected()
	if workspace, token := feed.Identity(); workspace != "w1" || token != "t1" {
		t.Errorf("%q %q", workspace, token)
	}
	if d, ok := feed.Retry(); !ok || d != 2500*time.Millisecond {
		t.Errorf("retry %v %v", d, ok)
	}
}

func TestStreamEnds(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T, ctx context.Context, handler http.HandlerFunc) *Feed {
		c, _ := serve(t, ClientConfig{}, handler)
		feed, err := c.Stream(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = feed.Close() })
		return feed
	}
	t.Run("by the server", func(t *testing.T) {
		t.Parallel()
		feed := open(t, bounded(t), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: x\n\ndata: unfinished")
		})
		if frame, err := feed.Next(); err != nil || string(frame.Data) != "x" {
			t.Fatalf("%+v, %v", frame, err)
		}
		if _, err := feed.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("broken off", func(t *testing.T) {
		t.Parallel()
		feed := open(t, bounded(t), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		if _, err := feed.Next(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("by close", func(t *testing.T) {
		t.Parallel()
		feed := open(t, bounded(t), streaming("data: x\n\n"))
		if _, err := feed.Next(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() {
			_, err := feed.Next()
			ended <- err
		}()
		_ = feed.Close()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("by the context", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(bounded(t))
		feed := open(t, ctx, streaming("data: x\n\n"))
		if _, err := feed.Next(); err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := feed.Next(); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("by silence", func(t *testing.T) {
		t.Parallel()
		c, _ := serve(t, ClientConfig{IdleTimeout: 50 * time.Millisecond}, streaming(": connected\n"))
		feed, err := c.Stream(bounded(t), key)
		if err != nil {
			t.Fatal(err)
		}
		defer feed.Close()
		if _, err := feed.Next(); !errors.Is(err, ErrIdle) {
			t.Errorf("got %v", err)
		}
	})
}

// pipe is a body whose reader ends with its context, as a response's does.
func pipe(ctx context.Context, cancel context.CancelCauseFunc, idle time.Duration) (*Feed, *io.PipeWriter) {
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { _ = r.CloseWithError(ctx.Err()) })
	return newFeed(ctx, cancel, r, 1<<20, idle), w
}

func TestSilenceIsMeasuredInBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const idle = 75 * time.Second
		ctx, cancel := context.WithCancelCause(t.Context())
		feed, w := pipe(ctx, cancel, idle)
		start := time.Now()
		go func() {
			for range 10 { // far longer than the limit, but never silent for so long
				time.Sleep(30 * time.Second)
				_, _ = io.WriteString(w, ": keepalive\n")
			}
			time.Sleep(74 * time.Second)
			_, _ = io.WriteString(w, "d") // a byte is a byte
		}()
		_, err := feed.Next()
		if lived := time.Since(start); !errors.Is(err, ErrIdle) || lived != 10*30*time.Second+74*time.Second+idle {
			t.Errorf("ended after %v with %v", lived, err)
		}
		_ = feed.Close()
	})
}

func TestConnectComment(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]string{
		"connected workspace_id=w token_id=t":           {"w", "t"},
		"connected token_id=t extra workspace_id=w x=y": {"w", "t"},
		"connected": {}, "keepalive": {}, "connected workspace_id": {},
		"connected workspace_id=a=b token_id=\x1b[1m": {"a=b", "[1m"},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		feed, w := pipe(ctx, cancel, time.Hour)
		go func() {
			_, _ = io.WriteString(w, ": "+text+"\n\n")
			_ = w.Close()
		}()
		if _, err := feed.Next(); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		<-feed.Connected()
		if workspace, token := feed.Identity(); workspace != want[0] || token != want[1] {
			t.Errorf("%q: %q %q", text, workspace, token)
		}
		_ = feed.Close()
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, status := range []int{204, 301, 400, 401, 403, 404, 429, 500, 503} {
		c, _ := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "9")
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `{"code":%d,"message":"because"}`, status)
		})
		_, serr := c.Stream(bounded(t), key)
		_, rerr := c.Insights(bounded(t), key, Query{})
		for from, err := range map[string]error{"stream": serr, "REST": rerr} {
			if status == 301 { // without a Location there is nowhere to go
				if err == nil {
					t.Errorf("%s: %d passes", from, status)
				}
				continue
			}
			var answer *Error
			if !errors.As(err, &answer) || answer.Status != status || answer.RetryAfter != 9*time.Second {
				t.Errorf("%s, %d: %v", from, status, err)
			}
			if strings.Contains(fmt.Sprint(err), key) {
				t.Errorf("%s, %d: the key is in the error", from, status)
			}
		}
	}
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	var strangers atomic.Int32
	stranger := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { strangers.Add(1) }))
	t.Cleanup(stranger.Close)
	for name, c := range map[string]struct{ location, fault string }{
		"other port":   {stranger.URL + "/api/v1/insights/stream", "the key is not sent"},
		"other host":   {strings.Replace(stranger.URL, "127.0.0.1", "localhost", 1) + "/x", "the key is not sent"},
		"other scheme": {strings.Replace(stranger.URL, "http:", "https:", 1) + "/x", "the key is not sent"},
		"loop":         {"/api/v1/insights/stream", "redirects"},
	} {
		client, _ := serve(t, ClientConfig{}, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, c.location, http.StatusTemporaryRedirect)
		})
		_, err := client.Stream(bounded(t), key)
		if err == nil || !strings.Contains(err.Error(), c.fault) || strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := strangers.Load(); n != 0 {
		t.Errorf("%d requests went to a stranger", n)
	}
	client, _ := serve(t, ClientConfig{}, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer "+key:
			http.Error(w, "no key", http.StatusUnauthorized)
		case r.URL.Path == "/moved":
			_, _ = io.WriteString(w, `[{"content":"a"}]`)
		default:
			http.Redirect(w, r, "/moved", http.StatusPermanentRedirect)
		}
	})
	if p, err := client.Insights(bounded(t), key, Query{}); err != nil || len(p.Insights) != 1 {
		t.Errorf("on the same host: %v", err)
	}
}

func TestWrongAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		fault   string
		within  time.Duration
	}{
		"a page in place of a stream": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>")
		}, fault: "nex.base_url"},
		"no content type": {handler: func(w http.ResponseWriter, _ *http.Request) { w.Header()["Content-Type"] = nil }, fault: "not text/event-stream"},
		"no answer":       {handler: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, fault: "timeout", within: time.Second},
	} {
		client, _ := serve(t, ClientConfig{ConnectTimeout: c.within}, c.handler)
		if _, err := client.Stream(bounded(t), key); err == nil || !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %v", name, err)
		}
	}
	client, server := serve(t, ClientConfig{}, nil)
	server.Close()
	if _, err := client.Stream(bounded(t), key); err == nil || strings.Contains(err.Error(), "/v1/") {
		t.Errorf("nobody there: %v", err)
	}
}

func TestInsights(t *testing.T) {
	t.Parallel()
	from := time.Date(2026, 2, 5, 12, 30, 0, 500, time.FixedZone("", 2*3600))
	for name, c := range map[string]struct {
		query Query
		want  string
	}{
		"nothing": {Query{}, ""},
		"window":  {Query{From: from, To: from.Add(time.Hour), Limit: 100}, "from=2026-02-05T10%3A30%3A00.0000005Z&limit=100&to=2026-02-05T11%3A30%3A00.0000005Z"},
		"last":    {Query{Last: 30 * time.Minute}, "last=1800s"},
	} {
		var got atomic.Value
		client, _ := serve(t, ClientConfig{}, func(w http.ResponseWriter, r *http.Request) {
			got.Store(r.URL.Path + "?" + r.URL.RawQuery)
			_, _ = io.WriteString(w, `{"data":[{"id":"1","content":"a"}]}`)
		})
		p, err := client.Insights(bounded(t), key, c.query)
		if err != nil || len(p.Insights) != 1 || p.Insights[0].ID != "1" || got.Load() != "/api/v1/insights?"+c.want {
			t.Errorf("%s: %v, %v, %+v", name, got.Load(), err, p)
		}
	}
	for name, body := range map[string]string{"cut": `{"data":[{"con`, "page": "<html>", "nothing": ""} {
		client, _ := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
		if _, err := client.Insights(bounded(t), key, Query{}); err == nil {
			t.Errorf("%s passes", name)
		}
	}
	for body, empty := range map[string]bool{
		`{}`: true, ` {"insight_count":0} `: true, `{"data":null}`: true, `{"data":[]}`: true, `{"workspace":{"slug":"acme"},"insight_count":0,"next":""}`: true,
		`{"code":500,"message":"boom"}`: false, `{"message":""}`: false, `{"insight_count":3}`: false, `{"items":[{"content":"a"}]}`: false,
		`{"data":{"content":"a"}}`: false, `{"error":"boom"}`: false, `{"content":""}`: false, `null`: false,
	} {
		client, _ := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
		if p, err := client.Insights(bounded(t), key, Query{}); (err == nil) != empty || len(p.Insights)+len(p.Malformed) > 0 {
			t.Errorf("%s: %+v, %v", body, p, err)
		}
	}
	client, _ := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(w, io.LimitReader(endless('0'), defaultMaxAnswer+10))
	})
	if _, err := client.Insights(bounded(t), key, Query{}); err == nil || !strings.Contains(err.Error(), "over") {
		t.Errorf("an endless answer: %v", err)
	}
}

// Before a large answer is read somebody is asked, once.
func TestLargeAnswer(t *testing.T) {
	t.Parallel()
	refused := errors.New("no room")
	for name, c := range map[string]struct {
		size  int
		err   error
		asked int
	}{"small": {SmallAnswer / 2, refused, 0}, "large": {3 * SmallAnswer, nil, 1}, "large, and there is no room": {3 * SmallAnswer, refused, 1}} {
		client, _ := serve(t, ClientConfig{}, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"data":[{"type":"risk","content":"`+strings.Repeat("x", c.size)+`"}]}`)
		})
		asked := 0
		p, err := client.Insights(bounded(t), key, Query{Large: func(context.Context) error { asked++; return c.err }})
		if asked != c.asked || c.asked > 0 && !errors.Is(err, c.err) {
			t.Errorf("%s: asked %d times, %v", name, asked, err)
		}
		if err == nil && (len(p.Insights) != 1 || len(p.Insights[0].Content) != c.size) {
			t.Errorf("%s: %d insights", name, len(p.Insights))
		}
	}
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

// A request over REST is bounded in time, but the wait for room for its answer is not part of that.
func TestTimeOfARequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		silent := false
		client, err := NewClient(ClientConfig{BaseURL: "http://127.0.0.1", Transport: transport(func(r *http.Request) (*http.Response, error) {
			if silent {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			body, w := io.Pipe()
			go func() {
				defer context.AfterFunc(r.Context(), func() { _ = w.CloseWithError(r.Context().Err()) })()
				_, _ = io.WriteString(w, `{"data":[{"type":"risk","content":"`+strings.Repeat("x", 2*SmallAnswer)+`"}]}`)
				_ = w.Close()
			}()
			return &http.Response{StatusCode: http.StatusOK, Body: body}, nil
		})})
		if err != nil {
			t.Fatal(err)
		}
		p, err := client.Insights(t.Context(), key, Query{Large: func(context.Context) error { time.Sleep(2 * restTimeout); return nil }})
		if err != nil || len(p.Insights) != 1 {
			t.Errorf("%d insights, %v", len(p.Insights), err)
		}
		silent = true
		began := time.Now()
		if _, err := client.Insights(t.Context(), key, Query{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != restTimeout {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

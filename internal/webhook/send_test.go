package webhook_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/nex-crm/relay/internal/webhook"
)

// TestSendRequest looks at everything that arrives, with the reference library and our own verifier.
func TestSendRequest(t *testing.T) {
	t.Parallel()
	reference, err := standardwebhooks.NewWebhook(testSecret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	type arrival struct {
		header http.Header
		body   []byte
		req    *http.Request
	}
	arrived := make(chan arrival, 1)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- arrival{r.Header, readAll(t, r.Body), r}
		fmt.Fprint(w, "thanks")
	})
	s := newSender(t, nil)
	r := request(t, srv.URL+"/hook?token=a%20b")
	r.Sequence, r.Attempt = 12345678901234567, 3
	r.Traceparent, r.Origin = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "relay.example"
	r.At = time.Now().Add(-time.Minute)
	r.Header = http.Header{
		"Authorization": {"Bearer x"}, "x-tenant": {"a", "b"}, // names in any case
		"Webhook-Id": {"forged"}, "webhook-signature": {"forged"}, "Content-Type": {"forged"}, "User-Agent": {"forged"},
		"Host": {"forged"}, "Content-Length": {"1"}, "Transfer-Encoding": {"chunked"}, "Connection": {"close"}, "Traceparent": {"forged"},
	}
	got := s.Send(t.Context(), r)
	if got.Outcome != webhook.Delivered || got.StatusCode != 200 || string(got.Body) != "thanks" || got.Err != nil || got.Duration <= 0 {
		t.Fatalf("got %+v", got)
	}
	a := <-arrived
	if a.req.Method != "POST" || a.req.RequestURI != "/hook?token=a%20b" || a.req.Host != r.URL.Host || a.req.ContentLength != int64(len(r.Body)) {
		t.Errorf("got %s %s, host %s, length %d", a.req.Method, a.req.RequestURI, a.req.Host, a.req.ContentLength)
	}
	if !bytes.Equal(a.body, r.Body) {
		t.Errorf("body %q", a.body)
	}
	for name, want := range map[string]string{
		"Webhook-Id": "evt_1", "Webhook-Timestamp": fmt.Sprint(r.At.Unix()), "Content-Type": "application/cloudevents+json",
		"User-Agent": "nex-relay/test", "Traceparent": r.Traceparent, "Webhook-Request-Origin": "relay.example", "Relay-Sequence": "12345678901234567", "Relay-Attempt": "3", "Authorization": "Bearer x", "X-Tenant": "a,b",
	} {
		if got := strings.Join(a.header[name], ","); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"Idempotency-Key", "Accept-Encoding", "Origin", "Connection", "Transfer-Encoding"} {
		if _, there := a.header[name]; there {
			t.Errorf("%s was sent: %q", name, a.header[name])
		}
	}
	if err := reference.Verify(a.body, a.header); err != nil {
		t.Errorf("the reference library refuses: %v", err)
	}
	v := webhook.Verifier{Secrets: []webhook.Secret{testSecret}}
	if err := v.Verify(a.header, a.body); err != nil {
		t.Error(err)
	}
	if len(r.Header) != 11 || r.Header.Get("Webhook-Id") != "forged" {
		t.Error("the request's headers were changed")
	}
}

func TestSendDefaults(t *testing.T) {
	t.Parallel()
	arrived := make(chan http.Header, 2)
	srv := serve(t, func(_ http.ResponseWriter, r *http.Request) { arrived <- r.Header })
	s := newSender(t, func(c *webhook.SenderConfig) { c.UserAgent, c.Timeout = "", 0 })
	r := request(t, srv.URL)
	r.Body, r.ContentType, r.Header = nil, "text/plain", http.Header{"Idempotency-Key": {"mine"}}
	before := time.Now().Unix()
	if got := s.Send(t.Context(), r); got.Outcome != webhook.Delivered || len(got.Body) != 0 {
		t.Fatalf("got %+v", got)
	}
	h := <-arrived
	if h.Get("Content-Type") != "text/plain" || h.Get("User-Agent") != "" || h["Traceparent"] != nil || h.Get("Idempotency-Key") != "mine" {
		t.Errorf("got %v", h)
	}
	v := webhook.Verifier{Secrets: []webhook.Secret{testSecret}, Now: func() time.Time { return time.Unix(before, 0) }, Tolerance: 10 * time.Second}
	if err := v.Verify(h, nil); err != nil {
		t.Error(err)
	}
}

// TestSendStatus: statuses come through as outcomes; redirects are not followed, informational answers are skipped.
func TestSendStatus(t *testing.T) {
	t.Parallel()
	var hits atomic.Int32
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		var status int
		fmt.Sscanf(r.URL.Path, "/%d", &status)
		switch {
		case status == 103:
			for range 8 {
				w.Header().Set("Link", "</x>")
				w.WriteHeader(103)
			}
			status = 204
		case status >= 300 && status < 400:
			w.Header().Set("Location", r.URL.Path) // a loop
		}
		w.Header().Set("Retry-After", "3")
		w.WriteHeader(status)
	})
	s := newSender(t, nil)
	tests := []struct {
		status int
		want   webhook.Outcome
		sent   int
	}{
		{200, webhook.Delivered, 200}, {202, webhook.Delivered, 202}, {204, webhook.Delivered, 204}, {103, webhook.Delivered, 204},
		{301, webhook.Redirect, 301}, {302, webhook.Redirect, 302}, {304, webhook.Redirect, 304}, {307, webhook.Redirect, 307}, {308, webhook.Redirect, 308},
		{400, webhook.ClientError, 400}, {401, webhook.ClientError, 401}, {404, webhook.ClientError, 404}, {410, webhook.Gone, 410},
		{429, webhook.Throttled, 429}, {500, webhook.ServerError, 500}, {503, webhook.Throttled, 503}, {599, webhook.ServerError, 599},
		{600, webhook.Unexpected, 600}, {999, webhook.Unexpected, 999},
	}
	for _, tt := range tests {
		got := s.Send(t.Context(), request(t, fmt.Sprintf("%s/%d", srv.URL, tt.status)))
		putOff := !tt.want.Settled()
		if got.Outcome != tt.want || got.StatusCode != tt.sent || got.Err != nil || got.HasRetryAfter != putOff || (got.RetryAfter == 3*time.Second) != putOff {
			t.Errorf("%d: got %+v", tt.status, got)
		}
	}
	if int(hits.Load()) != len(tests) {
		t.Errorf("%d requests arrived for %d attempts", hits.Load(), len(tests))
	}
}

// TestSendBrokenReceiver has one case for each way in which a receiver can behave badly on the wire.
func TestSendBrokenReceiver(t *testing.T) {
	t.Parallel()
	write := func(answer string) func(context.Context, net.Conn) {
		return func(_ context.Context, c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, answer)
		}
	}
	thenHang := func(answer string) func(context.Context, net.Conn) {
		return func(ctx context.Context, c net.Conn) {
			write(answer)(ctx, c)
			<-ctx.Done()
		}
	}
	repeat := func(head, part string) func(context.Context, net.Conn) {
		return func(ctx context.Context, c net.Conn) {
			write(head)(ctx, c)
			for {
				if _, err := io.WriteString(c, part); err != nil {
					return
				}
			}
		}
	}
	reset := func(answer string) func(context.Context, net.Conn) {
		return func(ctx context.Context, c net.Conn) {
			write(answer)(ctx, c)
			_ = c.(*net.TCPConn).SetLinger(0)
		}
	}
	const short, long = 500 * time.Millisecond, hangGuard
	tests := []struct {
		name    string
		talk    func(context.Context, net.Conn)
		timeout time.Duration
		want    webhook.Outcome
		status  int
		reason  string
	}{
		{"accepts and hangs", func(ctx context.Context, _ net.Conn) { <-ctx.Done() }, short, webhook.Timeout, 0, "timed out"},
		{"header stops", thenHang("HTTP/1.1 200 OK\r\nX-"), short, webhook.Timeout, 0, "timed out"},
		{"body never begins", thenHang("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), short, webhook.Timeout, 200, "read answer: timed out"},
		{"body stops", thenHang("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"), short, webhook.Timeout, 200, "read answer: timed out"},
		{"chunks stop", thenHang("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"), short, webhook.Timeout, 200, "timed out"},
		{"closes at once", func(context.Context, net.Conn) {}, long, webhook.ConnectionError, 0, ""},
		{"closes after the request", write(""), long, webhook.ConnectionError, 0, "closed before the end"},
		{"closes in the header", write("HTTP/1.1 200 OK\r\nX-A: 1\r\n"), long, webhook.ConnectionError, 0, "closed before the end"},
		{"closes in the body", write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"), long, webhook.ConnectionError, 200, "closed before the end"},
		{"resets in the body", reset("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"), long, webhook.ConnectionError, 200, "reset"},
		{"chunk is no chunk", write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), long, webhook.ConnectionError, 200, "not valid HTTP"},
		{"is no HTTP server", write("SSH-2.0-OpenSSH_9.6 secret\r\n"), long, webhook.ConnectionError, 0, "not valid HTTP"},
		{"is HTTP/0.9", write("<html>secret"), long, webhook.ConnectionError, 0, ""},
		{"status is no number", write("HTTP/1.1 OK secret\r\n\r\n"), long, webhook.ConnectionError, 0, "not valid HTTP"},
		{"two lengths", write("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), long, webhook.ConnectionError, 0, "not valid HTTP"},
		{"header has no end", repeat("HTTP/1.1 200 OK\r\n", "X-Pad: "+strings.Repeat("x", 1000)+"\r\n"), long, webhook.ConnectionError, 0, "headers of the answer exceed 65536 bytes"},
		{"header is too big", write("HTTP/1.1 200 OK\r\nX-Pad: " + strings.Repeat("x", 70_000) + "\r\nContent-Length: 0\r\n\r\n"), long, webhook.ConnectionError, 0, "exceed 65536 bytes"},
		{"header is big", write("HTTP/1.1 200 OK\r\nX-Pad: " + strings.Repeat("x", 60_000) + "\r\nContent-Length: 0\r\n\r\n"), long, webhook.Delivered, 200, ""},
		{"line has no end", repeat("HTTP/1.1 200 OK\r\nX-Pad: ", strings.Repeat("x", 1000)), long, webhook.ConnectionError, 0, "exceed 65536 bytes"},
		{"informational for ever", repeat("", "HTTP/1.1 102 Processing\r\n\r\n"), long, webhook.ConnectionError, 0, ""},
		{"body has no end", repeat("HTTP/1.1 200 OK\r\n\r\n", strings.Repeat("x", 1000)), long, webhook.Delivered, 200, ""},
		{"body is huge", repeat("HTTP/1.1 500 No\r\nContent-Length: 1099511627776\r\n\r\n", strings.Repeat("x", 1000)), long, webhook.ServerError, 500, ""},
		{"100 and then 200", write("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), long, webhook.Delivered, 200, ""},
		{"switches protocols", thenHang("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), long, webhook.Unexpected, 101, ""},
		{"HTTP/1.0", write("HTTP/1.0 200 OK\r\n\r\nbye"), long, webhook.Delivered, 200, ""},
		{"status 99", write("HTTP/1.1 099 x\r\nContent-Length: 0\r\n\r\n"), long, webhook.Unexpected, 99, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSender(t, nil)
			r := request(t, serveRaw(t, tt.talk)+"/secret?secret")
			r.Header = http.Header{"Authorization": {"secret"}}
			got, timeout := sendShort(t.Context(), s, r, tt.timeout, func(got webhook.Result) bool { return tt.want != webhook.Timeout || got.StatusCode == tt.status })
			if got.Outcome != tt.want || got.StatusCode != tt.status || len(got.Body) > webhook.DefaultResponseBody {
				t.Fatalf("got %s, %d, %v, %d bytes kept; want %s, %d", got.Outcome, got.StatusCode, got.Err, len(got.Body), tt.want, tt.status)
			}
			whole := tt.want != webhook.Timeout && tt.want != webhook.ConnectionError
			if (got.Err == nil) != whole {
				t.Fatalf("got error %v", got.Err)
			}
			if got.Err != nil && (!strings.Contains(got.Err.Error(), tt.reason) || strings.Contains(got.Err.Error(), "secret")) {
				t.Errorf("got error %q", got.Err)
			}
			if got.Duration < 0 || got.Duration >= hangGuard || (tt.want == webhook.Timeout && got.Duration < timeout) {
				t.Errorf("took %s", got.Duration)
			}
		})
	}
}

func TestSendKeepsBeginningOfAnswer(t *testing.T) {
	t.Parallel()
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/chunked" {
			w.(http.Flusher).Flush()
		}
		fmt.Fprint(w, strings.Repeat("x", 2000))
	})
	for _, path := range []string{"/length", "/chunked"} {
		for limit, want := range map[int]int{0: 1024, 10: 10, -1: 0, 1 << 30: 2000, 2000: 2000} {
			s := newSender(t, func(c *webhook.SenderConfig) { c.ResponseBodyLimit = limit })
			if got := s.Send(t.Context(), request(t, srv.URL+path)); len(got.Body) != want || got.Outcome != webhook.Delivered {
				t.Errorf("%s, limit %d: %d bytes kept, %s, %v", path, limit, len(got.Body), got.Outcome, got.Err)
			}
		}
	}
}

// TestSendEnds: our own deadline, a deadline from outside, a shutdown with a cause of its own, before and during the attempt.
func TestSendEnds(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 8)
	srv := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the connection ends
		if r.URL.Path == "/tell" {
			arrived <- struct{}{}
		}
		<-r.Context().Done()
	})
	s := newSender(t, nil)
	send := func(ctx context.Context, path string, timeout time.Duration) webhook.Result {
		r := request(t, srv.URL+path)
		r.Timeout = timeout
		return s.Send(ctx, r)
	}
	t.Run("own timeout", func(t *testing.T) {
		got := send(t.Context(), "/", 50*time.Millisecond)
		if got.Outcome != webhook.Timeout || got.Duration < 50*time.Millisecond {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("deadline from outside", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		got := send(ctx, "/", time.Minute)
		if got.Outcome != webhook.Timeout {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("shutdown", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-arrived
			cancel(errors.New("stopping"))
		}()
		if got := send(ctx, "/tell", time.Minute); got.Outcome != webhook.Canceled || got.StatusCode != 0 || got.Err == nil {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("shutdown before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got := send(ctx, "/tell", time.Minute); got.Outcome != webhook.Canceled {
			t.Errorf("got %+v", got)
		}
		if len(arrived) != 0 {
			t.Error("sent after the shutdown")
		}
	})
}

func TestSendInvalid(t *testing.T) {
	t.Parallel()
	var hits atomic.Int32
	srv := serve(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	tests := []struct {
		name   string
		change func(*webhook.Request)
	}{
		{"no url", func(r *webhook.Request) { r.URL = nil }},
		{"no host", func(r *webhook.Request) { r.URL = &url.URL{Scheme: "http"} }},
		{"other scheme", func(r *webhook.Request) { r.URL.Scheme = "ftp" }},
		{"credentials", func(r *webhook.Request) { r.URL.User = url.UserPassword("u", "secret") }},
		{"no secret", func(r *webhook.Request) { r.Secrets = nil }},
		{"zero secret", func(r *webhook.Request) { r.Secrets = []webhook.Secret{{}} }},
		{"header name", func(r *webhook.Request) { r.Header = http.Header{"a b": {"secret"}} }},
		{"header value", func(r *webhook.Request) { r.Header = http.Header{"A": {"secret\r\nB: 1"}} }},
		{"trace", func(r *webhook.Request) { r.Traceparent = "secret\n" }},
		{"origin", func(r *webhook.Request) { r.Origin = "secret\n" }},
		{"content type", func(r *webhook.Request) { r.ContentType = "secret\n" }},
	}
	s := newSender(t, nil)
	for _, tt := range tests {
		r := request(t, srv.URL)
		tt.change(r)
		got := s.Send(t.Context(), r)
		if got.Outcome != webhook.InvalidRequest || got.Err == nil || strings.Contains(got.Err.Error(), "secret\n") || strings.Contains(got.Err.Error(), "u:secret") {
			t.Errorf("%s: got %+v", tt.name, got)
		}
	}
	if hits.Load() != 0 {
		t.Errorf("%d requests were sent", hits.Load())
	}
}

func TestSendPlainHTTPRefused(t *testing.T) {
	t.Parallel()
	var hits atomic.Int32
	srv := serve(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	s := newSender(t, func(c *webhook.SenderConfig) { c.AllowHTTP = false })
	got := s.Send(t.Context(), request(t, srv.URL))
	if got.Outcome != webhook.RefusedTarget || got.Err == nil || !strings.Contains(got.Err.Error(), "allow_http") || hits.Load() != 0 {
		t.Errorf("got %+v, %d requests", got, hits.Load())
	}
}

// TestSendGuarded makes true attempts at this machine under every spelling that some resolver or library takes for it. All
// of them lead nowhere else, so that nothing leaves the machine even where the guard is broken; other addresses are
// judged without dialling in TestGuardCheck.
func TestSendGuarded(t *testing.T) {
	t.Parallel()
	var hits atomic.Int32
	srv := serve(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	loopback := netip.MustParseAddr("127.0.0.1")
	names := map[string]netip.Addr{
		"innocent.example": loopback, "127.0.0.1.example": loopback,
		"mapped.example": netip.MustParseAddr("::ffff:127.0.0.1"),
		"v6.example":     netip.MustParseAddr("::1"),
		"zero.example":   netip.MustParseAddr("0.0.0.0"),
		// What a C resolver makes of these spellings; Go's own finds no such host.
		"0x7f.1": loopback, "0x7f.0.0.1": loopback, "0x7f000001": loopback, "0177.0.0.1": loopback, "0177.1": loopback,
		"127.1": loopback, "127.0.1": loopback, "2130706433": loopback, "017700000001": loopback, "0": netip.MustParseAddr("0.0.0.0"),
	}
	hosts := []string{
		"127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "[::]", "[::1]", "[::1%25lo]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]",
		"[::ffff:7f00:1]", "[::FFFF:127.0.0.1]", "[0:0:0:0:0:ffff:127.0.0.1]", "localhost", "LOCALHOST", "localhost.", "%31%32%37.0.0.1",
		"127。0。0。1", "127.0.0.1.", "①②⑦.⓪.⓪.①", "127.0.0.1%2f@innocent.example",
	}
	for name := range names {
		hosts = append(hosts, name)
	}
	s := newSender(t, func(c *webhook.SenderConfig) { c.Guard, c.Resolver = nil, nameServer(t, names) })
	for _, host := range hosts {
		t.Run(host, func(t *testing.T) {
			u, err := webhook.ValidateURL("http://"+host+":"+port+"/hook", true)
			if err != nil {
				return // refused even earlier
			}
			got := s.Send(t.Context(), &webhook.Request{URL: u, ID: "1", Secrets: []webhook.Secret{testSecret}})
			if got.Outcome != webhook.RefusedTarget && got.Outcome != webhook.DNSError {
				t.Fatalf("got %+v", got)
			}
			var refused *webhook.RefusedError
			if (got.Outcome == webhook.RefusedTarget) != errors.As(got.Err, &refused) {
				t.Errorf("got error %v", got.Err)
			}
		})
	}
	for _, host := range []string{"innocent.example", "mapped.example", "v6.example", "zero.example", "127.0.0.1", "[::1]", "0.0.0.0", "localhost"} {
		u := &url.URL{Scheme: "http", Host: host + ":" + port}
		if got := s.Send(t.Context(), &webhook.Request{URL: u, ID: "1", Secrets: []webhook.Secret{testSecret}}); got.Outcome != webhook.RefusedTarget {
			t.Errorf("%s: got %s, %v: must be stopped by the guard itself", host, got.Outcome, got.Err)
		}
	}
	if hits.Load() != 0 {
		t.Fatalf("%d requests arrived", hits.Load())
	}
	allowed := newSender(t, func(c *webhook.SenderConfig) { c.Resolver = nameServer(t, names) })
	u := &url.URL{Scheme: "http", Host: "innocent.example:" + port}
	if got := allowed.Send(t.Context(), &webhook.Request{URL: u, ID: "1", Secrets: []webhook.Secret{testSecret}}); got.Outcome != webhook.Delivered {
		t.Fatalf("with the network allowed: got %+v", got)
	}
}

func TestSendNoConnection(t *testing.T) {
	t.Parallel()
	names := nameServer(t, map[string]netip.Addr{"silent.example": {}})
	tests := []struct {
		url     string
		timeout time.Duration
		want    webhook.Outcome
		reason  string
	}{
		{"http://" + nobody + "/secret", time.Minute, webhook.DialError, nobody + ": connection refused"},
		{"http://unknown.example/secret", time.Minute, webhook.DNSError, `no such host: "unknown.example"`},
		{"http://silent.example/secret", 100 * time.Millisecond, webhook.Timeout, "timed out"},
	}
	for _, tt := range tests {
		s := newSender(t, func(c *webhook.SenderConfig) { c.Resolver, c.Timeout = names, tt.timeout })
		got := s.Send(t.Context(), request(t, tt.url))
		if got.Outcome != tt.want || got.Err == nil || !strings.Contains(got.Err.Error(), tt.reason) || strings.Contains(got.Err.Error(), "secret") {
			t.Errorf("%s: got %s, %v", tt.url, got.Outcome, got.Err)
		}
	}
}

func TestSendTLS(t *testing.T) {
	t.Parallel()
	quiet := func(srv *httptest.Server) { srv.Config.ErrorLog = discardLog() }
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) }))
	quiet(srv)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	quiet(old)
	old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	old.StartTLS()
	t.Cleanup(old.Close)
	plain := serve(t, func(http.ResponseWriter, *http.Request) {})
	noise := serveRaw(t, func(_ context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "220 mail.example ESMTP\r\n")
		readHead(c)
	})
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	resolver := nameServer(t, map[string]netip.Addr{"other.example": netip.MustParseAddr("127.0.0.1")})
	trusted := &tls.Config{RootCAs: pool}
	tests := []struct {
		name   string
		url    string
		config *tls.Config
		want   webhook.Outcome
		reason string
	}{
		{"trusted", srv.URL, trusted, webhook.Delivered, ""},
		{"self-signed", srv.URL, nil, webhook.TLSError, "unknown authority"},
		{"other name", strings.Replace(srv.URL, "127.0.0.1", "other.example", 1), trusted, webhook.TLSError, `not for "other.example"`},
		{"expired", srv.URL, &tls.Config{RootCAs: pool, Time: func() time.Time { return srv.Certificate().NotAfter.Add(time.Hour) }}, webhook.TLSError, "expired"},
		{"old version", old.URL, trusted, webhook.TLSError, "protocol version"},
		{"plain http", strings.Replace(plain.URL, "http", "https", 1), trusted, webhook.TLSError, "speaks plain http"},
		{"no TLS", strings.Replace(noise, "http", "https", 1), trusted, webhook.TLSError, "does not speak TLS"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSender(t, func(c *webhook.SenderConfig) { c.TLSConfig, c.Resolver = tt.config, resolver })
			got := s.Send(t.Context(), request(t, tt.url+"/secret"))
			if got.Outcome != tt.want {
				t.Fatalf("got %s, %v", got.Outcome, got.Err)
			}
			if tt.want == webhook.Delivered {
				if string(got.Body) != "HTTP/2.0" {
					t.Errorf("over %s", got.Body)
				}
				return
			}
			if got.Err == nil || !strings.Contains(got.Err.Error(), tt.reason) || strings.Contains(got.Err.Error(), "secret") {
				t.Errorf("got error %v, want %q", got.Err, tt.reason)
			}
		})
	}
}

// TestSendHTTP2Reset: one message is reset, the connection and the next message are not harmed.
func TestSendHTTP2Reset(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/reset" {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, r.RemoteAddr)
	}))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = discardLog()
	srv.StartTLS()
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	s := newSender(t, func(c *webhook.SenderConfig) { c.TLSConfig = &tls.Config{RootCAs: pool} })
	first := s.Send(t.Context(), request(t, srv.URL))
	broken := s.Send(t.Context(), request(t, srv.URL+"/reset"))
	second := s.Send(t.Context(), request(t, srv.URL))
	if broken.Outcome != webhook.ConnectionError || broken.Err == nil {
		t.Errorf("reset: got %+v", broken)
	}
	if first.Outcome != webhook.Delivered || second.Outcome != webhook.Delivered || !bytes.Equal(first.Body, second.Body) {
		t.Errorf("got %+v and %+v", first, second)
	}
}

// TestSendReusesConnections: 64 attempts at once have no more than 64 connections, over thousands of attempts, whatever the
// answers are. On a machine that stands still for 50 ms net/http gives a connection up whose request it has not seen written,
// so a few more are forgiven.
func TestSendReusesConnections(t *testing.T) {
	t.Parallel()
	const workers, each = 64, 50
	var conns atomic.Int32
	var together sync.WaitGroup // the first attempts wait for each other, so that there are 64 connections
	together.Add(workers)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/0":
			together.Done()
			together.Wait()
		case "/1":
			w.WriteHeader(204)
		case "/2":
			http.Error(w, "no", 500)
		case "/3":
			fmt.Fprint(w, strings.Repeat("x", 40_000)) // more than is kept
		}
	}))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	s := newSender(t, nil)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range each {
				path := i
				if i > 0 {
					path = 1 + i%3
				}
				if got := s.Send(t.Context(), request(t, fmt.Sprintf("%s/%d", srv.URL, path))); got.StatusCode == 0 {
					t.Errorf("got %+v", got)
				}
			}
		})
	}
	wg.Wait()
	if n := conns.Load(); n > workers+workers/8 {
		t.Errorf("%d connections for %d attempts at once", n, workers)
	}
}

// TestSendAfterIdleClose: a receiver that closes a connection from the pool just as the next message comes costs no attempt.
func TestSendAfterIdleClose(t *testing.T) {
	t.Parallel()
	var conns, posts atomic.Int32
	target := serveRaw(t, func(_ context.Context, c net.Conn) {
		conns.Add(1)
		for i := 0; ; i++ {
			buf := make([]byte, 4096)
			if n, err := c.Read(buf); err != nil || n == 0 || i == 1 {
				return // the second message on this connection has been sent, and finds it closed
			}
			posts.Add(1)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	s := newSender(t, nil)
	for i := range 5 {
		if got := s.Send(t.Context(), request(t, target)); got.Outcome != webhook.Delivered {
			t.Errorf("message %d: got %s, %v", i, got.Outcome, got.Err)
		}
	}
	if posts.Load() != 5 || conns.Load() != 5 {
		t.Errorf("%d answers on %d connections", posts.Load(), conns.Load())
	}
}

// TestSendIgnoresProxy: a proxy from the environment would hide the target from the guard.
func TestSendIgnoresProxy(t *testing.T) {
	var proxied atomic.Int32
	proxy := serve(t, func(http.ResponseWriter, *http.Request) { proxied.Add(1) })
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	s := newSender(t, func(c *webhook.SenderConfig) { c.Resolver = nameServer(t, nil) })
	got := s.Send(t.Context(), request(t, "http://somewhere.example/"))
	if got.Outcome != webhook.DNSError || proxied.Load() != 0 {
		t.Errorf("got %+v, %d requests at the proxy", got, proxied.Load())
	}
}

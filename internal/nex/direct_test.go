package nex

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// answering is a server that answers each request with what answer writes.
func answering(t *testing.T, answer func(conn net.Conn)) (base string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				answer(conn)
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
	})
	return "http://" + listener.Addr().String()
}

func clientOf(t *testing.T, cfg ClientConfig) (*Client, *direct) {
	t.Helper()
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdle)
	return c, c.streams.Transport.(*direct)
}

// TestAnswers takes streams however their end is told.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
	for name, c := range map[string]struct {
		answer string
		end    error
	}{
		"chunked":                 {ok + "Transfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n4;ext=\"1\"\r\n x\n\n\r\n0\r\n\r\n", io.EOF},
		"chunked, with a trailer": {ok + "Transfer-Encoding: chunked\r\n\r\n9\r\ndata: x\n\n\r\n0\r\nTrailer: 1\r\n\r\n", io.EOF},
		"chunked, cut":            {ok + "Transfer-Encoding: chunked\r\n\r\n9\r\ndata: x\n\n\r\n9\r\nda", io.ErrUnexpectedEOF},
		"until it is closed":      {ok + "\r\ndata: x\n\n", io.EOF},
		"HTTP/1.0":                {strings.Replace(ok, "1.1", "1.0", 1) + "\r\ndata: x\n\n", io.EOF},
		"of a length":             {ok + "Content-Length: 9\r\n\r\ndata: x\n\n", io.EOF},
		"of a length, cut":        {ok + "Content-Length: 99\r\n\r\ndata: x\n\n", io.ErrUnexpectedEOF},
		"announced":               {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok + "\r\ndata: x\n\n", io.EOF},
		"a long header":           {ok + "X: " + strings.Repeat("x", 100_000) + "\r\n\r\ndata: x\n\n", io.EOF},
	} {
		client, _ := clientOf(t, ClientConfig{BaseURL: answering(t, func(conn net.Conn) { _, _ = io.WriteString(conn, c.answer) })})
		feed, err := client.Stream(bounded(t), key)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if frame, err := feed.Next(); err != nil || string(frame.Data) != "x" {
			t.Errorf("%s: %+v, %v", name, frame, err)
		}
		if _, err := feed.Next(); !errors.Is(err, c.end) {
			t.Errorf("%s: ends with %v, not %v", name, err, c.end)
		}
		_ = feed.Close()
	}
}

func TestUnanswered(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer func(conn net.Conn)
		fault  string
	}{
		"closed":            {func(net.Conn) {}, "EOF"},
		"no HTTP":           {func(conn net.Conn) { _, _ = io.WriteString(conn, "SSH-2.0\r\n\r\n") }, "malformed HTTP"},
		"an endless header": {func(conn net.Conn) { _, _ = io.Copy(conn, endless('x')) }, "too large"},
		"announced for ever": {func(conn net.Conn) {
			for err := error(nil); err == nil; {
				_, err = io.WriteString(conn, strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 1000))
			}
		}, "too large"},
	} {
		client, _ := clientOf(t, ClientConfig{BaseURL: answering(t, c.answer)})
		if _, err := client.Stream(bounded(t), key); err == nil || !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEndWhileConnecting ends the context while the answer's header is waited for.
func TestEndWhileConnecting(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(bounded(t))
	gone := make(chan struct{})
	client, _ := clientOf(t, ClientConfig{BaseURL: answering(t, func(conn net.Conn) {
		cancel()
		_, _ = io.Copy(io.Discard, conn)
		close(gone)
	})})
	if _, err := client.Stream(ctx, key); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-gone
}

// TestCloseEndsTheConnection: nothing is left of it at Nex.
func TestCloseEndsTheConnection(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(feed *Feed, cancel context.CancelFunc){
		"by close":       func(feed *Feed, _ context.CancelFunc) { _ = feed.Close() },
		"by the context": func(_ *Feed, cancel context.CancelFunc) { cancel() },
	} {
		ctx, cancel := context.WithCancel(bounded(t))
		gone := make(chan struct{})
		client, _ := serve(t, ClientConfig{}, func(w http.ResponseWriter, r *http.Request) {
			streaming(": connected\n\n")(w, r)
			close(gone)
		})
		feed, err := client.Stream(ctx, key)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		end(feed, cancel)
		<-gone
		_ = feed.Close()
		cancel()
	}
}

// TestLongerThanItTookToConnect: the bound of the one is none of the other.
func TestLongerThanItTookToConnect(t *testing.T) {
	t.Parallel()
	const bound = 2 * time.Second
	client, _ := serve(t, ClientConfig{ConnectTimeout: bound}, streaming(": connected\n\n"))
	feed, err := client.Stream(bounded(t), key)
	for tries := 0; err != nil && tries < 5; tries++ { // where the machine was busy for so long
		feed, err = client.Stream(bounded(t), key)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	began := time.Now()
	time.AfterFunc(bound+bound/4, func() { _ = feed.Close() })
	if _, err := feed.Next(); !errors.Is(err, context.Canceled) || time.Since(began) < bound {
		t.Errorf("ended after %v: %v", time.Since(began), err)
	}
}

func TestStreamOverTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(streaming(": connected workspace_id=w token_id=t\n\ndata: x\n\n"))
	t.Cleanup(server.Close)
	client, transport := clientOf(t, ClientConfig{BaseURL: server.URL})
	var unknown x509.UnknownAuthorityError
	if _, err := client.Stream(bounded(t), key); !errors.As(err, &unknown) {
		t.Errorf("a certificate of nobody: %v", err)
	}
	transport.tls.RootCAs = x509.NewCertPool()
	transport.tls.RootCAs.AddCert(server.Certificate())
	feed, err := client.Stream(bounded(t), key)
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	if frame, err := feed.Next(); err != nil || string(frame.Data) != "x" {
		t.Errorf("%+v, %v", frame, err)
	}
	transport.tls.ServerName = "nex.example"
	var other x509.HostnameError
	if _, err := client.Stream(bounded(t), key); !errors.As(err, &other) {
		t.Errorf("a certificate for another: %v", err)
	}
}

func TestSilentHandshake(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // the system accepts, nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, streams := clientOf(t, ClientConfig{BaseURL: "https://" + listener.Addr().String()})
	streams.timeout = 50 * time.Millisecond // of the handshake; to be dialled takes as long as it takes
	if _, err := client.Stream(bounded(t), key); !errors.Is(err, errHandshake) {
		t.Errorf("got %v", err)
	}
}

// TestThroughProxy: what is asked of a proxy is for net/http, and so is a host whose name is to be translated.
func TestThroughProxy(t *testing.T) {
	t.Parallel()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprintf(w, "data: %s\n\n", r.RequestURI)
	}))
	t.Cleanup(proxy.Close)
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	client, streams := clientOf(t, ClientConfig{BaseURL: "http://nex.example/api"})
	streams.proxy = http.ProxyURL(at)
	streams.elsewise.(*http.Transport).Proxy = streams.proxy
	feed, err := client.Stream(bounded(t), key)
	if err != nil {
		t.Fatal(err)
	}
	if frame, err := feed.Next(); err != nil || string(frame.Data) != "http://nex.example/api/v1/insights/stream" {
		t.Errorf("%s, %v", frame.Data, err)
	}
	_ = feed.Close()
	client, translated := clientOf(t, ClientConfig{BaseURL: "http://néx.example/api"})
	asked := errors.New("net/http was asked")
	translated.elsewise = transport(func(*http.Request) (*http.Response, error) { return nil, asked })
	if _, err := client.Stream(bounded(t), key); !errors.Is(err, asked) {
		t.Errorf("a host that is not ASCII: %v", err)
	}
	broken := errors.New("no such proxy")
	translated.proxy = func(*http.Request) (*url.URL, error) { return nil, broken }
	if _, err := client.Stream(bounded(t), key); !errors.Is(err, broken) {
		t.Errorf("without its proxy: %v", err)
	}
}

// A refusal without an end is one all the same, and a redirect without an end does not hold a stream.
func TestRefusedWithoutAnEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer string
		status int
	}{
		"unavailable": {"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 100\r\n\r\n{", http.StatusServiceUnavailable},
		"chunked":     {"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", http.StatusTooManyRequests},
		"redirect":    {"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 100\r\n\r\n<", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			over := make(chan struct{})
			base := answering(t, func(conn net.Conn) {
				_, _ = io.WriteString(conn, c.answer)
				<-over
			})
			defer close(over)
			client, _ := clientOf(t, ClientConfig{BaseURL: base, ConnectTimeout: 2 * time.Second})
			_, err := client.Stream(bounded(t), key)
			var refused *Error
			switch {
			case c.status == 0:
				if !errors.Is(err, errOverdue) {
					t.Error(err)
				}
			case !errors.As(err, &refused) || refused.Status != c.status || refused.RetryAfter != 7*time.Second:
				t.Errorf("%v", err)
			}
		})
	}
}

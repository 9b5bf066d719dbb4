package webhook_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

// hostileTimeout is the attempt's: a receiver that does nothing costs a test as much.
const hostileTimeout = 400 * time.Millisecond

// drip writes text a byte at a time, until the other side has had enough. The pause is what is tested, not a way to wait.
func drip(ctx context.Context, c net.Conn, text string) {
	pace := time.NewTicker(hostileTimeout / 15)
	defer pace.Stop()
	for i := range len(text) {
		select {
		case <-ctx.Done():
			return
		case <-pace.C:
		}
		if _, err := c.Write([]byte{text[i]}); err != nil {
			return
		}
	}
}

// idle neither reads nor writes, for longer than an attempt may take.
func idle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 3*hostileTimeout)
	defer cancel()
	<-ctx.Done()
}

// flood writes part again and again, until the other side has had enough.
func flood(c net.Conn, part string) {
	b := []byte(part)
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// hostile receivers answer a message in bad ways; talk begins when the header of the request has been read, unless it is first.
var hostile = []struct {
	name   string
	first  bool // talks at once
	talk   func(context.Context, net.Conn)
	body   int // bytes of the message
	want   []webhook.Outcome
	status []int
}{
	{name: "accepts and hangs", first: true, talk: func(context.Context, net.Conn) {}, want: []webhook.Outcome{webhook.Timeout}},
	{name: "reads and hangs", talk: func(context.Context, net.Conn) {}, want: []webhook.Outcome{webhook.Timeout}},
	{name: "header, a byte at a time", talk: func(ctx context.Context, c net.Conn) {
		drip(ctx, c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: "+strings.Repeat("x", 1000))
	}, want: []webhook.Outcome{webhook.Timeout}},
	{name: "body, a byte at a time", talk: func(ctx context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
		drip(ctx, c, strings.Repeat("x", 1000))
	}, want: []webhook.Outcome{webhook.Timeout}, status: []int{200}},
	{name: "chunks, a byte at a time", talk: func(ctx context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		drip(ctx, c, strings.Repeat("1\r\nx\r\n", 1000))
	}, want: []webhook.Outcome{webhook.Timeout}, status: []int{200}},
	{name: "body without end", talk: func(_ context.Context, c net.Conn) {
		flood(c, "HTTP/1.1 200 OK\r\n\r\n"+strings.Repeat("x", 4096))
	}, want: []webhook.Outcome{webhook.Delivered}, status: []int{200}},
	{name: "chunks of a byte without end", talk: func(_ context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		flood(c, strings.Repeat("1\r\nx\r\n", 1000))
	}, want: []webhook.Outcome{webhook.Delivered, webhook.ConnectionError}, status: []int{200}},
	{name: "chunk extension without end", talk: func(_ context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")
		flood(c, strings.Repeat("x", 4096))
	}, want: []webhook.Outcome{webhook.ConnectionError}, status: []int{200}},
	{name: "trailer without end", talk: func(_ context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\nX: ")
		flood(c, strings.Repeat("x", 4096))
	}, want: []webhook.Outcome{webhook.ConnectionError}, status: []int{200}},
	{name: "one header without end", talk: func(_ context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX: ")
		flood(c, strings.Repeat("x", 4096))
	}, want: []webhook.Outcome{webhook.ConnectionError}},
	{name: "headers without end", talk: func(_ context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		flood(c, strings.Repeat("A: b\r\n", 1000))
	}, want: []webhook.Outcome{webhook.ConnectionError}},
	{name: "status line without end", talk: func(_ context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 ")
		flood(c, strings.Repeat("x", 4096))
	}, want: []webhook.Outcome{webhook.ConnectionError}},
	{name: "flood of 100", talk: func(_ context.Context, c net.Conn) { flood(c, strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100)) }, want: []webhook.Outcome{webhook.ConnectionError}},
	{name: "flood of 103", talk: func(_ context.Context, c net.Conn) {
		flood(c, strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 100))
	}, want: []webhook.Outcome{webhook.ConnectionError}},
	{name: "102, now and then, for ever", talk: func(ctx context.Context, c net.Conn) {
		drip(ctx, c, strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100))
	}, want: []webhook.Outcome{webhook.Timeout}},
	{name: "100 and 103 before the answer", talk: func(_ context.Context, c net.Conn) {
		_, _ = io.WriteString(c, strings.Repeat("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n", 20)+"HTTP/1.1 204 No Content\r\n\r\n")
	}, want: []webhook.Outcome{webhook.Delivered}, status: []int{204}},
	{name: "two answers", talk: func(_ context.Context, c net.Conn) {
		_, _ = io.WriteString(c, strings.Repeat("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 2))
	}, want: []webhook.Outcome{webhook.Delivered}, status: []int{200}},
	{name: "compressed to nothing", talk: func(_ context.Context, c net.Conn) {
		var bomb bytes.Buffer
		z := gzip.NewWriter(&bomb)
		_, _ = z.Write(make([]byte, 4<<20))
		_ = z.Close()
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", bomb.Len(), bomb.Bytes())
	}, want: []webhook.Outcome{webhook.Delivered}, status: []int{200}},
	{name: "reset before the answer", talk: func(_ context.Context, c net.Conn) {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}, want: []webhook.Outcome{webhook.ConnectionError}},
	{name: "reset in the header", talk: func(_ context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX-")
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}, want: []webhook.Outcome{webhook.ConnectionError}},
	{name: "reset in the body", talk: func(_ context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx")
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}, want: []webhook.Outcome{webhook.ConnectionError}, status: []int{0, 200}}, // what was not read yet is lost too
	{name: "answers early, and reads on", body: 8 << 20, talk: func(_ context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}, want: []webhook.Outcome{webhook.Delivered}, status: []int{200}},
	{name: "answers early, and reads no more", body: 8 << 20, talk: func(ctx context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
		idle(ctx)
	}, want: []webhook.Outcome{webhook.ClientError}, status: []int{413}},
	{name: "answers early, and closes", body: 8 << 20, talk: func(_ context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		c.Close()
	}, want: []webhook.Outcome{webhook.ClientError, webhook.ConnectionError}, status: []int{413, 0}}, // the reset can overtake the answer
	{name: "reads no body and hangs", first: true, body: 8 << 20, talk: func(ctx context.Context, _ net.Conn) {
		idle(ctx)
	}, want: []webhook.Outcome{webhook.Timeout}},
	{name: "reads the body, a byte at a time", first: true, body: 8 << 20, talk: func(ctx context.Context, c net.Conn) {
		pace := time.NewTicker(hostileTimeout / 15)
		defer pace.Stop()
		for range 45 { // three times the attempt's timeout; what is left in the socket is read at once, to see its end
			if _, err := c.Read(make([]byte, 1)); err != nil {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-pace.C:
			}
		}
	}, want: []webhook.Outcome{webhook.Timeout}},
}

// TestSendHostile: whatever a receiver does, the attempt ends within its timeout, and CloseIdle leaves no connection to it.
func TestSendHostile(t *testing.T) {
	t.Parallel()
	for _, tt := range hostile {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hungUp := make(chan struct{}, 8)
			var begun atomic.Int32
			url := serveRaw(t, func(ctx context.Context, c net.Conn) {
				begun.Add(1)
				if !tt.first {
					readHead(c)
				}
				tt.talk(ctx, c)
				_, _ = io.Copy(io.Discard, c) // until the sender closes, or the test ends
				hungUp <- struct{}{}
			})
			s := newSender(t, nil)
			r := request(t, url)
			if tt.body > 0 {
				r.Body = make([]byte, tt.body)
			}
			if tt.status == nil {
				tt.status = []int{0}
			}
			timeout := hostileTimeout
			if !slices.Contains(tt.want, webhook.Timeout) {
				timeout = hangGuard
			}
			got, timeout := sendShort(t.Context(), s, r, timeout, func(got webhook.Result) bool { return slices.Contains(tt.status, got.StatusCode) })
			if !slices.Contains(tt.want, got.Outcome) || len(got.Body) > webhook.DefaultResponseBody {
				t.Fatalf("got %s, %d, %v after %s; want %v", got.Outcome, got.StatusCode, got.Err, got.Duration, tt.want)
			}
			if !slices.Contains(tt.status, got.StatusCode) {
				t.Errorf("got status %d, want %v", got.StatusCode, tt.status)
			}
			if got.Duration > hangGuard || (got.Outcome == webhook.Timeout && got.Duration < timeout) {
				t.Errorf("took %s", got.Duration)
			}
			s.CloseIdle()
			for range max(1, begun.Load()) {
				<-hungUp
			}
		})
	}
}

// TestSendHostileMemory: what a receiver floods us with is not kept. Not parallel: it counts what the process allocates.
func TestSendHostileMemory(t *testing.T) {
	const bound = 2 << 20 // per attempt; the receivers here write without allocating
	for _, tt := range hostile {
		if tt.body > 0 || slices.Contains(tt.want, webhook.Timeout) || strings.Contains(tt.name, "compressed") {
			continue
		}
		url := serveRaw(t, func(ctx context.Context, c net.Conn) {
			readHead(c)
			tt.talk(ctx, c)
		})
		s, r := newSender(t, nil), request(t, url)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := s.Send(t.Context(), r)
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > bound {
			t.Errorf("%s: %d bytes allocated, %+v", tt.name, grown, got)
		}
	}
}

// TestSendHostileTLS: the same before there is a connection: a handshake that hangs or drips.
func TestSendHostileTLS(t *testing.T) {
	t.Parallel()
	for name, talk := range map[string]func(context.Context, net.Conn){
		"hangs": func(context.Context, net.Conn) {},
		"drips": func(ctx context.Context, c net.Conn) {
			drip(ctx, c, "\x16\x03\x03\x40\x00"+strings.Repeat("\x02", 1000))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hungUp := make(chan struct{}, 1)
			url := serveRaw(t, func(ctx context.Context, c net.Conn) {
				talk(ctx, c)
				_, _ = io.Copy(io.Discard, c)
				hungUp <- struct{}{}
			})
			s := newSender(t, func(c *webhook.SenderConfig) { c.Timeout, c.TLSConfig = hostileTimeout, &tls.Config{} })
			got := s.Send(t.Context(), request(t, strings.Replace(url, "http", "https", 1)))
			if got.Outcome != webhook.Timeout || got.Duration > hangGuard {
				t.Errorf("got %+v", got)
			}
			s.CloseIdle() // also ends a handshake that no attempt waits for
			<-hungUp
		})
	}
}

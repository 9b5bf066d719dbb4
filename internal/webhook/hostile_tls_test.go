package webhook_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

// TestSendTLSFaults: receivers whose certificate or protocol is wrong, each with a certificate that was really made so.
func TestSendTLSFaults(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	var hits atomic.Int32
	hit := func(http.ResponseWriter, *http.Request) { hits.Add(1) }
	cert := func(c tls.Certificate) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{c}} }
	changed := func(change func(*x509.Certificate)) *tls.Config { return cert(ca.issue(change)) }
	tls10 := changed(nil)
	tls10.MinVersion, tls10.MaxVersion = tls.VersionTLS10, tls.VersionTLS10
	tests := []struct {
		name   string
		config *tls.Config // nil: plain http
		host   string      // empty: the address
		reason string
	}{
		{"expired", changed(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "", "has expired or is not yet valid"},
		{"not yet valid", changed(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), "", "has expired or is not yet valid"},
		{"wrong name", cert(ca.issue(nil, "other.example")), "name.example", `not for "name.example"`},
		{"address for a name", cert(ca.issue(nil)), "name.example", `not for "name.example"`},
		{"name for an address", cert(ca.issue(nil, "name.example")), "", `not for "127.0.0.1"`},
		{"unknown authority", cert(stranger.issue(nil)), "", "unknown authority"},
		{"for clients only", changed(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), "", "the certificate is not valid"},
		{"TLS 1.0 only", tls10, "", "protocol version"},
		{"plain http", nil, "", "speaks plain http"},
		// TLS 1.3 lets us send before the refusal comes; over HTTP/2 a reset can overtake the alert.
		{"wants a certificate", wantsClient(ca, tls.RequireAndVerifyClientCert), "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(hit))
			srv.Config.ErrorLog, srv.TLS, srv.EnableHTTP2 = discardLog(), tt.config, true
			if tt.config == nil {
				srv.Start()
			} else {
				srv.StartTLS()
			}
			defer srv.Close()
			u := mustURL(t, "https://"+srv.Listener.Addr().String()+"/secret")
			if tt.host != "" {
				u.Host = tt.host + ":" + u.Port()
			}
			s := newSender(t, func(c *webhook.SenderConfig) {
				c.TLSConfig, c.Resolver = ca.trusted(), nameServer(t, map[string]netip.Addr{"name.example": netip.MustParseAddr("127.0.0.1")})
			})
			got := s.Send(t.Context(), request(t, u.String()))
			if tt.reason == "" && got.Outcome == webhook.ConnectionError {
				return
			}
			if got.Outcome != webhook.TLSError || got.Err == nil || !strings.Contains(got.Err.Error(), tt.reason) || strings.Contains(got.Err.Error(), "secret") {
				t.Errorf("got %s, %v, want %q", got.Outcome, got.Err, tt.reason)
			}
			s.CloseIdle()
		})
	}
	if hits.Load() != 0 {
		t.Errorf("%d messages were taken", hits.Load())
	}
}

// TestSendHostileHTTP2: what a receiver can do to a message over HTTP/2, where all messages share a connection: the next one
// must not suffer.
func TestSendHostileHTTP2(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		answer http.HandlerFunc
		body   int
		want   []webhook.Outcome
	}{
		{"hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 0, []webhook.Outcome{webhook.Timeout}},
		{"header, then hangs", func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, 0, []webhook.Outcome{webhook.Timeout}},
		{"body, now and then", func(w http.ResponseWriter, r *http.Request) {
			pace := time.NewTicker(hostileTimeout / 15)
			defer pace.Stop()
			for r.Context().Err() == nil {
				fmt.Fprint(w, "x")
				w.(http.Flusher).Flush()
				<-pace.C
			}
		}, 0, []webhook.Outcome{webhook.Timeout}},
		{"body without end", func(w http.ResponseWriter, _ *http.Request) {
			for b := make([]byte, 4096); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}, 0, []webhook.Outcome{webhook.Delivered}},
		{"gigantic header", func(w http.ResponseWriter, _ *http.Request) {
			for i := range 100 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 4096))
			}
		}, 0, []webhook.Outcome{webhook.ConnectionError}},
		{"flood of 103", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", strings.Repeat("x", 1000))
			for r.Context().Err() == nil {
				w.WriteHeader(http.StatusEarlyHints)
			}
		}, 0, []webhook.Outcome{webhook.ConnectionError, webhook.Timeout}},
		{"aborts in the body", func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, 0, []webhook.Outcome{webhook.ConnectionError}},
		{"reads no body", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, 8 << 20, []webhook.Outcome{webhook.Delivered}},
		{"reads no body and hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 8 << 20, []webhook.Outcome{webhook.Timeout}},
		{"redirects to itself", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}, 0, []webhook.Outcome{webhook.Redirect}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var hits atomic.Int32
			hungUp := make(chan struct{}, 8)
			ca := newAuthority(t)
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/good" {
					_, _ = io.Copy(io.Discard, r.Body)
					fmt.Fprint(w, r.Proto)
					return
				}
				hits.Add(1)
				tt.answer(w, r)
			}))
			srv.TLS, srv.EnableHTTP2, srv.Config.ErrorLog = &tls.Config{Certificates: []tls.Certificate{ca.issue(nil)}}, true, discardLog()
			srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateClosed {
					hungUp <- struct{}{}
				}
			}
			srv.StartTLS()
			t.Cleanup(srv.Close)
			s := newSender(t, func(c *webhook.SenderConfig) { c.TLSConfig = ca.trusted() })
			r := request(t, srv.URL+"/bad")
			if tt.body > 0 {
				r.Body = make([]byte, tt.body)
			}
			timeout := hangGuard
			if slices.Contains(tt.want, webhook.Timeout) {
				timeout = 2 * hostileTimeout
			}
			sent := int32(0)
			got, _ := sendShort(t.Context(), s, r, timeout, func(webhook.Result) bool {
				sent++
				return hits.Load() > 0
			})
			if n := hits.Load(); !slices.Contains(tt.want, got.Outcome) || got.Duration > hangGuard || n == 0 || n > sent || len(got.Body) > webhook.DefaultResponseBody {
				t.Errorf("got %s, %v after %s and %d requests, want %s", got.Outcome, got.Err, got.Duration, hits.Load(), tt.want)
			}
			if good := s.Send(t.Context(), request(t, srv.URL+"/good")); good.Outcome != webhook.Delivered || string(good.Body) != "HTTP/2.0" {
				t.Errorf("the next message: %+v", good)
			}
			closeUntil(s, hungUp)
		})
	}
}

// closeUntil closes s until the receiver has seen it. Once is not enough over HTTP/2: net/http takes back a message that was
// given up in its own time, and its connection is not idle before that.
func closeUntil(s *webhook.Sender, hungUp <-chan struct{}) {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		s.CloseIdle()
		select {
		case <-hungUp:
			return
		case <-again.C:
		}
	}
}

// TestSendHTTP2AfterClose: a connection that the receiver ends between two messages, as it does when it is restarted, costs no
// attempt. One that it tears down without a word can cost the attempt that finds out, and no more: net/http repeats that over
// HTTP/1.1 only.
func TestSendHTTP2AfterClose(t *testing.T) {
	t.Parallel()
	for _, graceful := range []bool{true, false} {
		ca := newAuthority(t)
		ended := make(chan struct{}, 8)
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if graceful {
				w.Header().Set("Connection", "close") // GOAWAY after this answer
			}
		}))
		srv.TLS, srv.EnableHTTP2 = &tls.Config{Certificates: []tls.Certificate{ca.issue(nil)}}, true
		srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				ended <- struct{}{}
			}
		}
		srv.StartTLS()
		t.Cleanup(srv.Close)
		s := newSender(t, func(c *webhook.SenderConfig) { c.TLSConfig = ca.trusted() })
		lost := 0
		for i := range 2 { // a graceful end takes the server a second
			got := s.Send(t.Context(), request(t, srv.URL))
			switch {
			case got.Outcome == webhook.Delivered:
				lost = 0
				if !graceful {
					srv.CloseClientConnections()
				}
				<-ended
			case graceful || got.Outcome != webhook.ConnectionError || lost > 0:
				t.Fatalf("graceful %t, message %d: got %+v", graceful, i, got)
			default:
				lost++
			}
		}
	}
}

package webhook_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

// TestProxy goes every way through a proxy: both kinds of proxy, both kinds of target, twice over one connection.
func TestProxy(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	arrived := make(chan *http.Request, 8)
	handler := func(w http.ResponseWriter, r *http.Request) {
		body := readAll(t, r.Body)
		v := webhook.Verifier{Secrets: []webhook.Secret{testSecret}}
		if err := v.Verify(r.Header, body); err != nil {
			t.Error(err)
		}
		arrived <- r
		fmt.Fprint(w, r.Proto)
	}
	plain := serve(t, handler)
	secure := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{ca.issue(nil, "target.example")}}, handler)
	for _, proxyTLS := range []*tls.Config{nil, {Certificates: []tls.Certificate{ca.issue(nil)}}} {
		for _, target := range []struct{ url, addr, proto, connect string }{
			{"http://target.example/hook?a=b", plain.Listener.Addr().String(), "HTTP/1.1", "POST http://target.example/hook?a=b"},
			{"https://target.example/hook?a=b", secure.Listener.Addr().String(), "HTTP/2.0", "CONNECT target.example:443"},
		} {
			proxy := newTestProxy(t, proxyTLS, target.addr)
			proxy.url.User = url.UserPassword("user", "pass")
			s := newSender(t, func(c *webhook.SenderConfig) {
				c.Guard, c.TLSConfig = nil, ca.trusted()
				c.Resolver = nameServer(t, map[string]netip.Addr{"target.example": public})
				c.AllowProxies = []string{proxy.url.Host}
			})
			for range 2 {
				r := request(t, target.url)
				r.Route = &webhook.Route{Proxy: proxy.url}
				got := s.Send(t.Context(), r)
				if got.Outcome != webhook.Delivered || string(got.Body) != target.proto {
					t.Fatalf("%s by %s: got %+v", target.url, proxy.url.Scheme, got)
				}
				req := <-arrived
				if req.Header.Get("Proxy-Authorization") != "" || req.Host != "target.example" || req.RequestURI != "/hook?a=b" {
					t.Errorf("%s by %s: arrived %s %s %v", target.url, proxy.url.Scheme, req.Host, req.RequestURI, req.Header)
				}
			}
			want := []string{target.connect + " Basic dXNlcjpwYXNz"}
			if target.proto == "HTTP/1.1" {
				want = append(want, want[0])
			}
			if got := proxy.requests(); !slices.Equal(got, want) {
				t.Errorf("%s by %s: the proxy saw %q, want %q", target.url, proxy.url.Scheme, got, want)
			}
		}
	}
}

// TestProxyJudgesTarget: what the guard refuses never reaches the proxy, in any spelling that some resolver understands.
func TestProxyJudgesTarget(t *testing.T) {
	t.Parallel()
	proxy := newTestProxy(t, nil, "127.0.0.1:1")
	private, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2606:4700:4700::1111")
	names := map[string][]netip.Addr{
		"private.example": {private}, "one-of-three.example": {public, v6, private}, "mapped.example": {netip.MustParseAddr("::ffff:10.0.0.1")},
		"v6.example": {public, netip.MustParseAddr("fd00::1")}, "metadata.google.internal": {netip.MustParseAddr("169.254.169.254")},
		// The local name server says that they are public; a C resolver in the proxy reads them as 127.0.0.1.
		"127.1": {public}, "0x7f.1": {public}, "0x7f000001": {public}, "2130706433": {public}, "0177.0.0.1": {public}, "a.0x": {public}, "a.1.": {public},
		"127.0.0.1": {public}, "under_score.example": {private},
	}
	s := newSender(t, func(c *webhook.SenderConfig) {
		c.Guard, c.AllowProxies = nil, []string{proxy.url.Host}
		c.Resolver = nameServerFunc(t, func(name string, _ uint16) ([]netip.Addr, bool) { return names[name], false })
	})
	tests := []struct {
		host string
		want webhook.Outcome
	}{
		{"127.0.0.1", webhook.RefusedTarget}, {"10.0.0.1:8080", webhook.RefusedTarget}, {"[::1]", webhook.RefusedTarget}, {"[fe80::1%25eth0]", webhook.RefusedTarget},
		{"[::ffff:127.0.0.1]", webhook.RefusedTarget}, {"[64:ff9b::7f00:1]", webhook.RefusedTarget}, {"169.254.169.254", webhook.RefusedTarget}, {"0.0.0.0", webhook.RefusedTarget},
		{"private.example", webhook.RefusedTarget}, {"PRIVATE.example.", webhook.RefusedTarget}, {"one-of-three.example", webhook.RefusedTarget},
		{"mapped.example", webhook.RefusedTarget}, {"v6.example", webhook.RefusedTarget}, {"metadata.google.internal", webhook.RefusedTarget}, {"under_score.example", webhook.RefusedTarget},
		{"127.1", webhook.RefusedTarget}, {"0x7f.1", webhook.RefusedTarget}, {"0x7f000001", webhook.RefusedTarget}, {"0X7F000001", webhook.RefusedTarget}, {"2130706433", webhook.RefusedTarget},
		{"0177.0.0.1", webhook.RefusedTarget}, {"127.0.0.1.", webhook.RefusedTarget}, {"a.0x", webhook.RefusedTarget}, {"a.1.", webhook.RefusedTarget}, {"0", webhook.RefusedTarget},
		{"①②⑦.⓪.⓪.①", webhook.RefusedTarget}, {"127。0。0。1", webhook.RefusedTarget}, {"ｌｏｃａｌｈｏｓｔ", webhook.RefusedTarget}, {"bücher.example", webhook.RefusedTarget},
		{"a,b", webhook.RefusedTarget}, {"a;127.0.0.1", webhook.RefusedTarget}, {"localhost", webhook.RefusedTarget}, {"localhost.", webhook.DNSError},
		{"unknown.example", webhook.DNSError}, {"127.0.0.1.unknown.example", webhook.DNSError}, {".", webhook.DNSError}, {"..", webhook.DNSError}, {"0x7g", webhook.DNSError},
	}
	for _, tt := range tests {
		for _, scheme := range []string{"http", "https"} {
			u, err := url.Parse(scheme + "://" + tt.host + "/secret")
			if err != nil {
				t.Fatal(err)
			}
			r := &webhook.Request{URL: u, ID: "1", Secrets: []webhook.Secret{testSecret}, Route: &webhook.Route{Proxy: proxy.url}}
			got := s.Send(t.Context(), r)
			if got.Outcome != tt.want || got.Err == nil || strings.Contains(got.Err.Error(), "secret") {
				t.Errorf("%s: got %s, %v, want %s", u, got.Outcome, got.Err, tt.want)
			}
		}
	}
	if seen := proxy.requests(); len(seen) != 0 {
		t.Errorf("the proxy saw %q", seen)
	}
}

// TestProxyFaults: what the proxy does wrong is its own outcome, and no error shows its credentials.
func TestProxyFaults(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	write := func(answer string) string {
		return serveRaw(t, func(_ context.Context, c net.Conn) {
			readHead(c)
			_, _ = io.WriteString(c, answer)
		})
	}
	hang := serveRaw(t, func(ctx context.Context, _ net.Conn) { <-ctx.Done() })
	untrusted := "https" + strings.TrimPrefix(serveTLS(t, nil, http.NotFound).URL, "https")
	noTLS := serveRaw(t, func(_ context.Context, c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "HTTP/1.1 400 secret\r\n\r\n")
	})
	const plain, secure = "http://target.example/secret", "https://target.example/secret"
	tests := []struct {
		name, proxy, target string
		want                webhook.Outcome
		reason              string
	}{
		{"refuses the connection", "http://" + nobody, secure, webhook.ProxyError, "post: proxy: dial 127.0.0.1:"},
		{"refuses the connection, plain", "http://" + nobody, plain, webhook.ProxyError, "post: proxy: dial 127.0.0.1:"},
		{"has no address", "http://nowhere.example:1", secure, webhook.ProxyError, `post: proxy: no such host: "nowhere.example"`},
		{"is forbidden", "http://private.example:1", secure, webhook.RefusedTarget, "post: proxy: 10.0.0.1 is private"},
		{"is forbidden, plain", "http://private.example:1", plain, webhook.RefusedTarget, "post: proxy: 10.0.0.1 is private"},
		{"wants credentials", write("HTTP/1.1 407 secret\r\n\r\n"), secure, webhook.ProxyError, "post: proxy: answers 407"},
		{"wants credentials, plain", write("HTTP/1.1 407 secret\r\nContent-Length: 0\r\n\r\n"), plain, webhook.ProxyError, "post: proxy: answers 407"},
		{"502", write("HTTP/1.1 502 secret\r\nContent-Length: 6\r\n\r\nsecret"), secure, webhook.ProxyError, "answers 502 to CONNECT"},
		{"503", write("HTTP/1.1 503 secret\r\n\r\n"), secure, webhook.ProxyError, "answers 503 to CONNECT"},
		{"403", write("HTTP/1.1 403 secret\r\n\r\n"), secure, webhook.ProxyError, "answers 403 to CONNECT"},
		{"302", write("HTTP/1.1 302 secret\r\nLocation: http://127.0.0.1/\r\n\r\n"), secure, webhook.ProxyError, "answers 302 to CONNECT"},
		{"100", write("HTTP/1.1 100 secret\r\n\r\n"), secure, webhook.ProxyError, "answers 100 to CONNECT"},
		{"502, plain: may be the target's", write("HTTP/1.1 502 secret\r\nContent-Length: 0\r\n\r\n"), plain, webhook.ServerError, ""},
		{"speaks out of turn", write("HTTP/1.1 200 OK\r\n\r\nsecret"), secure, webhook.ProxyError, "bytes that nobody asked for"},
		{"closes", write(""), secure, webhook.ProxyError, "post: proxy: connection closed"},
		{"is no proxy", write("220 secret ESMTP\r\n"), secure, webhook.ProxyError, "post: proxy: the answer is not valid HTTP"},
		{"has an endless header", write("HTTP/1.1 200 OK\r\nX-Pad: " + strings.Repeat("x", 100_000)), secure, webhook.ProxyError, "post: proxy: "},
		{"hangs", hang, secure, webhook.Timeout, "post: timed out"},
		{"has an unknown authority", untrusted, secure, webhook.ProxyError, "post: proxy: tls: the certificate is signed by an unknown authority"},
		{"has an unknown authority, plain", untrusted, plain, webhook.ProxyError, "post: proxy: tls: the certificate is signed by an unknown authority"},
		{"speaks no TLS", strings.Replace(noTLS, "http", "https", 1), secure, webhook.ProxyError, "proxy: tls: the receiver speaks plain http"},
		{"target speaks no TLS", write("HTTP/1.1 200 OK\r\n\r\n"), secure, webhook.ConnectionError, "post: connection"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			proxy := mustURL(t, tt.proxy)
			proxy.User = url.UserPassword("secret", "secret")
			s := newSender(t, func(c *webhook.SenderConfig) {
				c.TLSConfig, c.Resolver = ca.trusted(), nameServer(t, map[string]netip.Addr{"target.example": public, "private.example": netip.MustParseAddr("10.0.0.1")})
				if tt.want == webhook.Timeout {
					c.Timeout = 100 * time.Millisecond
				}
			})
			r := request(t, tt.target)
			r.Route = &webhook.Route{Proxy: proxy}
			got := s.Send(t.Context(), r)
			if got.Outcome != tt.want || (got.Err == nil) != (tt.reason == "") || (got.Err != nil && got.StatusCode != 0) || len(got.Body) > 0 {
				t.Fatalf("got %+v", got)
			}
			if got.Err != nil && (!strings.Contains(got.Err.Error(), tt.reason) || strings.Contains(got.Err.Error(), "secret") || strings.Contains(got.Err.Error(), "c2Vjc")) {
				t.Errorf("got error %q, want %q", got.Err, tt.reason)
			}
		})
	}
}

// TestProxyGuarded: the proxy's own address is dialled through the guard, unless the operator named it.
func TestProxyGuarded(t *testing.T) {
	t.Parallel()
	receiver := serve(t, func(http.ResponseWriter, *http.Request) {})
	proxy := newTestProxy(t, nil, receiver.Listener.Addr().String())
	_, port, _ := net.SplitHostPort(proxy.url.Host)
	tests := []struct {
		allow []string
		host  string
		want  webhook.Outcome
	}{
		{nil, proxy.url.Host, webhook.RefusedTarget},
		{[]string{"127.0.0.1:1"}, proxy.url.Host, webhook.RefusedTarget},
		{[]string{"127.0.0.1"}, proxy.url.Host, webhook.RefusedTarget},
		{[]string{"proxy.example:" + port}, proxy.url.Host, webhook.RefusedTarget},
		{[]string{proxy.url.Host}, "proxy.example:" + port, webhook.RefusedTarget}, // what is named, not what it resolves to
		{[]string{proxy.url.Host}, proxy.url.Host, webhook.Delivered},
		{[]string{"Proxy.Example:" + port}, "pRoxy.example:" + port, webhook.Delivered},
	}
	for _, tt := range tests {
		s := newSender(t, func(c *webhook.SenderConfig) {
			c.Guard, c.AllowProxies = nil, tt.allow
			c.Resolver = nameServer(t, map[string]netip.Addr{"target.example": public, "proxy.example": netip.MustParseAddr("127.0.0.1")})
		})
		r := request(t, "http://target.example/")
		r.Route = &webhook.Route{Proxy: &url.URL{Scheme: "http", Host: tt.host}}
		if got := s.Send(t.Context(), r); got.Outcome != tt.want {
			t.Errorf("%v allowed, %s: got %s, %v, want %s", tt.allow, tt.host, got.Outcome, got.Err, tt.want)
		}
		// The permission is the proxy's alone: as a target it is refused.
		if got := s.Send(t.Context(), request(t, "http://"+tt.host+"/")); got.Outcome != webhook.RefusedTarget {
			t.Errorf("%v allowed, %s as the target: got %s", tt.allow, tt.host, got.Outcome)
		}
	}
}

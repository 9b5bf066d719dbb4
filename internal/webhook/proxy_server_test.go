package webhook_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// testProxy is a forward proxy on this machine. Wherever it is asked to go, it goes to target: it never leaves the machine.
type testProxy struct {
	url    *url.URL
	target string // host:port

	mu   sync.Mutex
	seen []string // "method target authorization" of each request
}

func newTestProxy(t testing.TB, config *tls.Config, target string) *testProxy {
	t.Helper()
	p := &testProxy{target: target}
	p.url = mustURL(t, serveRaw(t, func(ctx context.Context, c net.Conn) {
		if config != nil {
			c = tls.Server(c, config)
			defer c.Close()
		}
		p.serve(ctx, c)
	}))
	if config != nil {
		p.url.Scheme = "https"
	}
	return p
}

func (p *testProxy) serve(ctx context.Context, c net.Conn) {
	r := bufio.NewReader(c)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	p.note(req)
	out, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { out.Close() })()
	defer out.Close()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(c, out)
		c.Close()
	})
	defer back.Wait()
	defer out.Close()
	if req.Method == http.MethodConnect {
		_, _ = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
		_, _ = io.Copy(out, r)
		return
	}
	for {
		req.Header.Del("Proxy-Authorization")
		if err := req.Write(out); err != nil { // origin form
			return
		}
		if req, err = http.ReadRequest(r); err != nil {
			return
		}
		p.note(req)
	}
}

func (p *testProxy) note(req *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = append(p.seen, strings.TrimSpace(req.Method+" "+req.RequestURI+" "+req.Header.Get("Proxy-Authorization")))
}

func (p *testProxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

func mustURL(t testing.TB, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// public is an address that the guard permits, and that nothing in a test ever connects to.
var public = netip.MustParseAddr("93.184.215.14")

package webhook

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// proxyFault says that the proxy failed, not the target behind it. Its text is for this package alone: see [redact].
type proxyFault struct {
	status int // of its answer; 0 if there was none
	err    error
}

func (e *proxyFault) Error() string {
	if e.err != nil {
		return "proxy: " + e.err.Error()
	}
	return fmt.Sprintf("proxy: status %d", e.status)
}

func (e *proxyFault) Unwrap() error { return e.err }

// proxyDialer makes connections to one proxy, and through it.
type proxyDialer struct {
	proxy     *url.URL
	dialer    *net.Dialer
	tls       *tls.Config // nil for an http proxy
	userAgent string
}

// connect is a connection to the proxy itself, over TLS if it wants that. It is a DialContext for a transport that writes
// absolute forms: the address it is asked for is the proxy's.
func (d *proxyDialer) connect(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := d.open(ctx)
	if err != nil {
		return nil, &proxyFault{err: err}
	}
	return conn, nil
}

// tunnel is a connection to addr through the proxy: a DialContext for a transport that takes it for the target's own. Reaching
// the proxy and being connected through it take [dialTimeout] together, as a dial does.
func (d *proxyDialer) tunnel(ctx context.Context, _, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := d.open(ctx)
	if err != nil {
		return nil, &proxyFault{err: err}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	status, err := d.handshake(conn, addr)
	if !stop() && err == nil {
		err = context.Cause(ctx) // the deadline in the past may hit what comes next
	}
	if err != nil || !opensTunnel(status) {
		conn.Close()
		return nil, &proxyFault{status: status, err: err}
	}
	return conn, nil
}

func (d *proxyDialer) open(ctx context.Context) (net.Conn, error) {
	conn, err := d.dialer.DialContext(ctx, "tcp", proxyAddr(d.proxy))
	if err != nil || d.tls == nil {
		return conn, err
	}
	secured := tls.Client(conn, d.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secured, nil
}

// errProxySpeaks: in a tunnel the target's bytes come next, and a TLS server is silent until it is spoken to.
var errProxySpeaks = errors.New("bytes after the answer to CONNECT")

// handshake asks for a tunnel to addr and returns the status of the answer, which has no content if it opens the tunnel.
func (d *proxyDialer) handshake(conn net.Conn, addr string) (int, error) {
	req := &http.Request{
		Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr,
		Header: http.Header{"User-Agent": {d.userAgent}}, // an empty one is not sent
	}
	if user := d.proxy.User; user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return 0, err
	}
	r := bufio.NewReader(io.LimitReader(conn, maxAnswerHeader))
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return 0, err
	}
	if opensTunnel(resp.StatusCode) && r.Buffered() > 0 {
		return 0, errProxySpeaks
	}
	return resp.StatusCode, nil
}

package nex

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
)

const (
	// wireBuffer is what a stream keeps to read its chunks' lines by; what is in a chunk is read past it.
	wireBuffer = 1 << 9
	// maxHeader bounds the header of an answer, in bytes, as net/http does by default.
	maxHeader = 10 << 20
)

// direct opens each stream over a connection of its own, with what net/http has for that. [http.Transport] keeps two goroutines
// and their buffers for a connection as long as it is open, so that it can be used again: 14 KB for each stream, which never is.
type direct struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	timeout time.Duration // of the TLS handshake, and of the wait for the header
	tls     *tls.Config   // one for all: each connection keeps it
	proxy   func(*http.Request) (*url.URL, error)
	// elsewise is for where a proxy is between, and for a host that is not ASCII: net/http can do both.
	elsewise http.RoundTripper
}

// newDirect reaches one server, as transport does.
func newDirect(server string, transport *http.Transport) *direct {
	return &direct{
		dial: transport.DialContext, timeout: transport.ResponseHeaderTimeout, tls: &tls.Config{ServerName: server},
		proxy: transport.Proxy, elsewise: transport,
	}
}

// RoundTrip is for requests without a body.
func (d *direct) RoundTrip(req *http.Request) (*http.Response, error) {
	via, err := d.proxy(req)
	if err != nil {
		return nil, err
	}
	if via != nil || strings.ContainsFunc(req.URL.Host, func(r rune) bool { return r > unicode.MaxASCII }) {
		return d.elsewise.RoundTrip(req)
	}
	conn, err := d.connect(req.Context(), req.URL)
	if err != nil {
		return nil, err
	}
	unwatch := context.AfterFunc(req.Context(), func() { _ = conn.Close() })
	resp, body, err := d.exchange(conn, req)
	if err != nil {
		unwatch()
		_ = conn.Close()
		switch cause := req.Context().Err(); {
		case cause != nil:
			err = cause
		case errors.Is(err, os.ErrDeadlineExceeded): // whose text names a port that is another each time
			err = errHeader
		}
		return nil, err
	}
	resp.Body = &wire{Reader: body, conn: conn, unwatch: unwatch}
	return resp, nil
}

// connect dials, and shakes hands where the URL says https.
func (d *direct) connect(ctx context.Context, u *url.URL) (net.Conn, error) {
	conn, err := d.dial(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), defaultPorts[u.Scheme])))
	if err != nil || u.Scheme != "https" {
		return conn, err
	}
	secure := tls.Client(conn, d.tls)
	ctx, cancel := context.WithTimeoutCause(ctx, d.timeout, errHandshake)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		if errors.Is(context.Cause(ctx), errHandshake) {
			err = errHandshake
		}
		return nil, err
	}
	return secure, nil
}

var (
	defaultPorts = map[string]string{"http": "80", "https": "443"}

	errHandshake = errors.New("TLS handshake timeout")
	errHeader    = errors.New("timeout awaiting the header of the answer")
)

// exchange sends the request and reads the answer's header. The body reads from the connection and keeps nothing else.
func (d *direct) exchange(conn net.Conn, req *http.Request) (*http.Response, io.Reader, error) {
	if err := conn.SetDeadline(time.Now().Add(d.timeout)); err != nil {
		return nil, nil, err
	}
	if err := req.Write(conn); err != nil {
		return nil, nil, err
	}
	limited := &io.LimitedReader{R: conn, N: maxHeader}
	r := bufio.NewReaderSize(limited, wireBuffer)
	resp, err := http.ReadResponse(r, req)
	for err == nil && resp.StatusCode/100 == 1 && resp.StatusCode != http.StatusSwitchingProtocols { // it only announces the answer
		resp, err = http.ReadResponse(r, req)
	}
	switch {
	case err != nil && limited.N <= 0:
		return nil, nil, errors.New("header of the answer is too large")
	case err != nil:
		return nil, nil, err
	}
	limited.N = math.MaxInt64
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	if slices.Equal(resp.TransferEncoding, []string{"chunked"}) { // resp.Body would keep resp and req, for the trailer
		return resp, httputil.NewChunkedReader(r), nil
	}
	return resp, resp.Body, nil
}

// wire is the body of an answer that has its connection for itself.
type wire struct {
	io.Reader
	conn    net.Conn
	unwatch func() bool
}

// Close ends the connection, and a Read under way.
func (w *wire) Close() error {
	w.unwatch()
	return w.conn.Close()
}

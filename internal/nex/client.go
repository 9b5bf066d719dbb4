// Package nex is Nex's API as the relay sees it: the insight stream, insights over REST, and every shape in which an
// insight comes. It knows nothing of what happens to an insight afterwards.
package nex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// ClientConfig of a [Client]. Only BaseURL is needed.
type ClientConfig struct {
	// BaseURL ends before /v1, e.g. https://app.nex.ai/api/developers.
	BaseURL   string
	UserAgent string
	// MaxEventSize bounds one event of the stream, in bytes; 4 MiB if 0. A larger one is cut and marked, see [Frame].
	MaxEventSize int
	// IdleTimeout is how long a stream may send nothing at all, keepalive comments included; 75 s if 0.
	IdleTimeout time.Duration
	// ConnectTimeout bounds dial, TLS handshake and the wait for the answer's header; 15 s if 0.
	ConnectTimeout time.Duration
	// MaxAnswer bounds an answer over REST, in bytes; 64 MiB if 0. A larger one is [ErrTooLarge].
	MaxAnswer int
	// Transport replaces the client's own; nil makes one.
	Transport http.RoundTripper
}

const (
	defaultMaxEvent       = 4 << 20
	defaultIdleTimeout    = 75 * time.Second
	defaultConnectTimeout = 15 * time.Second
	restTimeout           = time.Minute // without the wait for Query.Large
	defaultMaxAnswer      = 64 << 20
	maxRedirects          = 5
)

// Client talks to one Nex for any number of keys. It is safe for concurrent use.
type Client struct {
	base      string
	userAgent string
	maxEvent  int
	maxAnswer int
	idle      time.Duration
	step      time.Duration // what each step of opening may take: the dial, the handshake, the header, the text of a refusal
	http      *http.Client  // for REST
	streams   *http.Client
}

// NewClient checks the base URL.
func NewClient(cfg ClientConfig) (*Client, error) {
	u, err := url.Parse(cfg.BaseURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("base URL must be an absolute http or https URL")
	}
	c := &Client{
		base:      u.String(),
		userAgent: cfg.UserAgent,
		maxEvent:  orDefault(cfg.MaxEventSize, defaultMaxEvent),
		maxAnswer: orDefault(cfg.MaxAnswer, defaultMaxAnswer),
		idle:      orDefault(cfg.IdleTimeout, defaultIdleTimeout),
		step:      orDefault(cfg.ConnectTimeout, defaultConnectTimeout),
	}
	transport, streams := cfg.Transport, cfg.Transport
	if transport == nil {
		own := newTransport(orDefault(cfg.ConnectTimeout, defaultConnectTimeout))
		transport, streams = own, newDirect(u.Hostname(), own)
	}
	c.http = &http.Client{Transport: transport, CheckRedirect: sameOrigin}
	c.streams = &http.Client{Transport: streams, CheckRedirect: sameOrigin}
	return c, nil
}

// newTransport keeps to HTTP/1.1: a connection per stream. Over HTTP/2 all streams of a process would share a few TCP
// connections, so that one lost packet, one full flow-control window or one dead connection would hold up thousands.
func newTransport(timeout time.Duration) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   timeout,
		ResponseHeaderTimeout: timeout,
		Protocols:             protocols,
		MaxIdleConnsPerHost:   64, // for REST; streams are never idle
		IdleConnTimeout:       90 * time.Second,
		WriteBufferSize:       1 << 9, // requests are small, and behind a proxy there is a buffer per stream
		ReadBufferSize:        1 << 10,
		DisableCompression:    true, // a compressed stream would arrive when its compressor pleases
	}
}

// sameOrigin follows a redirect only where the key may go: the same scheme, host and port. net/http by itself would keep
// the Authorization header for subdomains.
func sameOrigin(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	if req.URL.Scheme != first.Scheme || req.URL.Host != first.Host {
		return fmt.Errorf("redirected to %s://%s, where the key is not sent: set nex.base_url to it if it is Nex", req.URL.Scheme, req.URL.Host)
	}
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	return nil
}

// CloseIdle closes the connections that are not in use.
func (c *Client) CloseIdle() { c.http.CloseIdleConnections() }

// Query chooses insights over REST. The zero value asks for the newest ones.
type Query struct {
	From, To time.Time
	Last     time.Duration
	Limit    int // 100 at most; 0 leaves it to Nex, which takes 20
	// Large, if not nil, is called before more than SmallAnswer of an answer is read. It may wait; its error ends the
	// request.
	Large func(context.Context) error
}

// SmallAnswer is how much of an answer over REST is read without asking, in bytes: a hundred insights of 20 KB.
const SmallAnswer = 2 << 20

// ErrTooLarge is returned for an answer over REST that is larger than the client reads. A smaller window may hold less.
var ErrTooLarge = errors.New("answer is too large")

// Insights asks for insights over REST. An error is an [*Error] where Nex answered.
func (c *Client) Insights(ctx context.Context, key string, q Query) (Payload, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timeout := time.AfterFunc(restTimeout, func() { cancel(errTimeout) })
	defer timeout.Stop()
	large := q.Large
	if large != nil {
		large = func(ctx context.Context) error {
			timeout.Stop() // the wait is ours, not Nex's
			defer timeout.Reset(restTimeout)
			return q.Large(ctx)
		}
	}
	values := url.Values{}
	if !q.From.IsZero() {
		values.Set("from", q.From.UTC().Format(time.RFC3339Nano))
	}
	if !q.To.IsZero() {
		values.Set("to", q.To.UTC().Format(time.RFC3339Nano))
	}
	if q.Last > 0 {
		values.Set("last", strconv.Itoa(int(q.Last/time.Second))+"s")
	}
	if q.Limit > 0 {
		values.Set("limit", strconv.Itoa(q.Limit))
	}
	resp, err := c.get(ctx, c.http, key, "/v1/insights?"+values.Encode(), "application/json")
	if err != nil {
		return Payload{}, fmt.Errorf("get insights: %w", timedOut(ctx, err))
	}
	defer resp.Body.Close()
	content, err := readAnswer(ctx, resp.Body, int64(c.maxAnswer)+1, large)
	if err != nil {
		err = timedOut(ctx, err)
		return Payload{}, fmt.Errorf("get insights: %w", err)
	}
	if len(content) > c.maxAnswer {
		return Payload{}, fmt.Errorf("get insights: %w: over %d bytes", ErrTooLarge, c.maxAnswer)
	}
	payload, err := ParsePayload(content)
	if err != nil {
		if saysNothing(content) {
			return Payload{}, nil
		}
		return Payload{}, fmt.Errorf("get insights: %w", err)
	}
	return payload, nil
}

// errTimeout says that Nex has not answered over REST in time.
var errTimeout = fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)

// timedOut is err, or errTimeout if that is what ended the request.
func timedOut(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errTimeout) {
		return errTimeout
	}
	return err
}

// readAnswer reads up to most bytes, and asks large before it reads many.
func readAnswer(ctx context.Context, body io.Reader, most int64, large func(context.Context) error) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(body, min(SmallAnswer, most)))
	if err != nil || len(content) < SmallAnswer {
		return content, err
	}
	if large != nil {
		if err := large(ctx); err != nil {
			return nil, err
		}
	}
	rest, err := io.ReadAll(io.LimitReader(body, most-int64(len(content))))
	return append(content, rest...), err
}

// errOverdue ends an attempt each of whose steps came in time but not all of them together: a redirect without an end is one.
var errOverdue = errors.New("timeout awaiting the stream")

// Stream opens the insight stream. It lives until the server ends it, silence lasts too long, ctx ends, or Close.
func (c *Client) Stream(ctx context.Context, key string) (*Feed, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	overdue := time.AfterFunc(4*c.step, func() { cancel(errOverdue) })
	resp, err := c.get(ctx, c.streams, key, "/v1/insights/stream", "text/event-stream")
	if !overdue.Stop() && err == nil {
		_ = resp.Body.Close()
		err = errOverdue
	}
	if err == nil {
		if media, _, perr := mime.ParseMediaType(resp.Header.Get("Content-Type")); perr != nil || media != "text/event-stream" {
			_ = resp.Body.Close()
			err = fmt.Errorf("answer is %q, not text/event-stream: is nex.base_url right?", printable(resp.Header.Get("Content-Type")))
		}
	}
	if err != nil {
		var refused *Error
		if errors.Is(context.Cause(ctx), errOverdue) && !errors.As(err, &refused) {
			err = errOverdue
		}
		cancel(nil)
		return nil, fmt.Errorf("open stream: %w", err)
	}
	return newFeed(ctx, cancel, resp.Body, c.maxEvent, c.idle), nil
}

// get answers a 200, or an error that holds no key.
func (c *Client) get(ctx context.Context, client *http.Client, key, path, accept string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Accept", accept)
	req.Header.Set("Cache-Control", "no-store")
	if c.userAgent != "" {
		req.Header.Set("User-Agent", c.userAgent)
	}
	resp, err := client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // its text holds the URL, which says nothing new
			err = u.Err
		}
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		late := time.AfterFunc(c.step, func() { _ = resp.Body.Close() }) // its status says enough
		defer late.Stop()
		return nil, readError(resp, time.Now())
	}
	return resp, nil
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

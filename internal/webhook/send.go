// Package webhook sends and verifies Standard Webhooks (https://www.standardwebhooks.com, version 1.0.0): one signed POST
// to one receiver, and one outcome that says what became of it. When to try again is not decided here.
package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// DefaultContentType is the media type of a body unless the request says otherwise (CloudEvents JSON format, section 3).
const DefaultContentType = "application/cloudevents+json"

// Defaults of [SenderConfig].
const (
	DefaultTimeout        = 15 * time.Second
	DefaultMaxIdlePerHost = 64
	DefaultMaxIdle        = 1024
	DefaultResponseBody   = 1 << 10
	DefaultMaxRoutes      = 4096
)

// SenderConfig is the part of a sender that is the same for all endpoints.
type SenderConfig struct {
	// Guard decides which addresses may be dialled; nil permits public ones only.
	Guard *Guard
	// AllowHTTP permits plain http.
	AllowHTTP bool
	// UserAgent is sent with every request; empty sends none.
	UserAgent string
	// Timeout bounds an attempt that names none; 0 means [DefaultTimeout].
	Timeout time.Duration
	// MaxIdlePerHost is how many idle connections are kept for one host, at least the attempts in flight to it, or they
	// dial anew; 0 means [DefaultMaxIdlePerHost].
	MaxIdlePerHost int
	// MaxIdle is how many idle connections are kept in all; 0 means [DefaultMaxIdle].
	MaxIdle int
	// ResponseBodyLimit is how many bytes of an answer are kept, at most 64 KiB; 0 means [DefaultResponseBody], less none.
	ResponseBodyLimit int
	// TLSConfig sets certificate authorities and the like; nil means the system's. It is copied.
	TLSConfig *tls.Config
	// Resolver looks names up; nil means the system's.
	Resolver *net.Resolver
	// AllowProxies are proxies that may be dialled wherever they are: "host:port" as in the proxy's URL, the port always
	// written. Those of the operator's own network, which the guard would refuse.
	AllowProxies []string
	// MaxRoutes is how many distinct routes keep their connections, beside those in use; 0 means [DefaultMaxRoutes]. Each keeps
	// up to MaxIdle connections, for 90 s.
	MaxRoutes int
}

// Sender sends webhooks for any number of endpoints over shared connections. It may be used by many goroutines at once.
type Sender struct {
	transports *transports
	guard      *Guard
	resolver   *net.Resolver
	allowHTTP  bool
	timeout    time.Duration
	keep       int
	// Header values that all requests share: nobody changes them.
	userAgent, contentType []string
}

// NewSender is a sender that is ready for use; [Sender.CloseIdle] ends it.
func NewSender(c SenderConfig) *Sender {
	if c.Guard == nil {
		c.Guard = NewGuard(nil)
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	s := &Sender{
		transports:  newTransports(c),
		guard:       c.Guard,
		resolver:    c.Resolver,
		allowHTTP:   c.AllowHTTP,
		contentType: []string{DefaultContentType},
		timeout:     orDefault(c.Timeout, DefaultTimeout),
		keep:        min(max(orDefault(c.ResponseBodyLimit, DefaultResponseBody), 0), maxDrain),
	}
	if c.UserAgent != "" {
		s.userAgent = []string{c.UserAgent}
	}
	return s
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

// CloseIdle closes the connections that are not in use. Nothing of a sender without attempts in flight is left then, but for
// two kinds of connection: one that was being made when its attempt gave up ends within 20 s, and one over HTTP/2 whose last
// attempt has only just given up may stay for 90 s.
func (s *Sender) CloseIdle() { s.transports.closeIdle() }

// Request is one message to one endpoint. The sender changes none of it.
type Request struct {
	// URL is the target, as [ValidateURL] returns it.
	URL *url.URL
	// ID is the event's id, the same for all attempts; what is sent is its [MessageID].
	ID string
	// Body is signed and sent as it is. It stays unchanged from here on: a connection may still be writing it after an early
	// answer.
	Body []byte
	// Encoded is what is sent in place of the body, which is signed all the same, and Encoding the Content-Encoding that says how it
	// was made of it.
	Encoded  []byte
	Encoding string
	// Attributes are headers that say more about the message: those of CloudEvents in binary mode.
	Attributes http.Header
	// ContentType of the body; empty means [DefaultContentType].
	ContentType string
	// Sequence is the event's place in the log, and Attempt the number of this attempt, from 1; 0 sends none.
	Sequence uint64
	Attempt  int
	// Traceparent is the W3C trace context; empty sends none.
	Traceparent string
	// Origin is what [Sender.Validate] got permission for; empty sends none.
	Origin string
	// Header holds the endpoint's own headers. Those that [ValidateHeaders] calls reserved are left out.
	Header http.Header
	// Route is how the target is reached; nil means directly.
	Route *Route
	// Secrets sign the message, the current one first. At least one: nothing is sent unsigned.
	Secrets []Secret
	// Timeout bounds the attempt from name resolution to the end of the answer; 0 means the sender's.
	Timeout time.Duration
	// At is the time of the attempt, which is signed; zero means now.
	At time.Time
}

// Send makes one attempt. The end of ctx cuts it short: [Canceled] if ctx was canceled, [Timeout] if its deadline passed. A
// 2xx whose answer breaks off or comes too late is not delivered. When Send returns, the answer is read and closed.
func (s *Sender) Send(ctx context.Context, r *Request) Result {
	start := time.Now()
	at := r.At
	if at.IsZero() {
		at = start
	}
	ctx, cancel := context.WithTimeout(ctx, orDefault(r.Timeout, s.timeout))
	defer cancel()
	req, outcome, err := s.request(ctx, r, at)
	if err != nil {
		return Result{Outcome: outcome, Err: fmt.Errorf("post: %w", err), Duration: time.Since(start)}
	}
	result, header := s.exchange(req, r.Route)
	result.Duration = time.Since(start)
	result.keep(r, req.Header, header)
	return result
}

// blank is what all requests begin as.
var blank = &http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}

// request builds the signed HTTP request; the outcome says why it cannot.
func (s *Sender) request(ctx context.Context, r *Request, at time.Time) (*http.Request, Outcome, error) {
	if r.URL == nil {
		return nil, InvalidRequest, errors.New("no url")
	}
	if err := checkURL(r.URL, s.allowHTTP); err != nil {
		if r.URL.Scheme == "http" && !s.allowHTTP {
			return nil, RefusedTarget, err
		}
		return nil, InvalidRequest, err
	}
	if err := r.Route.check(); err != nil {
		return nil, InvalidRequest, err
	}
	header, err := s.header(r, at)
	if err != nil {
		return nil, InvalidRequest, err
	}
	req := blank.WithContext(ctx) // filled after that, which makes a copy
	req.Method, req.URL, req.Host, req.Header, req.Body = http.MethodPost, r.URL, r.URL.Host, header, http.NoBody
	sent := r.Body
	if r.Encoding != "" {
		sent = r.Encoded
	}
	if len(sent) > 0 {
		req.ContentLength = int64(len(sent))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(sent)), nil }
		req.Body, _ = req.GetBody()
	}
	return req, "", nil
}

func (s *Sender) header(r *Request, at time.Time) (http.Header, error) {
	h := ownHeader(r.Header)
	SetHeaders(h, MessageID(r.ID), at, r.Body, r.Secrets...)
	if h.Get(HeaderSignature) == "" {
		return nil, errors.New("no signing secret")
	}
	h["Content-Type"] = s.contentType
	if r.ContentType != "" {
		h["Content-Type"] = []string{r.ContentType}
	}
	if r.Encoding != "" {
		h["Content-Encoding"] = []string{r.Encoding}
	}
	maps.Copy(h, r.Attributes)
	if r.Sequence != 0 {
		h[HeaderSequence] = []string{strconv.FormatUint(r.Sequence, 10)}
	}
	if r.Attempt != 0 {
		h[HeaderAttempt] = []string{strconv.Itoa(r.Attempt)}
	}
	if r.Traceparent != "" {
		h["Traceparent"] = []string{r.Traceparent}
	}
	if r.Origin != "" {
		h[HeaderRequestOrigin] = []string{r.Origin}
	}
	h["User-Agent"] = s.userAgent
	if _, own := h["Idempotency-Key"]; !own {
		// Never sent, since it has no value. It tells the transport that it may repeat the request when a connection from the
		// pool turns out to have been closed by the receiver. Without it a receiver whose idle timeout is as long as the pause
		// between two events would fail every now and then. The webhook-id makes the repetition harmless.
		h["Idempotency-Key"] = nil
	}
	return h, checkHeader(h)
}

// senderHeaders is for how many headers of the sender there is room: a map of Go that is filled grows to twice its size.
const senderHeaders = 14

// ownHeader is what an endpoint may say of its own headers, with room for those of the sender.
func ownHeader(own http.Header) http.Header {
	h := make(http.Header, senderHeaders+len(own))
	for name, values := range own {
		if canonical := http.CanonicalHeaderKey(name); !reservedHeader(canonical) {
			h[canonical] = values
		}
	}
	return h
}

// checkHeader finds what the transport would refuse with an error that looks like a fault of the connection.
func checkHeader(h http.Header) error {
	for name, values := range h {
		if !validHeaderName(name) {
			return fmt.Errorf("header %q: no valid name", name)
		}
		for _, v := range values {
			if !validHeaderValue(v) {
				return fmt.Errorf("header %q: value has a line break or another control character", name)
			}
		}
	}
	return nil
}

// exchange sends req and reads the answer, of which it also returns the header. Redirects are not followed, since it uses the
// transport itself.
func (s *Sender) exchange(req *http.Request, route *Route) (Result, http.Header) {
	ctx, op := req.Context(), strings.ToLower(req.Method)
	if route.proxied() {
		if err := s.judge(ctx, req.URL.Hostname()); err != nil {
			return failed(ctx, op, err), nil
		}
	}
	t := s.transports.acquire(route, req.URL.Scheme)
	defer s.transports.release(t)
	resp, err := t.RoundTrip(req)
	if err != nil {
		return failed(ctx, op, err), nil
	}
	defer resp.Body.Close()
	if route.proxied() && fromProxy(resp.StatusCode) {
		return failed(ctx, op, &proxyFault{status: resp.StatusCode}), nil
	}
	result := Classify(resp.StatusCode, resp.Header, time.Now())
	if result.Body, err = s.readAnswer(resp); err != nil {
		broken := failed(ctx, "read answer", err)
		broken.StatusCode, broken.Body, broken.Overloaded, broken.Control = result.StatusCode, result.Body, result.Overloaded, result.Control
		broken.RetryAfter, broken.HasRetryAfter = result.RetryAfter, result.HasRetryAfter
		return broken, resp.Header
	}
	return result, resp.Header
}

// readAnswer returns the part of the body that is kept, and reads on a little for the connection's sake.
func (s *Sender) readAnswer(resp *http.Response) ([]byte, error) {
	if resp.ContentLength == 0 { // after 101 too, where the body is the bare connection and need never end
		return nil, nil
	}
	size := s.keep
	if resp.ContentLength > 0 {
		size = int(min(resp.ContentLength, int64(s.keep)))
	}
	kept := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead)) // with room for the read that finds the end
	_, err := kept.ReadFrom(io.LimitReader(resp.Body, int64(s.keep)))
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, int64(maxDrain-kept.Len())))
	}
	return kept.Bytes(), err
}

// failed is the result of an attempt without a whole answer. What ended ctx is asked first: to the transport a deadline, a
// shutdown and a lost connection can look alike.
func failed(ctx context.Context, op string, err error) Result {
	outcome := ClassifyError(err)
	switch {
	case outcome == RefusedTarget:
	case errors.Is(ctx.Err(), context.Canceled):
		outcome = Canceled
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		outcome = Timeout
	}
	return Result{Outcome: outcome, Err: redact(op, err, outcome)}
}

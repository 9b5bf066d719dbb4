package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Names of the headers of the validation handshake, in the canonical form of [http.Header] (CloudEvents, "HTTP 1.1 Web Hooks
// for Event Delivery" 1.0, section 4).
const (
	HeaderRequestOrigin = "Webhook-Request-Origin"
	HeaderRequestRate   = "Webhook-Request-Rate"
	HeaderAllowedOrigin = "Webhook-Allowed-Origin"
	HeaderAllowedRate   = "Webhook-Allowed-Rate"
)

// ValidationRequest asks a target whether it wants deliveries.
type ValidationRequest struct {
	// URL is the target, as [ValidateURL] returns it: the same that messages go to.
	URL *url.URL
	// Origin names the sending system, all its replicas together, as a DNS name, e.g. "relay.example.com".
	Origin string
	// Rate is how many requests per minute are wanted; 0 asks for none in particular.
	Rate int
	// Header holds the endpoint's own headers, as in [Request]: the target may want to be authorized to.
	Header http.Header
	// Route is how the target is reached; nil means directly.
	Route *Route
	// Timeout bounds the handshake; 0 means the sender's.
	Timeout time.Duration
}

// Validation is what a target permits.
type Validation struct {
	// Rate is how many requests per minute it takes; 0 means that it names no limit.
	Rate int
}

// AnswerError is an answer to the handshake that is no consent, whatever its header says. It may be a wish to be asked later.
type AnswerError struct{ Result Result }

func (e *AnswerError) Error() string {
	return fmt.Sprintf("answers %d to OPTIONS: want 2xx", e.Result.StatusCode)
}

// Validate makes the handshake by which a target agrees to deliveries from an origin (CloudEvents, "HTTP 1.1 Web Hooks for
// Event Delivery" 1.0, section 4), so that nobody can point us at somebody else's server: an OPTIONS request that is answered
// with 2xx and the origin, or "*", in WebHook-Allowed-Origin. It is sent as messages are: guarded, over the route, without
// following redirects. No error means that the permission is granted; else it says what was missing, and shows neither the
// URL nor the answer.
//
// A permission must come in the answer: WebHook-Request-Callback, by which a target may grant it later, is not sent. It needs
// a public URL of ours and leaves the endpoint in between for as long as nobody calls. Every delivery that follows carries the
// origin, as section 4.1.2 wants it: see [Request].
func (s *Sender) Validate(ctx context.Context, r *ValidationRequest) (Validation, error) {
	v, err := s.validate(ctx, r)
	if err != nil {
		return Validation{}, fmt.Errorf("validate endpoint: %w", err)
	}
	return v, nil
}

func (s *Sender) validate(ctx context.Context, r *ValidationRequest) (Validation, error) {
	req, err := s.validationRequest(r)
	if err != nil {
		return Validation{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, orDefault(r.Timeout, s.timeout))
	defer cancel()
	result, header := s.exchange(req.WithContext(ctx), r.Route)
	switch {
	case result.Err != nil:
		return Validation{}, result.Err
	case result.Outcome != Delivered:
		return Validation{}, &AnswerError{result}
	}
	if err := checkAllowedOrigin(header, r.Origin); err != nil {
		return Validation{}, err
	}
	rate, err := allowedRate(header)
	if err != nil {
		return Validation{}, err
	}
	return Validation{Rate: rate}, nil
}

func (s *Sender) validationRequest(r *ValidationRequest) (*http.Request, error) {
	switch {
	case r.URL == nil:
		return nil, errors.New("no url")
	case r.Origin == "" || !plainHost(r.Origin):
		return nil, errors.New("origin: want a DNS name such as relay.example.com")
	case r.Rate < 0:
		return nil, errors.New("rate: want requests per minute, or 0")
	}
	if err := checkURL(r.URL, s.allowHTTP); err != nil {
		return nil, err
	}
	if err := r.Route.check(); err != nil {
		return nil, err
	}
	h := ownHeader(r.Header)
	h["User-Agent"] = s.userAgent
	h[HeaderRequestOrigin] = []string{r.Origin}
	if r.Rate > 0 {
		h[HeaderRequestRate] = []string{strconv.Itoa(r.Rate)}
	}
	return &http.Request{
		Method: http.MethodOptions, URL: r.URL, Host: r.URL.Host, Header: h,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody,
	}, checkHeader(h)
}

func checkAllowedOrigin(h http.Header, origin string) error {
	const name = "WebHook-Allowed-Origin"
	values := h[HeaderAllowedOrigin]
	switch {
	case len(values) == 0:
		return errors.New("the answer has no " + name + ": the target did not agree to deliveries")
	case len(values) > 1:
		return errors.New("the answer has " + name + " more than once")
	case values[0] != "*" && !strings.EqualFold(values[0], origin):
		return fmt.Errorf("the answer's %s is another than %q, and not *", name, origin)
	}
	return nil
}

// allowedRate reads WebHook-Allowed-Rate: a number of requests per minute, or "*". A target that names none
// sets no limit: section 4.2.2 wants an answer to a wish, but what counts is the origin.
func allowedRate(h http.Header) (int, error) {
	values := h[HeaderAllowedRate]
	if len(values) == 0 || (len(values) == 1 && values[0] == "*") {
		return 0, nil
	}
	rate, err := strconv.ParseUint(values[0], 10, 31)
	if err != nil || rate == 0 || len(values) > 1 {
		return 0, errors.New("the answer's WebHook-Allowed-Rate is neither a number of requests per minute nor *")
	}
	return int(rate), nil
}

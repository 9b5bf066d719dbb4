package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Outcome is how a delivery attempt ended. The value is what metrics, attempt records and the API show: it is part of
// the interface and does not change.
type Outcome string

const (
	Delivered       Outcome = "delivered"        // 2xx, answer read
	Gone            Outcome = "gone"             // 410: the receiver wants no more
	Throttled       Outcome = "throttled"        // 429, or 502, 503, 504 with a valid Retry-After
	ClientError     Outcome = "client_error"     // other 4xx
	ServerError     Outcome = "server_error"     // other 5xx
	Redirect        Outcome = "redirect"         // 3xx; never followed
	Unexpected      Outcome = "unexpected"       // any other status
	Timeout         Outcome = "timeout"          // no whole answer in time
	DNSError        Outcome = "dns_error"        // the host's name could not be resolved
	DialError       Outcome = "dial_error"       // no TCP connection: refused, unreachable
	TLSError        Outcome = "tls_error"        // no TLS connection: certificate, protocol
	RefusedTarget   Outcome = "refused_target"   // the guard, or plain http where it is not allowed; nothing was sent
	ProxyError      Outcome = "proxy_error"      // the endpoint's proxy: no connection to it, or it makes none
	ConnectionError Outcome = "connection_error" // connected, but no whole HTTP answer came
	NotGranted      Outcome = "not_granted"      // the validation handshake failed: the receiver does not agree; nothing was sent
	InvalidRequest  Outcome = "invalid_request"  // our side: URL, headers or secrets that cannot be used; nothing was sent
	Canceled        Outcome = "canceled"         // cut short by our own shutdown: no failed attempt
)

// Outcomes is every outcome, for metrics that show a zero before the first event.
func Outcomes() []Outcome {
	return []Outcome{
		Delivered, Gone, Throttled, ClientError, ServerError, Redirect, Unexpected, Timeout, DNSError, DialError, TLSError,
		RefusedTarget, ProxyError, ConnectionError, NotGranted, InvalidRequest, Canceled,
	}
}

// Settled reports that no further attempt is wanted: the message was taken, or the receiver is gone. After every other
// outcome the schedule decides.
func (o Outcome) Settled() bool { return o == Delivered || o == Gone }

// Class is the kind of fault that an outcome is, as dead letters are sorted by it: whose it is, and what would mend it. Like an
// [Outcome] it is part of the interface and does not change. It is one token of a NATS subject.
type Class string

const (
	ClassDNS        Class = "dns"
	ClassDial       Class = "dial" // no connection, or one that broke
	ClassTLS        Class = "tls"
	ClassTimeout    Class = "timeout"
	Class3xx        Class = "3xx"
	Class4xx        Class = "4xx"
	Class5xx        Class = "5xx"
	ClassNotGranted Class = "not_granted" // the receiver did not consent
	ClassProxy      Class = "proxy"       // the endpoint's proxy
	ClassRefused    Class = "refused"     // a target that our guard refuses
	ClassRelay      Class = "relay"       // our own fault: a request that cannot be made, an event that left the log
	ClassOther      Class = "other"       // a status outside of HTTP's classes
)

// Classes is every class.
func Classes() []Class {
	return []Class{
		ClassDNS, ClassDial, ClassTLS, ClassTimeout, Class3xx, Class4xx, Class5xx, ClassNotGranted, ClassProxy, ClassRefused, ClassRelay, ClassOther,
	}
}

// Ours tells whether the fault is on our side, the operator's configuration included, and not the receiver's.
func (c Class) Ours() bool { return c == ClassRefused || c == ClassRelay }

// Class is the class of an outcome with a status, 0 if no answer came. No outcome at all is that of a delivery that was given up
// without an attempt: ours. [Delivered] is no fault and has none.
func (o Outcome) Class(status int) Class {
	switch o {
	case Delivered:
		return ""
	case DNSError:
		return ClassDNS
	case DialError, ConnectionError:
		return ClassDial
	case TLSError:
		return ClassTLS
	case Timeout:
		return ClassTimeout
	case Redirect:
		return Class3xx
	case Gone, ClientError:
		return Class4xx
	case ServerError:
		return Class5xx
	case Throttled:
		if status >= 500 {
			return Class5xx
		}
		return Class4xx
	case NotGranted:
		return ClassNotGranted
	case ProxyError:
		return ClassProxy
	case RefusedTarget:
		return ClassRefused
	case InvalidRequest, Canceled, "":
		return ClassRelay
	}
	return ClassOther
}

// Classify reads an answer's status and, unless it settles the message, its Retry-After (RFC 9110, sections 10.2.3 and 15; 429
// is RFC 6585, section 4). Status codes have a meaning only here and in the two functions below for proxies. A result has the
// status, its outcome, the wish to be left alone, whether it can mean an overload, and the receiver's [Control].
//
// 502 and 504 count as 503 does, because a proxy in front of a receiver that is down or too slow answers with one of the three
// (Standard Webhooks, "Deliverability and reliability"). With a Retry-After they are [Throttled]. Any other failure keeps its
// outcome with one: the receiver says when to come again, and not that it works.
func Classify(status int, header http.Header, now time.Time) Result {
	r := Result{Outcome: outcomeOf(status), StatusCode: status, Control: controlOf(header)}
	if r.Outcome.Settled() {
		return r
	}
	r.RetryAfter, r.HasRetryAfter = ParseRetryAfter(header.Get("Retry-After"), now)
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		r.Overloaded = true
		if r.HasRetryAfter {
			r.Outcome = Throttled
		}
	}
	return r
}

// outcomeOf is the outcome by the status alone.
func outcomeOf(status int) Outcome {
	switch {
	case status >= 200 && status <= 299:
		return Delivered
	case status == http.StatusGone:
		return Gone
	case status == http.StatusTooManyRequests:
		return Throttled
	case status >= 300 && status <= 399:
		return Redirect
	case status >= 400 && status <= 499:
		return ClientError
	case status >= 500 && status <= 599:
		return ServerError
	}
	return Unexpected
}

// fromProxy reports that a status of an answer that came by way of a proxy is the proxy's own: 407 (RFC 9110, section 15.5.8).
// Where an http target is asked for, 502, 503 and 504 may be the proxy's or the target's: they count as the target's.
func fromProxy(status int) bool { return status == http.StatusProxyAuthRequired }

// opensTunnel reports that a proxy's answer to CONNECT is a yes (RFC 9110, section 9.3.6).
func opensTunnel(status int) bool { return status >= 200 && status <= 299 }

// MaxRetryAfter is the longest delay that [ParseRetryAfter] gives; what is longer is cut to it, so that adding it to a time
// cannot overflow. What delay is acceptable is for the caller to say.
const MaxRetryAfter = 365 * 24 * time.Hour

// ParseRetryAfter reads a Retry-After value (RFC 9110, section 10.2.3): whole seconds, or an HTTP date, which is a delay
// from now and 0 if it has passed. ok is false for anything else.
func ParseRetryAfter(value string, now time.Time) (delay time.Duration, ok bool) {
	value = strings.Trim(value, " \t")
	if value == "" {
		return 0, false
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseUint(value, 10, 64)
		if err != nil || seconds > uint64(MaxRetryAfter/time.Second) { // the only error left is a number too big
			return MaxRetryAfter, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return min(max(date.Sub(now), 0), MaxRetryAfter), true
}

// ClassifyError names the outcome of an attempt that ended without a whole answer. err is not nil.
func ClassifyError(err error) Outcome {
	var refused *RefusedError
	var proxy *proxyFault
	var dns *net.DNSError
	var op *net.OpError
	var network net.Error
	switch {
	case errors.As(err, &refused):
		return RefusedTarget
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.As(err, &proxy):
		return ProxyError
	case errors.As(err, &dns):
		return DNSError
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return Timeout
	case isTLSError(err):
		return TLSError
	case errors.As(err, &op) && op.Op == "dial":
		return DialError
	}
	return ConnectionError
}

// isTLSError goes by the text where it must: alerts and handshake faults have no exported type, but crypto/tls begins every
// text of its own with "tls: ".
func isTLSError(err error) bool {
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		return true
	}
	for ; err != nil; err = errors.Unwrap(err) {
		if strings.HasPrefix(err.Error(), "tls: ") {
			return true
		}
	}
	return false
}

// Result is one attempt, ended.
type Result struct {
	// Outcome is how it ended.
	Outcome Outcome
	// StatusCode is the answer's, 0 if none came. With [Timeout], [ConnectionError] and [Canceled] the answer had begun.
	StatusCode int
	// RetryAfter is how long the receiver asked to be left alone, counted from the end of the attempt, also where its answer
	// broke off; valid if HasRetryAfter, since 0 is a wish too. At most [MaxRetryAfter].
	RetryAfter    time.Duration
	HasRetryAfter bool
	// Overloaded reports a status that can mean too much at once: 429, 502, 503 or 504, also where the answer broke off. Fewer
	// attempts at a time may help.
	Overloaded bool
	// Control is what the receiver asked for, also where its answer broke off after the header.
	Control Control
	// Duration is from the start to the end of the answer.
	Duration time.Duration
	// Body is the beginning of the answer, as far as the sender keeps it. Foreign bytes: they may be no text. What it quotes of the
	// request's secrets is redacted.
	Body []byte
	// Sent is what is to be recorded of the request, nil if none could be made. Whether it was sent tells the outcome.
	Sent *Sent
	// Header is what is to be recorded of the answer's header, by names in lower case and without what is secret.
	Header map[string]string
	// Err says why no whole answer came; nil if one did, whatever its status. It names the operation and the class of the
	// fault and never holds a URL, a header or bytes of the answer. Only a [*RefusedError] can be found in it.
	Err error
}

// PutOff reports that the receiver wants to be left alone for a while, for RetryAfter if HasRetryAfter.
func (r Result) PutOff() bool { return r.Outcome == Throttled || r.HasRetryAfter }

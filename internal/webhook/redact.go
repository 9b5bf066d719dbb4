package webhook

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
)

// maxReason bounds a text that the other side has a say in, such as the names in its certificate.
const maxReason = 256

// redact is err in words that are safe to log and to show, behind the operation that failed. Texts of net/http can quote the
// answer, and an answer can quote the request with its credentials: so none of them passes through, only what is known by its
// type.
func redact(op string, err error, o Outcome) error {
	var proxy *proxyFault
	if errors.As(err, &proxy) {
		op += ": proxy"
	}
	var refused *RefusedError
	if errors.As(err, &refused) {
		return fmt.Errorf("%s: %w", op, refused)
	}
	reason := reasonOf(err, o)
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + "…"
	}
	return fmt.Errorf("%s: %s", op, reason)
}

func reasonOf(err error, o Outcome) string {
	switch o {
	case Canceled:
		return "cut short by shutdown"
	case Timeout:
		return timeoutReason(err)
	case DNSError:
		return dnsReason(err)
	case DialError:
		return dialReason(err)
	case TLSError:
		return tlsReason(err)
	case ProxyError:
		return proxyReason(err)
	}
	return connectionReason(err)
}

// proxyReason describes what happened between us and the proxy, or what it answered.
func proxyReason(err error) string {
	var proxy *proxyFault
	switch {
	case !errors.As(err, &proxy):
		return "failed"
	case errors.Is(proxy.err, errProxySpeaks):
		return "its answer to CONNECT is followed by bytes that nobody asked for"
	case proxy.err != nil:
		return reasonOf(proxy.err, ClassifyError(proxy.err))
	case fromProxy(proxy.status):
		return "answers 407: it wants credentials, or others, or refuses the target"
	}
	return fmt.Sprintf("answers %d to CONNECT: no way to the target", proxy.status)
}

func timeoutReason(err error) string {
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial":
		return "timed out while dialling"
	case strings.Contains(err.Error(), "TLS handshake timeout"): // net/http's error has no exported type
		return "timed out in the TLS handshake"
	}
	return "timed out"
}

func dnsReason(err error) string {
	var dns *net.DNSError
	switch {
	case !errors.As(err, &dns):
		return "name resolution"
	case dns.IsNotFound:
		return fmt.Sprintf("no such host: %q", dns.Name)
	case dns.IsTimeout:
		return fmt.Sprintf("name server does not answer for %q", dns.Name)
	}
	return fmt.Sprintf("name server fault for %q", dns.Name)
}

func dialReason(err error) string {
	var op *net.OpError
	var errno syscall.Errno
	switch {
	case errors.As(err, &op) && op.Addr != nil && errors.As(err, &errno):
		return fmt.Sprintf("dial %s: %s", op.Addr, errno)
	case errors.As(err, &errno):
		return "dial: " + errno.Error()
	}
	return "dial: no connection"
}

func tlsReason(err error) string {
	var record tls.RecordHeaderError
	var hostname x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &record):
		if string(record.RecordHeader[:]) == "HTTP/" {
			return "tls: the receiver speaks plain http on this port"
		}
		return "tls: the receiver does not speak TLS on this port"
	case errors.As(err, &hostname):
		return fmt.Sprintf("tls: the certificate is not for %q", hostname.Host)
	case errors.As(err, &authority):
		return "tls: the certificate is signed by an unknown authority"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "tls: the certificate has expired or is not yet valid"
	}
	for ; err != nil; err = errors.Unwrap(err) { // an alert's or a handshake's own text: a fixed one, see isTLSError
		if text := err.Error(); strings.HasPrefix(text, "tls: ") && errors.Unwrap(err) == nil {
			return text
		}
	}
	return "tls: the certificate is not valid"
}

func connectionReason(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset by the other side"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed before the end of the answer"
	case strings.Contains(err.Error(), "response headers exceeded"): // net/http's error has no exported type
		return fmt.Sprintf("headers of the answer exceed %d bytes", maxAnswerHeader)
	}
	return "the answer is not valid HTTP, or the connection was lost"
}

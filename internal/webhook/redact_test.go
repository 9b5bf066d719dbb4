package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestRedact: every class has its words, and nothing of an error's own text that could quote the other side.
func TestRedact(t *testing.T) {
	t.Parallel()
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}, Err: err}
	}
	secret := func(err error) error { return fmt.Errorf("secret %w secret", err) }
	tests := []struct {
		op   string
		err  error
		want string
	}{
		{"post", dial(&RefusedError{netip.MustParseAddr("10.0.0.1"), "private"}), "post: 10.0.0.1 is private: refused; list its network in webhooks.allow_networks to permit it"},
		{"post", dial(&net.DNSError{Err: "secret", Name: "h", Server: "secret", IsNotFound: true}), `post: no such host: "h"`},
		{"post", dial(&net.DNSError{Err: "secret", Name: "h", Server: "secret", IsTimeout: true}), `post: name server does not answer for "h"`},
		{"post", dial(&net.DNSError{Err: "secret", Name: "h", Server: "secret"}), `post: name server fault for "h"`},
		{"post", dial(os.ErrDeadlineExceeded), "post: timed out while dialling"},
		{"post", dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), "post: dial 192.0.2.1:443: connection refused"},
		{"post", &net.OpError{Op: "dial", Err: syscall.EMFILE}, "post: dial: too many open files"},
		{"post", dial(errors.New("secret")), "post: dial: no connection"},
		{"post", handshakeTimeout{}, "post: timed out in the TLS handshake"},
		{"read answer", secret(os.ErrDeadlineExceeded), "read answer: timed out"},
		{"post", &tls.CertificateVerificationError{Err: x509.HostnameError{Host: "h", Certificate: &x509.Certificate{DNSNames: []string{"secret"}}}}, `post: tls: the certificate is not for "h"`},
		{"post", &tls.CertificateVerificationError{Err: errors.New("secret")}, "post: tls: the certificate is not valid"},
		{"post", errors.New("tls: " + strings.Repeat("ä", 200)), "post: tls: " + strings.Repeat("ä", 125) + "…"},
		{"post", secret(syscall.EPIPE), "post: connection reset by the other side"},
		{"post", secret(io.EOF), "post: connection closed before the end of the answer"},
		{"post", &proxyFault{err: context.DeadlineExceeded}, "post: proxy: timed out"}, // it hung for dialTimeout
		{"post", &net.OpError{Op: "proxyconnect", Err: &proxyFault{err: dial(os.NewSyscallError("connect", syscall.ECONNREFUSED))}}, "post: proxy: dial 192.0.2.1:443: connection refused"},
		{"post", &proxyFault{err: secret(io.EOF)}, "post: proxy: connection closed before the end of the answer"},
		{"post", &proxyFault{status: 407}, "post: proxy: answers 407: it wants credentials, or others, or refuses the target"},
		{"post", &proxyFault{status: 502}, "post: proxy: answers 502 to CONNECT: no way to the target"},
		{"post", &RefusedError{Class: "a number"}, "post: the target is a number: refused"},
		{"post", errors.New(`malformed HTTP response "secret"`), "post: the answer is not valid HTTP, or the connection was lost"},
	}
	for _, tt := range tests {
		if proxied := strings.Contains(tt.want, "proxy"); proxied != (ClassifyError(tt.err) == ProxyError) {
			t.Errorf("%v: classified as %s", tt.err, ClassifyError(tt.err))
		}
		if got := redact(tt.op, tt.err, ClassifyError(tt.err)); got.Error() != tt.want {
			t.Errorf("%v:\ngot  %q\nwant %q", tt.err, got, tt.want)
		}
	}
	if got := redact("post", io.EOF, Canceled); got.Error() != "post: cut short by shutdown" {
		t.Errorf("got %q", got)
	}
	if errors.Is(redact("post", io.EOF, ConnectionError), io.EOF) {
		t.Error("the original error can be found in the redacted one")
	}
}

// handshakeTimeout stands for net/http's, which has no exported type.
type handshakeTimeout struct{}

func (handshakeTimeout) Error() string   { return "net/http: TLS handshake timeout" }
func (handshakeTimeout) Timeout() bool   { return true }
func (handshakeTimeout) Temporary() bool { return true }

package webhook

import (
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
		err    error
		status int
		want   string
	}{
		{dial(&RefusedError{netip.MustParseAddr("10.0.0.1"), "private"}), 0, "post: 10.0.0.1 is private: refused; list its network in webhooks.allow_networks to permit it"},
		{dial(&net.DNSError{Err: "secret", Name: "h", Server: "secret", IsNotFound: true}), 0, `post: no such host: "h"`},
		{dial(&net.DNSError{Err: "secret", Name: "h", Server: "secret", IsTimeout: true}), 0, `post: name server does not answer for "h"`},
		{dial(&net.DNSError{Err: "secret", Name: "h", Server: "secret"}), 0, `post: name server fault for "h"`},
		{dial(os.ErrDeadlineExceeded), 0, "post: timed out while dialling"},
		{dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), 0, "post: dial 192.0.2.1:443: connection refused"},
		{&net.OpError{Op: "dial", Err: syscall.EMFILE}, 0, "post: dial: too many open files"},
		{dial(errors.New("secret")), 0, "post: dial: no connection"},
		{handshakeTimeout{}, 0, "post: timed out in the TLS handshake"},
		{secret(os.ErrDeadlineExceeded), 200, "read answer: timed out"},
		{&tls.CertificateVerificationError{Err: x509.HostnameError{Host: "h", Certificate: &x509.Certificate{DNSNames: []string{"secret"}}}}, 0, `post: tls: the certificate is not for "h"`},
		{&tls.CertificateVerificationError{Err: errors.New("secret")}, 0, "post: tls: the certificate is not valid"},
		{errors.New("tls: " + strings.Repeat("ä", 200)), 0, "post: tls: " + strings.Repeat("ä", 125) + "…"},
		{secret(syscall.EPIPE), 0, "post: connection reset by the receiver"},
		{secret(io.EOF), 0, "post: connection closed before the end of the answer"},
		{errors.New(`malformed HTTP response "secret"`), 0, "post: the answer is not valid HTTP, or the connection was lost"},
	}
	for _, tt := range tests {
		if got := redact(tt.err, ClassifyError(tt.err), tt.status); got.Error() != tt.want {
			t.Errorf("%v:\ngot  %q\nwant %q", tt.err, got, tt.want)
		}
	}
	if got := redact(io.EOF, Canceled, 0); got.Error() != "post: cut short by shutdown" {
		t.Errorf("got %q", got)
	}
	if errors.Is(redact(io.EOF, ConnectionError, 0), io.EOF) {
		t.Error("the original error can be found in the redacted one")
	}
}

// handshakeTimeout stands for net/http's, which has no exported type.
type handshakeTimeout struct{}

func (handshakeTimeout) Error() string   { return "net/http: TLS handshake timeout" }
func (handshakeTimeout) Timeout() bool   { return true }
func (handshakeTimeout) Temporary() bool { return true }

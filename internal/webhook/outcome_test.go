package webhook_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

// TestClassifyEveryStatus walks all status codes, without and with a Retry-After.
func TestClassifyEveryStatus(t *testing.T) {
	t.Parallel()
	families := []struct {
		from, to int
		want     webhook.Outcome
	}{
		{100, 199, webhook.Unexpected},
		{200, 299, webhook.Delivered},
		{300, 399, webhook.Redirect},
		{400, 409, webhook.ClientError},
		{410, 410, webhook.Gone},
		{411, 428, webhook.ClientError},
		{429, 429, webhook.Throttled},
		{430, 499, webhook.ClientError},
		{500, 599, webhook.ServerError},
		{600, 999, webhook.Unexpected},
	}
	with := http.Header{"Retry-After": {"7"}, "Webhook-Delivery": {"abort-message"}}
	next := 100
	for _, f := range families {
		if f.from != next {
			t.Fatalf("the table has a gap at %d", next)
		}
		next = f.to + 1
		for status := f.from; status <= f.to; status++ {
			busy := status == 429 || status == 502 || status == 503 || status == 504
			got := webhook.Classify(status, nil, time.Now())
			if want := (webhook.Result{Outcome: f.want, StatusCode: status, Overloaded: busy}); !reflect.DeepEqual(got, want) {
				t.Errorf("%d: got %+v, want %+v", status, got, want)
			}
			want := webhook.Result{Outcome: f.want, StatusCode: status, Overloaded: busy, Control: webhook.ControlAbort}
			if !f.want.Settled() {
				want.RetryAfter, want.HasRetryAfter = 7*time.Second, true
			}
			if busy {
				want.Outcome = webhook.Throttled
			}
			if got.PutOff() != (status == 429) || want.PutOff() == f.want.Settled() {
				t.Errorf("%d: put off %t without Retry-After, %t with", status, got.PutOff(), want.PutOff())
			}
			if got := webhook.Classify(status, with, time.Now()); !reflect.DeepEqual(got, want) {
				t.Errorf("%d with Retry-After: got %+v, want %+v", status, got, want)
			}
		}
	}
	for _, status := range []int{math.MinInt, -1, 0, 99, 1000, math.MaxInt} {
		if got := webhook.Classify(status, with, time.Now()); got.Outcome != webhook.Unexpected || got.Overloaded {
			t.Errorf("%d: got %+v", status, got)
		}
	}
}

func TestClassifyRetryAfterValue(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status int
		value  string
		want   webhook.Outcome
		ok     bool
	}{
		{503, "0", webhook.Throttled, true}, // no delay is a wish too
		{503, "soon", webhook.ServerError, false},
		{503, "", webhook.ServerError, false},
		{502, "0", webhook.Throttled, true},
		{502, "soon", webhook.ServerError, false},
		{504, "0", webhook.Throttled, true},
		{504, "", webhook.ServerError, false},
		{429, "0", webhook.Throttled, true},
		{429, "soon", webhook.Throttled, false},
	}
	for _, tt := range tests {
		got := webhook.Classify(tt.status, http.Header{"Retry-After": {tt.value}}, time.Now())
		if got.Outcome != tt.want || got.RetryAfter != 0 || got.HasRetryAfter != tt.ok || !got.Overloaded {
			t.Errorf("%d %q: got %+v", tt.status, tt.value, got)
		}
	}
}

func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(1994, 11, 6, 8, 49, 7, 500_000_000, time.UTC)
	tests := []struct {
		value string
		want  time.Duration
		ok    bool
	}{
		{"0", 0, true},
		{"120", 2 * time.Minute, true},
		{" 120\t", 2 * time.Minute, true},
		{"007", 7 * time.Second, true},
		{"31536000", webhook.MaxRetryAfter, true},
		{"31536001", webhook.MaxRetryAfter, true},
		{"9223372036854775808", webhook.MaxRetryAfter, true},
		{strings.Repeat("9", 100), webhook.MaxRetryAfter, true},
		{"Sun, 06 Nov 1994 08:49:37 GMT", 29500 * time.Millisecond, true},
		{"Sunday, 06-Nov-94 08:49:37 GMT", 29500 * time.Millisecond, true},
		{"Sun Nov  6 08:49:37 1994", 29500 * time.Millisecond, true},
		{"Sun, 06 Nov 1994 08:49:07 GMT", 0, true},
		{"Thu, 01 Jan 1970 00:00:00 GMT", 0, true},
		{"Mon, 01 Jan 0001 00:00:00 GMT", 0, true},
		{"Fri, 31 Dec 9999 23:59:59 GMT", webhook.MaxRetryAfter, true},
		{"", 0, false},
		{" ", 0, false},
		{"-1", 0, false},
		{"+1", 0, false},
		{"1.5", 0, false},
		{"1e3", 0, false},
		{"0x10", 0, false},
		{"5s", 0, false},
		{"٣", 0, false},
		{"tomorrow", 0, false},
		{"1994-11-06T08:49:37Z", 0, false},
	}
	for _, tt := range tests {
		got, ok := webhook.ParseRetryAfter(tt.value, now)
		if got != tt.want || ok != tt.ok {
			t.Errorf("%q: got %s, %t, want %s, %t", tt.value, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzParseRetryAfter(f *testing.F) {
	for _, s := range []string{"", "0", "120", "99999999999999999999", "-1", "Sun, 06 Nov 1994 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"} {
		f.Add(s, int64(784111777))
	}
	f.Fuzz(func(t *testing.T, value string, unix int64) {
		now := time.Unix(unix%webhookYear9999, 0)
		d, ok := webhook.ParseRetryAfter(value, now)
		if d < 0 || d > webhook.MaxRetryAfter || (!ok && d != 0) {
			t.Fatalf("%q: %s, %t", value, d, ok)
		}
		if n, err := strconv.ParseUint(value, 10, 16); err == nil && (!ok || d != time.Duration(n)*time.Second) {
			t.Fatalf("%q: %s, %t", value, d, ok)
		}
	})
}

const webhookYear9999 = 253402300799

type timeoutError struct{ error }

func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

func TestClassifyError(t *testing.T) {
	t.Parallel()
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	read := func(err error) error { return &net.OpError{Op: "read", Net: "tcp", Err: err} }
	refused := &webhook.RefusedError{Addr: netip.MustParseAddr("127.0.0.1"), Class: "loopback"}
	tests := []struct {
		err  error
		want webhook.Outcome
	}{
		{refused, webhook.RefusedTarget},
		{dial(refused), webhook.RefusedTarget},
		{errors.Join(dial(syscall.ECONNREFUSED), dial(refused)), webhook.RefusedTarget},
		{context.Canceled, webhook.Canceled},
		{fmt.Errorf("x: %w", context.Canceled), webhook.Canceled},
		{context.DeadlineExceeded, webhook.Timeout},
		{os.ErrDeadlineExceeded, webhook.Timeout},
		{read(os.ErrDeadlineExceeded), webhook.Timeout},
		{dial(syscall.ETIMEDOUT), webhook.Timeout},
		{timeoutError{errors.New("net/http: TLS handshake timeout")}, webhook.Timeout},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, webhook.DNSError},
		{dial(&net.DNSError{Err: "i/o timeout", IsTimeout: true}), webhook.DNSError},
		{dial(syscall.ECONNREFUSED), webhook.DialError},
		{dial(syscall.EHOSTUNREACH), webhook.DialError},
		{dial(syscall.ENETUNREACH), webhook.DialError},
		{dial(syscall.EMFILE), webhook.DialError},
		{dial(&net.AddrError{Err: "unknown port", Addr: "x"}), webhook.DialError},
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, webhook.TLSError},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, webhook.TLSError},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(40)}, webhook.TLSError},
		{errors.New("tls: server selected unsupported protocol version 301"), webhook.TLSError},
		{read(syscall.ECONNRESET), webhook.ConnectionError},
		{&net.OpError{Op: "write", Err: syscall.EPIPE}, webhook.ConnectionError},
		{io.EOF, webhook.ConnectionError},
		{io.ErrUnexpectedEOF, webhook.ConnectionError},
		{errors.New("malformed HTTP response"), webhook.ConnectionError},
	}
	for _, tt := range tests {
		if got := webhook.ClassifyError(tt.err); got != tt.want {
			t.Errorf("%v: got %s, want %s", tt.err, got, tt.want)
		}
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	all := webhook.Outcomes()
	if sorted := slices.Sorted(slices.Values(all)); len(slices.Compact(sorted)) != len(all) {
		t.Error("an outcome stands twice")
	}
	for _, o := range all {
		if strings.Trim(string(o), "abcdefghijklmnopqrstuvwxyz_") != "" || o == "" {
			t.Errorf("%q is no plain label", o)
		}
		if want := o == webhook.Delivered || o == webhook.Gone; o.Settled() != want {
			t.Errorf("%s: settled is %t", o, o.Settled())
		}
	}
	for _, want := range []webhook.Outcome{webhook.InvalidRequest, webhook.Canceled, webhook.Unexpected, webhook.Throttled} {
		if !slices.Contains(all, want) {
			t.Errorf("%s is not among all outcomes", want)
		}
	}
}

func TestClass(t *testing.T) {
	t.Parallel()
	tests := []struct {
		outcome webhook.Outcome
		status  int
		want    webhook.Class
	}{
		{webhook.Delivered, 200, ""},
		{webhook.Gone, 410, "4xx"},
		{webhook.Throttled, 429, "4xx"},
		{webhook.Throttled, 502, "5xx"},
		{webhook.Throttled, 503, "5xx"},
		{webhook.Throttled, 504, "5xx"},
		{webhook.ClientError, 404, "4xx"},
		{webhook.ServerError, 500, "5xx"},
		{webhook.Redirect, 302, "3xx"},
		{webhook.Unexpected, 700, "other"},
		{webhook.Timeout, 0, "timeout"},
		{webhook.Timeout, 200, "timeout"}, // the answer had begun
		{webhook.DNSError, 0, "dns"},
		{webhook.DialError, 0, "dial"},
		{webhook.ConnectionError, 0, "dial"},
		{webhook.ConnectionError, 500, "dial"},
		{webhook.TLSError, 0, "tls"},
		{webhook.RefusedTarget, 0, "refused"},
		{webhook.ProxyError, 407, "proxy"},
		{webhook.NotGranted, 0, "not_granted"},
		{webhook.NotGranted, 503, "not_granted"},
		{webhook.InvalidRequest, 0, "relay"},
		{webhook.Canceled, 0, "relay"},
		{"", 0, "relay"}, // given up without an attempt
		{"of a later build", 0, "other"},
	}
	seen := map[webhook.Outcome]bool{}
	for _, tt := range tests {
		seen[tt.outcome] = true
		got := tt.outcome.Class(tt.status)
		if got != tt.want {
			t.Errorf("%s %d: got %q, want %q", tt.outcome, tt.status, got, tt.want)
		}
		if got != "" && !slices.Contains(webhook.Classes(), got) {
			t.Errorf("%q is not among all classes", got)
		}
	}
	for _, o := range webhook.Outcomes() {
		if !seen[o] {
			t.Errorf("%s has no test", o)
		}
	}
	for _, c := range webhook.Classes() {
		if strings.Trim(string(c), "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || c == "" {
			t.Errorf("%q is no plain token", c)
		}
	}
	// Whatever comes as an answer has a class by its status.
	for status := 100; status < 1000; status++ {
		got := webhook.Classify(status, http.Header{"Retry-After": {"7"}}, time.Now()).Outcome.Class(status)
		want := map[int]webhook.Class{2: "", 3: "3xx", 4: "4xx", 5: "5xx"}
		if w, ok := want[status/100]; !ok && got != "other" || ok && got != w {
			t.Errorf("%d: got %q", status, got)
		}
	}
}

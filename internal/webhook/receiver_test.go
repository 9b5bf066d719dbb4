package webhook_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

// local permits this machine, where all receivers of the tests are.
func local() *webhook.Guard {
	return webhook.NewGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")})
}

func newSender(t testing.TB, change func(*webhook.SenderConfig)) *webhook.Sender {
	t.Helper()
	c := webhook.SenderConfig{Guard: local(), AllowHTTP: true, UserAgent: "nex-relay/test", Timeout: 10 * time.Second}
	if change != nil {
		change(&c)
	}
	s := webhook.NewSender(c)
	webhook.HookDials(s, stayHere)
	t.Cleanup(s.CloseIdle)
	return s
}

var errStopped = errors.New("stopped by the test")

// stayHere stops every connection that would leave this machine, also one that the guard permits: no test depends on a guard
// that works in order to do no harm.
func stayHere(address string, verdict error) error {
	if verdict == nil && !netip.MustParseAddrPort(address).Addr().Unmap().IsLoopback() {
		return errStopped
	}
	return verdict
}

var testSecret = webhook.GenerateSecret()

// nobody listens there: it is below what the system gives.
const nobody = "127.0.0.1:1"

func request(t testing.TB, raw string) *webhook.Request {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &webhook.Request{URL: u, ID: "evt.1", Body: []byte(`{"specversion":"1.0"}`), Secrets: []webhook.Secret{testSecret}}
}

// hangGuard is longer than any attempt takes that ends as it should, also where the machine stands still meanwhile.
const hangGuard = 30 * time.Second

// sendShort sends a message that is to time out, and answers what came of it and how long it had. One that ended before it was where it was
// to be, because the machine stood still, is sent again with more time.
func sendShort(ctx context.Context, s *webhook.Sender, r *webhook.Request, timeout time.Duration, there func(webhook.Result) bool) (webhook.Result, time.Duration) {
	for {
		r.Timeout = timeout
		got := s.Send(ctx, r)
		if there(got) || got.Outcome != webhook.Timeout || timeout > hangGuard/4 {
			return got, timeout
		}
		timeout *= 4
	}
}

// serve is an HTTP receiver that ends with the test.
func serve(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

// serveRaw is a TCP receiver: talk has each connection for itself, which is closed when talk returns or the test ends.
func serveRaw(t testing.TB, talk func(ctx context.Context, c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		running := make(chan struct{})
		n := 0
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			n++
			stop := context.AfterFunc(ctx, func() { c.Close() })
			go func() {
				talk(ctx, c)
				stop()
				c.Close()
				running <- struct{}{}
			}()
		}
		for range n {
			<-running
		}
	}()
	t.Cleanup(func() {
		cancel()
		l.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}

// readHead reads a request's header and leaves the body on the wire, read or not.
func readHead(c net.Conn) {
	buf, got := make([]byte, 4096), ""
	for !strings.Contains(got, "\r\n\r\n") {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		got += string(buf[:n])
	}
}

// nameServer is a resolver whose every A and AAAA question is answered from names, so that a name resolves to what an attacker
// says, and nothing leaves this machine. A name with an invalid address gets its answer, that there is no such host, only when
// the test ends.
func nameServer(t testing.TB, names map[string]netip.Addr) *net.Resolver {
	t.Helper()
	return nameServerFunc(t, func(name string, _ uint16) ([]netip.Addr, bool) {
		addr, known := names[name]
		if !known || !addr.IsValid() {
			return nil, known
		}
		return []netip.Addr{addr}, false
	})
}

// nameServerFunc answers a question for a name and a type (1 is A, 28 is AAAA) with those addresses that are of this type; no
// address at all means that there is no such host, and hold keeps this answer back until the test ends.
func nameServerFunc(t testing.TB, lookUp func(name string, kind uint16) (addrs []netip.Addr, hold bool)) *net.Resolver {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer pc.Close()
		var held []func()
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				break
			}
			answer, hold := answerDNS(buf[:n], lookUp)
			send := func() { _, _ = pc.WriteTo(answer, from) }
			if hold {
				held = append(held, send)
				continue
			}
			send()
		}
		<-ended
		for _, send := range held {
			send()
		}
	}()
	t.Cleanup(func() {
		_ = pc.SetReadDeadline(time.Now())
		close(ended)
		<-done
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
}

// answerDNS follows RFC 1035, section 4.1, for a question with one name.
func answerDNS(q []byte, lookUp func(string, uint16) ([]netip.Addr, bool)) (answer []byte, hold bool) {
	var labels []string
	i := 12
	for q[i] != 0 {
		labels = append(labels, string(q[i+1:i+1+int(q[i])]))
		i += 1 + int(q[i])
	}
	kind := binary.BigEndian.Uint16(q[i+1:])
	addrs, hold := lookUp(strings.ToLower(strings.Join(labels, ".")), kind)
	answer = append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:i+5]...)
	if len(addrs) == 0 {
		answer[3] = 0x83 // NXDOMAIN
	}
	for _, addr := range addrs {
		if (kind == 1) == addr.Is4() {
			answer[7]++
			answer = append(answer, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(addr.BitLen()/8))
			answer = append(answer, addr.AsSlice()...)
		}
	}
	return answer, hold
}

func readAll(t testing.TB, r io.Reader) []byte {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	return b
}

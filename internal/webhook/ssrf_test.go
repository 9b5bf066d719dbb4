package webhook_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/nex-crm/relay/internal/webhook"
)

// dials records what a sender would have connected to, and lets it connect to nothing.
type dials struct {
	mu        sync.Mutex
	permitted []string
	refused   []string
}

func hookDials(s *webhook.Sender) *dials {
	d := &dials{}
	webhook.HookDials(s, func(address string, verdict error) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if verdict != nil && !errors.Is(verdict, errStopped) {
			d.refused = append(d.refused, address)
			return verdict
		}
		d.permitted = append(d.permitted, address)
		return errStopped
	})
	return d
}

// take is what was recorded since the last time.
func (d *dials) take() (permitted, refused []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	permitted, refused = d.permitted, d.refused
	d.permitted, d.refused = nil, nil
	return permitted, refused
}

// forbidden is every way that is known to name a target inside, where some resolver, library or browser understands it.
var forbidden = []string{
	// this machine
	"127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.254", "127.0.0.1:80", "127.0.0.1:22", "0.0.0.0", "0.0.0.1", "[::]", "[::1]", "[0:0:0:0:0:0:0:0]",
	"[0:0:0:0:0:0:0:1]", "[0000::1]", "[::1%25lo]", "[::1%25eth0]", "localhost", "LOCALHOST", "LocalHost", "localhost.", "localhost.localdomain", "ip6-localhost", "foo.localhost",
	// decimal, octal, hexadecimal, short
	"2130706433", "017700000001", "0x7f000001", "0X7F000001", "0177.0.0.1", "0177.0.0.01", "00000177.0.0.1", "0x7f.0.0.1", "0x7f.0x0.0x0.0x1", "0x7f.1", "0177.1", "127.1",
	"127.0.1", "127.0.0x1", "127.0.0.01", "0", "0x0", "00", "0.0", "4294967295", "3232235521", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "10.1", "192.168.257",
	"425.510.425.510", "127.0.0.256", "127.0.0.1.", "10.0.0.1.", "2130706433.",
	// private networks
	"10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "198.18.0.1", "192.0.0.8", "[fc00::1]", "[fd12:3456:789a::1]", "[fec0::1]",
	"[fe80::1]", "[fe80::1%25eth0]", "[FE80::1%25ETH0]", "169.254.1.1",
	// multicast, broadcast, reserved
	"224.0.0.1", "239.255.255.250", "255.255.255.255", "240.0.0.1", "[ff02::1]", "[ff02::1%25eth0]", "[100::1]", "[4000::1]",
	// metadata services
	"169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "192.0.0.192", "168.63.129.16", "[fd00:ec2::254]", "[fd00:ec2::23]", "[fd20:ce::254]",
	"metadata.google.internal", "metadata.google.internal.", "METADATA.google.internal", "metadata", "instance-data", "metadata.azure.internal",
	// IPv4 in IPv6
	"[::ffff:127.0.0.1]", "[::FFFF:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[0:0:0:0:0:ffff:7f00:0001]", "[::ffff:10.0.0.1]", "[::ffff:169.254.169.254]",
	"[::ffff:a9fe:a9fe]", "[::ffff:0.0.0.0]", "[::127.0.0.1]", "[::7f00:1]", "[::a9fe:a9fe]", "[::ffff:0:127.0.0.1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]",
	"[64:ff9b::a9fe:a9fe]", "[64:ff9b::10.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:7f00:0001::1]", "[2002:a9fe:a9fe::]", "[2002:a00:1::]", "[2001:0:7f00:1::1]",
	"[2a00::5efe:127.0.0.1]", "[2a00::200:5efe:7f00:1]", "[fe80::5efe:10.0.0.1]", "[2a00::200:5efe:169.254.169.254]", "[2001:db8::1]", "[::ffff:127.0.0.1%25lo]",
	// in other letters, which IDNA maps to ASCII
	"127。0。0。1", "127．0．0．1", "127｡0｡0｡1", "①②⑦.⓪.⓪.①", "１２７.０.０.１", "𝟏𝟐𝟕.𝟎.𝟎.𝟏", "ｌｏｃａｌｈｏｓｔ", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "localhoſt", "１０.０.０.１", "ｍetadata.google.internal",
	"١٢٧.٠.٠.١", "127.0.0.1\u200b", "local\u00adhost", "⑯⑨。②⑤④。⑯⑨｡②⑤④", "0x7f．1",
	// escapes, credentials and other tricks of URLs
	"%31%32%37.0.0.1", "127.0.0.1%2e", "127%2e0%2e0%2e1", "%6c%6f%63%61%6c%68%6f%73%74", "example.com@127.0.0.1", "example.com:80@127.0.0.1", "user:pass@localhost", "127.0.0.1@localhost",
	"example.com%40127.0.0.1", "127.0.0.1#@example.com", "127.0.0.1%23@example.com", "127.0.0.1\\@example.com", "example.com\\@127.0.0.1", "127.0.0.1%00.example.com", "127.0.0.1\t",
	"127.0.0.1%09", "[127.0.0.1]", "[::1", "::1", "[::1]]", "[[::1]]", "[v1.127]", "[::1]:80:80", "127.0.0.1:0", "127.0.0.1:99999", "127.0.0.1:http", "127.0.0.1,example.com", "127.0.0.1;example.com",
	"127.0.0.1&example.com", "127.0.0.1|example.com", "127-0-0-1", "", ".", "..", "127..0.0.1",
	// names of somebody else's that lead inside
	"localtest.example", "127.0.0.1.nip.example", "7f000001.rebind.example", "mapped.example", "nat64.example", "sixtofour.example", "zero.example", "v6.example", "both.example",
	"linklocal.example", "xn--localtest-example", "_http._tcp.localtest.example", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example",
}

// insider answers as a resolver inside the operator's network may, and a C resolver does: every name leads inside.
func insider(name string, _ uint16) ([]netip.Addr, bool) {
	addr := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	switch strings.TrimSuffix(name, ".") {
	case "mapped.example":
		return addr("::ffff:127.0.0.1"), false
	case "nat64.example":
		return addr("64:ff9b::7f00:1"), false
	case "sixtofour.example":
		return addr("2002:7f00:1::"), false
	case "zero.example", "0", "0x0", "00", "0.0":
		return addr("0.0.0.0"), false
	case "v6.example":
		return addr("::1"), false
	case "both.example":
		return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}, false
	case "linklocal.example":
		return addr("fe80::1"), false
	}
	if strings.HasPrefix(name, "metadata") || strings.HasPrefix(name, "instance") || strings.Contains(name, "254") {
		return addr("169.254.169.254"), false
	}
	return addr("127.0.0.1"), false
}

// TestForbiddenTargets: none of the spellings leads to a connection, direct or through a proxy, by http or https, be the URL
// validated or not.
func TestForbiddenTargets(t *testing.T) {
	t.Parallel()
	if len(forbidden) < 60 {
		t.Fatalf("only %d spellings", len(forbidden))
	}
	proxy := newTestProxy(t, nil, "127.0.0.1:1")
	s := newSender(t, func(c *webhook.SenderConfig) {
		c.Guard, c.AllowProxies, c.Resolver = nil, []string{proxy.url.Host}, nameServerFunc(t, insider)
	})
	d := hookDials(s)
	for _, host := range forbidden {
		for _, scheme := range []string{"http", "https"} {
			raw := scheme + "://" + host + "/hook"
			urls := []*url.URL{{Scheme: scheme, Host: host, Path: "/hook"}} // what no parser has seen
			if u, err := url.Parse(raw); err == nil {
				urls = append(urls, u)
			}
			for _, u := range urls {
				for _, route := range []*webhook.Route{nil, {Proxy: proxy.url}} {
					r := &webhook.Request{URL: u, ID: "1", Secrets: []webhook.Secret{testSecret}, Route: route}
					checkForbidden(t, s, d, r)
				}
			}
		}
	}
	if seen := proxy.requests(); len(seen) != 0 {
		t.Errorf("the proxy saw %q", seen)
	}
}

func checkForbidden(t *testing.T, s *webhook.Sender, d *dials, r *webhook.Request) {
	t.Helper()
	got := s.Send(t.Context(), r)
	_, err := s.Validate(t.Context(), &webhook.ValidationRequest{URL: r.URL, Origin: "relay.example", Route: r.Route})
	if permitted, _ := d.take(); len(permitted) != 0 {
		t.Errorf("%q (proxied %t): dialled %q", r.URL, r.Route != nil, permitted)
	}
	switch got.Outcome {
	case webhook.RefusedTarget, webhook.DNSError, webhook.InvalidRequest:
	case webhook.DialError: // net itself does not take it for an address
		if strings.Contains(got.Err.Error(), "dial: no connection") {
			break
		}
		fallthrough
	default:
		t.Errorf("%q (proxied %t): got %s, %v", r.URL, r.Route != nil, got.Outcome, got.Err)
	}
	if err == nil {
		t.Errorf("%q (proxied %t): validated", r.URL, r.Route != nil)
	}
}

// TestRedirectInside: an answer that points inside is not followed, over a route or without.
func TestRedirectInside(t *testing.T) {
	t.Parallel()
	srv := serveRaw(t, func(_ context.Context, c net.Conn) {
		readHead(c)
		_, _ = c.Write([]byte("HTTP/1.1 307 No\r\nLocation: http://169.254.169.254/latest/meta-data\r\nRefresh: 0; url=http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n"))
	})
	proxy := newTestProxy(t, nil, strings.TrimPrefix(srv, "http://"))
	s := newSender(t, nil)
	for _, route := range []*webhook.Route{nil, {Proxy: proxy.url}} {
		r := request(t, srv)
		r.Route = route
		if got := s.Send(t.Context(), r); got.Outcome != webhook.Redirect {
			t.Errorf("got %+v", got)
		}
	}
}

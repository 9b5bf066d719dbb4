package webhook_test

import (
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nex-crm/relay/internal/webhook"
)

// rebinding is a name server that answers the first questions for a name with one address, and all later ones with another.
func rebinding(t *testing.T, first, next netip.Addr) (resolver func(*webhook.SenderConfig), rebind func()) {
	t.Helper()
	var bound atomic.Bool
	r := nameServerFunc(t, func(string, uint16) ([]netip.Addr, bool) {
		if bound.Load() {
			return []netip.Addr{next}, false
		}
		return []netip.Addr{first}, false
	})
	return func(c *webhook.SenderConfig) { c.Guard, c.Resolver = nil, r }, func() { bound.Store(true) }
}

// inside are addresses that a name may be bound to after its endpoint was accepted.
var inside = []netip.Addr{
	netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("0.0.0.0"),
	netip.MustParseAddr("::1"), netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("64:ff9b::a00:1"),
}

// TestRebindingDirect: the name was public when the endpoint was validated; when it is dialled, the guard sees what it is now.
func TestRebindingDirect(t *testing.T) {
	t.Parallel()
	for _, addr := range inside {
		config, rebind := rebinding(t, public, addr)
		s := newSender(t, config)
		d := hookDials(s)
		if _, err := s.Validate(t.Context(), &webhook.ValidationRequest{URL: mustURL(t, "https://rebind.example/"), Origin: "relay.example"}); err == nil {
			t.Fatal("validated without a connection")
		}
		if permitted, refused := d.take(); !slices.Equal(permitted, []string{public.String() + ":443"}) || len(refused) != 0 {
			t.Fatalf("%s: first dialled %q, refused %q", addr, permitted, refused)
		}
		rebind()
		for range 2 {
			got := s.Send(t.Context(), request(t, "https://rebind.example/"))
			var refusal *webhook.RefusedError
			if got.Outcome != webhook.RefusedTarget || !errors.As(got.Err, &refusal) || refusal.Addr.Unmap() != addr.Unmap() {
				t.Errorf("%s: got %s, %v", addr, got.Outcome, got.Err)
			}
			if permitted, refused := d.take(); len(permitted) != 0 || len(refused) == 0 {
				t.Errorf("%s: then dialled %q, refused %q", addr, permitted, refused)
			}
		}
	}
}

// TestRebindingTwoFaces: a name with a public address of one family and a forbidden one of the other. Whichever is tried, the
// forbidden one is never dialled.
func TestRebindingTwoFaces(t *testing.T) {
	t.Parallel()
	for _, pair := range [][]netip.Addr{
		{public, netip.MustParseAddr("::1")},
		{netip.MustParseAddr("2606:4700:4700::1111"), netip.MustParseAddr("127.0.0.1")},
		{public, netip.MustParseAddr("127.0.0.1")},
		{netip.MustParseAddr("169.254.169.254"), public},
	} {
		s := newSender(t, func(c *webhook.SenderConfig) {
			c.Guard, c.Resolver = nil, nameServerFunc(t, func(string, uint16) ([]netip.Addr, bool) { return pair, false })
		})
		d := hookDials(s)
		got := s.Send(t.Context(), request(t, "http://faces.example/"))
		permitted, refused := d.take()
		for _, address := range permitted {
			if host := netip.MustParseAddrPort(address).Addr(); host != public && !strings.HasPrefix(address, "[2606:") {
				t.Errorf("%v: dialled %s", pair, address)
			}
		}
		if got.Outcome == webhook.Delivered || len(permitted)+len(refused) == 0 {
			t.Errorf("%v: got %+v", pair, got)
		}
	}
}

// TestRebindingProxied: the proxy would follow the name inside, and has a connection to it already; the sender asks again
// before each attempt, and does not let it.
func TestRebindingProxied(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	var hits atomic.Int32
	hit := func(http.ResponseWriter, *http.Request) { hits.Add(1) }
	secure := serveTLS(t, wantsClient(ca, 0), hit)
	plain := serve(t, hit)
	for _, addr := range inside {
		for url, target := range map[string]string{
			"https://127.0.0.1.rebind.example/": secure.Listener.Addr().String(),
			"http://127.0.0.1.rebind.example/":  plain.Listener.Addr().String(),
		} {
			proxy := newTestProxy(t, nil, target)
			config, rebind := rebinding(t, public, addr)
			s := newSender(t, func(c *webhook.SenderConfig) {
				config(c)
				c.AllowProxies, c.TLSConfig = []string{proxy.url.Host}, ca.trusted()
				c.TLSConfig.InsecureSkipVerify = true // the certificate is for another name
			})
			d := hookDials(s)
			r := request(t, url)
			r.Route = &webhook.Route{Proxy: proxy.url}
			hits.Store(0)
			if got := s.Send(t.Context(), r); got.Outcome != webhook.Delivered || hits.Load() != 1 {
				t.Fatalf("%s, %s: got %+v", url, addr, got)
			}
			seen := len(proxy.requests())
			rebind()
			for range 2 {
				got := s.Send(t.Context(), r)
				var refusal *webhook.RefusedError
				if got.Outcome != webhook.RefusedTarget || !errors.As(got.Err, &refusal) || refusal.Addr.Unmap() != addr.Unmap() {
					t.Errorf("%s, %s: got %s, %v", url, addr, got.Outcome, got.Err)
				}
			}
			if hits.Load() != 1 || len(proxy.requests()) != seen {
				t.Errorf("%s, %s: %d messages arrived, the proxy saw %q", url, addr, hits.Load(), proxy.requests())
			}
			if permitted, _ := d.take(); len(permitted) != 0 {
				t.Errorf("%s, %s: dialled %q", url, addr, permitted)
			}
		}
	}
}

// TestRebindingProxyName: the name of the proxy itself is looked up and judged at each dial.
func TestRebindingProxyName(t *testing.T) {
	t.Parallel()
	for _, addr := range inside {
		config, rebind := rebinding(t, public, addr)
		s := newSender(t, config)
		d := hookDials(s)
		r := request(t, "https://"+public.String()+"/")
		r.Route = &webhook.Route{Proxy: mustURL(t, "http://rebind.example:3128")}
		if got := s.Send(t.Context(), r); got.Outcome != webhook.ProxyError {
			t.Errorf("%s: first got %s, %v", addr, got.Outcome, got.Err)
		}
		if permitted, _ := d.take(); !slices.Equal(permitted, []string{public.String() + ":3128"}) {
			t.Errorf("%s: first dialled %q", addr, permitted)
		}
		rebind()
		got := s.Send(t.Context(), r)
		if permitted, _ := d.take(); got.Outcome != webhook.RefusedTarget || len(permitted) != 0 {
			t.Errorf("%s: got %s, %v, dialled %q", addr, got.Outcome, got.Err, permitted)
		}
	}
}

package webhook_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/nex-crm/relay/internal/webhook"
)

func TestGuardCheck(t *testing.T) {
	t.Parallel()
	tests := []struct{ addr, class string }{ // an empty class: permitted
		{"1.1.1.1", ""},
		{"8.8.8.8", ""},
		{"9.255.255.255", ""},
		{"11.0.0.0", ""},
		{"100.63.255.255", ""},
		{"100.128.0.0", ""},
		{"126.255.255.255", ""},
		{"128.0.0.0", ""},
		{"169.253.255.255", ""},
		{"169.255.0.0", ""},
		{"172.15.255.255", ""},
		{"172.32.0.0", ""},
		{"192.0.1.0", ""},
		{"192.167.255.255", ""},
		{"192.169.0.0", ""},
		{"198.17.255.255", ""},
		{"198.20.0.0", ""},
		{"223.255.255.255", ""},
		{"2606:4700:4700::1111", ""},
		{"2001:4860:4860::8888", ""},
		{"2a00:1450:4001::200e", ""},
		{"2001:200::1", ""},
		{"2001:db7:ffff::1", ""},
		{"3ffe:ffff::1", ""},
		{"64:ff9b::8.8.8.8", ""},
		{"::ffff:8.8.8.8", ""},
		{"2a00::5efe:8.8.8.8", ""},
		{"2a00::400:5efe:10.0.0.1", ""}, // no ISATAP identifier
		{"2a00::5eff:10.0.0.1", ""},

		{"0.0.0.0", "unspecified"},
		{"0.0.0.1", "this network"},
		{"0.255.255.255", "this network"},
		{"10.0.0.0", "private"},
		{"10.255.255.255", "private"},
		{"100.64.0.0", "carrier-grade"},
		{"100.127.255.255", "carrier-grade"},
		{"127.0.0.0", "loopback"},
		{"127.0.0.1", "loopback"},
		{"127.255.255.255", "loopback"},
		{"169.254.0.1", "link-local"},
		{"172.16.0.0", "private"},
		{"172.31.255.255", "private"},
		{"192.0.0.1", "protocols"},
		{"192.0.0.170", "protocols"},
		{"192.0.2.1", "documentation"},
		{"192.31.196.1", "protocols"},
		{"192.52.193.1", "protocols"},
		{"192.88.99.1", "6to4"},
		{"192.168.0.0", "private"},
		{"192.168.255.255", "private"},
		{"192.175.48.1", "protocols"},
		{"198.18.0.0", "benchmarking"},
		{"198.19.255.255", "benchmarking"},
		{"198.51.100.1", "documentation"},
		{"203.0.113.1", "documentation"},
		{"224.0.0.1", "multicast"},
		{"239.255.255.255", "multicast"},
		{"240.0.0.1", "reserved"},
		{"255.255.255.254", "reserved"},
		{"255.255.255.255", "broadcast"},

		{"169.254.169.254", "metadata"},
		{"169.254.170.2", "metadata"},
		{"169.254.170.23", "metadata"},
		{"100.100.100.200", "metadata"},
		{"192.0.0.192", "metadata"},
		{"168.63.129.16", "metadata"},
		{"fd00:ec2::254", "metadata"},
		{"fd00:ec2::23", "metadata"},
		{"fd20:ce::254", "metadata"},
		{"::ffff:169.254.169.254", "metadata"},
		{"64:ff9b::169.254.169.254", "metadata"},

		{"::", "unspecified"},
		{"::1", "loopback"},
		{"::1%lo", "loopback"},
		{"::2", "IPv4-compatible"},
		{"::127.0.0.1", "IPv4-compatible"},
		{"::8.8.8.8", "IPv4-compatible"},
		{"::ffff:127.0.0.1", "loopback"},
		{"::ffff:7f00:1", "loopback"},
		{"::ffff:10.1.2.3", "private"},
		{"::ffff:0.0.0.0", "unspecified"},
		{"::ffff:0:10.0.0.1", "IPv4-translated"},
		{"64:ff9b::10.0.0.1", "private (10.0.0.1 in NAT64)"},
		{"64:ff9b::7f00:1", "loopback (127.0.0.1 in NAT64)"},
		{"64:ff9b:1::1", "local NAT64"},
		{"64:ff9b:1:ffff::8.8.8.8", "local NAT64"},
		{"64:ff9b::1:0:1", "outside"},
		{"100::1", "discard"},
		{"2001::1", "Teredo"},
		{"2001:0:53aa:64c:0:0:f5ff:fffe", "Teredo"},
		{"2001:2::1", "benchmarking"},
		{"2001:10::1", "ORCHID"},
		{"2001:20::1", "ORCHID"},
		{"2001:1ff::1", "protocols"},
		{"2001:db8::1", "documentation"},
		{"2002:7f00:1::", "6to4"},
		{"2002:808:808::1", "6to4"},
		{"2620:4f:8000::1", "protocols"},
		{"3fff::1", "documentation"},
		{"2a00::5efe:10.0.0.1", "private (10.0.0.1 in ISATAP)"},
		{"2a00::200:5efe:127.0.0.1", "loopback (127.0.0.1 in ISATAP)"},
		{"5f00::1", "SRv6"},
		{"4000::1", "outside"},
		{"fc00::1", "private"},
		{"fdff:ffff::1", "private"},
		{"fe80::1", "link-local"},
		{"fe80::1%eth0", "link-local"},
		{"fe80::5efe:8.8.8.8", "link-local"},
		{"febf::1", "link-local"},
		{"fec0::1", "site-local"},
		{"ff02::1", "multicast"},
	}
	g := webhook.NewGuard(nil)
	for _, tt := range tests {
		addr := netip.MustParseAddr(tt.addr)
		err := g.Check(addr)
		if tt.class == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.addr, err)
			}
			continue
		}
		var refused *webhook.RefusedError
		if !errors.As(err, &refused) || !strings.Contains(refused.Class, tt.class) || refused.Addr != addr.WithZone("") {
			t.Errorf("%s: got %v, want class %q", tt.addr, err, tt.class)
		}
	}
	if err := g.Check(netip.Addr{}); err == nil {
		t.Error("the zero address is permitted")
	}
}

func TestGuardErrorHasRemedy(t *testing.T) {
	t.Parallel()
	err := webhook.NewGuard(nil).Check(netip.MustParseAddr("127.0.0.1"))
	const want = "127.0.0.1 is loopback: refused; list its network in webhooks.allow_networks to permit it"
	if err == nil || err.Error() != want {
		t.Fatalf("got %v", err)
	}
}

func TestGuardAllow(t *testing.T) {
	t.Parallel()
	tests := []struct {
		allow, addr string
		permitted   bool
	}{
		{"127.0.0.0/8", "127.0.0.1", true},
		{"127.0.0.0/8", "::ffff:127.0.0.1", true},
		{"127.0.0.0/8", "::1", false},
		{"127.0.0.0/8", "10.0.0.1", false},
		{"127.0.0.0/8", "8.8.8.8", true},
		{"127.0.0.1/8", "127.9.9.9", true}, // host bits set
		{"10.1.0.0/16", "10.1.255.255", true},
		{"10.1.0.0/16", "10.2.0.0", false},
		{"10.1.0.0/16", "64:ff9b::10.1.0.1", true}, // NAT64 goes to the address that is allowed
		{"10.1.0.0/16", "2002:a01:1::", false},
		{"10.1.0.0/16", "::10.1.0.1", false},
		{"169.254.169.254/32", "169.254.169.254", true},
		{"::ffff:10.0.0.0/104", "10.9.9.9", true},
		{"::ffff:10.0.0.0/104", "::ffff:10.9.9.9", true},
		{"::ffff:10.0.0.0/104", "11.0.0.1", true},
		{"::ffff:10.0.0.0/104", "127.0.0.1", false},
		{"::1/128", "::1", true},
		{"::1/128", "127.0.0.1", false},
		{"fe80::/10", "fe80::1%eth0", true},
		{"fd12:3456::/32", "fd12:3456:789a::1", true},
		{"fd12:3456::/32", "fd12:3457::1", false},
		{"::/0", "fd00::1", true},
		{"::/0", "10.0.0.1", false},
		{"::/0", "::ffff:10.0.0.1", false},
		{"0.0.0.0/0", "10.0.0.1", true},
		{"0.0.0.0/0", "fd00::1", false},
		{"2002::/16", "2002:7f00:1::", true},
	}
	for _, tt := range tests {
		g := webhook.NewGuard([]netip.Prefix{{}, netip.MustParsePrefix("198.51.100.7/32"), netip.MustParsePrefix(tt.allow)})
		if err := g.Check(netip.MustParseAddr(tt.addr)); (err == nil) != tt.permitted {
			t.Errorf("allow %s, %s: %v", tt.allow, tt.addr, err)
		}
	}
}

func TestGuardControl(t *testing.T) {
	t.Parallel()
	g := webhook.NewGuard(nil)
	tests := []struct {
		network, address string
		permitted        bool
	}{
		{"tcp4", "8.8.8.8:443", true},
		{"tcp6", "[2606:4700:4700::1111]:443", true},
		{"tcp4", "127.0.0.1:443", false},
		{"tcp6", "[::1]:443", false},
		{"tcp6", "[fe80::1%eth0]:443", false},
		{"tcp6", "[::ffff:10.0.0.1]:443", false},
		{"tcp4", "localhost:443", false},
		{"tcp4", "8.8.8.8", false},
		{"tcp4", "", false},
		{"udp4", "8.8.8.8:53", false},
		{"unix", "/run/docker.sock", false},
	}
	for _, tt := range tests {
		err := g.Control(context.Background(), tt.network, tt.address, nil)
		var refused *webhook.RefusedError
		if (err == nil) != tt.permitted || (err != nil && !errors.As(err, &refused)) {
			t.Errorf("%s %s: %v", tt.network, tt.address, err)
		}
	}
}

// FuzzGuard: no spelling of a refused IPv4 address gets through, and a zone changes nothing.
func FuzzGuard(f *testing.F) {
	for _, s := range []string{"127.0.0.1", "8.8.8.8", "::1", "2002:7f00:1::", "64:ff9b::a00:1", "2a00::5efe:a00:1", "fe80::1"} {
		f.Add(netip.MustParseAddr(s).AsSlice())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		addr, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		g := webhook.NewGuard(nil)
		err := g.Check(addr)
		if refusedBefore := g.Check(addr.WithZone("eth0")) != nil; addr.Is6() && !addr.Is4In6() && refusedBefore != (err != nil) {
			t.Fatalf("%s: a zone changes the answer", addr)
		}
		if err != nil && webhook.NewGuard([]netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())}).Check(addr) != nil {
			t.Fatalf("%s: refused although allowed", addr)
		}
		plain := addr.Unmap()
		if err == nil && (plain.IsPrivate() || plain.IsLoopback() || plain.IsMulticast() || plain.IsUnspecified() || !plain.IsGlobalUnicast()) {
			t.Fatalf("%s is permitted", addr)
		}
		if !plain.Is4() {
			return
		}
		v4 := plain.As4()
		for _, prefix := range []string{"::ffff:0:0", "64:ff9b::", "2a00::5efe:0:0", "2a00::200:5efe:0:0"} {
			b := netip.MustParseAddr(prefix).As16()
			copy(b[12:], v4[:])
			if form := netip.AddrFrom16(b); (g.Check(form) != nil) != (err != nil) {
				t.Fatalf("%s is not judged as %s", form, plain)
			}
		}
		for _, prefix := range []string{"::", "2002::", "2001::"} {
			b := netip.MustParseAddr(prefix).As16()
			copy(b[12:], v4[:])
			if g.Check(netip.AddrFrom16(b)) == nil {
				t.Fatalf("%s is permitted", netip.AddrFrom16(b))
			}
		}
	})
}

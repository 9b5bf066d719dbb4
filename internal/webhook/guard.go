package webhook

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// Guard decides which addresses may be dialled, so that a subscriber's URL cannot reach into the relay's own network
// (server-side request forgery). It judges addresses, never names: at every dial, after DNS.
type Guard struct {
	allow []netip.Prefix
}

// RefusedError says that an address may not be dialled.
type RefusedError struct {
	// Addr is the address as it was to be dialled, without its zone; invalid where the target is refused by its name.
	Addr netip.Addr
	// Class is what the address is, e.g. "loopback".
	Class string
}

func (e *RefusedError) Error() string {
	if !e.Addr.IsValid() {
		return "the target is " + e.Class + ": refused"
	}
	return fmt.Sprintf("%s is %s: refused; list its network in webhooks.allow_networks to permit it", e.Addr, e.Class)
}

// NewGuard is a guard that permits public addresses and whatever lies in allow. An IPv4 prefix also covers the IPv4-mapped
// form of its addresses, and the other way round. An IPv6 prefix covers no IPv4 address.
func NewGuard(allow []netip.Prefix) *Guard {
	g := &Guard{allow: make([]netip.Prefix, 0, len(allow))}
	for _, p := range allow {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		g.allow = append(g.allow, p.Masked())
	}
	return g
}

// Control is for [net.Dialer.ControlContext]: it sees every address that is dialled, after DNS.
func (g *Guard) Control(_ context.Context, network, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil || (network != "tcp4" && network != "tcp6") {
		return &RefusedError{Class: "no TCP address"}
	}
	return g.Check(target.Addr())
}

// Check returns nil if addr may be dialled, else a [*RefusedError].
func (g *Guard) Check(addr netip.Addr) error {
	addr = addr.WithZone("")
	if class := g.classify(addr); class != "" {
		return &RefusedError{Addr: addr, Class: class}
	}
	return nil
}

// classify names what forbids addr; "" if nothing does.
func (g *Guard) classify(addr netip.Addr) string {
	addr = addr.Unmap()
	switch {
	case !addr.IsValid():
		return "no address"
	case slices.ContainsFunc(g.allow, func(p netip.Prefix) bool { return p.Contains(addr) }):
		return ""
	}
	if class := specialClass(addr); class != "" {
		return class
	}
	if v4, form, ok := embedded(addr); ok {
		if class := g.classify(v4); class != "" {
			return fmt.Sprintf("%s (%s in %s)", class, v4, form)
		}
		return ""
	}
	if addr.Is6() && !globalUnicast.Contains(addr) {
		return "outside the global unicast space"
	}
	return ""
}

// globalUnicast is all of IPv6 that is in use for public hosts (IANA, Internet Protocol Version 6 Address Space).
var globalUnicast = netip.MustParsePrefix("2000::/3")

// nat64 is the well-known prefix of RFC 6052, section 2.1. Where a network is IPv6 only, every IPv4 host is seen under it.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// embedded returns the IPv4 address that a network would take out of addr and go to, and the name of the form.
func embedded(addr netip.Addr) (v4 netip.Addr, form string, ok bool) {
	if !addr.Is6() {
		return netip.Addr{}, "", false
	}
	b := addr.As16()
	v4 = netip.AddrFrom4([4]byte(b[12:]))
	switch {
	case nat64.Contains(addr):
		return v4, "NAT64", true
	case b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe && globalUnicast.Contains(addr):
		return v4, "ISATAP", true // RFC 5214, section 6.1: [00|02]00:5efe and the address
	}
	return netip.Addr{}, "", false
}

// specialClass is the class of the first network that contains addr, "" if none does.
func specialClass(addr netip.Addr) string {
	for _, n := range special {
		if n.prefix.Contains(addr) {
			return n.class
		}
	}
	return ""
}

type specialNetwork struct {
	prefix netip.Prefix
	class  string
}

// special is every network that is no public host's (RFC 6890 and the IANA special-purpose address registries), the most
// telling class first. Forms that embed an IPv4 address and are out of use are refused whole, whatever they embed.
var special = []specialNetwork{
	// Metadata services of the clouds. All but Azure's lie in networks below: named for the operator's sake.
	{netip.MustParsePrefix("169.254.169.254/32"), "a cloud metadata service"},
	{netip.MustParsePrefix("169.254.170.2/32"), "a cloud metadata service"},
	{netip.MustParsePrefix("169.254.170.23/32"), "a cloud metadata service"},
	{netip.MustParsePrefix("100.100.100.200/32"), "a cloud metadata service"},
	{netip.MustParsePrefix("192.0.0.192/32"), "a cloud metadata service"},
	{netip.MustParsePrefix("168.63.129.16/32"), "a cloud metadata service"},
	{netip.MustParsePrefix("fd00:ec2::254/128"), "a cloud metadata service"},
	{netip.MustParsePrefix("fd00:ec2::23/128"), "a cloud metadata service"},
	{netip.MustParsePrefix("fd20:ce::254/128"), "a cloud metadata service"},

	{netip.MustParsePrefix("0.0.0.0/32"), "unspecified"},
	{netip.MustParsePrefix("0.0.0.0/8"), "this network (0.0.0.0/8)"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "carrier-grade NAT"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.0.0.0/24"), "reserved for protocols"},
	{netip.MustParsePrefix("192.0.2.0/24"), "for documentation"},
	{netip.MustParsePrefix("192.31.196.0/24"), "reserved for protocols"},
	{netip.MustParsePrefix("192.52.193.0/24"), "reserved for protocols"},
	{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("192.175.48.0/24"), "reserved for protocols"},
	{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarking"},
	{netip.MustParsePrefix("198.51.100.0/24"), "for documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "for documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved (240.0.0.0/4)"},

	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("::/96"), "IPv4-compatible IPv6"},                    // deprecated by RFC 4291, section 2.5.5.1
	{netip.MustParsePrefix("::ffff:0:0:0/96"), "IPv4-translated IPv6"},          // RFC 2765, section 2.1
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a local NAT64 (64:ff9b:1::/48)"}, // RFC 8215: the IPv4 bits are the operator's
	{netip.MustParsePrefix("100::/64"), "discard-only"},
	{netip.MustParsePrefix("2001::/32"), "Teredo"},
	{netip.MustParsePrefix("2001:10::/28"), "ORCHID"},
	{netip.MustParsePrefix("2001:20::/28"), "ORCHID"},
	{netip.MustParsePrefix("2001:2::/48"), "for benchmarking"},
	{netip.MustParsePrefix("2001::/23"), "reserved for protocols"},
	{netip.MustParsePrefix("2001:db8::/32"), "for documentation"},
	{netip.MustParsePrefix("2002::/16"), "6to4"}, // deprecated by RFC 7526
	{netip.MustParsePrefix("2620:4f:8000::/48"), "reserved for protocols"},
	{netip.MustParsePrefix("3fff::/20"), "for documentation"},
	{netip.MustParsePrefix("5f00::/16"), "SRv6 segments"},
	{netip.MustParsePrefix("fc00::/7"), "private (unique local)"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("fec0::/10"), "site-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

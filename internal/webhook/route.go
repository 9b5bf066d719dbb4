package webhook

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Route is how one endpoint is reached, where that is not directly and without a name of our own. It may be shared by many
// requests; nobody changes it.
type Route struct {
	// Proxy is an http or https proxy, as [ValidateProxy] returns it; nil dials the target. An https target is reached through
	// a tunnel (CONNECT; RFC 9110, section 9.3.6), an http target by its absolute form (RFC 9112, section 3.2.2).
	//
	// Before each attempt the sender resolves the target by its own resolver, and refuses it if the guard refuses any of its
	// addresses. The proxy then gets the name and resolves it again: somebody who answers the two differently, by time or by who
	// asks, is held back only by the proxy's own rules. A proxy that should keep to public targets must have such rules.
	//
	// What the proxy does wrong is a [ProxyError], except that one which does not answer is a [Timeout] like any other where the
	// attempt ends within 10 s.
	Proxy *url.URL
	// ClientCert is shown to the target where it asks for a certificate (mutual TLS), never to the proxy; nil shows none. An
	// http target does not see it.
	ClientCert *tls.Certificate
}

func (r *Route) proxied() bool { return r != nil && r.Proxy != nil }

// check finds what makes a route unusable. Its errors hold nothing of it.
func (r *Route) check() error {
	if r == nil {
		return nil
	}
	if r.Proxy != nil {
		if err := checkProxy(r.Proxy); err != nil {
			return fmt.Errorf("proxy url: %w", err)
		}
	}
	if c := r.ClientCert; c != nil && (len(c.Certificate) == 0 || c.PrivateKey == nil) {
		return errors.New("client certificate: lacks the certificate or its key")
	}
	return nil
}

// routeKey tells routes apart that must not share a connection. Its proxy may hold credentials.
type routeKey struct {
	scheme string // the target's, where there is a proxy: the two kinds of target are proxied in two ways
	proxy  string
	cert   [sha256.Size]byte // of the whole chain; zero without one
}

func (r *Route) key(scheme string) routeKey {
	var k routeKey
	if r.proxied() {
		k.scheme, k.proxy = scheme, r.Proxy.String()
	}
	if r.ClientCert != nil {
		k.cert = sha256.Sum256(slices.Concat(r.ClientCert.Certificate...)) // each says how long it is: DER
	}
	return k
}

// ValidateProxy parses the URL of a proxy: http or https, a host, perhaps a port (else 80 or 443) and perhaps credentials.
// Errors contain no part of raw, which may hold a secret.
func ValidateProxy(raw string) (*url.URL, error) {
	const want = "want http://host:port or https://host:port"
	switch {
	case raw == "":
		return nil, errors.New("proxy url: empty: " + want)
	case len(raw) > MaxURLLength:
		return nil, fmt.Errorf("proxy url: has %d bytes: %d are allowed", len(raw), MaxURLLength)
	case strings.TrimSpace(raw) != raw:
		return nil, errors.New("proxy url: begins or ends with white space: remove it")
	}
	u, err := url.Parse(raw)
	if err != nil { // its text quotes the URL
		return nil, errors.New("proxy url: cannot be parsed: " + want + "; special characters in a password are written as %XX")
	}
	if err := checkProxy(u); err != nil {
		return nil, fmt.Errorf("proxy url: %w", err)
	}
	return u, nil
}

func checkProxy(u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("is neither http:// nor https://: no other kind of proxy is supported")
	case u.Hostname() == "":
		return errors.New("has no host: want http://host:port or https://host:port")
	case u.Port() != "" && !validPort(u.Port()):
		return errors.New("has a port outside 1 to 65535")
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		return errors.New("has a path, a query or a fragment: want no more than http://host:port")
	case !plainHost(u.Hostname()):
		return errors.New("has a host outside ASCII letters, digits, dots and -: write international names as xn--…")
	}
	return nil
}

// proxyAddr is the proxy's host and port in lower case, the port always written.
func proxyAddr(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return strings.ToLower(net.JoinHostPort(u.Hostname(), port))
}

// judge refuses a target that is to be reached through a proxy, if the guard would refuse it here: by any address of its name.
func (s *Sender) judge(ctx context.Context, host string) error {
	if addr, err := netip.ParseAddr(host); err == nil {
		return s.guard.Check(addr)
	}
	switch {
	case !plainHost(host):
		return &RefusedError{Class: "a name outside ASCII letters, digits, dots and -, which a proxy may read differently"}
	case endsInNumber(host):
		return &RefusedError{Class: "a number that some resolvers take for an address, and others not"}
	}
	addrs, err := s.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		if err := s.guard.Check(addr); err != nil {
			return err
		}
	}
	return nil
}

// plainHost reports that host is an address, or a name of characters that every resolver takes as they are. The underscore
// is not allowed in host names, but in use.
func plainHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return !strings.ContainsFunc(host, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
}

// endsInNumber follows the URL Standard, section 3.5, "ends in a number checker": browsers and C resolvers read such a host as
// an IPv4 address in decimal, octal or hexadecimal, of one to four parts. No public name ends so.
func endsInNumber(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndexByte(host, '.')+1:]
	if last != "" && strings.Trim(last, "0123456789") == "" {
		return true
	}
	hex, ok := strings.CutPrefix(strings.ToLower(last), "0x")
	return ok && strings.Trim(hex, "0123456789abcdef") == ""
}

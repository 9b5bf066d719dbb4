package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// authorized lets in who has the token (RFC 6750, section 2.1). Without a configured token the listener is loopback, and
// what remains to be kept out is a web page in a browser on the same machine: see sameMachine.
func (s *server) authorized(next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(s.cfg.Token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.cfg.Token == "" {
			if !sameMachine(r) {
				writeJSON(w, http.StatusForbidden, &Error{http.StatusForbidden,
					"without http.admin_token the API answers only requests to localhost that no foreign web page made"})
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(strings.TrimSpace(token)))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="relay"`)
			writeJSON(w, http.StatusUnauthorized, &Error{http.StatusUnauthorized, "bearer token missing or wrong: send Authorization: Bearer <http.admin_token>"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// sameMachine refuses what a page from elsewhere could make a browser send: a name of its own that resolves to this
// machine (DNS rebinding) shows in Host, a cross-site request in Origin.
func sameMachine(r *http.Request) bool {
	if !loopbackHost(r.Host) {
		return false
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host == r.Host
}

func loopbackHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.Unmap().IsLoopback()
}

package webhook

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	// dialTimeout and tlsTimeout bound what outlives an attempt: the transport finishes a connection that it began, because a
	// later attempt may use it.
	dialTimeout = 10 * time.Second
	tlsTimeout  = 10 * time.Second

	idleTimeout = 90 * time.Second
	// pingAfter and pingTimeout find an HTTP/2 connection that died unnoticed; all attempts to a host share one.
	pingAfter   = 15 * time.Second
	pingTimeout = 10 * time.Second

	maxAnswerHeader = 64 << 10
	// maxDrain is how much of an answer is read, kept or not, so that its connection can be used again. One that is longer
	// costs its connection.
	maxDrain = 64 << 10
)

// transports has the connections of each route. A route has a transport of its own, so that no endpoint ever uses a
// connection that was made with another's certificate or credentials.
type transports struct {
	direct *transport // without a route: what nearly every attempt uses

	mu    sync.Mutex
	byKey map[routeKey]*list.Element
	order list.List // of *transport, the most recently used first

	max          int
	build        func(dial dialFunc) *http.Transport
	dialer       net.Dialer // guarded
	tls          *tls.Config
	allowProxies map[string]bool
	userAgent    string
}

type transport struct {
	*http.Transport
	key   routeKey
	users int // attempts that use it now; guarded by the pool's mu
}

func newTransports(c SenderConfig) *transports {
	p := &transports{
		byKey:        map[routeKey]*list.Element{},
		max:          orDefault(c.MaxRoutes, DefaultMaxRoutes),
		dialer:       net.Dialer{Timeout: dialTimeout, ControlContext: c.Guard.Control, Resolver: c.Resolver},
		tls:          c.TLSConfig.Clone(),
		allowProxies: map[string]bool{},
		userAgent:    c.UserAgent,
	}
	for _, addr := range c.AllowProxies {
		p.allowProxies[strings.ToLower(addr)] = true
	}
	p.build = func(dial dialFunc) *http.Transport {
		return &http.Transport{
			Proxy:                  nil, // none from the environment: it would hide the target's address from the guard
			DialContext:            dial,
			TLSClientConfig:        p.tls.Clone(),
			TLSHandshakeTimeout:    tlsTimeout,
			ForceAttemptHTTP2:      true,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
			MaxIdleConns:           orDefault(c.MaxIdle, DefaultMaxIdle),
			MaxIdleConnsPerHost:    orDefault(c.MaxIdlePerHost, DefaultMaxIdlePerHost),
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: maxAnswerHeader,
			DisableCompression:     true,
		}
	}
	p.direct = &transport{Transport: p.build(p.dialer.DialContext)}
	return p
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// acquire is the transport of a route, for one attempt to a target of this scheme; release gives it back.
func (p *transports) acquire(r *Route, scheme string) *transport {
	if r == nil || (r.Proxy == nil && r.ClientCert == nil) {
		return p.direct
	}
	key := r.key(scheme)
	p.mu.Lock()
	element, known := p.byKey[key]
	if !known {
		element = p.order.PushFront(&transport{Transport: p.make(r, scheme), key: key})
		p.byKey[key] = element
	}
	p.order.MoveToFront(element)
	t := element.Value.(*transport)
	t.users++
	evicted := p.evict(p.max)
	p.mu.Unlock()
	closeAll(evicted)
	return t
}

func (p *transports) release(t *transport) {
	if t == p.direct {
		return
	}
	p.mu.Lock()
	t.users--
	evicted := p.evict(p.max)
	p.mu.Unlock()
	closeAll(evicted)
}

// evict takes out the least recently used transports until no more than limit are left. Those in use stay: there may be as
// many as there are attempts at a time.
func (p *transports) evict(limit int) []*transport {
	var evicted []*transport
	for e := p.order.Back(); e != nil && p.order.Len() > limit; {
		t, before := e.Value.(*transport), e.Prev()
		if t.users == 0 {
			p.order.Remove(e)
			delete(p.byKey, t.key)
			evicted = append(evicted, t)
		}
		e = before
	}
	return evicted
}

// closeAll is called without the lock: to close a TLS connection can block.
func closeAll(ts []*transport) {
	for _, t := range ts {
		t.CloseIdleConnections()
	}
}

// closeIdle closes all connections that are not in use, and forgets the routes.
func (p *transports) closeIdle() {
	p.mu.Lock()
	evicted := p.evict(0)
	for e := p.order.Front(); e != nil; e = e.Next() { // in use
		evicted = append(evicted, e.Value.(*transport))
	}
	p.mu.Unlock()
	closeAll(append(evicted, p.direct))
}

// make builds the transport of a route.
func (p *transports) make(r *Route, scheme string) *http.Transport {
	dial := p.dialer.DialContext
	var proxy *proxyDialer
	if r.Proxy != nil {
		proxy = p.proxyDialer(r.Proxy)
		dial = proxy.tunnel
	}
	t := p.build(dial)
	if proxy != nil && scheme == "http" {
		// The transport sees a plain proxy, whatever it is: connect has done the TLS.
		t.DialContext = proxy.connect
		t.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: r.Proxy.Host, User: r.Proxy.User})
	}
	if r.ClientCert != nil {
		config := t.TLSClientConfig
		if config == nil {
			config = &tls.Config{}
		}
		config.Certificates, config.GetClientCertificate = []tls.Certificate{*r.ClientCert}, nil
		config.ClientSessionCache = nil // a session resumed would speak for whoever began it
		t.TLSClientConfig = config
	}
	return t
}

func (p *transports) proxyDialer(proxy *url.URL) *proxyDialer {
	d := &proxyDialer{proxy: proxy, dialer: &p.dialer, userAgent: p.userAgent}
	if p.allowProxies[proxyAddr(proxy)] {
		unguarded := p.dialer
		unguarded.ControlContext = nil
		d.dialer = &unguarded
	}
	if proxy.Scheme == "https" {
		d.tls = p.tls.Clone()
		if d.tls == nil {
			d.tls = &tls.Config{}
		}
		d.tls.ServerName, d.tls.NextProtos = proxy.Hostname(), []string{"http/1.1"}
	}
	return d
}

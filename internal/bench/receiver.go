package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nex-crm/relay/internal/webhook"
)

// receiver answers webhooks. The first part of a path names what is counted together, the second how it is answered: nothing = 200,
// fail = 500, hang = never, slow = 200 after half a second, down = 503 until told otherwise, close = 200 and no more over this connection.
type receiver struct {
	seed    maphash.Seed
	counts  sync.Map // *count by name
	gone    chan struct{}
	down    atomic.Bool
	servers []*http.Server
	serving sync.WaitGroup
}

// count is what has been answered with 200 under one name. What has the webhook-id of another, and the same URL, is a double.
type count struct {
	n     atomic.Int64 // none twice
	timed atomic.Bool
	marks atomic.Pointer[marks]

	ever, doubled atomic.Int64 // of all, and of those that had come before, since the receiver is there
	seen          deliveries

	mu   sync.Mutex
	took []time.Duration // emission to arrival, of those that came while timed
}

// marks are the numbers of webhooks whose time is wanted.
type marks struct {
	at      []int64
	reached []atomic.Int64 // Unix nanoseconds
	last    chan struct{}  // closed when the last has been reached
}

func newReceiver() *receiver { return &receiver{seed: maphash.MakeSeed(), gone: make(chan struct{})} }

func (r *receiver) close() {
	close(r.gone)
	for _, s := range r.servers {
		_ = s.Close()
	}
	r.serving.Wait()
}

func (r *receiver) ops() map[string]handler {
	return map[string]handler{"open": op(r.open), "watch": op(r.watch), "wait": op(r.wait), "timed": op(r.timed), "down": op(r.setDown), "answered": op(r.answered)}
}

type openArgs struct {
	Ports int
	// CA is a file that the certificate goes to, for who is to trust it; empty = plain HTTP.
	CA string
}

// open listens on so many ports: each is a host of its own to a client.
func (r *receiver) open(_ context.Context, a openArgs) (urls []string, err error) {
	scheme, secured := "http://", (*tls.Config)(nil)
	if a.CA != "" {
		scheme = "https://"
		if secured, err = selfSigned(a.CA); err != nil {
			return nil, err
		}
	}
	for range a.Ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		urls = append(urls, scheme+l.Addr().String())
		if secured != nil {
			l = tls.NewListener(l, secured)
		}
		s := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
		r.servers = append(r.servers, s)
		r.serving.Go(func() { _ = s.Serve(l) })
	}
	return urls, nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name, behaviour, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	c := r.count(name)
	if c.timed.Load() {
		if err := c.time(req.Body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
	} else {
		_, _ = io.Copy(io.Discard, req.Body)
	}
	switch behaviour {
	case "fail":
		w.WriteHeader(http.StatusInternalServerError)
		return
	case "down":
		if r.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
	case "hang":
		select {
		case <-req.Context().Done():
		case <-r.gone:
		}
		return
	case "slow":
		select {
		case <-time.After(500 * time.Millisecond):
		case <-r.gone:
		}
	case "close":
		w.Header().Set("Connection", "close")
	}
	c.more(r.deliveryOf(req))
}

// deliveryOf is what a request is the delivery of: its endpoint, which is told by its URL, and the event.
func (r *receiver) deliveryOf(req *http.Request) uint64 {
	id := ""
	if v := req.Header[webhook.HeaderID]; len(v) > 0 {
		id = v[0]
	}
	return (maphash.String(r.seed, req.Host)*31+maphash.String(r.seed, req.RequestURI))*31 + maphash.String(r.seed, id)
}

func (r *receiver) count(name string) *count {
	if c, ok := r.counts.Load(name); ok {
		return c.(*count)
	}
	c, _ := r.counts.LoadOrStore(name, &count{})
	return c.(*count)
}

func (c *count) more(delivery uint64) {
	c.ever.Add(1)
	if !c.seen.add(delivery) {
		c.doubled.Add(1)
		return
	}
	n, m := c.n.Add(1), c.marks.Load()
	if m == nil {
		return
	}
	for i, at := range m.at {
		if n == at {
			m.reached[i].Store(time.Now().UnixNano())
			if i == len(m.at)-1 {
				close(m.last)
			}
		}
	}
}

func (c *count) time(body io.Reader) error {
	envelope, err := io.ReadAll(body)
	now := time.Now()
	at, ok := emittedAt(string(envelope))
	if err != nil || !ok {
		return errors.New("no event")
	}
	c.mu.Lock()
	c.took = append(c.took, now.Sub(at))
	c.mu.Unlock()
	return nil
}

type watchArgs struct {
	Name  string
	Marks []int64 // ascending
	Timed bool
}

// watch counts anew, and notes when the marks are reached. With Timed it notes how old each event is.
func (r *receiver) watch(_ context.Context, a watchArgs) (nothing, error) {
	c := r.count(a.Name)
	if len(a.Marks) > 0 {
		c.marks.Store(&marks{at: a.Marks, reached: make([]atomic.Int64, len(a.Marks)), last: make(chan struct{})})
	}
	c.timed.Store(a.Timed)
	c.mu.Lock()
	c.took = nil
	c.mu.Unlock()
	c.n.Store(0)
	return nothing{}, nil
}

type waitArgs struct {
	Name    string
	Seconds float64
}

// wait answers when the marks were reached, in Unix nanoseconds.
func (r *receiver) wait(ctx context.Context, a waitArgs) (at []int64, err error) {
	c := r.count(a.Name)
	m := c.marks.Load()
	timer := time.NewTimer(time.Duration(a.Seconds * float64(time.Second)))
	defer timer.Stop()
	select {
	case <-m.last:
	case <-timer.C:
		return nil, fmt.Errorf("%d of %d webhooks came within %.0f s", c.n.Load(), m.at[len(m.at)-1], a.Seconds)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for i := range m.reached {
		at = append(at, m.reached[i].Load())
	}
	return at, nil
}

// spread is how long things took.
type spread struct {
	N        int
	P50, P99 time.Duration
}

func spreadOf(took []time.Duration) spread {
	if len(took) == 0 {
		return spread{}
	}
	slices.Sort(took)
	return spread{N: len(took), P50: took[len(took)/2], P99: took[len(took)*99/100]}
}

// timed tells how old the events were, since it was last asked.
func (r *receiver) timed(_ context.Context, a watchArgs) (spread, error) {
	c := r.count(a.Name)
	c.mu.Lock()
	took := c.took
	c.took = nil
	c.mu.Unlock()
	return spreadOf(took), nil
}

func (r *receiver) setDown(_ context.Context, down bool) (nothing, error) {
	r.down.Store(down)
	return nothing{}, nil
}

// boundName is what a loop that makes a bound has its posts counted under: it posts the same few again and again.
const boundName = "bound"

// answered is how many webhooks were answered with 200, and how many of them had been before.
type answered struct{ N, Doubled int }

// answered counts since the receiver is there, whatever it was under.
func (r *receiver) answered(context.Context, nothing) (all answered, err error) {
	r.counts.Range(func(name, value any) bool {
		if c := value.(*count); name != boundName {
			all.N += int(c.ever.Load())
			all.Doubled += int(c.doubled.Load())
		}
		return true
	})
	return all, nil
}

// deliveries is a set of many that many add to at once.
type deliveries [64]struct {
	mu  sync.Mutex
	has map[uint64]struct{}
}

// add answers false for one that it has.
func (d *deliveries) add(one uint64) bool {
	s := &d[one%uint64(len(d))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, has := s.has[one]; has {
		return false
	}
	if s.has == nil {
		s.has = map[uint64]struct{}{}
	}
	s.has[one] = struct{}{}
	return true
}

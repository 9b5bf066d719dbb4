package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// receiver answers webhooks. The first part of a path names what is counted together, the second how it is answered: nothing = 200,
// fail = 500, hang = never, slow = 200 after half a second, down = 503 until told otherwise.
type receiver struct {
	counts  sync.Map // *count by name
	gone    chan struct{}
	down    atomic.Bool
	servers []*http.Server
	serving sync.WaitGroup
}

// count is what has been answered with 200 under one name.
type count struct {
	n     atomic.Int64
	timed atomic.Bool
	marks atomic.Pointer[marks]

	mu   sync.Mutex
	took []time.Duration // emission to arrival, of those that came while timed
}

// marks are the numbers of webhooks whose time is wanted.
type marks struct {
	at      []int64
	reached []atomic.Int64 // Unix nanoseconds
	last    chan struct{}  // closed when the last has been reached
}

func newReceiver() *receiver { return &receiver{gone: make(chan struct{})} }

func (r *receiver) close() {
	close(r.gone)
	for _, s := range r.servers {
		_ = s.Close()
	}
	r.serving.Wait()
}

func (r *receiver) ops() map[string]handler {
	return map[string]handler{"open": op(r.open), "watch": op(r.watch), "wait": op(r.wait), "timed": op(r.timed), "down": op(r.setDown)}
}

type openArgs struct{ Ports int }

// open listens on so many ports: each is a host of its own to a client.
func (r *receiver) open(_ context.Context, a openArgs) (urls []string, err error) {
	for range a.Ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		s := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
		r.servers = append(r.servers, s)
		r.serving.Go(func() { _ = s.Serve(l) })
		urls = append(urls, "http://"+l.Addr().String())
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
	}
	c.more()
}

func (r *receiver) count(name string) *count {
	if c, ok := r.counts.Load(name); ok {
		return c.(*count)
	}
	c, _ := r.counts.LoadOrStore(name, &count{})
	return c.(*count)
}

func (c *count) more() {
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

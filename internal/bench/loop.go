package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nex-crm/relay/internal/event"
	"github.com/nex-crm/relay/internal/webhook"
)

// loopBodies is how many different bodies a loop posts in turn.
const loopBodies = 256

func loopOps() map[string]handler {
	return map[string]handler{"post": op(postAll), "pace": op(postPaced)}
}

type postArgs struct {
	URLs   []string
	N      int    // posts in all
	AtOnce int    // of all together
	CA     string // file of the authority to trust; empty = the system's
}

// posted is how many posts a second a loop made, and how much processor time each took it, in microseconds.
type posted struct{ PerSecond, CPU float64 }

// postAll is the bound of deliveries: net/http and nothing else, bodies and headers those of a webhook, the signature made once. Its rate
// is that of the last nine tenths; the first tenth makes the connections, of which none is given up: all posts may be to one host at a
// time.
func postAll(ctx context.Context, a postArgs) (made posted, err error) {
	targets, err := parseAll(a.URLs)
	if err != nil {
		return made, err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: a.AtOnce, MaxIdleConns: 0, DisableCompression: true}
	if transport.TLSClientConfig, err = trusting(a.CA); err != nil {
		return made, err
	}
	defer transport.CloseIdleConnections()
	var messages []*message
	for i := range loopBodies {
		messages = append(messages, newMessage(i, time.Now()))
	}
	var next, done atomic.Int64
	var began atomic.Int64 // when the first tenth was done
	var failed atomic.Pointer[error]
	first := int64(a.N / 10)
	before, err := measureUsage()
	if err != nil {
		return made, err
	}
	var workers sync.WaitGroup
	for range a.AtOnce {
		workers.Go(func() {
			for failed.Load() == nil {
				n := next.Add(1)
				if n > int64(a.N) {
					return
				}
				if err := messages[n%loopBodies].post(ctx, transport, targets[n%int64(len(targets))]); err != nil {
					failed.Store(&err)
					return
				}
				if done.Add(1) == first {
					began.Store(time.Now().UnixNano())
				}
			}
		})
	}
	workers.Wait()
	ended := time.Now()
	if err := failed.Load(); err != nil {
		return posted{}, *err
	}
	after, err := measureUsage()
	return posted{
		PerSecond: float64(int64(a.N)-first) / ended.Sub(time.Unix(0, began.Load())).Seconds(), CPU: (after.CPU - before.CPU) * 1e6 / float64(a.N),
	}, err
}

func parseAll(urls []string) (list []*url.URL, err error) {
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			return nil, err
		}
		list = append(list, u)
	}
	return list, nil
}

// message is what a webhook carries.
type message struct {
	header http.Header
	body   []byte
}

func newMessage(n int, at time.Time) *message {
	e := newEvent("acme", "risk", n, at)
	m := &message{header: make(http.Header, 8), body: e.JSON()}
	webhook.SetHeaders(m.header, webhook.MessageID(e.ID), at, m.body, webhook.GenerateSecret())
	m.header.Set("Content-Type", event.ContentType)
	m.header.Set("User-Agent", "nex-relay/bench")
	m.header.Set("Traceparent", e.Traceparent)
	m.header.Set(webhook.HeaderSequence, strconv.Itoa(1000+n))
	m.header.Set(webhook.HeaderAttempt, "1")
	return m
}

func (m *message) post(ctx context.Context, transport *http.Transport, to *url.URL) error {
	req := (&http.Request{
		Method: http.MethodPost, URL: to, Host: to.Host, Header: m.header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(m.body)), ContentLength: int64(len(m.body)),
	}).WithContext(ctx)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

type paceArgs struct {
	URL     string
	Rate    int
	Seconds float64
}

// postPaced posts at a steady rate, whatever the answers take: the bound of latency.
func postPaced(ctx context.Context, a paceArgs) (sent int, err error) {
	targets, err := parseAll([]string{a.URL})
	if err != nil {
		return 0, err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
	defer transport.CloseIdleConnections()
	var failed atomic.Pointer[error]
	var posts sync.WaitGroup
	sent = paced(ctx, a.Rate, a.Seconds, func(n int) {
		m := newMessage(n, time.Now())
		posts.Go(func() {
			if err := m.post(ctx, transport, targets[0]); err != nil {
				failed.Store(&err)
			}
		})
	})
	posts.Wait()
	if err := failed.Load(); err != nil {
		return sent, *err
	}
	return sent, ctx.Err()
}

// paced does something so many times a second, and answers how often it did.
func paced(ctx context.Context, rate int, seconds float64, do func(n int)) (n int) {
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	total := int(float64(rate) * seconds)
	for n < total {
		select {
		case <-ticker.C:
			do(n)
			n++
		case <-ctx.Done():
			return n
		}
	}
	return n
}

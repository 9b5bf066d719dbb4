package bench

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/nex-crm/relay/internal/bus"
	"github.com/nex-crm/relay/internal/config"
	"github.com/nex-crm/relay/internal/event"
)

// publisher is a NATS client: it fills logs, publishes to that of a running relay, and listens.
type publisher struct {
	own  *bus.Bus // a server of its own
	conn *nats.Conn
	js   jetstream.JetStream
	sent int

	sub  *nats.Subscription
	mu   sync.Mutex
	took []time.Duration // emission to arrival
}

func (p *publisher) ops() map[string]handler {
	return map[string]handler{
		"fill": op(p.fill), "open": op(p.open), "connect": op(p.connect), "publish": op(p.publish), "pace": op(p.pace),
		"subscribe": op(p.subscribe), "heard": op(p.heard), "wait": op(p.wait), "settled": op(p.settled), "records": op(p.records),
	}
}

func (p *publisher) close() {
	if p.conn != nil {
		p.conn.Close()
	}
	if p.own != nil {
		_ = p.own.Close(context.Background())
	}
}

// openLog opens the log in a directory as a relay with the default configuration does, but for the time for which it knows message ids
// where that is given.
func openLog(ctx context.Context, dir, listen string, window time.Duration) (*bus.Bus, error) {
	c := config.Default()
	if window == 0 {
		window = c.Stream.DuplicateWindow
	}
	every, err := time.ParseDuration(c.NATS.Embedded.Sync)
	if err != nil {
		return nil, err
	}
	return bus.Open(ctx, bus.Config{
		MaxPending: c.NATS.PublishMaxPending, MaxEvent: int(c.Nex.MaxEventSize),
		Embedded: bus.Embedded{Listen: listen, StoreDir: dir, SyncInterval: every},
		Stream:   bus.Limits{MaxAge: c.Stream.MaxAge, MaxBytes: int64(c.Stream.MaxBytes), DuplicateWindow: window},
		Logger:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
}

type fillArgs struct {
	Dir   string
	N     int
	Kinds int // types of insight, in turn; 1 if 0
	First int // number of the first event
	// Window is for how long the log knows message ids; 0 = as a relay does.
	Window time.Duration
}

// published is how many events have been published, and in how many seconds.
type published struct {
	N       int
	Seconds float64
}

// fill opens a log that nobody uses, publishes to it, and closes it. It is also the bound of ingest: nothing is between the events,
// which are built before, and the log.
func (p *publisher) fill(ctx context.Context, a fillArgs) (done published, err error) {
	b, err := openLog(ctx, a.Dir, "", a.Window)
	if err != nil {
		return done, err
	}
	defer func() {
		if closed := b.Close(ctx); err == nil {
			err = closed
		}
	}()
	js, err := asyncContext(b.Conn())
	if err != nil {
		return done, err
	}
	for done.N < a.N {
		list := make([]*nats.Msg, min(a.N-done.N, fillChunk))
		for i := range list {
			n := a.First + done.N + i
			list[i] = logMessage(newEvent(filledSlug, kindOf(n%max(a.Kinds, 1)), n, time.Now()))
		}
		began := time.Now()
		if err := publishAll(ctx, js, list); err != nil {
			return done, err
		}
		done.N += len(list)
		done.Seconds += time.Since(began).Seconds()
	}
	return done, nil
}

// filledSlug is the workspace whose events fill a log.
const filledSlug = "acme"

const (
	// fillChunk bounds what is built before it is published: 200 MB.
	fillChunk = 100_000
	// inFlight is how many publishes are without an answer at once.
	inFlight = 4096
)

// kindOf is the type of every so-manieth insight.
func kindOf(n int) string {
	if n == 0 {
		return "risk"
	}
	return fmt.Sprintf("kind%d", n)
}

func asyncContext(nc *nats.Conn) (jetstream.JetStream, error) {
	return jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(inFlight), jetstream.WithPublishAsyncTimeout(30*time.Second))
}

// logMessage is an event with the headers that the relay gives it.
func logMessage(e *event.Event) *nats.Msg {
	return &nats.Msg{Subject: e.NATSSubject(), Data: e.JSON(), Header: nats.Header{
		nats.MsgIdHdr: {e.ID}, bus.HeaderContentType: {event.ContentType}, bus.HeaderTraceparent: {e.Traceparent},
		bus.HeaderFingerprint: {e.Fingerprint}, bus.HeaderEmitted: {e.Emitted.UTC().Format(time.RFC3339Nano)},
	}}
}

// publishAll returns when every message is acknowledged.
func publishAll(ctx context.Context, js jetstream.JetStream, list []*nats.Msg) error {
	futures := make([]jetstream.PubAckFuture, 0, len(list))
	for _, m := range list {
		f, err := js.PublishMsgAsync(m, jetstream.WithStallWait(30*time.Second))
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		futures = append(futures, f)
	}
	for _, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return fmt.Errorf("publish: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

type dirArgs struct{ Dir string }

// open runs a server of its own on a directory, publishes go to it, and answers where others reach it.
func (p *publisher) open(ctx context.Context, a dirArgs) (url string, err error) {
	if p.own, err = openLog(ctx, a.Dir, "127.0.0.1:0", 0); err != nil {
		return "", err
	}
	p.js, err = asyncContext(p.own.Conn())
	return p.own.ClientURL(), err
}

type connectArgs struct{ URL string }

func (p *publisher) connect(_ context.Context, a connectArgs) (nothing, error) {
	var err error
	if p.conn, err = nats.Connect(a.URL); err == nil {
		p.js, err = asyncContext(p.conn)
	}
	return nothing{}, err
}

type publishArgs struct {
	N       int
	Flood   int     // events of another type that come with each
	Rate    int     // of the first kind a second; 0 = as fast as they are taken
	Seconds float64 // with a rate, instead of N
}

// publish publishes events of type risk, each with some of type flood, and returns when all are in the log.
func (p *publisher) publish(ctx context.Context, a publishArgs) (done published, err error) {
	var list []*nats.Msg
	for range a.N {
		list = p.one(list, a.Flood)
	}
	began := time.Now()
	err = publishAll(ctx, p.js, list)
	return published{N: a.N, Seconds: time.Since(began).Seconds()}, err
}

func (p *publisher) one(list []*nats.Msg, flood int) []*nats.Msg {
	for i := range flood + 1 {
		kind := "risk"
		if i > 0 {
			kind = "flood"
		}
		list = append(list, logMessage(newEvent("acme", kind, p.sent, time.Now())))
		p.sent++
	}
	return list
}

// pace publishes at a steady rate; each event says when it was published.
func (p *publisher) pace(ctx context.Context, a publishArgs) (sent int, err error) {
	var failed error
	sent = paced(ctx, a.Rate, a.Seconds, func(int) {
		if failed == nil {
			failed = publishAll(ctx, p.js, p.one(nil, a.Flood))
		}
	})
	if failed != nil {
		return sent, failed
	}
	return sent, ctx.Err()
}

// subscribe listens for insights at a server, and notes how old each is.
func (p *publisher) subscribe(_ context.Context, a connectArgs) (nothing, error) {
	var err error
	if p.conn, err = nats.Connect(a.URL); err != nil {
		return nothing{}, err
	}
	p.sub, err = p.conn.Subscribe("nex.*.insight.>", func(m *nats.Msg) {
		now := time.Now()
		if at, ok := emittedAt(string(m.Data)); ok {
			p.mu.Lock()
			p.took = append(p.took, now.Sub(at))
			p.mu.Unlock()
		}
	})
	if err != nil {
		return nothing{}, err
	}
	return nothing{}, p.conn.Flush() // the server knows of it
}

type heardArgs struct {
	N       int
	Seconds float64
}

// heard waits until so many have been heard, and tells how old they were.
func (p *publisher) heard(ctx context.Context, a heardArgs) (spread, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(a.Seconds*float64(time.Second)))
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		p.mu.Lock()
		if len(p.took) >= a.N {
			took := p.took
			p.took = nil
			p.mu.Unlock()
			return spreadOf(took), nil
		}
		n := len(p.took)
		p.mu.Unlock()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return spread{}, fmt.Errorf("%d of %d events came within %.0f s", n, a.N, a.Seconds)
		}
	}
}

// wait returns when the log of the server it is connected to holds so many insights, and answers when the last of them was stored, in
// Unix nanoseconds.
func (p *publisher) wait(ctx context.Context, a heardArgs) (at int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(a.Seconds*float64(time.Second)))
	defer cancel()
	s, err := p.js.Stream(ctx, bus.StreamNex)
	if err != nil {
		return 0, err
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for n := 0; ; {
		info, err := s.Info(ctx, jetstream.WithSubjectFilter("nex.*.insight.>"))
		if err != nil {
			return 0, fmt.Errorf("%d of %d events are in the log: %w", n, a.N, err)
		}
		n = 0
		for _, held := range info.State.Subjects {
			n += int(held)
		}
		if n > a.N {
			return 0, fmt.Errorf("%d events are in the log, %d were emitted", n, a.N)
		}
		if n == a.N {
			return lastInsight(ctx, s, info.State.LastSeq)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("%d of %d events are in the log after %.0f s", n, a.N, a.Seconds)
		}
	}
}

// lastInsight is when the newest insight at or before a sequence was stored: behind it may be news of the relay.
func lastInsight(ctx context.Context, s jetstream.Stream, sequence uint64) (int64, error) {
	for ; sequence > 0; sequence-- {
		m, err := s.GetMsg(ctx, sequence)
		if err != nil {
			return 0, err
		}
		if _, kind, _ := event.SplitSubject(m.Subject); !event.IsNews(kind) {
			return m.Time.UnixNano(), nil
		}
	}
	return 0, fmt.Errorf("no insight is in the log")
}

// settled returns when the relay has acknowledged everything in the log of the server it is connected to.
func (p *publisher) settled(ctx context.Context, a heardArgs) (nothing, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(a.Seconds*float64(time.Second)))
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		c, err := p.js.Consumer(ctx, bus.StreamNex, bus.ConsumerFanout)
		if err != nil {
			return nothing{}, err
		}
		left := c.CachedInfo().NumPending + uint64(c.CachedInfo().NumAckPending)
		if left == 0 {
			return nothing{}, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nothing{}, fmt.Errorf("%d events are not settled after %.0f s", left, a.Seconds)
		}
	}
}

// records is how many records of attempts have ever been stored on the server that it is connected to.
func (p *publisher) records(ctx context.Context, _ nothing) (n int, err error) {
	s, err := p.js.Stream(ctx, bus.StreamAttempts)
	if err != nil {
		return 0, err
	}
	return int(s.CachedInfo().State.LastSeq), nil
}

// Package bus is the log: it connects to NATS (or runs the server inside), declares every stream, bucket and consumer,
// publishes events until they are stored, and reads them back.
package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
)

// Config says where the log is. The zero value is no valid configuration: Stream and, without a URL, Embedded are needed.
type Config struct {
	// Name is how the connection calls itself in the server's lists; "nex-relay" if empty.
	Name string
	// URL of an external NATS, several separated by commas. Empty runs the server inside.
	URL string
	// CredentialsFile, User with Password, and Token are the ways to log in to an external NATS.
	CredentialsFile, User, Password, Token string
	// CAFile, CertFile and KeyFile (PEM) set up TLS to an external NATS; all may be empty.
	CAFile, CertFile, KeyFile string
	// Replicas of every stream and bucket: 1, 3 or 5. An embedded server has 1 whatever it says.
	Replicas int
	// MaxPending bounds the publishes without an answer, in events; 1,024 if 0. Each counts for 64 KiB at least, so the
	// events in flight take at most MaxPending x 64 KiB of memory.
	MaxPending int
	// Embedded is used when URL is empty.
	Embedded Embedded
	// Stream holds the limits of the log.
	Stream Limits
	// MaxEvent is the largest event in bytes that the source may hand over; it sizes the embedded server's max_payload.
	MaxEvent int
	// Registerer takes the metrics; nil registers them nowhere.
	Registerer prometheus.Registerer
	// Logger must not be nil.
	Logger *slog.Logger
}

// Limits of the NEX stream.
type Limits struct {
	MaxAge          time.Duration
	MaxBytes        int64 // 0 = no limit
	DuplicateWindow time.Duration
}

// ErrServerTooOld is returned by [Open] for a nats-server without message schedules.
var ErrServerTooOld = errors.New("nats-server is too old")

const (
	minServerMajor, minServerMinor = 2, 12

	defaultMaxPending = 1024
	pendingWeight     = 64 << 10 // the least an event in flight counts for
	ackTimeout        = 10 * time.Second
)

// Bus is one connection to the log. Its methods are safe for concurrent use.
type Bus struct {
	log *slog.Logger
	cfg Config

	nc      *nats.Conn
	js      jetstream.JetStream
	closed  chan struct{}
	up      condition    // the connection
	failed  atomic.Int64 // Unix nanoseconds of the last append, if it failed
	failing atomic.Int64 // and of the first that failed since one did not
	pending *semaphore.Weighted
	weight  int64

	embedded *embedded

	nex                                jetstream.Stream
	endpoints, leases, order, requests jetstream.KeyValue
	metrics                            metrics
}

// Open starts the embedded server if there is no URL, connects, and creates or checks the streams. An external NATS
// that does not answer is waited for until ctx ends; what waiting cannot heal (an old server, no JetStream, a stream
// that cannot work) is returned at once.
func Open(ctx context.Context, cfg Config) (*Bus, error) {
	b, err := Connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := b.ensureStreams(ctx); err != nil {
		b.nc.Close()
		return nil, errors.Join(err, b.shutdownEmbedded())
	}
	return b, nil
}

// Connect is [Open] without the streams: it changes nothing in an external NATS.
func Connect(ctx context.Context, cfg Config) (_ *Bus, err error) {
	if cfg.Name == "" {
		cfg.Name = "nex-relay"
	}
	if cfg.MaxPending <= 0 {
		cfg.MaxPending = defaultMaxPending
	}
	b := &Bus{
		log:     cfg.Logger.With("component", "bus"),
		cfg:     cfg,
		closed:  make(chan struct{}),
		weight:  int64(cfg.MaxPending) * pendingWeight,
		metrics: newMetrics(cfg.Registerer),
	}
	b.pending = semaphore.NewWeighted(b.weight)
	defer func() {
		if err != nil {
			err = errors.Join(err, b.shutdownEmbedded())
		}
	}()
	if cfg.URL == "" {
		if err := b.startEmbedded(); err != nil {
			return nil, fmt.Errorf("embedded nats-server: %w", err)
		}
	}
	if err := b.connect(ctx); err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	if err := checkVersion(b.nc.ConnectedServerVersion()); err != nil {
		b.nc.Close()
		return nil, err
	}
	b.js, err = jetstream.New(b.nc,
		jetstream.WithPublishAsyncMaxPending(2*cfg.MaxPending), // our own bound is lower, so this one never stalls
		jetstream.WithPublishAsyncTimeout(ackTimeout))
	if err != nil {
		b.nc.Close()
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	return b, nil
}

// connect dials until it succeeds or ctx ends, and says so when the reason changes, not at each attempt.
func (b *Bus) connect(ctx context.Context) error {
	opts, err := b.connectOptions()
	if err != nil {
		return err
	}
	wait := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(250*time.Millisecond), backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(0))
	var last string
	for {
		b.nc, err = nats.Connect(b.cfg.URL, opts...)
		if err == nil {
			return nil
		}
		if b.cfg.URL == "" {
			return err
		}
		if err.Error() != last {
			last = err.Error()
			b.log.Warn("NATS cannot be reached yet, trying on", "error", err)
		}
		select {
		case <-time.After(wait.NextBackOff()):
		case <-ctx.Done():
			return fmt.Errorf("%w (last error: %w)", context.Cause(ctx), err)
		}
	}
}

func (b *Bus) connectOptions() ([]nats.Option, error) {
	opts := []nats.Option{
		nats.Name(b.cfg.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 500*time.Millisecond),
		// A connection that is half open is found after 9 to 12 s: before the session of a replica is over, so that it need not give
		// up what it holds, nor be missing when another dies.
		nats.PingInterval(3 * time.Second),
		nats.MaxPingsOutstanding(2),
		// No buffer while disconnected: a publish fails at once and its source waits, instead of being told "sent"
		// about bytes that a crash would lose.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			b.up.set(false)
			if err != nil {
				b.log.Warn("NATS connection lost, reconnecting", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			b.up.set(true)
			b.log.Info("NATS connection is back", "server", nc.ConnectedServerName())
		}),
		nats.ClosedHandler(func(*nats.Conn) { close(b.closed) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			b.log.Warn("NATS reports", "error", err, "subject", subject)
		}),
	}
	if b.embedded != nil {
		opts = append(opts, nats.InProcessServer(b.embedded))
		if t := b.cfg.Embedded.Token; t != "" {
			opts = append(opts, nats.Token(t))
		}
		return opts, nil
	}
	if f := b.cfg.CredentialsFile; f != "" {
		opts = append(opts, nats.UserCredentials(f))
	}
	if b.cfg.User != "" {
		opts = append(opts, nats.UserInfo(b.cfg.User, b.cfg.Password))
	}
	if b.cfg.Token != "" {
		opts = append(opts, nats.Token(b.cfg.Token))
	}
	if b.cfg.CAFile != "" {
		opts = append(opts, nats.RootCAs(b.cfg.CAFile))
	}
	if b.cfg.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(b.cfg.CertFile, b.cfg.KeyFile); err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		opts = append(opts, nats.ClientCert(b.cfg.CertFile, b.cfg.KeyFile))
	}
	return opts, nil
}

// checkVersion refuses a server without message schedules, which hold the waiting retries.
func checkVersion(v string) error {
	var major, minor int
	if _, err := fmt.Sscanf(v, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("%w: version %q is unknown, %d.%d or newer is needed", ErrServerTooOld, v, minServerMajor, minServerMinor)
	}
	if major < minServerMajor || major == minServerMajor && minor < minServerMinor {
		return fmt.Errorf("%w: it is %s, message schedules need %d.%d or newer; upgrade the server or leave nats.url empty to use the embedded one",
			ErrServerTooOld, v, minServerMajor, minServerMinor)
	}
	return nil
}

// Conn is the connection, for plain subscriptions.
func (b *Bus) Conn() *nats.Conn { return b.nc }

// JetStream is the context of the connection, for consumers and buckets.
func (b *Bus) JetStream() jetstream.JetStream { return b.js }

// Endpoints is the bucket of the endpoints.
func (b *Bus) Endpoints() jetstream.KeyValue { return b.endpoints }

// Leases is the bucket of the leases.
func (b *Bus) Leases() jetstream.KeyValue { return b.leases }

// Order is the bucket of how far the ordered endpoints have come.
func (b *Bus) Order() jetstream.KeyValue { return b.order }

// Requests is the bucket with the answers to requests that may be asked again.
func (b *Bus) Requests() jetstream.KeyValue { return b.requests }

// Connected tells whether the connection is up now.
func (b *Bus) Connected() bool { return b.nc.IsConnected() }

// WaitConnected returns when the connection is up, or ctx's error.
func (b *Bus) WaitConnected(ctx context.Context) error { return b.up.wait(ctx) }

// condition is a state that one side sets and the other waits for. The zero value is set.
type condition struct {
	mu    sync.Mutex
	unset chan struct{} // closed when it is set; nil while it is
}

func (c *condition) set(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case on && c.unset != nil:
		close(c.unset)
		c.unset = nil
	case !on && c.unset == nil:
		c.unset = make(chan struct{})
	}
}

func (c *condition) wait(ctx context.Context) error {
	c.mu.Lock()
	unset := c.unset
	c.mu.Unlock()
	if unset == nil {
		return ctx.Err()
	}
	select {
	case <-unset:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ClientURL is where other clients reach the embedded server; empty for an external NATS or one that does not listen.
func (b *Bus) ClientURL() string {
	if b.embedded == nil || b.cfg.Embedded.Listen == "" {
		return ""
	}
	return b.embedded.current().ClientURL()
}

// Close drains the connection, then stops the embedded server. It returns when both are done or ctx ends.
func (b *Bus) Close(ctx context.Context) error {
	var errs []error
	if err := b.nc.Drain(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		// A connection that is just reconnecting cannot drain; there is nothing in it that could be saved.
		b.nc.Close()
	}
	select {
	case <-b.closed:
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("drain NATS: %w", ctx.Err()))
		b.nc.Close()
	}
	return errors.Join(append(errs, b.shutdownEmbedded())...)
}

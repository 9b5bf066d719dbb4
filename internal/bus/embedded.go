package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Embedded configures the server inside.
type Embedded struct {
	// Listen is the host:port for other clients; empty keeps the server to this process. Port 0 takes a free one.
	Listen string
	// StoreDir holds the JetStream files. One process at a time: it is locked.
	StoreDir string
	// SyncAlways makes every write durable before its PubAck; else files are synced each SyncInterval (0 = 2 minutes), and
	// a power cut may take what came after the last sync. A killed process loses nothing either way.
	SyncAlways   bool
	SyncInterval time.Duration
	// Token must be given by clients if it is not empty.
	Token string
}

const (
	readyTimeout = 30 * time.Second
	// minPayload is the least max_payload of the embedded server: attempts and dead letters carry more than the event.
	minPayload = 8 << 20
	// storeLimit is what the server believes the disk to hold. Its own guess (three quarters of what is free at the
	// start) would refuse a log that is larger than that although it may never fill; a full disk is reported as it happens.
	storeLimit = 1 << 50
)

// ErrStoreLocked is returned by [Open] when another process uses the store directory.
var ErrStoreLocked = errors.New("store directory is in use by another process")

// embedded is the server inside. It is started anew when its store has failed: nats-server gives a stream up for good
// at the first write that the disk refuses, and JetStream as a whole at some.
type embedded struct {
	log    *slog.Logger
	dir    string
	unlock func() error
	stop   chan struct{} // ends guard
	done   chan struct{} // guard has ended

	restarting atomic.Bool

	mu     sync.Mutex
	server *server.Server
	opts   *server.Options
	logger *serverLogger
}

const (
	// guardEvery is how often the store is looked after, failingFor how long the log must have refused what is appended for
	// it to be taken for broken without the server saying so.
	guardEvery = time.Second
	failingFor = 20 * time.Second
	// probeSize is what must fit onto the disk again before the server is started anew.
	probeSize = 4 << 20
)

func (b *Bus) startEmbedded() error {
	cfg := b.cfg.Embedded
	if err := os.MkdirAll(cfg.StoreDir, 0o700); err != nil {
		return fmt.Errorf("nats.embedded.store_dir: %w", err)
	}
	unlock, err := lockDir(filepath.Join(cfg.StoreDir, "relay.lock"))
	if err != nil {
		return fmt.Errorf("nats.embedded.store_dir %s: %w", cfg.StoreDir, err)
	}
	opts, err := serverOptions(b.cfg)
	if err != nil {
		return errors.Join(err, unlock())
	}
	b.embedded = &embedded{
		log: b.log, dir: cfg.StoreDir, unlock: unlock, stop: make(chan struct{}), done: make(chan struct{}), opts: opts,
	}
	if err := b.embedded.start(); err != nil {
		close(b.embedded.done)
		return err
	}
	go func() {
		defer close(b.embedded.done)
		b.embedded.guard(b.failingSince)
	}()
	return nil
}

// start starts the server; mu is held, or nobody else knows of it yet.
func (e *embedded) start() error {
	opts := e.opts.Clone()
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	logger := &serverLogger{log: e.log.With("component", "nats-server")}
	s.SetLoggerV2(logger, false, false, false)
	e.server, e.logger = s, logger
	go s.Start()
	deadline := time.Now().Add(readyTimeout)
	for !s.ReadyForConnections(100 * time.Millisecond) {
		if fatal := logger.fatal.Load(); fatal != nil {
			if strings.Contains(*fatal, syscall.EADDRINUSE.Error()) { // somebody took it after it was tried
				return listenError(syscall.EADDRINUSE)
			}
			return errors.New(*fatal)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready after %v", readyTimeout)
		}
	}
	if !s.JetStreamEnabled() {
		return errors.New("JetStream did not start; see the log above")
	}
	if addr, ok := s.Addr().(*net.TCPAddr); ok && !opts.DontListen {
		e.opts.Port = addr.Port // the same after a restart, also if it was chosen by the system
	}
	return nil
}

// InProcessConn is how the client of this process connects, to whichever server runs.
func (e *embedded) InProcessConn() (net.Conn, error) {
	return e.current().InProcessConn()
}

func (e *embedded) current() *server.Server {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.server
}

// guard starts the server anew when its store has failed and the disk takes writes again.
func (e *embedded) guard(failingSince func() time.Time) {
	ticker := time.NewTicker(guardEvery)
	defer ticker.Stop()
	said, started := false, time.Now()
	for {
		select {
		case <-ticker.C:
		case <-e.stop:
			return
		}
		since := failingSince()
		if !e.broken() && (since.IsZero() || time.Since(since) < failingFor || time.Since(started) < failingFor) {
			said = false
			continue
		}
		if err := probeDisk(e.dir); err != nil {
			if !said {
				said = true
				e.log.Error("the store cannot be written, the sources wait until it can: make room on its disk", "store_dir", e.dir, "error", err)
			}
			continue
		}
		e.log.Warn("the store had failed and its disk takes writes again: the embedded nats-server is started anew")
		if err := e.restart(); err != nil {
			e.log.Error("the embedded nats-server does not start, trying on", "error", err)
		}
		started = time.Now()
	}
}

// broken tells whether the server has given its store up.
func (e *embedded) broken() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.logger.storeFailed.Load() || !e.server.JetStreamEnabled()
}

// failed is broken, for those who do not wait: while the server is started anew its store is no store either.
func (e *embedded) failed() bool {
	if !e.mu.TryLock() {
		return e.restarting.Load()
	}
	defer e.mu.Unlock()
	return e.logger.storeFailed.Load() || !e.server.JetStreamEnabled()
}

func (e *embedded) restart() error {
	e.restarting.Store(true)
	defer e.restarting.Store(false)

	e.mu.Lock()
	defer e.mu.Unlock()
	e.server.Shutdown()
	e.server.WaitForShutdown()
	return e.start()
}

// close stops the server and gives the directory free.
func (e *embedded) close() error {
	close(e.stop)
	<-e.done
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.server != nil {
		e.server.Shutdown()
		e.server.WaitForShutdown()
	}
	return e.unlock()
}

// probeDisk writes a file and removes it.
func probeDisk(dir string) error {
	f, err := os.CreateTemp(dir, "probe-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(make([]byte, probeSize))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func serverOptions(cfg Config) (*server.Options, error) {
	opts := &server.Options{
		ServerName:         cfg.Name,
		DontListen:         cfg.Embedded.Listen == "",
		JetStream:          true,
		StoreDir:           cfg.Embedded.StoreDir,
		JetStreamMaxStore:  storeLimit,
		JetStreamMaxMemory: 256 << 20, // consumers' state only; every stream is on disk
		SyncAlways:         cfg.Embedded.SyncAlways,
		SyncInterval:       cfg.Embedded.SyncInterval,
		MaxPayload:         int32(max(minPayload, cfg.MaxEvent+cfg.MaxEvent/2+1<<20)),
		MaxPending:         256 << 20,
		Authorization:      cfg.Embedded.Token,
		NoSigs:             true,
	}
	if opts.DontListen {
		return opts, nil
	}
	host, port, err := net.SplitHostPort(cfg.Embedded.Listen)
	if err != nil {
		return nil, fmt.Errorf("nats.embedded.listen: %w", err)
	}
	if opts.Port, err = strconv.Atoi(port); err != nil {
		return nil, fmt.Errorf("nats.embedded.listen: port %q is no number", port)
	}
	opts.Host = host
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
		return opts, nil
	}
	// The server reports a busy port only in its log. Try it first, for an error that names the key.
	probe, err := net.Listen("tcp", cfg.Embedded.Listen)
	if err != nil {
		return nil, listenError(err)
	}
	return opts, probe.Close()
}

func listenError(err error) error {
	return fmt.Errorf("nats.embedded.listen: %w; choose another address, or \"\" to listen nowhere", err)
}

func (b *Bus) shutdownEmbedded() error {
	if b.embedded == nil {
		return nil
	}
	err := b.embedded.close()
	b.embedded = nil
	return err
}

// serverLogger brings the embedded server's log into ours. Its notices are startup chatter: debug.
type serverLogger struct {
	log   *slog.Logger
	fatal atomic.Pointer[string]
	// storeFailed is set by what the server says when a write fails: it tells nobody else, a stream just stops answering.
	storeFailed atomic.Bool
}

func (l *serverLogger) Noticef(f string, v ...any) { l.log.Debug(trim(f, v)) }
func (l *serverLogger) Warnf(f string, v ...any)   { l.log.Warn(l.heard(trim(f, v))) }
func (l *serverLogger) Errorf(f string, v ...any)  { l.log.Error(l.heard(trim(f, v))) }
func (l *serverLogger) Debugf(string, ...any)      {}
func (l *serverLogger) Tracef(string, ...any)      {}
func (l *serverLogger) Fatalf(f string, v ...any) {
	msg := trim(f, v)
	l.fatal.Store(&msg)
}

func (l *serverLogger) heard(text string) string {
	for _, sign := range []string{"no space left", "failed to store a msg", "will be DISABLED", "disabling JetStream"} {
		if strings.Contains(text, sign) {
			l.storeFailed.Store(true)
		}
	}
	return text
}

func trim(f string, v []any) string { return strings.TrimSpace(fmt.Sprintf(f, v...)) }

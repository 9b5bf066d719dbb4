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
	"sync/atomic"
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

func (b *Bus) startEmbedded() error {
	cfg := b.cfg.Embedded
	if err := os.MkdirAll(cfg.StoreDir, 0o700); err != nil {
		return fmt.Errorf("nats.embedded.store_dir: %w", err)
	}
	unlock, err := lockDir(filepath.Join(cfg.StoreDir, "relay.lock"))
	if err != nil {
		return fmt.Errorf("nats.embedded.store_dir %s: %w", cfg.StoreDir, err)
	}
	b.unlock = unlock

	opts, err := serverOptions(b.cfg)
	if err != nil {
		return err
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	logger := &serverLogger{log: b.log.With("component", "nats-server")}
	s.SetLoggerV2(logger, false, false, false)
	b.embedded = s
	go s.Start()
	deadline := time.Now().Add(readyTimeout)
	for !s.ReadyForConnections(100 * time.Millisecond) {
		if fatal := logger.fatal.Load(); fatal != nil {
			return errors.New(*fatal)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready after %v", readyTimeout)
		}
	}
	if !s.JetStreamEnabled() {
		return errors.New("JetStream did not start; see the log above")
	}
	return nil
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
		return nil, fmt.Errorf("nats.embedded.listen: %w; choose another address, or \"\" to listen nowhere", err)
	}
	return opts, probe.Close()
}

func (b *Bus) shutdownEmbedded() error {
	if b.embedded != nil {
		b.embedded.Shutdown()
		b.embedded.WaitForShutdown()
		b.embedded = nil
	}
	if b.unlock == nil {
		return nil
	}
	err := b.unlock()
	b.unlock = nil
	return err
}

// serverLogger brings the embedded server's log into ours. Its notices are startup chatter: debug.
type serverLogger struct {
	log   *slog.Logger
	fatal atomic.Pointer[string]
}

func (l *serverLogger) Noticef(f string, v ...any) { l.log.Debug(trim(f, v)) }
func (l *serverLogger) Warnf(f string, v ...any)   { l.log.Warn(trim(f, v)) }
func (l *serverLogger) Errorf(f string, v ...any)  { l.log.Error(trim(f, v)) }
func (l *serverLogger) Debugf(string, ...any)      {}
func (l *serverLogger) Tracef(string, ...any)      {}
func (l *serverLogger) Fatalf(f string, v ...any) {
	msg := trim(f, v)
	l.fatal.Store(&msg)
}

func trim(f string, v []any) string { return strings.TrimSpace(fmt.Sprintf(f, v...)) }
